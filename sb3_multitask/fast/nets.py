"""Forward and backward passes of the policy's nets, in numpy.

Rows come grouped by task, in the order of a VecEnv's rows at every step. A trunk takes rows as they are; heads take
them as (k, m, dim): k tasks, m rows of each. ``tasks`` selects the k tasks of the stacked heads: ``slice(None)`` for
all of them, or (k,) ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np

from sb3_multitask.fast.parameters import Layer
from sb3_multitask.process.arrays import aligned_zeros

Tasks: TypeAlias = slice | np.ndarray


def transposed(layers: list[Layer], memory: list[np.ndarray]) -> list[Layer]:
    """Layers with their weights copied to (in, out): products with these are twice as fast as with ``weight.T``.

    :param memory: for the copies, of :func:`memory_of_copies`
    """
    return [(_copied(weight.T, copy), bias) for (weight, bias), copy in zip(layers, memory, strict=True)]


def memory_of_copies(shapes: Iterable[tuple[int, ...]], dtype: np.dtype) -> list[np.ndarray]:
    """Memory for copies of weights, aligned: what is computed with them does not depend on where memory was free."""
    return [aligned_zeros(shape, dtype) for shape in shapes]


def _copied(array: np.ndarray, copy: np.ndarray) -> np.ndarray:
    copy[...] = array
    return copy


def trunk_forward(layers: list[Layer], x: np.ndarray, hidden: Sequence[np.ndarray]) -> np.ndarray:
    """The trunk's output, (n_rows, dim).

    :param layers: :func:`transposed` layers
    :param x: (n_rows, obs_dim)
    :param hidden: receives the activations of every layer, each (n_rows, dim)
    """
    for (weight, bias), h in zip(layers, hidden, strict=True):
        x = np.matmul(x, weight, out=h)
        x += bias
        np.tanh(x, out=x)
    return x


def trunk_backward(layers: list[Layer], gradients: list[Layer], activations: list[np.ndarray], d_h: np.ndarray) -> None:
    """Write the gradient of every layer, given that of the last activation, (n_rows, dim).

    ``d_h`` is overwritten.
    """
    for i in reversed(range(len(layers))):
        h = activations[i + 1]
        slope = h * h
        np.subtract(1, slope, out=slope)
        d_z = d_h
        d_z *= slope
        np.matmul(d_z.T, activations[i], out=gradients[i][0])
        np.add.reduce(d_z, axis=0, out=gradients[i][1])
        if i:
            d_h = d_z @ layers[i][0]


def of_tasks(layers: list[Layer], tasks: Tasks, memory: list[np.ndarray] | None = None) -> list[Layer]:
    """The heads of some tasks, ready for :func:`heads_forward`: weights (k, in, out), biases (k, 1, out).

    :param memory: for the copies of weights if they are not a slice's, of :func:`memory_of_copies`; ``None``: new
    """
    if isinstance(tasks, slice):
        return [(weight[tasks], bias[tasks][:, None]) for weight, bias in layers]
    if memory is None:
        memory = memory_of_copies(((len(tasks), *weight.shape[1:]) for weight, _ in layers), layers[0][0].dtype)
    return [
        (_copied(weight[tasks], copy), bias[tasks][:, None])
        for (weight, bias), copy in zip(layers, memory, strict=True)
    ]


def heads_forward(layers: list[Layer], x: np.ndarray) -> list[np.ndarray]:
    """Activations of the heads: ``[x, ..., output]``, each (k, m, dim); the output is linear.

    :param layers: from :func:`of_tasks`
    :param x: (k, m, dim)
    """
    activations = [x]
    for weight, bias in layers[:-1]:
        z = np.matmul(activations[-1], weight)
        z += bias
        activations.append(np.tanh(z, out=z))
    weight, bias = layers[-1]
    output = np.matmul(activations[-1], weight)
    output += bias
    activations.append(output)
    return activations


def heads_backward(
    layers: list[Layer], gradients: list[Layer], activations: list[np.ndarray], d_out: np.ndarray, tasks: Tasks
) -> np.ndarray:
    """Write the gradient of the heads of ``tasks``, given that of their output; return that of their input."""
    d_z = d_out
    for i in reversed(range(len(layers))):
        weight, _ = layers[i]
        if isinstance(tasks, slice):
            np.matmul(activations[i].transpose(0, 2, 1), d_z, out=gradients[i][0])
            np.add.reduce(d_z, axis=1, out=gradients[i][1])
        else:
            gradients[i][0][tasks] = np.matmul(activations[i].transpose(0, 2, 1), d_z)
            gradients[i][1][tasks] = np.add.reduce(d_z, axis=1)
        d_z = np.matmul(d_z, np.ascontiguousarray(weight[tasks].transpose(0, 2, 1)))
        if i:
            slope = activations[i] * activations[i]
            np.subtract(1, slope, out=slope)
            d_z *= slope
    return d_z
