"""Which of many tasks a table or a figure for people shows: those with the lowest and those with the highest return.

Files for programs (``progress.csv``, TensorBoard, JSON, ``evaluations.npz``, CSV tables) hold all tasks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

MANY = 20
"""Up to this number of tasks all are shown."""
AT_EACH_END = MANY // 2


def shown_tasks(scores: Mapping[str, float]) -> list[str]:
    """Return the names of the tasks that are shown.

    :param scores: task -> its return; NaN, as of a training that diverged, counts as the lowest
    :return: all tasks in their order if there are at most ``MANY``; else the ten with the lowest and the ten with the
        highest return, from the lowest to the highest
    """
    if len(scores) <= MANY:
        return list(scores)
    ranked = sorted(scores, key=lambda task: -math.inf if math.isnan(scores[task]) else scores[task])
    return [*ranked[:AT_EACH_END], *ranked[-AT_EACH_END:]]


def shown_words(n_tasks: int, by: str = "return") -> str:
    """Return which tasks are shown, for a note below a table or in a title; empty if all are.

    :param n_tasks: number of all tasks
    :param by: what they are ranked by
    """
    if n_tasks <= MANY:
        return ""
    return f"the {AT_EACH_END} tasks with the lowest and the {AT_EACH_END} with the highest {by}, of {n_tasks}"


def gap(n_tasks: int) -> str:
    """Return what stands between the lowest and the highest of a table: how many tasks are left out."""
    return f"... {n_tasks - MANY} tasks between ..."


def listed(parts: Sequence[str], separator: str = ", ") -> str:
    """Return names, or what is said of each task, in a sentence: the first ten and the number of the others if many."""
    if len(parts) <= MANY:
        return separator.join(parts)
    return f"{separator.join(parts[:AT_EACH_END])} and {len(parts) - AT_EACH_END} more"
