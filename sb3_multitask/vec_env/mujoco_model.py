"""The numbers of a compiled MuJoCo model, which environments may change: domain randomisation, curricula."""

from __future__ import annotations

import copy
import zlib
from collections.abc import Iterator, Mapping
from typing import Any

import mujoco
import numpy as np

_PARTS = ("opt", "stat")
"""The model's structures besides its arrays that affect its physics: options, and statistics that the solver reads."""
_SLEEP, _IPC = (int(getattr(getattr(mujoco, "mjtEnableBit", None), name, 0)) for name in ("mjENBL_SLEEP", "mjENBL_IPC"))


def get_model_state(model: Any) -> dict[str, Any]:
    """Return a copy of every writable number of a model: arrays of all types, options and statistics.

    Keys of options and statistics are ``opt.gravity``, ``stat.meaninertia`` and so on.
    """
    state: dict[str, Any] = {name: array.copy() for name, array in _arrays(model)}
    for part in _PARTS:
        struct = getattr(model, part)
        for name in dir(struct):
            value = None if name.startswith("_") else getattr(struct, name)
            if isinstance(value, np.ndarray):
                state[f"{part}.{name}"] = value.copy()
            elif isinstance(value, int | float):
                state[f"{part}.{name}"] = value
    return state


def set_model_state(model: Any, state: Mapping[str, Any]) -> None:
    """Restore a state of :func:`get_model_state` in place: it applies at once to simulations that use the model.

    :raises ValueError: if the model has another number of bodies, joints, ..., or MuJoCo other options
    """
    for key, value in state.items():
        part, _, name = key.rpartition(".")
        owner = getattr(model, part) if part else model
        if isinstance(value, np.ndarray):
            array = getattr(owner, name, None)
            if not isinstance(array, np.ndarray) or array.shape != value.shape:
                raise ValueError(
                    f"The model has another layout than the one of the state ({key} is {value.shape} there)"
                )
            array[...] = value
        elif not hasattr(owner, name):
            raise ValueError(f"The state is of another version of MuJoCo, whose models have {key} ({value!r} there)")
        else:
            setattr(owner, name, value)


class SharedModel:
    """A model that several simulations share and that rarely changes: its state is needed only if it has changed.

    :param model: the unchanged model
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self._original, self._digest = copy.copy(model), _digest(model)

    def has_changed(self) -> bool:
        """Return whether a number of the model differs from the unchanged model."""
        return _digest(self.model) != self._digest

    def get_state(self) -> dict[str, Any]:
        """Return the model's state, see :func:`get_model_state`."""
        return get_model_state(self.model)

    def set_state(self, state: Mapping[str, Any] | None) -> None:
        """Restore a state; ``None`` restores the unchanged model."""
        if state is not None:
            set_model_state(self.model, state)
        elif self.has_changed():
            set_model_state(self.model, get_model_state(self._original))


def _digest(model: Any) -> int:
    content = np.empty(mujoco.mj_sizeModel(model), dtype=np.uint8)
    mujoco.mj_saveModel(model, None, content)
    return zlib.crc32(content.data)


def why_untold(model: Any) -> str | None:
    """Return why MuJoCo does not expose the complete state of a simulation of this model; None if it does."""
    if model.opt.enableflags & _SLEEP:
        return "has sleep enabled, and MuJoCo does not expose which bodies sleep (<flag sleep='disable'/> is exact)"
    if model.opt.enableflags & _IPC:
        return "has IPC enabled, and MuJoCo does not expose its state"
    return None


def _arrays(model: Any) -> Iterator[tuple[str, np.ndarray]]:
    for name in dir(model):
        array = None if name.startswith("_") else getattr(model, name, None)
        if isinstance(array, np.ndarray) and array.flags.writeable and array.size:
            yield name, array
