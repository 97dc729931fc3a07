"""Compiled loops of an update; see :mod:`sb3_multitask.process.kernels`."""

from __future__ import annotations

import numpy as np
from numba import njit

from sb3_multitask.policies.heads import TaskLayerNorm

_EPS = TaskLayerNorm.eps
_SUMS = {"contract", "reassoc", "nsz"}  # so that sums over the numbers of a row are computed several at a time


@njit(cache=True, nogil=True, error_model="numpy")
def rmsprop_step(weights, gradient, average, places, lr, alpha, eps):
    """Make a step of torch's RMSprop on some places of flat arrays.

    :param places: starts and stops, (n, 2)
    """
    number = weights.dtype.type
    kept, rest, lr, eps = number(alpha), number(1 - alpha), number(lr), number(eps)
    for start, stop in places:
        w, g, mean_square = weights[start:stop], gradient[start:stop], average[start:stop]
        for i in range(len(w)):
            mean_square[i] = mean_square[i] * kept + rest * g[i] * g[i]
            w[i] -= lr * (g[i] / (np.sqrt(mean_square[i]) + eps))


@njit(cache=True, nogil=True, error_model="numpy")
def adam_step(weights, gradient, average, square, size, beta1, beta2, correction, eps):
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


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _tanh(x):
    """Tanh of float32 with an error below 3e-7: Eigen's rational function of degrees 13 and 6."""
    number = np.float32
    limit = number(7.90531110763549805)
    if x > limit:  # NaN, with which every comparison is false, stays NaN
        x = limit
    elif x < -limit:
        x = -limit
    square = x * x
    p = number(-2.76076847742355e-16)
    p = square * p + number(2.00018790482477e-13)
    p = square * p + number(-8.60467152213735e-11)
    p = square * p + number(5.12229709037114e-08)
    p = square * p + number(1.48572235717979e-05)
    p = square * p + number(6.37261928875436e-04)
    p = square * p + number(4.89352455891786e-03)
    q = number(1.19825839466702e-06)
    q = square * q + number(1.18534705686654e-04)
    q = square * q + number(2.26843463243900e-03)
    q = square * q + number(4.89352518554385e-03)
    return x * p / q


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _add_bias(z, bias, is_tanh):
    for i in range(z.shape[0]):
        for j in range(z.shape[1]):
            value = z[i, j] + bias[j]
            z[i, j] = _tanh(value) if is_tanh else value


@njit(cache=True, nogil=True, error_model="numpy")
def _has_norm(norms, i):
    """Whether layer ``i`` has a norm; see ``Layers.arrays``."""
    return 2 * i + 1 < len(norms)


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_SUMS)
def _standardize(z, bias):
    """Add a bias to a row and give it mean 0 and variance 1, in place; return 1 / std."""
    number = z.dtype.type
    n, mean, variance = number(len(z)), number(0), number(0)
    for j in range(len(z)):
        z[j] += bias[j]
        mean += z[j]
    mean /= n
    for j in range(len(z)):
        variance += (z[j] - mean) * (z[j] - mean)
    per_std = number(1) / np.sqrt(variance / n + number(_EPS))
    for j in range(len(z)):
        z[j] = (z[j] - mean) * per_std
    return per_std


@njit(cache=True, nogil=True, error_model="numpy", fastmath={"contract"})
def _add_bias_and_normalize(z, bias, scale, shift):
    """Turn what a linear layer gives without its bias into what its layer norm and tanh give, in place."""
    for i in range(z.shape[0]):
        _standardize(z[i], bias)
        for j in range(z.shape[1]):
            z[i, j] = _tanh(z[i, j] * scale[j] + shift[j])


@njit(cache=True, nogil=True, error_model="numpy")
def _activate(z, biases, norms, i):
    """Turn the product of a trunk's layer ``i`` into its activation, in place."""
    if _has_norm(norms, i):
        _add_bias_and_normalize(z, biases[i], norms[2 * i], norms[2 * i + 1])
    else:
        _add_bias(z, biases[i], is_tanh=True)


