"""What a teacher does for an observation: a Gaussian to learn from, and its own action."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import torch as th
from torch.nn import functional

from sb3_multitask.agents import Agent
from sb3_multitask.readers import ObsStatistics, SavedActor

DEFAULT_STD = 0.1
"""Std of the labels of a teacher that has none, as a share of half the range of its actions."""
MIN_STD = 0.01
"""Lowest std of the labels of a squashed Gaussian, as a share of half the range of its actions."""
_LOG_STD_RANGE = (-20.0, 2.0)  # to which the actors of SAC, TQC and CrossQ clip
_N_NODES = 32
_ACTIVATIONS: dict[str, Callable[[th.Tensor], th.Tensor]] = {
    "Tanh": th.tanh,
    "ReLU": functional.relu,
    "ELU": functional.elu,
    "LeakyReLU": functional.leaky_relu,
    "GELU": functional.gelu,
    "SiLU": functional.silu,
}


class TeacherPolicy(Protocol):
    """Labels raw observations of one task, (n_rows, obs_dim) of the task's own size, and acts on them."""

    @property
    def obs_dim(self) -> int | None:
        """Size of its observations; ``None``: takes any."""

    @property
    def action_dim(self) -> int | None:
        """Size of its actions; ``None``: known when it acts."""

    @property
    def feature_dim(self) -> int | None:
        """Units of its last hidden layer; 0: it has none; ``None``: what is in it is not known."""

    @property
    def digest(self) -> str:
        """Identifies the teacher in a checkpoint."""

    def label(self, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Return means and log-stds, (n_rows, action_dim) float32 each; ``None`` for log-stds that it has not."""

    def features(self, obs: np.ndarray) -> np.ndarray:
        """Return the activations of its last hidden layer, (n_rows, feature_dim) float32."""

    def act(self, obs: np.ndarray, noise: np.ndarray) -> np.ndarray:
        """Return its own actions, (n_rows, action_dim), made of standard normal noise if it acts at random."""


def _sample(mean: np.ndarray, log_std: np.ndarray | None, noise: np.ndarray) -> np.ndarray:
    return mean if log_std is None else np.asarray(mean + np.exp(log_std) * noise)


@dataclass(frozen=True)
class AgentTeacher:
    """A head of an agent: its Gaussian, from which it draws its actions."""

    agent: Agent
    head: int

    @property
    def obs_dim(self) -> int:
        return int(self.agent.sizes.obs_dims[self.head])

    @property
    def action_dim(self) -> int:
        return int(self.agent.sizes.action_dims[self.head])

    @property
    def feature_dim(self) -> int:
        return self.agent.feature_dim

    @property
    def digest(self) -> str:
        return self.agent.digest

    def label(self, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.agent.distribution(obs, self.head)

    def features(self, obs: np.ndarray) -> np.ndarray:
        return self.agent.features(obs, self.head)

    def act(self, obs: np.ndarray, noise: np.ndarray) -> np.ndarray:
        return _sample(*self.label(obs), noise)


class ActorTeacher:
    """The actor of SAC, TQC, CrossQ, TD3 or DDPG. Its label's mean is its deterministic action, in the env's units.

    Its Gaussian before the tanh, N(mu, sigma^2), is not the one that its actions have. A label is the Gaussian around
    the deterministic action tanh(mu) that is nearest to the squashed actions a = tanh(mu + sigma z) in KL(teacher ||
    .), whose variance is E[(a - tanh(mu))^2]. It is computed by Gauss-Hermite quadrature with 32 nodes, is sigma (1 -
    tanh(mu)^2) for a small sigma, and at most the range of the actions for a large one. At saturated actions it is
    almost 0, so it has a lowest value, :data:`MIN_STD` of half the range.

    :param actor: as read from a file
    :param statistics: normalise its observations, or ``None``
    :raises ValueError: on an unknown activation, or statistics of another size
    """

    def __init__(self, actor: SavedActor, statistics: ObsStatistics | None) -> None:
        if actor.activation not in _ACTIVATIONS:
            raise ValueError(f"its activation_fn must be one of {', '.join(_ACTIVATIONS)} (got {actor.activation!r})")
        if statistics is not None and statistics.mean.shape != (1, actor.obs_dim):
            raise ValueError(
                f"its normaliser has statistics of shape {statistics.mean.shape}, its policy needs {(1, actor.obs_dim)}"
            )
        self.actor, self.statistics = actor, statistics
        self._activation = _ACTIVATIONS[actor.activation]
        self._hidden = [_tensors(layer) for layer in actor.hidden]
        self._mean = _tensors(actor.mean)
        self._log_std = None if actor.log_std is None else _tensors(actor.log_std)
        low, high = actor.action_bounds
        self._low, self._half_range = low, np.float32(0.5) * (high - low)

    @property
    def obs_dim(self) -> int:
        return self.actor.obs_dim

    @property
    def action_dim(self) -> int:
        return self.actor.action_dim

    @property
    def feature_dim(self) -> int:
        return int(self.actor.hidden[-1][0].shape[1]) if self.actor.hidden else 0

    @property
    def digest(self) -> str:
        if self.statistics is None:
            return self.actor.digest
        arrays = self.statistics.mean.tobytes() + self.statistics.var.tobytes()
        return hashlib.sha256(self.actor.digest.encode() + arrays).hexdigest()

    def label(self, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean, std = self._unsquashed(obs)
        squashed = np.tanh(mean)
        if std is None:
            label_std = np.broadcast_to(np.float32(DEFAULT_STD), mean.shape)
        else:
            label_std = np.maximum(_squashed_std(mean, std), MIN_STD)
        return self._unscaled(squashed), np.log(label_std * self._half_range).astype(np.float32)

    def features(self, obs: np.ndarray) -> np.ndarray:
        with th.no_grad():
            return np.asarray(self._last_hidden(obs).numpy())

    def act(self, obs: np.ndarray, noise: np.ndarray) -> np.ndarray:
        mean, std = self._unsquashed(obs)
        return self._unscaled(np.tanh(mean if std is None else mean + std * noise))

    def _unsquashed(self, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Mean and std before the tanh, (n_rows, action_dim) float32; a deterministic actor has no std."""
        with th.no_grad():
            x = self._last_hidden(obs)
            mean = th.addmm(self._mean[1], x, self._mean[0]).numpy()
            if self._log_std is None:
                return mean, None
            return mean, th.addmm(self._log_std[1], x, self._log_std[0]).clamp(*_LOG_STD_RANGE).exp().numpy()

    def _last_hidden(self, obs: np.ndarray) -> th.Tensor:
        """What the last layers take, (n_rows, dim)."""
        if self.statistics is not None:
            obs = self.statistics.normalize(obs)
        x = th.as_tensor(np.asarray(obs, dtype=np.float32))
        for weight, bias in self._hidden:
            x = self._activation(th.addmm(bias, x, weight))
        return x

    def _unscaled(self, squashed: np.ndarray) -> np.ndarray:
        """From [-1, 1] to the bounds, as SB3's ``unscale_action``; float32."""
        return np.asarray(self._low + (squashed + np.float32(1)) * self._half_range, dtype=np.float32)


def _tensors(layer: tuple[np.ndarray, np.ndarray]) -> tuple[th.Tensor, th.Tensor]:
    weight, bias = (th.as_tensor(np.array(array, dtype=np.float32)) for array in layer)
    return weight, bias


def _squashed_std(mean: np.ndarray, std: np.ndarray) -> np.ndarray:
    """Return the root mean square distance of tanh(mean + std * z) from tanh(mean), for a standard normal z."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(_N_NODES)
    mode, variance = np.tanh(mean), np.zeros_like(mean)
    for node, weight in zip(nodes.astype(np.float32), (weights / weights.sum()).astype(np.float32), strict=True):
        variance += weight * (np.tanh(mean + std * node) - mode) ** 2
    return np.asarray(np.sqrt(variance))


@dataclass(frozen=True)
class FunctionTeacher:
    """A function of raw observations, which gives actions, or means and stds.

    :param function: (n_rows, obs_dim) -> (n_rows, action_dim), or a pair of these, the stds broadcast
    :param action_size: of its task
    """

    function: Callable[[np.ndarray], Any]
    task: str
    action_size: int
    obs_dim: None = None
    action_dim: None = None
    feature_dim: None = None

    @property
    def digest(self) -> str:
        """The function's name: what it computes is not known."""
        named = self.function if hasattr(self.function, "__qualname__") else type(self.function)
        return f"function {named.__module__}.{named.__qualname__}"

    def label(self, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Call the function.

        :raises ValueError: if what it returns has another shape, is not finite, or a std is not positive
        :raises TypeError: if it returns no numbers
        """
        try:
            given = self.function(obs.copy())  # it may write into it
        except Exception as e:
            e.add_note(f"(in the teacher of task {self.task!r}, for observations {obs.shape})")
            raise
        if not isinstance(given, tuple):
            return self._numbers("actions", given, obs), None
        if len(given) != 2 or given[1] is None:
            raise ValueError(
                f"The teacher of task {self.task!r} must return actions, or a pair (means, stds) (got a tuple of "
                f"{', '.join(type(part).__name__ for part in given) or 'nothing'}). For SB3's `predict`: "
                "`lambda obs: model.predict(obs, deterministic=True)[0]`"
            )
        mean, std = self._numbers("means", given[0], obs), self._numbers("stds", given[1], obs)
        if not (std > 0).all():
            raise ValueError(
                f"The teacher of task {self.task!r} gave stds that are not positive (the lowest: {std.min()})"
            )
        return mean, np.log(std)

    def features(self, obs: np.ndarray) -> np.ndarray:
        """Raise: what is in a function is not known."""
        raise NotImplementedError("a function has no hidden layer that is known")

    def act(self, obs: np.ndarray, noise: np.ndarray) -> np.ndarray:
        return _sample(*self.label(obs), noise)

    def _numbers(self, what: str, given: Any, obs: np.ndarray) -> np.ndarray:
        wanted = (len(obs), self.action_size)
        try:
            array = np.asarray(given, dtype=np.float32)
            if what == "stds":
                array = np.broadcast_to(array, wanted)
        except (TypeError, ValueError, RuntimeError) as e:
            raise TypeError(
                f"The teacher of task {self.task!r} must give {what} as numbers of shape {wanted} (got "
                f"{type(given).__name__} {given!r:.100})"
            ) from e
        if array.shape != wanted:
            raise ValueError(
                f"The teacher of task {self.task!r} gave {what} of shape {array.shape} for observations of shape "
                f"{obs.shape}; they must have {wanted} (n_rows, action_dim)"
            )
        bad = int((~np.isfinite(array).all(axis=1)).sum())
        if bad:
            raise ValueError(
                f"The teacher of task {self.task!r} gave {what} that are not finite in {bad} of {len(obs)} rows"
            )
        return array
