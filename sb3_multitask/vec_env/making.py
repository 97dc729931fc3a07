"""Select the backend for a list of tasks, and make the environments that it needs."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, get_args

import gymnasium as gym
from gymnasium import spaces

from sb3_multitask.envs.task_env import Description, common_spaces
from sb3_multitask.process.generators import seeded_globals
from sb3_multitask.tasks import Task
from sb3_multitask.vec_env.backends import Backend, BackendName, DummyBackend
from sb3_multitask.vec_env.batch import BatchBackend, Prototypes, why_not_batch
from sb3_multitask.vec_env.batch_group import BATCH_IS_MISSING, BatchRefusedError
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
    observation_space: spaces.Box
    action_space: spaces.Box
    descriptions: list[Description]


def start_backend(
    name: BackendName,
    tasks: Sequence[Task],
    n_envs_per_task: int,
    seeds: Sequence[int | None],
    render_mode: str | None,
    n_threads: int | None,
    workers: Workers,
) -> Running:
    """Make the environments, each once, and start the backend that runs them.

    :param seeds: for the global generators, while the environment of each row is made
    :param workers: function that makes the backend of "subproc" or "ray"
    :raises ValueError: on an unknown backend, one that cannot run these tasks, or spaces that differ
    """
    if name not in get_args(BackendName):
        raise ValueError(f"`backend` must be one of {', '.join(get_args(BackendName))} (got {name!r})")
    if name in ("subproc", "ray"):
        backend = workers(tasks, n_envs_per_task, render_mode, seeds)
        try:
            return _running(backend, name, None, backend.descriptions)
        except Exception:
            backend.close()
            raise
    envs = _Environments(tasks, n_envs_per_task, seeds, render_mode)
    try:
        if name == "dummy":
            envs.make_all()
            return _running(DummyBackend(tasks, envs.rows()), name, None, envs.descriptions())
        envs.make_prototypes()
        common_spaces(envs.descriptions())  # raises on differences first, and then on what "batch" cannot run
        backend_or_reason = _try_batch(envs.prototypes(), n_envs_per_task, render_mode, n_threads)
        if isinstance(backend_or_reason, BatchBackend):
            return _running(backend_or_reason, "batch", None, envs.descriptions())
        if name == "batch":
            raise ValueError(
                f'`backend="batch"` cannot run these tasks: {backend_or_reason}. backend="auto" takes another.'
            )
        envs.make_all()
        return _running(DummyBackend(tasks, envs.rows()), "dummy", backend_or_reason, envs.descriptions())
    except Exception:
        envs.close()
        raise


class _Environments:
    """The environments of every task that have been made so far."""

    def __init__(
        self, tasks: Sequence[Task], n_envs_per_task: int, seeds: Sequence[int | None], render_mode: str | None
    ) -> None:
        self.tasks, self.n_envs_per_task = tasks, n_envs_per_task
        self._seeds, self._render_mode = seeds, render_mode
        self._envs: list[list[gym.Env[Any, Any]]] = [[] for _ in tasks]

    def make_prototypes(self) -> None:
        """Make one environment of a task with equal copies, else all, for their parameters on the native backend."""
        self._make(lambda task: self.n_envs_per_task if task.copies_differ else 1)

    def make_all(self) -> None:
        """Make every copy that does not exist yet."""
        self._make(lambda _task: self.n_envs_per_task)

    def _make(self, n_copies: Callable[[Task], int]) -> None:
        for i, (task, envs) in enumerate(zip(self.tasks, self._envs, strict=True)):
            for copy in range(len(envs), n_copies(task)):
                with seeded_globals(self._seeds[i * self.n_envs_per_task + copy]):
                    envs.append(task.make(self._render_mode, copy=copy))

    def prototypes(self) -> list[Prototypes]:
        return list(zip(self.tasks, self._envs, strict=True))

    def rows(self) -> list[gym.Env[Any, Any]]:
        return [env for envs in self._envs for env in envs]

    def descriptions(self) -> list[Description]:
        return [Description.of(task, env) for task, envs in self.prototypes() for env in envs]

    def close(self) -> None:
        for env in self.rows():
            env.close()


def _running(backend: Backend, name: str, reason: str | None, descriptions: list[Description]) -> Running:
    return Running(backend, name, reason, *common_spaces(descriptions), descriptions)


def _try_batch(
    prototypes: Sequence[Prototypes], n_envs_per_task: int, render_mode: str | None, n_threads: int | None
) -> BatchBackend | str:
    """Return the native backend, or why it cannot run these tasks."""
    reason = why_not_batch(prototypes, render_mode)
    if reason is not None:
        if BATCH_IS_MISSING:
            _warn_once(reason)
        return reason
    try:
        return BatchBackend(prototypes, n_envs_per_task, n_threads)
    except BatchRefusedError as e:
        _warn_once(str(e))
        return str(e)


@functools.cache
def _warn_once(reason: str) -> None:
    warnings.warn(f'The native backend is not used: {reason}. Falling back to backend="dummy".', stacklevel=6)