@njit(cache=True, nogil=True, error_model="numpy")
def _activate_head(z, biases, norms, i, task):
    """The same of a head, whose last layer is linear; biases and norms are (k, 1, out)."""
    if _has_norm(norms, i):
        _add_bias_and_normalize(z, biases[i][task, 0], norms[2 * i][task, 0], norms[2 * i + 1][task, 0])
    else:
        _add_bias(z, biases[i][task, 0], is_tanh=i < len(biases) - 1)


@njit(cache=True, nogil=True, error_model="numpy")
def forward(x, trunk, hidden, head, grouped):
    """Compute the activations of a trunk and its heads; rows come task by task.

    :param x: (k * m, obs_dim)
    :param trunk: a tuple of weights (in, out), one of biases (out,), and one of norms, see ``Layers.arrays``
    :param hidden: for the trunk's activations, (k * m, out)
    :param head: tuples of weights (k, in, out), and of biases and norms (k, 1, out)
    :param grouped: for the heads', (k, m, out); the last are linear
    """
    weights, biases, norms = trunk
    for i in range(len(weights)):
        np.dot(x, weights[i], hidden[i])
        _activate(hidden[i], biases, norms, i)
        x = hidden[i]
    weights, biases, norms = head
    k, m = grouped[0].shape[:2]
    for task in range(k):
        rows = x[task * m : (task + 1) * m]
        for i in range(len(weights)):
            np.dot(rows, weights[i][task], grouped[i][task])
            rows = grouped[i][task]
            _activate_head(rows, biases, norms, i, task)


@njit(cache=True, nogil=True, error_model="numpy")
def act(step, observations, trunk, head, hidden, outputs, noise, std, bounds, dims, starts, actions):
    """Sample the actions of a step from the Gaussians whose means the nets compute.

    :param observations: of the steps, (at least ``step + 1``, n, obs_dim)
    :param trunk: as for :func:`forward`, like ``head``
    :param hidden: for the trunk's activations, (n_steps, n, out) of each layer
    :param outputs: for the heads', (n_steps, n, out)
    :param noise: standard normal, (n_steps, n, action_dim)
    :param std: (k, 1, action_dim)
    :param bounds: low and high of each task, (2, k, action_dim)
    :param dims: how many actions are each task's own, (k,) int64; the means of the others become 0
    :param starts: the first row of each task, and the number of rows, (k + 1,) int64
    :param actions: receives them, (n_steps, n, action_dim), 0 where they are not the task's own
    :return: the actions within the bounds, (n, action_dim)
    """
    x, (weights, biases, norms) = observations[step], trunk
    for i in range(len(weights)):
        h = hidden[i][step]
        np.dot(x, weights[i], h)
        _activate(h, biases, norms, i)
        x = h
    weights, biases, norms = head
    for task in range(len(std)):
        rows = x[starts[task] : starts[task + 1]]
        for i in range(len(weights)):
            z = outputs[i][step, starts[task] : starts[task + 1]]
            np.dot(rows, weights[i][task], z)
            _activate_head(z, biases, norms, i, task)
            rows = z
    mean, sampled, clipped = outputs[len(outputs) - 1][step], actions[step], np.empty_like(actions[step])
    for task in range(len(std)):
        for i in range(starts[task], starts[task + 1]):
            for a in range(dims[task]):
                action = mean[i, a] + noise[step, i, a] * std[task, 0, a]
                sampled[i, a] = action
                if action < bounds[0, task, a]:  # NaN, with which every comparison is false, stays NaN
                    action = bounds[0, task, a]
                elif action > bounds[1, task, a]:
                    action = bounds[1, task, a]
                clipped[i, a] = action
            for a in range(dims[task], sampled.shape[1]):
                mean[i, a] = sampled[i, a] = clipped[i, a] = 0
    return clipped


