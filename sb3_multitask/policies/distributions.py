"""Gaussians of tasks whose actions differ in size: a row counts the actions of its own task only."""

from __future__ import annotations

from typing import Self

import torch as th
from stable_baselines3.common.distributions import DiagGaussianDistribution, sum_independent_dims


class MaskedGaussianDistribution(DiagGaussianDistribution):
    """SB3's diagonal Gaussian over padded actions, of which every row has some of its own.

    In the padding the mean is exactly 0 and the standard deviation exactly 1, whatever the networks give, and samples
    are exactly 0. Log-probabilities and entropies are sums over a row's own actions. So no gradient reaches what the
    networks give in the padding, and a divergence between two of these is exactly 0 there.

    What averages over the action dimensions counts the padding too: the KL of sb3-contrib's TRPO is the mean over
    ``action_dim``, the widest task's, so that of a narrower task has a smaller part in it. (The noise with which its
    conjugate gradients begin also moves weights in the padding, which nothing reads.) Noise of actions is drawn for all
    dimensions, and masked.

    Policies without padding have SB3's own class.
    """

    mask: th.Tensor

    def of_rows(self, mask: th.Tensor) -> Self:
        """Set which actions are a row's own, for the Gaussians that follow.

        :param mask: (n_rows, action_dim) bool
        """
        self.mask = mask
        return self

    def proba_distribution(self, mean_actions: th.Tensor, log_std: th.Tensor) -> Self:
        """Create the Gaussian of the rows of :meth:`of_rows`.

        :param mean_actions: (n_rows, action_dim)
        :param log_std: like ``mean_actions``, or one row for all
        """
        return super().proba_distribution(self._own(mean_actions), self._own(log_std))

    def log_prob(self, actions: th.Tensor) -> th.Tensor:
        """Log-probabilities (n_rows,) of padded actions (n_rows, action_dim)."""
        return sum_independent_dims(self._own(self.distribution.log_prob(actions)))  # type: ignore[no-untyped-call]

    def entropy(self) -> th.Tensor:
        """Entropies in nats, (n_rows,)."""
        return sum_independent_dims(self._own(self.distribution.entropy()))  # type: ignore[no-untyped-call]

    def sample(self) -> th.Tensor:
        """Draw actions (n_rows, action_dim), 0 in the padding."""
        return self._own(super().sample())

    def _own(self, rows: th.Tensor) -> th.Tensor:
        """Put 0 into the padding; unlike with a product, what was there does not matter, be it NaN."""
        return th.where(self.mask, rows, 0.0)
