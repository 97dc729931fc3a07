"""TorchJD's aggregators as combiners."""

from __future__ import annotations

import copy
import importlib
import sys
from collections.abc import Mapping
from inspect import signature
from typing import Any

import numpy as np
import torch as th

from sb3_multitask.combiners.base import Combiner

SUMS = frozenset({"PCGradWeighting", "GradVacWeighting", "SumWeighting"})
"""Classes of TorchJD whose weights are 1 without conflict: they are divided by k."""
SCALE_FREE = frozenset({"FairGradWeighting", "_NashMTLWeighting"})
"""Those whose weights have a scale that says nothing of the mean: they are divided by their sum."""
NEED_MORE = {
    "ExcessMTLWeighting": "reads every number of the gradients",
    "MoDoWeighting": "needs the gradients of two batches",
    "SDMGradWeighting": "needs the gradients of two batches",
}
"""Classes whose weights are no function of the Gramian of one batch, and what they take beside it."""


class TorchJDCombiner(Combiner):
    """An aggregator of TorchJD (Quinton and Rey 2024, https://arxiv.org/abs/2406.16232; https://torchjd.org).

    TorchJD's aggregators differ in scale. Here the weights of ``PCGrad``, ``GradVac`` and ``Sum`` are divided by k,
    those of ``CAGrad`` by ``1 + c``, and those of ``FairGrad`` and ``NashMTL`` by their sum. All of these, and
    ``UPGrad``, ``DualProj``, ``MGDA``, ``IMTLG`` and ``AlignedMTL``, whose weights stay as they are, then give the mean
    if all gradients are equal. Any other weighting is taken as it is: weights of ``1 / k`` are the mean.

    Random numbers of the weighting come from the combiner's own generator: torch's stays as it is.

    :param source: a ``Weighting``, or an ``Aggregator`` that weighs the rows of a matrix; it is copied
    :raises TypeError: on an aggregator that does not weigh rows, such as ``ConFIG`` and ``GradDrop``, and on weights
        that are no function of the Gramian, such as those of ``ExcessMTL`` and ``MoDo``
    """

    def __init__(self, source: Any) -> None:
        super().__init__()
        self.source = source = copy.deepcopy(source)
        if is_torchjd(source, "GramianWeightedAggregator"):
            self._weighting = source.gramian_weighting
        elif is_torchjd(source, "WeightedAggregator"):  # others may have a `weighting` that is a part of what they do
            self._weighting = source.weighting
        elif is_torchjd(source, "Weighting"):
            self._weighting = source
        else:
            raise TypeError(
                f"`gradient_combiner` cannot be {source!r:.100}, which does not weigh the tasks' gradients: take a "
                "Weighting of torchjd.aggregation, or an Aggregator that has one"
            )
        kinds = _names_of_classes(_innermost(self._weighting))
        self._of_gramian = "_MatrixWeighting" not in kinds
        for kind in kinds & NEED_MORE.keys():
            raise TypeError(
                f"`gradient_combiner` cannot be {source!r:.100}: {kind} {NEED_MORE[kind]}, and a combiner sees the "
                "Gramian of one batch alone"
            )
        if isinstance(preferences := getattr(self._weighting, "pref_vector", None), th.Tensor):
            self._weighting.pref_vector = preferences.double()  # as Gramians are: AlignedMTL takes no others

    def weights(self, gramian: np.ndarray) -> np.ndarray:
        """Return the weights, (k,).

        :raises RuntimeError: if TorchJD's class fails on the Gramian
        """
        weighting, k = self._weighting, len(gramian)
        if getattr(weighting, "n_tasks", k) != k:  # Nash-MTL's, which is reset where other tasks take part
            weighting.n_tasks = k
            weighting.reset()
        # A matrix with this Gramian: what weighs the rows of a matrix sees no more of it than that.
        matrix = th.from_numpy(gramian if self._of_gramian else _root(gramian))
        state = th.get_rng_state()
        try:
            th.default_generator.manual_seed(int(self.generator.integers(2**62)))
            with th.no_grad():
                weights = np.asarray(weighting(matrix).numpy(force=True), dtype=np.float64)
        except Exception as e:
            raise RuntimeError(
                f"`gradient_combiner`: TorchJD's {self.source!r:.100} fails on the gradients of {k} tasks ({e}). Tasks "
                "without rows in a minibatch are left out: an argument with a number for each task, such as "
                "`pref_vector`, needs minibatches in which all tasks have rows"
            ) from e
        finally:
            th.set_rng_state(state)
        return self._scaled(weights)

    def _scaled(self, weights: np.ndarray) -> np.ndarray:
        name = type(self._weighting).__name__
        if name in SUMS:
            return weights / len(weights)
        if name in SCALE_FREE:
            return np.asarray(weights / weights.sum())
        return weights / (1 + self._weighting.c) if name == "CAGradWeighting" else weights

    def reset(self) -> None:
        if hasattr(self._weighting, "reset"):
            self._weighting.reset()

    def get_state(self) -> dict[str, Any]:
        weighting, state = self._weighting, super().get_state()
        if type(weighting).__name__ == "_NashMTLWeighting":
            state["alpha"] = weighting.prvs_alpha.tolist() if weighting.step else None
        elif type(weighting).__name__ == "GradVacWeighting":
            state["phi"] = None if weighting._phi_t is None else weighting._phi_t.tolist()
        return state

    def set_state(self, state: Mapping[str, Any]) -> None:
        super().set_state(state)
        self.reset()
        if state.get("alpha") is not None:
            self._weighting.n_tasks = len(state["alpha"])
            self._weighting.reset()
            self._weighting.prvs_alpha = np.array(state["alpha"])
        if state.get("phi") is not None:
            phi = th.tensor(state["phi"], dtype=th.float64)
            self._weighting._phi_t, self._weighting._state_key = phi, (len(phi), phi.dtype)

    def why_inexact(self) -> str | None:
        weighting, name = self._weighting, type(self._weighting).__name__
        knows = name == "GradVacWeighting" or (name == "_NashMTLWeighting" and weighting.update_weights_every == 1)
        return (
            f"{self.source!r} of TorchJD begins without its memory"
            if hasattr(weighting, "reset") and not knows
            else None
        )

    def settings(self) -> dict[str, Any]:
        """Return the class and its arguments; not the number of tasks, which Nash-MTL is told."""
        kind = type(self._weighting)
        names = [name for name in signature(kind).parameters if name != "n_tasks" and hasattr(self._weighting, name)]
        values = {name: _plain(getattr(self._weighting, name)) for name in names}
        return {"class": kind.__name__.removeprefix("_"), **values}


