"""Numbers in configs that may fall with the training: ``0.1`` stays, ``lin_0.1`` falls to 0, as in rl-zoo."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, TypeAlias

from sb3_multitask.losses.schedules import in_range

Schedulable: TypeAlias = float | str

COEFFICIENTS = ("distill_coef", "rl_coef", "critic_coef", "student_rollout_prob")
SCHEDULES = ("learning_rate", "clip_range", "clip_range_vf", *COEFFICIENTS)
"""Arguments of the algorithms that may be schedules."""


def as_schedule(value: float | str | None) -> Any:
    """What SB3 takes: a number, or a function of the remaining progress (of ``lin_<number>``); ``None`` stays.

    :raises ValueError: if it is neither
    """
    if value is None:
        return None
    number, falls = _parse(value)
    return (lambda progress_remaining: number * in_range(progress_remaining)) if falls else number


def is_constant(value: float | str) -> bool:
    """Whether a value stays the same over the training."""
    return not _parse(value)[1]


def check_schedule(value: Any) -> None:
    """Raise unless a value is None, a number or ``lin_<number>``, finite and not negative.

    :raises ValueError: says which it must be
    """
    if value is not None:
        number, _ = _parse(value)
        if not 0 <= number < math.inf:
            raise ValueError("must be finite and not negative")


def check_schedules(arguments: Mapping[str, Any]) -> None:
    """Raise on a schedule of an algorithm that is none, and on one where none is taken.

    :param arguments: the algorithm's
    :raises ValueError: names the argument
    """
    for name, value in arguments.items():
        if name in SCHEDULES:
            try:
                check_schedule(value)
            except ValueError as e:
                raise ValueError(f"{name} {e}") from e
        elif isinstance(value, str) and value.startswith("lin_"):
            raise ValueError(f"{name} takes no schedule (got {value!r}); those that do: {', '.join(SCHEDULES)}")


def with_schedules(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of an algorithm with ``lin_<number>`` as a function, wherever a schedule is taken."""
    return {name: as_schedule(value) if name in SCHEDULES else value for name, value in arguments.items()}


def _parse(value: float | str) -> tuple[float, bool]:
    """``0.1`` -> (0.1, False), constant; ``"lin_0.1"`` -> (0.1, True), falling to 0 with the remaining progress."""
    text = str(value)
    try:
        return float(text.removeprefix("lin_")), text.startswith("lin_")
    except ValueError as e:
        raise ValueError("must be a number, or lin_<number> for one that falls to 0 (as in rl-zoo)") from e
