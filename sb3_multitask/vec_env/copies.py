"""How many copies of each task a VecEnv has, and which rows they are."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate
from typing import Any, Self, TypeAlias

import numpy as np

from sb3_multitask.envs.number_checks import is_integer
from sb3_multitask.tasks import check_tasks

EnvsPerTask: TypeAlias = int | Mapping[str, int]
"""Copies of every task, or of each by its name."""


@dataclass(frozen=True)
class Copies:
    """Rows come task by task: first all copies of the first task, then those of the second.

    :param of_tasks: copies of each task, (n_tasks,)
    """

    of_tasks: tuple[int, ...]

    @classmethod
    def of(cls, n_envs_per_task: EnvsPerTask, task_names: Sequence[str]) -> Self:
        """Read a number for every task, or one for each name.

        :raises TypeError: if a number is no integer
        :raises ValueError: if one is below 1, a name is unknown, or a task has none
        """
        if not isinstance(n_envs_per_task, Mapping):
            return cls((_checked(n_envs_per_task, "`n_envs_per_task`"),) * len(task_names))
        check_tasks("n_envs_per_task", n_envs_per_task, task_names, of_all=True)
        return cls(tuple(_checked(n_envs_per_task[name], f"`n_envs_per_task` of {name!r}") for name in task_names))

    @cached_property
    def bounds(self) -> tuple[int, ...]:
        """The first row of each task, and the number of all rows, (n_tasks + 1,)."""
        return tuple(accumulate(self.of_tasks, initial=0))

    @cached_property
    def n_rows(self) -> int:
        return self.bounds[-1]

    @cached_property
    def are_equal(self) -> bool:
        """Whether all tasks have as many copies."""
        return len(set(self.of_tasks)) == 1

    @cached_property
    def task_ids(self) -> np.ndarray:
        """The task of each row, (n_rows,) int64."""
        return np.repeat(np.arange(len(self.of_tasks)), self.of_tasks)

    def rows(self, task: int) -> slice:
        """The rows of a task."""
        return slice(self.bounds[task], self.bounds[task + 1])

    def place(self, row: int) -> tuple[int, int]:
        """The task of a row, and which of its copies it is."""
        task = bisect_right(self.bounds, row) - 1
        return task, row - self.bounds[task]

    def places(self) -> list[tuple[int, int]]:
        """Task and copy of every row."""
        return [(task, copy) for task, n in enumerate(self.of_tasks) for copy in range(n)]

    def described(self, task_names: Sequence[str]) -> int | dict[str, int]:
        """One number if all tasks have as many, else the number of each by its name."""
        return self.of_tasks[0] if self.are_equal else dict(zip(task_names, self.of_tasks, strict=True))


def _checked(n: Any, argument: str) -> int:
    if not is_integer(n):
        raise TypeError(f"{argument} must be an integer (got {n!r})")
    if n < 1:
        raise ValueError(f"{argument} must be at least 1 (got {n})")
    return int(n)
