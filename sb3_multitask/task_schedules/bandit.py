"""A schedule for which every task is an arm of a bandit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from sb3_multitask.task_schedules.base import Mode
from sb3_multitask.task_schedules.checks import checked_share, is_number
from sb3_multitask.task_schedules.measures import Measure, Progress, Shortfall
from sb3_multitask.task_schedules.sampling import MeasuredSchedule

MeasureName: TypeAlias = Literal["progress", "shortfall"]
_NEVER = 1e-12
"""A discounted number of visits below it counts as none: its bonus would be beyond all others anyway."""


class TaskBandit(MeasuredSchedule):
    """Discounted UCB over the tasks (Garivier and Moulines 2011, "On Upper-Confidence Bound Policies for Switching
    Bandit Problems", ALT).

    Each update is a round, in which the visited task pays its measure at that time, clipped to [0, 1]. With ``N[i]``
    the number of visits of task i and ``X[i]`` their mean pay, both discounted by ``discount`` a round, and ``n`` the
    sum of all ``N``, the task with the greatest ``X[i] + 2 * sqrt(exploration * log(n) / N[i])`` is next; equal ones
    share the probability, and tasks that were never visited come first. A task without enough episodes pays the
    optimistic measure of :class:`ShortfallSampling` or :class:`LearningProgress`.

    In mode "weights" every update visits all tasks, which then have equal bonuses: the tasks with the greatest pay have
    the weights, and the others the floor's. Give a ``floor``, or they learn nothing meanwhile.

    :param measure: what a visit pays: ``"progress"`` (as :class:`LearningProgress` defines it) or ``"shortfall"`` (as
        :class:`ShortfallSampling`)
    :param targets: task -> return to reach, for the shortfall alone
    :param scales: task -> scale of the shortfall, for the shortfall alone
    :param window: episodes of a mean return
    :param discount: of what earlier rounds count, in (0, 1]; 1 forgets nothing
    :param exploration: at least 0; the paper's bounds hold above 0.5
    :param floor: share of the probability that all tasks divide equally, from 0 to 1
    :param mode: see :class:`TaskSchedule`
    :raises TypeError: if ``targets`` or ``scales`` is no mapping, or ``window`` no whole number
    :raises ValueError: on another measure, targets without their measure, or a number out of range; when a model is
        made, on an unknown or a missing task
    """

    def __init__(
        self,
        measure: MeasureName = "progress",
        targets: Mapping[str, float] | None = None,
        scales: Mapping[str, float] | None = None,
        window: int = 10,
        discount: float = 0.99,
        exploration: float = 0.6,
        floor: float = 0.0,
        mode: Mode = "next",
    ) -> None:
        super().__init__(_measure_of(measure, targets, scales, window), floor, mode)
        self.measure: MeasureName = measure
        self.discount = checked_share("discount", discount)
        if self.discount == 0:
            raise ValueError("`discount` must be above 0 (got 0)")
        if not is_number(exploration) or exploration < 0:
            raise ValueError(f"`exploration` must be a finite number of at least 0 (got {exploration!r:.100})")
        self.exploration = float(exploration)
        self._counts = self._sums = np.zeros(0)

    def begin(self, task_names: Sequence[str], seed: int | None) -> None:
        super().begin(task_names, seed)
        self._counts, self._sums = np.zeros(self.n_tasks), np.zeros(self.n_tasks)

    def note_visits(self, tasks: Sequence[int]) -> None:
        super().note_visits(tasks)
        visited = list(tasks)
        pay = self._measure.values()[visited].clip(0, 1)
        self._counts *= self.discount
        self._sums *= self.discount
        self._counts[visited] += 1
        self._sums[visited] += pay

    def probabilities(self) -> np.ndarray:
        best = self._counts < _NEVER
        if not best.any():
            bonus = 2 * np.sqrt(self.exploration * max(np.log(self._counts.sum()), 0.0) / self._counts)
            index = self._sums / self._counts + bonus
            best = index == index.max()
        return self.above_floor(best / best.sum())

    def get_state(self) -> dict[str, Any]:
        return {**super().get_state(), "counts": self._counts.tolist(), "sums": self._sums.tolist()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        super().set_state(state)
        self._counts, self._sums = np.array(state["counts"]), np.array(state["sums"])

    def settings(self) -> dict[str, Any]:
        own = {"measure": self.measure, "discount": self.discount, "exploration": self.exploration}
        return {**super().settings(), **own}


def _measure_of(
    name: Any, targets: Mapping[str, float] | None, scales: Mapping[str, float] | None, window: int
) -> Measure:
    """The measure of a name.

    :raises ValueError: on another name, or on targets that would be ignored
    """
    if name not in get_args(MeasureName):
        raise ValueError(f"`measure` must be one of {', '.join(get_args(MeasureName))} (got {name!r:.100})")
    if name == "shortfall":
        if targets is None:
            raise ValueError("measure='shortfall' needs `targets`: task -> return to reach")
        return Shortfall(targets, scales, window)
    for argument, value in (("targets", targets), ("scales", scales)):
        if value is not None:
            raise ValueError(f"`{argument}` is for measure='shortfall' (got {value!r:.100} with measure={name!r})")
    return Progress(window)
