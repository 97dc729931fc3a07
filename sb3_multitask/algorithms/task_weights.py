"""How much each task counts in an update."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np

from sb3_multitask.losses.schedules import as_number
from sb3_multitask.tasks import check_tasks

TaskWeights: TypeAlias = Mapping[str, float]
"""Task name -> weight; tasks that are not named have 1."""


def checked_weights(task_weights: Any, task_names: Sequence[str] | None) -> np.ndarray | None:
    """Return the weight of every task, (n_tasks,); None if all are 1 or the tasks are not known yet.

    :raises TypeError: if it is no mapping
    :raises ValueError: on a weight that is no finite number of at least 0, an unknown task, or no weight above 0
    """
    if task_weights is None:
        return None
    if not isinstance(task_weights, Mapping):
        raise TypeError(f"`task_weights` must map tasks to weights, such as {{'a': 2.0}} (got {task_weights!r:.100})")
    for name, value in task_weights.items():
        number = as_number(value)
        if number is None or not 0 <= number < float("inf"):
            raise ValueError(f"`task_weights` of {name!r} must be a finite number of at least 0 (got {value!r:.100})")
    if task_names is None or not task_weights:
        return None
    check_tasks("task_weights", task_weights, task_names, of_all=False)
    weights = np.array([float(task_weights.get(name, 1.0)) for name in task_names])
    if not weights.any():
        raise ValueError("`task_weights` must leave a task with a weight above 0: nothing would be learned")
    return None if (weights == 1).all() else weights
