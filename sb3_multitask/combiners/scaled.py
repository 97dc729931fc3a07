"""A combiner's direction at the length of the mean."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from sb3_multitask.combiners.base import Combiner


class MeanNorm(Combiner):
    """Scales what another combiner gives to the norm of the mean gradient, so that a learning rate keeps its meaning.

    With weights w, Gramian G and k tasks they become ``w * sqrt(1^T G 1) / (k sqrt(w^T G w))``. A combined gradient
    that is 0 stays 0.

    :param combiner: the other one
    """

    def __init__(self, combiner: Combiner) -> None:
        super().__init__()
        if not isinstance(combiner, Combiner):
            raise TypeError(
                f"`combiner` must be a Combiner (got {combiner!r:.100}): wrap what is TorchJD's, TorchJDCombiner(...); "
                'for a name write gradient_combiner="fairgrad+mean_norm"'
            )
        self.combiner = combiner

    def begin(self, seed: int | None, net: int = 0) -> None:
        super().begin(seed, net)
        self.combiner.begin(seed, net)

    def weights(self, gramian: np.ndarray) -> np.ndarray:
        weights = np.asarray(self.combiner.weights(gramian), dtype=np.float64)
        norm, of_mean = np.sqrt(max(weights @ gramian @ weights, 0.0)), np.sqrt(max(gramian.sum(), 0.0)) / len(gramian)
        return weights * (of_mean / norm) if norm > 0 else weights

    def reset(self) -> None:
        self.combiner.reset()

    def get_state(self) -> dict[str, Any]:
        return {**super().get_state(), "combiner": self.combiner.get_state()}

    def set_state(self, state: Mapping[str, Any]) -> None:
        super().set_state(state)
        self.combiner.set_state(state["combiner"])

    def why_inexact(self) -> str | None:
        return self.combiner.why_inexact()

    def settings(self) -> dict[str, Any]:
        return {**super().settings(), "combiner": self.combiner.settings()}
