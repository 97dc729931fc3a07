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

from stable_baselines3.common.vec_env.base_vec_env import CloudpickleWrapper

from sb3_multitask.tasks import Task
from sb3_multitask.vec_env.copies import Copies
from sb3_multitask.vec_env.remote import GRACE, START, RemoteBackend, spec_of
from sb3_multitask.vec_env.worker import work

_NO_MAIN_GUARD = 99
"""Exit code of a worker whose import of the main script would have made a VecEnv with workers of its own."""
_MAIN_GUARD = (
    'backend="subproc" starts processes that import your script. Put what the script does below a guard:\n\n'
    '    if __name__ == "__main__":\n'
    '        env = make_multitask_vec_env(tasks, backend="subproc")\n'
    "        ...\n"
)
_NO_FILE = "\nA script that Python reads from its standard input cannot be imported: save it as a file.\n"


class SubprocBackend(RemoteBackend):
    """One process per sub-environment, for environments that cost more than the communication between processes.

    :param tasks: in order
    :param copies: processes of each task
    :param render_mode: as in ``gymnasium.make``
    :param seeds: seed of every row, for the global generators while its environment is made; ``None``: not seeded
    :param start_method: "fork", "forkserver" or "spawn"; ``None``: as in SB3, forkserver if available
    :param timeout: seconds that a worker may take for a step or a reset
    :raises WorkerError: if a worker does not start
    """

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
        super().__init__(tasks, copies, timeout)
        self.processes: list[BaseProcess] = []
        self.remotes: list[Connection] = []
        if start_method is None:
            start_method = "forkserver" if "forkserver" in mp.get_all_start_methods() else "spawn"
        context: Any = mp.get_context(start_method)
        rows = range(len(self.names))
        try:
            for task, copy in self._copies:
                self._start(context, CloudpickleWrapper((task, spec_of(task))), copy, render_mode)
            for row in rows:
                self._post(row, "make", None if seeds is None else seeds[row])
            self.descriptions = self._answers(rows, max(timeout, START), starting=True)
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

    def _send(self, row: int, command: str, args: tuple[Any, ...]) -> None:
        try:
            self.remotes[row].send((command, args))
        except ConnectionError as e:
            self._died(row, e)

    def _answers(self, rows: Sequence[int], timeout: float | None = None, starting: bool = False) -> list[Any]:
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
        return self._value(row, kind, value)

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

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        for remote in self.remotes:
            with suppress(OSError, ValueError):
                remote.send(("close", ()))
        deadline = monotonic() + GRACE
        for process in self.processes:
            process.join(max(deadline - monotonic(), 0))
            _end(process)
        for remote in self.remotes:
            remote.close()


def _end(process: Any) -> None:
    """Make sure that a process has ended."""
    for signal_it in (process.terminate, process.kill):
        if process.is_alive():
            signal_it()
            process.join(GRACE)
