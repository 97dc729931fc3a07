"""Checks of the arguments of task schedules."""

from __future__ import annotations

import math
from collections.abc import Mapping
from numbers import Integral, Real
from typing import Any


def is_number(value: object) -> bool:
    """Whether a value is a finite number; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool) and math.isfinite(value)


def checked_positive(name: str, value: Any) -> float:
    """Return a positive, finite number.

    :raises ValueError: if it is none
    """
    if not is_number(value) or value <= 0:
        raise ValueError(f"`{name}` must be a positive, finite number (got {value!r:.100})")
    return float(value)


def checked_share(name: str, value: Any) -> float:
    """Return a number from 0 to 1.

    :raises ValueError: if it is none
    """
    if not is_number(value) or not 0 <= value <= 1:
        raise ValueError(f"`{name}` must be a number from 0 to 1 (got {value!r:.100})")
    return float(value)


def checked_count(name: str, value: Any) -> int:
    """Return a whole number of at least 1.

    :raises TypeError: if it is no whole number
    :raises ValueError: if it is below 1
    """
    if isinstance(value, bool) or not isinstance(value, Integral):
        raise TypeError(f"`{name}` must be a whole number of at least 1 (got {value!r:.100})")
    if value < 1:
        raise ValueError(f"`{name}` must be at least 1 (got {value})")
    return int(value)


def checked_numbers(name: str, values: Any) -> dict[str, float]:
    """Return a mapping from tasks to finite numbers.

    :raises TypeError: if it is no mapping
    :raises ValueError: if one is no finite number
    """
    if not isinstance(values, Mapping):
        raise TypeError(f"`{name}` must map tasks to numbers, such as {{'a': 100.0}} (got {values!r:.100})")
    for task, value in values.items():
        if not is_number(value):
            raise ValueError(f"`{name}` of {task!r} must be a finite number (got {value!r:.100})")
    return {str(task): float(value) for task, value in values.items()}
