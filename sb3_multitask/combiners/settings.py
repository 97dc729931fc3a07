"""Combiners by name, and what the argument ``gradient_combiner`` takes."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, TypeAlias

from sb3_multitask.combiners.base import Combiner, Mean
from sb3_multitask.combiners.combining import NETS, Net
from sb3_multitask.combiners.pcgrad import PCGrad
from sb3_multitask.combiners.scaled import MeanNorm
from sb3_multitask.combiners.torchjd import TorchJDCombiner, is_torchjd, make_torchjd
from sb3_multitask.tasks import did_you_mean

COMBINERS: dict[str, Callable[[], Combiner]] = {
    "mean": Mean,
    "pcgrad": PCGrad,
    "aligned_mtl": partial(make_torchjd, "AlignedMTLWeighting", {}),
    "cagrad": partial(make_torchjd, "CAGradWeighting", {"c": 0.4}),
    "dualproj": partial(make_torchjd, "DualProjWeighting", {}),
    "fairgrad": partial(make_torchjd, "FairGradWeighting", {"alpha": 1.0}),
    "gradvac": partial(make_torchjd, "GradVacWeighting", {}),
    "imtl_g": partial(make_torchjd, "IMTLGWeighting", {}),
    "mgda": partial(make_torchjd, "MGDAWeighting", {}),
    "nash_mtl": partial(make_torchjd, "NashMTL", {"n_tasks": 2, "max_norm": 0.0}),
    "upgrad": partial(make_torchjd, "UPGradWeighting", {}),
}
"""By name; all but the first two are TorchJD's, with its default arguments where it has some."""

MEAN_NORM = "+mean_norm"
"""After a name: the combined gradient has the norm of the mean, see ``MeanNorm``."""

GradientCombiner: TypeAlias = str | Combiner | Any | Mapping[str, Any]
"""A name of ``COMBINERS``, alone or with ``MEAN_NORM`` behind it, a ``Combiner``, a ``Weighting`` or ``Aggregator`` of
TorchJD, or one for each of "actor" and "critic", of which ``None`` combines nothing."""


def make_combiners(gradient_combiner: GradientCombiner | None) -> dict[Net, Combiner]:
    """Make the combiner of each net; copies, so that the nets share no memory.

    :return: without the nets whose gradients are not combined
    :raises TypeError: on a class, or another type
    :raises ValueError: on an unknown name or net
    :raises ImportError: if TorchJD or what its class needs is not installed
    """
    if gradient_combiner is None:
        return {}
    if not isinstance(gradient_combiner, Mapping):
        return {net: _make(gradient_combiner) for net in NETS}
    unknown = [net for net in gradient_combiner if net not in NETS]
    if unknown:
        raise ValueError(
            f"`gradient_combiner` has a combiner for {unknown[0]!r}, which is no net."
            f"{did_you_mean(str(unknown[0]), NETS)} Nets: {', '.join(NETS)}"
        )
    return {net: _make(gradient_combiner[net]) for net in NETS if gradient_combiner.get(net) is not None}


def is_plain(gradient_combiner: Any) -> bool:
    """Whether the argument is made of names alone, which a file can hold."""
    given = gradient_combiner.values() if isinstance(gradient_combiner, Mapping) else [gradient_combiner]
    return all(one is None or isinstance(one, str) for one in given)


def _make(given: Any) -> Combiner:
    if isinstance(given, str):
        name = given.removesuffix(MEAN_NORM)
        if name not in COMBINERS:
            raise ValueError(
                f"`gradient_combiner` must be one of {', '.join(COMBINERS)}, with or without {MEAN_NORM!r} behind it "
                f"(got {given!r:.100}).{did_you_mean(name, COMBINERS)}"
            )
        combiner = COMBINERS[name]()
        return combiner if name == given else MeanNorm(combiner)
    if isinstance(given, Combiner):
        return copy.deepcopy(given)
    if is_torchjd(given, "Weighting", "Aggregator"):
        return TorchJDCombiner(given)
    hint = f": make an object, {given.__name__}(...)" if isinstance(given, type) else ""
    raise TypeError(
        "`gradient_combiner` must be a name, a Combiner, a Weighting or Aggregator of TorchJD, or a mapping of "
        f"'actor' and 'critic' to these (got {given!r:.100}){hint}"
    )
