"""How the tasks share the updates of a model: which is next, how much each counts, and how gradients are combined."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Iterable
from typing import Any, ClassVar

import numpy as np
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_multitask.algorithms.columns import check_column, note_column, take_columns
from sb3_multitask.algorithms.conflict_images import log_conflict_image
from sb3_multitask.algorithms.engine import trains_as_sb3
from sb3_multitask.algorithms.gradient_combiner import (
    begun_combining,
    check_gradient_combiner,
    check_has_combiner,
    check_shares,
    combiner_saved_as_settings,
    log_conflicts,
    what_is_combined,
)
from sb3_multitask.algorithms.model_state import COMBINER
from sb3_multitask.algorithms.multitask_algorithm import MultiTaskAlgorithm
from sb3_multitask.algorithms.task_schedule import (
    begun,
    check_has_schedule,
    check_is_the_envs,
    check_task_schedule,
    check_weights_are_used,
    log_schedule,
    saved_as_settings,
)
from sb3_multitask.algorithms.task_weights import TaskWeights, checked_weights
from sb3_multitask.combiners import GradientCombiner, GradientCombining, Net
from sb3_multitask.policies import MultiTaskActorCriticPolicy
from sb3_multitask.task_schedules.base import TaskSchedule, one_task_at_a_time
from sb3_multitask.vec_env.cycling import TaskCyclingVecEnv
from sb3_multitask.vec_env.layers import TaskScheduleLike, layers_of, scheduled


class BalancedAlgorithm(MultiTaskAlgorithm, OnPolicyAlgorithm):
    """The part of an on-policy algorithm that has ``task_schedule``, ``task_weights`` and ``gradient_combiner``."""

    weighs_tasks: ClassVar[bool] = True  # its updates multiply the losses by `loss_weights`
    has_numerics: ClassVar[bool] = True  # `numerics` evaluates its losses, and knows `value_norm` and combiners
    policy: MultiTaskActorCriticPolicy

    def balance_tasks(
        self,
        task_schedule: TaskScheduleLike,
        task_weights: TaskWeights | None = None,
        gradient_combiner: GradientCombiner | None = None,
        conflict_freq: int = 0,
    ) -> None:
        """Set how the tasks share the updates; before SB3's constructor.

        :raises TypeError: if ``task_schedule`` is a class or a mapping, or ``gradient_combiner`` of another type
        :raises ValueError: on another schedule or combiner
        :raises ImportError: if what a combiner needs is not installed
        """
        check_task_schedule(task_schedule)
        check_gradient_combiner(gradient_combiner, conflict_freq)
        self.task_schedule: TaskScheduleLike = task_schedule
        self.schedule_state: dict[str, Any] | None = None  # of a file: settings and state of its schedule
        self._schedule: TaskSchedule | None = None  # the model's own copy, which `task_schedule` then is
        self._schedule_of_env: Any = None  # the `task_schedule` with which the env was set
        self.task_weights: TaskWeights | None = task_weights
        self.gradient_combiner: GradientCombiner | None = gradient_combiner
        self.conflict_freq = conflict_freq
        self.combiner_state: dict[str, Any] | None = None  # of a file: settings and state of its combiners
        self.combining: GradientCombining | None = None
        self._combining_of: tuple[Any, ...] | None = None  # for which settings it was made

    def _setup_model(self) -> None:
        self._check_schedule()
        checked_weights(self.task_weights, None)
        check_gradient_combiner(self.gradient_combiner, self.conflict_freq, from_file=True)
        super()._setup_model()
        _ = self.loss_weights
        check_shares(self)
        take_columns(self)

    def _check_schedule(self) -> None:
        check_task_schedule(self.task_schedule, from_file=True)
        weighs = self.weighs_tasks and not trains_as_sb3(self)
        check_weights_are_used(self.task_schedule, type(self).__name__, weighs_tasks=weighs)

    def _begin_to_balance(self) -> None:
        """Take what was set since the env was set; ``learn`` begins with it.

        :raises ValueError: if a model that was loaded lacks its schedule or its combiner, if the schedule is another
            than the env's, if there is nothing to combine, or if a column that a trained one reads would change
        """
        check_has_schedule(type(self).__name__, self.task_schedule)
        check_has_combiner(type(self).__name__, self.gradient_combiner)
        check_is_the_envs(type(self).__name__, self.task_schedule, self._schedule_of_env)
        self._begin_combining()
        check_shares(self)
        check_column(self)

    def _as_trained_in(self, env: VecEnv) -> VecEnv:
        self._check_schedule()
        return scheduled(env, self.task_schedule)

    def _adopt_env(self, env: VecEnv) -> None:
        super()._adopt_env(env)
        if not isinstance(self.task_schedule, TaskSchedule):
            self._schedule = None
        elif self.task_schedule is not self._schedule:
            self._schedule = begun(self.task_schedule, self.task_names or (), self.seed, self.schedule_state)
            self.task_schedule, self.schedule_state = self._schedule, None
        self._schedule_of_env = self.task_schedule
        self._begin_combining()

    def _begin_combining(self) -> None:
        """Make what combines or measures the tasks' gradients, unless it is there for these settings."""
        check_gradient_combiner(self.gradient_combiner, self.conflict_freq, from_file=True)
        settings = what_is_combined(self)
        if settings == self._combining_of:
            return
        if (not self.has_numerics or trains_as_sb3(self)) and (self.gradient_combiner or self.conflict_freq):
            raise ValueError(
                f"The train() of {type(self).__name__} ignores "
                f"`{'gradient_combiner' if self.gradient_combiner else 'conflict_freq'}`: leave it out"
            )
        self.combining = begun_combining(self)
        self._combining_of = settings

    # Updates

    @property
    def loss_weights(self) -> np.ndarray | None:
        """What the losses of each task's rows are multiplied by, (n_tasks,); ``None``: all by 1.

        These are ``task_weights``, times the weights of a schedule that gives some.
        """
        weights = checked_weights(self.task_weights, self.task_names)
        if self._schedule is None or self._schedule.mode != "weights":
            return weights
        of_schedule = self._schedule.weights()
        weights = of_schedule if weights is None else weights * of_schedule
        return None if (weights == 1).all() else weights

    @property
    def conflict_cosines(self) -> dict[Net, np.ndarray]:
        """The cosines between the tasks' gradients when they were measured last, (n_tasks, n_tasks) of each net.

        They are of the parameters that all tasks share, in the first batch of an update; NaN for a task that had no
        rows in it. Empty before.
        """
        return {} if self.combining is None else dict(self.combining.cosines)

    def _measure_conflicts_if_due(self, rows_of_rollout: int) -> None:
        """Have the next update measure conflicts, if ``conflict_freq`` says so of the number of rollouts so far."""
        if self.combining is None or not self.conflict_freq:
            return
        if (self.num_timesteps // rows_of_rollout) % self.conflict_freq == 0:
            self.combining.measure_next(self.num_timesteps)

    def next_task(self) -> None:
        """End an update: continue with the next task, or the one that the schedule picks, where it stopped.

        The schedule also learns which tasks the update was of, and conflicts of gradients are logged if they were
        measured. In "joint" nothing else happens.
        """
        if self._schedule is not None:
            env: Any = self.env
            is_one = one_task_at_a_time(self._schedule)
            self._schedule.note_visits([env.active_task] if is_one else range(self._schedule.n_tasks))
        if self.combining is not None:
            log_conflicts(self.logger, self.combining)
        note_column(self)
        self._show_next_task()

    def _show_next_task(self) -> None:
        if one_task_at_a_time(self.task_schedule):
            env: Any = self.env
            self._last_obs = env.next_task(None if self._schedule is None else self._schedule.next_task())
            self._last_episode_starts = env.episode_starts

    def _reset_shows_first_task(self) -> None:
        """Let a reset of the env show the task with which the schedule begins."""
        for layer in layers_of(self.env) if self.env is not None and self._schedule is not None else ():
            if isinstance(layer, TaskCyclingVecEnv):
                layer.first_task = self._schedule.first_task  # type: ignore[union-attr]

    def log_balance(self) -> None:
        """Record the schedule's probabilities and visits, and for TensorBoard how gradients conflict, if measured."""
        if self._schedule is not None:
            log_schedule(self.logger, self._schedule)
        if self.combining is not None:
            log_conflict_image(self.logger, self.combining, self.task_names or (), self._total_timesteps)

    # Files and state

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "_schedule", "_schedule_of_env", "combining", "_combining_of"]

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        with saved_as_settings(self), combiner_saved_as_settings(self):
            super().save(path, exclude, include)

    def get_state(self) -> dict[str, Any]:
        state = super().get_state()
        if self._schedule is not None:
            state["task_schedule"] = self._schedule.get_state()
        if self.combining is not None and self.combining.combiners:
            state["gradient_combiner"] = self.combining.get_state()
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        combined = () if self.combining is None else self.combining.combiners
        missing = {"task_schedule"} if self._schedule is not None and "task_schedule" not in state else set()
        if not set(combined) <= set(state.get("gradient_combiner", ())):
            missing.add("gradient_combiner")
        if missing:
            raise ValueError(
                f"The state is of a model with another {' and '.join(f'`{name}`' for name in sorted(missing))}, whose "
                "memory it lacks: make the models alike. Nothing was changed"
            )
        super().set_state(state)
        if self._schedule is not None:
            self._schedule.set_state(state["task_schedule"])
        if self.combining is not None and self.combining.combiners:
            self.combining.set_state(state["gradient_combiner"])

    def settings(self) -> dict[str, Any]:
        schedule, weights = self.task_schedule, checked_weights(self.task_weights, self.task_names)
        combiners = {} if self.combining is None else self.combining.settings()
        return {
            **super().settings(),
            "task_schedule": schedule.settings() if isinstance(schedule, TaskSchedule) else schedule,
            "task_weights": {} if weights is None else dict(zip(self.task_names or (), weights.tolist(), strict=True)),
            **({COMBINER: combiners} if combiners else {}),
        }
