"""What contenders of `benchmarks/time_to_score.py` print: the first step, training returns, scores that they passed.

This file needs only the standard library, since contenders run in different virtual environments.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib.metadata
import json
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

PREFIX = "time_to_score "
"""Begins each line that is meant for the reader; libraries print other lines."""
SECONDS_BETWEEN_LINES = 2.0
_PACKAGES = (
    *("sb3-multitask", "stable-baselines3", "sbx-rl", "rl-games", "envpool", "gymnasium", "mujoco", "torch", "jax"),
    *("flax", "numpy"),
)


class FinishedError(Exception):
    """Ends trainings that have no callback to stop them."""


class Progress:
    """The mean training return of one run, and when it passed each score.

    The mean training return is the mean over tasks of the mean over each task's latest ``window`` finished episodes.
    It is defined once every task has so many. Returns are undiscounted, unnormalised and of sampled actions.

    :param tasks: names of the tasks
    :param scores: mean training returns to pass, rising
    :param window: number of episodes of each task
    :param cap: seconds since the start of the process after which the run ends
    :param start: the value of ``time.monotonic()`` in the parent when it started this process
    :param write: takes a line
    """

    def __init__(
        self,
        tasks: Sequence[str],
        scores: Sequence[float],
        window: int,
        cap: float,
        start: float,
        write: Callable[[str], None] = lambda line: print(line, flush=True),
    ) -> None:
        self._returns: dict[str, deque[float]] = {task: deque(maxlen=window) for task in tasks}
        self._remaining = sorted(scores)
        self._cap, self._start, self._write = cap, start, write
        self._n_updates = 0
        self._latest = -SECONDS_BETWEEN_LINES
        self._has_stepped = False
        self.n_steps = 0

    @property
    def seconds(self) -> float:
        """Wall-clock time since the start of the process."""
        return time.monotonic() - self._start

    @property
    def is_over(self) -> bool:
        """Whether all scores are passed, or the time is up."""
        return not self._remaining or self.seconds >= self._cap

    @property
    def mean_return(self) -> float | None:
        """The mean training return; None while a task has too few episodes."""
        if any(len(returns) < (returns.maxlen or 1) for returns in self._returns.values()):
            return None
        return sum(sum(returns) / len(returns) for returns in self._returns.values()) / len(self._returns)

    def step(self, n_steps: int) -> None:
        """Record that there are ``n_steps`` environment steps so far, over all tasks."""
        self.n_steps = n_steps
        if not self._has_stepped:
            self._has_stepped = True
            self._print("first step", seconds=self.seconds)

    def episode(self, task: str, value: float) -> None:
        """Record the return of a finished episode."""
        self._returns[task].append(float(value))

    def check(self) -> None:
        """Print the scores that the episodes so far have passed, and now and then the mean training return."""
        seconds, mean = self.seconds, self.mean_return
        if mean is None:
            return
        while self._remaining and mean > self._remaining[0]:
            self._print("passed", score=self._remaining.pop(0), seconds=seconds, n_steps=self.n_steps)
        if seconds - self._latest >= SECONDS_BETWEEN_LINES:
            self._latest = seconds
            self._print("return", seconds=seconds, n_steps=self.n_steps, mean_return=mean)

    def end(self) -> None:
        """Print the last line."""
        reason = "passed" if not self._remaining else "cap" if self.seconds >= self._cap else "budget"
        self._print(
            "end",
            reason=reason,
            seconds=self.seconds,
            n_steps=self.n_steps,
            mean_return=self.mean_return,
            versions=_versions(),
        )

    def timed_update(self, update: Callable[[], Any]) -> Callable[[], Any]:
        """Return ``update`` such that it prints how long it took, the first two times: the first one compiles."""

        def timed() -> Any:
            start = time.monotonic()
            result = update()
            self.update(time.monotonic() - start)
            return result

        return timed

    def update(self, seconds: float) -> None:
        """Record that an update took ``seconds``."""
        self._n_updates += 1
        if self._n_updates <= 2:
            self._print("update", seconds=seconds)

    def _print(self, kind: str, **facts: Any) -> None:
        rounded = {name: round(fact, 3) if isinstance(fact, float) else fact for name, fact in facts.items()}
        self._write(PREFIX + json.dumps({"kind": kind, **rounded}))


def _versions() -> dict[str, str]:
    """Return the versions of the packages that are installed."""
    versions = {}
    for name in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[name] = importlib.metadata.version(name)
    return versions


def argument_parser(description: str | None) -> argparse.ArgumentParser:
    """Return a parser with the arguments of every contender."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--scores", type=float, nargs="+", required=True)
    parser.add_argument("--window", type=int, required=True)
    parser.add_argument("--cap", type=float, required=True)
    parser.add_argument("--start", type=float, required=True)
    parser.add_argument("--torch-threads", type=int, help="default: torch's own number")
    return parser


def progress_of(args: argparse.Namespace, tasks: Sequence[str]) -> Progress:
    """Return the progress that the arguments of :func:`argument_parser` ask for."""
    return Progress(tasks, args.scores, args.window, args.cap, args.start)


def n_cpus() -> int:
    """Return the number of CPUs of this process."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
