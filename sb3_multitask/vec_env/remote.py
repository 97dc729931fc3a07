"""Backends whose sub-environments run in other processes, one each: their commands, replies and failures."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Never

import gymnasium as gym
import numpy as np

from sb3_multitask.envs.task_env import Description
from sb3_multitask.tasks import Task, registered_id
from sb3_multitask.vec_env.backends import Info, Transitions, joined, stacked
from sb3_multitask.vec_env.copies import Copies
from sb3_multitask.vec_env.faults import WorkerError
from sb3_multitask.vec_env.worker import MISSING, RAISED, REFUSED

GRACE = 3.0
"""Seconds for a worker to end by itself, and again after a signal."""
START = 120.0
"""Seconds within which at least one more worker must start: each may have to import torch."""


class RemoteBackend(ABC):
    """One :class:`~sb3_multitask.vec_env.worker.Worker` per sub-environment, in a process of its own.

    A subclass starts the workers, sends them commands, waits for their replies and ends them.

    :param tasks: in order
    :param copies: workers of each task
    :param timeout: seconds that a worker may take for a step or a reset
    """

    n_threads = 1
    descriptions: list[Description]

    def __init__(self, tasks: Sequence[Task], copies: Copies, timeout: float) -> None:
        self.timeout = timeout
        self._copies = [(tasks[task], copy) for task, copy in copies.places()]
        self.names = [task.name for task, _ in self._copies]
        self._unanswered: set[int] = set()
        self._is_closed = False

    @abstractmethod
    def _send(self, row: int, command: str, args: tuple[Any, ...]) -> None:
        """Send a command to a worker.

        :raises WorkerError: if the worker has died
        """

    @abstractmethod
    def _answers(self, rows: Sequence[int], timeout: float | None = None, starting: bool = False) -> list[Any]:
        """Return the workers' replies to their last requests, in order.

        :param timeout: seconds for all workers together; ``None``: those of this backend
        :param starting: instead, seconds for each next worker
        :raises WorkerError: if a worker raised, died or does not reply
        """

    @abstractmethod
    def close(self) -> None:
        """End all workers, even if they are busy."""

    def _rows(self, rows: slice) -> range:
        return range(len(self.names))[rows]

    def reset(self, rows: slice, seeds: Sequence[int | None], options: Sequence[Info]) -> tuple[np.ndarray, list[Info]]:
        for row, seed, option in zip(self._rows(rows), seeds, options, strict=True):
            self._post(row, "reset", seed, option)
        obs, infos = zip(*self._answers(self._rows(rows)), strict=True)
        return stacked(obs), list(infos)

    def reset_row(self, row: int) -> np.ndarray:
        obs: np.ndarray = self._ask(row, "reset", None, None)[0]
        return obs

    def send(self, rows: slice, actions: np.ndarray) -> None:
        for row, action in zip(self._rows(rows), actions, strict=True):
            self._post(row, "step", action)

    def receive(self, rows: slice) -> Transitions:
        return joined(self._answers(self._rows(rows)))

    def get_attr(self, row: int, name: str) -> Any:
        return self._ask(row, "get_attr", name)

    def set_attr(self, row: int, name: str, value: Any) -> None:
        self._ask(row, "set_attr", name, value)

    def call(self, row: int, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._ask(row, "call", name, args, kwargs)

    def is_wrapped(self, row: int, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]]) -> bool:
        return bool(self._ask(row, "is_wrapped", wrapper_class))

    def why_inexact(self) -> list[str | None]:
        return [self._ask(row, "why_inexact") for row in range(len(self.names))]

    def get_state(self) -> list[dict[str, Any]]:
        return [self._ask(row, "get_state") for row in range(len(self.names))]

    def set_state(self, state: list[dict[str, Any]]) -> None:
        for row, saved in enumerate(state):
            self._ask(row, "set_state", saved)

    # Communication between the processes, and failures of workers

    def _ask(self, row: int, command: str, *args: Any) -> Any:
        self._post(row, command, *args)
        (answer,) = self._answers([row])
        return answer

    def _post(self, row: int, command: str, *args: Any) -> None:
        if self._is_closed:
            raise WorkerError(f"Task {self.names[row]!r}: all workers have been ended; make a new VecEnv")
        if row in self._unanswered:  # discard the late reply of a request that Ctrl-C interrupted
            self._answers([row])
        self._send(row, command, args)
        self._unanswered.add(row)

    def _value(self, row: int, kind: str, value: Any) -> Any:
        """Return the value of a worker's reply.

        :raises WorkerError: if the environment failed
        :raises AttributeError: if it has no attribute of that name
        :raises RuntimeError: if a user's call raised
        """
        self._unanswered.discard(row)
        if kind == RAISED:
            self._fail([row], f"raised\n\n{value}")
        if kind == MISSING:
            raise AttributeError(value)
        if kind == REFUSED:
            raise RuntimeError(f"Task {self.names[row]!r}: sub-environment {row} raised\n\n{value}")
        return value

    def _fail(self, rows: Sequence[int], what: str, cause: BaseException | None = None) -> Never:
        self.close()
        numbers = ", ".join(map(str, rows))
        who = f"the worker of sub-environment {numbers}" if len(rows) == 1 else f"workers of sub-environments {numbers}"
        raise WorkerError(f"Task {self.names[rows[0]]!r}: {who} {what}") from cause


def spec_of(task: Task) -> Any:
    """Return Gymnasium's specification of a task's environment, which may be registered in this process only."""
    return gym.registry.get(registered_id(task.env_id)) if isinstance(task.env_id, str) else None
