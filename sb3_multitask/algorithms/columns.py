"""How a model trains the columns of ``share="progressive"``: in turn, and none that a trained one reads."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch as th

from sb3_multitask.policies.progressive import ProgressiveMlpExtractor
from sb3_multitask.task_schedules import TaskSequence

_OF_COLUMN = re.compile(r"mlp_extractor\.(?:policy|value)_net\.columns\.(\d+)\.")
_T = TypeVar("_T")


def columns_of(model: Any) -> ProgressiveMlpExtractor | None:
    """Return the columns of a model's policy; ``None`` if it has none."""
    extractor = getattr(model.policy, "mlp_extractor", None)
    return extractor if isinstance(extractor, ProgressiveMlpExtractor) else None


def take_columns(model: Any) -> None:
    """Undertake to train a policy's columns in turn, if it has some.

    :raises ValueError: if the model's schedule is another than a sequence in the order of the columns, or its class
        has none
    """
    columns = columns_of(model)
    if columns is None:
        return
    schedule = model.task_schedule
    is_saved = isinstance(schedule, Mapping)  # the settings of one with which the columns were trained
    if getattr(model, "offline", False) and model.policy.n_tasks > 1 and not is_saved:
        raise ValueError(
            f'`policy_kwargs` has share="progressive", whose columns are trained one after the other, and '
            f"{type(model).__name__} learns all tasks at once: leave it out, or give A2CMultiTask or PPOMultiTask the "
            "`teachers` and task_schedule=TaskSequence()"
        )
    if not (isinstance(schedule, TaskSequence) or is_saved or model.policy.n_tasks == 1):
        raise ValueError(
            f'`policy_kwargs` has share="progressive", whose columns are trained one after the other, and '
            f"`task_schedule` is {schedule!r:.100}: give TaskSequence() of sb3_multitask.task_schedules, in a config "
            "{sequence: {}}"
        )
    if isinstance(schedule, TaskSequence) and list(schedule.order) != sorted(schedule.order):
        raise ValueError(
            f"`task_schedule` trains {', '.join(schedule.tasks or ())}, and columns of share='progressive' read those "
            f"of the tasks before them: name the tasks in the model's order, {', '.join(schedule.task_names)}"
        )
    columns.learns_in_turn = True


def check_column(model: Any) -> None:
    """Raise ValueError if ``learn`` would train columns in another order, or one that a trained column reads."""
    take_columns(model)  # again, since its schedule or its env may be another one now
    columns, schedule = columns_of(model), model.task_schedule
    if columns is None or not isinstance(schedule, TaskSequence):
        return
    task = schedule.first_task
    names = [name for i, name in enumerate(schedule.task_names) if i > task and columns.trained[i]]
    if names:
        others = [name for i, name in enumerate(schedule.task_names) if not columns.trained[i]]
        hint = f"TaskSequence({others}) trains the others" if others else "all tasks of this model are trained"
        raise ValueError(
            f"`task_schedule` begins with task {schedule.task_names[task]!r}, whose column those of "
            f"{', '.join(names)} read: training it would change them. {hint}; to add a task, make a model with one "
            "more and `transfer` these"
        )


def note_column(model: Any) -> None:
    """Note that an update has trained the column of the task that was shown."""
    columns = columns_of(model)
    if columns is not None:
        columns.trained[model.env.active_task if columns.trained.numel() > 1 else 0] = 1.0


def check_carried_columns(model: Any, source: Any, pairs: Sequence[tuple[int, int]], *, heads: bool) -> None:
    """Raise unless tasks that a model takes over are the first of both sides, in order: columns read those before.

    :param pairs: tasks of the model and of the source
    :raises ValueError: says which tasks could be taken over
    """
    columns = columns_of(model)
    if columns is None:
        return
    if not heads:
        raise ValueError('`heads=False` carries what tasks share, and with share="progressive" they share nothing')
    if sorted(pairs) != [(i, i) for i in range(len(pairs))]:
        first = dict(zip(model.task_names, source.task_names, strict=False))
        raise ValueError(
            'With share="progressive" `tasks` must be the first of both models, in order, since a column reads those '
            f"before it: all or the beginning of {first}"
        )
    of_tasks = list(zip(model.task_names, columns.trained.tolist(), strict=True))
    later = [name for name, trained in of_tasks[len(pairs) :] if trained]
    if later:
        raise ValueError(f"`model` has trained {', '.join(later)}, whose columns read those that would be replaced")


def without_later_columns(parameters: Iterable[tuple[str, _T]], n_columns: int) -> dict[str, _T]:
    """Return names and parameters without those of the columns from ``n_columns`` on."""
    return {
        name: parameter
        for name, parameter in parameters
        if (found := _OF_COLUMN.match(name)) is None or int(found[1]) < n_columns
    }


def copy_trained(model: Any, source: Any, n_columns: int) -> None:
    """Copy which of the first columns are trained."""
    ours, theirs = columns_of(model), columns_of(source)
    if ours is not None and theirs is not None:
        with th.no_grad():
            ours.trained[:n_columns] = theirs.trained[:n_columns].to(ours.trained.device)
