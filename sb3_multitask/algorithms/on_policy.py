"""What on-policy algorithms on several tasks share: engines, teachers, the schedule of tasks, and logs of each task."""

from __future__ import annotations

import io
import pathlib
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Never, Self

import numpy as np
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_multitask.algorithms import task_logs
from sb3_multitask.algorithms.engine import (
    Engine,
    EngineName,
    TorchEngine,
    check_learns_from_teachers,
    trains_as_sb3,
    why_torch,
)
from sb3_multitask.algorithms.env_checks import backend_message, check_can_learn, check_choices, check_counts
from sb3_multitask.algorithms.gradient_combiner import (
    begun_combining,
    check_gradient_combiner,
    check_has_combiner,
    check_shares,
    combiner_saved_as_settings,
    log_conflicts,
    what_is_combined,
)
from sb3_multitask.algorithms.model_state import COMBINER, number_or_schedule
from sb3_multitask.algorithms.multitask_algorithm import MultiTaskAlgorithm
from sb3_multitask.algorithms.rollout_buffer import TaskRolloutBuffer
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
from sb3_multitask.distillation.settings import Coefficient, Coefficients, DistillationSettings
from sb3_multitask.distillation.sources import TeacherLike
from sb3_multitask.distillation.teacher_vec_env import TeachersInEnv
from sb3_multitask.distillation.teachers import Teachers
from sb3_multitask.envs.task_space import TaskSizes
from sb3_multitask.fast import FastEngine
from sb3_multitask.losses import DistillationLoss, DistillLoss, Evaluation, Loss
from sb3_multitask.losses.schedules import check_number_or_schedule, in_range
from sb3_multitask.policies import MultiTaskActorCriticPolicy
from sb3_multitask.policies.arguments import check_names
from sb3_multitask.process.kernels import COMPILING, compiles_first
from sb3_multitask.process.threads import threads_for_arrays
from sb3_multitask.task_schedules.base import TaskSchedule, one_task_at_a_time
from sb3_multitask.vec_env.faults import is_fault
from sb3_multitask.vec_env.infos import ended_rows
from sb3_multitask.vec_env.layers import TaskScheduleLike, scheduled

_COEFFICIENTS = ("distill_coef", "rl_coef", "critic_coef", "student_rollout_prob")


