"""Small environments and helpers for the tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces

import sb3_multitask as mt
from sb3_multitask.vec_env.batch_group import BATCH_IS_MISSING

th.set_num_threads(1)  # tests run side by side, one per core


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.option.basetemp is None:
        cache = config.rootpath / ".cache"
        cache.mkdir(exist_ok=True)  # pytest makes the last folder of a path only
        config.option.basetemp = str(cache / "tmp")
    if BATCH_IS_MISSING:
        config.addinivalue_line("filterwarnings", "ignore:The native backend is not used:UserWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs the native backend where MuJoCo has none: what is so marked, and parameters "batch"."""
    if not BATCH_IS_MISSING:
        return
    for item in items:
        callspec = getattr(item, "callspec", None)
        values = () if callspec is None else map(str, callspec.params.values())
        if item.get_closest_marker("native") or "batch" in values:
            item.add_marker(pytest.mark.skip(reason="needs mujoco.batch (MuJoCo 3.17 or newer)"))


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
    ) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (obs_dim,))
        self.action_space = spaces.Box(-high, high, (2,), dtype=np.float32)
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
        return self._obs(), reward, end and self.terminate, end and not self.terminate, {"speed": self.speed}


def drift_tasks(n: int = 3, **kwargs: Any) -> tuple[mt.Task, ...]:
    """Tasks named A, B, ...; each with a target and a horizon of its own."""
    return tuple(mt.Task("ABCDEFGH"[i], DriftEnv, {"target": i / n, "horizon": 5 + 2 * i, **kwargs}) for i in range(n))


def weights_equal(a: Any, b: Any) -> bool:
    """Whether two models' policies are equal, bit for bit."""
    first, second = a.policy.state_dict(), b.policy.state_dict()
    return first.keys() == second.keys() and all(th.equal(first[key], second[key]) for key in first)


def batch_for(policy: mt.MultiTaskActorCriticPolicy, task: Sequence[int], seed: int = 0) -> dict[str, th.Tensor]:
    """Observations of given tasks."""
    generator = th.Generator().manual_seed(seed)
    return {
        "obs": th.randn(len(task), policy.obs_dim, generator=generator),
        "task": th.as_tensor(task),
    }


@pytest.fixture
def tasks() -> tuple[mt.Task, ...]:
    return drift_tasks()


@pytest.fixture
def venv(tasks: tuple[mt.Task, ...]):
    env = mt.make_multitask_vec_env(tasks, n_envs_per_task=2, seed=0)
    yield env
    env.close()
