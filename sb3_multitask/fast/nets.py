"""Forward and backward passes of the policy's nets, in numpy.

Rows come grouped by task, in the order of a VecEnv's rows at every step. A trunk takes rows as they are; heads take
them as (k, m, dim): k tasks, m rows of each. ``tasks`` selects the k tasks of the stacked heads: ``slice(None)`` for
all of them, or (k,) ids.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias

import numpy as np

from sb3_multitask.fast.parameters import Layers
from sb3_multitask.policies.heads import TaskLayerNorm
from sb3_multitask.process.arrays import Scratch, aligned_zeros
from sb3_multitask.process.kernels import load_kernels
from sb3_multitask.vec_env.task_major import by_task

Tasks: TypeAlias = slice | np.ndarray


def forward(
    trunk: Layers, heads: Layers, x: np.ndarray, hidden: Sequence[np.ndarray], outputs: Sequence[np.ndarray]
) -> None:
    """Compute the activations of a trunk and its heads for rows that come task by task.

    :param trunk: :class:`~sb3_multitask.fast.weights.ReadyWeights`' layers
    :param heads: from :func:`of_tasks`
    :param x: (k * m, obs_dim)
    :param hidden: receives those of the trunk's layers, (k * m, dim) each
    :param outputs: receives those of the heads', (k, m, dim) each
    """
    kernels = load_kernels("fast") if hidden else None
    if kernels is not None:
        kernels.forward(x, trunk.arrays, tuple(hidden), heads.arrays, tuple(outputs))
        return
    latent = trunk_forward(trunk, x, hidden)
    heads_forward(heads, latent.reshape(*outputs[0].shape[:2], -1), outputs)


def backward(
    nets: tuple[Layers, Layers],
    gradients: tuple[Layers, Layers],
    activations: tuple[Sequence[np.ndarray], Sequence[np.ndarray]],
    d_out: np.ndarray,
    tasks: np.ndarray,
    scratch: tuple[Scratch, Scratch],
) -> None:
    """Write the gradient of a trunk and of its heads of some tasks, given that of the heads' output.

    :param nets: the trunk, with weights (out, in), and the heads of all tasks
    :param activations: of the trunk, ``(x, ..., output)``, (k * m, dim) each, and of the heads, (k, m, dim) each
    :param d_out: (k, m, dim)
    :param tasks: ids of the k tasks
    """
    kernels, (rows, grouped) = load_kernels("fast") if nets[0] else None, activations
    if kernels is None:
        d_latent = heads_backward(nets[1], gradients[1], grouped, d_out, tasks, scratch[1])
        trunk_backward(nets[0], gradients[0], rows, d_latent.reshape(len(rows[0]), -1), scratch[0])
        return
    memory = scratch[0].like("d_h", rows[:-1]), scratch[1].like("d_h", grouped[:-1])
    of_nets = nets[0].arrays, nets[1].arrays
    of_trunk, of_heads = gradients[0].arrays, gradients[1].arrays
    kernels.backward(*of_nets, rows, grouped, _contiguous(d_out), tasks, of_trunk, of_heads, *memory)


def backward_by_task(
    nets: tuple[Layers, Layers],
    by_task: Layers,
    of_heads: Layers,
    activations: tuple[Sequence[np.ndarray], Sequence[np.ndarray]],
    d_out: np.ndarray,
    tasks: np.ndarray,
    scratch: tuple[Scratch, Scratch],
) -> None:
    """Write what the rows of each task add to the gradient of a trunk, and the gradient of the heads.

    The other parameters are those of :func:`backward`.

    :param by_task: receives the former: the trunk's arrays with an axis of the k tasks before
    :param of_heads: receives the latter
    """
    kernels, (rows, grouped) = load_kernels("fast"), activations
    if kernels is None:
        d_latent = heads_backward(nets[1], of_heads, grouped, d_out, tasks, scratch[1])
        trunk_backward_by_task(nets[0], by_task, rows, d_latent, scratch[0])
        return
    memory = scratch[0].like("d_h", rows[:-1]), scratch[1].like("d_h", grouped[:-1])
    of_nets = nets[0].arrays, nets[1].arrays
    kernels.backward_by_task(
        *of_nets, rows, grouped, _contiguous(d_out), tasks, by_task.arrays, of_heads.arrays, *memory
    )


def regroup(arrays: Sequence[np.ndarray], grouped: Sequence[np.ndarray]) -> None:
    """Copy what comes step by step, (n_steps, k * m, dim) each, task by task: (k, n_steps * m, dim)."""
    kernels = load_kernels("fast")
    if kernels is not None:
        kernels.regroup(tuple(map(_contiguous, arrays)), tuple(grouped))
        return
    for array, memory in zip(arrays, grouped, strict=True):
        memory[...] = by_task(array, len(memory))


def _contiguous(array: np.ndarray) -> np.ndarray:
    """An array as compiled functions take it, all of one type; the same if it is so already."""
    array = np.ascontiguousarray(array, np.float32)
    return array if array.flags.writeable else array.copy()  # numba has another type for what is read-only


def memory_of_copies(shapes: Iterable[tuple[int, ...]], dtype: np.dtype) -> list[np.ndarray]:
    """Memory for copies of weights, aligned: what is computed with them does not depend on where memory was free."""
    return [aligned_zeros(shape, dtype) for shape in shapes]


def trunk_forward(layers: Layers, x: np.ndarray, hidden: Sequence[np.ndarray]) -> np.ndarray:
    """The trunk's output, (n_rows, dim).

    :param layers: :class:`~sb3_multitask.fast.weights.ReadyWeights`' layers
    :param x: (n_rows, obs_dim)
    :param hidden: receives the activations of every layer, each (n_rows, dim)
    """
    for i, ((weight, bias), h) in enumerate(zip(layers, hidden, strict=True)):
        x = np.matmul(x, weight, out=h)
        x += bias
        if i < len(layers.norms):
            _normalize(x, *layers.norms[i])
        np.tanh(x, out=x)
    return x


def _normalize(z: np.ndarray, scale: np.ndarray, shift: np.ndarray) -> None:
    """Turn rows into what a layer norm gives, in place."""
    _standardize(z)
    z *= scale
    z += shift


def _standardize(z: np.ndarray) -> np.ndarray:
    """Give rows mean 0 and variance 1, in place; return 1 / std of each, (..., 1)."""
    z -= z.mean(axis=-1, keepdims=True)
    per_std: np.ndarray = 1 / np.sqrt((z * z).mean(axis=-1, keepdims=True) + TaskLayerNorm.eps)
    z *= per_std
    return per_std


def trunk_backward(
    layers: Layers, gradients: Layers, activations: Sequence[np.ndarray], d_h: np.ndarray, scratch: Scratch
) -> None:
    """Write the gradient of every layer, given that of the last activation, (n_rows, dim), which is overwritten."""
    for i in reversed(range(len(layers))):
        d_z = _through_tanh(d_h, activations[i + 1], scratch)
        if i < len(layers.norms):
            z, (d_scale, d_shift) = activations[i] @ layers[i][0].T + layers[i][1], gradients.norms[i]
            d_z, d_scale[...], d_shift[...] = _through_norm(d_z, z, layers.norms[i][0])
        np.matmul(d_z.T, activations[i], out=gradients[i][0])
        np.matmul(scratch.ones(len(d_z)), d_z, out=gradients[i][1])
        if i:
            d_h = np.matmul(d_z, layers[i][0], out=scratch.array(("d_h", i), activations[i].shape))


def trunk_backward_by_task(
    layers: Layers, by_task: Layers, activations: Sequence[np.ndarray], d_h: np.ndarray, scratch: Scratch
) -> None:
    """Write what each task adds to the gradient of every layer, given that of the last activation, (k, m, dim)."""
    k, m, _ = d_h.shape
    d_h, ones = d_h.reshape(k * m, -1), scratch.ones(m)
    for i in reversed(range(len(layers))):
        grouped = _through_tanh(d_h, activations[i + 1], scratch).reshape(k, m, -1)
        if i < len(layers.norms):
            z = (activations[i] @ layers[i][0].T + layers[i][1]).reshape(k, m, -1)
            d_scale, d_shift = by_task.norms[i]
            grouped, d_scale[...], d_shift[...] = _through_norm(grouped, z, layers.norms[i][0])
        np.matmul(grouped.transpose(0, 2, 1), activations[i].reshape(k, m, -1), out=by_task[i][0])
        np.matmul(ones, grouped, out=by_task[i][1])
        if i:
            d_h = np.matmul(
                grouped.reshape(k * m, -1), layers[i][0], out=scratch.array(("d_h", i), activations[i].shape)
            )


def _through_tanh(d_h: np.ndarray, h: np.ndarray, scratch: Scratch) -> np.ndarray:
    """Turn the gradient at ``h = tanh(z)`` into that at ``z``, in place."""
    slope = np.multiply(h, h, out=scratch.array("slope", h.shape))
    np.subtract(1, slope, out=slope)
    d_h *= slope
    return d_h


def _through_norm(d_y: np.ndarray, z: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The gradients at the input of a layer norm and at its scale and shift, given that at its output.

    With the standardised rows n it is (g - mean(g) - n mean(g n)) / std, where g is the gradient at n and means are
    over the numbers of a row.

    :param d_y: (..., n_rows, dim)
    :param z: the input, like ``d_y``, which is overwritten
    """
    per_std = _standardize(z)
    d_scale, d_shift = (d_y * z).sum(axis=-2), d_y.sum(axis=-2)
    d_n = d_y * scale
    d_z = d_n - d_n.mean(axis=-1, keepdims=True)
    d_z -= z * (d_n * z).mean(axis=-1, keepdims=True)
    d_z *= per_std
    return d_z, d_scale, d_shift


