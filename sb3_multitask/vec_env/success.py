"""Success in the infos of steps: an episode is successful if any of its steps says so, as Meta-World counts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

SUCCESS = "is_success"
"""SB3's key, which also holds whether an episode was successful: in the info of its last step, and in monitor files."""
_KEYS = (SUCCESS, "success")
NOT_SAID, FAILED, SUCCEEDED = -1, 0, 1
"""What a step says of success. Steps of an episode combine to their maximum."""


def success_of(info: Mapping[str, Any]) -> int:
    """Return what a step says of success: SUCCEEDED, FAILED or NOT_SAID.

    ``info["is_success"]`` says it, else ``info["success"]``: a bool, 0 or 1, or an array of one such value. ``None``
    says nothing. Other values of "success" say nothing, since environments use this common word for other things.

    :raises ValueError: on another value of "is_success", which has no other meaning: a rate of it would be wrong
    """
    for key in _KEYS:
        value = info.get(key)
        if value is None:
            continue
        if value is True or value is False:
            return int(value)
        said = _as_success(value)
        if said is not None:
            return said
        if key == SUCCESS:
            raise ValueError(
                f"info[{SUCCESS!r}] must be a bool, 0 or 1, an array of one of these, or None (got {value!r:.100}); a "
                "wrapper of the environment can turn other values into a bool"
            )
    return NOT_SAID


def _as_success(value: Any) -> int | None:
    """Return a value as FAILED or SUCCEEDED; None if it is neither."""
    try:
        array = np.asarray(value)
    except (TypeError, ValueError, RuntimeError):  # ragged lists, tensors on another device
        return None
    if array.size != 1 or array.dtype.kind not in "biuf":
        return None
    number = array.item()
    return int(number) if number in (FAILED, SUCCEEDED) else None


def success_in(columns: Mapping[str, np.ndarray]) -> np.ndarray | None:
    """Return what the rows of a step say of success, (n_rows,) int8; None without a column of it.

    :param columns: key of the infos -> its values, (n_rows, ...)
    :raises ValueError: as :func:`success_of`
    """
    said = {key: np.asarray(columns[key]) for key in _KEYS if key in columns}
    if not said:
        return None
    values = next(iter(said.values()))
    if len(said) == 1 and values.ndim == 1 and values.dtype.kind in "biuf":
        successful: np.ndarray = values == SUCCEEDED
        if (successful | (values == FAILED)).all():
            return successful.astype(np.int8)
    return np.array([success_of({key: column[i] for key, column in said.items()}) for i in range(len(values))], np.int8)


def says_success(columns: Mapping[str, Any]) -> bool:
    """Return whether columns of infos include one of success."""
    return any(key in columns for key in _KEYS)


def joined_success(said: Sequence[int]) -> np.ndarray | None:
    """Join what single steps say of success, (n_rows,) int8; None if no step says anything."""
    return None if max(said, default=NOT_SAID) == NOT_SAID else np.array(said, dtype=np.int8)
