"""Running means and variances, one set per task."""

from __future__ import annotations

import copy
from typing import TypeAlias

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd

Tasks: TypeAlias = slice | np.ndarray
"""A selection of tasks: ``slice(None)`` for all, or (k,) ids, each once."""


class TaskMoments:
    """Running moments of each task's observations and discounted returns, in one table.

    ``mean``, ``var``, ``count``: (n_tasks, obs_dim + 1); the last column is the return. It is one table, since it is
    updated at every step, and the cost is the number of array operations.

    :param n_tasks: number of tasks
    :param obs_dim: observation size
    :param epsilon: initial count, as in SB3
    :param obs_mask: which numbers of an observation are a task's own, (n_tasks, obs_dim) bool; the moments of the
        others, the padding of tasks that are narrower than the widest, stay as they began. ``None``: all are
    """

    _padding: np.ndarray | None = None  # of the table, (n_tasks, obs_dim + 1)

    def __init__(self, n_tasks: int, obs_dim: int, epsilon: float = 1e-4, obs_mask: np.ndarray | None = None) -> None:
        shape = (n_tasks, obs_dim + 1)
        self.mean, self.var, self.count = np.zeros(shape), np.ones(shape), np.full(shape, epsilon)
        if obs_mask is not None and not obs_mask.all():
            self._padding = np.zeros(shape, dtype=bool)
            self._padding[:, :-1] = ~obs_mask
            self._epsilon = epsilon

    def copy(self) -> TaskMoments:
        """Return an independent copy."""
        return copy.deepcopy(self)

    def update(self, tasks: Tasks, batch: np.ndarray, columns: slice = slice(None)) -> None:
        """Add new samples of some tasks; the other tasks do not change, bit for bit.

        SB3's formula (Chan et al. 1979), written with the weight ``w`` of the new samples.

        :param tasks: the k tasks that the samples are of
        :param batch: (n, k, n_columns), n samples of each
        :param columns: the columns that the samples are of
        """
        mean, var, count = self.mean[tasks, columns], self.var[tasks, columns], self.count[tasks, columns]
        n = len(batch)
        if n == 1:
            batch_mean = batch[0]
        else:
            batch_mean = np.add.reduce(batch, axis=0)
            batch_mean /= n
        count += n
        w = n / count
        delta = batch_mean - mean
        delta_w = delta * w
        mean += delta_w
        # var <- (1 - w) * (var + w * delta^2) + w * batch_var
        delta *= delta_w
        var += delta
        var -= np.multiply(var, w, out=delta)
        if n > 1:  # one sample alone has no variance
            deviation = batch - batch_mean
            deviation *= deviation
            batch_var = np.add.reduce(deviation, axis=0)
            w /= n
            batch_var *= w
            var += batch_var
        if not isinstance(tasks, slice):  # which selects views; these are copies
            self.mean[tasks, columns], self.var[tasks, columns], self.count[tasks, columns] = mean, var, count
        self.clear_padding()

    def clear_padding(self) -> None:
        """Put the moments with which the padding began there."""
        if self._padding is not None:
            padding = self._padding
            self.mean[padding], self.var[padding], self.count[padding] = 0, 1, self._epsilon

    def update_in_part(self, tasks: slice, batch: np.ndarray, is_good: np.ndarray, columns: slice) -> None:
        """Update as :meth:`update`, with only the good samples, (n, k) bool."""
        for i, task in enumerate(range(len(self.mean))[tasks]):
            if is_good[:, i].any():
                self.update(slice(task, task + 1), batch[is_good[:, i], i : i + 1], columns)


class TaskRunningMeanStd(RunningMeanStd):
    """Some columns of a :class:`TaskMoments` in the form of SB3's ``RunningMeanStd``; task axis first.

    Values assigned to ``mean``, ``var`` or ``count`` are written into the table, but not into the padding of tasks.

    :param moments: the table
    :param columns: a slice (observations: (n_tasks, obs_dim)) or a column (returns: (n_tasks,))
    """

    def __init__(self, moments: TaskMoments, columns: slice | int) -> None:
        self._moments = moments
        self._columns = columns

    def assign(self, other: RunningMeanStd) -> None:
        """Copy the values of another, of the same shape or without a task axis.

        :raises ValueError: if its tasks or observations have another shape
        """
        own, given = self.mean.shape, np.shape(other.mean)
        if given not in (own, own[1:]):
            raise ValueError(f"Statistics of shape {given} do not fit {own} (n_tasks, ...)")
        self.mean, self.var, self.count = other.mean, other.var, other.count

    def copy(self) -> TaskRunningMeanStd:
        """Return an independent copy."""
        return copy.deepcopy(self)

    def update(self, arr: np.ndarray) -> None:  # noqa: ARG002
        """Raise, since rows alone do not contain their task.

        :raises TypeError: always
        """
        raise TypeError("Statistics per task are updated by MultiTaskVecNormalize, which knows the task of each row")

    @property
    def mean(self) -> np.ndarray:
        return self._moments.mean[:, self._columns]

    @mean.setter
    def mean(self, value: np.ndarray) -> None:
        self._moments.mean[:, self._columns] = value
        self._moments.clear_padding()

    @property
    def var(self) -> np.ndarray:
        return self._moments.var[:, self._columns]

    @var.setter
    def var(self, value: np.ndarray) -> None:
        self._moments.var[:, self._columns] = value
        self._moments.clear_padding()

    @property  # type: ignore[override]  # SB3 has one count, here each task has its own
    def count(self) -> np.ndarray:
        return self._moments.count[:, self._columns]

    @count.setter
    def count(self, value: np.ndarray | float) -> None:
        self._moments.count[:, self._columns] = value
        self._moments.clear_padding()


class ObsRms(dict[str, TaskRunningMeanStd]):
    """SB3's dict of statistics by observation key; values assigned to a key are written into the table."""

    def __setitem__(self, key: str, value: RunningMeanStd) -> None:
        if key not in self:
            raise KeyError(f"Only {', '.join(self)} is normalised (got {key!r})")
        self[key].assign(value)

    def __reduce__(self) -> tuple[type, tuple[dict[str, TaskRunningMeanStd]]]:
        return dict, (dict(self),)  # copies are plain dicts
