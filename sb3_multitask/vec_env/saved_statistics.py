"""A normaliser's statistics as tensors: SB3's zips hold tensors without pickles."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, Self

import torch as th

PREFIX = "policy.statistics."
"""Of the names of the variables. Below the policy, which is of this package, SB3's own algorithms load them too."""
_FLAGS = {"norm_obs": bool, "clip_obs": float, "epsilon": float}
_MOMENTS = ("obs_rms", "ret_rms")
_PARTS = ("mean", "var", "count")
_NAMES = {*_FLAGS, *(f"{name}_{part}" for name in _MOMENTS for part in _PARTS)}


def to_tensors(state: Mapping[str, Any]) -> dict[str, th.Tensor]:
    """Convert statistics of :meth:`MultiTaskVecNormalize.get_statistics` to float64 tensors by name."""
    flags = {name: th.tensor(float(state[name]), dtype=th.float64) for name in _FLAGS}
    moments = {
        f"{name}_{part}": th.as_tensor(state[name][part], dtype=th.float64) for name in _MOMENTS for part in _PARTS
    }
    return flags | moments


class SavedStatistics(SimpleNamespace):
    """Tensors as attributes, among which SB3 finds variables; SB3's ``load`` may set any."""

    @classmethod
    def of(cls, state: Mapping[str, Any] | None) -> Self:
        """Return :func:`to_tensors` as attributes; no attributes without statistics."""
        return cls(**({} if state is None else to_tensors(state)))

    def __getattr__(self, name: str) -> th.Tensor:
        """Make the tensor of a name, whose ``data`` SB3's ``load`` then sets."""
        if name not in _NAMES:
            raise AttributeError(name)
        tensor = th.empty(0, dtype=th.float64)
        setattr(self, name, tensor)
        return tensor


def from_tensors(variables: Mapping[str, th.Tensor] | None) -> dict[str, Any] | None:
    """Return the statistics among the variables of a zip, from :func:`to_tensors`; None if there are none.

    :raises KeyError: if some are missing
    """
    tensors = {name.removeprefix(PREFIX): v for name, v in (variables or {}).items() if name.startswith(PREFIX)}
    if not tensors:
        return None
    flags = {name: kind(tensors[name].item()) for name, kind in _FLAGS.items()}
    moments = {name: {part: tensors[f"{name}_{part}"].numpy(force=True) for part in _PARTS} for name in _MOMENTS}
    return flags | moments
