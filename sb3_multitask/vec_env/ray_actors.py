"""The backend with one actor of a Ray cluster per sub-environment; needs the extra ``ray``.

Requests and replies are pickled here, by value where a class belongs to the script: arrays that Ray unpickles itself
are read-only.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from pickle import loads
from typing import Any

from cloudpickle import dumps

from sb3_multitask.process.ray_cluster import RayConnection
from sb3_multitask.tasks import Task
from sb3_multitask.vec_env.copies import Copies
from sb3_multitask.vec_env.remote import GRACE, START, RemoteBackend, spec_of
from sb3_multitask.vec_env.worker import RAISED, Worker

_REFUSED = (
    " Ray 2.60 says so of a cluster that began before ~/.ray/auth_token was written: set RAY_AUTH_MODE=disabled, or "
    "start the cluster again."
)


class RayWorker:
    """A worker as an actor.

    :param job: the pickled arguments of :class:`~sb3_multitask.vec_env.worker.Worker`
    :param path: ``sys.path`` of the process that trains, for modules that lie in the same folder on this node
    """

    def __init__(self, job: bytes, path: list[str]) -> None:
        sys.path.extend(folder for folder in path if folder not in sys.path)
        self._job = job
        self._worker: Worker | None = None

    def answer(self, request: bytes) -> bytes:
        """Carry out a pickled command with its arguments; return the pickled reply."""
        try:
            if self._worker is None:
                self._worker = Worker(*loads(self._job))  # noqa: S301 (our own process has pickled it)
            command, args = loads(request)  # noqa: S301
        except Exception:  # a module that this node lacks
            return bytes(dumps((RAISED, traceback.format_exc())))
        return bytes(self._worker.reply(command, args, dumps))


class RayBackend(RemoteBackend):
    """One Ray actor per sub-environment, for simulators that are slow enough to need the cores of several machines.

    :param tasks: in order
    :param copies: actors of each task
    :param render_mode: as in ``gymnasium.make``
    :param seeds: seed of every row, for the global generators while its environment is made
    :param num_cpus: CPUs of the cluster that each actor reserves; a Ray that is started here reserves none
    :param timeout: seconds that an actor may take for a step or a reset
    :raises ImportError: without Ray
    :raises ValueError: if the cluster has fewer CPUs than the actors reserve
    :raises WorkerError: if an actor does not start
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        copies: Copies,
        render_mode: str | None,
        seeds: Sequence[int | None],
        num_cpus: float = 1.0,
        timeout: float = 60.0,
    ) -> None:
        super().__init__(tasks, copies, timeout)
        self._connection = RayConnection('`backend="ray"`')
        self._ray: Any = self._connection.ray
        self.actors: list[Any] = []
        self._replies: list[Any] = [None] * len(self.names)
        try:
            if self._connection.has_started:
                num_cpus = 0
            self._check_cpus(num_cpus)
            actor = self._ray.remote(num_cpus=num_cpus)(RayWorker)
            path = [str(Path(folder).absolute()) for folder in sys.path]
            for task, copy in self._copies:
                self.actors.append(actor.remote(dumps((task, spec_of(task), copy, render_mode)), path))
            rows = range(len(self.names))
            for row in rows:
                self._post(row, "make", seeds[row])
            self.descriptions = self._answers(rows, max(timeout, START), starting=True)
        except BaseException:
            self.close()
            raise

    def _check_cpus(self, num_cpus: float) -> None:
        """Raise if the actors reserve more CPUs than there are: Ray would wait for more of them indefinitely."""
        needed = num_cpus * len(self.names)
        available = self._ray.cluster_resources().get("CPU", 0)
        if needed > available:
            raise ValueError(
                f'`backend="ray"` reserves {num_cpus:g} CPU for each of {len(self.names)} sub-environments, and the '
                f"cluster has {available:g}. Take fewer copies, or a fraction, "
                f"MultiTaskVecEnv(..., worker_cpus={int(100 * available / len(self.names)) / 100:g}); for a cluster "
                f"that grows, call ray.autoscaler.sdk.request_resources(num_cpus={needed:g}) first."
            )

    def _send(self, row: int, command: str, args: tuple[Any, ...]) -> None:
        if not self._connection.is_open:
            self._fail([row], "was ended by ray.shutdown(); close the VecEnv first")
        self._replies[row] = self.actors[row].answer.remote(dumps((command, args)))

    def _answers(self, rows: Sequence[int], timeout: float | None = None, starting: bool = False) -> list[Any]:
        timeout = self.timeout if timeout is None else timeout
        replies = [self._replies[row] for row in rows]
        waiting = replies if starting else []
        while waiting:
            done, waiting = self._ray.wait(waiting, num_returns=1, timeout=timeout)
            if not done:
                break
        try:
            answers = self._ray.get(replies, timeout=0 if waiting else timeout)
        except self._ray.exceptions.RayError:
            self._raise_if_dead(rows)
            done, _ = self._ray.wait(replies, num_returns=len(replies), timeout=0)
            late = [row for row, reply in zip(rows, replies, strict=True) if reply not in done]
            if late:
                what = f"did not start within {timeout:g} s; {self._free()}" if starting else None
                self._fail(late, what or f"did not answer within {timeout:g} s")
            answers = self._ray.get(replies)  # the last one came after the timeout
        return [self._value(row, *loads(answer)) for row, answer in zip(rows, answers, strict=True)]  # noqa: S301

    def _free(self) -> str:
        """Describe the CPUs for which an actor may be waiting."""
        free, all_of_them = self._ray.available_resources(), self._ray.cluster_resources()
        return f"{free.get('CPU', 0):g} of the cluster's {all_of_them.get('CPU', 0):g} CPUs are free"

    def _raise_if_dead(self, rows: Sequence[int]) -> None:
        """Raise WorkerError if actors have died, which names those of the first one's task."""
        dead: dict[int, Exception] = {}
        for row in rows:
            try:
                self._ray.get(self._replies[row], timeout=0)
            except self._ray.exceptions.GetTimeoutError:
                continue
            except self._ray.exceptions.RayError as e:
                dead[row] = e
        if dead:
            first, error = next(iter(dead.items()))
            self._fail([row for row in dead if self.names[row] == self.names[first]], _death(error), error)

    def close(self) -> None:
        if self._is_closed:
            return
        self._is_closed = True
        if self._connection.is_open:
            last = [actor.answer.remote(dumps(("close", ()))) for actor in self.actors]
            if last:
                self._ray.wait(last, num_returns=len(last), timeout=GRACE)
            for actor in self.actors:
                self._ray.kill(actor)
        self.actors, self._replies = [], []
        self._connection.close()


def _death(error: Exception) -> str:
    """Describe Ray's error of an actor that died or is out of reach, without its general advice."""
    lines = str(error).splitlines() or [type(error).__name__]
    where = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    process = f" (pid {where['pid']} at {where['ip']})" if {"pid", "ip"} <= where.keys() else ""
    hint = _REFUSED if any("all references to the actor were removed" in line for line in lines) else ""
    return f"died{process}: {lines[-1].strip().partition(' Some common causes')[0]}{hint}"
