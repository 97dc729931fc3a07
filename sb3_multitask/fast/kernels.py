"""Compiled loops of an update; see :mod:`sb3_multitask.process.kernels`."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, error_model="numpy")
def rmsprop_step(weights, gradient, average, decay, lr, alpha, eps):
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
def forward(x, trunk, hidden, head, grouped):
    """Compute the activations of a trunk and its heads; rows come task by task.

    :param x: (k * m, obs_dim)
    :param trunk: a tuple of weights (in, out) and one of biases (out,)
    :param hidden: for the trunk's activations, (k * m, out)
    :param head: a tuple of weights (k, in, out) and one of biases (k, 1, out)
    :param grouped: for the heads', (k, m, out); the last are linear
    """
    weights, biases = trunk
    for i in range(len(weights)):
        np.dot(x, weights[i], hidden[i])
        _add_bias(hidden[i], biases[i], is_tanh=True)
        x = hidden[i]
    weights, biases = head
    k, m = grouped[0].shape[:2]
    for task in range(k):
        rows = x[task * m : (task + 1) * m]
        for i in range(len(weights)):
            np.dot(rows, weights[i][task], grouped[i][task])
            rows = grouped[i][task]
            _add_bias(rows, biases[i][task, 0], is_tanh=i < len(weights) - 1)


@njit(cache=True, nogil=True, error_model="numpy")
def act(x, trunk, hidden, head, grouped, noise, std, actions):
    """:func:`forward`, and sample actions from the Gaussians whose means it computes.

    :param noise: standard normal, (k, m, action_dim)
    :param std: (k, 1, action_dim)
    :param actions: receives them, (k, m, action_dim)
    """
    forward(x, trunk, hidden, head, grouped)
    mean = grouped[len(grouped) - 1]
    for task in range(mean.shape[0]):
        for i in range(mean.shape[1]):
            for a in range(mean.shape[2]):
                actions[task, i, a] = mean[task, i, a] + noise[task, i, a] * std[task, 0, a]


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


@njit(cache=True, nogil=True, error_model="numpy")
def trunk_backward(weights, activations, d_h, gradients, biases, scratch):
    """Write the gradient of every layer of a trunk, given that of its output, (n_rows, dim), which is overwritten.

    :param weights: (out, in) of each layer
    :param activations: ``[x, ..., output]``, (n_rows, dim) each
    :param gradients: receives those of the weights
    :param biases: receives those of the biases
    :param scratch: (n_rows, in) of each layer
    """
    for i in range(len(weights) - 1, -1, -1):
        _through_tanh(d_h, activations[i + 1])
        np.dot(d_h.T, activations[i], gradients[i])
        _sum_rows(d_h, biases[i])
        if i:
            np.dot(d_h, weights[i], scratch[i])
            d_h = scratch[i]


@njit(cache=True, nogil=True, error_model="numpy")
def heads_backward(weights, activations, d_out, tasks, gradients, biases, scratch):
    """Write the gradient of the heads of ``tasks``, given that of their output; the last scratch receives the input's.

    :param weights: (n_tasks, in, out) of each layer
    :param activations: ``[x, ..., output]``, (k, m, dim) each
    :param d_out: (k, m, dim)
    :param tasks: ids of the k tasks
    :param scratch: (k, m, in) of each layer
    """
    for place in range(len(tasks)):
        task, d_z = tasks[place], d_out[place]
        for i in range(len(weights) - 1, -1, -1):
            h, weight, d_h = activations[i][place], weights[i][task], scratch[i][place]
            np.dot(h.T, d_z, gradients[i][task])
            _sum_rows(d_z, biases[i][task])
            if weight.shape[1] == 1:  # a product of a column and a row
                for row in range(d_h.shape[0]):
                    for j in range(d_h.shape[1]):
                        d_h[row, j] = d_z[row, 0] * weight[j, 0]
            else:
                np.dot(d_z, weight.T, d_h)
            if i:
                _through_tanh(d_h, h)
            d_z = d_h
