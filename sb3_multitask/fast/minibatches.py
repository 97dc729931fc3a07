"""Minibatches of a rollout's rows, grouped by task."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from itertools import pairwise

import numpy as np

from sb3_multitask.combiners import Net
from sb3_multitask.fast.contributions import Contributions
from sb3_multitask.fast.grouping import Grouping
from sb3_multitask.fast.nets import forward
from sb3_multitask.fast.parameters import FlatParameters, Gradient, Layers
from sb3_multitask.fast.rollout_memory import Activations
from sb3_multitask.fast.weights import ReadyWeights
from sb3_multitask.losses import GroupedRows
from sb3_multitask.process.arrays import Scratch

CHUNK = 1024
"""The most rows of a part of a minibatch. It decides the order of sums, so it is no setting of threads."""


class PartMemory:
    """Memory for what is computed of a part of a minibatch: a gradient, and what leads to it.

    :param gradient: receives the gradient
    """

    def __init__(self, gradient: Gradient) -> None:
        self.flat_gradient, self.gradient = gradient
        dtype = self.flat_gradient.dtype
        self.contributions: dict[tuple[Net, int], Contributions] = {}  # of so many tasks to the gradient of a net
        self.rows, self.trunk_pi, self.head_pi, self.trunk_vf, self.head_vf = (Scratch(dtype) for _ in range(5))

    def contributions_of(self, net: Net, k: int, parameters: FlatParameters) -> Contributions:
        """Memory for what each of k tasks adds to the gradient of a net."""
        if (net, k) not in self.contributions:
            self.contributions[net, k] = Contributions(parameters, net, k)
        return self.contributions[net, k]


class RolloutTable:
    """What minibatches read of a rollout, a row of the table for each of its rows: one look-up gets them all.

    :param observations: (n_rows, obs_dim)
    :param columns: what losses read, (n_rows, dim) each
    """

    def __init__(self, observations: np.ndarray, columns: Mapping[str, np.ndarray], dtype: np.dtype) -> None:
        bounds = np.cumsum([0, *(column.shape[1] for column in columns.values())]).tolist()
        self._places = {name: slice(a, b) for name, (a, b) in zip(columns, pairwise(bounds), strict=True)}
        self._observations = np.ascontiguousarray(observations, dtype)
        self._columns = np.concatenate(list(columns.values()), axis=1, dtype=dtype)

    def advantages(self, rows: np.ndarray) -> np.ndarray:
        """Of some rows."""
        advantages: np.ndarray = self._columns[rows, self._places["advantages"].start]
        return advantages

    def take(self, rows: np.ndarray, scratch: Scratch) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """The observations of rows (k, m), (k * m, obs_dim), and what losses read of them, (k, m, dim) each."""
        places = rows.ravel()
        x = scratch.array("x", (len(places), self._observations.shape[1]))
        columns = scratch.array("columns", (len(places), self._columns.shape[1]))
        self._observations.take(places, axis=0, out=x, mode="clip")  # in the default mode numpy makes a copy first
        self._columns.take(places, axis=0, out=columns, mode="clip")
        grouped = columns.reshape(*rows.shape, -1)
        return x, {name: grouped[:, :, place] for name, place in self._places.items()}


Computation = Callable[[PartMemory], tuple[GroupedRows, Activations]]
"""Computes, in memory that is given, what losses read of a part of a minibatch, and the activations of the nets."""


def parts_of_minibatch(
    table: RolloutTable,
    weights: ReadyWeights,
    task_ids: np.ndarray,
    tasks: np.ndarray,
    rows: np.ndarray,
    normalize_advantage: bool,
) -> list[Computation]:
    """A minibatch in parts, of equal size within one row.

    :param task_ids: of the k tasks, (k,)
    :param tasks: of each row of the minibatch, from 0 to k - 1, (B,)
    :param rows: where each row stands in the rollout, (B,)
    """
    n_rows, shift, scale = len(rows), 0.0, 1.0
    if normalize_advantage and n_rows > 1:  # a single row has no spread, as in SB3's PPO
        advantages = table.advantages(rows)
        shift, scale = advantages.mean(), advantages.std(ddof=1) + 1e-8

    def part(tasks: np.ndarray, rows: np.ndarray) -> Computation:
        def compute(memory: PartMemory) -> tuple[GroupedRows, Activations]:
            grouping = Grouping.of(tasks, len(task_ids), rows)
            x, columns = table.take(grouping.rows, memory.rows)
            if normalize_advantage:
                columns["advantages"] -= shift
                columns["advantages"] /= scale
            grouped = GroupedRows(task_ids, **columns, kept=grouping.taken, n_rows=n_rows)
            return grouped, activations_of(weights, x, memory)

        return compute

    return [part(tasks[place], rows[place]) for place in _parts(n_rows)]


def _parts(n_rows: int) -> Iterator[slice]:
    n_parts = -(-n_rows // CHUNK)
    return (slice(a, b) for a, b in pairwise(n_rows * i // n_parts for i in range(n_parts + 1)))


def activations_of(weights: ReadyWeights, x: np.ndarray, memory: PartMemory) -> Activations:
    """Activations of the nets for observations that are grouped by task, (k * m, obs_dim)."""
    of_actions = _of_net(weights.trunk_pi, weights.head_pi, x, memory.trunk_pi, memory.head_pi)
    weights.clear_padding(of_actions[1][-1])
    of_values = _of_net(weights.trunk_vf, weights.head_vf, x, memory.trunk_vf, memory.head_vf)
    return Activations(*of_actions, *of_values)


def _of_net(
    trunk: Layers, heads: Layers, x: np.ndarray, of_trunk: Scratch, of_heads: Scratch
) -> tuple[tuple[np.ndarray, ...], tuple[np.ndarray, ...]]:
    k, n_rows = len(heads.weights[0]), len(x)
    hidden = tuple(of_trunk.array(("h", i), (n_rows, len(bias))) for i, bias in enumerate(trunk.biases))
    sizes = (weight.shape[2] for weight in heads.weights)
    outputs = tuple(of_heads.array(("h", i), (k, n_rows // k, size)) for i, size in enumerate(sizes))
    forward(trunk, heads, x, hidden, outputs)
    return (x, *hidden), ((hidden[-1] if hidden else x).reshape(k, n_rows // k, -1), *outputs)
