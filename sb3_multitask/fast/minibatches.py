"""Minibatches of a rollout's rows, grouped by task."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from sb3_multitask.fast.acting import Activations
from sb3_multitask.fast.nets import heads_forward, trunk_forward
from sb3_multitask.fast.parameters import Layer
from sb3_multitask.fast.weights import ReadyWeights
from sb3_multitask.losses import GroupedRows
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


CHUNK = 1024
"""The most rows of a part. It decides the order of sums, so it is no setting of threads."""


def groupings(tasks: np.ndarray, rows: np.ndarray, k: int) -> list[Grouping]:
    """The parts of a minibatch, of equal size within one row.

    :param tasks: of each row, from 0 to k - 1, (B,)
    :param rows: where each row stands in the rollout, (B,)
    """
    n_parts = -(-len(rows) // CHUNK)
    bounds = [len(rows) * i // n_parts for i in range(n_parts + 1)]
    return [Grouping.of(tasks[a:b], k, rows[a:b]) for a, b in pairwise(bounds)]


@dataclass(frozen=True)
class Part:
    """A part of a minibatch, or all of it.

    :param rows: what losses read
    :param forward: computes the activations of the nets
    :param by_row: turns what heads have, (k, m, dim), into what trunks have, (n_rows, dim)
    """

    rows: GroupedRows
    forward: Callable[[], Activations]
    by_row: Callable[[np.ndarray], np.ndarray]


class Forward:
    """The policy's nets on rows that are grouped by task, in memory that is used again."""

    def __init__(self) -> None:
        self._memory: dict[int, list[_Memory]] = {}

    def minibatch(
        self,
        weights: ReadyWeights,
        observations: np.ndarray,
        columns: Mapping[str, np.ndarray],
        task_ids: np.ndarray,
        tasks: np.ndarray,
        rows: np.ndarray,
        normalize_advantage: bool,
    ) -> list[Part]:
        """A minibatch in parts.

        :param observations: of all rows of the rollout, (n_rows, obs_dim)
        :param columns: what losses read of them, (n_rows, dim)
        :param task_ids: of the k tasks, (k,)
        :param tasks: of each row of the minibatch, from 0 to k - 1, (B,)
        :param rows: where each row stands in the rollout, (B,)
        """
        shift, scale = 0.0, 1.0
        if normalize_advantage and len(rows) > 1:  # a single row has no spread, as in SB3's PPO
            advantages = columns["advantages"][rows]
            shift, scale = advantages.mean(), advantages.std(ddof=1) + 1e-8
        parts, taken = [], dict.fromkeys(self._memory, 0)
        for grouping in groupings(tasks, rows, len(task_ids)):
            values: dict[str, Any] = {name: column[grouping.rows] for name, column in columns.items()}
            if normalize_advantage:
                values["advantages"] = (values["advantages"] - shift) / scale
            grouped = GroupedRows(task_ids, **values, kept=grouping.taken, n_rows=len(rows))
            size = len(grouping.order)
            memory = self._memory_of(weights, size, observations.shape[1], taken.get(size, 0))
            taken[size] = taken.get(size, 0) + 1
            parts.append(Part(grouped, partial(_forward, weights, observations, grouping, memory), grouping.by_row))
        return parts

    def _memory_of(self, weights: ReadyWeights, n_rows: int, obs_dim: int, number: int) -> _Memory:
        """Memory for a part; parts of one minibatch, which are computed at once, have each their own."""
        of_size = self._memory.setdefault(n_rows, [])
        if number == len(of_size):
            x = aligned_zeros((n_rows, obs_dim), weights.std.dtype)
            of_size.append(_Memory(x, _hidden(weights.trunk_pi, x), _hidden(weights.trunk_vf, x)))
        return of_size[number]


class _Memory(NamedTuple):
    """Of a part's observations and of the activations of the two trunks."""

    x: np.ndarray
    hidden_pi: list[np.ndarray]
    hidden_vf: list[np.ndarray]


def _forward(weights: ReadyWeights, observations: np.ndarray, grouping: Grouping, memory: _Memory) -> Activations:
    x, hidden_pi, hidden_vf = memory
    np.take(observations, grouping.order, axis=0, out=x)
    latent_pi = trunk_forward(weights.trunk_pi, x, hidden_pi)
    latent_vf = trunk_forward(weights.trunk_vf, x, hidden_vf)
    return Activations(
        trunk_pi=[x, *hidden_pi],
        heads_pi=heads_forward(weights.head_pi, latent_pi[grouping.slots]),
        trunk_vf=[x, *hidden_vf],
        heads_vf=heads_forward(weights.head_vf, latent_vf[grouping.slots]),
    )


def _hidden(trunk: list[Layer], x: np.ndarray) -> list[np.ndarray]:
    """Memory for a trunk's activations of the rows of ``x``."""
    return [aligned_zeros((len(x), len(bias)), x.dtype) for _, bias in trunk]
