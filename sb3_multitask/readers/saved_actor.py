"""Read the actor from a zip of SAC, TQC, CrossQ, TD3 or DDPG, without running code from it.

Its actions are squashed by a tanh into [-1, 1], which SB3 scales to the bounds of the action space.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from sb3_multitask.readers.inert_pickle import UnreadableFileError
from sb3_multitask.readers.saved_algorithms import actor_algorithm_of, algorithm_of
from sb3_multitask.readers.saved_policy import action_bounds, activation_of, check_extractor, check_spaces
from sb3_multitask.readers.zip_members import (
    check_policy,
    errors_of_model,
    read_description,
    read_members,
    read_weights,
)

_PART = re.compile(r"actor\.((latent_pi|mu)\.(\d+)|mu|log_std)\.(weight|bias|ra_mean|ra_var|scale)")
_BATCH_RENORM_EPS = 0.001  # CrossQ's default of `batch_norm_eps`

Layer = tuple[np.ndarray, np.ndarray]
"""Weight (in, out) and bias (out,)."""


@dataclass(frozen=True)
class SavedActor:
    """The actor of an off-policy model, as read from a file: an MLP before a tanh.

    Its file does not say whether a ``VecNormalize`` normalised its observations.

    :param algorithm: "SAC", "TQC", "CrossQ", "TD3" or "DDPG"
    :param hidden: layers before an activation
    :param mean: gives means before the tanh
    :param log_std: gives log-stds before the tanh; ``None`` for a deterministic actor
    :param activation: name of the activation function, such as "ReLU"
    :param action_bounds: lowest and highest actions, each (action_dim,), finite
    """

    algorithm: str
    hidden: tuple[Layer, ...]
    mean: Layer
    log_std: Layer | None
    activation: str
    action_bounds: tuple[np.ndarray, np.ndarray]

    @property
    def obs_dim(self) -> int:
        return int((*self.hidden, self.mean)[0][0].shape[0])

    @property
    def action_dim(self) -> int:
        return int(self.mean[0].shape[1])

    @property
    def digest(self) -> str:
        """SHA-256 of the weights."""
        sha = hashlib.sha256(self.activation.encode())
        for layer in (*self.hidden, self.mean, self.log_std or ()):
            for array in layer:
                sha.update(str(array.shape).encode() + np.ascontiguousarray(array).tobytes())
        return sha.hexdigest()


def read_sb3_actor(path: str | Path) -> SavedActor | None:
    """Read the actor from a zip of SB3's SAC, TD3 or DDPG, or of sb3-contrib's TQC or CrossQ.

    Nothing in the file is executed: weights are read with torch's ``weights_only``, everything else as inert data.

    :return: ``None`` for a zip of an on-policy algorithm, which ``read_sb3_zip`` reads
    :raises UnreadableFileError: if the file is missing, truncated, too large when unpacked, of another algorithm, its
        policy is no ``MlpPolicy`` or uses gSDE, or its weights are not finite or do not fit its spaces
    """
    path = Path(path)
    with errors_of_model(path):
        return _read(path)


def _read(path: Path) -> SavedActor | None:
    members = read_members(path)
    data = read_description(members["data"])
    algorithm = actor_algorithm_of(data, members)
    if algorithm is None:
        algorithm_of(data, members)  # raises for an unsupported algorithm
        return None
    policy_kwargs = data.get("policy_kwargs")
    if not isinstance(policy_kwargs, dict):
        raise UnreadableFileError(f"its policy_kwargs are no mapping (got {policy_kwargs!r:.100})")
    if data.get("use_sde") or policy_kwargs.get("use_sde"):
        raise UnreadableFileError(
            "it explores with gSDE (`use_sde=True`), whose noise depends on the state in another way. Its actions can "
            "teach, as a function: `lambda obs: model.predict(obs, deterministic=True)[0]`"
        )
    check_policy(data, ("make_actor",))
    check_extractor(policy_kwargs)
    check_spaces(data, {})
    weights = read_weights(members["policy.pth"], _is_of_actor)
    hidden, mean, log_std = _layers(weights, _eps(policy_kwargs), is_deterministic=algorithm in ("TD3", "DDPG"))
    _check_fit([*hidden, mean], log_std)
    obs_dim, action_dim = (*hidden, mean)[0][0].shape[0], mean[0].shape[1]
    check_spaces(data, {}, obs_dim, action_dim)
    bounds = action_bounds(data["action_space"], action_dim)
    if not np.isfinite(bounds).all() or not (bounds[0] < bounds[1]).all():
        raise UnreadableFileError("the bounds of its action_space are not finite, or not in order")
    activation = activation_of(policy_kwargs, default="ReLU")
    return SavedActor(algorithm, tuple(hidden), mean, log_std, activation, bounds)


def _is_of_actor(name: str) -> bool:
    """Return whether a weight is the actor's; CrossQ counts its steps in integers, which are not needed."""
    return name.startswith("actor.") and not name.endswith(".steps")


