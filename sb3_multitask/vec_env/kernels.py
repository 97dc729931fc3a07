"""Compiled loops of a VecEnv's step; see :mod:`sb3_multitask.process.kernels`."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def normalize_step(  # type: ignore[no-untyped-def]
    obs, rewards, returns, mean, var, count, gamma, epsilon, clip_obs, clip_reward, training, norm_obs, norm_reward
):
    """Add a step to the moments of k tasks and normalise it, as ``MultiTaskVecNormalize.step_wait``.

    :param obs: (k, m, obs_dim)
    :param rewards: (k, m)
    :param returns: discounted, (k, m) float64; updated
    :param mean: (k, obs_dim + 1), like ``var`` and ``count``, with the return's in the last column; updated
    :return: observations and rewards, as float32
    """
    k, m, obs_dim = obs.shape
    new_obs, new_rewards = np.empty(obs.shape, np.float32), np.empty(rewards.shape, np.float32)
    first = 0 if norm_obs else obs_dim
    for task in range(k):
        if training:
            for i in range(m):
                returns[task, i] = returns[task, i] * gamma + rewards[task, i]
            for column in range(first, obs_dim + 1):
                total = 0.0
                for i in range(m):
                    total += returns[task, i] if column == obs_dim else obs[task, i, column]
                batch_mean, squares = total / m, 0.0
                for i in range(m):
                    value = returns[task, i] if column == obs_dim else obs[task, i, column]
                    squares += (value - batch_mean) ** 2
                count[task, column] += m
                weight = m / count[task, column]
                delta = batch_mean - mean[task, column]
                mean[task, column] += delta * weight
                spread = var[task, column] + delta * delta * weight
                var[task, column] = spread - spread * weight + squares / m * weight
        for column in range(obs_dim):
            if norm_obs:
                center, std = mean[task, column], np.sqrt(var[task, column] + epsilon)
                for i in range(m):
                    value = (obs[task, i, column] - center) / std
                    new_obs[task, i, column] = min(max(value, -clip_obs), clip_obs)
        std = np.sqrt(var[task, obs_dim] + epsilon)
        for i in range(m):
            if norm_reward:
                new_rewards[task, i] = min(max(rewards[task, i] / std, -clip_reward), clip_reward)
            else:
                new_rewards[task, i] = rewards[task, i]
    return new_obs, new_rewards
