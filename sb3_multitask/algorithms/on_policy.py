"""What on-policy algorithms on several tasks share: engines, rollouts, objectives, and logs of each task."""

from __future__ import annotations

from collections import deque
from typing import Any, ClassVar, Never, Self

import numpy as np
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.type_aliases import MaybeCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_multitask.algorithms import task_logs
from sb3_multitask.algorithms.balanced import BalancedAlgorithm
from sb3_multitask.algorithms.distral import DistralAlgorithm
from sb3_multitask.algorithms.engine import Engine, EngineName, TorchEngine, trains_as_sb3, why_torch
from sb3_multitask.algorithms.env_checks import backend_message, check_can_learn, check_choices, check_counts
from sb3_multitask.algorithms.rollout_buffer import TaskRolloutBuffer, task_buffer
from sb3_multitask.algorithms.task_weights import TaskWeights
from sb3_multitask.algorithms.taught import TaughtAlgorithm
from sb3_multitask.combiners import GradientCombiner
from sb3_multitask.fast import FastEngine
from sb3_multitask.losses import Evaluation
from sb3_multitask.losses.schedules import check_number_or_schedule, in_range
from sb3_multitask.policies import MultiTaskActorCriticPolicy
from sb3_multitask.policies.arguments import check_names
from sb3_multitask.process.kernels import COMPILING, compiles_first
from sb3_multitask.process.threads import threads_for_arrays
from sb3_multitask.vec_env.faults import is_fault
from sb3_multitask.vec_env.infos import ended_rows
from sb3_multitask.vec_env.layers import TaskScheduleLike


class MultiTaskOnPolicyAlgorithm(TaughtAlgorithm, DistralAlgorithm, BalancedAlgorithm):
    """Stands before an on-policy algorithm of SB3: ``class PPOMultiTask(MultiTaskOnPolicyAlgorithm, PPO)``.

    Such a class has a constructor, which calls :meth:`begin` and :meth:`learn_from` before SB3's, and ``train``, in
    which ``numerics`` evaluates an objective, the sum of some losses, and makes steps along its gradient.
    """

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

        :raises TypeError: if ``n_steps`` is no whole number, and as ``balance_tasks``
        :raises ValueError: on another engine or rollouts without a step, and as ``balance_tasks``
        :raises ImportError: as ``balance_tasks``
        """
        check_choices(engine=(engine, EngineName))
        check_counts(n_steps=n_steps)
        self._begin_with_tasks()
        self.balance_tasks(task_schedule, task_weights, gradient_combiner, conflict_freq)
        self.engine: EngineName = engine
        self._numerics: Engine | None = None
        self._last_engine_message = ""
        self.task_ep_info_buffers: dict[str, deque[dict[str, Any]]] = {}

    def _setup_model(self) -> None:
        check_choices(engine=(self.engine, EngineName))
        check_counts(n_steps=self.n_steps)
        check_number_or_schedule("learning_rate", self.learning_rate)
        if self.rollout_buffer_class in (None, DictRolloutBuffer):  # what SB3 takes by itself
            self.rollout_buffer_class = self.default_buffer_class
        check_names(self.policy_kwargs, self.policy_class)
        super()._setup_model()
        self._take_value_statistics()

    def _take_value_statistics(self) -> None:
        """Undertake to update the statistics of the policy's ``value_norm``, if it has some.

        :raises ValueError: if the algorithm's update is of values that are not normalised
        """
        if (statistics := self.policy.value_statistics) is None:
            return
        if not self.has_numerics or trains_as_sb3(self):
            raise ValueError(
                f"`policy_kwargs` has value_norm={self.policy.value_norm!r}, and {type(self).__name__} learns values "
                "that are not normalised: use A2CMultiTask or PPOMultiTask, or leave it out"
            )
        statistics.are_updated = True

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
        if is_whole and self.distral is not None:
            self.regularize_rewards(rollout_buffer)
        # A rollout by teachers says nothing of the student's returns.
        if is_whole and self.policy.value_statistics is not None and not self.rollout_by_teacher:
            self.numerics.update_value_statistics(rollout_buffer)
        self._measure_conflicts_if_due(n_rollout_steps * env.num_envs)
        return is_whole

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: np.ndarray | None = None) -> None:
        for i in [] if dones is None else ended_rows(dones, infos):
            if is_fault(infos[i]):
                task_buffer(self.rollout_buffer, "leave out quarantined steps").note_fault(self.rollout_buffer.pos, i)
        self.note_episodes(infos, dones)

    def note_episodes(self, infos: list[dict[str, Any]], dones: np.ndarray | None) -> None:
        """Take the episodes that ended in a step into SB3's buffers and those of their tasks."""
        super()._update_info_buffer(infos, dones)
        for info in infos:
            if "episode" in info and "task" in info:
                episode = task_logs.episode_of(info)
                self.task_ep_info_buffers[info["task"]].append(episode)
                if self._schedule is not None and not self.rollout_by_teacher:
                    task = self._schedule.task_names.index(info["task"])
                    self._schedule.note_episode(task, episode["r"], episode.get("success"))

    # Objectives

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
        :raises ValueError: if the model has no env, lacks the teachers or the schedule with which it learned, or has
            another ``distral`` than its policy was made for
        """
        check_can_learn(type(self).__name__, self.env, needs_teachers=self.is_taught and self.teachers is None)
        self._begin_to_balance()
        self._begin_to_share()
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
        if reset_num_timesteps and self.combining is not None:  # steps are counted from 0 again
            self.combining.measured_at = self.combining.drawn_at = None
        resets = reset_num_timesteps or self._last_obs is None  # as SB3
        self._reset_shows_first_task()
        total_timesteps, callback_object = super()._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        rollout = self.n_steps * self.n_envs
        n_rollouts = -(-max(total_timesteps - self.num_timesteps, 0) // rollout)
        if self._schedule is not None:
            self._schedule.note_training(n_rollouts)
            if resets:  # which has shown the first task
                self._show_next_task()
        task_logs.make_room_for_tasks(self.logger, self.task_names or (), shorten=not self._custom_logger)
        if self.task_schedule == "cycle":  # every task has its turn
            env: Any = self.env
            n_rollouts = env.to_whole_cycles(n_rollouts)
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
        self.log_balance()
        means = task_logs.log_episodes(self.logger, self.task_ep_info_buffers)
        with task_logs.episodes_replaced(self, means):
            super().dump_logs(iteration)

    # Files and state

    def _excluded_save_params(self) -> list[str]:
        ours = ["_numerics", "_last_engine_message"]
        if self.rollout_buffer_class is self.default_buffer_class:  # which it is by itself
            ours.append("rollout_buffer_class")
        return [*super()._excluded_save_params(), *ours]

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), **{name: getattr(self, name) for name in ("n_steps", *self.live_settings)}}
