"""How a model follows a schedule of tasks: what it accepts, its own copy, and what a file keeps of it."""

from __future__ import annotations

import copy
import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, get_args

from stable_baselines3.common.logger import Logger

from sb3_multitask.task_schedules.base import TaskSchedule
from sb3_multitask.vec_env.layers import ScheduleName


def check_task_schedule(task_schedule: object, *, from_file: bool = False) -> None:
    """Raise unless a value is a schedule of tasks.

    :param from_file: whether it may also be the settings of a schedule, which a file has in its place
    :raises TypeError: on a class, or a mapping, which only configs take
    :raises ValueError: on another name
    """
    is_settings = isinstance(task_schedule, Mapping) and {"class", "mode"} <= set(task_schedule)
    if isinstance(task_schedule, TaskSchedule) or (from_file and is_settings):
        return
    accepted = f"{', '.join(get_args(ScheduleName))} or an object of sb3_multitask.task_schedules"
    message = f"`task_schedule` must be one of {accepted} (got {task_schedule!r:.100})"
    if isinstance(task_schedule, type) and issubclass(task_schedule, TaskSchedule):
        raise TypeError(f"{message}: make an object, {task_schedule.__name__}(...)")
    if isinstance(task_schedule, Mapping):
        raise TypeError(f"{message}: make_task_schedule(...) of sb3_multitask.task_schedules makes one of a mapping")
    if not isinstance(task_schedule, str) or task_schedule not in get_args(ScheduleName):
        raise ValueError(message)


def check_weights_are_used(task_schedule: object, name: str, *, weighs_tasks: bool) -> None:
    """Raise ValueError if a schedule gives weights to an algorithm whose update has none.

    :param name: of the algorithm's class
    """
    if isinstance(task_schedule, TaskSchedule) and task_schedule.mode == "weights" and not weighs_tasks:
        raise ValueError(
            f"`task_schedule` is {task_schedule!r:.100}, and the update of {name} cannot weigh the losses of tasks: "
            'give it mode="next"'
        )


def check_has_schedule(name: str, task_schedule: object) -> None:
    """Raise ValueError if a model that was loaded lacks its schedule.

    :param name: of the model's class
    """
    if isinstance(task_schedule, Mapping):
        kind = task_schedule.get("class", "")
        raise ValueError(
            f"The model was trained with the task schedule {kind}, which is not saved with it: load it with "
            f"`{name}.load(path, env=env, task_schedule={kind}(...))`. With the same arguments it continues where it "
            f'stopped. `task_schedule="joint"` or "cycle" continues without it. Its arguments were: {task_schedule!r}'
        )


def check_is_the_envs(name: str, task_schedule: object, of_env: object) -> None:
    """Raise ValueError if a model's schedule was changed after its env was set, which shows tasks as it asks for.

    :param name: of the model's class
    :param of_env: with which the env was set
    """
    if task_schedule != of_env:
        raise ValueError(
            f"`task_schedule` is now {task_schedule!r:.100}, and the env of the model was set with {of_env!r:.100}: "
            "set it again, `model.set_env(env)`, or, if that changes the number of environments, save the model and "
            f"load it with `{name}.load(path, env=env, task_schedule=...)`"
        )


def begun(
    schedule: TaskSchedule, names: Sequence[str], seed: int | None, saved: Mapping[str, Any] | None
) -> TaskSchedule:
    """Return a model's own copy of a schedule, begun, with the memory of an equal one if a file has it.

    :param saved: what :func:`saved_schedule` returned; ``None``: there is no memory
    """
    own = copy.deepcopy(schedule)
    own.begin(names, seed)
    if saved is None:
        return own
    if _text(own.settings()) == _text(saved["settings"]):
        own.set_state(saved["state"])
    else:
        warnings.warn(
            f"The model was trained with the task schedule {saved['settings']!r}: {own!r} is another one, and begins "
            "without what that one knew of the tasks.",
            stacklevel=2,
        )
    return own


def saved_schedule(schedule: TaskSchedule) -> dict[str, Any]:
    """Return what a file keeps of a schedule: plain values, and nothing of its class."""
    return {"settings": schedule.settings(), "state": schedule.get_state()}


@contextmanager
def saved_as_settings(model: Any) -> Iterator[None]:
    """Let a model have the settings of its schedule in place of the object, while it is saved."""
    schedule, state = model.task_schedule, model.schedule_state
    try:
        if isinstance(schedule, TaskSchedule):
            model.task_schedule = schedule.settings()
            if schedule.n_tasks:  # not before the model has an env: then a file's state is still the latest
                model.schedule_state = saved_schedule(schedule)
        yield
    finally:
        model.task_schedule, model.schedule_state = schedule, state


def log_schedule(logger: Logger, schedule: TaskSchedule) -> None:
    """Record the probability of each task now, and the number of updates that have learned from its rows."""
    probabilities = schedule.checked_probabilities().tolist()
    for name, probability, visits in zip(schedule.task_names, probabilities, schedule.visits.tolist(), strict=True):
        logger.record(f"schedule/{name}/probability", probability)
        logger.record(f"schedule/{name}/visits", visits)


def _text(settings: Mapping[str, Any]) -> str:
    """Settings as they are in a file, in which a tuple is a list."""
    return json.dumps(settings, sort_keys=True, default=repr)