def of_tasks(layers: Layers, tasks: Tasks) -> Layers:
    """The heads of some tasks, ready for :func:`heads_forward`: weights (k, in, out), biases (k, 1, out).

    A slice selects views.
    """
    if isinstance(tasks, slice):
        return layers.with_weights((weight[tasks] for weight in layers.weights), lambda bias: bias[tasks][:, None])
    copies = memory_of_copies(((len(tasks), *weight.shape[1:]) for weight in layers.weights), layers.weights[0].dtype)
    for copy, weight in zip(copies, layers.weights, strict=True):
        copy[...] = weight[tasks]
    return layers.with_weights(copies, lambda bias: bias[tasks][:, None])


def heads_forward(layers: Layers, x: np.ndarray, outputs: Sequence[np.ndarray]) -> np.ndarray:
    """The heads' output, (k, m, dim), which is linear.

    :param layers: from :func:`of_tasks`
    :param x: (k, m, dim)
    :param outputs: receives the activations of every layer, each (k, m, dim)
    """
    for i, ((weight, bias), z) in enumerate(zip(layers, outputs, strict=True)):
        x = np.matmul(x, weight, out=z)
        x += bias
        if i < len(layers.norms):
            _normalize(x, *layers.norms[i])
        if i < len(layers) - 1:
            np.tanh(x, out=x)
    return x


