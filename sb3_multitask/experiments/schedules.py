"""Numbers in configs that may change with the training.

``0.1`` stays; ``lin_0.1`` falls to 0, as in rl-zoo; ``{0: 0.0, 0.3: 1.0}`` is 0 at first, and 1 from three tenths of
the training on.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import Any, TypeAlias

from sb3_multitask.losses.schedules import in_range

Steps: TypeAlias = dict[float, float]
Schedulable: TypeAlias = float | str | Steps

COEFFICIENTS = ("distill_coef", "rl_coef", "critic_coef", "student_rollout_prob", "distill_features")
SCHEDULES = ("learning_rate", "clip_range", "clip_range_vf", *COEFFICIENTS)
"""Arguments of the algorithms that may be schedules."""


class PiecewiseConstant:
    """A schedule that is constant between steps: a function of the remaining progress, as SB3's schedules.

    ``PiecewiseConstant({0: 0.0, 0.3: 1.0})`` is 0 in the first three tenths of the training, and 1 from then on. An
    update belongs to the share of the training that is done with the rollout from which it learns.

    :param values: share of the training that is done, in [0, 1) -> value from then on; shares rise, beginning with 0,
        and values are finite and at least 0
    :raises ValueError: on anything else
    """

    def __init__(self, values: Mapping[float, float]) -> None:
        try:
            self.values = steps_of(values)
        except ValueError as e:
            raise ValueError(f"`values` {e} (got {values!r})") from e

    def __call__(self, progress_remaining: float) -> float:
        """Return the value at a remaining progress, 1 at the start of the training and 0 at its end."""
        remaining = in_range(progress_remaining)
        # The remaining progress is 1 minus a share, rounded: so is each step, or 0.1 would come after 1 - 0.9.
        return next(value for share, value in reversed(self.values.items()) if remaining <= 1.0 - share)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, PiecewiseConstant) and self.values == other.values

    def __hash__(self) -> int:
        return hash(tuple(self.values.items()))

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.values})"

    @property
    def as_setting(self) -> str:
        """What a checkpoint compares: two schedules are the same setting if these texts are equal."""
        return str(self.values)


def steps_of(values: Any) -> Steps:
    """Return the steps of a piecewise constant schedule as numbers; texts of numbers, as YAML's keys are, are taken.

    :raises ValueError: says what they must be
    """
    shape = "must be a mapping from shares of the training to values, such as {0: 0.0, 0.3: 1.0}"
    if not isinstance(values, Mapping) or not values:
        raise ValueError(shape)
    try:
        pairs = [(_number(share), _number(value)) for share, value in values.items()]
    except (TypeError, ValueError) as e:
        raise ValueError(f"{shape}: {e}") from e
    shares = [share for share, _ in pairs]
    if shares[0] != 0:
        raise ValueError(f"must begin with its value from share 0 of the training on, not from {shares[0]:g}")
    for before, share in pairwise(shares):
        if not before < share < 1:
            raise ValueError(f"must have rising shares of the training below 1: {share:g} stands after {before:g}")
    for share, value in pairs:
        if not 0 <= value < math.inf:
            raise ValueError(f"must be finite and not negative, also from {share:g} on: {value:g}")
    return dict(pairs)


def as_schedule(value: Schedulable | None) -> Any:
    """Return what SB3 takes: a number, or a function of the remaining progress; ``None`` stays.

    :raises ValueError: if it is neither
    """
    if value is None:
        return None
    if isinstance(value, Mapping):
        steps = PiecewiseConstant(value)
        return steps.values[0] if len(steps.values) == 1 else steps
    number, falls = _parse(value)
    return (lambda progress_remaining: number * in_range(progress_remaining)) if falls else number


def is_constant(value: Schedulable) -> bool:
    """Return whether a value stays the same over the training."""
    return len(value) == 1 if isinstance(value, Mapping) else not _parse(value)[1]


def checked_schedule(value: Any, name: str) -> Any:
    """Return a setting as it was given, a piecewise constant schedule with numbers for its keys and values.

    :param name: of the argument; ``None`` is left to it
    :raises ValueError: unless it is a schedule, whose numbers are finite, not negative and, of a probability, at most 1
    """
    if value is None:
        return None
    checked = steps_of(value) if isinstance(value, Mapping) else value
    numbers = checked.values() if isinstance(checked, Mapping) else [_parse(value)[0]]
    if not all(0 <= number < math.inf for number in numbers):
        raise ValueError("must be finite and not negative")
    if name == "student_rollout_prob" and max(numbers) > 1:
        raise ValueError("must be at most 1, as a probability")
    return checked


def checked_schedules(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return an algorithm's arguments with :func:`checked_schedule` schedules.

    :param arguments: the algorithm's
    :raises ValueError: on a schedule that is none, and on one where none is taken; names the argument
    """
    checked = dict(arguments)
    for name, value in arguments.items():
        if name in SCHEDULES:
            try:
                checked[name] = checked_schedule(value, name)
            except ValueError as e:
                raise ValueError(f"{name} {e}") from e
        elif _looks_like_schedule(value):
            raise ValueError(f"{name} takes no schedule (got {value!r}); those that do: {', '.join(SCHEDULES)}")
    return checked


def with_schedules(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return an algorithm's arguments with functions for schedules, wherever a schedule is taken."""
    return {name: as_schedule(value) if name in SCHEDULES else value for name, value in arguments.items()}


def _looks_like_schedule(value: Any) -> bool:
    if isinstance(value, Mapping) and value:
        return all(str(key).replace(".", "", 1).isdigit() for key in value)
    return isinstance(value, str) and value.startswith("lin_")


def _number(value: Any) -> float:
    if isinstance(value, bool):
        raise TypeError(f"{value} is no number")
    return float(value)


def _parse(value: float | str) -> tuple[float, bool]:
    """``0.1`` -> (0.1, False), constant; ``"lin_0.1"`` -> (0.1, True), falling to 0 with the remaining progress."""
    text = str(value)
    try:
        return float(text.removeprefix("lin_")), text.startswith("lin_")
    except ValueError as e:
        raise ValueError(
            "must be a number, or lin_<number> for one that falls to 0 (as in rl-zoo), or a value from each share of "
            "the training on, such as {0: 0.0, 0.3: 1.0}"
        ) from e
