"""How a model learns with a policy that all tasks share: Distral, see :mod:`sb3_multitask.losses.distral`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_multitask.agents import SHARED
from sb3_multitask.algorithms.engine import trains_as_sb3
from sb3_multitask.algorithms.multitask_algorithm import MultiTaskAlgorithm
from sb3_multitask.algorithms.rollout_buffer import TaskRolloutBuffer, task_buffer
from sb3_multitask.losses import Distral, DistralLoss, Loss
from sb3_multitask.losses.distral import make_distral
from sb3_multitask.policies import MultiTaskActorCriticPolicy
from sb3_multitask.vec_env.layers import task_names_of

_ROWS_AT_ONCE = 8192
"""Of so many rows the log-probabilities are computed at once, which bounds the memory."""


class DistralAlgorithm(MultiTaskAlgorithm, OnPolicyAlgorithm):
    """The part of an on-policy algorithm that has ``distral``."""

    distral: Distral | None = None
    policy: MultiTaskActorCriticPolicy

    def share_policy(self, distral: Distral | Mapping[str, Any] | None) -> None:
        """Set what the tasks' policies are regularised towards; before SB3's constructor.

        :raises TypeError: on another type, or unknown or missing arguments
        :raises ValueError: as ``Distral``
        """
        self.distral = make_distral(distral)

    def _setup_model(self) -> None:
        given = self.policy_kwargs.get("shared_policy")  # as a file has it
        self._take_distral(given)  # also what `load` was given
        if self.distral is not None and given is None:
            self.policy_kwargs = {**self.policy_kwargs, "shared_policy": self.distral.shared_power}
        super()._setup_model()
        self.policy.shared_policy_learns = self.distral is not None
        if self.distral is not None:
            task_buffer(self.rollout_buffer, "hold regularised rewards")

    def _begin_to_share(self) -> None:
        """Take ``distral`` as it is now; ``learn`` begins with it, and each rollout.

        :raises TypeError: as ``make_distral``
        :raises ValueError: if it does not go with the policy, which was made with another one or without
        """
        power = self.policy.shared_policy
        if self.distral is not None and power is None:
            raise ValueError(
                f"`distral` is {self.distral!r:.100} now and was None when the model was made, so that it has no "
                "shared policy: give it to the constructor"
            )
        self._take_distral(power)

    def _take_distral(self, power: Any) -> None:
        """Make an object of ``distral``, and raise unless it goes with the model's other arguments.

        :param power: ``shared_policy`` of the policy's arguments, ``None`` for none yet
        :raises TypeError: as ``make_distral``
        :raises ValueError: names both
        """
        self.distral = make_distral(self.distral)
        if self.distral is not None:
            self._check_distral(power)
        elif power is not None:
            raise ValueError(
                f"`policy_kwargs` has shared_policy={power!r}, and `distral` is None, so nothing would train it: give "
                "`distral`. To continue without a shared policy, transfer what was learned to a model without it"
            )

    def _check_distral(self, given: Any) -> None:
        """Raise unless Distral goes with the model's other arguments.

        :param given: ``shared_policy`` of the policy's arguments, ``None`` for none yet
        :raises ValueError: names both
        """
        assert self.distral is not None
        if given is not None and not self.distral.has_shared_power(given):
            raise ValueError(
                f"`policy_kwargs` has shared_policy={given!r}, with which the model was made, and {self.distral} makes "
                f"it {self.distral.shared_power!r}: keep `form`, and in 2col the ratio of `c_kl` and `c_ent`"
            )
        if getattr(self, "teachers", None):
            raise ValueError(
                "`distral` regularises reinforcement learning, and `teachers` are learned from without it: give one"
            )
        if trains_as_sb3(self):
            raise ValueError(
                f"{type(self).__name__} has SB3's own train(), which ignores `distral`: write one whose objective has "
                "`shared_losses()`"
            )

    def _check_env(self, env: VecEnv, state: dict[str, Any] | None) -> None:
        super()._check_env(env, state)
        if self.distral is not None and SHARED in task_names_of(env):
            raise ValueError(
                f"With `distral` no task may have the name {SHARED!r}, which is the shared policy's: rename the task"
            )

    def regularize_rewards(self, rollout_buffer: RolloutBuffer) -> None:
        """Add the two log terms of eq. (1) to the rewards of a whole rollout, and to its advantages and returns.

        The log-probabilities are those of the policies that collected it. Neither the normaliser nor the episodes'
        returns in the log see these terms, nor do callbacks at the end of a rollout.
        """
        self._begin_to_share()
        assert self.distral is not None
        buffer = task_buffer(rollout_buffer, "hold regularised rewards")
        extra = self.distral.reward(buffer.log_probs, self._shared_log_probs(buffer))
        buffer.add_rewards(extra)
        tasks = buffer.by_step("task")[:, :, 0]
        for task in np.unique(tasks).astype(int).tolist():
            self.logger.record(f"distral/{(self.task_names or ())[task]}/reward", float(extra[tasks == task].mean()))

    def _shared_log_probs(self, buffer: TaskRolloutBuffer) -> np.ndarray:
        """Return log-probabilities of a rollout's actions under the shared policy, (n_steps, n_envs)."""
        columns = {name: buffer.by_step(name) for name in ("obs", "task", "actions")}
        rows = {name: buffer.to_torch(column.reshape(-1, column.shape[2])) for name, column in columns.items()}
        found = []
        self.policy.set_training_mode(False)
        with th.no_grad():
            for start in range(0, len(rows["actions"]), _ROWS_AT_ONCE):
                obs, task, actions = (column[start : start + _ROWS_AT_ONCE] for column in rows.values())
                self.policy.get_distribution({"obs": obs, "task": task})
                found.append(self.policy.shared_dist.log_prob(actions))
        log_probs: np.ndarray = th.cat(found).numpy(force=True)
        return log_probs.reshape(buffer.log_probs.shape)

    def shared_losses(self, rl_coef: float = 1.0) -> Sequence[Loss]:
        """What Distral adds to the objective: the shared policy's maximum likelihood, by ``c_kl``; nothing without it.

        :param rl_coef: weight of reinforcement learning in the update
        """
        return [] if self.distral is None else [DistralLoss(rl_coef * self.distral.c_kl)]

    def settings(self) -> dict[str, Any]:
        settings = super().settings()
        return settings if self.distral is None else {**settings, "distral": self.distral.as_setting()}
