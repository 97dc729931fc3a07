"""Task schedules as they stand in configs: a name with arguments."""

from __future__ import annotations

from collections.abc import Mapping
from inspect import Parameter, signature
from typing import Any

from sb3_multitask.task_schedules.bandit import TaskBandit
from sb3_multitask.task_schedules.base import TaskSchedule
from sb3_multitask.task_schedules.sampling import LearningProgress, ShortfallSampling, UniformSampling
from sb3_multitask.task_schedules.sequence import TaskSequence
from sb3_multitask.tasks import did_you_mean

TASK_SCHEDULES: dict[str, type[TaskSchedule]] = {
    "uniform": UniformSampling,
    "shortfall": ShortfallSampling,
    "progress": LearningProgress,
    "bandit": TaskBandit,
    "sequence": TaskSequence,
}
"""By the name that a config has for them."""

_FORM = "must be joint, cycle, or a schedule with its arguments, such as {progress: {window: 10}}"


def make_task_schedule(value: Any) -> Any:
    """Return what ``task_schedule`` of an algorithm takes: a new schedule for ``{name: {argument: value}}``.

    :param value: what stands in a config; ``"joint"`` and ``"cycle"`` stay
    :raises ValueError: on an unknown name or argument, and on whatever the schedule's constructor refuses
    """
    if value in ("joint", "cycle"):
        return value
    names = ", ".join(TASK_SCHEDULES)
    if isinstance(value, str) and value in TASK_SCHEDULES:
        written = ", ".join(f"{argument}: ..." for argument in _required(value))
        raise ValueError(f"{_FORM}: {value!r} alone is written {{{value}: {{{written}}}}}")
    if not isinstance(value, Mapping) or len(value) != 1:
        raise ValueError(f"{_FORM}; schedules: {names}")
    ((name, arguments),) = value.items()
    if name not in TASK_SCHEDULES:
        raise ValueError(f"unknown schedule {name!r}.{did_you_mean(str(name), TASK_SCHEDULES)} Known: {names}")
    if not isinstance(arguments, Mapping):
        raise ValueError(f"{name} must have a mapping of arguments, such as {{{name}: {{mode: weights}}}}")
    known = list(signature(TASK_SCHEDULES[name]).parameters)
    for argument in arguments:
        if argument not in known:
            guess = did_you_mean(str(argument), known)
            raise ValueError(f"{name} has no argument {argument!r}.{guess} Known: {', '.join(known)}")
    if missing := [argument for argument in _required(name) if argument not in arguments]:
        raise ValueError(f"{name} must have {', '.join(missing)} among its arguments: {', '.join(known)}")
    try:
        return TASK_SCHEDULES[name](**arguments)
    except (TypeError, ValueError) as e:
        raise ValueError(f"{name}: {e}") from e


def _required(name: str) -> list[str]:
    """The arguments that a schedule has no default for."""
    parameters = signature(TASK_SCHEDULES[name]).parameters.values()
    return [parameter.name for parameter in parameters if parameter.default is Parameter.empty]
