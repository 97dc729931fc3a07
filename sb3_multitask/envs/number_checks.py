"""What counts as a number in the arguments of environments: numpy's too, booleans not."""

from __future__ import annotations

import math
import numbers
from typing import Any


def is_finite(value: Any) -> bool:
    """Whether it is a real, finite number."""
    return isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value)


def is_integer(value: Any) -> bool:
    """Whether it is a whole number by type."""
    return isinstance(value, numbers.Integral) and not isinstance(value, bool)
