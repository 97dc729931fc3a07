"""Environments that break at a chosen moment, and simulations that are broken from outside."""

from __future__ import annotations

import os
import signal
import time

import gymnasium as gym
import numpy as np

import sb3_multitask as mt
from helpers.drift import DriftEnv, drift_tasks

KINDS = {
    "nan_obs": "a NaN observation",
    "inf_obs": "an infinite observation",
    "absurd_obs": r"an out-of-range \(beyond 1e\+15\) observation",
    "nan_reward": "a NaN reward",
    "inf_reward": "an infinite reward",
    "absurd_reward": r"an out-of-range \(beyond 1e\+15\) reward",
    "nan_last_obs": "a NaN last observation",
}
BAD = {"nan": np.nan, "inf": -np.inf, "absurd": 2e15}


class FaultyEnv(DriftEnv):
    """A point whose sensors or rewards break at a step of some episodes; or whose process does worse."""

    def __init__(self, kind: str = "", at: int = 3, first_episode: int = 2, every: int = 1, **kwargs):
        super().__init__(**kwargs)
        self.kind, self.at, self.first_episode, self.every, self.episode = kind, at, first_episode, every, 0

    def is_due(self):
        n = self.episode - self.first_episode
        return bool(self.kind) and n >= 0 and n % self.every == 0

    def reset(self, **kwargs):
        self.episode += 1
        if self.is_due() and self.kind == "raise_in_reset":
            raise RuntimeError("the crane is stuck")
        if self.is_due() and self.kind == "hang_in_reset":
            time.sleep(60)
        obs, info = super().reset(**kwargs)
        if self.is_due() and self.kind == "nan_reset":
            obs[0] = np.nan
        return obs, info

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        last = self.kind == "nan_last_obs"
        if not self.is_due() or (self.time != self.at and not (last and (terminated or truncated))):
            return obs, reward, terminated, truncated, info
        what, _, where = self.kind.partition("_")
        if where in ("obs", "last_obs"):
            if not last or terminated or truncated:
                obs[1] = BAD[what]
        elif where == "reward":
            reward = BAD[what]
        elif self.kind == "raise":
            raise RuntimeError("the motor burnt out")
        elif self.kind == "exit":
            os._exit(7)
        elif self.kind == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif self.kind == "hang":
            time.sleep(60)
        return obs, reward, terminated, truncated, info


def tasks(kind, n=3, **kwargs):
    """Tasks of which B breaks."""
    return [
        mt.Task(task.name, FaultyEnv, {**task.env_kwargs, **({"kind": kind, **kwargs} if task.name == "B" else {})})
        for task in drift_tasks(n)
    ]


def make(kind, n_envs=2, on_fault="stop", backend="dummy", normalize=True, seed=0, **kwargs):
    venv = mt.MultiTaskVecEnv(tasks(kind), n_envs, seed=seed, backend=backend, on_fault=on_fault, **kwargs)
    return mt.MultiTaskVecNormalize(venv) if normalize else venv


BODIES = ["HalfCheetahSmallFoot-v0", "HalfCheetahBigFoot-v0"]


def break_simulation(env, row):
    """Give a simulation a velocity that MuJoCo cannot go on from."""
    if env.backend == "batch":
        (group,) = env.sub_envs.backend.groups
        group.qvel[row] = 1e12
    else:
        env.env_method("break_it", indices=[row])


class Breakable(gym.Wrapper):
    def break_it(self):
        self.unwrapped.data.qvel[:] = 1e12


def breakable(**kwargs):
    return Breakable(gym.make(BODIES[0], **kwargs))


def simulations(backend, on_fault):
    tasks = BODIES if backend == "batch" else [mt.Task(name, breakable) for name in BODIES]
    return mt.MultiTaskVecEnv(tasks, 2, seed=0, backend=backend, on_fault=on_fault)