@njit(cache=True, nogil=True, error_model="numpy")
def values(observations, trunk, head, x, hidden, grouped, hidden_after, grouped_after, values):
    """Compute the values of a rollout and of what comes after it.

    :param observations: (n_steps + 1, k * m, obs_dim)
    :param trunk: as for :func:`forward`, like ``head``
    :param x: receives the observations of the rollout task by task, (k * n_steps * m, obs_dim)
    :param hidden: for its activations, as for :func:`forward`, like ``grouped``
    :param hidden_after: for those of the last observations, like ``grouped_after``
    :param values: receives the values, (n_steps + 1, k * m)
    """
    (n_steps, n_envs), k = (len(observations) - 1, observations.shape[1]), len(grouped[0])
    m = n_envs // k
    for task in range(k):
        for step in range(n_steps):
            for i in range(m):
                for j in range(x.shape[1]):
                    x[(task * n_steps + step) * m + i, j] = observations[step, task * m + i, j]
    forward(x, trunk, hidden, head, grouped)
    forward(observations[n_steps], trunk, hidden_after, head, grouped_after)
    of_rollout, after = grouped[len(grouped) - 1], grouped_after[len(grouped_after) - 1]
    for task in range(k):
        for i in range(m):
            for step in range(n_steps):
                values[step, task * m + i] = of_rollout[task, step * m + i, 0]
            values[n_steps, task * m + i] = after[task, i, 0]


@njit(cache=True, nogil=True, error_model="numpy")
def regroup(arrays, grouped):
    """Copy what comes step by step, (n_steps, k * m, dim) each, task by task: (k, n_steps * m, dim)."""
    for number in range(len(arrays)):
        rows, memory = arrays[number], grouped[number]
        n_steps, (k, n, dim) = len(rows), memory.shape
        m = n // n_steps
        for task in range(k):
            for step in range(n_steps):
                for i in range(m):
                    for j in range(dim):
                        memory[task, step * m + i, j] = rows[step, task * m + i, j]


@njit(cache=True, nogil=True, error_model="numpy")
def advantages(rewards, values, episode_starts, gamma, gae_lambda, advantages, returns):
    """Write generalised advantages and returns, as ``generalized_advantages``.

    :param rewards: (n_steps, n_envs)
    :param values: (n_steps + 1, n_envs), like ``episode_starts``
    :param advantages: receives them, (n_steps, n_envs), like ``returns``
    """
    number = rewards.dtype.type
    gamma, decay = number(gamma), number(gamma * gae_lambda)
    n_steps, n_envs = rewards.shape
    for step in range(n_steps - 1, -1, -1):
        for env in range(n_envs):
            alive = number(1) - episode_starts[step + 1, env]
            advantage = rewards[step, env] + gamma * values[step + 1, env] * alive - values[step, env]
            if step < n_steps - 1:
                advantage += alive * decay * advantages[step + 1, env]
            advantages[step, env] = advantage
            returns[step, env] = advantage + values[step, env]


@njit(cache=True, nogil=True, error_model="numpy")
def transpose(weights, copies):
    """Copy weights, (out, in), to (in, out)."""
    for number in range(len(weights)):
        weight, copy = weights[number], copies[number]
        for i in range(weight.shape[0]):
            for j in range(weight.shape[1]):
                copy[j, i] = weight[i, j]


@njit(cache=True, nogil=True, error_model="numpy")
def explained_variance(values, returns):
    """How much of the returns' variance the values explain, of flat arrays."""
    n, mean, mean_error = len(values), 0.0, 0.0
    for i in range(n):
        mean += returns[i]
        mean_error += returns[i] - values[i]
    mean, mean_error, variance, error = mean / n, mean_error / n, 0.0, 0.0
    for i in range(n):
        variance += (returns[i] - mean) ** 2
        error += (returns[i] - values[i] - mean_error) ** 2
    return np.nan if variance == 0 else 1 - error / variance


@njit(cache=True, nogil=True, error_model="numpy")
def clip(gradient, places, max_norm):
    """Scale some places of a flat gradient to at most ``max_norm``, as ``clip_gradient``; return their norm before."""
    total = gradient.dtype.type(0)
    for start, stop in places:
        total += np.dot(gradient[start:stop], gradient[start:stop])
    norm = np.sqrt(total)
    scale = max_norm / (norm + 1e-6)
    if scale < 1:
        for start, stop in places:
            part = gradient[start:stop]
            for i in range(len(part)):
                part[i] *= gradient.dtype.type(scale)
    return norm


