"""Minibatches of a rollout's rows, grouped by task."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from sb3_multitask.fast.acting import Activations
from sb3_multitask.fast.nets import heads_forward, trunk_forward
from sb3_multitask.fast.parameters import Layer
from sb3_multitask.fast.weights import ReadyWeights
from sb3_multitask.process.arrays import aligned_zeros


@dataclass(frozen=True)
class Grouping:
    """How B rows of any order become k groups of m rows, the largest group's number.

    :param order: the rows, ordered by their tasks, (B,)
    :param slots: for each place of a group a position in that order, (k, m); a place without a row repeats another one
    :param places: for each row in that order its place among the k * m, (B,)
    :param taken: 1 for places with a row, else 0, (k, m, 1) float32; ``None`` if all have one
    """

    order: np.ndarray
    slots: np.ndarray
    places: np.ndarray
    taken: np.ndarray | None

    @classmethod
    def of(cls, tasks: np.ndarray, k: int, rows: np.ndarray) -> Grouping:
        """The grouping of rows by their tasks.

        :param tasks: of each row, from 0 to k - 1, (B,)
        :param rows: where each row stands in the rollout, (B,)
        """
        n = np.bincount(tasks, minlength=k)
        m, starts = int(n.max()), np.cumsum(n) - n
        order = rows[np.argsort(tasks, kind="stable")]
        within = np.arange(m)
        is_taken = within < n[:, None]
        slots = np.where(is_taken, starts[:, None] + within, 0)
        places = is_taken.ravel().nonzero()[0]
        return cls(order, slots, places, None if is_taken.all() else is_taken[:, :, None].astype(np.float32))

    @property
    def rows(self) -> np.ndarray:
        """The row of each place, (k, m)."""
        rows: np.ndarray = self.order[self.slots]
        return rows

    def by_row(self, grouped: np.ndarray) -> np.ndarray:
        """What places have, (k, m, dim), as the rows in their order have it, (B, dim)."""
        rows: np.ndarray = grouped.reshape(-1, grouped.shape[2])[self.places]
        return rows


class Forward:
    """The policy's nets on rows that are grouped by task, in memory that batches of equal size share."""

    def __init__(self) -> None:
        self._memory: dict[int, tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]] = {}

    def __call__(self, weights: ReadyWeights, observations: np.ndarray, grouping: Grouping) -> Activations:
        """Activations for a minibatch.

        :param observations: of all rows of the rollout, (n_rows, obs_dim)
        """
        x, hidden_pi, hidden_vf = self._memory_of(weights, len(grouping.order), observations.shape[1])
        np.take(observations, grouping.order, axis=0, out=x)
        latent_pi = trunk_forward(weights.trunk_pi, x, hidden_pi)
        latent_vf = trunk_forward(weights.trunk_vf, x, hidden_vf)
        return Activations(
            trunk_pi=[x, *hidden_pi],
            heads_pi=heads_forward(weights.head_pi, latent_pi[grouping.slots]),
            trunk_vf=[x, *hidden_vf],
            heads_vf=heads_forward(weights.head_vf, latent_vf[grouping.slots]),
        )

    def _memory_of(
        self, weights: ReadyWeights, n_rows: int, obs_dim: int
    ) -> tuple[np.ndarray, list[np.ndarray], list[np.ndarray]]:
        if n_rows not in self._memory:
            x = aligned_zeros((n_rows, obs_dim), weights.std.dtype)
            self._memory[n_rows] = x, _hidden(weights.trunk_pi, x), _hidden(weights.trunk_vf, x)
        return self._memory[n_rows]


def _hidden(trunk: list[Layer], x: np.ndarray) -> list[np.ndarray]:
    """Memory for a trunk's activations of the rows of ``x``."""
    return [aligned_zeros((len(x), len(bias)), x.dtype) for _, bias in trunk]
