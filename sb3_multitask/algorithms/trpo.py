"""TRPO for several tasks: sb3-contrib's, with tasks, statistics, exact resume and a log of every task."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, ClassVar, Self

import torch as th
from sb3_contrib import TRPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from torch import nn

from sb3_multitask.algorithms.env_checks import check_batch_size, check_counts, check_positive, check_sub_sampling
from sb3_multitask.algorithms.on_policy import MultiTaskOnPolicyAlgorithm
from sb3_multitask.algorithms.rollout_buffer import KeptRowsRolloutBuffer, TaskRolloutBuffer, present_tasks
from sb3_multitask.algorithms.task_logs import log_explained_variance, log_std
from sb3_multitask.policies.devices import device_of
from sb3_multitask.policies.task_steps import absent_heads_kept
from sb3_multitask.tasks import TasksLike
from sb3_multitask.vec_env.layers import TaskScheduleLike


class TRPOMultiTask(MultiTaskOnPolicyAlgorithm, TRPO):
    """Trust region policy optimisation on several tasks at once.

    All arguments of sb3-contrib's TRPO, with its defaults, and ``task_schedule``; see :class:`A2CMultiTask` for it, and
    for ``policy``, ``env`` and ``device``. The update is sb3-contrib's, by torch. In "cycle" heads of waiting tasks
    and their optimizer state stay as they are. There are no teachers, no weights of tasks and no ``value_norm``.

    :raises ValueError: as :class:`A2CMultiTask`; on a schedule in mode "weights"; on a ``sub_sampling_factor`` other
        than 1, with which sb3-contrib's update fails on observations that are dicts
    """

    distils: ClassVar[bool] = False
    weighs_tasks: ClassVar[bool] = False
    has_numerics: ClassVar[bool] = False
    task_terms: ClassVar[tuple[str, ...]] = ("explained_variance",)
    live_settings = (*MultiTaskOnPolicyAlgorithm.live_settings, "target_kl")
    default_buffer_class = KeptRowsRolloutBuffer

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | TasksLike | None,
        learning_rate: float | Schedule = 1e-3,
        n_steps: int = 2048,
        batch_size: int = 128,
        gamma: float = 0.99,
        cg_max_steps: int = 15,
        cg_damping: float = 0.1,
        line_search_shrinking_factor: float = 0.8,
        line_search_max_iter: int = 10,
        n_critic_updates: int = 10,
        gae_lambda: float = 0.95,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        normalize_advantage: bool = True,
        target_kl: float = 0.01,
        sub_sampling_factor: int = 1,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        task_schedule: TaskScheduleLike = "joint",
        _init_setup_model: bool = True,
    ) -> None:
        check_batch_size(batch_size, normalize_advantage)  # which sb3-contrib asserts before `_setup_model`
        check_sub_sampling(sub_sampling_factor)
        self.begin(task_schedule, "torch", n_steps)
        self.learn_from()
        super().__init__(
            policy,
            self._env_of(env, gamma),
            learning_rate=learning_rate,
            n_steps=n_steps,
            batch_size=batch_size,
            gamma=gamma,
            cg_max_steps=cg_max_steps,
            cg_damping=cg_damping,
            line_search_shrinking_factor=line_search_shrinking_factor,
            line_search_max_iter=line_search_max_iter,
            n_critic_updates=n_critic_updates,
            gae_lambda=gae_lambda,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=copy.deepcopy(rollout_buffer_kwargs),
            normalize_advantage=normalize_advantage,
            target_kl=target_kl,
            sub_sampling_factor=sub_sampling_factor,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=copy.deepcopy(policy_kwargs),
            verbose=verbose,
            seed=seed,
            device=device_of(device),
            _init_setup_model=_init_setup_model,
        )

    def _setup_model(self) -> None:
        """Check the arguments, also those that ``load`` was given."""
        check_counts(n_critic_updates=self.n_critic_updates)
        check_batch_size(self.batch_size, self.normalize_advantage)
        check_positive(target_kl=self.target_kl)
        check_sub_sampling(self.sub_sampling_factor)
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
        names = (
            *("batch_size", "cg_max_steps", "cg_damping", "line_search_shrinking_factor", "line_search_max_iter"),
            *("n_critic_updates", "normalize_advantage"),
        )
        return {**super().settings(), **{name: getattr(self, name) for name in names}}

    def _compute_actor_grad(
        self, kl_div: th.Tensor, policy_objective: th.Tensor
    ) -> tuple[list[nn.Parameter], th.Tensor, th.Tensor, list[tuple[int, ...]]]:
        """sb3-contrib's, but that it leaves out parameters that are frozen, on which that one fails."""
        actor: list[nn.Parameter] = []
        of_kl: list[th.Tensor] = []
        of_objective: list[th.Tensor] = []
        for name, parameter in self.policy.named_parameters():
            if "value" in name or not parameter.requires_grad:
                continue
            (gradient,) = th.autograd.grad(kl_div, parameter, create_graph=True, allow_unused=True)
            if gradient is None:  # it has no part in the actions
                continue
            actor.append(parameter)
            of_kl.append(gradient)
            of_objective += th.autograd.grad(policy_objective, parameter, retain_graph=True)
        shapes: list[tuple[int, ...]] = [gradient.shape for gradient in of_kl]
        return actor, _flat(of_objective), _flat(of_kl), shapes

    def train(self) -> None:
        """sb3-contrib's step on the rollout: all tasks' rows in "joint", the active task's in "cycle"."""
        buffer, names = self.rollout_buffer, self.task_names or ()
        keep = buffer.keep if isinstance(buffer, TaskRolloutBuffer) else None
        present = present_tasks(buffer, keep, self.policy.n_tasks)  # type: ignore[arg-type]  # observations are dicts
        if any(present):  # not if every row was quarantined: there is nothing to learn from
            with absent_heads_kept(self.policy, present):
                super().train()
            log_explained_variance(self.logger, names, buffer)
            log_std(self.logger, names, self.policy)
        self.next_task()


def _flat(tensors: Sequence[th.Tensor]) -> th.Tensor:
    return th.cat([tensor.reshape(-1) for tensor in tensors])
