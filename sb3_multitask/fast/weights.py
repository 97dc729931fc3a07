"""A policy's weights as forward passes take them."""

from __future__ import annotations

import numpy as np

from sb3_multitask.fast.nets import Tasks, in_columns, memory_of_copies, of_tasks, transposed
from sb3_multitask.fast.parameters import FlatParameters, log_std_of


class ReadyWeights:
    """Copies of the weights for some tasks, in memory of their own; to be made again after every update.

    ``trunk_pi``, ``trunk_vf``, ``head_pi`` and ``head_vf`` are layers for the functions of ``fast.nets``; ``log_std``
    and ``std`` are (k, 1, action_dim). ``pi`` and ``vf`` are trunk and heads as compiled functions take them.
    """

    def __init__(self, parameters: FlatParameters) -> None:
        nets, dtype = parameters.weight_nets, parameters.weights.dtype
        self._trunk_pi, self._trunk_vf = (
            memory_of_copies((weight.T.shape for weight, _ in layers), dtype)
            for layers in (nets.trunk_pi, nets.trunk_vf)
        )
        self._head_pi, self._head_vf = (
            memory_of_copies(((1, *weight.shape[1:]) for weight, _ in layers), dtype)
            for layers in (nets.head_pi, nets.head_vf)
        )

    def take(self, parameters: FlatParameters, tasks: Tasks, k: int) -> None:
        """Copy the weights as they are now, for ``k`` tasks."""
        self.nets, self.tasks, self.k = parameters.weight_nets, tasks, k
        self.trunk_pi = transposed(self.nets.trunk_pi, self._trunk_pi)
        self.trunk_vf = transposed(self.nets.trunk_vf, self._trunk_vf)
        head_pi, head_vf = (self._head_pi, self._head_vf) if k == 1 else (None, None)
        self.head_pi = of_tasks(self.nets.head_pi, tasks, head_pi)
        self.head_vf = of_tasks(self.nets.head_vf, tasks, head_vf)
        self.pi, self.vf = in_columns(self.trunk_pi, self.head_pi), in_columns(self.trunk_vf, self.head_vf)
        self.log_std = log_std_of(self.nets, tasks, k).copy()
        self.std: np.ndarray = np.exp(self.log_std)
