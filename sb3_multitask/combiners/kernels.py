"""Compiled loops of combiners; see :mod:`sb3_multitask.process.kernels`."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def pcgrad(gramian, order):
    """Compute the sums of PCGrad's coefficients, as ``pcgrad_weights`` before it divides by k."""
    k = len(gramian)
    total, own = np.zeros(k), np.zeros(k)
    for i in range(k):
        own[:] = 0
        own[i] = 1
        for place in range(k):
            j = order[i, place]
            if j == i:
                continue
            product = 0.0
            for other in range(k):
                product += gramian[j, other] * own[other]
            if product < 0:
                own[j] -= product / gramian[j, j]
        total += own
    return total
