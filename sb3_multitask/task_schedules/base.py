"""What all task schedules share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

import numpy as np

from sb3_multitask.process.generators import generator_state, make_generator
from sb3_multitask.process.seeding import schedule_generator

Mode: TypeAlias = Literal["next", "weights"]
"""``"next"``: one task at a time, which the schedule picks; ``"weights"``: all tasks, whose losses it weighs."""


class TaskSchedule(ABC):
    """Decides which task is trained on next (mode "next"), or how much each task counts (mode "weights").

    A schedule of one's own defines :meth:`probabilities`. One that learns from what happens also defines
    :meth:`note_episode` or :meth:`note_visits`, makes its memory in :meth:`begin`, and adds the memory to
    :meth:`get_state` and :meth:`set_state`. Its arguments belong into :meth:`settings`. Each calls ``super()``.

    A model trains with a copy of the schedule that it is given, ``model.task_schedule``, and begins the copy.

    :param mode: ``"next"``: each rollout shows one task, drawn from :meth:`probabilities`; ``"weights"``: each rollout
        shows all tasks, whose losses are multiplied by :meth:`weights`
    :raises ValueError: on another mode
    """

    def __init__(self, mode: Mode = "next") -> None:
        if mode not in get_args(Mode):
            raise ValueError(f"`mode` must be one of {', '.join(get_args(Mode))} (got {mode!r})")
        self.mode: Mode = mode
        self.task_names: tuple[str, ...] = ()
        self.visits = np.zeros(0, dtype=np.int64)
        self._generator: np.random.Generator | None = None

    @property
    def n_tasks(self) -> int:
        """Number of tasks; 0 before :meth:`begin`."""
        return len(self.task_names)

    def begin(self, task_names: Sequence[str], seed: int | None) -> None:
        """Take the tasks and a seed, once, before anything else; what was noted before is forgotten.

        :param task_names: names of all tasks, in order; other methods take the indices
        :param seed: of the schedule's own generator; ``None``: another one in every process
        :raises ValueError: if the arguments do not fit these tasks
        """
        self.task_names = tuple(task_names)
        self.visits = np.zeros(self.n_tasks, dtype=np.int64)
        self._generator = schedule_generator(seed)

    @abstractmethod
    def probabilities(self) -> np.ndarray:
        """Return the probability of each task, (n_tasks,): at least 0, with the sum 1. Changes nothing."""

    def next_task(self) -> int:
        """Draw the task of the next rollout from :meth:`probabilities`, and return its index.

        :raises RuntimeError: before :meth:`begin`
        :raises ValueError: if the probabilities are none
        """
        if self._generator is None:
            raise RuntimeError(
                f"{type(self).__name__} has not begun: a model begins its own copy, model.task_schedule; elsewhere "
                "call begin(task_names, seed) first. A begin() of one's own calls super().begin(task_names, seed)"
            )
        return int(self._generator.choice(self.n_tasks, p=self.checked_probabilities()))

    def weights(self) -> np.ndarray:
        """Return the weights of the tasks' losses, (n_tasks,), with the mean 1: ``n_tasks`` times the probabilities.

        :raises ValueError: if the probabilities are none
        """
        return self.n_tasks * self.checked_probabilities()

    def checked_probabilities(self) -> np.ndarray:
        """Return :meth:`probabilities`, (n_tasks,).

        :raises ValueError: if they have another shape, are negative or not finite, or have another sum than 1
        """
        p: np.ndarray = np.asarray(self.probabilities(), dtype=np.float64)
        if p.shape != (self.n_tasks,) or not (p >= 0).all() or abs(p.sum() - 1) > 1e-6:
            raise ValueError(
                f"probabilities() of {type(self).__name__} must return {self.n_tasks} numbers of at least 0 with the "
                f"sum 1, one for each task (got {p!r:.200})"
            )
        normalized: np.ndarray = p / p.sum()
        return normalized

    @property
    def first_task(self) -> int:
        """Index of the task that a reset shows before :meth:`next_task` picks one: its first observations enter the
        statistics of a normaliser.
        """
        return 0

    def note_training(self, n_updates: int) -> None:  # noqa: B027
        """Take in that ``learn`` begins. The base class ignores it.

        :param n_updates: how many updates it will make
        """

    def note_visits(self, tasks: Sequence[int]) -> None:
        """Take in that an update has learned from rows of some tasks.

        :param tasks: their indices: one in mode "next", all in mode "weights"
        """
        self.visits[list(tasks)] += 1

    def note_episode(self, task: int, episode_return: float, success: float | None) -> None:  # noqa: B027
        """Take in that a training episode ended. The base class ignores it.

        :param task: index of its task
        :param episode_return: sum of its raw rewards, in the units of the environment
        :param success: 1.0 or 0.0; ``None`` if the environment does not say it
        """

    def get_state(self) -> dict[str, Any]:
        """Return everything that changes after :meth:`begin`, as new plain values: lists, dicts, numbers, texts."""
        return {"generator": generator_state(self._generator), "visits": self.visits.tolist()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`get_state` returned; after :meth:`begin`.

        :raises ValueError: if the state is of another number of tasks
        """
        if len(state["visits"]) != self.n_tasks:
            raise ValueError(
                f"The state of {type(self).__name__} is of {len(state['visits'])} tasks, and there are {self.n_tasks}"
            )
        self.visits = np.array(state["visits"], dtype=np.int64)
        self._generator = make_generator(state["generator"])

    def why_inexact(self) -> str | None:
        """Return why a training that resumes would not follow the same sequence; ``None`` if it would.

        A class that notes what happens, and does not say what it remembers, would forget it.
        """
        for kind in type(self).__mro__:
            if {"note_episode", "note_visits"} & set(vars(kind)) and "get_state" not in vars(kind):
                return f"{kind.__name__} notes what happens and has no get_state() and set_state(state) of its own"
        return None

    def settings(self) -> dict[str, Any]:
        """Return what makes it the same schedule, as plain values: a training resumes with equal settings only."""
        return {"class": type(self).__qualname__, "mode": self.mode}

    def __repr__(self) -> str:
        arguments = (f"{name}={value!r}" for name, value in self.settings().items() if name != "class")
        return f"{type(self).__name__}({', '.join(arguments)})"


def one_task_at_a_time(task_schedule: object) -> bool:
    """Whether each rollout shows one task.

    :param task_schedule: ``"joint"``, ``"cycle"``, a schedule, or the :meth:`~TaskSchedule.settings` of one
    """
    if isinstance(task_schedule, Mapping):
        return task_schedule.get("mode") == "next"
    return task_schedule.mode == "next" if isinstance(task_schedule, TaskSchedule) else task_schedule == "cycle"
