"""Gradient clipping, and torch's optimizers on flat tensors."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
import torch as th

from sb3_multitask.fast.parameters import FlatParameters
from sb3_multitask.policies.task_steps import step_of_tasks
from sb3_multitask.process.kernels import load_kernels


def clip_gradient(gradient: np.ndarray, places: np.ndarray, max_norm: float) -> float:
    """Scale the gradient to at most ``max_norm``, as torch's ``clip_grad_norm_``; return its norm before.

    :param places: where it is of something that is trained, starts and stops, (n, 2)
    """
    kernels = load_kernels("fast")
    if kernels is not None:
        return float(kernels.clip(gradient, places, float(max_norm)))
    parts = [gradient[start:stop] for start, stop in places]
    with np.errstate(over="ignore"):  # an infinite norm is the caller's to refuse
        norm = float(np.sqrt(sum(np.dot(part, part) for part in parts)))
    scale = max_norm / (norm + 1e-6)
    if scale < 1:
        for part in parts:
            np.multiply(part, scale, out=part)
    return norm


class Optimizer(Protocol):
    """A step of torch's optimizer of the policy; frozen parameters are left out."""

    def step(self, present: Sequence[bool] | None) -> None:
        """Make a step along the gradient.

        :param present: whether each task took part, (n_tasks,); ``None``: all did. Heads of the others, and what is
            known of them, stay as they are
        """


class RMSprop:
    """torch's RMSprop on the flat tensors: compiled, or by torch's operations."""

    def __init__(self, parameters: FlatParameters) -> None:
        self.parameters = parameters
        self._settings: dict[str, Any] = parameters.policy.optimizer.param_groups[0]
        self._arrays = tuple(tensor.numpy() for tensor in parameters.flat[:-1])

    def step(self, present: Sequence[bool] | None) -> None:
        parameters, settings = self.parameters, self._settings
        lr, alpha, eps = settings["lr"], settings["alpha"], settings["eps"]
        kernels, places = load_kernels("fast"), parameters.places(present)
        if kernels is not None:
            kernels.rmsprop_step(*self._arrays, places, lr, alpha, eps)
        else:
            self._step_of_tensors(places, lr, alpha, eps)
        parameters.count_step()
        if parameters.counts_by_task():  # which torch does in an update of its own; RMSprop makes nothing of it
            parameters.forget_counts_by_task()

    def _step_of_tensors(self, places: np.ndarray, lr: float, alpha: float, eps: float) -> None:
        for start, stop in places.tolist():
            weights, gradient, average, scratch = (tensor[start:stop] for tensor in self.parameters.flat)
            average.mul_(alpha).addcmul_(gradient, gradient, value=1 - alpha)
            weights.addcdiv_(gradient, th.sqrt(average, out=scratch).add_(eps), value=-lr)


class Adam:
    """torch's Adam (Kingma & Ba 2015) on the flat tensors: compiled, or by torch's operations.

    Its averages are corrected by the count of steps. Where tasks have counts of their own, torch's optimizer makes the
    step: it is slower, and right.
    """

    def __init__(self, parameters: FlatParameters) -> None:
        self.parameters = parameters
        self._settings: dict[str, Any] = parameters.policy.optimizer.param_groups[0]

    def step(self, present: Sequence[bool] | None) -> None:
        parameters, settings = self.parameters, self._settings
        steps = parameters.steps_of_runs()
        if present is not None or steps is None or parameters.counts_by_task():
            parameters.give_gradients()
            n_tasks = parameters.policy.n_tasks
            step_of_tasks(parameters.policy, [True] * n_tasks if present is None else present)
            return
        parameters.count_step()
        (beta1, beta2), eps, kernels = settings["betas"], settings["eps"], load_kernels("fast")
        for i, step in enumerate(steps):
            size, correction = settings["lr"] / (1 - beta1 ** (step + 1)), (1 - beta2 ** (step + 1)) ** 0.5
            if kernels is not None:
                arrays = parameters.trainable_arrays[i][:-1]
                kernels.adam_step(*arrays, size, beta1, beta2, correction, eps)
                continue
            weights, gradient, average, square, scratch = parameters.trainable[i]
            average.lerp_(gradient, 1 - beta1)
            square.mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            th.sqrt(square, out=scratch).div_(correction).add_(eps)
            weights.addcdiv_(average, scratch, value=-size)


OPTIMIZERS: dict[type[th.optim.Optimizer], type[RMSprop | Adam]] = {th.optim.RMSprop: RMSprop, th.optim.Adam: Adam}


def optimizer_of(parameters: FlatParameters) -> Optimizer:
    """What makes the steps of a policy's optimizer."""
    return OPTIMIZERS[type(parameters.policy.optimizer)](parameters)
