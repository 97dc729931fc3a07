"""Gradient clipping, and torch's RMSprop on flat tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat

import numpy as np
import torch as th

from sb3_multitask.fast.parameters import FlatParameters


def clip_gradient(gradient: np.ndarray, max_norm: float) -> float:
    """Scale the gradient to at most ``max_norm``, as torch's ``clip_grad_norm_``; return its norm before."""
    with np.errstate(over="ignore"):  # an infinite norm is the caller's to refuse
        norm = float(np.sqrt(np.dot(gradient, gradient)))
    scale = max_norm / (norm + 1e-6)
    if scale < 1:
        gradient *= scale
    return norm


def rmsprop_step(
    parameters: FlatParameters, lr: float, alpha: float, eps: float, present: Sequence[bool] | None = None
) -> None:
    """One step of torch's RMSprop, by its own operations on the flat tensors; frozen parameters are left out.

    :param present: whether each task took part, (n_tasks,); ``None``: all did. Heads of the others stay as they are,
        and so do the averages of their gradients, which are 0
    """
    decays: Iterable[th.Tensor | float] = repeat(alpha) if present is None else parameters.decays(alpha, present)
    for (weights, gradient, average, scratch), decay in zip(parameters.trainable, decays, strict=False):
        average.mul_(decay).addcmul_(gradient, gradient, value=1 - alpha)
        weights.addcdiv_(gradient, th.sqrt(average, out=scratch).add_(eps), value=-lr)
    parameters.count_step()
