"""How much each task needs training, by the returns of its latest episodes."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sb3_multitask.task_schedules.checks import checked_count, checked_numbers, checked_positive
from sb3_multitask.tasks import check_tasks


class Measure(ABC):
    """A number of each task, from its latest episodes; a task with too few episodes has an optimistic one.

    :param window: number of episodes of which a mean return is taken
    :param n_kept: number of latest episodes that are kept of each task
    """

    def __init__(self, window: int, n_kept: int) -> None:
        self.window, self._n_kept = window, n_kept
        self._returns: list[deque[float]] = []
        self._values: np.ndarray | None = None  # None when an episode has come since they were computed

    def begin(self, task_names: Sequence[str]) -> None:
        """Take the tasks, and forget all episodes."""
        self._returns, self._values = [deque(maxlen=self._n_kept) for _ in task_names], None

    def note_episode(self, task: int, episode_return: float) -> None:
        """Take in an episode of a task."""
        self._returns[task].append(float(episode_return))
        self._values = None

    def values(self) -> np.ndarray:
        """Return the number of each task, (n_tasks,); an update asks for them once or more, and episodes are rare."""
        if self._values is None:
            self._values = self._computed()
        return self._values

    @abstractmethod
    def _computed(self) -> np.ndarray:
        """The number of each task, (n_tasks,), from the episodes that are kept."""

    def get_state(self) -> dict[str, Any]:
        """Return what episodes have changed, as plain values."""
        return {"returns": [list(returns) for returns in self._returns]}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`get_state` returned."""
        self._returns = [deque(returns, maxlen=self._n_kept) for returns in state["returns"]]
        self._values = None

    def settings(self) -> dict[str, Any]:
        """Return the arguments."""
        return {"window": self.window}


class Shortfall(Measure):
    """``(target - mean return) / scale`` of each task: 0 at the target, negative above it.

    The mean is over the latest ``window`` episodes, or all if there are fewer. The shortfall of a task without an
    episode is the greatest of the others, and at least 1.

    :param targets: task -> return that is to be reached
    :param scales: task -> positive scale; other tasks have ``|target|``
    :raises ValueError: on a target of 0 without a scale, and as the checks of numbers
    """

    def __init__(self, targets: Mapping[str, float], scales: Mapping[str, float] | None, window: int) -> None:
        super().__init__(checked_count("window", window), window)
        if isinstance(targets, str) or targets is None:
            raise TypeError(
                f"`targets` must map every task to a return, such as {{'a': 3000.0}} (got {targets!r}). Those of "
                "teachers are {task: result.mean_reward for task, result in evaluate_tasks(...).items()}"
            )
        self.targets, self.scales = checked_numbers("targets", targets), checked_numbers("scales", scales or {})
        for task, scale in self.scales.items():
            checked_positive(f"scales of {task}", scale)
        check_tasks("scales", self.scales, list(self.targets), of_all=False)
        for task, target in self.targets.items():
            if target == 0 and task not in self.scales:
                raise ValueError(
                    f"`targets` of {task!r} is 0, by which no shortfall can be divided: give a scale, "
                    f"scales={{{task!r}: 100.0}}"
                )
        self._target = self._scale = np.zeros(0)

    def begin(self, task_names: Sequence[str]) -> None:
        check_tasks("targets", self.targets, task_names, of_all=True)
        super().begin(task_names)
        self._target = np.array([self.targets[name] for name in task_names])
        self._scale = np.array([self.scales.get(name, abs(self.targets[name])) for name in task_names])

    def _computed(self) -> np.ndarray:
        known = [task for task, returns in enumerate(self._returns) if returns]
        means = np.array([np.mean(self._returns[task]) for task in known])
        of_known = (self._target[known] - means) / self._scale[known]
        values = np.full(len(self._returns), max(1.0, *of_known.tolist()) if known else 1.0)
        values[known] = of_known
        return values

    def settings(self) -> dict[str, Any]:
        return {"targets": self.targets, "scales": self.scales, **super().settings()}


class Progress(Measure):
    """``|mean of the latest returns - mean of those before| / range`` of each task, from 0 to 1.

    The two means are over ``window`` episodes each. The range is from the task's lowest to its highest return since the
    beginning, so rewards may have any scale and offset; progress is 0 while it is 0. The progress of a task with
    fewer than ``2 * window`` episodes is the greatest of the others, and 1 if no task has more.
    """

    def __init__(self, window: int) -> None:
        super().__init__(checked_count("window", window), 2 * window)
        self._lowest = self._highest = np.zeros(0)

    def begin(self, task_names: Sequence[str]) -> None:
        super().begin(task_names)
        self._lowest, self._highest = np.full(len(task_names), np.inf), np.full(len(task_names), -np.inf)

    def note_episode(self, task: int, episode_return: float) -> None:
        super().note_episode(task, episode_return)
        self._lowest[task] = min(self._lowest[task], episode_return)
        self._highest[task] = max(self._highest[task], episode_return)

    def _computed(self) -> np.ndarray:
        known = [task for task, returns in enumerate(self._returns) if len(returns) == self._n_kept]
        of_known = [self._of(task) for task in known]
        values = np.full(len(self._returns), max(of_known, default=1.0))
        values[known] = of_known
        return values

    def _of(self, task: int) -> float:
        """The progress of a task with enough episodes."""
        spread = float(self._highest[task] - self._lowest[task])
        before, latest = np.array(self._returns[task]).reshape(2, -1).mean(axis=1).tolist()
        return abs(latest - before) / spread if spread > 0 else 0.0

    def get_state(self) -> dict[str, Any]:
        bounds = {"lowest": self._lowest.tolist(), "highest": self._highest.tolist()}
        return {**super().get_state(), **bounds}

    def set_state(self, state: Mapping[str, Any]) -> None:
        super().set_state(state)
        self._lowest, self._highest = np.array(state["lowest"]), np.array(state["highest"])
