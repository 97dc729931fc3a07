"""The backend with one process a sub-environment: what happens to a worker is an error here, within seconds."""

from __future__ import annotations

import multiprocessing as mp
import signal
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from multiprocessing.connection import wait
from time import monotonic
from typing import Any, Never

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import SubprocVecEnv

from sb3_multitask.tasks import Task
from sb3_multitask.vec_env.backends import Info, Transitions, failed, make_quietly, mark_physics_fault
from sb3_multitask.vec_env.env_state import get_env_state, set_env_state, why_inexact
from sb3_multitask.vec_env.faults import WorkerError

_ERROR = "worker_error"
_GRACE = 3.0
"""Seconds that a worker has to end by itself, and again when it is told to by a signal."""


class WatchedEnv(gym.Wrapper[Any, Any, Any, Any]):
    """Outermost wrapper in a worker: what it raises goes back as text, so that the worker lives to tell it.

    Through it the process outside reaches the state, too.
    """

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, Info]:
        try:
            obs, reward, terminated, truncated, info = mark_physics_fault(self.env, self.env.step(action))
            return obs, reward, terminated, truncated, info
        except Exception:  # whatever an environment raises
            return self._nothing(), 0.0, False, False, {_ERROR: traceback.format_exc()}

    def reset(self, **kwargs: Any) -> tuple[Any, Info]:
        try:
            return self.env.reset(**kwargs)
        except Exception:  # whatever an environment raises
            return self._nothing(), {_ERROR: traceback.format_exc()}

    def _nothing(self) -> np.ndarray:
        return np.zeros(self.observation_space.shape or (), dtype=np.float64)

    def why_inexact(self) -> str | None:
        return why_inexact(self.env)

    def get_env_state(self) -> dict[str, Any]:
        return get_env_state(self.env)

    def set_env_state(self, state: dict[str, Any]) -> None:
        set_env_state(self.env, state)