@njit(cache=True, nogil=True, error_model="numpy")
def _through_tanh(d_h, h):
    for i in range(d_h.shape[0]):
        for j in range(d_h.shape[1]):
            d_h[i, j] *= 1 - h[i, j] * h[i, j]


@njit(cache=True, nogil=True, error_model="numpy")
def _sum_rows(d_z, total):
    total[:] = 0
    for i in range(d_z.shape[0]):
        for j in range(d_z.shape[1]):
            total[j] += d_z[i, j]


@njit(cache=True, nogil=True, error_model="numpy", fastmath=_SUMS)
def _through_norm(d_y, z, bias, scale, d_scale, d_shift):
    """Turn the gradient at the output of a layer norm into that at its input, in place.

    :param z: its input without the bias, like ``d_y`` (n_rows, dim), which is overwritten
    :param d_scale: receives the gradient of the scale, like ``d_shift``
    """
    d_scale[:], d_shift[:] = 0, 0
    number = z.dtype.type
    dim = number(z.shape[1])
    for i in range(z.shape[0]):
        normalized, d = z[i], d_y[i]
        per_std, mean, slope = _standardize(normalized, bias), number(0), number(0)
        for j in range(len(d)):
            d_scale[j] += d[j] * normalized[j]
            d_shift[j] += d[j]
            d[j] *= scale[j]
            mean += d[j]
            slope += d[j] * normalized[j]
        mean, slope = mean / dim, slope / dim
        for j in range(len(d)):
            d[j] = (d[j] - mean - normalized[j] * slope) * per_std


@njit(cache=True, nogil=True, error_model="numpy")
def trunk_backward(trunk, activations, d_h, gradients, scratch):
    """Write the gradient of every layer of a trunk, given that of its output, (n_rows, dim), which is overwritten.

    :param trunk: weights (out, in) of each layer, biases and norms
    :param activations: ``[x, ..., output]``, (n_rows, dim) each
    :param gradients: receive those of these
    :param scratch: (n_rows, in) of each layer
    """
    (weights, biases, norms), (d_weights, d_biases, d_norms) = trunk, gradients
    for i in range(len(weights) - 1, -1, -1):
        _through_tanh(d_h, activations[i + 1])
        if _has_norm(norms, i):
            z = np.dot(activations[i], weights[i].T)
            _through_norm(d_h, z, biases[i], norms[2 * i], d_norms[2 * i], d_norms[2 * i + 1])
        np.dot(d_h.T, activations[i], d_weights[i])
        _sum_rows(d_h, d_biases[i])
        if i:
            np.dot(d_h, weights[i], scratch[i])
            d_h = scratch[i]


@njit(cache=True, nogil=True, error_model="numpy")
def trunk_backward_by_task(trunk, activations, d_h, k, by_task, scratch):
    """Write what the rows of each of k tasks add to the gradient of every layer, as :func:`trunk_backward`.

    :param activations: ``[x, ..., output]``, (k * m, dim) each, whose rows come task by task
    :param by_task: receive those of the trunk, with an axis of the k tasks before
    """
    (weights, biases, norms), (d_weights, d_biases, d_norms) = trunk, by_task
    m = len(d_h) // k
    for i in range(len(weights) - 1, -1, -1):
        _through_tanh(d_h, activations[i + 1])
        for task in range(k):
            d_z, x = d_h[task * m : (task + 1) * m], activations[i][task * m : (task + 1) * m]
            if _has_norm(norms, i):
                z = np.dot(x, weights[i].T)
                _through_norm(d_z, z, biases[i], norms[2 * i], d_norms[2 * i][task], d_norms[2 * i + 1][task])
            np.dot(d_z.T, x, d_weights[i][task])
            _sum_rows(d_z, d_biases[i][task])
        if i:
            np.dot(d_h, weights[i], scratch[i])
            d_h = scratch[i]


