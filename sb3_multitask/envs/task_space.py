"""Tasks of different sizes: observations and actions are padded with zeros to the widest.

The ``task`` of an observation says which task a row is of, so its space says how wide each task is: whoever knows the
spaces of a model or a VecEnv, or reads them from a file, knows what is padding.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Self, TypeAlias

import numpy as np
from gymnasium import spaces

Bounds: TypeAlias = tuple[tuple[float, ...], tuple[float, ...]]
"""Lowest and highest actions of a task, (action_dim,) of its own each."""


class TaskSpace(spaces.Discrete):
    """The ids of tasks that differ in their sizes or in the bounds of their actions, and what these are.

    Tasks that do not differ have a plain ``Discrete``.

    :param obs_dims: size of each task's observations, (n_tasks,)
    :param action_bounds: of each task
    """

    def __init__(self, obs_dims: Sequence[int], action_bounds: Sequence[Bounds]) -> None:
        super().__init__(len(obs_dims))
        self.obs_dims = tuple(int(dim) for dim in obs_dims)
        self.action_bounds = tuple((_numbers(low), _numbers(high)) for low, high in action_bounds)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, TaskSpace)
            and super().__eq__(other)
            and (self.obs_dims, self.action_bounds) == (other.obs_dims, other.action_bounds)
        )

    __hash__ = None  # type: ignore[assignment]  # as every space

    def __repr__(self) -> str:
        dims = f"obs_dims={list(self.obs_dims)}, action_dims={[len(low) for low, _ in self.action_bounds]}"
        bounds = ", ".join(f"{_shown(low)} to {_shown(high)}" for low, high in self.action_bounds)
        return f"TaskSpace({dims}, action_bounds=[{bounds}])"


def _shown(bounds: tuple[float, ...]) -> str:
    """One number if all are equal."""
    return str(bounds[0] if len(set(bounds)) == 1 else bounds)


def _numbers(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(float(value) for value in values)


@dataclass(frozen=True)
class TaskSizes:
    """How wide the observations and actions of each task are within those of all tasks.

    :param obs_dim: size of a padded observation
    :param action_dim: size of a padded action
    :param obs_dims: of each task, (n_tasks,)
    :param action_dims: of each task, (n_tasks,)
    :param action_low: lowest actions of each task, (n_tasks, action_dim), with 0 in the padding
    :param action_high: highest actions
    """

    obs_dim: int
    action_dim: int
    obs_dims: np.ndarray
    action_dims: np.ndarray
    action_low: np.ndarray
    action_high: np.ndarray

    @classmethod
    def of(cls, observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> Self:
        """Read them from the spaces of a VecEnv or a model, ``Dict(obs, task)`` and a Box."""
        assert isinstance(observation_space, spaces.Dict)
        assert isinstance(action_space, spaces.Box)
        (obs_dim,), (action_dim,) = observation_space["obs"].shape, action_space.shape  # type: ignore[misc]
        task: Any = observation_space["task"]
        n_tasks = int(task.n)
        if not isinstance(task, TaskSpace):
            bounds = (np.tile(bound, (n_tasks, 1)) for bound in (action_space.low, action_space.high))
            return cls(obs_dim, action_dim, np.full(n_tasks, obs_dim), np.full(n_tasks, action_dim), *bounds)
        low, high = np.zeros((2, n_tasks, action_dim), action_space.dtype)
        for i, (lowest, highest) in enumerate(task.action_bounds):
            low[i, : len(lowest)], high[i, : len(highest)] = lowest, highest
        action_dims = np.array([len(lowest) for lowest, _ in task.action_bounds])
        return cls(obs_dim, action_dim, np.array(task.obs_dims), action_dims, low, high)

    @cached_property
    def has_padding(self) -> bool:
        """Whether a task is narrower than the widest."""
        return bool((self.obs_dims < self.obs_dim).any() or (self.action_dims < self.action_dim).any())

    @cached_property
    def bounds_differ(self) -> bool:
        """Whether a task's actions have narrower bounds than those of all tasks together."""
        mask, low, high = self.action_mask, self.action_low, self.action_high
        return bool(((low > low.min(axis=0)) & mask).any() or ((high < high.max(axis=0)) & mask).any())

    @cached_property
    def obs_mask(self) -> np.ndarray:
        """Which numbers of an observation are a task's own, (n_tasks, obs_dim) bool; the others are padding."""
        return np.asarray(np.arange(self.obs_dim) < self.obs_dims[:, None])

    @cached_property
    def action_mask(self) -> np.ndarray:
        """Which numbers of an action are a task's own, (n_tasks, action_dim) bool; the others are padding."""
        return np.asarray(np.arange(self.action_dim) < self.action_dims[:, None])


def padded(rows: np.ndarray, width: int) -> np.ndarray:
    """Rows (..., dim) with zeros up to ``width``; the same array if they are as wide."""
    missing = width - rows.shape[-1]
    if not missing:
        return rows
    wide = np.zeros((*rows.shape[:-1], width), rows.dtype)
    wide[..., : rows.shape[-1]] = rows
    return wide
