"""Teachers of points that drift, whose means are known, and what they did."""

from __future__ import annotations

from typing import Any

import numpy as np

import sb3_multitask as mt
from helpers.drift import drift_tasks

GAINS = {"A": 0.5, "B": -0.25}


def teacher_of(task: str, std: float = 0.3) -> Any:
    """A teacher whose mean is a multiple of the position and the speed."""

    def act(obs: np.ndarray) -> tuple[np.ndarray, float]:
        return GAINS[task] * obs[:, :2], std

    return act


def recorded(n: int = 2, **kwargs: Any) -> mt.TeacherDataset:
    """What the teachers of n tasks did."""
    tasks = drift_tasks(n)
    return mt.record({task.name: teacher_of(task.name) for task in tasks}, tasks, n_envs_per_task=2, **kwargs)
