"""The schedule of tasks that are learned one after the other, each once."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sb3_multitask.task_schedules.base import TaskSchedule
from sb3_multitask.task_schedules.checks import checked_count
from sb3_multitask.tasks import did_you_mean


class TaskSequence(TaskSchedule):
    """Tasks in turn: all updates of the first one, then all of the second, and so on; none comes back.

    After the last task's share it stays with the last task. A later ``learn`` continues where the sequence stands.

    :param tasks: names of the tasks that are trained, in order; ``None``: all tasks, in the model's order
    :param n_updates: updates of each task, as many as rollouts; ``None``: equal shares of the first ``learn``, where
        the k-th of n tasks ends after ``k * updates // n`` updates
    :raises TypeError: if ``tasks`` is no sequence of names, or ``n_updates`` no whole number
    :raises ValueError: on no task, a task that is named twice, or ``n_updates`` below 1; when a model is made, on an
        unknown task
    """

    def __init__(self, tasks: Sequence[str] | None = None, n_updates: int | None = None) -> None:
        super().__init__("next")
        if isinstance(tasks, str) or (tasks is not None and not all(isinstance(name, str) for name in tasks)):
            raise TypeError(f'`tasks` must be a list of names of tasks, such as ["a", "b"] (got {tasks!r:.100})')
        self.tasks = None if tasks is None else tuple(tasks)
        if self.tasks is not None and (not self.tasks or len(set(self.tasks)) < len(self.tasks)):
            raise ValueError(f"`tasks` must name at least one task, and each once (got {tasks!r:.100})")
        self.n_updates = None if n_updates is None else checked_count("n_updates", n_updates)
        self.order: tuple[int, ...] = ()
        self._ends: list[int] = []

    def begin(self, task_names: Sequence[str], seed: int | None) -> None:
        super().begin(task_names, seed)
        names = self.task_names if self.tasks is None else self.tasks
        for name in names:
            if name not in self.task_names:
                guess = did_you_mean(name, self.task_names)
                raise ValueError(f"`tasks` has {name!r}.{guess} The tasks are: {', '.join(self.task_names)}")
        self.order = tuple(self.task_names.index(name) for name in names)
        self._ends = [] if self.n_updates is None else [(i + 1) * self.n_updates for i in range(len(names))]

    def note_training(self, n_updates: int) -> None:
        """Give each task an equal share of the updates, unless the shares are known.

        :raises ValueError: if there are fewer updates than tasks
        """
        if self._ends or not n_updates:
            return
        n = len(self.order)
        if n_updates < n:
            raise ValueError(
                f"TaskSequence trains {n} tasks, and this learn() has {n_updates} updates, less than one for each: "
                "raise `total_timesteps`, or give `n_updates`, after which the next learn() continues"
            )
        self._ends = [(i + 1) * n_updates // n for i in range(n)]

    @property
    def ends(self) -> tuple[int, ...]:
        """Number of updates after which the turn of each task of ``order`` ends; empty before the shares are known."""
        return tuple(self._ends)

    @property
    def first_task(self) -> int:
        """Index of the task that is trained now."""
        done = int(self.visits.sum())
        return self.order[min(bisect_right(self._ends, done), len(self.order) - 1)]

    def probabilities(self) -> np.ndarray:
        p = np.zeros(self.n_tasks)
        p[self.first_task] = 1.0
        return p

    def get_state(self) -> dict[str, Any]:
        return {**super().get_state(), "ends": list(self._ends)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        super().set_state(state)
        self._ends = [int(end) for end in state["ends"]]

    def settings(self) -> dict[str, Any]:
        tasks = None if self.tasks is None else list(self.tasks)
        return {**super().settings(), "tasks": tasks, "n_updates": self.n_updates}
