"""A small environment that needs no physics, in its variants, and tasks made of it."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

import sb3_multitask as mt


class DriftEnv(gym.Env):
    """A point that drifts and is pushed by the action; cheap, with truncation or early termination.

    Reward: ``scale * (speed - |action - target|)``; the observation is position, speed, time, scaled.
    """

    metadata = {"render_modes": []}

    def __init__(
        self,
        target: float = 0.0,
        scale: float = 1.0,
        horizon: int = 7,
        terminate: bool = False,
        obs_dim: int = 3,
        high: float = 1.0,
        fail_at: int | None = None,
        action_dim: int = 2,
    ) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (obs_dim,))
        self.action_space = spaces.Box(-high, high, (action_dim,), dtype=np.float32)
        self.target, self.scale, self.horizon, self.terminate = target, scale, horizon, terminate
        self.obs_dim, self.fail_at = obs_dim, fail_at

    def _obs(self) -> np.ndarray:
        return np.resize([self.position, self.speed, 0.1 * self.time], self.obs_dim) * self.scale

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        self.position, self.speed, self.time = [*self.np_random.normal(size=2).tolist(), 0]
        return self._obs(), {}

    def step(self, action: np.ndarray):
        self.time += 1
        if self.time == self.fail_at:
            raise RuntimeError("the motor burnt out")
        self.speed = 0.9 * self.speed + 0.1 * float(np.sum(action)) + 0.01 * self.np_random.normal()
        self.position += self.speed
        reward = self.scale * (self.speed - float(np.abs(action - self.target).sum()))
        end = self.time >= self.horizon
        return (
            self._obs(),
            reward,
            end and self.terminate,
            end and not self.terminate,
            {"speed": self.speed, "action": action},
        )


def drift_tasks(n: int = 3, **kwargs: Any) -> tuple[mt.Task, ...]:
    """Tasks named A, B, ...; each with a target and a horizon of its own."""
    return tuple(mt.Task("ABCDEFGH"[i], DriftEnv, {"target": i / n, "horizon": 5 + 2 * i, **kwargs}) for i in range(n))


class RecordedEnv(DriftEnv):
    """Observations, rewards and ends that do not depend on the action: the same rollout for both engines."""

    def step(self, action):
        return super().step(np.zeros(2, dtype=np.float32))


def recorded_tasks(n=3, **kwargs):
    """Tasks of :class:`RecordedEnv`, each with a horizon of its own; B ends its episodes early."""
    return tuple(
        mt.Task("ABCDEFGH"[i], RecordedEnv, {"horizon": 5 + 2 * i, "terminate": i == 1, **kwargs}) for i in range(n)
    )


class DrawnEnv(DriftEnv):
    """Its picture says how long the episode is."""

    metadata = {"render_modes": ["rgb_array"], "render_fps": 7}

    def __init__(self, render_mode=None, **kwargs):
        super().__init__(**kwargs)
        self.render_mode = render_mode

    def render(self):
        if self.fail_at is not None:
            raise RuntimeError("the pencil broke")
        return np.full((20, 30, 3), 10 * self.time, dtype=np.uint8)


def drawn_tasks(**kwargs):
    """Two tasks of :class:`DrawnEnv`."""
    return [mt.Task(task.name, DrawnEnv, {**task.env_kwargs, **kwargs}) for task in drift_tasks(2)]


class ReachingEnv(DriftEnv):
    """Says in each step whether it is successful, under ``key``, and tells its state.

    :param at: the successful steps of the first episode, of the second, ..., and again from the first on
    :param yes: how success is said
    :param no: how its absence is said; ``"nothing"``: not at all
    """

    def __init__(self, at: tuple[tuple[int, ...], ...] = ((),), key="success", yes=True, no=False, **kwargs: Any):
        super().__init__(**kwargs)
        self.at, self.key, self.yes, self.no, self.episode = at, key, yes, no, -1

    def reset(self, **kwargs: Any):
        self.episode += 1
        return super().reset(**kwargs)

    def step(self, action: np.ndarray):
        *step, info = super().step(action)
        said = self.yes if self.time in self.at[self.episode % len(self.at)] else self.no
        return *step, info if said == "nothing" else {**info, self.key: said}

    def get_state(self) -> dict[str, Any]:
        return {name: getattr(self, name) for name in ("position", "speed", "time", "episode")}

    def set_state(self, state: dict[str, Any]) -> None:
        for name, value in state.items():
            setattr(self, name, value)


def sized_tasks(kind=DriftEnv, **kwargs):
    """Tasks A, B and C with 5, 3 and 4 numbers in an observation, and actions of 2, 3 and 1 within other bounds."""
    sizes = ((5, 2, 1.0), (3, 3, 0.5), (4, 1, 1.0))
    return tuple(
        mt.Task(name, kind, {"obs_dim": obs_dim, "action_dim": n, "high": high, "horizon": 5 + 2 * i, **kwargs})
        for i, (name, (obs_dim, n, high)) in enumerate(zip("ABC", sizes, strict=True))
    )
