"""The two engines that collect rollouts and compute updates: torch's autograd, or closed forms in numpy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Literal, Protocol, TypeAlias

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_multitask.algorithms.gradient_combiner import combine_by_autograd
from sb3_multitask.algorithms.offline_rows import OfflineRows
from sb3_multitask.algorithms.rollout_buffer import TaskRolloutBuffer, TaskRolloutBufferSamples, present_tasks
from sb3_multitask.fast import why_not_fast
from sb3_multitask.losses import Evaluation, FeatureLoss, Loss, Outputs
from sb3_multitask.losses.loss import terms_of_samples
from sb3_multitask.policies.feature_maps import FeatureMaps
from sb3_multitask.policies.heads import TaskRows
from sb3_multitask.policies.task_steps import step_of_tasks
from sb3_multitask.policies.value_normalization import ValueStatistics

EngineName: TypeAlias = Literal["auto", "fast", "torch"]


class Engine(Protocol):
    """Collects rollouts and updates the policy; ``sb3_multitask.fast.FastEngine`` is one of two."""

    name: str

    def collect(self, env: VecEnv, callback: BaseCallback, rollout_buffer: Any, n_rollout_steps: int) -> bool:
        """SB3's ``collect_rollouts``.

        :return: whether training continues
        """

    def batches(self, rollout_buffer: Any, batch_size: int | None, normalize_advantage: bool) -> Iterator[Any]:
        """The rows of the rollout that are learned from, in minibatches for :meth:`evaluate`.

        :param batch_size: rows of a minibatch; ``None``: all rows in one
        :param normalize_advantage: standardise the advantages of each minibatch, unless it has a single row
        """

    def batch_of(self, rows: OfflineRows, places: np.ndarray) -> Any:
        """Some rows of a dataset, of all tasks, in place of a rollout's; for :meth:`evaluate`.

        :param places: which, (n,)
        """

    def evaluate(self, objective: Sequence[Loss], batch: Any) -> Evaluation:
        """Compute an objective, the sum of some losses, and its gradient; the next :meth:`step` takes it."""

    def update_value_statistics(self, rollout_buffer: Any) -> None:
        """Take the returns of the rollout that was collected last into the statistics of the policy's ``value_norm``.

        Losses of the update that follows are of values, returns and old values that are normalised with these, and of
        advantages in the same unit.
        """

    def step(self, max_grad_norm: float) -> bool:
        """Clip the gradient and make a step of the optimizer, in which tasks without rows in the rollout have no part.

        :return: whether it was made: not if the loss or its gradient is not finite
        """


def trains_as_sb3(model: OnPolicyAlgorithm) -> bool:
    """Whether a model's ``train`` is SB3's own: it reads the buffer's log-probabilities, and knows no teachers."""
    return type(model).train.__module__.startswith(("stable_baselines3.", "sb3_contrib."))


def check_learns_from_teachers(model: OnPolicyAlgorithm) -> None:
    """Raise ValueError if a model's ``train`` would ignore its teachers."""
    if trains_as_sb3(model):
        raise ValueError(
            f"{type(model).__name__} has SB3's own train(), which ignores `teachers`: write one whose objective is "
            "`with_teachers(...)`"
        )


def why_torch(model: OnPolicyAlgorithm, asked_for: EngineName) -> str | None:
    """Why torch's engine is to be taken; None if the fast one is.

    :raises ValueError: if "fast" was asked for and does not apply; says why
    """
    if asked_for == "torch":
        return 'engine="torch"'
    if type(model.rollout_buffer) is not TaskRolloutBuffer:
        reason: str | None = f"the rollout buffer is a {type(model.rollout_buffer).__name__}"
    elif trains_as_sb3(model):
        reason = f"{type(model).__name__} has no train() of its own"
    elif getattr(model, "regresses_features", False):
        reason = "`distill_features` learns maps of its own, which are torch's"
    else:
        assert model.env is not None
        reason = why_not_fast(model.policy, model.env)
    if reason is not None and asked_for == "fast":
        raise ValueError(f'`engine="fast"` does not apply: {reason}. engine="auto" takes torch by itself.')
    return reason


