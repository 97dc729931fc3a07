"""What each task adds to the gradient on the parameters that all tasks share: the rows that combiners weigh."""

from __future__ import annotations

from itertools import pairwise

import numpy as np

from sb3_multitask.combiners import NETS, GradientCombining, Net
from sb3_multitask.fast.parameters import FlatParameters, Layers, Nets
from sb3_multitask.process.arrays import aligned_zeros
from sb3_multitask.process.kernels import load_kernels


def trunk_of(nets: Nets, net: Net) -> Layers:
    """The trunk of a net."""
    return nets.trunk_pi if net == "actor" else nets.trunk_vf


class Contributions:
    """Those of k tasks to the gradient of one net, in memory of their own.

    :param parameters: the policy's; another set of trained ones is another object
    :param net: whose shared parameters these are: the trunk's, and of the actor a log-std that all tasks share
    """

    def __init__(self, parameters: FlatParameters, net: Net, k: int) -> None:
        self.net = net
        gradient = parameters.gradient_nets
        trunk = trunk_of(gradient, net)
        targets = trunk.parts()
        n_of_trunk = len(targets)
        if _has_shared_std(gradient, net):
            targets.append(gradient.log_std)
        bounds = np.cumsum([0, *(k * target.size for target in targets)]).tolist()
        self.flat = aligned_zeros((bounds[-1],), gradient.log_std.dtype)
        matrices = [self.flat[a:b].reshape(k, -1) for a, b in pairwise(bounds)]
        arrays = [matrix.reshape(k, *target.shape) for matrix, target in zip(matrices, targets, strict=True)]
        self.trunk = trunk.with_parts(arrays[:n_of_trunk])
        self.log_std = arrays[-1] if len(arrays) > n_of_trunk else None
        trained = parameters.shared_trained(net)
        self._matrices = tuple(matrix for matrix, is_trained in zip(matrices, trained, strict=True) if is_trained)
        self._targets = tuple(target.reshape(-1) for target, own in zip(targets, trained, strict=True) if own)

    def combine(self, combining: GradientCombining, tasks: np.ndarray) -> None:
        """Measure or combine the contributions of tasks; what is combined becomes the gradient.

        :param tasks: their ids, (k,)
        """
        if not self._matrices:
            return
        kernels = load_kernels("fast")
        if kernels is None:
            gramian = np.add.reduce([matrix @ matrix.T for matrix in self._matrices], dtype=np.float64)
        else:
            gramian = kernels.gramian(self._matrices)
        factors = combining.factors(self.net, tasks, gramian)
        if not combining.combines(self.net):
            return
        factors = factors.astype(self.flat.dtype)
        if kernels is not None:
            kernels.combine(factors, self._matrices, self._targets)
            return
        for matrix, target in zip(self._matrices, self._targets, strict=True):
            np.dot(factors, matrix, out=target)


def wanted(combining: GradientCombining | None, weights: Nets) -> list[Net]:
    """The nets whose contributions are needed, of those with a trunk."""
    if combining is None:
        return []
    return [
        net for net in NETS if combining.asks_for(net) and (trunk_of(weights, net) or _has_shared_std(weights, net))
    ]


def _has_shared_std(weights: Nets, net: Net) -> bool:
    return net == "actor" and weights.log_std.ndim == 1
