"""The sub-environments of all tasks, which the VecEnvs over them share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Never

import numpy as np

from sb3_multitask.envs.number_checks import is_integer
from sb3_multitask.envs.task_env import StepReturn, TaskObs
from sb3_multitask.envs.task_space import TaskSizes, padded
from sb3_multitask.many_tasks import listed
from sb3_multitask.process.seeding import env_seeds
from sb3_multitask.process.threads import TorchThreads
from sb3_multitask.tasks import Task
from sb3_multitask.vec_env.backends import BackendName, Transitions
from sb3_multitask.vec_env.copies import Copies
from sb3_multitask.vec_env.faults import MAX_CONSECUTIVE_FAULTS, Fault, OnFault, TaskFault, bad_rows
from sb3_multitask.vec_env.making import Workers, start_backend
from sb3_multitask.vec_env.monitor import EpisodeMonitor
from sb3_multitask.vec_env.seed_checks import SeedChecks


class SubEnvs:
    """Copies of every task on a backend, with their seeds, monitoring and faults.

    Methods take rows, which are all rows or those of one task: a contiguous slice with a start.
    Observations and actions are as wide as the widest task's, with zeros in the padding.
    :class:`MultiTaskVecEnv` and :class:`TaskView` are VecEnvs over it; see there for the parameters.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        copies: Copies,
        backend: BackendName,
        seed: int | None,
        training: bool,
        render_mode: str | None,
        n_threads: int | None,
        on_fault: OnFault,
        workers: Workers,
        monitor_dir: str | Path | None,
        override_existing: bool,
        torch_threads: TorchThreads,
    ) -> None:
        self.tasks, self.copies = tuple(tasks), copies
        self.task_names = tuple(task.name for task in tasks)
        self.n_tasks = len(tasks)
        self.task_ids = copies.task_ids
        self.training, self.on_fault = training, on_fault
        n_rows = len(self.task_ids)
        self.seeds: list[int | None] = [None] * n_rows if seed is None else self.seeds_for(seed)
        self.options: list[dict[str, Any]] = [{} for _ in range(n_rows)]
        self.reset_infos: list[dict[str, Any]] = [{} for _ in range(n_rows)]
        running = start_backend(backend, tasks, copies, self.seeds, render_mode, n_threads, workers)
        self.backend, self.backend_name, self.backend_reason = running.backend, running.name, running.reason
        self.observation_space, self.action_space = running.observation_space, running.action_space
        self.layouts = {env.task: env.layout for env in running.descriptions if env.layout is not None}
        self.sizes = TaskSizes.of(self.observation_space, self.action_space)
        self._obs_dtype = self.observation_space["obs"].dtype
        self._bounds = (self.sizes.action_low, self.sizes.action_high) if self.sizes.bounds_differ else None
        self._was_reset, self._torch_threads = False, torch_threads
        self.monitor = EpisodeMonitor(
            [tasks[task].name for task in self.task_ids],
            [_env_name(tasks[task]) for task in self.task_ids],
            monitor_dir,
            override_existing=override_existing,
            # "batch" has fewer environments than rows, and none with a Monitor
            monitored={row for row, env in enumerate(running.descriptions) if env.has_monitor},
        )
        doubtful = {env.task for env in running.descriptions if not env.obeys_seeds}
        self.seed_checks = SeedChecks(self.tasks, copies, self.sizes.obs_dims.tolist(), doubtful)
        self.fault_counts = dict.fromkeys(self.task_names, 0)
        self._consecutive_faults = np.zeros(n_rows, dtype=np.int64)
        self._has_failed = False  # some sub-environment, in its last step
        self._bad_actions: dict[int, str] = {}

    def rows(self, task_id: int) -> slice:
        """Return the rows of one task."""
        return self.copies.rows(task_id)

    def seeds_for(self, seed: int) -> list[int | None]:
        """Return the seeds of all rows.

        :raises ValueError: if ``seed`` is not an integer of at least 0
        """
        if not is_integer(seed) or seed < 0:
            raise ValueError(f"`seed` must be an integer of at least 0, or None (got {seed!r})")
        return [*env_seeds(int(seed), self.n_tasks, self.copies.of_tasks, training=self.training)]

    def reset(self, rows: slice) -> TaskObs:
        """Start new episodes in some rows, with their seeds and options, which are used once, as in SB3."""
        seeds = self.seeds[rows]
        obs, self.reset_infos[rows] = self.backend.reset(rows, seeds, self.options[rows])
        self._was_reset = True
        n_rows = len(seeds)
        self.seeds[rows] = [None] * n_rows
        self.seed_checks.after_reset(rows, seeds, self.options[rows], obs)
        self.options[rows] = [{} for _ in range(n_rows)]
        self.monitor.begin(rows)
        for i, what in bad_rows("observation", obs).items():
            obs[i] = padded(self._reset_again(rows, i, f"{what} of its reset"), obs.shape[1])
        return self._with_tasks(rows, obs)

    def _reset_again(self, rows: slice, i: int, what: str) -> np.ndarray:
        """Reset a row of ``rows`` again whose first observation was bad; return the new one.

        :raises TaskFault: unless faults are quarantined, or if the new one is bad too
        """
        row = i + rows.start
        if self.on_fault == "stop":
            self._stop(rows, {i: what}, step=0)
        self.fault_counts[self.task_names[self.task_ids[row]]] += 1
        obs = self.backend.reset_row(row)
        again = bad_rows("observation", obs[None])
        if again:
            self._stop(rows, {i: f"{what}, and {again[0]} of the next"}, step=0)
        return obs

    def send(self, rows: slice, actions: np.ndarray) -> None:
        """Start a step of some rows.

        :raises ValueError: on actions of another shape
        :raises TaskFault: on actions that are not finite, unless faults are quarantined
        """
        actions = np.asarray(actions, dtype=np.float32)
        expected = rows.stop - rows.start, *self.action_space.shape
        if actions.shape != expected:
            raise ValueError(f"`actions` must be {expected} (n_envs, action_dim) (got {actions.shape})")
        self._torch_threads.begin()
        self._bad_actions = bad_rows("action", actions)
        if self._bad_actions:
            if self.on_fault == "stop":
                self._stop(rows, self._bad_actions)
            actions = actions.copy()
            actions[list(self._bad_actions)] = np.clip(0, self.action_space.low, self.action_space.high)
        if self._bounds is not None:
            low, high = self._bounds
            actions = np.clip(actions, low[self.task_ids[rows]], high[self.task_ids[rows]])
        self.backend.send(rows, actions)

    def receive(self, rows: slice) -> StepReturn:
        """Finish the step of some rows that was sent.

        :raises TaskFault: on a fault, unless faults are quarantined, or if a sub-environment fails repeatedly
        """
        transitions = self.backend.receive(rows)
        faults = self._find_faults(transitions)
        if self._has_failed:
            good = np.setdiff1d(np.arange(len(transitions.dones)), list(faults)) + rows.start
            self._consecutive_faults[good] = 0
            self._has_failed = bool(self._consecutive_faults.any())
        if faults:
            if self.on_fault == "stop":
                self._stop(rows, faults)
            self._quarantine(rows, transitions, faults)
        self.monitor.step(rows, transitions.rewards, transitions.ended, transitions.infos, transitions.success)
        for i in transitions.ended:
            info = transitions.infos[i]
            last = padded(info["terminal_observation"].astype(self._obs_dtype), self.sizes.obs_dim)
            info["terminal_observation"] = {"obs": last, "task": self.task_ids[rows.start + i]}
        obs = self._with_tasks(rows, transitions.obs)
        return obs, transitions.rewards.astype(np.float32), transitions.dones, transitions.infos

    def _find_faults(self, transitions: Transitions) -> dict[int, str]:
        """Return the rows of a step that must not be learned from, with the reasons."""
        faults = bad_rows("reward", transitions.rewards)
        faults.update(bad_rows("observation", transitions.obs))
        for i in transitions.ended:
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
        """Reset the failed rows, set their ``info["fault"]``, and replace their bad numbers.

        :raises TaskFault: if a sub-environment fails repeatedly, or its reset returns a bad observation
        """
        for i, what in sorted(faults.items()):
            row = i + rows.start
            name = self.task_names[self.task_ids[row]]
            self.fault_counts[name] += 1
            self._consecutive_faults[row] += 1
            obs = np.asarray(self.backend.reset_row(row))
            if self._consecutive_faults[row] >= MAX_CONSECUTIVE_FAULTS:
                self._stop(rows, {i: f"{what}; {MAX_CONSECUTIVE_FAULTS} times without a good step between"})
            if bad_rows("observation", obs[None]):
                self._stop(rows, {i: f"{what}, and its reset gave {bad_rows('observation', obs[None])[0]}"})
            transitions.obs[i] = padded(obs, transitions.obs.shape[1])
            transitions.rewards[i], transitions.dones[i] = 0.0, True
            transitions.infos[i] = {
                "fault": Fault(what),
                "task": name,
                "terminal_observation": obs.copy(),
                "TimeLimit.truncated": False,
            }
            self.monitor.reset(slice(row, row + 1))
        transitions.infos.ended = sorted({*transitions.ended, *faults})
        self._has_failed = True

    def _with_tasks(self, rows: slice, obs: np.ndarray) -> TaskObs:
        obs = padded(obs.astype(self._obs_dtype, copy=False), self.sizes.obs_dim)
        return {"obs": obs, "task": self.task_ids[rows].copy()}

    def close(self) -> None:
        """Close the backend."""
        self.backend.close()
        self._torch_threads.end()

    def why_inexact(self) -> str | None:
        """Return why :meth:`get_state` is incomplete; None if it is complete."""
        reasons = {
            f"task {self.task_names[task]!r}: {reason}"
            for task, reason in zip(self.task_ids, self.backend.why_inexact(), strict=True)
            if reason is not None
        }
        return listed(sorted(reasons), "; ") or None

    def get_state(self) -> dict[str, Any]:
        """Return the state that determines the sub-environments' next steps: dicts, lists, plain values and arrays."""
        return {
            "backend": self.backend_name,
            "seeds": list(self.seeds),
            "envs": self.backend.get_state() if self._was_reset else None,
            "monitor": self.monitor.get_state(),
            "fault_counts": dict(self.fault_counts),
            "faults_in_a_row": self._consecutive_faults.copy(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore a state that :meth:`get_state` returned, to the same bits.

        :raises ValueError: if the state belongs to another backend
        """
        if state["backend"] != self.backend_name:
            raise ValueError(f'The state is of backend="{state["backend"]}", and this env has "{self.backend_name}"')
        self.seeds = list(state["seeds"])
        self.seed_checks.forget()
        self._was_reset = state["envs"] is not None
        if self._was_reset:
            self.backend.set_state(state["envs"])
        self.monitor.set_state(state["monitor"])
        self.fault_counts = dict(state.get("fault_counts", self.fault_counts))
        self._consecutive_faults[:] = state.get("faults_in_a_row", 0)
        self._has_failed = bool(self._consecutive_faults.any())


def _env_name(task: Task) -> str:
    """The environment of a task in the header of a monitor file, the same in every run."""
    return task.env_id if isinstance(task.env_id, str) else getattr(task.env_id, "__qualname__", str(task.env_id))
