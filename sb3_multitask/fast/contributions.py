"""What each task adds to the gradient on the parameters that all tasks share: the rows that combiners weigh."""

from __future__ import annotations

import numpy as np

from sb3_multitask.combiners import NETS, GradientCombining, Net
from sb3_multitask.fast.parameters import FlatParameters, Layers, Nets
from sb3_multitask.process.arrays import aligned_zeros


def trunk_of(nets: Nets, net: Net) -> Layers:
    """The trunk of a net."""
    return nets.trunk_pi if net == "actor" else nets.trunk_vf


class Contributions:
    """Those of k tasks to the gradient of one net, in memory of their own.

    :param weights: the policy's nets
    :param net: whose shared parameters these are: the trunk's, and of the actor a log-std that all tasks share
    """

    def __init__(self, weights: Nets, net: Net, k: int) -> None:
        self.net = net
        self._shapes = [array.shape for layer in trunk_of(weights, net) for array in layer]
        if net == "actor" and weights.log_std.ndim == 1:
            self._shapes.append(weights.log_std.shape)
        sizes = [k * int(np.prod(shape)) for shape in self._shapes]
        self.flat = aligned_zeros((sum(sizes),), weights.log_std.dtype)
        blocks = np.split(self.flat, np.cumsum(sizes)[:-1])
        self._arrays = [block.reshape(k, *shape) for block, shape in zip(blocks, self._shapes, strict=True)]
        self._matrices = [block.reshape(k, -1) for block in blocks]
        n_layers = len(trunk_of(weights, net))
        self.trunk = Layers((self._arrays[2 * i], self._arrays[2 * i + 1]) for i in range(n_layers))
        self.log_std = self._arrays[2 * n_layers] if len(self._arrays) > 2 * n_layers else None

    def combine(self, combining: GradientCombining, tasks: np.ndarray, parameters: FlatParameters) -> None:
        """Measure or combine the contributions of tasks; what is combined becomes the gradient.

        :param tasks: their ids, (k,)
        """
        gradient = parameters.gradient_nets
        targets = [array for layer in trunk_of(gradient, self.net) for array in layer]
        if self.log_std is not None:
            targets.append(gradient.log_std)
        trained = parameters.shared_trained(self.net)
        pairs = [
            pair
            for pair, is_trained in zip(zip(self._matrices, targets, strict=True), trained, strict=True)
            if is_trained
        ]
        if not pairs:
            return
        gramian = sum(matrix @ matrix.T for matrix, _ in pairs)
        factors = combining.factors(self.net, tasks, np.asarray(gramian))
        if combining.combines(self.net):
            factors = factors.astype(self.flat.dtype)
            for matrix, target in pairs:
                np.dot(factors, matrix, out=target.reshape(-1))


def wanted(combining: GradientCombining | None, weights: Nets) -> list[Net]:
    """The nets whose contributions are needed, of those with a trunk."""
    if combining is None:
        return []
    return [
        net for net in NETS if combining.asks_for(net) and (trunk_of(weights, net) or _has_shared_std(weights, net))
    ]


def _has_shared_std(weights: Nets, net: Net) -> bool:
    return net == "actor" and weights.log_std.ndim == 1