@njit(cache=True, nogil=True, error_model="numpy")
def heads_backward(heads, activations, d_out, tasks, gradients, scratch):
    """Write the gradient of the heads of ``tasks``, given that of their output; the last scratch receives the input's.

    :param heads: weights (n_tasks, in, out) of each layer, biases and norms
    :param activations: ``[x, ..., output]``, (k, m, dim) each
    :param d_out: (k, m, dim)
    :param tasks: ids of the k tasks
    :param gradients: receive those of the heads
    :param scratch: (k, m, in) of each layer
    """
    (weights, biases, norms), (d_weights, d_biases, d_norms) = heads, gradients
    for place in range(len(tasks)):
        task, d_z = tasks[place], d_out[place]
        for i in range(len(weights) - 1, -1, -1):
            h, weight, d_h = activations[i][place], weights[i][task], scratch[i][place]
            if _has_norm(norms, i):
                z = np.dot(h, weight)
                d_norm = d_norms[2 * i][task], d_norms[2 * i + 1][task]
                _through_norm(d_z, z, biases[i][task], norms[2 * i][task], *d_norm)
            np.dot(h.T, d_z, d_weights[i][task])
            _sum_rows(d_z, d_biases[i][task])
            if weight.shape[1] == 1:  # a product of a column and a row
                for row in range(d_h.shape[0]):
                    for j in range(d_h.shape[1]):
                        d_h[row, j] = d_z[row, 0] * weight[j, 0]
            else:
                np.dot(d_z, weight.T, d_h)
            if i:
                _through_tanh(d_h, h)
            d_z = d_h


@njit(cache=True, nogil=True, error_model="numpy")
def backward(trunk, head, rows, grouped, d_out, tasks, of_trunk, of_heads, trunk_scratch, head_scratch):
    """Write the gradient of a net of which :func:`forward` computed the activations.

    :param trunk: weights (out, in) of each layer, biases and norms
    :param head: the same of the heads, with weights (n_tasks, in, out)
    :param rows: activations of the trunk, ``(x, ..., output)``, (k * m, dim) each
    :param grouped: those of the heads, (k, m, dim), of which the first are the trunk's last
    :param d_out: gradient of the last, (k, m, dim)
    :param of_trunk: receive those of the trunk, like ``of_heads``
    """
    heads_backward(head, grouped, d_out, tasks, of_heads, head_scratch)
    d_latent = head_scratch[0]
    k, m, dim = d_latent.shape
    trunk_backward(trunk, rows, d_latent.reshape(k * m, dim), of_trunk, trunk_scratch)


@njit(cache=True, nogil=True, error_model="numpy")
def backward_by_task(trunk, head, rows, grouped, d_out, tasks, by_task, of_heads, trunk_scratch, head_scratch):
    """Write the gradient of the heads, as :func:`backward`, and what each task adds to that of the trunk.

    :param by_task: receive those of the trunk, with an axis of the k tasks before
    """
    heads_backward(head, grouped, d_out, tasks, of_heads, head_scratch)
    d_latent = head_scratch[0]
    k, m, dim = d_latent.shape
    trunk_backward_by_task(trunk, rows, d_latent.reshape(k * m, dim), k, by_task, trunk_scratch)


@njit(cache=True, nogil=True, error_model="numpy")
def gramian(matrices):
    """Compute the sum of the Gramians of some matrices, (k, n) each: (k, k) float64."""
    k = len(matrices[0])
    total = np.zeros((k, k))
    for number in range(len(matrices)):
        matrix = matrices[number]
        if k > 16:
            total += np.dot(matrix, matrix.T)
            continue
        for i in range(k):  # of few rows, products of vectors are faster
            for j in range(i + 1):
                total[i, j] += np.dot(matrix[i], matrix[j])
    if k <= 16:
        for i in range(k):
            for j in range(i):
                total[j, i] = total[i, j]
    return total


@njit(cache=True, nogil=True, error_model="numpy")
def combine(factors, matrices, targets):
    """Write the sum of the rows of each matrix, (k, n), by some factors, (k,), into its target, (n,)."""
    for number in range(len(matrices)):
        matrix, target = matrices[number], targets[number]
        np.dot(factors, matrix, target)
