"""Combines the gradients of an update, and measures how they conflict."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from sb3_multitask.combiners.base import Combiner

Net: TypeAlias = Literal["actor", "critic"]
"""A net whose gradients are combined apart from the other's."""
NETS: tuple[Net, ...] = get_args(Net)


class GradientCombining:
    """What an engine asks about the gradients on the parameters that all tasks share, actor and critic apart.

    With N rows, of which n_i are task i's, and L_i the mean loss of these, ``c_i = n_i / N * grad L_i`` is what task i
    contributes to the gradient ``sum_i c_i``, which an update without a combiner takes. Of k tasks whose contribution
    is not 0, ``g_i = k * c_i``: their mean is that gradient. A combiner gives ``sum_i w_i g_i`` for it.

    :param combiners: of the nets whose gradients are combined
    :param n_tasks: number of the model's tasks
    """

    def __init__(self, combiners: Mapping[Net, Combiner], n_tasks: int) -> None:
        self.combiners = dict(combiners)
        self.n_tasks = n_tasks
        self.measures = False  # the next batch, whose cosines are then known
        self._measures_at = 0
        self.measured_at: int | None = None  # environment steps of this training when `cosines` were measured
        self.drawn_at: int | None = None  # `measured_at` of the cosines that TensorBoard was given last
        self.cosines: dict[Net, np.ndarray] = {}
        self.unlogged: list[Net] = []  # whose cosines were measured since the last log
        self._taking_part: dict[Net, list[int]] = {}

    def measure_next(self, timesteps: int) -> None:
        """Measure the next batch, whose cosines then replace those of earlier ones.

        :param timesteps: environment steps so far
        """
        self.measures, self._measures_at = True, timesteps

    def combines(self, net: Net) -> bool:
        """Whether the gradient of a net is combined."""
        return net in self.combiners

    def asks_for(self, net: Net) -> bool:
        """Whether the gradients of a net are needed task by task, to combine or to measure them."""
        return self.measures or net in self.combiners

    def factors(self, net: Net, tasks: np.ndarray, gramian: np.ndarray) -> np.ndarray:
        """Return ``k * w_i``, by which each task's contribution is multiplied, (n,): 1 each gives the mean.

        Cosines are noted if this batch is measured. Gradients that are not finite are left as they are, since the
        update is then refused.

        :param tasks: ids of n tasks, (n,)
        :param gramian: of their contributions, ``<c_i, c_j>``, (n, n) float64
        :raises ValueError: if the combiner returns other than k finite numbers
        """
        n = len(gramian)
        trace = float(gramian.trace())  # finite only if all is: no product is above that of the norms
        if not math.isfinite(trace):
            return np.ones(n)
        if self.measures:
            self._note_cosines(net, tasks, gramian)
        k, diagonal = n, gramian.diagonal()
        if net not in self.combiners or (k := int(np.count_nonzero(diagonal))) < 2:
            return np.ones(n)
        if k == n:
            return k * self._weights(net, tasks.tolist(), gramian * (k / trace))
        here, factors = diagonal.nonzero()[0], np.ones(n)
        factors[here] = k * self._weights(net, tasks[here].tolist(), gramian[np.ix_(here, here)] * (k / trace))
        return factors

    def _weights(self, net: Net, tasks: list[int], gramian: np.ndarray) -> np.ndarray:
        """Return what the combiner of a net gives for k tasks, (k,)."""
        combiner, k = self.combiners[net], len(tasks)
        if self._taking_part.get(net) != tasks:
            if net in self._taking_part:
                combiner.reset()
            self._taking_part[net] = tasks
        weights = np.asarray(combiner.weights(gramian), dtype=np.float64)
        if weights.shape != (k,) or not math.isfinite(weights.sum()):
            raise ValueError(
                f"weights() of {type(combiner).__name__} must return {k} finite numbers, one for each task "
                f"(got {weights!r:.200})"
            )
        return weights

    def _note_cosines(self, net: Net, tasks: np.ndarray, gramian: np.ndarray) -> None:
        if self.measured_at != self._measures_at:
            self.cosines, self.unlogged, self.measured_at = {}, [], self._measures_at
        of_all = np.full((self.n_tasks, self.n_tasks), np.nan)
        of_all[np.ix_(tasks, tasks)] = cosines(gramian)
        self.cosines[net] = of_all
        self.unlogged.append(net)

    def get_state(self) -> dict[str, Any]:
        """Return the combiners' states, as plain values."""
        return {
            net: {"tasks": self._taking_part.get(net), "combiner": combiner.get_state()}
            for net, combiner in self.combiners.items()
        }

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`get_state` returned."""
        self._taking_part = {}
        for net, combiner in self.combiners.items():
            combiner.set_state(state[net]["combiner"])
            if state[net]["tasks"] is not None:
                self._taking_part[net] = [int(task) for task in state[net]["tasks"]]

    def settings(self) -> dict[str, Any]:
        """Return the combiners' settings."""
        return {net: combiner.settings() for net, combiner in self.combiners.items()}

    def why_inexact(self) -> str | None:
        """Return why a training that resumes would not combine as before; ``None`` if it would."""
        return next((reason for one in self.combiners.values() if (reason := one.why_inexact())), None)


def cosines(gramian: np.ndarray) -> np.ndarray:
    """Return the cosine of the angle between each two gradients, (n, n); NaN with a gradient that is 0.

    :param gramian: of the gradients, (n, n)
    """
    norms = np.sqrt(gramian.diagonal())
    norms = np.where(norms > 0, norms, np.nan)
    return np.asarray(np.clip(gramian / norms / norms[:, None], -1, 1))


def pair_statistics(of_tasks: np.ndarray) -> tuple[float, float] | None:
    """Return the mean of the cosines over all pairs of tasks, and the share of the pairs whose cosine is negative.

    :param of_tasks: the cosines, (n_tasks, n_tasks), NaN for tasks without a gradient
    :return: ``None`` if there is no pair
    """
    pairs = of_tasks[np.triu_indices(len(of_tasks), 1)]
    pairs = pairs[~np.isnan(pairs)]
    return (float(pairs.mean()), float((pairs < 0).mean())) if len(pairs) else None
