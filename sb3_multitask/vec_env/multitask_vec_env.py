"""Several copies of every task side by side, the task written into the observation."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Never, get_args

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

from sb3_multitask.envs.number_checks import is_integer
from sb3_multitask.envs.task_env import StepReturn, TaskObs, check_spaces, common_spaces, task_observation_space
from sb3_multitask.tasks import Task, TasksLike, resolve_tasks
from sb3_multitask.vec_env.backends import Backend, BackendName, DummyBackend, Transitions
from sb3_multitask.vec_env.batch import BatchBackend, Prototypes, why_not_batch
from sb3_multitask.vec_env.batch_group import BATCH_IS_MISSING
from sb3_multitask.vec_env.faults import MAX_IN_A_ROW, Fault, OnFault, TaskFault, bad_rows
from sb3_multitask.vec_env.monitor import EpisodeMonitor
from sb3_multitask.vec_env.subproc import SubprocBackend
from sb3_multitask.vec_env.task_view import TaskView

_BACKEND_NAMES = {BatchBackend: "batch", DummyBackend: "dummy", SubprocBackend: "subproc"}


class MultiTaskVecEnv(VecEnv):
    """``n_envs_per_task`` copies of every task, stepped together.

    Sub-environments are grouped by task: row ``task_id * n_envs_per_task + k`` is copy ``k``. An observation is
    ``{"obs": (num_envs, obs_dim) float32, "task": (num_envs,) int64}``. Returns and lengths of episodes are
    monitored (raw rewards), so no ``Monitor`` is needed around the environments.

    :param tasks: a set's name, an id, or a list of ids and tasks
    :param n_envs_per_task: copies of each task, at least 1
    :param backend: ``"batch"`` (all simulations in one native call: the environments of this package and most of
        Gymnasium's MuJoCo ones), ``"dummy"`` (one after the other in this process), ``"subproc"`` (one process each),
        or ``"auto"``: ``"batch"`` where it can, else ``"dummy"``. All give the same numbers. The attribute ``backend``
        says which.
    :param seed: sub-environment ``i`` is seeded with ``seed + i`` at the next reset; ``None``: at random
    :param monitor_dir: folder for SB3's monitor files; ``None`` writes none
    :param render_mode: as in ``gymnasium.make``; rendering needs "dummy" or "subproc"
    :param n_threads: physics threads of ``"batch"``; ``None``: torch's number. Results do not depend on it.
    :param on_fault: what a NaN, infinite or absurd (beyond 1e15) observation, reward or action does, or a MuJoCo
        simulation that fails. ``"stop"`` raises ``TaskFault`` before anything is learned from it. ``"quarantine"``
        resets that sub-environment and counts it in ``fault_counts``; the step's ``info["fault"]`` says what was found,
        its reward is 0 and ``done`` is true; ``MultiTaskVecNormalize`` and ``A2CMultiTask`` leave it out. Other
        algorithms see an episode that ended.
    :param start_method: of the processes of ``"subproc"``: "fork", "forkserver" or "spawn"; ``None``: SB3's choice
    :param worker_timeout: seconds that a process of ``"subproc"`` may take for a step or a reset
    :raises ValueError: tasks whose observation shapes or actions differ, an unknown backend, too few copies
    :raises RuntimeError: if a task's environment cannot be made; the message names the task
    """

    observation_space: spaces.Dict
    action_space: spaces.Box

    def __init__(
        self,
        tasks: TasksLike,
        n_envs_per_task: int = 1,
        *,
        backend: BackendName = "auto",
        seed: int | None = None,
        monitor_dir: str | Path | None = None,
        render_mode: str | None = None,
        n_threads: int | None = None,
        on_fault: OnFault = "stop",
        start_method: str | None = None,
        worker_timeout: float = 60.0,
    ) -> None:
        if on_fault not in get_args(OnFault):
            raise ValueError(f"`on_fault` must be one of {', '.join(get_args(OnFault))} (got {on_fault!r})")
        if not worker_timeout > 0:
            raise ValueError(f"`worker_timeout` must be a positive number of seconds (got {worker_timeout!r})")
        self.on_fault = on_fault
        self.tasks = resolve_tasks(tasks)
        self.task_names = tuple(task.name for task in self.tasks)
        self.n_tasks = len(self.tasks)
        self.n_envs_per_task = _checked_count(n_envs_per_task)
        self.task_ids = np.repeat(np.arange(self.n_tasks), n_envs_per_task)
        prototypes = _make_prototypes(self.tasks, self.n_envs_per_task)
        try:
            observation_space, action_space = common_spaces((task, env) for task, envs in prototypes for env in envs)
            workers = partial(SubprocBackend, start_method=start_method, timeout=worker_timeout)
            self._backend = _make_backend(backend, prototypes, n_envs_per_task, render_mode, n_threads, workers)
        except Exception:
            _close(prototypes)
            raise
        self.backend = _BACKEND_NAMES[type(self._backend)]
        self.n_threads = self._backend.n_threads
        self._was_reset = False
        super().__init__(len(self.task_ids), task_observation_space(observation_space, self.n_tasks), action_space)
        self.monitor = EpisodeMonitor(
            [self.task_names[i] for i in self.task_ids],
            [str(self.tasks[i].env_id) for i in self.task_ids],
            monitor_dir,
        )
        self.fault_counts = dict.fromkeys(self.task_names, 0)
        self._faults_in_a_row = np.zeros(self.num_envs, dtype=np.int64)
        self._has_failed = False  # some sub-environment, in its last step
        self._bad_actions: dict[int, str] = {}
        if seed is not None:
            self.seed(seed)

    def rows(self, task_id: int) -> slice:
        """The rows of one task."""
        return slice(task_id * self.n_envs_per_task, (task_id + 1) * self.n_envs_per_task)

    def task_view(self, task_id: int) -> TaskView:
        """A VecEnv over the sub-environments of one task; the others keep their state.

        :param task_id: from 0 to ``n_tasks - 1``
        :raises IndexError: if there is no such task
        """
        return TaskView(self, task_id)

    # The three calls below serve all rows (this VecEnv) and the rows of one task (a view).

    def reset_rows(self, rows: slice) -> TaskObs:
        obs, self.reset_infos[rows] = self._backend.reset(rows, self._seeds[rows], self._options[rows])
        self._was_reset = True
        n_rows = len(self._seeds[rows])
        self._seeds[rows] = [None] * n_rows  # seeds and options are used once, as in SB3
        self._options[rows] = [{} for _ in range(n_rows)]
        self.monitor.reset(rows)
        for i, what in bad_rows("observation", obs).items():
            obs[i] = self._reset_again(rows, i, f"{what} of its reset")
        return self._with_tasks(rows, obs)

    def _reset_again(self, rows: slice, i: int, what: str) -> np.ndarray:
        """Another first observation of a row of ``rows`` whose reset gave a bad one.

        :raises TaskFault: unless faults are quarantined, or if that is bad too
        """
        row = i + rows.start
        if self.on_fault == "stop":
            self._stop(rows, {i: what}, step=0)
        self.fault_counts[self.task_names[self.task_ids[row]]] += 1
        obs = self._backend.reset_row(row)
        again = bad_rows("observation", obs[None])
        if again:
            self._stop(rows, {i: f"{what}, and {again[0]} of the next"}, step=0)
        return obs

    def send_rows(self, rows: slice, actions: np.ndarray) -> None:
        actions = np.asarray(actions, dtype=np.float32)
        expected = (len(range(self.num_envs)[rows]), *self.action_space.shape)
        if actions.shape != expected:
            raise ValueError(f"`actions` must be {expected} (n_envs, action_dim) (got {actions.shape})")
        self._bad_actions = bad_rows("action", actions)
        if self._bad_actions:
            if self.on_fault == "stop":
                self._stop(rows, self._bad_actions)
            actions = actions.copy()
            actions[list(self._bad_actions)] = np.clip(0, self.action_space.low, self.action_space.high)
        self._backend.send(rows, actions)

    def receive_rows(self, rows: slice) -> StepReturn:
        transitions = self._backend.receive(rows)
        faults = self._find_faults(transitions)
        if self._has_failed:
            good = np.setdiff1d(np.arange(len(transitions.dones)), list(faults)) + rows.start
            self._faults_in_a_row[good] = 0
            self._has_failed = bool(self._faults_in_a_row.any())
        if faults:
            if self.on_fault == "stop":
                self._stop(rows, faults)
            self._quarantine(rows, transitions, faults)
        self.monitor.step(rows, transitions.rewards, transitions.dones, transitions.infos)
        task_ids = self.task_ids[rows]
        if transitions.dones.any():
            for i in transitions.dones.nonzero()[0].tolist():
                info = transitions.infos[i]
                last = info["terminal_observation"].astype(np.float32)
                info["terminal_observation"] = {"obs": last, "task": task_ids[i]}
        obs = self._with_tasks(rows, transitions.obs)
        return obs, transitions.rewards.astype(np.float32), transitions.dones, transitions.infos

    def _find_faults(self, transitions: Transitions) -> dict[int, str]:
        """Rows of a step that must not be learned from, and why."""
        faults = bad_rows("reward", transitions.rewards)
        faults.update(bad_rows("observation", transitions.obs))
        for i in transitions.dones.nonzero()[0].tolist():
            last = np.asarray(transitions.infos[i]["terminal_observation"])[None]
            faults.update((i, what) for what in bad_rows("last observation", last).values())
        faults.update(transitions.faults)
        faults.update(self._bad_actions)
        return faults

    def _stop(self, rows: slice, faults: Mapping[int, str], step: int | None = None) -> Never:
        i = min(faults)
        row = i + rows.start
        step = int(self.monitor.lengths[row]) + 1 if step is None else step
        raise TaskFault(self.task_names[self.task_ids[row]], row, step, faults[i])

    def _quarantine(self, rows: slice, transitions: Transitions, faults: Mapping[int, str]) -> None:
        """Reset what failed; its row says so in ``info["fault"]``, and holds nothing of what was wrong.

        :raises TaskFault: if a sub-environment fails again and again, or its reset gives a bad observation
        """
        for i, what in sorted(faults.items()):
            row = i + rows.start
            name = self.task_names[self.task_ids[row]]
            self.fault_counts[name] += 1
            self._faults_in_a_row[row] += 1
            obs = np.asarray(self._backend.reset_row(row))
            if self._faults_in_a_row[row] >= MAX_IN_A_ROW:
                self._stop(rows, {i: f"{what}; {MAX_IN_A_ROW} times without a good step between"})
            if bad_rows("observation", obs[None]):
                self._stop(rows, {i: f"{what}, and its reset gave {bad_rows('observation', obs[None])[0]}"})
            transitions.obs[i], transitions.rewards[i], transitions.dones[i] = obs, 0.0, True
            transitions.infos[i] = {
                "fault": Fault(what),
                "task": name,
                "terminal_observation": obs.copy(),
                "TimeLimit.truncated": False,
            }
            self.monitor.reset(slice(row, row + 1))
        self._has_failed = True

    def _with_tasks(self, rows: slice, obs: np.ndarray) -> TaskObs:
        return {"obs": obs.astype(np.float32), "task": self.task_ids[rows].copy()}

    def why_inexact(self) -> str | None:
        """Why :meth:`get_state` does not hold everything; None if it does."""
        reasons = {
            f"task {self.task_names[task]!r}: {reason}"
            for task, reason in zip(self.task_ids, self._backend.why_inexact(), strict=True)
            if reason is not None
        }
        return "; ".join(sorted(reasons)) or None

    def get_state(self) -> dict[str, Any]:
        """Everything that decides what the sub-environments do next: dicts, lists, plain values and arrays."""
        return {
            "backend": self.backend,
            "seeds": list(self._seeds),
            "envs": self._backend.get_state() if self._was_reset else None,
            "monitor": self.monitor.get_state(),
            "fault_counts": dict(self.fault_counts),
            "faults_in_a_row": self._faults_in_a_row.copy(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Go on from what :meth:`get_state` gave, to the same bits.

        :raises ValueError: if it is the state of another backend
        """
        if state["backend"] != self.backend:
            raise ValueError(f'The state is of backend="{state["backend"]}", and this env has "{self.backend}"')
        self._seeds = list(state["seeds"])
        self._was_reset = state["envs"] is not None
        if self._was_reset:
            self._backend.set_state(state["envs"])
        self.monitor.set_state(state["monitor"])
        self.fault_counts = dict(state.get("fault_counts", self.fault_counts))
        self._faults_in_a_row[:] = state.get("faults_in_a_row", 0)
        self._has_failed = bool(self._faults_in_a_row.any())

    # SB3's VecEnv interface

    def reset(self) -> TaskObs:
        return self.reset_rows(slice(0, self.num_envs))

    def step_async(self, actions: np.ndarray) -> None:
        self.send_rows(slice(0, self.num_envs), actions)

    def step_wait(self) -> StepReturn:
        return self.receive_rows(slice(0, self.num_envs))

    def close(self) -> None:
        try:
            self._backend.close()
        finally:
            self.monitor.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        return [self._backend.get_attr(i, attr_name) for i in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        for i in self._get_indices(indices):
            self._backend.set_attr(i, attr_name, value)

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        return [self._backend.call(i, method_name, args, kwargs) for i in self._get_indices(indices)]

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Whether sub-environments are wrapped with a class; true for ``Monitor``, which is built in."""
        return [
            issubclass(Monitor, wrapper_class) or self._backend.is_wrapped(i, wrapper_class)
            for i in self._get_indices(indices)
        ]

    def get_images(self) -> Sequence[np.ndarray | None]:
        return self.env_method("render")


def _checked_count(n_envs_per_task: int) -> int:
    if not is_integer(n_envs_per_task):
        raise TypeError(f"`n_envs_per_task` must be an integer (got {n_envs_per_task!r})")
    if n_envs_per_task < 1:
        raise ValueError(f"`n_envs_per_task` must be at least 1 (got {n_envs_per_task})")
    return int(n_envs_per_task)


def _make_prototypes(tasks: Sequence[Task], n_envs_per_task: int) -> list[Prototypes]:
    """Environments of each task, to compare their spaces and to read their parameters.

    One of a registered id, whose copies are alike; of a callable one for each copy, since it may make them differ.
    """
    prototypes: list[Prototypes] = []
    try:
        for task in tasks:
            prototypes.append((task, []))
            for _ in range(n_envs_per_task if callable(task.env_id) else 1):
                prototypes[-1][1].append(task.make())
                check_spaces(task, prototypes[-1][1][-1])
    except Exception:
        _close(prototypes)
        raise
    return prototypes


def _close(prototypes: Sequence[Prototypes]) -> None:
    for _, envs in prototypes:
        for env in envs:
            env.close()


def _make_backend(
    name: BackendName,
    prototypes: Sequence[Prototypes],
    n_envs_per_task: int,
    render_mode: str | None,
    n_threads: int | None,
    workers: Callable[..., SubprocBackend],
) -> Backend:
    if name not in get_args(BackendName):
        raise ValueError(f"`backend` must be one of {', '.join(get_args(BackendName))} (got {name!r})")
    if name in ("auto", "batch"):
        reason = why_not_batch(prototypes, render_mode)
        if reason is None:
            return BatchBackend(prototypes, n_envs_per_task, n_threads)
        if name == "batch":
            raise ValueError(f'`backend="batch"` cannot run these tasks: {reason}. backend="auto" takes another.')
        if BATCH_IS_MISSING:
            _warn_once(reason)
    _close(prototypes)
    tasks = [task for task, _ in prototypes]
    if name == "subproc":
        return workers(tasks, n_envs_per_task, render_mode)
    return DummyBackend(tasks, n_envs_per_task, render_mode)


@functools.cache
def _warn_once(reason: str) -> None:
    warnings.warn(f'The native backend is not used: {reason}. Falling back to backend="dummy".', stacklevel=5)
