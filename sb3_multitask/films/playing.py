"""What is filmed: an agent that plays its tasks side by side."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv

from sb3_multitask.agents import Agent
from sb3_multitask.envs.task_env import TaskEnv
from sb3_multitask.seeding import env_seed
from sb3_multitask.tasks import Task

_CAMERA = "track"
_SHADOW_SIZE = 1024  # pixels; most of the time of a renderer without a GPU goes into MuJoCo's 4096


@dataclass(frozen=True)
class Shot:
    """One task at one moment.

    :param image: (height, width, 3) uint8
    :param total_reward: return of the episode so far
    :param length: steps of the episode so far
    :param episode: number of the episode, from 1
    """

    image: np.ndarray
    total_reward: float
    length: int
    episode: int


@dataclass(frozen=True)
class Scene:
    """What is played.

    :param agent: acts
    :param tasks: one panel each, by names of the agent's heads; any name for an agent with one head
    :param n_steps: environment steps of each task that are filmed
    :param skip: environment steps before the first picture
    :param every: environment steps from one picture to the next
    :param seed: of the environments, and of the samples if not deterministic
    :param deterministic: the mean of the Gaussian instead of a sample
    :param size: width and height of MuJoCo's pictures; other environments have their own
    :raises ValueError: if a number is out of its range, there is no task, or the agent has no head for one
    """

    agent: Agent
    tasks: tuple[Task, ...]
    n_steps: int
    skip: int = 0
    every: int = 1
    seed: int = 0
    deterministic: bool = True
    size: tuple[int, int] = (320, 240)

    def __post_init__(self) -> None:
        for name, least in {"n_steps": 1, "skip": 0, "every": 1}.items():
            if getattr(self, name) < least:
                raise ValueError(f"`{name}` must be at least {least} (got {getattr(self, name)})")
        if not self.tasks:
            raise ValueError("`tasks` must hold at least one task (got none)")
        for task in self.tasks:
            self.agent.head_of(task.name)


class _Player:
    """One task, its environment and its running episode."""

    def __init__(self, scene: Scene, task: Task, seed: int) -> None:
        names = scene.agent.task_names if scene.agent.n_tasks > 1 else (task.name,)
        self.env = TaskEnv(_rendering_env(task, scene.size), task.name, names)
        self.obs, _ = self.env.reset(seed=seed)
        self.total_reward, self.length, self.episode = 0.0, 0, 1
        self._ended = False

    def step(self, agent: Agent, deterministic: bool, generator: np.random.Generator) -> None:
        """One step; the one after an episode's end begins the next."""
        if self._ended:
            self.obs, _ = self.env.reset()
            self.total_reward, self.length, self.episode = 0.0, 0, self.episode + 1
        action, _ = agent.predict(self.obs, deterministic=deterministic, generator=generator)
        self.obs, reward, terminated, truncated, _ = self.env.step(action)
        self.total_reward += float(reward)
        self.length += 1
        self._ended = bool(terminated or truncated)

    def shot(self) -> Shot:
        image = np.asarray(self.env.render(), dtype=np.uint8)
        return Shot(image, self.total_reward, self.length, self.episode)


def play(scene: Scene) -> Iterator[tuple[Shot, ...]]:
    """Play a scene; a shot of every task at each picture, in the order of the tasks."""
    generator = np.random.default_rng(scene.seed)
    seeds = (env_seed(scene.seed, i, training=False) for i in range(len(scene.tasks)))
    players = [_Player(scene, task, seed) for task, seed in zip(scene.tasks, seeds, strict=True)]
    try:
        for step in range(1, scene.skip + scene.n_steps + 1):
            for player in players:
                player.step(scene.agent, scene.deterministic, generator)
            if step > scene.skip and (step - scene.skip - 1) % scene.every == 0:
                yield tuple(player.shot() for player in players)
    finally:
        for player in players:
            player.env.close()


def _rendering_env(task: Task, size: tuple[int, int]) -> gym.Env[np.ndarray, np.ndarray]:
    """A task's environment; MuJoCo's in the size that is asked for, and with a camera that goes with the robot.

    Gymnasium takes a camera that stands still, unless the task names one; the robots run out of its sight.
    """
    env = task.make("rgb_array")
    mujoco_env: Any = env.unwrapped
    if isinstance(mujoco_env, MujocoEnv):
        renderer = mujoco_env.mujoco_renderer
        renderer.width, renderer.height = size
        cameras = [mujoco_env.model.camera(i).name for i in range(mujoco_env.model.ncam)]
        if _CAMERA in cameras and not any("camera" in name for name in task.kwargs_of()):
            renderer.camera_id = cameras.index(_CAMERA)
        mujoco_env.model.vis.quality.shadowsize = _SHADOW_SIZE
    return env
