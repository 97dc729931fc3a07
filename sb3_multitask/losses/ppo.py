"""Proximal policy optimisation's loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch as th
import torch.nn.functional as F  # noqa: N812

from sb3_multitask.losses.grouped import GroupedOutputs, GroupedRows, OutputGradient
from sb3_multitask.losses.loss import Loss, Outputs, Samples, TermSums
from sb3_multitask.process.kernels import load_kernels


class PPOTerms(NamedTuple):
    """The terms of PPO's objective, and what SB3 logs beside: scalars, or one value for each row.

    ``approx_kl`` estimates KL(old ‖ new) in nats (Schulman, http://joschu.net/blog/kl-approx.html);
    ``clip_fraction`` is the share of rows whose ratio is outside the clip range.
    """

    policy_loss: Any
    value_loss: Any
    entropy_loss: Any
    approx_kl: Any
    clip_fraction: Any


@dataclass(frozen=True)
class PPOLoss(Loss):
    """``rl_coef * (clipped policy loss + ent_coef * entropy loss) + vf_coef * value loss``, as in SB3's PPO.

    With ``r`` the ratio of the new to the old probability of an action (Schulman et al. 2017, eq. 7), ``z = (a - mu) /
    sigma`` and N rows, its derivatives at the network's outputs are

        d/d log prob  = rl_coef * -advantage * r / N where the clipped objective is not the smaller one, else 0
        d/d value     = vf_coef * 2 / N * (value - return) where the value is within ``clip_range_vf`` of the old one

    The derivatives of the log-probability at mu and log sigma are z / sigma and z^2 - 1, and that of the entropy at log
    sigma is 1.

    :param clip_range_vf: ``None``: values are not clipped
    """

    pooled_keys: ClassVar[dict[str, str]] = {
        "policy_loss": "train/policy_gradient_loss",
        **{term: f"train/{term}" for term in ("value_loss", "entropy_loss", "approx_kl", "clip_fraction")},
    }
    task_key: ClassVar[str] = "train/{task}/{term}"

    clip_range: float = 0.2
    clip_range_vf: float | None = None
    rl_coef: float = 1.0
    ent_coef: float = 0.0
    vf_coef: float = 0.5

    def rows(self, batch: Any, outputs: Any) -> PPOTerms:
        xp: Any = np if isinstance(outputs, GroupedOutputs) else th
        log_ratio = self._log_ratio(batch, outputs)
        ratio = xp.exp(log_ratio)
        clipped = ratio.clip(1 - self.clip_range, 1 + self.clip_range)
        error = batch.returns - self._predicted(batch, outputs)
        return PPOTerms(
            policy_loss=-xp.minimum(batch.advantages * ratio, batch.advantages * clipped),
            value_loss=error * error,
            entropy_loss=-outputs.entropy,
            approx_kl=(ratio - 1) - log_ratio,
            clip_fraction=(abs(ratio - 1) > self.clip_range) * 1.0,
        )

    def terms(self, batch: Samples, outputs: Outputs) -> PPOTerms:
        """SB3's own operations: their order decides the last bits."""
        ratio = th.exp(outputs.log_prob - batch.old_log_prob)
        unclipped = batch.advantages * ratio
        clipped = batch.advantages * th.clamp(ratio, 1 - self.clip_range, 1 + self.clip_range)
        with th.no_grad():
            log_ratio = outputs.log_prob - batch.old_log_prob
            approx_kl = th.mean((th.exp(log_ratio) - 1) - log_ratio)
            clip_fraction = th.mean((th.abs(ratio - 1) > self.clip_range).float())
        return PPOTerms(
            policy_loss=-th.min(unclipped, clipped).mean(),
            value_loss=F.mse_loss(batch.returns, self._predicted(batch, outputs)),
            entropy_loss=-th.mean(outputs.entropy),
            approx_kl=approx_kl,
            clip_fraction=clip_fraction,
        )

    def weighted(self, terms: PPOTerms) -> th.Tensor:
        actor = self.rl_coef * (terms.policy_loss + self.ent_coef * terms.entropy_loss)
        weighted: th.Tensor = actor + self.vf_coef * terms.value_loss
        return weighted

    def _log_ratio(self, batch: Any, outputs: Any) -> Any:
        """The logarithm of the ratio of probabilities; 0 for rows that are not learned from."""
        log_ratio = outputs.log_prob - batch.old_log_prob
        # Such a row may be another task's, whose action this head may hold for so likely that the ratio overflows.
        return batch.only_kept(log_ratio) if isinstance(batch, GroupedRows) else log_ratio

    def _predicted(self, batch: Any, outputs: Any) -> Any:
        """The values, at most ``clip_range_vf`` from the old ones."""
        if self.clip_range_vf is None:
            return outputs.values
        return batch.old_values + (outputs.values - batch.old_values).clip(-self.clip_range_vf, self.clip_range_vf)

    def evaluate_groups(self, rows: GroupedRows, outputs: GroupedOutputs) -> tuple[OutputGradient, TermSums]:
        kernels = load_kernels("losses")
        if kernels is None or type(self) is not PPOLoss:  # a subclass may compute something else
            return super().evaluate_groups(rows, outputs)
        of_rows = rows.actions, rows.advantages, rows.returns, rows.old_values, rows.old_log_prob, rows.kept_or_none
        clip = self.clip_range, np.inf if self.clip_range_vf is None else self.clip_range_vf
        coefs = float(self.rl_coef), float(self.ent_coef), float(self.vf_coef)
        of_policy = outputs.mean, outputs.log_std, outputs.own_dims, outputs.values
        *gradient, sums = kernels.ppo(*of_rows, *of_policy, clip, coefs, rows.n_rows)
        return OutputGradient(*gradient), TermSums(PPOTerms, sums)

    def output_gradient(self, rows: GroupedRows, outputs: GroupedOutputs) -> OutputGradient:
        ratio = np.exp(self._log_ratio(rows, outputs))
        clipped = ratio.clip(1 - self.clip_range, 1 + self.clip_range)
        at_log_prob = rows.only_kept(rows.advantages) * ratio  # d ratio / d log prob = ratio
        at_log_prob *= rows.advantages * ratio <= rows.advantages * clipped  # else the minimum is the constant one
        at_log_prob *= -self.rl_coef / rows.n_rows
        mean, log_std = outputs.log_prob_gradient(at_log_prob)
        if self.ent_coef:
            for i, n in enumerate(rows.rows_per_task):
                log_std[i, : outputs.own_dims[i]] -= self.rl_coef * self.ent_coef * n / rows.n_rows
        values = rows.only_kept(self._predicted(rows, outputs) - rows.returns)
        if self.clip_range_vf is not None:
            values *= np.abs(outputs.values - rows.old_values) <= self.clip_range_vf
        values *= 2 * self.vf_coef / rows.n_rows
        return OutputGradient(mean, log_std, values)
