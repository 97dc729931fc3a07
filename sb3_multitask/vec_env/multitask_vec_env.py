"""Several copies of every task side by side, with the task in the observation."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, get_args

import gymnasium as gym
from gymnasium import spaces

from sb3_multitask.envs.flattening import check_layouts
from sb3_multitask.process.threads import TorchThreads
from sb3_multitask.tasks import TasksLike, resolve_tasks
from sb3_multitask.vec_env.backends import BackendName, DummyBackend
from sb3_multitask.vec_env.copies import Copies, EnvsPerTask
from sb3_multitask.vec_env.faults import OnFault
from sb3_multitask.vec_env.making import Workers
from sb3_multitask.vec_env.ray_actors import RayBackend
from sb3_multitask.vec_env.sub_envs import SubEnvs
from sb3_multitask.vec_env.subproc import SubprocBackend
from sb3_multitask.vec_env.task_view import SubEnvsView, TaskView


class MultiTaskVecEnv(SubEnvsView):
    """``n_envs_per_task`` copies of every task, stepped together.

    Sub-environments are grouped by task, in order; ``rows(task_id)`` are those of a task. An observation is
    ``{"obs": (num_envs, obs_dim), "task": (num_envs,) int64}``; ``obs`` is float32 where that holds every digit of the
    tasks' observations, else float64. Returns and lengths of episodes are monitored (raw rewards), so no ``Monitor``
    is needed around the environments; if there is one, it defines the return of an episode, as in SB3.

    Tasks may differ in size. Observations and actions are then as wide as the widest task's: narrower observations have
    zeros behind their own numbers, and a task takes as many numbers of an action as it has.
    ``observation_space["task"]`` is a ``TaskSpace``, which knows the sizes. Where tasks differ in the bounds of their
    actions, those of all tasks together are the widest, and each task's actions are clipped to its own.

    :param tasks: a set's name, an id, or a list of ids and tasks
    :param n_envs_per_task: copies of each task, at least 1; ``{"a": 8, "b": 2}`` for each by its name
    :param backend: ``"batch"`` (all simulations in one native call: the environments of this package and most of
        Gymnasium's MuJoCo ones), ``"dummy"`` (one after the other in this process), ``"subproc"`` (one process each),
        ``"ray"`` (one actor of a Ray cluster each; needs the extra ``ray``), or ``"auto"``: ``"batch"`` if possible,
        else ``"dummy"``. All give the same numbers. The attribute ``backend``
        names the backend, and ``backend_reason`` says why "auto" did not take "batch".
    :param seed: determines the seeds of all sub-environments, which are independent of each other and of those of other
        seeds (``process.seeding.env_seeds``); they are used at the next reset. Python's, numpy's and torch's
        global generators are seeded while the environments are made. ``None`` is random
    :param training: ``False`` for an evaluation: the same ``seed`` then gives other episodes than in training
    :param monitor_dir: folder for SB3's monitor files; ``None`` writes none
    :param override_existing: whether rows of earlier runs in ``monitor_dir`` are replaced, with a warning, at the first
        step; ``False`` appends to them
    :param render_mode: as in ``gymnasium.make``; rendering needs "dummy", "subproc" or "ray"
    :param n_threads: physics threads of ``"batch"``; ``None`` takes torch's number. Results do not depend on it.
    :param on_fault: reaction to a NaN, infinite or huge (beyond 1e15) observation, reward or action, or to a failed
        MuJoCo simulation. ``"stop"`` raises ``TaskFault`` before anything is learned from it. ``"quarantine"`` resets
        the sub-environment and counts the fault in ``fault_counts``. The step's ``info["fault"]`` describes the fault,
        its reward is 0 and ``done`` is true; ``MultiTaskVecNormalize`` and ``A2CMultiTask`` leave it out. Other
        algorithms see an episode that ended.
    :param torch_threads: torch's number of threads from the first step until ``close()``, unless this env is for
        evaluation, so that threads that wait do not spin on the cores that the physics needs; ``None`` leaves it alone
    :param start_method: of the processes of ``"subproc"``: "fork", "forkserver" or "spawn"; ``None`` is SB3's choice
    :param worker_timeout: seconds that a process of ``"subproc"`` or ``"ray"`` may take for a step or a reset
    :param flatten: flatten observations that are not a flat Box, see ``FlatObservation``; False refuses them. The
        attribute ``layouts`` says for each such task which numbers are which part
    :param worker_cpus: CPUs of the cluster that each actor of ``"ray"`` reserves; where no cluster runs, Ray is started
        on this machine and reserves none
    :raises ImportError: ``backend="ray"`` without Ray
    :raises ValueError: observations that cannot be flattened, actions that are no flat Boxes, copies of a task that
        differ in them, vectorised environments, rewards that are vectors, an unknown backend, too few copies
    :raises RuntimeError: if a task's environment cannot be made; the message names the task

    If the copies of a task start in the same state after a seeded reset, or a copy starts in another state with the
    same seed, the environment does not obey its seed, and a warning names the task once.
    """

    observation_space: spaces.Dict
    action_space: spaces.Box

    def __init__(
        self,
        tasks: TasksLike,
        n_envs_per_task: EnvsPerTask = 1,
        *,
        backend: BackendName = "auto",
        seed: int | None = None,
        training: bool = True,
        monitor_dir: str | Path | None = None,
        override_existing: bool = True,
        render_mode: str | None = None,
        n_threads: int | None = None,
        on_fault: OnFault = "stop",
        torch_threads: int | None = 1,
        start_method: str | None = None,
        worker_timeout: float = 60.0,
        flatten: bool = True,
        worker_cpus: float = 1.0,
    ) -> None:
        if on_fault not in get_args(OnFault):
            raise ValueError(f"`on_fault` must be one of {', '.join(get_args(OnFault))} (got {on_fault!r})")
        if not worker_timeout > 0:
            raise ValueError(f"`worker_timeout` must be a positive number of seconds (got {worker_timeout!r})")
        if not 0 <= worker_cpus < float("inf"):
            raise ValueError(f"`worker_cpus` must be a number of CPUs of at least 0 (got {worker_cpus!r})")
        workers: Workers = partial(SubprocBackend, start_method=start_method, timeout=worker_timeout)
        if backend == "ray":
            workers = partial(RayBackend, num_cpus=worker_cpus, timeout=worker_timeout)
        resolved = resolve_tasks(tasks)
        sub_envs = SubEnvs(
            resolved,
            Copies.of(n_envs_per_task, [task.name for task in resolved]),
            backend,
            seed,
            training,
            render_mode,
            n_threads,
            on_fault,
            workers,
            monitor_dir,
            override_existing,
            TorchThreads(torch_threads if training else None),
        )
        super().__init__(sub_envs, slice(0, len(sub_envs.task_ids)))
        self.layouts = sub_envs.layouts
        try:
            check_layouts(self.layouts, flatten)
        except ValueError:
            self.close()
            raise
        self.tasks = sub_envs.tasks
        self.on_fault, self.training = on_fault, training
        self.backend, self.backend_reason = sub_envs.backend_name, sub_envs.backend_reason
        self.n_threads = sub_envs.backend.n_threads
        self.monitor = sub_envs.monitor

    @property
    def fault_counts(self) -> dict[str, int]:
        """Number of quarantined faults of each task."""
        return self.sub_envs.fault_counts

    @property
    def envs(self) -> list[gym.Env[Any, Any]]:
        """The sub-environments, as of SB3's ``DummyVecEnv``; only ``backend="dummy"`` has them in this process.

        :raises AttributeError: with another backend
        """
        backend = self.sub_envs.backend
        if not isinstance(backend, DummyBackend):
            raise AttributeError(f'`envs` needs backend="dummy" (this is "{self.backend}"); get_attr works with all')
        return backend.envs

    def rows(self, task_id: int) -> slice:
        """Return the rows of one task."""
        return self.sub_envs.rows(task_id)

    def task_view(self, task_id: int) -> TaskView:
        """Return a VecEnv over the sub-environments of one task; the others keep their state.

        :param task_id: from 0 to ``n_tasks - 1``
        :raises IndexError: if there is no such task
        """
        return TaskView(self, task_id)

    def why_inexact(self) -> str | None:
        """Return why :meth:`get_state` is incomplete; None if it is complete."""
        return self.sub_envs.why_inexact()

    def get_state(self) -> dict[str, Any]:
        """Return the state that determines the sub-environments' next steps: dicts, lists, plain values and arrays."""
        return self.sub_envs.get_state()

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore a state that :meth:`get_state` returned, to the same bits.

        :raises ValueError: if the state belongs to another backend
        """
        self.sub_envs.set_state(state)

    def close(self) -> None:
        self.sub_envs.close()
