"""Compiled loops of an update; see :mod:`sb3_multitask.process.kernels`."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def rmsprop_step(weights, gradient, average, decay, lr, alpha, eps):  # type: ignore[no-untyped-def]  # noqa: ANN201
    """Make a step of torch's RMSprop on flat float arrays.

    :param decay: of the averages of each parameter; empty: ``alpha`` for all
    """
    rest = weights.dtype.type(1 - alpha)
    lr, eps, same = weights.dtype.type(lr), weights.dtype.type(eps), weights.dtype.type(alpha)
    for i in range(len(weights)):
        kept = decay[i] if len(decay) else same
        average[i] = average[i] * kept + rest * gradient[i] * gradient[i]
        weights[i] -= lr * (gradient[i] / (np.sqrt(average[i]) + eps))


@njit(cache=True, nogil=True, error_model="numpy")
def adam_step(weights, gradient, average, square, size, beta1, beta2, correction, eps):  # type: ignore[no-untyped-def]  # noqa: ANN201, PLR0913
    """Make a step of torch's Adam on flat float arrays.

    :param size: the learning rate over the correction of the first average
    :param correction: the root of that of the second
    """
    number = weights.dtype.type
    rest1, beta2_, rest2 = number(1 - beta1), number(beta2), number(1 - beta2)
    size, correction, eps = number(size), number(correction), number(eps)
    for i in range(len(weights)):
        average[i] += rest1 * (gradient[i] - average[i])
        square[i] = square[i] * beta2_ + rest2 * gradient[i] * gradient[i]
        weights[i] -= size * (average[i] / (np.sqrt(square[i]) / correction + eps))