def _eps(policy_kwargs: Mapping[str, Any]) -> float:
    eps = policy_kwargs.get("batch_norm_eps", _BATCH_RENORM_EPS)
    if isinstance(eps, bool) or not isinstance(eps, int | float) or not 0 < eps < np.inf:
        raise UnreadableFileError(f"its batch_norm_eps is no positive number (got {eps!r:.50})")
    return float(eps)


def _layers(
    weights: Mapping[str, np.ndarray], eps: float, *, is_deterministic: bool
) -> tuple[list[Layer], Layer, Layer | None]:
    """Return the hidden layers, and those of means and log-stds."""
    strange = [name for name in weights if not _PART.fullmatch(name)]
    if strange or not weights:
        raise UnreadableFileError(
            f"its policy is no MlpPolicy: its actor has {', '.join(strange[:5]) or 'no weights (actor.*)'}"
        )
    trunk = "mu" if is_deterministic else "latent_pi"
    numbers = sorted({int(m[3]) for m in map(_PART.fullmatch, weights) if m and m[2] == trunk})
    modules = [_module(weights, f"actor.{trunk}.{number}", eps) for number in numbers]
    # one activation behind each linear module; CrossQ normalises before each, and before mean and log-std
    is_linear = [f"actor.{trunk}.{number}.weight" in weights for number in numbers]
    normalizes = not all(is_linear)
    expected = [i for i in range(3 * len(numbers)) if i % 3 != 2] if normalizes else range(0, 2 * len(numbers), 2)
    if numbers != list(expected)[: len(numbers)] or (normalizes and is_linear != _alternating(len(numbers))):
        raise UnreadableFileError(f"its actor has layers between that are not linear (actor.{trunk}.*)")
    if is_deterministic:
        if normalizes or not modules:
            raise UnreadableFileError("its actor has no last layer that is linear (actor.mu.*)")
        return modules[:-1], modules[-1], None
    outputs = [_module(weights, f"actor.{name}", eps) for name in ("mu", "log_std")]
    if not normalizes:
        return modules, outputs[0], outputs[1]
    folded = [_folded(modules[i], modules[i + 1]) for i in range(0, len(modules) - 1, 2)]
    mean, log_std = (_folded(modules[-1], output) for output in outputs)
    return folded, mean, log_std


def _alternating(n: int) -> list[bool]:
    """Return which of a batch renormalisation, linear, ..., batch renormalisation are linear."""
    return [i % 2 == 1 for i in range(n)] if n % 2 else []


def _module(weights: Mapping[str, np.ndarray], name: str, eps: float) -> Layer:
    """Return a linear layer; or a batch renormalisation at its running statistics, as factors and offsets (dim,)."""
    try:
        bias = weights[f"{name}.bias"]
        if f"{name}.weight" in weights:
            layer = weights[f"{name}.weight"].T, bias
            dims = 2
        else:
            parts = (weights[f"{name}.{part}"].astype(np.float64) for part in ("scale", "ra_mean", "ra_var"))
            scale, mean, var = parts
            if not (var >= 0).all():
                raise UnreadableFileError(f"its {name}.ra_var is negative")
            factor = scale / np.sqrt(var + eps)
            layer = factor, bias - mean * factor
            dims = 1
    except KeyError as e:
        raise UnreadableFileError(f"its actor lacks {e.args[0]}") from e
    if layer[0].ndim != dims or layer[1].shape != layer[0].shape[-1:]:
        raise UnreadableFileError(
            f"its {name} has weights {list(layer[0].shape)} and biases {list(layer[1].shape)}, which do not fit"
        )
    return layer


def _folded(normalization: Layer, linear: Layer) -> Layer:
    """Return one linear layer that does what a normalisation and a linear layer do in turn."""
    (factor, offset), (weight, bias) = normalization, linear
    if factor.shape != weight.shape[:1]:
        raise UnreadableFileError(f"its actor's layers do not fit ({list(factor.shape)}, {list(weight.shape)})")
    return (factor[:, None] * weight).astype(np.float32), (offset @ weight + bias).astype(np.float32)


def _check_fit(layers: list[Layer], log_std: Layer | None) -> None:
    """Raise unless each layer takes what the layer before it gives."""
    for (before, _), (after, _) in pairwise(layers):
        if before.shape[1] != after.shape[0]:
            raise UnreadableFileError(
                f"its actor's layers do not fit ({before.shape[1]} outputs before {after.shape[0]} inputs)"
            )
    if log_std is not None and log_std[0].shape != layers[-1][0].shape:
        raise UnreadableFileError("its means and log-stds do not fit")
