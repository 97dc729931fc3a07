"""Flat observations for environments that have others; the layout is that of :mod:`sb3_multitask.envs.flat_layout`."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import cache
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_multitask.envs.flat_layout import FlatLayout, MisfitError, is_flat, why_not_flattened

_LOGGER = logging.getLogger("sb3_multitask")
_MAX_NAMES = 10


class FlatObservation(gym.ObservationWrapper[np.ndarray, Any, Any], gym.utils.RecordConstructorArgs):
    """One flat ``Box`` for an observation of several parts: a goal environment, a dictionary, categories, matrices.

    ``MultiTaskVecEnv`` and ``TaskEnv`` put it around environments that need it. Attributes and methods of the
    environment, such as ``compute_reward``, stay reachable by ``get_wrapper_attr``, and by a VecEnv's ``get_attr`` and
    ``env_method``.

    =================  =====================================================================
    part               becomes
    =================  =====================================================================
    ``Box``            its numbers, row by row
    ``Discrete(n)``    a one-hot of ``n`` numbers
    ``MultiDiscrete``  a one-hot for each of its numbers
    ``MultiBinary``    zeros and ones, row by row
    ``Dict``           its parts, in the space's own order of keys, which is usually sorted
    ``Tuple``          its parts, in order
    =================  =====================================================================

    The order is that of ``gymnasium.spaces.flatten``. The type is float32 if that holds every digit of all ``Box``
    parts, else float64. The bounds are those of the parts; zeros and ones have 0 and 1.

    :param env: an environment with such observations
    :param task: name of its task, for errors
    :raises ValueError: if a part is an image, a text, a graph, a sequence or a ``OneOf``; from ``reset`` and ``step``,
        if an observation does not fit the environment's space. The message names the part and what is expected
    """

    observation_space: spaces.Box  # type: ignore[override]
    flattened_by_default = False  # True if this package put it there, and not its user

    def __init__(self, env: gym.Env[Any, Any], task: str | None = None) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, task=task)
        gym.ObservationWrapper.__init__(self, env)
        self._whose = "" if task is None else f"Task {task!r}: "
        if (reason := why_not_flattened(env.observation_space)) is not None:
            raise ValueError(f"{self._whose}`env` has the observation space {env.observation_space}. {reason}")
        self.flat_layout = FlatLayout(env.observation_space)
        self.observation_space = self.flat_layout.box()

    @property
    def flat_parts(self) -> dict[str, slice]:
        """The place of each part among the flat numbers, in order. The names of nested parts are ``arm.joints``."""
        return self.flat_layout.places

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        # As in SB3, options are passed on only if there are some: not every environment takes them.
        obs, info = self.env.reset(seed=seed, **({} if options is None else {"options": options}))
        return self.observation(obs), info

    def observation(self, observation: Any) -> np.ndarray:
        """Return an observation of the environment as a new array, (obs_dim,).

        :raises ValueError: if it does not fit the environment's space
        """
        try:
            return self.flat_layout.flatten(observation)
        except MisfitError as e:
            raise ValueError(f"{self._whose}the observation does not fit its space: {e}") from None


def flat_env(env: gym.Env[Any, Any], task: str) -> gym.Env[Any, Any]:
    """Return an environment with flat observations; the same environment if they are flat, or cannot be flattened.

    Observations that cannot be flattened are refused where the spaces of all tasks are checked, which is in another
    process than the environment with ``backend="subproc"``.
    """
    if is_flat(env.observation_space) or why_not_flattened(env.observation_space) is not None:
        return env
    flat = FlatObservation(env, task)
    flat.flattened_by_default = True
    return flat


def layout_of(env: gym.Env[Any, Any]) -> str | None:
    """Return how :func:`flat_env` flattened an environment: the size, and the parts with their places; None if not."""
    if not isinstance(env, FlatObservation) or not env.flattened_by_default:
        return None
    return f"{env.flat_layout.size} numbers: {env.flat_layout}"


def check_layouts(layouts: Mapping[str, str], flatten: bool) -> None:
    """Log once how tasks' observations are flattened, or refuse it.

    :param layouts: task -> how its observations are flattened
    :param flatten: whether they may be
    :raises ValueError: if they may not be
    """
    if not flatten:
        for task, layout in layouts.items():
            raise ValueError(
                f"`flatten` is False, and the observation space of task {task!r} is not a Box of shape (obs_dim,). "
                f"flatten=True makes one of it, of {layout}."
            )
    for line in layout_lines(layouts):
        _say_once(line)


def layout_lines(layouts: Mapping[str, str]) -> list[str]:
    """Return a line for each layout, with the names of its tasks.

    :param layouts: task -> how its observations are flattened
    """
    tasks: dict[str, list[str]] = {}
    for task, layout in layouts.items():
        tasks.setdefault(layout, []).append(task)
    return [f"Observations of {_names(names)} are flattened to {layout}" for layout, names in tasks.items()]


def _names(tasks: list[str]) -> str:
    rest = len(tasks) - _MAX_NAMES
    return ", ".join(tasks[:_MAX_NAMES]) + (f" and {rest} more" if rest > 0 else "")


@cache
def _say_once(message: str) -> None:
    _LOGGER.info(message)
