"""Adapters of users' own robots."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
from gymnasium.envs.mujoco import MujocoEnv

from sb3_multitask.vec_env.adapters.base import Adapter

ADAPTERS: dict[type, type[Adapter]] = {}
"""Exact class of the unwrapped environment -> its adapter. Subclasses are not accepted: they may change anything."""

_NEEDED = ("observe", "outcome", "draw_reset")


def register_adapter(env_class: type[gym.Env[Any, Any]], adapter: type[Adapter], *, replace: bool = False) -> None:
    """Let ``backend="batch"`` run a MuJoCo environment of one's own: all its simulations in one native call.

    The adapter says in arrays what the environment's ``step`` and ``reset`` say for one simulation;
    :func:`check_adapter` compares the two. It holds for exactly this class, not for subclasses, which may change
    anything. Environments that replace the simulation's own steps (forces between them, changes of the model) cannot
    run in a batch.

    :param env_class: derived from Gymnasium's ``MujocoEnv``
    :param adapter: derived from ``sb3_multitask.vec_env.adapters.Adapter``
    :param replace: take it in place of another that the class has, such as in a notebook
    :raises TypeError: if one is not; names what the adapter lacks
    :raises ValueError: if the class has another adapter already, unless it is to be replaced
    """
    if not (isinstance(env_class, type) and issubclass(env_class, MujocoEnv)):
        raise TypeError(f"`env_class` must be a class derived from gymnasium's MujocoEnv (got {env_class!r})")
    if not (isinstance(adapter, type) and issubclass(adapter, Adapter)):
        raise TypeError(
            f"`adapter` must be a class derived from sb3_multitask.vec_env.adapters.Adapter (got {adapter!r})"
        )
    missing = [name for name in _NEEDED if getattr(adapter, name) is getattr(Adapter, name)]
    if missing:
        raise TypeError(f"`adapter` {adapter.__name__} must define {', '.join(missing)}")
    if ADAPTERS.get(env_class, adapter) is not adapter and not replace:
        raise ValueError(
            f"{env_class.__name__} has the adapter {ADAPTERS[env_class].__name__} already; replace=True takes its place"
        )
    ADAPTERS[env_class] = adapter
