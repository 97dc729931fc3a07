"""Running means and variances, one set per task."""

from __future__ import annotations

import copy
from typing import TypeAlias

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd

Tasks: TypeAlias = slice | np.ndarray
"""Which tasks: ``slice(None)`` for all, or (k,) ids, each once."""


class TaskMoments:
    """Running moments of each task's observations and discounted returns, in one table.

    ``mean``, ``var``, ``count``: (n_tasks, obs_dim + 1); the last column is the return. One table, since it is
    updated at every step, where the number of array operations is what costs.

    :param n_tasks: number of tasks
    :param obs_dim: observation size
    :param epsilon: initial count, as in SB3
    """

    def __init__(self, n_tasks: int, obs_dim: int, epsilon: float = 1e-4) -> None:
        shape = (n_tasks, obs_dim + 1)
        self.mean, self.var, self.count = np.zeros(shape), np.ones(shape), np.full(shape, epsilon)

    def copy(self) -> TaskMoments:
        """An independent copy."""
        return copy.deepcopy(self)

    def update(self, tasks: Tasks, batch: np.ndarray, columns: slice = slice(None)) -> None:
        """Take in new samples of some tasks; the others stay as they are, bit for bit.

        SB3's formula (Chan et al. 1979), written with the weight ``w`` of the new samples.

        :param tasks: the k tasks that the samples are of
        :param batch: (k, n, n_columns), n samples of each
        :param columns: the columns that the samples are of
        """
        n = batch.shape[1]
        batch_mean = np.add.reduce(batch, axis=1, keepdims=True)
        batch_mean /= n
        deviation = batch - batch_mean
        deviation *= deviation
        batch_var = np.add.reduce(deviation, axis=1)
        total = self.count[tasks, columns] + n
        w = n / total
        delta = batch_mean[:, 0] - self.mean[tasks, columns]
        # var <- (1 - w) * (var + w * delta^2) + w * batch_var
        delta_w = delta * w
        var = delta * delta_w
        var += self.var[tasks, columns]
        var -= var * w
        w /= n
        batch_var *= w
        var += batch_var
        self.mean[tasks, columns] += delta_w
        self.var[tasks, columns] = var
        self.count[tasks, columns] = total


class TaskRunningMeanStd(RunningMeanStd):
    """Some columns of a :class:`TaskMoments` in the form of SB3's ``RunningMeanStd``; task axis first.

    What is assigned to ``mean``, ``var`` or ``count`` is written into the table.

    :param moments: the table
    :param columns: a slice (observations: (n_tasks, obs_dim)) or a column (returns: (n_tasks,))
    """

    def __init__(self, moments: TaskMoments, columns: slice | int) -> None:
        self._moments = moments
        self._columns = columns

    def assign(self, other: RunningMeanStd) -> None:
        """Take over the values of another, of the same shape or without a task axis.

        :raises ValueError: if it is of other tasks or observations
        """
        own, given = self.mean.shape, np.shape(other.mean)
        if given not in (own, own[1:]):
            raise ValueError(f"Statistics of shape {given} do not fit {own} (n_tasks, ...)")
        self.mean, self.var, self.count = other.mean, other.var, other.count

    def copy(self) -> TaskRunningMeanStd:
        """An independent copy."""
        return copy.deepcopy(self)

    def update(self, arr: np.ndarray) -> None:  # noqa: ARG002
        """Not for statistics per task: rows alone do not say which task they are of.

        :raises TypeError: always
        """
        raise TypeError("Statistics per task are updated by MultiTaskVecNormalize, which knows the task of each row")

    @property
    def mean(self) -> np.ndarray:
        return self._moments.mean[:, self._columns]

    @mean.setter
    def mean(self, value: np.ndarray) -> None:
        self._moments.mean[:, self._columns] = value

    @property
    def var(self) -> np.ndarray:
        return self._moments.var[:, self._columns]

    @var.setter
    def var(self, value: np.ndarray) -> None:
        self._moments.var[:, self._columns] = value

    @property  # type: ignore[override]  # SB3 has one count, here each task has its own
    def count(self) -> np.ndarray:
        return self._moments.count[:, self._columns]

    @count.setter
    def count(self, value: np.ndarray | float) -> None:
        self._moments.count[:, self._columns] = value


class ObsRms(dict[str, TaskRunningMeanStd]):
    """SB3's dict of statistics by observation key; what is assigned to a key is written into the table."""

    def __setitem__(self, key: str, value: RunningMeanStd) -> None:
        if key not in self:
            raise KeyError(f"Only {', '.join(self)} is normalised (got {key!r})")
        self[key].assign(value)

    def __reduce__(self) -> tuple[type, tuple[dict[str, TaskRunningMeanStd]]]:
        return dict, (dict(self),)  # a copy belongs to nobody