class MultiTaskOnPolicyAlgorithm(MultiTaskAlgorithm, OnPolicyAlgorithm):
    """Stands before an on-policy algorithm of SB3: ``class PPOMultiTask(MultiTaskOnPolicyAlgorithm, PPO)``.

    Such a class has a constructor, which calls :meth:`begin` and :meth:`learn_from` before SB3's, and ``train``, in
    which ``numerics`` evaluates an objective, the sum of some losses, and makes steps along its gradient.
    """

    distils: ClassVar[bool] = True  # has `teachers`
    weighs_tasks: ClassVar[bool] = True  # its updates multiply the losses by `loss_weights`
    normalizes_values: ClassVar[bool] = True  # `numerics` evaluates its losses, and knows `value_norm` and combiners
    needs_log_probs: ClassVar[bool] = False  # of the actions when the rollout was collected
    torch_threads: int = 1  # of torch and of numpy's products while it trains; the physics has its own
    logs_tasks: ClassVar[bool] = True  # each task's episodes, and the last update
    live_settings: ClassVar[tuple[str, ...]] = ("gamma", "gae_lambda")
    default_buffer_class: ClassVar[type[TaskRolloutBuffer]] = TaskRolloutBuffer
    policy: MultiTaskActorCriticPolicy

    def begin(
        self,
        task_schedule: TaskScheduleLike,
        engine: EngineName,
        n_steps: int,
        task_weights: TaskWeights | None = None,
        gradient_combiner: GradientCombiner | None = None,
        conflict_freq: int = 0,
    ) -> None:
        """Set what a model has beside SB3's attributes; before SB3's constructor.

        :raises TypeError: if ``n_steps`` is no whole number, ``task_schedule`` a class or a mapping, or
            ``gradient_combiner`` of another type
        :raises ValueError: on another schedule, engine or combiner, or rollouts without a step
        :raises ImportError: if what a combiner needs is not installed
        """
        check_task_schedule(task_schedule)
        check_choices(engine=(engine, EngineName))
        check_counts(n_steps=n_steps)
        check_gradient_combiner(gradient_combiner, conflict_freq)
        self._begin_with_tasks()
        self.task_schedule: TaskScheduleLike = task_schedule
        self.schedule_state: dict[str, Any] | None = None  # of a file: settings and state of its schedule
        self._schedule: TaskSchedule | None = None  # the model's own copy, which `task_schedule` then is
        self._schedule_of_env: Any = None  # the `task_schedule` with which the env was set
        self.engine: EngineName = engine
        self.task_weights: TaskWeights | None = task_weights
        self.gradient_combiner: GradientCombiner | None = gradient_combiner
        self.conflict_freq = conflict_freq
        self.combiner_state: dict[str, Any] | None = None  # of a file: settings and state of its combiners
        self.combining: GradientCombining | None = None
        self._combining_of: tuple[Any, ...] | None = None  # for which settings it was made
        self._numerics: Engine | None = None
        self._last_engine_message = ""
        self.task_ep_info_buffers: dict[str, deque[dict[str, Any]]] = {}

    def learn_from(
        self,
        teachers: Mapping[str, TeacherLike] | None = None,
        distill_loss: DistillLoss = "forward_kl",
        distill_coef: Coefficient = 1.0,
        rl_coef: Coefficient | None = None,
        critic_coef: Coefficient | None = None,
        student_rollout_prob: Coefficient = 1.0,
    ) -> None:
        """Set how the model learns from teachers; before SB3's constructor.

        :raises ValueError: on settings of distillation without teachers
        """
        self.distill_loss: DistillLoss = distill_loss
        self.distill_coef, self.rl_coef, self.critic_coef = distill_coef, rl_coef, critic_coef
        self.student_rollout_prob = student_rollout_prob
        self._distillation: DistillationSettings | None = None
        if not teachers:
            self.distillation.check_without_teachers()
        self.teachers: Mapping[str, TeacherLike] | Teachers | None = teachers  # resolved when the env is known
        self.is_taught = bool(teachers)
        self._teaching: TeachersInEnv | None = None

    def _setup_model(self) -> None:
        self._check_schedule()
        check_choices(engine=(self.engine, EngineName))
        check_counts(n_steps=self.n_steps)
        check_number_or_schedule("learning_rate", self.learning_rate)
        checked_weights(self.task_weights, None)
        check_gradient_combiner(self.gradient_combiner, self.conflict_freq, from_file=True)
        _ = self.distillation  # checked
        if self.rollout_buffer_class in (None, DictRolloutBuffer):  # what SB3 takes by itself
            self.rollout_buffer_class = self.default_buffer_class
        check_names(self.policy_kwargs, self.policy_class)
        super()._setup_model()
        self._take_value_statistics()
        _ = self.loss_weights
        check_shares(self)
        if isinstance(self.teachers, Mapping):
            self._take_teachers(self.teachers)
        elif not (self.teachers is None or isinstance(self.teachers, Teachers)):
            raise TypeError(f"`teachers` must map tasks to teachers (got {self.teachers!r:.100})")

    def _check_schedule(self) -> None:
        check_task_schedule(self.task_schedule, from_file=True)
        weighs = self.weighs_tasks and not trains_as_sb3(self)
        check_weights_are_used(self.task_schedule, type(self).__name__, weighs_tasks=weighs)

    def _take_value_statistics(self) -> None:
        """Undertake to update the statistics of the policy's ``value_norm``, if it has some.

        :raises ValueError: if the algorithm's update is of values that are not normalised
        """
        if (statistics := self.policy.value_statistics) is None:
            return
        if not self.normalizes_values or trains_as_sb3(self):
            raise ValueError(
                f"`policy_kwargs` has value_norm={self.policy.value_norm!r}, and {type(self).__name__} learns values "
                "that are not normalised: use A2CMultiTask or PPOMultiTask, or leave it out"
            )
        statistics.are_updated = True

    def _take_teachers(self, teachers: Mapping[str, TeacherLike]) -> None:
        self.is_taught, self.teachers, self._teaching = bool(teachers), None, None
        if not teachers:
            return
        self.distillation.check_teachers_teach()
        check_learns_from_teachers(self)
        self._check_buffer("hold what teachers would do")
        if self.task_names is None:
            raise ValueError("`teachers` need an env, whose tasks they teach: pass `env` too")
        sizes = TaskSizes.of(self.observation_space, self.action_space)
        self.teachers = Teachers(teachers, self.task_names, sizes)
        self._teaching = TeachersInEnv(self.teachers)

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
        if (not self.normalizes_values or trains_as_sb3(self)) and (self.gradient_combiner or self.conflict_freq):
            raise ValueError(
                f"The train() of {type(self).__name__} ignores "
                f"`{'gradient_combiner' if self.gradient_combiner else 'conflict_freq'}`: leave it out"
            )
        self.combining = begun_combining(self)
        self._combining_of = settings

    # Rollouts

    @property
    def numerics(self) -> Engine:
        """The engine that ``learn`` has chosen; torch's before it."""
        self._numerics = self._numerics or TorchEngine(self)
        return self._numerics

    def _choose_engine(self) -> None:
        """Take the engine that was asked for, and print it once, with the backend that runs the environments.

        :raises ValueError: if ``engine="fast"`` does not apply; says why
        """
        reason = why_torch(self, self.engine)
        self._numerics = FastEngine(self) if reason is None else TorchEngine(self)
        self.last_engine = self._numerics.name
        message = "Using the fast engine" if reason is None else f"Using the torch engine ({reason})"
        message += backend_message(self.env)
        if self.verbose >= 1 and message != self._last_engine_message:
            print(message)  # noqa: T201
        self._last_engine_message = message
        if self.verbose >= 1 and reason is None and compiles_first():
            print(COMPILING)  # noqa: T201

    def compiles_first(self) -> bool:
        """Whether ``learn`` would compile kernels first, which takes about ten seconds, once."""
        return why_torch(self, self.engine) is None and compiles_first()

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """SB3's, by the engine; with teachers, which may act, what they would have done goes into the buffer."""
        if self._teaching is None:
            is_whole = self.numerics.collect(env, callback, rollout_buffer, n_rollout_steps)
        else:
            with self._teaching.in_env(env, callback, rollout_buffer, self) as with_teachers:
                is_whole = self.numerics.collect(*with_teachers, rollout_buffer, n_rollout_steps)
        # A rollout by teachers says nothing of the student's returns.
        if is_whole and self.policy.value_statistics is not None and not self.rollout_by_teacher:
            self.numerics.update_value_statistics(rollout_buffer)
        if self.combining is not None and self.conflict_freq:
            n_rollouts = self.num_timesteps // (n_rollout_steps * env.num_envs)
            if n_rollouts % self.conflict_freq == 0:
                self.combining.measure_next()
        return is_whole

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
        self._show_next_task()

    def _show_next_task(self) -> None:
        if one_task_at_a_time(self.task_schedule):
            env: Any = self.env
            self._last_obs = env.next_task(None if self._schedule is None else self._schedule.next_task())
            self._last_episode_starts = env.episode_starts

    def _check_buffer(self, purpose: str) -> TaskRolloutBuffer:
        if not isinstance(self.rollout_buffer, TaskRolloutBuffer):
            raise ValueError(
                f"`rollout_buffer_class` is {type(self.rollout_buffer).__name__}, which cannot {purpose}: derive it "
                "from sb3_multitask.algorithms.rollout_buffer.TaskRolloutBuffer"
            )
        return self.rollout_buffer

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: np.ndarray | None = None) -> None:
        for i in [] if dones is None else ended_rows(dones, infos):
            if is_fault(infos[i]):
                self._check_buffer("leave out quarantined steps").note_fault(self.rollout_buffer.pos, i)
        self.note_episodes(infos, dones)

    def note_episodes(self, infos: list[dict[str, Any]], dones: np.ndarray | None) -> None:
        """Take the episodes that ended in a step into SB3's buffers and those of their tasks."""
        super()._update_info_buffer(infos, dones)
        for info in infos:
            if "episode" in info and "task" in info:
                episode = task_logs.episode_of(info)
                self.task_ep_info_buffers[info["task"]].append(episode)
                if self._schedule is not None:
                    task = self._schedule.task_names.index(info["task"])
                    self._schedule.note_episode(task, episode["r"], episode.get("success"))

    # Objectives

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

    @property
    def distillation(self) -> DistillationSettings:
        """How the model learns from teachers, as its attributes say now."""
        given = (self.distill_loss, self.distill_coef, self.rl_coef, self.critic_coef, self.student_rollout_prob)
        if self._distillation is None or self._distillation.given != given:
            self._distillation = DistillationSettings(*given)
        return self._distillation

    @property
    def rollout_by_teacher(self) -> bool:
        """Whether the actions of the latest rollout were the teachers'."""
        return self._teaching is not None and self._teaching.teachers_act

    def coefficients(self) -> Coefficients:
        """Weights of RL, of the critic and of distillation in this update."""
        progress = self._current_progress_remaining
        return self.distillation.at(progress, self._teaching is not None, self.rollout_by_teacher)

    def with_teachers(self, loss: Loss, distill_coef: float) -> Sequence[Loss]:
        """The objective: a loss, and with teachers ``distill_coef`` times the distance from them."""
        return [loss] if self._teaching is None else [loss, DistillationLoss(self.distill_loss, distill_coef)]

    def refuse_update(self, evaluation: Evaluation) -> Never:
        """Report whose loss is not finite; the weights are still as they were.

        :raises RuntimeError: always
        """
        task_logs.refuse_update(self.task_names or (), evaluation)

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        """SB3's, but within [0, 1] in the last update too: see :mod:`sb3_multitask.losses.schedules`."""
        super()._update_current_progress_remaining(num_timesteps, total_timesteps)
        self._current_progress_remaining = in_range(self._current_progress_remaining)

    # Training and its log

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 100,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train; SB3's arguments and behaviour, but that the log of the last update is written too.

        :param total_timesteps: environment steps over all tasks, a lower bound: training ends after a whole
            rollout, in "cycle" (but no other schedule) after a whole cycle of tasks
        :param log_interval: updates between two lines of the log; ``None``: no lines
        :param tb_log_name: of TensorBoard's folder; ``None``: the algorithm's name
        :raises ValueError: if the model has no env, or lacks the teachers or the schedule with which it learned
        """
        check_has_schedule(type(self).__name__, self.task_schedule)
        check_has_combiner(type(self).__name__, self.gradient_combiner)
        check_can_learn(type(self).__name__, self.env, needs_teachers=self.is_taught and self.teachers is None)
        check_is_the_envs(type(self).__name__, self.task_schedule, self._schedule_of_env)
        self._begin_combining()
        check_shares(self)
        self._choose_engine()
        name = tb_log_name or type(self).__name__
        with threads_for_arrays(self.torch_threads):
            super().learn(total_timesteps, callback, log_interval, name, reset_num_timesteps, progress_bar)
        if log_interval is not None:
            task_logs.log_last_update(self)
        return self

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        if reset_num_timesteps or not self.task_ep_info_buffers:
            self.task_ep_info_buffers = {name: deque(maxlen=self._stats_window_size) for name in self.task_names or ()}
        resets = reset_num_timesteps or self._last_obs is None  # as SB3
        total_timesteps, callback_object = super()._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        if resets and self._schedule is not None:  # the reset has shown the first task
            self._show_next_task()
        task_logs.make_room_for_tasks(self.logger, self.task_names or (), shorten=not self._custom_logger)
        if self.task_schedule == "cycle":  # every task has its turn
            env: Any = self.env
            rollout = self.n_steps * self.n_envs
            n_rollouts = env.to_whole_cycles(-(-max(total_timesteps - self.num_timesteps, 0) // rollout))
            total_timesteps = self._total_timesteps = self.num_timesteps + n_rollouts * rollout
        return total_timesteps, callback_object

    def log_update(self, evaluation: Evaluation) -> None:
        """Record the terms of an update: of all rows, and of each task that took part."""
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        buffer, names = self.rollout_buffer, self.task_names or ()
        explained = task_logs.explained_variance(buffer.values, buffer.returns)
        others = {"train/explained_variance": explained, **task_logs.stds(names, self.policy)}
        task_logs.log_evaluation(self.logger, names, evaluation, others)

    def dump_logs(self, iteration: int = 0) -> None:
        """Write the log: SB3's keys, returns and lengths of each task's latest episodes, and how many faults it had.

        SB3's ``rollout/ep_rew_mean`` is of the latest episodes in the order of the environments, which would be the
        last tasks' alone where there are many of them. Here it, ``ep_len_mean`` and ``success_rate`` are means over
        the tasks of their own means.
        """
        for name, count in getattr(self.env.unwrapped if self.env else None, "fault_counts", {}).items():
            if count:
                self.logger.record(f"faults/{name}", count)
        if self._schedule is not None:
            log_schedule(self.logger, self._schedule)
        means = task_logs.log_episodes(self.logger, self.task_ep_info_buffers)
        with task_logs.episodes_replaced(self, means):
            super().dump_logs(iteration)

    # Files and state

    def _excluded_save_params(self) -> list[str]:
        ours = ["_numerics", "_last_engine_message", "teachers", "_teaching", "_distillation", "_schedule"]
        ours += ["combining", "_combining_of", "_schedule_of_env"]
        if self.rollout_buffer_class is self.default_buffer_class:  # which it is by itself
            ours.append("rollout_buffer_class")
        return [*super()._excluded_save_params(), *ours]

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
        names = ("n_steps", *self.live_settings, "distill_loss")
        schedule, weights = self.task_schedule, checked_weights(self.task_weights, self.task_names)
        combiners = {} if self.combining is None else self.combining.settings()
        return {
            **super().settings(),
            "task_schedule": schedule.settings() if isinstance(schedule, TaskSchedule) else schedule,
            "task_weights": {} if weights is None else dict(zip(self.task_names or (), weights.tolist(), strict=True)),
            **({COMBINER: combiners} if combiners else {}),
            **{name: getattr(self, name) for name in names},
            **{name: number_or_schedule(getattr(self, name)) for name in _COEFFICIENTS},
            "teachers": self.teachers.digests if isinstance(self.teachers, Teachers) else {},
        }
