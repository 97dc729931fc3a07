"""Compiled loops of a VecEnv's step; see :mod:`sb3_multitask.process.kernels`."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def _clipped(value, limit):
    """A number within a limit; NaN, with which every comparison is false, stays NaN."""
    if value > limit:
        return limit
    return -limit if value < -limit else value


@njit(cache=True, nogil=True, error_model="numpy")
def normalize_step(
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
    for task in range(k):
        if training:
            for i in range(m):
                returns[task, i] = returns[task, i] * gamma + rewards[task, i]
            for column in range(obs_dim if norm_obs else 0):
                _add_to_moments(obs[task, :, column], mean[task], var[task], count[task], column)
            _add_to_moments(returns[task], mean[task], var[task], count[task], obs_dim)
        for column in range(obs_dim if norm_obs else 0):
            center, std = mean[task, column], np.sqrt(var[task, column] + epsilon)
            for i in range(m):
                new_obs[task, i, column] = _clipped((obs[task, i, column] - center) / std, clip_obs)
        std = np.sqrt(var[task, obs_dim] + epsilon)
        for i in range(m):
            new_rewards[task, i] = _clipped(rewards[task, i] / std, clip_reward) if norm_reward else rewards[task, i]
    return new_obs, new_rewards


@njit(cache=True, nogil=True, error_model="numpy")
def _add_to_moments(values, mean, var, count, column):
    """Add new samples, (m,), to the moments of a column, by the formula of ``TaskMoments.update``."""
    m, total, squares = len(values), 0.0, 0.0
    for value in values:
        total += value
    batch_mean = total / m
    for value in values:
        squares += (value - batch_mean) ** 2
    count[column] += m
    weight, delta = m / count[column], batch_mean - mean[column]
    mean[column] += delta * weight
    spread = var[column] + delta * delta * weight
    var[column] = spread - spread * weight + squares / m * weight


@njit(cache=True, nogil=True, error_model="numpy")
def runner_step(
    qpos, qvel, before, actions, dt, forward_weight, ctrl_weight, healthy_weight, ranges, first_qpos, largest_qvel
):
    """Observe robots after a step, and compute their rewards, as Gymnasium's planar runners in the same order.

    :param qpos: (n, nq) float64
    :param before: positions before the step, of which the first is x, (n, at least 1)
    :param actions: (n, nu) float32
    :param dt: seconds, (n,), as the weights
    :param ranges: within which robots are healthy: height, angle, and every other number of the state, (n, 3, 2)
    :param first_qpos: of the observation
    :return: observations, the first three of ``qpos``, velocities along x, their rewards, costs of control, rewards of
        health, all rewards, and whether the robots are healthy
    """
    n, nq, nv = len(qpos), qpos.shape[1], qvel.shape[1]
    obs, positions = np.empty((n, nq - first_qpos + nv)), np.empty((n, min(nq, 3)))
    x_velocity, forward, healthy, rewards = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    ctrl_cost, is_healthy = np.empty(n, np.float32), np.empty(n, np.bool_)
    for i in range(n):
        positions[i] = qpos[i, : positions.shape[1]]
        obs[i, : nq - first_qpos] = qpos[i, first_qpos:]
        for j in range(nv):
            obs[i, nq - first_qpos + j] = min(max(qvel[i, j], -largest_qvel), largest_qvel)
        cost = np.float32(0)
        for j in range(actions.shape[1]):
            cost += actions[i, j] * actions[i, j]
        ctrl_cost[i] = ctrl_weight[i] * cost
        x_velocity[i] = (qpos[i, 0] - before[i, 0]) / dt[i]
        forward[i] = forward_weight[i] * x_velocity[i]
        is_healthy[i] = _is_within(ranges[i, 0], qpos[i, 1:2]) and _is_within(ranges[i, 1], qpos[i, 2:3])
        is_healthy[i] = is_healthy[i] and _is_within(ranges[i, 2], qpos[i, 2:]) and _is_within(ranges[i, 2], qvel[i])
        healthy[i] = healthy_weight[i] if is_healthy[i] else 0.0
        rewards[i] = forward[i] + healthy[i] - ctrl_cost[i]
    return obs, positions, x_velocity, forward, ctrl_cost, healthy, rewards, is_healthy


@njit(cache=True, nogil=True, error_model="numpy")
def _is_within(limits, numbers):
    for number in numbers:
        if not limits[0] < number < limits[1]:
            return False
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def are_in_range(values, limit):
    """Whether all numbers are finite and within a limit."""
    for value in values.flat:
        if not abs(value) < limit:
            return False
    return True
