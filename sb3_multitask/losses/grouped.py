"""Rows of a batch grouped by task, and what a policy puts out for them: numpy's side of a loss.

Arrays are (k, m, dim): k tasks, m rows of each.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
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
    :param old_values: values when the rollout was collected, (k, m, 1)
    :param old_log_prob: log-probabilities of the actions then, (k, m, 1)
    :param n_rows: how many rows of the whole minibatch are learned from, where these are a part of it; 0: all are here
    """

    tasks: np.ndarray
    actions: np.ndarray
    advantages: np.ndarray
    returns: np.ndarray
    kept: np.ndarray | None = None
    teacher_mean: np.ndarray | None = None
    teacher_log_std: np.ndarray | None = None
    old_values: np.ndarray | None = None
    old_log_prob: np.ndarray | None = None
    n_rows: int = 0

    def __post_init__(self) -> None:
        k, m, _ = self.advantages.shape
        per_task = [m] * k if self.kept is None else np.count_nonzero(self.kept, axis=(1, 2)).tolist()
        self.rows_per_task: list[int] = per_task
        """How many rows of each task are learned from."""
        self.kept_or_none: np.ndarray = np.empty((0, 0, 0), np.float32) if self.kept is None else self.kept
        self.n_rows = self.n_rows or sum(per_task)

    def only_kept(self, rows: np.ndarray) -> np.ndarray:
        """Values of rows, (k, m, dim), with 0 for rows that are not learned from."""
        return rows if self.kept is None else rows * self.kept

    def sums_per_task(self, terms: Sequence[np.ndarray]) -> np.ndarray:
        """Sums of some terms over the rows of each task that are learned from, (k, number of terms).

        :param terms: each (k, m, 1), or (k, 1, 1) for what is the same in all rows of a task
        """
        block = np.empty((*self.advantages.shape[:2], len(terms)), dtype=self.advantages.dtype)
        for i, of_rows in enumerate(terms):
            block[:, :, i : i + 1] = of_rows
        return np.asarray(np.add.reduce(block if self.kept is None else np.where(self.kept, block, 0), axis=1))

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
    :param action_dims: how many of the actions are each task's own, (k,) int64; in the others, the padding, actions,
        means and log-stds are 0; ``None``: all are
    """

    rows: GroupedRows
    mean: np.ndarray
    log_std: np.ndarray
    values: np.ndarray
    action_dims: np.ndarray | None = None

    @cached_property
    def own_dims(self) -> np.ndarray:
        """How many of the actions are each task's own, (k,) int64."""
        k, _, action_dim = self.mean.shape
        return np.full(k, action_dim) if self.action_dims is None else self.action_dims

    def only_own(self, dims: np.ndarray) -> np.ndarray:
        """Values of action dimensions, (k, ..., action_dim), with 0 in the padding."""
        if self.action_dims is None:
            return dims
        return np.asarray(dims * (np.arange(dims.shape[2]) < self.action_dims[:, None, None]))

    @cached_property
    def std(self) -> np.ndarray:
        """Standard deviations, (k, 1, action_dim)."""
        return np.asarray(np.exp(self.log_std))

    @cached_property
    def z(self) -> np.ndarray:
        """The actions taken in standard deviations from the mean, (k, m, action_dim)."""
        return np.asarray((self.rows.actions - self.mean) / self.std)

    @cached_property
    def z_squared(self) -> np.ndarray:
        """Their squares."""
        return np.asarray(self.z * self.z)

    @cached_property
    def log_prob(self) -> np.ndarray:
        """Log-probabilities of the actions taken, (k, m, 1)."""
        constant = self.only_own(self.log_std + _HALF_LOG_2_PI).sum(axis=2, keepdims=True)
        return np.asarray(-0.5 * self.z_squared.sum(axis=2, keepdims=True) - constant)

    def log_prob_gradient(self, weight: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The derivative of a weighted sum of the rows' log-probabilities.

        :param weight: (k, m, 1)
        :return: with respect to mean, (k, m, action_dim), and log_std, (k, action_dim)
        """
        mean = weight * self.z
        mean /= self.std
        return mean, self.only_own(weight * (self.z_squared - 1)).sum(axis=1)

    @property
    def entropy(self) -> np.ndarray:
        """Entropies in nats, (k, 1, 1), the same for all rows of a task."""
        return np.asarray(self.only_own(self.log_std + (0.5 + _HALF_LOG_2_PI)).sum(axis=2, keepdims=True))


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

    def scale(self, weights: np.ndarray) -> None:
        """Multiply what belongs to each task by its weight, (k,)."""
        self.mean *= weights[:, None, None]
        self.log_std *= weights[:, None]
        if self.values is not None:
            self.values *= weights[:, None, None]
