"""Select the backend for a list of tasks, and make the environments that it needs."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, get_args

import gymnasium as gym
from gymnasium import spaces

from sb3_multitask.envs.flattening import flat_env
from sb3_multitask.envs.task_env import Description, common_spaces
from sb3_multitask.process.generators import seeded_globals
from sb3_multitask.tasks import Task
from sb3_multitask.vec_env.backends import Backend, BackendName, DummyBackend
from sb3_multitask.vec_env.batch import BatchBackend, Prototypes, why_not_batch
from sb3_multitask.vec_env.batch_group import BATCH_IS_MISSING, BatchRefusedError
from sb3_multitask.vec_env.copies import Copies
from sb3_multitask.vec_env.remote import RemoteBackend

Workers: TypeAlias = Callable[..., RemoteBackend]


@dataclass(frozen=True)
class Running:
    """A running backend, and the descriptions of its environments.

    :param reason: why ``"auto"`` took another backend than "batch"; ``None`` if the user chose it
    :param descriptions: descriptions of all sub-environments
    """

    backend: Backend
    name: str
    reason: str | None
    observation_space: spaces.Dict
    action_space: spaces.Box
    descriptions: list[Description]


def start_backend(
    name: BackendName,
    tasks: Sequence[Task],
    copies: Copies,
    seeds: Sequence[int | None],
    render_mode: str | None,
    n_threads: int | None,
    workers: Workers,
) -> Running:
    """Make the environments, each once, and start the backend that runs them.

    :param copies: of each task
    :param seeds: for the global generators, while the environment of each row is made
    :param workers: function that makes the backend of "subproc" or "ray"
    :raises ValueError: on an unknown backend, one that cannot run these tasks, or spaces that are not flat Boxes
    """
    if name not in get_args(BackendName):
        raise ValueError(f"`backend` must be one of {', '.join(get_args(BackendName))} (got {name!r})")
    if name in ("subproc", "ray"):
        backend = workers(tasks, copies, render_mode, seeds)
        try:
            return _running(tasks, backend, name, None, backend.descriptions)
        except Exception:
            backend.close()
            raise
    envs = _Environments(tasks, copies, seeds, render_mode)
    try:
        if name == "dummy":
            envs.make_all()
            return _running(tasks, DummyBackend(tasks, envs.of_tasks), name, None, envs.descriptions())
        envs.make_prototypes()
        common_spaces(envs.descriptions(), envs.task_names)  # raises on spaces before what "batch" cannot run
        backend_or_reason = _try_batch(envs.prototypes(), copies, render_mode, n_threads)
        if isinstance(backend_or_reason, BatchBackend):
            return _running(tasks, backend_or_reason, "batch", None, envs.descriptions())
        if name == "batch":
            raise ValueError(
                f'`backend="batch"` cannot run these tasks: {backend_or_reason}. backend="auto" takes another.'
            )
        envs.make_all()
        return _running(tasks, DummyBackend(tasks, envs.of_tasks), "dummy", backend_or_reason, envs.descriptions())
    except Exception:
        envs.close()
        raise


class _Environments:
    """The environments of every task that have been made so far."""

    def __init__(
        self, tasks: Sequence[Task], copies: Copies, seeds: Sequence[int | None], render_mode: str | None
    ) -> None:
        self.tasks, self.task_names, self.copies = tasks, [task.name for task in tasks], copies
        self._seeds, self._render_mode = seeds, render_mode
        self.of_tasks: list[list[gym.Env[Any, Any]]] = [[] for _ in tasks]

    def make_prototypes(self) -> None:
        """Make one environment of a task with equal copies, else all, for their parameters on the native backend."""
        self._make([n if task.copies_differ else 1 for task, n in zip(self.tasks, self.copies.of_tasks, strict=True)])

    def make_all(self) -> None:
        """Make every copy that does not exist yet."""
        self._make(self.copies.of_tasks)

    def _make(self, n_copies: Sequence[int]) -> None:
        for task, envs, n, first in zip(self.tasks, self.of_tasks, n_copies, self.copies.bounds, strict=False):
            for copy in range(len(envs), n):
                with seeded_globals(self._seeds[first + copy]):
                    envs.append(flat_env(task.make(self._render_mode, copy=copy), task.name))

    def prototypes(self) -> list[Prototypes]:
        return list(zip(self.tasks, self.of_tasks, strict=True))

    def descriptions(self) -> list[Description]:
        return [Description.of(task, env) for task, envs in self.prototypes() for env in envs]

    def close(self) -> None:
        for envs in self.of_tasks:
            for env in envs:
                env.close()


def _running(
    tasks: Sequence[Task], backend: Backend, name: str, reason: str | None, descriptions: list[Description]
) -> Running:
    task_names = [task.name for task in tasks]
    return Running(backend, name, reason, *common_spaces(descriptions, task_names), descriptions)


def _try_batch(
    prototypes: Sequence[Prototypes], copies: Copies, render_mode: str | None, n_threads: int | None
) -> BatchBackend | str:
    """Return the native backend, or why it cannot run these tasks."""
    reason = why_not_batch(prototypes, render_mode)
    if reason is not None:
        if BATCH_IS_MISSING:
            _warn_once(reason)
        return reason
    try:
        return BatchBackend(prototypes, copies, n_threads)
    except BatchRefusedError as e:
        _warn_once(str(e))
        return str(e)


@functools.cache
def _warn_once(reason: str) -> None:
    warnings.warn(f'The native backend is not used: {reason}. Falling back to backend="dummy".', stacklevel=6)
