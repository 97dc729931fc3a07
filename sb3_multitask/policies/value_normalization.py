"""PopArt: value heads that learn normalised values, while the values that they stand for do not jump.

van Hasselt et al. 2016, "Learning values across many orders of magnitude" (https://arxiv.org/abs/1602.07714); Hessel et
al. 2019, "Multi-task deep reinforcement learning with PopArt" (https://arxiv.org/abs/1809.04474).
"""

from __future__ import annotations

import numpy as np
import torch as th
from torch import nn

from sb3_multitask.policies.heads import TaskLinear

STEP_SIZE = 3e-4
"""Of the averages, for each row (Hessel et al.)."""
STD_BOUNDS = (1e-4, 1e6)
"""The least and the greatest standard deviation (Hessel et al.)."""


class ValueStatistics(nn.Module):
    """Mean and standard deviation of each task's returns: ``value = std * normalised value + mean``.

    They are exponential averages with the step size ``b = 3e-4`` for each row. A task's n rows of a rollout, with mean
    m and variance v, make n such steps at once: with ``B = 1 - (1 - b)^n``, the weight of all rows so far
    ``w' = w + B (1 - w)``, and ``s = B / w'``, which corrects the bias of a beginning at 0,

        mean'     = mean + s (m - mean)
        variance' = (1 - s) variance + s v + s (1 - s) (m - mean)^2

    The second line is the variance that the first and second moments of the paper's eq. (6) give. So the first rollout
    counts alone. The standard deviation is the root of the variance, within ``STD_BOUNDS``.

    The output layer of a task's value head is rescaled at the same time (eq. 9), so that values stay as they are but
    for rounding:

        weight' = weight std / std'    bias' = (std bias + mean - mean') / std'

    What the optimizer remembers of this layer stays: the loss is of normalised values, and its gradient does not grow
    with the returns.

    :param n_tasks: number of tasks
    :ivar mean: of the returns, (n_tasks,), in units of the (normalised) rewards; 0 before the first rollout
    :ivar variance: (n_tasks,), 1 before the first rollout
    :ivar weight: of all rows so far, (n_tasks,), from 0 towards 1
    """

    def __init__(self, n_tasks: int) -> None:
        super().__init__()
        self.mean: th.Tensor = nn.Buffer(th.zeros(n_tasks))
        self.variance: th.Tensor = nn.Buffer(th.ones(n_tasks))
        self.weight: th.Tensor = nn.Buffer(th.zeros(n_tasks))
        self.are_updated = False
        """Whether the algorithm that trains the policy updates them."""

    @property
    def std(self) -> th.Tensor:
        """Standard deviations, (n_tasks,)."""
        return self.variance.sqrt().clamp(*STD_BOUNDS)

    def denormalize(self, normalized: th.Tensor, task: th.Tensor) -> th.Tensor:
        """Return the values, (n_rows, 1), that normalised ones stand for; ``task`` is each row's, (n_rows,)."""
        return self.std[task].unsqueeze(1) * normalized + self.mean[task].unsqueeze(1)

    def normalize(self, values: th.Tensor, task: th.Tensor) -> th.Tensor:
        """Return normalised values, (n_rows,); the inverse of :meth:`denormalize`."""
        return (values - self.mean[task]) / self.std[task]

    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """Return copies of standard deviations and means, (n_tasks,) each."""
        return self.std.numpy(force=True).copy(), self.mean.numpy(force=True).copy()

    def update(self, returns: np.ndarray, tasks: np.ndarray, head: TaskLinear) -> None:
        """Take in the returns of a rollout, and rescale the value heads of their tasks.

        Nothing happens to tasks without rows or with returns that are not finite, nor where the layer is frozen.

        :param returns: of the rows that are learned from, (n_rows,)
        :param tasks: of each row, (n_rows,) whole numbers
        :param head: output layer of the value heads
        """
        if not (head.weight.requires_grad and head.bias.requires_grad):
            return
        returns, n = returns.astype(np.float64), np.bincount(tasks, minlength=len(self.mean))
        rows = np.maximum(n, 1)
        with np.errstate(invalid="ignore", over="ignore"):  # returns that are not finite are left out below
            mean = np.bincount(tasks, returns, minlength=len(n)) / rows
            variance = np.bincount(tasks, (returns - mean[tasks]) ** 2, minlength=len(n)) / rows
        moved = th.from_numpy((n > 0) & np.isfinite(mean) & np.isfinite(variance))
        if not moved.any():
            return
        with th.no_grad():
            before = self.std.double().cpu(), self.mean.double().cpu()
            self._average(th.from_numpy(n), th.from_numpy(mean), th.from_numpy(variance), moved)
            after = self.std.double().cpu(), self.mean.double().cpu()
            _rescale(head, before, after, moved)

    def _average(self, n: th.Tensor, mean: th.Tensor, variance: th.Tensor, moved: th.Tensor) -> None:
        old_mean, old_variance, weight = (old.double().cpu() for old in (self.mean, self.variance, self.weight))
        share = -th.expm1(n * np.log1p(-STEP_SIZE))
        weight += share * (1 - weight)
        step = th.where(moved, share / weight, 0.0)
        distance = th.where(moved, mean - old_mean, 0.0)
        spread = th.where(moved, variance, 0.0)
        self.mean.copy_(old_mean + step * distance)
        self.variance.copy_((1 - step) * old_variance + step * spread + step * (1 - step) * distance**2)
        self.weight.copy_(th.where(moved, weight, self.weight.double().cpu()))


def _rescale(
    head: TaskLinear, before: tuple[th.Tensor, th.Tensor], after: tuple[th.Tensor, th.Tensor], moved: th.Tensor
) -> None:
    """Rescale the output layer of the heads of some tasks, (n_tasks,) bool, in place."""
    (old_std, old_mean), (std, mean) = before, after
    weight, bias = head.weight.double().cpu(), head.bias.double().cpu()  # (n_tasks, in, 1), (n_tasks, 1)
    weight *= (old_std / std)[:, None, None]
    bias = (old_std[:, None] * bias + (old_mean - mean)[:, None]) / std[:, None]
    head.weight.copy_(th.where(moved[:, None, None], weight, head.weight.double().cpu()))
    head.bias.copy_(th.where(moved[:, None], bias, head.bias.double().cpu()))
