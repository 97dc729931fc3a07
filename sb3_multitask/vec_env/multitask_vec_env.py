"""Several copies of every task side by side, the task written into the observation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
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
from sb3_multitask.envs.task_env import StepReturn, TaskObs, task_observation_space
from sb3_multitask.seeding import env_seeds
from sb3_multitask.tasks import TasksLike, resolve_tasks
from sb3_multitask.vec_env.backends import BackendName, DummyBackend, Transitions
from sb3_multitask.vec_env.faults import MAX_IN_A_ROW, Fault, OnFault, TaskFault, bad_rows
from sb3_multitask.vec_env.making import start_backend
from sb3_multitask.vec_env.monitor import EpisodeMonitor
from sb3_multitask.vec_env.seed_checks import SeedChecks
from sb3_multitask.vec_env.subproc import SubprocBackend
from sb3_multitask.vec_env.task_view import TaskView


class MultiTaskVecEnv(VecEnv):
    """``n_envs_per_task`` copies of every task, stepped together.

    Sub-environments are grouped by task: row ``task_id * n_envs_per_task + k`` is copy ``k``. An observation is
    ``{"obs": (num_envs, obs_dim), "task": (num_envs,) int64}``; ``obs`` is float32 where that holds every digit of the
    tasks' observations, else float64. Returns and lengths of episodes are monitored (raw rewards), so no ``Monitor``
    is needed around the environments; one that is there says what an episode's return is, as in SB3.

    :param tasks: a set's name, an id, or a list of ids and tasks
    :param n_envs_per_task: copies of each task, at least 1
    :param backend: ``"batch"`` (all simulations in one native call: the environments of this package and most of
        Gymnasium's MuJoCo ones), ``"dummy"`` (one after the other in this process), ``"subproc"`` (one process each),
        or ``"auto"``: ``"batch"`` where it can, else ``"dummy"``. All give the same numbers. The attribute ``backend``
        says which, and ``backend_reason`` why "auto" did not take "batch".
    :param seed: decides the seeds of all sub-environments, which are independent of each other and of those of other
        seeds (:func:`~sb3_multitask.seeding.env_seeds`); they are used at the next reset. Python's, numpy's and torch's
        global generators are seeded while the environments are made. ``None``: at random
    :param training: ``False`` for an evaluation: the same ``seed`` then gives other episodes than in training
    :param monitor_dir: folder for SB3's monitor files; ``None`` writes none
    :param override_existing: whether rows of earlier runs in ``monitor_dir`` are replaced, with a warning, at the first
        reset; ``False`` appends to them
    :param render_mode: as in ``gymnasium.make``; rendering needs "dummy" or "subproc"
    :param n_threads: physics threads of ``"batch"``; ``None``: torch's number. Results do not depend on it.
    :param on_fault: what a NaN, infinite or absurd (beyond 1e15) observation, reward or action does, or a MuJoCo
        simulation that fails. ``"stop"`` raises ``TaskFault`` before anything is learned from it. ``"quarantine"``
        resets that sub-environment and counts it in ``fault_counts``; the step's ``info["fault"]`` says what was found,
        its reward is 0 and ``done`` is true; ``MultiTaskVecNormalize`` and ``A2CMultiTask`` leave it out. Other
        algorithms see an episode that ended.
    :param start_method: of the processes of ``"subproc"``: "fork", "forkserver" or "spawn"; ``None``: SB3's choice
    :param worker_timeout: seconds that a process of ``"subproc"`` may take for a step or a reset
    :raises ValueError: tasks whose observation shapes or actions differ, vectorised environments, rewards that are
        vectors, an unknown backend, too few copies
    :raises RuntimeError: if a task's environment cannot be made; the message names the task

    When copies of a task begin alike after a seeded reset, or one begins otherwise with the same seed, a warning says
    so, once for each task: its environment does not obey its seed.
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
        training: bool = True,
        monitor_dir: str | Path | None = None,
        override_existing: bool = True,
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
        self.training = training
        workers = partial(SubprocBackend, start_method=start_method, timeout=worker_timeout)
        seeds: list[int | None] = [None] * len(self.task_ids) if seed is None else self._seeds_for(seed)
        running = start_backend(backend, self.tasks, self.n_envs_per_task, seeds, render_mode, n_threads, workers)
        self._backend, self.backend, self.backend_reason = running.backend, running.name, running.reason
        self.n_threads = self._backend.n_threads
        self._was_reset = False
        space = task_observation_space(running.observation_space, self.n_tasks)
        self._obs_dtype = space["obs"].dtype
        super().__init__(len(self.task_ids), space, running.action_space)
        self.monitor = EpisodeMonitor(
            [self.task_names[i] for i in self.task_ids],
            [str(self.tasks[i].env_id) for i in self.task_ids],
            monitor_dir,
            override_existing=override_existing,
            # "batch" has fewer environments than rows, and none with a Monitor
            monitored={row for row, env in enumerate(running.descriptions) if env.has_monitor},
        )
        doubtful = {env.task for env in running.descriptions if not env.obeys_seeds}
        self._seed_checks = SeedChecks(self.tasks, self.n_envs_per_task, doubtful)
        self.fault_counts = dict.fromkeys(self.task_names, 0)
        self._faults_in_a_row = np.zeros(self.num_envs, dtype=np.int64)
        self._has_failed = False  # some sub-environment, in its last step
        self._bad_actions: dict[int, str] = {}
        if seed is not None:
            self._seeds = seeds

    def _seeds_for(self, seed: int) -> list[int | None]:
        if not is_integer(seed) or seed < 0:
            raise ValueError(f"`seed` must be an integer of at least 0, or None (got {seed!r})")
        return [*env_seeds(int(seed), self.n_tasks, self.n_envs_per_task, training=self.training)]

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed every sub-environment at the next reset, as ``seed`` of the constructor does.

        :param seed: ``None`` draws one from numpy's global generator, as SB3
        :return: the seeds of the sub-environments
        """
        if seed is None:
            seed = int(np.random.randint(0, np.iinfo(np.uint32).max, dtype=np.uint32))  # noqa: NPY002
        self._seeds = self._seeds_for(seed)
        return self._seeds

    @property
    def envs(self) -> list[gym.Env[Any, Any]]:
        """The sub-environments, as of SB3's ``DummyVecEnv``; only ``backend="dummy"`` has them in this process.

        :raises AttributeError: with another backend
        """
        if not isinstance(self._backend, DummyBackend):
            raise AttributeError(f'`envs` needs backend="dummy" (this is "{self.backend}"); get_attr works with all')
        return self._backend.envs

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
        seeds = self._seeds[rows]
        obs, self.reset_infos[rows] = self._backend.reset(rows, seeds, self._options[rows])
        self._was_reset = True
        n_rows = len(seeds)
        self._seeds[rows] = [None] * n_rows  # seeds and options are used once, as in SB3
        self._seed_checks.after_reset(rows, seeds, self._options[rows], obs)
        self._options[rows] = [{} for _ in range(n_rows)]
        self.monitor.begin(rows)
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
                last = info["terminal_observation"].astype(self._obs_dtype)
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
        return {"obs": obs.astype(self._obs_dtype, copy=False), "task": self.task_ids[rows].copy()}

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
        self._seed_checks.forget()
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
        self._backend.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        return [self._backend.get_attr(i, attr_name) for i in self._get_indices(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        for i in self._get_indices(indices):
            self._backend.set_attr(i, attr_name, value)
        self._seed_checks.forget()

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        self._seed_checks.forget()
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
