"""Recognise Gymnasium's usual wrappers, even if another package has replaced them by subclasses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, TypeAlias

import gymnasium as gym
from gymnasium.wrappers import common

Wrapper: TypeAlias = gym.Wrapper[Any, Any, Any, Any]
_REPLACEMENTS = {("rl_zoo3.gym_patches", "PatchedTimeLimit")}
"""Other packages' subclasses that replace Gymnasium's own, with the same effect on an episode."""


def _gymnasiums_own(name: str) -> type[Wrapper]:
    """Return Gymnasium's class of this name, even if another package has replaced the name, as rl_zoo3 does."""
    found: type[Wrapper] = getattr(common, name)
    own = (cls for cls in found.__mro__ if (cls.__module__, cls.__name__) == (common.__name__, name))
    return next(own, found)


TimeLimit = _gymnasiums_own("TimeLimit")
OrderEnforcing = _gymnasiums_own("OrderEnforcing")
PassiveEnvChecker = _gymnasiums_own("PassiveEnvChecker")


def wrappers_of(env: gym.Env[Any, Any]) -> Iterator[Wrapper]:
    """Yield the wrappers around an environment, from the outside in."""
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env


def kind_of(wrapper: Any) -> type:
    """Return the class of a wrapper's behaviour: its own, or Gymnasium's if another package has replaced it.

    A subclass that overrides nothing counts as its base class.
    """
    cls: type = type(wrapper)
    while (cls.__module__, cls.__name__) in _REPLACEMENTS or (cls.__bases__ and not _adds_anything(cls)):
        cls = cls.__bases__[0]
    return cls


def _adds_anything(cls: type) -> bool:
    return len(cls.__bases__) > 1 or any(
        not name.startswith("__") or callable(value) for name, value in vars(cls).items()
    )


def time_limit_of(env: gym.Env[Any, Any]) -> int | None:
    """Return the smallest time limit around an environment, in steps; None without one."""
    limiting: list[Any] = [wrapper for wrapper in wrappers_of(env) if isinstance(wrapper, TimeLimit)]
    return min((int(wrapper._max_episode_steps) for wrapper in limiting), default=None)