def _make_watched(task: Task, render_mode: str | None) -> WatchedEnv:
    """Make a task's environment for a worker process, which leaves Ctrl-C to the process that it works for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return WatchedEnv(make_quietly(task, render_mode))


class SubprocBackend:
    """One process a sub-environment: for environments that cost more than the traffic between processes.

    :param tasks: in order
    :param n_envs_per_task: processes of each
    :param render_mode: as in ``gymnasium.make``
    :param start_method: "fork", "forkserver" or "spawn"; ``None``: SB3's choice
    :param timeout: seconds that a worker may take for a step or a reset
    """

    n_threads = 1

    def __init__(
        self,
        tasks: Sequence[Task],
        n_envs_per_task: int,
        render_mode: str | None,
        start_method: str | None = None,
        timeout: float = 60.0,
    ) -> None:
        # One SubprocVecEnv a task, so that a single task can be stepped.
        self.n_envs_per_task, self.timeout = n_envs_per_task, timeout
        self.names = [task.name for task in tasks]
        self.venvs: list[SubprocVecEnv] = []
        before = {process.pid for process in mp.active_children()}
        try:
            for task in tasks:
                env_fn = partial(_make_watched, task, render_mode)
                self.venvs.append(SubprocVecEnv([env_fn] * n_envs_per_task, start_method=start_method))
        except BaseException as e:
            self.close()
            for process in mp.active_children():  # of the one that failed half way
                if process.pid not in before and process.daemon:
                    _end(process)
            if isinstance(e, EOFError | ConnectionError):
                raise WorkerError(f"Task {self.names[len(self.venvs)]!r}: a worker died while it started") from e
            raise

    def _tasks(self, rows: slice) -> list[tuple[int, SubprocVecEnv]]:
        start, stop, _ = rows.indices(len(self.venvs) * self.n_envs_per_task)
        return list(enumerate(self.venvs))[start // self.n_envs_per_task : stop // self.n_envs_per_task]

    def reset(self, rows: slice, seeds: Sequence[int | None], options: Sequence[Info]) -> tuple[np.ndarray, list[Info]]:
        place = iter(range(len(seeds)))
        for task, venv in self._tasks(rows):
            with self._watching(task):
                for remote in venv.remotes:
                    i = next(place)
                    remote.send(("reset", (seeds[i], options[i])))
        results = [answer for task, venv in self._tasks(rows) for answer in self._answers(task, venv.remotes)]
        obs, infos = zip(*results, strict=True)
        self._raise_what_they_raised(rows, infos)
        return np.stack(obs), list(infos)

    def reset_row(self, row: int) -> np.ndarray:
        obs, info = self.call(row, "reset", (), {})
        self._raise_what_they_raised(slice(row, row + 1), [info])
        return np.asarray(obs)

    def send(self, rows: slice, actions: np.ndarray) -> None:
        n = self.n_envs_per_task
        for i, (task, venv) in enumerate(self._tasks(rows)):
            with self._watching(task):
                venv.step_async(actions[i * n : (i + 1) * n])

    def receive(self, rows: slice) -> Transitions:
        results = []
        for task, venv in self._tasks(rows):
            results += self._answers(task, venv.remotes)
            venv.waiting = False
        obs, rewards, dones, infos, reset_infos = zip(*results, strict=True)
        self._raise_what_they_raised(rows, infos)
        self._raise_what_they_raised(rows, reset_infos)
        return Transitions(
            np.stack(obs), np.array(rewards, dtype=np.float64), np.array(dones), list(infos), failed(infos)
        )

    def get_attr(self, row: int, name: str) -> Any:
        return self._ask(row, "get_attr", name)

    def set_attr(self, row: int, name: str, value: Any) -> None:
        self._ask(row, "set_attr", (name, value))

    def call(self, row: int, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self._ask(row, "env_method", (name, args, kwargs))

    def is_wrapped(self, row: int, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]]) -> bool:
        return bool(self._ask(row, "is_wrapped", wrapper_class))

    def why_inexact(self) -> list[str | None]:
        return [self.call(row, "why_inexact", (), {}) for row in range(len(self.venvs) * self.n_envs_per_task)]

    def get_state(self) -> list[dict[str, Any]]:
        return [self.call(row, "get_env_state", (), {}) for row in range(len(self.venvs) * self.n_envs_per_task)]

    def set_state(self, state: list[dict[str, Any]]) -> None:
        for row, saved in enumerate(state):
            self.call(row, "set_env_state", (saved,), {})

    # What can happen to a worker

    def _ask(self, row: int, command: str, data: Any) -> Any:
        task, index = divmod(row, self.n_envs_per_task)
        remote = self.venvs[task].remotes[index]
        with self._watching(task):
            remote.send((command, data))
        (answer,) = self._answers(task, [remote])
        return answer

    @contextmanager
    def _watching(self, task: int) -> Iterator[None]:
        """Make an error that tells of it from a broken pipe to a task's workers."""
        try:
            yield
        except (EOFError, ConnectionError) as e:
            self._give_up(task, e)

    def _answers(self, task: int, remotes: Sequence[Any]) -> list[Any]:
        """What workers of a task answer to what they were last asked, in order."""
        deadline = monotonic() + self.timeout
        venv = self.venvs[task]
        process_of = dict(zip(venv.remotes, venv.processes, strict=True))
        waiting = list(remotes)
        while waiting:
            # a dead worker's pipe may stay open in another that was forked beside it: watch the processes too
            ready = wait([*waiting, *(process_of[remote].sentinel for remote in waiting)], deadline - monotonic())
            if not ready:
                late = [i for i, remote in enumerate(venv.remotes) if remote in waiting]
                self._fail(task, f"{self._workers(task, late)} did not answer within {self.timeout:g} s")
            if any(not process_of[remote].is_alive() and not remote.poll() for remote in waiting):
                self._give_up(task, EOFError("the process has ended"))
            waiting = [remote for remote in waiting if remote not in ready]
        with self._watching(task):
            return [remote.recv() for remote in remotes]

    def _give_up(self, task: int, cause: BaseException) -> Never:
        venv = self.venvs[task]
        for process in venv.processes:
            process.join(0.5)
        dead = [i for i, process in enumerate(venv.processes) if not process.is_alive()]
        codes = ", ".join(str(venv.processes[i].exitcode) for i in dead)
        self._fail(task, f"{self._workers(task, dead)} died (exit code {codes})", cause)

    def _raise_what_they_raised(self, rows: slice, infos: Sequence[Info]) -> None:
        for row, info in zip(range(len(self.venvs) * self.n_envs_per_task)[rows], infos, strict=True):
            if _ERROR in info:
                task, index = divmod(row, self.n_envs_per_task)
                self._fail(task, f"{self._workers(task, [index])} raised\n\n{info[_ERROR]}")

    def _workers(self, task: int, indices: Sequence[int]) -> str:
        rows = ", ".join(str(task * self.n_envs_per_task + i) for i in indices)
        return f"the worker of sub-environment {rows}" if len(indices) == 1 else f"workers of sub-environments {rows}"

    def _fail(self, task: int, what: str, cause: BaseException | None = None) -> Never:
        self.close()
        raise WorkerError(f"Task {self.names[task]!r}: {what}") from cause

    def close(self) -> None:
        """End all workers, whatever they are doing."""
        for venv in self.venvs:
            if venv.closed:
                continue
            for remote in venv.remotes:
                with suppress(OSError, ValueError):
                    remote.send(("close", None))
        deadline = monotonic() + _GRACE
        for venv in self.venvs:
            for process in venv.processes:
                process.join(max(deadline - monotonic(), 0))
                _end(process)
            if not venv.closed:
                for remote in venv.remotes:
                    remote.close()
            venv.closed = True


def _end(process: Any) -> None:
    """Make sure that a process has ended."""
    for signal_it in (process.terminate, process.kill):
        if process.is_alive():
            signal_it()
            process.join(_GRACE)
