"""A policy's weights as forward passes take them."""

from __future__ import annotations

import numpy as np

from sb3_multitask.fast.nets import Tasks, memory_of_copies, of_tasks
from sb3_multitask.fast.parameters import FlatParameters, Layers, log_std_of
from sb3_multitask.process.kernels import load_kernels


class ReadyWeights:
    """The weights for some tasks, partly copies; to be taken again after every update.

    ``trunk_pi``, ``trunk_vf``, ``head_pi`` and ``head_vf`` are layers for the functions of ``fast.nets``; ``log_std``
    and ``std`` are (k, 1, action_dim), 0 and 1 in the padding; ``action_dims`` is how many actions each task has, (k,)
    int64, and ``None`` where all have as many. ``value_units`` are standard deviations and means of the returns of all
    tasks of the policy, (n_tasks,) each, with which heads' values are normalised, and ``None`` where they are not.

    Weights of trunks are copied to (in, out): products with these are twice as fast as with ``weight.T``. The copies
    are aligned, so that results do not depend on where memory was free.
    """

    def __init__(self, parameters: FlatParameters) -> None:
        self._take_from(parameters)
        self.tasks: Tasks = slice(0)
        self._sizes = parameters.policy.sizes
        self.action_dims: np.ndarray | None = None
        self.value_units: tuple[np.ndarray, np.ndarray] | None = None

    def _take_from(self, parameters: FlatParameters) -> None:
        self.nets, dtype = parameters.weight_nets, parameters.weights.dtype
        self.trunk_pi, self.trunk_vf = (
            layers.with_weights(memory_of_copies((w.T.shape for w in layers.weights), dtype), np.asarray)
            for layers in (self.nets.trunk_pi, self.nets.trunk_vf)
        )
        self._originals = *self.nets.trunk_pi.weights, *self.nets.trunk_vf.weights
        self._views: dict[tuple[int | None, int | None], tuple[Layers, Layers]] = {}
        self._copies = *self.trunk_pi.weights, *self.trunk_vf.weights

    def _heads_of(self, tasks: Tasks) -> tuple[Layers, Layers]:
        """The heads of some tasks; a slice selects views."""
        return of_tasks(self.nets.head_pi, tasks), of_tasks(self.nets.head_vf, tasks)

    def take(self, parameters: FlatParameters, tasks: Tasks, k: int) -> None:
        """Take the weights as they are now, for ``k`` tasks."""
        is_same = self.nets is parameters.weight_nets
        if not is_same:
            self._take_from(parameters)
        kernels = load_kernels("fast") if self._copies else None
        if kernels is not None:
            kernels.transpose(self._originals, self._copies)
        else:
            for copy, weight in zip(self._copies, self._originals, strict=True):
                copy[...] = weight.T
        if not isinstance(tasks, slice):
            self.head_pi, self.head_vf = self._heads_of(tasks)
        elif not (is_same and tasks == self.tasks):
            key = tasks.start, tasks.stop
            if key not in self._views:
                self._views[key] = self._heads_of(tasks)
            self.head_pi, self.head_vf = self._views[key]
        self.tasks, self.k = tasks, k
        if (statistics := parameters.policy.value_statistics) is not None:
            self.value_units = statistics.arrays()
        self.log_std = log_std_of(self.nets, tasks, k).copy()
        if self._sizes.has_padding:
            self.action_dims = self._sizes.action_dims[tasks]
            self._padding = ~self._sizes.action_mask[tasks][:, None]
            self.clear_padding(self.log_std)
        self.std: np.ndarray = np.exp(self.log_std)

    def clear_padding(self, actions: np.ndarray, tasks: np.ndarray | None = None) -> None:
        """Write 0 where tasks have no action.

        :param actions: or means of them, (k, m, action_dim)
        :param tasks: of each row, from 0 to k - 1, (n_rows,), if they are (n_rows, action_dim)
        """
        if self.action_dims is not None:
            np.copyto(actions, 0, where=self._padding if tasks is None else self._padding[tasks, 0])
