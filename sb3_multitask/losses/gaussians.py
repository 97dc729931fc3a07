"""Kullback-Leibler divergences of diagonal Gaussians, in torch and in numpy."""

from __future__ import annotations

import math

import numpy as np
import torch as th

_NEAR_ZERO = 0.25
_SERIES = [1 / math.factorial(n) for n in range(2, 13)]  # what is left out is below 1e-14 of the sum


def gaussian_kl(mean_p: th.Tensor, log_std_p: th.Tensor, mean_q: th.Tensor, log_std_q: th.Tensor) -> th.Tensor:
    """KL(p ‖ q) of diagonal Gaussians in nats, summed over the action dimensions, (n_rows,).

    Written so that it keeps its digits near zero too, where the difference of large terms would not: the part of the
    log-stds has a relative error below 2e-6 in float32 and 1e-13 in float64. It is never negative.

    :param mean_p: (n_rows, action_dim)
    :param log_std_p: logarithm of the standard deviations, (n_rows, action_dim), or one row for all
    :param mean_q: (n_rows, action_dim)
    :param log_std_q: like ``log_std_p``
    :raises ValueError: if a shape differs
    """
    check_gaussians(mean_p, log_std_p, mean_q, log_std_q)
    log_ratio = 2 * (log_std_p - log_std_q)
    distance = (mean_p - mean_q) * th.exp(-log_std_q)
    return 0.5 * (_expm1_less_x(log_ratio) + distance**2).sum(dim=-1)


def _expm1_less_x(x: th.Tensor) -> th.Tensor:
    """exp(x) - 1 - x; near zero by its series, since the difference would leave rounding only."""
    near = x.clamp(-_NEAR_ZERO, _NEAR_ZERO)  # elsewhere the series could overflow, and its gradient with it
    series = near.new_full((), _SERIES[-1])
    for coefficient in reversed(_SERIES[:-1]):
        series = coefficient + near * series
    return th.where(x.abs() < _NEAR_ZERO, near * near * series, th.expm1(x) - x)


def grouped_gaussian_kl(
    mean_p: np.ndarray, log_std_p: np.ndarray, mean_q: np.ndarray, log_std_q: np.ndarray
) -> np.ndarray:
    """:func:`gaussian_kl` of arrays (k, m, action_dim), or (k, 1, action_dim), that give (k, m, 1) float64."""
    x = 2 * np.subtract(log_std_p, log_std_q, dtype=np.float64)  # in float64, the difference keeps enough digits
    distance = (mean_p - mean_q) * np.exp(-log_std_q)
    return np.asarray(0.5 * (np.expm1(x) - x + distance * distance).sum(axis=2, keepdims=True))


def check_gaussians(mean_p: th.Tensor, log_std_p: th.Tensor, mean_q: th.Tensor, log_std_q: th.Tensor) -> None:
    """Raise ValueError unless the shapes are those of two diagonal Gaussians for the same rows."""
    shapes = [tuple(tensor.shape) for tensor in (mean_p, log_std_p, mean_q, log_std_q)]
    n_rows, action_dim = shapes[0] if len(shapes[0]) == 2 else (-1, -1)
    log_stds = {(action_dim,), (1, action_dim), (n_rows, action_dim)}
    if n_rows < 0 or shapes[2] != shapes[0] or not {shapes[1], shapes[3]} <= log_stds:
        raise ValueError(f"Means must be (n_rows, action_dim), log-stds alike or one row; got {shapes}")
