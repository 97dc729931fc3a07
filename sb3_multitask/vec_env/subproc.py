"""The backend with one process per sub-environment: a worker's failure raises an error here, within seconds.

SB3's ``SubprocVecEnv`` waits indefinitely for a worker that has died or hangs, so the processes are our own.
"""

from __future__ import annotations

import multiprocessing as mp
import os
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from time import monotonic
from typing import Any, Never

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env.base_vec_env import CloudpickleWrapper

from sb3_multitask.envs.task_env import Description
from sb3_multitask.tasks import Task, registered_id
from sb3_multitask.vec_env.backends import Info, Transitions, joined, stacked
from sb3_multitask.vec_env.copies import Copies
from sb3_multitask.vec_env.faults import WorkerError
from sb3_multitask.vec_env.worker import MISSING, RAISED, REFUSED, work

_GRACE = 3.0
"""Seconds for a worker to end by itself, and again after a signal."""
_START = 120.0
"""Seconds within which at least one more worker must start: each may have to import torch."""
_NO_MAIN_GUARD = 99
"""Exit code of a worker whose import of the main script would have made a VecEnv with workers of its own."""
_MAIN_GUARD = (
    'backend="subproc" starts processes that import your script. Put what the script does below a guard:\n\n'
    '    if __name__ == "__main__":\n'
    '        env = make_multitask_vec_env(tasks, backend="subproc")\n'
    "        ...\n"
)
_NO_FILE = "\nA script that Python reads from its standard input cannot be imported: save it as a file.\n"


class SubprocBackend:
    """One process per sub-environment, for environments that cost more than the communication between processes.

    :param tasks: in order
    :param copies: processes of each task
    :param render_mode: as in ``gymnasium.make``
    :param seeds: seed of every row, for the global generators while its environment is made; ``None``: not seeded
    :param start_method: "fork", "forkserver" or "spawn"; ``None``: as in SB3, forkserver if available
    :param timeout: seconds that a worker may take for a step or a reset
    :raises WorkerError: if a worker does not start
    """

    n_threads = 1

    def __init__(
        self,
        tasks: Sequence[Task],
        copies: Copies,
        render_mode: str | None,
        seeds: Sequence[int | None] | None = None,
        start_method: str | None = None,
        timeout: float = 60.0,
    ) -> None:
        if getattr(mp.current_process(), "_inheriting", False):
            # A starting worker imports the script that made the VecEnv, and so would make another one. The process that
            # waits for this worker reports the missing guard.
            os._exit(_NO_MAIN_GUARD)
        self.timeout = timeout
        self.names = [tasks[task].name for task, _ in copies.places()]
        self.processes: list[BaseProcess] = []
        self.remotes: list[Connection] = []
        self._unanswered: set[int] = set()
        self._is_closed = False
        if start_method is None:
            start_method = "forkserver" if "forkserver" in mp.get_all_start_methods() else "spawn"
        context: Any = mp.get_context(start_method)
        rows = range(len(self.names))
        try:
            for task, copy in copies.places():
                self._start(context, CloudpickleWrapper((tasks[task], _spec(tasks[task]))), copy, render_mode)
            for row in rows:
                self._post(row, "make", None if seeds is None else seeds[row])
            self.descriptions: list[Description] = self._answers(rows, max(timeout, _START), starting=True)
        except BaseException:
            self.close()
            raise

    def _start(self, context: Any, job: CloudpickleWrapper, copy: int, render_mode: str | None) -> None:
        remote, theirs = context.Pipe()
        process = context.Process(target=work, args=(theirs, job, copy, render_mode), daemon=True)
        process.start()
        theirs.close()  # now, so that no later fork keeps it open after this worker's death
        self.remotes.append(remote)
        self.processes.append(process)

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
        try:
            self.remotes[row].send((command, args))
        except ConnectionError as e:
            self._died(row, e)
        self._unanswered.add(row)

    def _answers(self, rows: Sequence[int], timeout: float | None = None, starting: bool = False) -> list[Any]:
        """Return the workers' replies to their last requests, in order.

        :param timeout: seconds for all workers together
        :param starting: instead, seconds for each next worker
        """
        timeout = self.timeout if timeout is None else timeout
        deadline = monotonic() + timeout
        waiting = {self.remotes[row]: row for row in rows}
        while waiting:
            # a dead worker's pipe may stay open in its child process, so wait for the processes too
            sentinels = [self.processes[row].sentinel for row in waiting.values()]
            ready = wait([*waiting, *sentinels], max(deadline - monotonic(), 0))
            if not ready:
                self._fail(list(waiting.values()), f"did not answer within {timeout:g} s")
            for remote, row in list(waiting.items()):
                if remote in ready:
                    del waiting[remote]
                elif not self.processes[row].is_alive() and not remote.poll():
                    self._died(row, EOFError("the process has ended"), starting)
            if starting:
                deadline = monotonic() + timeout
        return [self._receive(row, starting) for row in rows]

    def _receive(self, row: int, starting: bool = False) -> Any:
        try:
            kind, value = self.remotes[row].recv()
        except (EOFError, ConnectionError) as e:
            self._died(row, e, starting)
        self._unanswered.discard(row)
        if kind == RAISED:
            self._fail([row], f"raised\n\n{value}")
        if kind == MISSING:
            raise AttributeError(value)
        if kind == REFUSED:
            raise RuntimeError(f"Task {self.names[row]!r}: sub-environment {row} raised\n\n{value}")
        return value

    def _died(self, row: int, cause: BaseException, starting: bool = False) -> Never:
        self.processes[row].join(1)
        dead = [other for other, process in enumerate(self.processes) if not process.is_alive()] or [row]
        dead = [other for other in dead if self.names[other] == self.names[row]]
        codes = [self.processes[other].exitcode for other in dead]
        if _NO_MAIN_GUARD in codes:
            self._fail(dead, f"could not start: {_MAIN_GUARD}")
        died = f"died (exit code {', '.join(map(str, codes))})"
        if starting and all(code is not None and code >= 0 for code in codes):  # it ended by itself, not by a signal
            self._fail(dead, f"{died} while starting; what it printed says why. {_MAIN_GUARD}{_NO_FILE}", cause)
        self._fail(dead, died, cause)

    def _fail(self, rows: Sequence[int], what: str, cause: BaseException | None = None) -> Never:
        self.close()
        numbers = ", ".join(map(str, rows))
        who = f"the worker of sub-environment {numbers}" if len(rows) == 1 else f"workers of sub-environments {numbers}"
        raise WorkerError(f"Task {self.names[rows[0]]!r}: {who} {what}") from cause

    def close(self) -> None:
        """End all workers, even if they are busy."""
        if self._is_closed:
            return
        self._is_closed = True
        for remote in self.remotes:
            with suppress(OSError, ValueError):
                remote.send(("close", ()))
        deadline = monotonic() + _GRACE
        for process in self.processes:
            process.join(max(deadline - monotonic(), 0))
            _end(process)
        for remote in self.remotes:
            remote.close()


def _spec(task: Task) -> Any:
    """Return Gymnasium's specification of a task's environment, which may be registered in this process only."""
    return gym.registry.get(registered_id(task.env_id)) if isinstance(task.env_id, str) else None


def _end(process: Any) -> None:
    """Make sure that a process has ended."""
    for signal_it in (process.terminate, process.kill):
        if process.is_alive():
            signal_it()
            process.join(_GRACE)
