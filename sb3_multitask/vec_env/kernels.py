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
    obs, rewards, returns, mean, var, count, rows, dims, start, gamma, epsilon, limits, training, norm_obs, norm_reward
):
    """Add a step of consecutive tasks to their moments and normalise it, as ``MultiTaskVecNormalize.step_wait``.

    :param obs: task by task, (n_rows, obs_dim)
    :param rewards: (n_rows,)
    :param returns: discounted, (n_rows,) float64; updated
    :param mean: (n_tasks, obs_dim + 1), like ``var`` and ``count``, with the return's in the last column; updated
    :param rows: the first row of every task in a step of all tasks, and the number of rows, (n_tasks + 1,)
    :param dims: size of the observations of every task, (n_tasks,); behind it is padding, which stays 0
    :param start: the first task
    :param limits: of observations and rewards
    :return: observations and rewards, as float32
    """
    n_rows, obs_dim = obs.shape
    offset, first = rows[start], 0 if norm_obs else obs_dim
    new_obs, new_rewards = np.empty(obs.shape, np.float32), np.empty(n_rows, np.float32)
    batch_mean, batch_var, std = np.empty(obs_dim + 1), np.empty(obs_dim + 1), np.empty(obs_dim + 1)
    for task in range(start, len(dims)):
        begin, end, dim = rows[task] - offset, rows[task + 1] - offset, dims[task]
        if begin == n_rows:
            break
        if training:
            for i in range(begin, end):
                returns[i] = returns[i] * gamma + rewards[i]
            _moments(obs[begin:end], dim, returns[begin:end], batch_mean, batch_var)
            _add_moments(batch_mean, batch_var, end - begin, mean[task], var[task], count[task], first, dim)
        for column in range(obs_dim + 1):
            std[column] = np.sqrt(var[task, column] + epsilon)
        for i in range(begin, end):
            if norm_obs:
                for column in range(dim):
                    value = (obs[i, column] - mean[task, column]) / std[column]
                    new_obs[i, column] = _clipped(value, limits[0])
                new_obs[i, dim:] = 0
            new_rewards[i] = _clipped(rewards[i] / std[obs_dim], limits[1]) if norm_reward else rewards[i]
    return new_obs, new_rewards


@njit(cache=True, nogil=True, error_model="numpy")
def _moments(rows, dim, returns, mean, var):
    """Write the moments of the first columns of some rows, (m, at least dim), and last those of their returns, (m,)."""
    m, last, total = len(rows), len(mean) - 1, 0.0
    mean[:], var[:] = 0, 0
    for i in range(m):
        for column in range(dim):
            mean[column] += rows[i, column]
        mean[last] += returns[i]
    for column in range(dim):
        mean[column] /= m
    mean[last] /= m
    for i in range(m):
        for column in range(dim):
            var[column] += (rows[i, column] - mean[column]) ** 2
        total += (returns[i] - mean[last]) ** 2
    for column in range(dim):
        var[column] /= m
    var[last] = total / m


@njit(cache=True, nogil=True, error_model="numpy")
def _add_moments(batch_mean, batch_var, m, mean, var, count, first, dim):
    """Add the moments of m new samples to those of a task, as ``TaskMoments.update``.

    The columns are those from ``first`` to ``dim``, and the last.
    """
    last = len(mean) - 1
    for place in range(first, max(first, dim) + 1):
        column = place if place < dim else last
        count[column] += m
        weight, delta = m / count[column], batch_mean[column] - mean[column]
        mean[column] += delta * weight
        spread = var[column] + delta * delta * weight
        var[column] = spread - spread * weight + batch_var[column] * weight


@njit(cache=True, nogil=True, error_model="numpy")
def runner_step(qpos, qvel, before, actions, weights, ranges, terminates, first_qpos, largest_qvel):
    """Observe robots after a step, and compute their rewards, as Gymnasium's planar runners in the same order.

    :param qpos: (n, nq) float64
    :param before: positions before the step, of which the first is x, (n, at least 1)
    :param actions: (n, nu) float32
    :param weights: seconds of a step, and the weights of velocity, control (a float32's) and health, (n, 4)
    :param ranges: within which robots are healthy: height, angle, and every other number of the state, (n, 3, 2)
    :param terminates: whether the episode of a robot ends if it is not, (n,)
    :param first_qpos: of the observation
    :return: observations; the rewards, velocities along x, their rewards, costs of control, rewards of health, and the
        first three of ``qpos``, (8, n); whether the episodes end
    """
    (n, nq), nv = qpos.shape, qvel.shape[1]
    obs, terms, terminated = np.empty((n, nq - first_qpos + nv)), np.empty((8, n)), np.empty(n, np.bool_)
    for i in range(n):
        dt, forward_weight, ctrl_weight, healthy_weight = weights[i]
        for j in range(first_qpos, nq):
            obs[i, j - first_qpos] = qpos[i, j]
        for j in range(nv):
            obs[i, nq - first_qpos + j] = min(max(qvel[i, j], -largest_qvel), largest_qvel)
        cost = np.float32(0)
        for j in range(actions.shape[1]):
            cost += actions[i, j] * actions[i, j]
        x_velocity, ctrl_cost = (qpos[i, 0] - before[i, 0]) / dt, np.float32(ctrl_weight) * cost
        forward = forward_weight * x_velocity
        is_healthy = True
        if terminates[i] or healthy_weight != 0:  # nothing else asks
            is_healthy = _is_within(ranges[i, 0], qpos[i, 1:2]) and _is_within(ranges[i, 1], qpos[i, 2:3])
            is_healthy = is_healthy and _is_within(ranges[i, 2], qpos[i, 2:]) and _is_within(ranges[i, 2], qvel[i])
        healthy = healthy_weight if is_healthy else 0.0
        terms[0, i] = forward + healthy - ctrl_cost
        terms[1, i], terms[2, i], terms[3, i], terms[4, i] = x_velocity, forward, ctrl_cost, healthy
        for j in range(3):
            terms[5 + j, i] = qpos[i, j] if j < nq else 0.0
        terminated[i] = terminates[i] and not is_healthy
    return obs, terms, terminated


@njit(cache=True, nogil=True, error_model="numpy")
def _is_within(limits, numbers):
    for number in numbers:
        if not limits[0] < number < limits[1]:
            return False
    return True


@njit(cache=True, nogil=True, error_model="numpy")
def are_in_range(values, limit):
    """Whether all numbers of a flat array are finite and within a limit."""
    n_good = 0
    for value in values:  # without an early end, so that several are compared at once
        n_good += abs(value) < limit
    return n_good == len(values)


@njit(cache=True, nogil=True, error_model="numpy")
def end_of_step(elapsed, limits, terminated):
    """Count a step of episodes, (n,); return whether they are cut by their limits, whether they end, and which do."""
    elapsed += 1
    truncated = elapsed >= limits
    dones = truncated | terminated
    return truncated, dones, dones.nonzero()[0]