def heads_backward(
    layers: Layers,
    gradients: Layers,
    activations: Sequence[np.ndarray],
    d_out: np.ndarray,
    tasks: np.ndarray,
    scratch: Scratch,
) -> np.ndarray:
    """Write the gradient of the heads of ``tasks``, given that of their output; return that of their input."""
    d_z, ones = d_out, scratch.ones(d_out.shape[1])
    for i in reversed(range(len(layers))):
        weight, bias = layers[i]
        if i < len(layers.norms):
            z, (d_scale, d_shift) = activations[i] @ weight[tasks] + bias[tasks][:, None], gradients.norms[i]
            d_z, d_scale[tasks], d_shift[tasks] = _through_norm(d_z, z, layers.norms[i][0][tasks][:, None])
        h, (d_weight, d_bias) = activations[i], gradients[i]
        d_weight[tasks] = np.matmul(h.transpose(0, 2, 1), d_z)
        d_bias[tasks] = np.matmul(ones, d_z)
        is_one = d_z.shape[2] == 1  # a product of a column and a row, for which BLAS is slow
        product = np.multiply if is_one else np.matmul
        d_h = product(d_z, weight[tasks].transpose(0, 2, 1), out=scratch.array(("d_h", i), h.shape))
        d_z = _through_tanh(d_h, h, scratch) if i else d_h
    return d_z