def make_torchjd(name: str, arguments: Mapping[str, Any]) -> TorchJDCombiner:
    """Make a class of TorchJD.

    :param name: of a class in ``torchjd.aggregation``
    :raises ImportError: if TorchJD or what the class needs is not installed; says what to install
    """
    try:
        kind = getattr(importlib.import_module("torchjd.aggregation"), name)
    except ImportError as e:
        raise ImportError(
            f'`gradient_combiner` needs TorchJD for {name}: pip install "sb3-multitask[combiners]" ("mean" and '
            '"pcgrad" need nothing; load(path, gradient_combiner=None) loads a model without it)'
        ) from e
    try:
        return TorchJDCombiner(kind(**arguments))
    except ImportError as e:
        raise ImportError(f"`gradient_combiner`: TorchJD's {e}") from e


def is_torchjd(source: object, *kinds: str) -> bool:
    """Whether an object is of some classes of TorchJD, which nothing imports that has not made such an object.

    :param kinds: names of classes in ``torchjd.aggregation``
    """
    module = sys.modules.get("torchjd.aggregation")
    return module is not None and isinstance(source, tuple(getattr(module, kind) for kind in kinds))


def _innermost(weighting: Any) -> Any:
    """The weighting that ``CRMOGMWeighting`` wraps; others are their own."""
    while type(weighting).__name__ == "CRMOGMWeighting":
        weighting = weighting.weighting
    return weighting


def _names_of_classes(value: object) -> set[str]:
    return {kind.__name__ for kind in type(value).__mro__}


def _root(gramian: np.ndarray) -> np.ndarray:
    """The symmetric matrix whose product with itself is a Gramian, (k, k)."""
    values, vectors = np.linalg.eigh(gramian)
    return np.asarray((vectors * np.sqrt(values.clip(0))) @ vectors.T)


def _plain(value: Any) -> Any:
    if isinstance(value, th.Tensor):
        return value.tolist()
    return value if value is None or isinstance(value, bool | int | float | str) else repr(value)
