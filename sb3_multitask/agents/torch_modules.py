"""An agent from a whole module of torch: which of its arrays are the layers of a Gaussian policy."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from sb3_multitask.agents.agent import Agent
from sb3_multitask.losses.schedules import as_number
from sb3_multitask.readers import ObsStatistics, UnreadableFileError, read_torch_module
from sb3_multitask.tasks import did_you_mean

_EPSILON = float(np.finfo(np.float64).tiny)
"""A normaliser must have one; added to any variance of float32 numbers but 0 it changes nothing."""


@dataclass(frozen=True)
class ModuleLayout:
    """Which parts of a module are a Gaussian policy: ``mean(activation(hidden(... obs)))``, and a free log-std.

    A module's file holds arrays by name, but neither their order nor the activation between them, which are code.
    ``read_torch_module(path)`` shows the names.

    :param hidden: names of the linear layers before an activation, in order, such as ``("a_fc1", "a_fc2")``
    :param mean: name of the linear layer that gives the means of the actions
    :param log_std: name of the array of log-stds, action_dim numbers in any shape
    :param activation: "Tanh", "ReLU", "ELU" or "LeakyReLU"
    :param obs_mean: name of the array of the observations' means, obs_dim numbers in any shape; ``None``: the policy
        takes observations as they are
    :param obs_std: name of the array of the observations' standard deviations; given together with ``obs_mean``
    :param obs_clip: normalised observations are clipped to [-obs_clip, obs_clip]
    :param action_low: lowest action, to which actions are clipped
    :param action_high: highest action
    :raises TypeError: if a name is no text, ``hidden`` is a single name, or ``obs_clip`` or a bound is no number
    :raises ValueError: if only one of ``obs_mean`` and ``obs_std`` is given, or ``obs_clip`` is not positive
    """

    hidden: Sequence[str]
    mean: str
    log_std: str
    activation: str = "Tanh"
    obs_mean: str | None = None
    obs_std: str | None = None
    obs_clip: float = float("inf")
    action_low: float = -1.0
    action_high: float = 1.0

    def __post_init__(self) -> None:
        if isinstance(self.hidden, str):
            raise TypeError(f"`hidden` must be the names of layers, in order (got the single name {self.hidden!r})")
        names = {"mean": self.mean, "log_std": self.log_std, "obs_mean": self.obs_mean, "obs_std": self.obs_std}
        for argument, name in (*(("hidden", name) for name in self.hidden), *names.items()):
            if not (isinstance(name, str) or (name is None and argument.startswith("obs_"))):
                raise TypeError(f"`{argument}` must name parts of the module (got {name!r:.100})")
        if (self.obs_mean is None) != (self.obs_std is None):
            raise ValueError(
                f"`obs_mean` and `obs_std` must be given together, or neither (got {self.obs_mean!r} and "
                f"{self.obs_std!r})"
            )
        for argument in ("obs_clip", "action_low", "action_high"):
            if as_number(given := getattr(self, argument)) is None:
                raise TypeError(f"`{argument}` must be a number (got {given!r:.100})")
        if not self.obs_clip > 0:
            raise ValueError(f"`obs_clip` must be positive (got {self.obs_clip!r})")


AUTHORS_A2C = ModuleLayout(
    hidden=("a_fc1", "a_fc2"),
    mean="dist.fc_mean",
    log_std="dist.logstd._bias",
    obs_mean="obs_filter.mean",
    obs_std="obs_filter.std",
    obs_clip=5.0,
)
"""The layout of ``MLPPolicy`` in the repository of the paper's authors, from ikostrikov's A2C of 2017."""


def agent_of_module(path: str | Path, layout: ModuleLayout) -> Agent:
    """Read an agent with one head from a whole module of torch; nothing in the file is executed.

    :raises TypeError: if ``layout`` is no ``ModuleLayout``
    :raises UnreadableFileError: as ``read_torch_module``; if the module lacks an array that the layout names, or they
        do not fit together as the layers of a Gaussian policy; names the array
    """
    if not isinstance(layout, ModuleLayout):
        raise TypeError(f"`layout` must be a ModuleLayout, such as AUTHORS_A2C (got {layout!r:.100})")
    arrays = read_torch_module(path)
    try:
        return _agent(arrays, layout)
    except (UnreadableFileError, ValueError) as e:
        raise UnreadableFileError(f"{path}: {e}") from e


def _floats(arrays: Mapping[str, np.ndarray], name: str, argument: str) -> np.ndarray:
    """Return an array as float32.

    :param argument: of the layout, which names it
    """
    if name not in arrays:
        raise UnreadableFileError(
            f"has no {name}, which `{argument}` of its layout asks for.{did_you_mean(name, arrays)} It has: "
            f"{', '.join(arrays)}"
        )
    if arrays[name].dtype.kind != "f":
        raise UnreadableFileError(f"its {name} holds no floats (but {arrays[name].dtype})")
    with np.errstate(over="ignore"):
        converted = arrays[name].astype(np.float32)
    if not np.isfinite(converted).all():
        raise UnreadableFileError(f"its {name} holds numbers that are too large for float32")
    return converted


def _agent(arrays: Mapping[str, np.ndarray], layout: ModuleLayout) -> Agent:
    def array(name: str, argument: str) -> np.ndarray:
        return _floats(arrays, name, argument)

    weights: dict[str, np.ndarray] = {}
    layers = [*((f"mlp_extractor.policy_net.{2 * i}", name, "hidden") for i, name in enumerate(layout.hidden))]
    layers.append(("action_net", layout.mean, "mean"))
    width = None
    for ours, name, argument in layers:
        weight, bias = (array(f"{name}.{part}", argument) for part in ("weight", "bias"))
        if weight.ndim != 2 or bias.shape != weight.shape[:1]:
            raise UnreadableFileError(
                f"its {name} is no linear layer (weights {list(weight.shape)}, biases {list(bias.shape)})"
            )
        if width not in (None, weight.shape[1]):
            raise UnreadableFileError(f"its {name} takes {weight.shape[1]} numbers, and the layer before gives {width}")
        width = weight.shape[0]
        weights |= {f"{ours}.weight": weight, f"{ours}.bias": bias}
    weights["log_std"] = array(layout.log_std, "log_std").reshape(-1)
    if len(weights["log_std"]) != width:
        raise UnreadableFileError(f"its {layout.log_std} has {len(weights['log_std'])} numbers for {width} actions")
    statistics = None
    if layout.obs_mean is not None and layout.obs_std is not None:
        mean, std = (
            array(name, argument).astype(np.float64).reshape(1, -1)
            for name, argument in ((layout.obs_mean, "obs_mean"), (layout.obs_std, "obs_std"))
        )
        if not (std > 0).all():
            raise UnreadableFileError(f"its {layout.obs_std} has standard deviations that are not positive")
        statistics = ObsStatistics(mean, std**2, _EPSILON, layout.obs_clip)
    return Agent(weights, ("task",), statistics, layout.activation, layout.action_low, layout.action_high)