class TorchEngine:
    """SB3's own loop and autograd, operation by operation: their order decides the last bits.

    :param model: whose policy and env it uses
    """

    name = "torch"

    def __init__(self, model: OnPolicyAlgorithm) -> None:
        self.model = model
        self._loss_is_finite = False
        self._present: list[bool] = []

    def collect(self, env: VecEnv, callback: BaseCallback, rollout_buffer: Any, n_rollout_steps: int) -> bool:
        return OnPolicyAlgorithm.collect_rollouts(self.model, env, callback, rollout_buffer, n_rollout_steps)

    def batches(self, rollout_buffer: Any, batch_size: int | None, normalize_advantage: bool) -> Iterator[Any]:
        self.model.policy.set_training_mode(True)
        keep = rollout_buffer.keep if isinstance(rollout_buffer, TaskRolloutBuffer) else None
        if keep is not None and not keep.any():
            return
        self._present = present_tasks(rollout_buffer, keep, self.model.policy.n_tasks)  # type: ignore[arg-type]
        for samples in rollout_buffer.get(batch_size):
            batch: Any = samples if keep is None else samples.kept()
            if (statistics := self._value_statistics) is not None:
                batch = _in_units_of(statistics, batch)
            advantages = batch.advantages
            if normalize_advantage and len(advantages) > 1:  # a single row has no spread, as in SB3's PPO
                advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
                batch = batch._replace(advantages=advantages)
            if len(advantages):
                yield batch

    def batch_of(self, rows: OfflineRows, places: np.ndarray) -> TaskRolloutBufferSamples:
        policy: Any = self.model.policy
        policy.set_training_mode(True)
        self._present = [True] * policy.n_tasks

        def taken(column: np.ndarray | None) -> Any:
            return None if column is None else th.as_tensor(column[places], device=policy.device)

        columns = rows.observations, rows.tasks, rows.actions, rows.teacher_mean, rows.teacher_log_std
        obs, task, actions, mean, log_std = map(taken, columns)
        of_rollout: Any = (None,) * 4
        samples = TaskRolloutBufferSamples({"obs": obs, "task": task}, actions, *of_rollout)
        return samples._replace(teacher_mean=mean, teacher_log_std=log_std)

    @property
    def _value_statistics(self) -> ValueStatistics | None:
        policy: Any = self.model.policy
        statistics: ValueStatistics | None = policy.value_statistics
        return statistics

    @property
    def _feature_maps(self) -> FeatureMaps | None:
        return getattr(self.model, "feature_maps", None)

    def update_value_statistics(self, rollout_buffer: Any) -> None:
        if isinstance(rollout_buffer, TaskRolloutBuffer):
            returns, tasks = rollout_buffer.kept_returns()
        else:
            returns, tasks = (np.ravel(rows) for rows in (rollout_buffer.returns, rollout_buffer.observations["task"]))
        policy: Any = self.model.policy
        policy.update_value_statistics(returns, tasks.astype(np.int64))

    def evaluate(self, objective: Sequence[Loss], batch: Any) -> Evaluation:
        policy: Any = self.model.policy
        regresses = any(isinstance(loss, FeatureLoss) for loss in objective)
        with _actor_inputs(policy, wanted=regresses) as inputs:
            values, log_prob, entropy = policy.evaluate_actions(batch.observations, batch.actions)
        values, task = values.flatten(), batch.observations["task"].long().flatten()
        if (statistics := self._value_statistics) is not None:
            values = statistics.normalize(values, task)
        # SB3 keeps the distribution of the last rows in action_dist.
        outputs = Outputs(values, log_prob, entropy, policy.action_dist.distribution)
        if regresses:
            features = policy.features_of_latent(*inputs[-1]) if inputs else policy.actor_features(batch.observations)
            outputs = outputs._replace(features=self._feature_maps(features, task))  # type: ignore[misc]
        if policy.shared_policy is not None:
            shared = policy.shared_dist
            outputs = outputs._replace(
                shared_log_prob=shared.log_prob(batch.actions), shared_distribution=shared.distribution
            )
        terms = [loss.terms(batch, outputs) for loss in objective]
        weights = getattr(self.model, "loss_weights", None)
        of_update = terms if weights is None else _weighted_terms(objective, batch, outputs, weights)
        weighted = [loss.weighted(of_loss) for loss, of_loss in zip(objective, of_update, strict=True)]
        total = sum(weighted[1:], start=weighted[0])
        self._loss_is_finite = bool(th.isfinite(total))
        policy.optimizer.zero_grad()
        combining = getattr(self.model, "combining", None)
        total.backward(retain_graph=combining is not None)  # type: ignore[no-untyped-call]
        if combining is not None:
            combine_by_autograd(combining, policy, objective, batch, outputs, weights)
            combining.measures = False
        with th.no_grad():
            here = th.bincount(task, minlength=policy.n_tasks).nonzero().flatten().tolist()
            losses = [
                terms_of_samples(loss, loss.rows(batch, outputs), of_loss, task, policy.n_tasks)
                for loss, of_loss in zip(objective, terms, strict=True)
            ]
        return Evaluation(here, losses)

    def step(self, max_grad_norm: float) -> bool:
        policy: Any = self.model.policy
        maps = self._feature_maps
        trained = policy.parameters() if maps is None else [*policy.parameters(), *maps.parameters()]
        norm = th.nn.utils.clip_grad_norm_(trained, max_grad_norm)
        if not (self._loss_is_finite and th.isfinite(norm)):
            return False
        step_of_tasks(policy, self._present)
        return True


@contextmanager
def _actor_inputs(policy: Any, *, wanted: bool) -> Iterator[list[tuple[th.Tensor, TaskRows]]]:
    """Note what the heads of the actor take, so that no module before them has to see the rows twice.

    A batch norm would count them twice, and a dropout would leave out other units.
    """
    inputs: list[tuple[th.Tensor, TaskRows]] = []
    if not wanted:
        yield inputs
        return
    hook = policy.action_net.register_forward_pre_hook(lambda _, given: inputs.append(given))
    try:
        yield inputs
    finally:
        hook.remove()


def _in_units_of(statistics: ValueStatistics, batch: Any) -> Any:
    """A batch whose returns and old values are normalised, with advantages in the same unit."""
    task = batch.observations["task"].long().flatten()
    returns, old_values = (statistics.normalize(rows, task) for rows in (batch.returns, batch.old_values))
    return batch._replace(advantages=batch.advantages / statistics.std[task], returns=returns, old_values=old_values)


def _weighted_terms(objective: Sequence[Loss], batch: Any, outputs: Outputs, weights: np.ndarray) -> list[Any]:
    """The terms of losses as means over all rows, each multiplied by the weight of its task, (n_tasks,)."""
    of_rows = th.as_tensor(weights, dtype=outputs.values.dtype, device=outputs.values.device)
    of_rows = of_rows[batch.observations["task"].long().flatten()]
    all_rows = [loss.rows(batch, outputs) for loss in objective]
    return [type(rows)(*((of_rows * row).mean() for row in rows)) for rows in all_rows]
