"""PPO for several tasks: one agent, a head per task; from returns, or from teachers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar, Self

import numpy as np
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule

from sb3_multitask.algorithms.engine import EngineName
from sb3_multitask.algorithms.env_checks import check_batch_size, check_counts, check_desired_kl, check_positive
from sb3_multitask.algorithms.model_state import number_or_schedule
from sb3_multitask.algorithms.on_policy import MultiTaskOnPolicyAlgorithm
from sb3_multitask.algorithms.task_logs import UpdateLog, log_explained_variance, log_std
from sb3_multitask.algorithms.task_weights import TaskWeights
from sb3_multitask.combiners import GradientCombiner
from sb3_multitask.distillation.settings import Coefficient
from sb3_multitask.distillation.sources import TeacherLike
from sb3_multitask.losses import DistillLoss, Distral, PPOLoss, PPOTerms
from sb3_multitask.losses.schedules import check_number_or_schedule
from sb3_multitask.policies.devices import device_of
from sb3_multitask.policies.task_steps import actor_held
from sb3_multitask.tasks import TasksLike
from sb3_multitask.vec_env.layers import TaskScheduleLike

_LEAST_AND_MOST_RATE = (1e-5, 1e-2)  # rsl_rl's bounds of the learning rate


class PPOMultiTask(MultiTaskOnPolicyAlgorithm, PPO):
    """Proximal policy optimisation on several tasks at once, or the distillation of teachers into one agent.

    All arguments of SB3's PPO, with its defaults, and those below, which are :class:`A2CMultiTask`'s: see there for
    ``policy``, ``env``, ``device``, ``task_schedule``, ``engine`` and those of distillation. With
    ``task_schedule="joint"`` and ``engine="torch"`` the updates are those of SB3's own PPO on the same VecEnv, bit for
    bit.

    With ``teachers`` the loss is ``rl_coef * (clipped policy loss + ent_coef * entropy loss) + critic_coef * vf_coef *
    value loss + distill_coef * distillation loss``; by default the last term alone. Rollouts in which the teachers act
    never enter the first two terms, so ratios are of the student's own actions.

    :param distill_features: see :class:`A2CMultiTask`
    :param task_weights: see :class:`A2CMultiTask`
    :param gradient_combiner: see :class:`A2CMultiTask`; the gradients of each minibatch are combined
    :param conflict_freq: see :class:`A2CMultiTask`
    :param distral: see :class:`A2CMultiTask`; rewards are regularised with the policies that collected the rollout, and
        the shared policy learns in every minibatch
    :param desired_kl: ``None``: the learning rate is ``learning_rate``. Else it follows the measured KL divergence of
        each minibatch from the policy that collected the rollout, beginning with ``learning_rate``: it is divided by
        1.5 where that is above twice ``desired_kl``, and multiplied by 1.5 where it is below half of it, within [1e-5,
        1e-2] (rsl_rl's "adaptive" schedule, Rudin et al. 2022; rl_games has it too)
    :raises ValueError: as :class:`A2CMultiTask`; on a ``desired_kl`` that is not positive, or beside ``target_kl`` or a
        schedule of the learning rate
    """

    needs_log_probs = True
    task_terms: ClassVar[tuple[str, ...]] = (*PPOTerms._fields, "explained_variance")
    live_settings = (*MultiTaskOnPolicyAlgorithm.live_settings, "ent_coef", "vf_coef", "max_grad_norm")

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | TasksLike | None,
        learning_rate: float | Schedule = 3e-4,
        n_steps: int = 2048,
        batch_size: int = 64,
        n_epochs: int = 10,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float | Schedule = 0.2,
        clip_range_vf: float | Schedule | None = None,
        normalize_advantage: bool = True,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        target_kl: float | None = None,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        desired_kl: float | None = None,
        task_schedule: TaskScheduleLike = "joint",
        engine: EngineName = "auto",
        teachers: Mapping[str, TeacherLike] | None = None,
        distill_loss: DistillLoss = "forward_kl",
        distill_coef: Coefficient = 1.0,
        rl_coef: Coefficient | None = None,
        critic_coef: Coefficient | None = None,
        student_rollout_prob: Coefficient = 1.0,
        task_weights: TaskWeights | None = None,
        gradient_combiner: GradientCombiner | None = None,
        conflict_freq: int = 0,
        distill_features: Coefficient = 0.0,
        distral: Distral | Mapping[str, Any] | None = None,
        _init_setup_model: bool = True,
    ) -> None:
        check_batch_size(batch_size, normalize_advantage)  # which SB3 asserts before `_setup_model`
        self.desired_kl = desired_kl
        self.begin(task_schedule, engine, n_steps, task_weights, gradient_combiner, conflict_freq)
        distillation = (distill_loss, distill_coef, rl_coef, critic_coef, student_rollout_prob, distill_features)
        self.learn_from(teachers, *distillation)
        self.share_policy(distral)
        super().__init__(
            policy,
            self._env_of(env, gamma),
            learning_rate=learning_rate,
            n_steps=n_steps,
            batch_size=batch_size,
            n_epochs=n_epochs,
            gamma=gamma,
            gae_lambda=gae_lambda,
            clip_range=clip_range,
            clip_range_vf=clip_range_vf,
            normalize_advantage=normalize_advantage,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=copy.deepcopy(rollout_buffer_kwargs),
            target_kl=target_kl,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=copy.deepcopy(policy_kwargs),
            verbose=verbose,
            seed=seed,
            device=device_of(device),
            _init_setup_model=_init_setup_model,
        )

    def _setup_model(self) -> None:
        """Check the arguments, also those that ``load`` was given, before SB3 asserts some of them."""
        check_counts(n_epochs=self.n_epochs)
        check_batch_size(self.batch_size, self.normalize_advantage)
        check_number_or_schedule("clip_range", self.clip_range)
        if self.clip_range_vf is not None:
            check_number_or_schedule("clip_range_vf", self.clip_range_vf, positive=True)
        if self.target_kl is not None:
            check_positive(target_kl=self.target_kl)
        check_desired_kl(self.desired_kl, self.target_kl, self.learning_rate)
        super()._setup_model()

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train, as :meth:`A2CMultiTask.learn`; there is a line of the log for every update, as in SB3."""
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def settings(self) -> dict[str, Any]:
        names = ("batch_size", "n_epochs", "normalize_advantage", "target_kl", "desired_kl")
        clip = {name: number_or_schedule(getattr(self, name)) for name in ("clip_range", "clip_range_vf")}
        return {**super().settings(), **{name: getattr(self, name) for name in names}, **clip}

    def train(self) -> None:
        """Several epochs of minibatches of the rollout: all tasks' rows in "joint", the active task's in "cycle"."""
        if self.desired_kl is None:
            self._update_learning_rate(self.policy.optimizer)
        coef, progress = self.coefficients(), self._current_progress_remaining  # coef: 1, 1 and 0 without teachers
        clip_range: Any = self.clip_range
        clip_range_vf: Any = self.clip_range_vf
        loss = PPOLoss(
            clip_range(progress),
            None if clip_range_vf is None else clip_range_vf(progress),
            coef.rl,
            self.ent_coef,
            coef.critic * self.vf_coef,
        )
        objective, log = [*self.with_teachers(loss, coef.distill), *self.shared_losses(coef.rl)], UpdateLog()
        moves_actor = self.moves_actor
        with actor_held(self.policy, when=not moves_actor):
            self._train_epochs(objective, log, self.desired_kl if moves_actor else None)
        self._log_epochs(log, loss)
        self.next_task()

    def _train_epochs(self, objective: Any, log: UpdateLog, desired_kl: float | None) -> None:
        """Pass ``n_epochs`` times over the rollout, or until the policy is farther than ``target_kl`` from its own."""
        for epoch in range(self.n_epochs):
            log.begin_epoch()
            is_close = self._train_epoch(objective, log, desired_kl)
            self._n_updates += 1
            if not is_close:
                if self.verbose >= 1:
                    print(f"Early stopping at step {epoch} due to reaching max kl: {log.last_kl:.2f}")  # noqa: T201
                break

    def _train_epoch(self, objective: Any, log: UpdateLog, desired_kl: float | None) -> bool:
        """One pass over the rollout.

        :param desired_kl: what the learning rate follows; ``None`` if nothing, as while the actor is held
        :return: whether the policy is still within ``target_kl`` of the one that collected it
        """
        for batch in self.numerics.batches(self.rollout_buffer, self.batch_size, self.normalize_advantage):
            evaluation = self.numerics.evaluate(objective, batch)
            log.add(evaluation)
            # SB3 compares in float32, whose rounding decides at the boundary.
            if self.target_kl is not None and np.float32(log.last_kl) > 1.5 * self.target_kl:
                return False
            if desired_kl is not None:
                self._follow_kl(log.last_kl, desired_kl)
            if not self.numerics.step(self.max_grad_norm):
                self.refuse_update(evaluation)
        return True

    def _follow_kl(self, kl: float, desired: float) -> None:
        """Adapt the learning rate to a measured divergence."""
        least, most = _LEAST_AND_MOST_RATE
        group = self.policy.optimizer.param_groups[0]
        if kl > 2 * desired:
            group["lr"] = max(least, group["lr"] / 1.5)
        elif kl < desired / 2:
            group["lr"] = min(most, group["lr"] * 1.5)

    def _log_epochs(self, log: UpdateLog, loss: PPOLoss) -> None:
        """Record what SB3's PPO records, and the same of each task."""
        names, logger = self.task_names or (), self.logger
        log.record(logger, names)
        log_explained_variance(logger, names, self.rollout_buffer)
        log_std(logger, names, self.policy)
        logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        logger.record("train/learning_rate", self.policy.optimizer.param_groups[0]["lr"])
        logger.record("train/clip_range", loss.clip_range)
        if loss.clip_range_vf is not None:
            logger.record("train/clip_range_vf", loss.clip_range_vf)
