"""Advantage actor-critic's loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch as th
import torch.nn.functional as F  # noqa: N812

from sb3_multitask.losses.grouped import GroupedOutputs, GroupedRows, OutputGradient
from sb3_multitask.losses.loss import Loss, Outputs, Samples, TermSums
from sb3_multitask.process.kernels import load_kernels


class A2CTerms(NamedTuple):
    """The terms of A2C's objective: scalars, or one value for each row."""

    policy_loss: Any
    value_loss: Any
    entropy_loss: Any


def a2c_loss(
    log_prob: th.Tensor,
    values: th.Tensor,
    entropy: th.Tensor,
    advantages: th.Tensor,
    returns: th.Tensor,
) -> A2CTerms:
    """Advantage actor-critic (the paper's section 3.1.2; Mnih et al. 2016), means over all rows.

    :param log_prob: log-probability of the taken actions, (n_rows,)
    :param values: value estimates, (n_rows,)
    :param entropy: entropy of the action distributions, (n_rows,), in nats
    :param advantages: eq. (3), or its lambda-weighted form, (n_rows,)
    :param returns: targets of the value function, (n_rows,)
    :raises ValueError: if a shape differs
    """
    _check_rows(log_prob=log_prob, values=values, entropy=entropy, advantages=advantages, returns=returns)
    return A2CTerms(
        policy_loss=-(advantages * log_prob).mean(),
        value_loss=F.mse_loss(returns, values),
        entropy_loss=-th.mean(entropy),
    )


@dataclass(frozen=True)
class A2CLoss(Loss):
    """``rl_coef * (policy loss + ent_coef * entropy loss) + vf_coef * value loss``, as in SB3's A2C.

    With ``z = (a - mu) / sigma`` and N rows its derivatives at the network's outputs are

        d/d mu        = -advantage / N * z / sigma
        d/d log sigma = -advantage / N * (z^2 - 1) - ent_coef / N
        d/d value     = vf_coef * 2 / N * (value - return)

    of which the first two are multiplied by ``rl_coef``.
    """

    pooled_keys: ClassVar[dict[str, str]] = {term: f"train/{term}" for term in A2CTerms._fields}
    task_key: ClassVar[str] = "train/{task}/{term}"

    rl_coef: float = 1.0
    ent_coef: float = 0.0
    vf_coef: float = 0.5

    def rows(self, batch: Any, outputs: Any) -> A2CTerms:
        error = batch.returns - outputs.values
        return A2CTerms(-batch.advantages * outputs.log_prob, error * error, -outputs.entropy)

    def terms(self, batch: Samples, outputs: Outputs) -> A2CTerms:
        """SB3's own operations: their order decides the last bits."""
        return a2c_loss(outputs.log_prob, outputs.values, outputs.entropy, batch.advantages, batch.returns)

    def weighted(self, terms: A2CTerms) -> th.Tensor:
        actor = self.rl_coef * (terms.policy_loss + self.ent_coef * terms.entropy_loss)
        weighted: th.Tensor = actor + self.vf_coef * terms.value_loss
        return weighted

    def evaluate_groups(self, rows: GroupedRows, outputs: GroupedOutputs) -> tuple[OutputGradient, TermSums]:
        kernels = load_kernels("losses")
        if kernels is None or type(self) is not A2CLoss:  # a subclass may compute something else
            return super().evaluate_groups(rows, outputs)
        of_rows = rows.actions, rows.advantages, rows.returns, rows.kept_or_none
        coefs = float(self.rl_coef), float(self.ent_coef), float(self.vf_coef)
        of_policy = outputs.mean, outputs.log_std, outputs.own_dims, outputs.values
        *gradient, sums = kernels.a2c(*of_rows, *of_policy, *coefs, rows.n_rows)
        return OutputGradient(*gradient), TermSums(A2CTerms, sums)

    def output_gradient(self, rows: GroupedRows, outputs: GroupedOutputs) -> OutputGradient:
        scaled = rows.only_kept(rows.advantages) * (-self.rl_coef / rows.n_rows)
        mean, log_std = outputs.log_prob_gradient(scaled)
        if self.ent_coef:
            for i, n in enumerate(rows.rows_per_task):
                log_std[i, : outputs.own_dims[i]] -= self.rl_coef * self.ent_coef * n / rows.n_rows
        values = rows.only_kept(outputs.values - rows.returns)
        values *= 2 * self.vf_coef / rows.n_rows
        return OutputGradient(mean, log_std, values)


def _check_rows(**tensors: th.Tensor) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) != 1 or any(len(shape) != 1 for shape in shapes.values()):
        raise ValueError(f"All of these must have the same shape (n_rows,), got {shapes}")
