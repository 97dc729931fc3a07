"""Plain values: those that a checkpoint can hold."""

from __future__ import annotations

from typing import Any

import numpy as np


def is_plain(value: Any) -> bool:
    """Return True for a number, text, None, array of numbers, and a list, tuple or dict (keys are texts) of these."""
    if type(value) in (list, tuple):  # a subclass, such as a NamedTuple, would be read as another type
        return all(is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    if isinstance(value, np.ndarray):
        return not value.dtype.hasobject
    return value is None or isinstance(value, bool | int | float | str | np.generic)
