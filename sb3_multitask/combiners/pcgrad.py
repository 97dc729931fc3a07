"""PCGrad: each task's gradient without what opposes the others."""

from __future__ import annotations

import numpy as np

from sb3_multitask.combiners.base import Combiner
from sb3_multitask.process.kernels import load_kernels


class PCGrad(Combiner):
    """Projects each gradient onto the normal planes of those that it conflicts with, and takes the mean.

    Algorithm 1 of Yu et al. 2020, Gradient Surgery for Multi-Task Learning (https://arxiv.org/abs/2001.06782), which
    takes the sum. The order of the projections is drawn anew for each gradient at each call.
    """

    def weights(self, gramian: np.ndarray) -> np.ndarray:
        k = len(gramian)
        return pcgrad_weights(gramian, self.generator.random((k, k)).argsort(axis=1))


def pcgrad_weights(gramian: np.ndarray, order: np.ndarray) -> np.ndarray:
    """PCGrad's weights, (k,); ``1 / k`` each if no two gradients conflict.

    :param gramian: ``G[i, j] = <g_i, g_j>``, (k, k) float64, with a positive diagonal
    :param order: in which order gradient i is projected: row i has all tasks, of which i itself is skipped, (k, k)
    """
    kernels, k = load_kernels("combiners"), len(gramian)
    if kernels is not None:
        return np.asarray(kernels.pcgrad(gramian, order) / k)
    coefficients, rows = np.eye(k), np.arange(k)
    for others in order.T:  # the next one of every gradient
        product = np.vecdot(gramian[others], coefficients)
        conflicts = (product < 0) & (others != rows)
        coefficients[rows, others] -= np.where(conflicts, product / gramian[others, others], 0)
    return np.asarray(coefficients.sum(axis=0) / k)
