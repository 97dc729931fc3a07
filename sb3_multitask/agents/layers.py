"""The layers of an agent's networks, from a state dict of ours or of SB3."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple, TypeAlias

import numpy as np

from sb3_multitask.policies.heads import TaskLayerNorm
from sb3_multitask.policies.progressive import has_columns


class Layer(NamedTuple):
    """A linear layer, and the layer norm between it and its activation if there is one.

    :ivar weight: (in, out), in heads (n_heads, in, out)
    :ivar bias: (out,), in heads (n_heads, out)
    :ivar scale: of the layer norm, like the bias
    :ivar shift: of the layer norm, like the bias
    """

    weight: np.ndarray
    bias: np.ndarray
    scale: np.ndarray | None = None
    shift: np.ndarray | None = None

    def of_head(self, head: int | slice) -> Layer:
        """Return the layer of one head, or of several."""
        return Layer(*(None if part is None else part[head] for part in self))  # type: ignore[arg-type]

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """(n_rows, in) -> (n_rows, out), before the activation."""
        x = x @ self.weight + self.bias
        if self.scale is None:
            return x
        x = x - x.mean(axis=-1, keepdims=True)
        x /= np.sqrt(np.square(x).mean(axis=-1, keepdims=True) + TaskLayerNorm.eps)
        return np.asarray(x * self.scale + self.shift)


Layers: TypeAlias = list[Layer]


def trunk_of(weights: Mapping[str, np.ndarray]) -> Layers:
    """Return all layers that tasks share before the heads; none of a policy with columns."""
    if has_columns(weights):
        return []
    return [layer._replace(weight=layer.weight.T) for layer in _numbered(weights, "mlp_extractor.policy_net.")]


def heads_of(weights: Mapping[str, np.ndarray]) -> Layers:
    """Return all layers of the heads."""
    if "action_net.weight" in weights:  # SB3's single head is one Linear
        return [Layer(weights["action_net.weight"].T[None], weights["action_net.bias"][None])]
    layers = _numbered(weights, "action_net.layers.")
    for i, norm in enumerate(_numbered(weights, "action_net.norms.")):
        layers[i] = layers[i]._replace(scale=norm.weight, shift=norm.bias)
    return layers


def _numbered(weights: Mapping[str, np.ndarray], prefix: str) -> Layers:
    """Return layers by their numbers; a vector of weights is the scale of a layer norm after the layer before it."""
    numbers = sorted(
        int(name[len(prefix) : -len(".weight")])
        for name in weights
        if name.startswith(prefix) and name.endswith(".weight")
    )
    layers: Layers = []
    for i in numbers:
        weight, bias = weights[f"{prefix}{i}.weight"], weights[f"{prefix}{i}.bias"]
        if weight.ndim == 1:
            layers[-1] = layers[-1]._replace(scale=weight, shift=bias)
        else:
            layers.append(Layer(weight, bias))
    return layers
