"""Schedules that sample tasks: uniformly, or by a softmax over how much they need training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sb3_multitask.task_schedules.base import Mode, TaskSchedule
from sb3_multitask.task_schedules.checks import checked_positive, checked_share
from sb3_multitask.task_schedules.measures import Measure, Progress, Shortfall


class UniformSampling(TaskSchedule):
    """Every task with the same probability, ``1 / n_tasks``. In mode "weights" every weight is 1, as in "joint".

    :param mode: see :class:`TaskSchedule`
    :raises ValueError: on another mode
    """

    def probabilities(self) -> np.ndarray:
        return np.full(self.n_tasks, 1 / self.n_tasks)


class MeasuredSchedule(TaskSchedule):
    """A schedule that learns from a measure of the tasks' returns.

    :param measure: the measure, which belongs to this schedule alone
    :param floor: share of the probability that all tasks divide equally, from 0 to 1: none has less than
        ``floor / n_tasks``
    :param mode: see :class:`TaskSchedule`
    """

    def __init__(self, measure: Measure, floor: float, mode: Mode) -> None:
        super().__init__(mode)
        self._measure, self.floor = measure, checked_share("floor", floor)

    def begin(self, task_names: Sequence[str], seed: int | None) -> None:
        self._measure.begin(task_names)
        super().begin(task_names, seed)

    def above_floor(self, probabilities: np.ndarray) -> np.ndarray:
        """Mix probabilities with uniform ones, (n_tasks,)."""
        return (1 - self.floor) * probabilities + self.floor / self.n_tasks

    def note_episode(self, task: int, episode_return: float, success: float | None) -> None:
        """Take in an episode.

        :raises ValueError: if its return is not finite
        """
        super().note_episode(task, episode_return, success)
        if not np.isfinite(episode_return):
            raise ValueError(f"The return of an episode of task {self.task_names[task]!r} is {episode_return}")
        self._measure.note_episode(task, episode_return)

    def get_state(self) -> dict[str, Any]:
        return {**super().get_state(), **self._measure.get_state()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        super().set_state(state)
        self._measure.set_state(state)

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), **self._measure.settings(), "floor": self.floor}


class SoftmaxSampling(MeasuredSchedule):
    """``(1 - floor) * softmax(measure / temperature) + floor / n_tasks``.

    :param temperature: positive; a low one prefers the greatest measure more
    """

    def __init__(self, measure: Measure, temperature: float, floor: float, mode: Mode) -> None:
        super().__init__(measure, floor, mode)
        self.temperature = checked_positive("temperature", temperature)

    def probabilities(self) -> np.ndarray:
        values = self._measure.values()
        powers = np.exp((values - values.max()) / self.temperature)
        return self.above_floor(powers / powers.sum())

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "temperature": self.temperature}


class ShortfallSampling(SoftmaxSampling):
    """Tasks that are far below their targets are preferred: A5C of Sharma et al. 2017 ("Learning to Multi-Task by
    Active Sampling", arXiv:1702.06053).

    The probability of task i is ``softmax(s / temperature)[i]`` of the shortfalls ``s[i] = (target[i] - mean return[i])
    / scale[i]``, 0 at the target and negative above it. The mean is over the task's latest ``window`` training
    episodes, or all if there are fewer. The scale is ``|target[i]|``, the paper's for positive targets, unless
    ``scales`` has the task; a target of 0 needs it. A task without an episode has the greatest shortfall of the others,
    and at least 1, which is that of a mean return of 0 where the target is positive.

    :param targets: task -> return to reach, in the units of the environment's rewards, for every task. Those of
        teachers are the mean returns of an evaluation: ``{task: result.mean_reward for task, result in
        evaluate_tasks(...).items()}``
    :param temperature: positive; a low one prefers the greatest shortfall more
    :param window: episodes of the mean return
    :param scales: task -> positive scale of the shortfall, in the units of the rewards
    :param floor: share of the probability that all tasks divide equally, from 0 to 1; 0 is the paper's formula
    :param mode: see :class:`TaskSchedule`
    :raises TypeError: if ``targets`` or ``scales`` is no mapping, or ``window`` no whole number
    :raises ValueError: on a number out of range; when a model is made, on an unknown or a missing task
    """

    def __init__(
        self,
        targets: Mapping[str, float],
        temperature: float = 0.05,
        window: int = 10,
        scales: Mapping[str, float] | None = None,
        floor: float = 0.0,
        mode: Mode = "next",
    ) -> None:
        super().__init__(Shortfall(targets, scales, window), temperature, floor, mode)


class LearningProgress(SoftmaxSampling):
    """Tasks whose return changes are preferred, whether it rises or falls.

    The probability of task i is ``(1 - floor) * softmax(p / temperature)[i] + floor / n_tasks`` of the progress ``p[i]
    = |mean of the latest window returns - mean of the window returns before| / range[i]``, from 0 to 1. The range is
    from the task's lowest to its highest return since the beginning, so rewards may have any scale and offset. The
    absolute change is the measure of Matiisen et al. 2017 ("Teacher-Student Curriculum Learning", arXiv:1707.00183),
    and a fifth of uniform tasks that of Portelas et al. 2019 (ALP-GMM, arXiv:1910.07224); the division by the range is
    ours. A task with fewer than ``2 * window`` episodes has the greatest progress of the others, so before any task has
    them all are equal.

    :param window: episodes of each of the two means
    :param temperature: positive
    :param floor: share of the probability that all tasks divide equally, from 0 to 1
    :param mode: see :class:`TaskSchedule`
    :raises TypeError: if ``window`` is no whole number
    :raises ValueError: on a number out of range
    """

    def __init__(self, window: int = 10, temperature: float = 0.1, floor: float = 0.2, mode: Mode = "next") -> None:
        super().__init__(Progress(window), temperature, floor, mode)
