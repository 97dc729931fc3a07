"""Compiled losses; see :mod:`sb3_multitask.process.kernels`.

They return what ``Loss.evaluate_groups`` does: the derivatives at the policy's outputs, and the sums of the terms over
the rows of each task. A comparison with NaN is false, so that NaN stays NaN.
"""

from __future__ import annotations

import math

import numpy as np
from numba import njit

_HALF_LOG_2_PI = 0.5 * math.log(2 * math.pi)


@njit(cache=True, nogil=True, error_model="numpy")
def _standardize(actions, mean, per_std, z):
    """Write the standardised actions of a row, and return the sum of their squares."""
    squares = 0.0
    for a in range(len(z)):
        z[a] = (actions[a] - mean[a]) * per_std[a]
        squares += z[a] * z[a]
    return squares


@njit(cache=True, nogil=True, error_model="numpy")
def _pull(weight, z, per_std, d_mean, d_log_std):
    """Add ``weight`` times the derivative of a row's log-probability."""
    for a in range(len(z)):
        d_mean[a] = weight * z[a] * per_std[a]
        d_log_std[a] += weight * (z[a] * z[a] - 1)


@njit(cache=True, nogil=True, error_model="numpy")
def _of_task(log_std, per_std):
    """Write 1 / std of the own actions, and return what is subtracted from log-probabilities, and the entropy."""
    constant = 0.0
    for a in range(len(per_std)):
        per_std[a] = math.exp(-log_std[a])
        constant += log_std[a] + _HALF_LOG_2_PI
    return constant, constant + 0.5 * len(per_std)


@njit(cache=True, nogil=True, error_model="numpy")
def a2c(actions, advantages, returns, kept, mean, log_std, dims, values, rl_coef, ent_coef, vf_coef, n_rows):
    """``A2CLoss`` for rows (k, m, dim).

    :param kept: (k, m, 1), or empty if all rows are
    :param log_std: (k, 1, action_dim)
    :param dims: how many actions are each task's own, (k,) int64; what is given for the others does not matter
    """
    k, m, n_actions = mean.shape
    d_mean, d_values = np.zeros(mean.shape, mean.dtype), np.zeros(values.shape, values.dtype)
    all_z, all_per_std = np.empty(n_actions), np.empty(n_actions)
    d_log_std, sums = np.zeros((k, n_actions)), np.zeros((k, 3))
    for task in range(k):
        z, per_std = all_z[: dims[task]], all_per_std[: dims[task]]
        (constant, entropy), n_kept = _of_task(log_std[task, 0], per_std), 0
        for i in range(m):
            if len(kept) and kept[task, i, 0] == 0:
                continue
            n_kept += 1
            log_prob = -0.5 * _standardize(actions[task, i], mean[task, i], per_std, z) - constant
            advantage, error = advantages[task, i, 0], values[task, i, 0] - returns[task, i, 0]
            _pull(-rl_coef / n_rows * advantage, z, per_std, d_mean[task, i], d_log_std[task])
            d_values[task, i, 0] = 2 * vf_coef / n_rows * error
            sums[task, 0] -= advantage * log_prob
            sums[task, 1] += error * error
        sums[task, 2] = -entropy * n_kept
        for a in range(dims[task]):
            d_log_std[task, a] -= rl_coef * ent_coef * n_kept / n_rows
    return d_mean, d_log_std, d_values, sums


@njit(cache=True, nogil=True, error_model="numpy")
def ppo(actions, advantages, returns, old_values, old_log_prob, kept, mean, log_std, dims, values, clip, coefs, n_rows):
    """``PPOLoss`` for rows (k, m, dim).

    :param kept: (k, m, 1), or empty if all rows are
    :param log_std: (k, 1, action_dim)
    :param dims: how many actions are each task's own, (k,) int64; what is given for the others does not matter
    :param clip: the ranges of the ratio and of the values, which is infinite without one
    :param coefs: of RL, of the entropy and of the values
    """
    k, m, n_actions = mean.shape
    (clip_range, clip_range_vf), (rl_coef, ent_coef, vf_coef) = clip, coefs
    d_mean, d_values = np.zeros(mean.shape, mean.dtype), np.zeros(values.shape, values.dtype)
    all_z, all_per_std = np.empty(n_actions), np.empty(n_actions)
    d_log_std, sums = np.zeros((k, n_actions)), np.zeros((k, 5))
    for task in range(k):
        z, per_std = all_z[: dims[task]], all_per_std[: dims[task]]
        (constant, entropy), n_kept = _of_task(log_std[task, 0], per_std), 0
        for i in range(m):
            if len(kept) and kept[task, i, 0] == 0:
                continue
            n_kept += 1
            log_prob = -0.5 * _standardize(actions[task, i], mean[task, i], per_std, z) - constant
            log_ratio = log_prob - old_log_prob[task, i, 0]
            ratio, advantage = math.exp(log_ratio), advantages[task, i, 0]
            clipped = ratio
            if ratio < 1 - clip_range:
                clipped = 1 - clip_range
            elif ratio > 1 + clip_range:
                clipped = 1 + clip_range
            surrogate, is_clipped = advantage * ratio, advantage * ratio > advantage * clipped
            if not is_clipped:
                _pull(-rl_coef / n_rows * surrogate, z, per_std, d_mean[task, i], d_log_std[task])
            value, old = values[task, i, 0], old_values[task, i, 0]
            predicted, moves = value, 1.0
            if value - old < -clip_range_vf:
                predicted, moves = old - clip_range_vf, 0.0
            elif value - old > clip_range_vf:
                predicted, moves = old + clip_range_vf, 0.0
            error = predicted - returns[task, i, 0]
            d_values[task, i, 0] = 2 * vf_coef / n_rows * error * moves
            sums[task, 0] -= advantage * clipped if is_clipped else surrogate
            sums[task, 1] += error * error
            sums[task, 3] += (ratio - 1) - log_ratio
            sums[task, 4] += abs(ratio - 1) > clip_range
        sums[task, 2] = -entropy * n_kept
        for a in range(dims[task]):
            d_log_std[task, a] -= rl_coef * ent_coef * n_kept / n_rows
    return d_mean, d_log_std, d_values, sums
