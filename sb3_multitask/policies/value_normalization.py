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

    Advantages are divided by the same standard deviation, so that neither the critic's nor the actor's gradient grows
    with the scale of a task's rewards (Hessel et al., "Scale invariant updates").

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
        moved = (n > 0) & np.isfinite(mean) & np.isfinite(variance)
        if moved.any():
            old = self.arrays()
            self._average(n[moved], mean[moved], variance[moved], moved)
            _rescale(head, old, self.arrays(), moved)

    def _average(self, n: np.ndarray, mean: np.ndarray, variance: np.ndarray, moved: np.ndarray) -> None:
        """Take in n rows of each of some tasks, whose returns have these means and variances."""
        old_mean, old_variance, old_weight = (_read(old)[moved] for old in (self.mean, self.variance, self.weight))
        share = -np.expm1(n * np.log1p(-STEP_SIZE))
        weight = old_weight + share * (1 - old_weight)
        step, distance = share / weight, mean - old_mean
        _write(self.mean, old_mean + step * distance, moved)
        new_variance = (1 - step) * old_variance + step * variance + step * (1 - step) * distance**2
        _write(self.variance, np.minimum(new_variance, STD_BOUNDS[1] ** 2), moved)  # else it could become infinite
        _write(self.weight, weight, moved)


def _rescale(
    head: TaskLinear, old: tuple[np.ndarray, np.ndarray], new: tuple[np.ndarray, np.ndarray], moved: np.ndarray
) -> None:
    """Rescale the output layer of the heads of some tasks, (n_tasks,) bool, in place."""
    (old_std, old_mean), (std, mean) = ((array[moved].astype(np.float64) for array in units) for units in (old, new))
    weight, bias = _read(head.weight)[moved], _read(head.bias)[moved]  # (k, in, 1), (k, 1)
    _write(head.weight, weight * (old_std / std)[:, None, None], moved)
    _write(head.bias, (old_std[:, None] * bias + (old_mean - mean)[:, None]) / std[:, None], moved)


def _read(tensor: th.Tensor) -> np.ndarray:
    return tensor.numpy(force=True).astype(np.float64)


def _write(tensor: th.Tensor, values: np.ndarray, moved: np.ndarray) -> None:
    """Write the values of some tasks into a tensor, in place."""
    array = tensor.numpy(force=True).copy()
    array[moved] = values
    with th.no_grad():
        tensor.copy_(th.from_numpy(array))
