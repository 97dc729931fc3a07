"""The rows of a dataset in the form in which a policy learns from them, and their order."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from sb3_multitask.distillation.dataset import TeacherDataset
from sb3_multitask.envs.task_space import TaskSizes, padded
from sb3_multitask.losses.likelihood import log_std_at_temperature
from sb3_multitask.process.seeding import order_generator


@dataclass(frozen=True)
class OfflineRows:
    """The rows of all tasks, task by task; padded where tasks differ in size.

    :param observations: normalised, (n_rows, obs_dim) float32
    :param tasks: index of each row's task, (n_rows,) int64
    :param actions: (n_rows, action_dim) float32
    :param teacher_mean: like ``actions``; ``None`` if the dataset has no Gaussians
    :param teacher_log_std: at the temperature of the training, like ``teacher_mean``
    """

    observations: np.ndarray
    tasks: np.ndarray
    actions: np.ndarray
    teacher_mean: np.ndarray | None
    teacher_log_std: np.ndarray | None

    @classmethod
    def of(
        cls, dataset: TeacherDataset, sizes: TaskSizes, normalize: Callable[[Any], Any], temperature: float
    ) -> OfflineRows:
        """Pad and normalise the rows of a dataset.

        :param sizes: of the dataset's tasks, in their order
        :param normalize: ``MultiTaskVecNormalize.normalize_obs``, or what leaves observations as they are
        :param temperature: of the teachers
        """
        recordings = list(dataset.recordings.values())
        tasks = np.repeat(np.arange(len(recordings)), [recording.n_rows for recording in recordings])
        observations = np.concatenate([padded(recording.observations, sizes.obs_dim) for recording in recordings])
        normalized = normalize({"obs": observations, "task": tasks})["obs"]

        def column(name: str) -> np.ndarray | None:
            parts = [getattr(recording, name) for recording in recordings]
            if any(part is None for part in parts):
                return None
            if name == "teacher_log_std":
                parts = [log_std_at_temperature(part, temperature) for part in parts]
            return np.concatenate([padded(part, sizes.action_dim) for part in parts]).astype(np.float32)

        actions = column("actions")
        assert actions is not None
        labels = column("teacher_mean"), column("teacher_log_std")
        return cls(np.asarray(normalized, dtype=np.float32), tasks, actions, *labels)

    @cached_property
    def bounds(self) -> np.ndarray:
        """The first row of each task, and the number of all rows, (n_tasks + 1,)."""
        return np.append(0, np.cumsum(np.bincount(self.tasks)))

    @property
    def n_tasks(self) -> int:
        return len(self.bounds) - 1


class RowOrder:
    """Which rows each update learns from: as many of every task, each task's in epochs of its own.

    The order depends on the seed and the number of the update alone, so that nothing of it is state.

    :param bounds: the first row of each task, and the number of all rows, (n_tasks + 1,)
    :param batch_size: rows of each task in an update
    """

    def __init__(self, bounds: np.ndarray, batch_size: int, seed: int) -> None:
        self.bounds, self.batch_size, self.seed = bounds, batch_size, seed
        self._drawn: dict[int, tuple[int, np.ndarray]] = {}  # task -> an epoch and its order

    def rows(self, update: int) -> np.ndarray:
        """Return the rows of an update, the first being 0, (n_tasks * batch_size,), task by task."""
        start, n_tasks = update * self.batch_size, len(self.bounds) - 1
        return np.concatenate([self._of_task(task, start) for task in range(n_tasks)])

    def _of_task(self, task: int, start: int) -> np.ndarray:
        first, size = int(self.bounds[task]), int(self.bounds[task + 1] - self.bounds[task])
        parts, stop = [], start + self.batch_size
        while start < stop:
            epoch, place = divmod(start, size)
            part = self._order(task, epoch, size)[place : place + stop - start]
            parts.append(first + part)
            start += len(part)
        return np.concatenate(parts)

    def _order(self, task: int, epoch: int, size: int) -> np.ndarray:
        known = self._drawn.get(task)
        if known is None or known[0] != epoch:
            known = epoch, order_generator(self.seed, task, epoch).permutation(size)
            self._drawn[task] = known
        return known[1]
