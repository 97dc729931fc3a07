"""Checks of numbers in the arguments of environments. Numpy's numbers count as numbers; booleans do not."""

from __future__ import annotations

import math
import numbers
from typing import Any


def is_finite(value: Any) -> bool:
    """Return whether a value is a real, finite number."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def is_integer(value: Any) -> bool:
    """Return whether a value has a type of whole numbers."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
