"""Plain values: what a checkpoint can hold."""

from __future__ import annotations

from typing import Any

import numpy as np


def is_plain(value: Any) -> bool:
    """Whether a value is a number, a text, None, an array of numbers, or a list, tuple or dict (by texts) of such."""
    if type(value) in (list, tuple):  # a subclass, such as a NamedTuple, would come back as something else
        return all(is_plain(item) for item in value)
    if isinstance(value, dict):
        return all(isinstance(key, str) and is_plain(item) for key, item in value.items())
    if isinstance(value, np.ndarray):
        return not value.dtype.hasobject
    return value is None or isinstance(value, bool | int | float | str | np.generic)
