"""A normaliser's statistics as tensors: SB3's zips hold tensors without pickles."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch as th

PREFIX = "statistics."
_FLAGS = {"norm_obs": bool, "clip_obs": float, "epsilon": float}
_MOMENTS = ("obs_rms", "ret_rms")
_PARTS = ("mean", "var", "count")


def to_tensors(state: Mapping[str, Any]) -> dict[str, th.Tensor]:
    """Convert statistics of :meth:`MultiTaskVecNormalize.get_statistics` to float64 tensors by name."""
    flags = {name: th.tensor(float(state[name]), dtype=th.float64) for name in _FLAGS}
    moments = {
        f"{name}_{part}": th.as_tensor(state[name][part], dtype=th.float64) for name in _MOMENTS for part in _PARTS
    }
    return flags | moments


def to_namespace(state: Mapping[str, Any] | None) -> SimpleNamespace:
    """Return :func:`to_tensors` as attributes, in which SB3 finds variables; no attributes without statistics."""
    return SimpleNamespace(**({} if state is None else to_tensors(state)))


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
