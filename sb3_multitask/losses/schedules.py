"""The remaining progress that schedules are functions of: 1 at the start of training, 0 at its end."""

from __future__ import annotations

import math


def in_range(progress_remaining: float) -> float:
    """The remaining progress, kept within [0, 1].

    SB3's falls below 0 in the last update wherever rollouts do not divide ``total_timesteps``, and with it what a
    schedule makes of it: a learning rate ``7e-4 * progress`` would climb the loss.
    """
    return min(max(progress_remaining, 0.0), 1.0)


def as_number(value: object) -> float | None:
    """The number that a value is; None if it is none, as a text or True is not."""
    if isinstance(value, bool | str | bytes):
        return None
    try:
        return float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        return None


def check_number_or_schedule(name: str, value: object, *, positive: bool = False) -> None:
    """Raise unless an argument is a number in its range, or a function of the remaining progress.

    :param positive: a number may not be 0 either
    :raises TypeError: if it is neither, such as a text or a mapping, which only configs take
    :raises ValueError: on a number out of range
    """
    if callable(value):
        return
    number = as_number(value)
    if number is None or not (number > 0 if positive else number >= 0) or number == math.inf:
        error = TypeError if number is None else ValueError
        raise error(
            f"`{name}` must be {'positive' if positive else 'at least 0'} and finite, or a schedule: a function of the "
            f"remaining progress, such as PiecewiseConstant({{0: 0.0, 0.3: 1.0}}) (got {value!r:.100})"
        )
