"""Rows of a batch grouped by task, and what a policy puts out for them: numpy's side of a loss.

Arrays are (k, m, dim): k tasks, m rows of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

import numpy as np

_HALF_LOG_2_PI = 0.5 * np.log(2 * np.pi)


@dataclass
class GroupedRows:
    """Rows of a rollout, m of each of k tasks.

    :param tasks: ids of the tasks, (k,)
    :param actions: (k, m, action_dim)
    :param advantages: (k, m, 1)
    :param returns: (k, m, 1)
    :param kept: 1 for rows that are learned from, else 0, (k, m, 1); ``None``: all are
    :param teacher_mean: of the teachers' actions, (k, m, action_dim); ``None`` without teachers
    :param teacher_log_std: like ``teacher_mean``
    """

    tasks: np.ndarray
    actions: np.ndarray
    advantages: np.ndarray
    returns: np.ndarray
    kept: np.ndarray | None = None
    teacher_mean: np.ndarray | None = None
    teacher_log_std: np.ndarray | None = None

    def __post_init__(self) -> None:
        k, m, _ = self.advantages.shape
        per_task = [m] * k if self.kept is None else np.count_nonzero(self.kept, axis=(1, 2)).tolist()
        self.rows_per_task: list[int] = per_task
        """How many rows of each task are learned from."""
        self.n_rows: int = sum(per_task)
        self.took_part = [i for i, n in enumerate(per_task) if n]
        """The tasks with a row that is learned from, as indices of ``tasks``."""

    def only_kept(self, rows: np.ndarray) -> np.ndarray:
        """Values of rows, (k, m, dim), with 0 for rows that are not learned from."""
        return rows if self.kept is None else rows * self.kept

    def mean_per_task(self, rows: np.ndarray) -> list[float]:
        """Means of (k, m, 1), or of (k, 1, 1) for what is the same in all rows, for each task that took part."""
        if self.kept is None:
            means: list[float] = (np.add.reduce(rows[:, :, 0], axis=1) / rows.shape[1]).tolist()
            return means
        rows = np.broadcast_to(rows, self.kept.shape)
        return [float(rows[i][self.kept[i] > 0].mean()) for i in self.took_part]

    def mean(self, mean_per_task: Sequence[float]) -> float:
        """The mean over all rows, given those of :meth:`mean_per_task`."""
        n_rows = [self.rows_per_task[i] for i in self.took_part]
        return sum(mean * n for mean, n in zip(mean_per_task, n_rows, strict=True)) / self.n_rows

    def with_normalized_advantages(self) -> Self:
        """The rows with advantages of mean 0 and spread 1; a single row has no spread, as in SB3's PPO."""
        if self.n_rows < 2:
            return self
        learned = self.advantages if self.kept is None else self.advantages[self.kept > 0]
        return replace(self, advantages=(self.advantages - learned.mean()) / (learned.std(ddof=1) + 1e-8))


@dataclass
class GroupedOutputs:
    """What a policy puts out for :class:`GroupedRows`.

    :param rows: for which
    :param mean: of the actions, (k, m, action_dim)
    :param log_std: (k, 1, action_dim)
    :param values: (k, m, 1)
    """

    rows: GroupedRows
    mean: np.ndarray
    log_std: np.ndarray
    values: np.ndarray

    def __post_init__(self) -> None:
        self.std: np.ndarray = np.exp(self.log_std)
        self.z: np.ndarray = (self.rows.actions - self.mean) / self.std
        """The actions taken in standard deviations from the mean, (k, m, action_dim)."""
        self.z_squared = self.z * self.z

    @property
    def log_prob(self) -> np.ndarray:
        """Log-probabilities of the actions taken, (k, m, 1)."""
        constant = (self.log_std + _HALF_LOG_2_PI).sum(axis=2, keepdims=True)
        return np.asarray(-0.5 * self.z_squared.sum(axis=2, keepdims=True) - constant)

    @property
    def entropy(self) -> np.ndarray:
        """Entropies in nats, (k, 1, 1), the same for all rows of a task."""
        return np.asarray((self.log_std + (0.5 + _HALF_LOG_2_PI)).sum(axis=2, keepdims=True))


@dataclass
class OutputGradient:
    """The derivative of a mean loss with respect to what a policy puts out; 0 for rows that are not learned from.

    :param mean: (k, m, action_dim)
    :param log_std: (k, action_dim), summed over the rows of a task, which share one
    :param values: (k, m, 1); ``None`` if the loss does not depend on them
    """

    mean: np.ndarray
    log_std: np.ndarray
    values: np.ndarray | None = None

    def __iadd__(self, other: OutputGradient) -> Self:
        """Add that of another loss, whose arrays may become part of this one."""
        self.mean += other.mean
        self.log_std += other.log_std
        if self.values is None:
            self.values = other.values
        elif other.values is not None:
            self.values += other.values
        return self
