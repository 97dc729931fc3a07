"""The scene of a film: an agent that acts in its tasks side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import gymnasium as gym
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv

from sb3_multitask.agents import Agent
from sb3_multitask.envs.task_env import TaskEnv
from sb3_multitask.process.seeding import env_seed
from sb3_multitask.tasks import Task
from sb3_multitask.vec_env.success import FAILED, NOT_SAID, SUCCEEDED, success_of

_CAMERA = "track"
_SHADOW_SIZE = 1024  # pixels; MuJoCo's 4096 take most of the time of a renderer without a GPU
_MAX_EPISODE_STEPS = 1000  # for environments without a time limit


class EndedEpisode(NamedTuple):
    """An episode that was played to its end: the task's name, the undiscounted return, and the length in steps.

    ``success`` is whether any of its steps was successful; None if its environment never said so.
    """

    task: str
    total_reward: float
    length: int
    success: bool | None = None


@dataclass(frozen=True)
class Shot:
    """A picture of one task.

    :param image: (height, width, 3) uint8
    :param total_reward: return of the episode so far
    :param length: steps of the episode so far
    :param episode: number of the episode, from 1
    :param ended: the task's episodes that ended from this step on, before the next picture
    """

    image: np.ndarray
    total_reward: float
    length: int
    episode: int
    ended: tuple[EndedEpisode, ...] = ()


@dataclass(frozen=True)
class Scene:
    """An agent, its tasks, and the steps to film.

    :param agent: the agent that acts
    :param tasks: one panel each, by names of the agent's heads; any name for an agent with one head
    :param n_steps: environment steps of each task that are filmed
    :param skip: environment steps before the first picture
    :param every: environment steps from one picture to the next
    :param seed: seed of the environments, and of the samples if not deterministic
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

    def __init__(self, scene: Scene, task: Task, seed: int, *, renders: bool) -> None:
        names = scene.agent.task_names if scene.agent.n_tasks > 1 else (task.name,)
        self.task = task.name
        self.env = TaskEnv(_rendering_env(task, scene.size) if renders else task.make(), task.name, names)
        self.obs, _ = self.env.reset(seed=seed)
        self.total_reward, self.length, self.episode = 0.0, 0, 1
        self._success, self._ended = NOT_SAID, False
        self._ended_episodes: list[EndedEpisode] = []

    def step(self, agent: Agent, deterministic: bool, generator: np.random.Generator) -> None:
        """Take one step; if the last one ended an episode, reset first."""
        if self._ended:
            self.obs, _ = self.env.reset()
            self.total_reward, self.length, self.episode = 0.0, 0, self.episode + 1
            self._success = min(self._success, FAILED)
        action, _ = agent.predict(self.obs, deterministic=deterministic, generator=generator)
        self.obs, reward, terminated, truncated, info = self.env.step(action)
        self.total_reward += float(reward)
        self.length += 1
        self._success = max(self._success, success_of(info))
        self._ended = bool(terminated or truncated)
        if self._ended:
            success = None if self._success == NOT_SAID else self._success == SUCCEEDED
            self._ended_episodes.append(EndedEpisode(self.task, self.total_reward, self.length, success))

    def pop_ended(self) -> tuple[EndedEpisode, ...]:
        """Return the episodes that ended since the last call."""
        ended, self._ended_episodes = tuple(self._ended_episodes), []
        return ended

    def shot(self) -> Shot:
        image = np.asarray(self.env.render(), dtype=np.uint8)
        return Shot(image, self.total_reward, self.length, self.episode)


def play(scene: Scene) -> Iterator[tuple[Shot, ...]]:
    """Play a scene; yield a shot of every task for each picture, in the order of the tasks."""
    generator = np.random.default_rng(scene.seed)
    with _players(scene, renders=True) as players:

        def step() -> None:
            for player in players:
                player.step(scene.agent, scene.deterministic, generator)

        for _ in range(scene.skip):
            step()
        for player in players:
            player.pop_ended()  # Episodes before the first picture are not shown.
        for begin in range(0, scene.n_steps, scene.every):
            step()
            shots = [player.shot() for player in players]
            for _ in range(min(scene.every, scene.n_steps - begin) - 1):
                step()
            yield tuple(replace(shot, ended=player.pop_ended()) for shot, player in zip(shots, players, strict=True))


def play_episodes(scene: Scene) -> Iterator[EndedEpisode]:
    """Play a scene without pictures, in this process; yield each episode when it ends."""
    generator = np.random.default_rng(scene.seed)
    with _players(scene, renders=False) as players:
        for _ in range(scene.skip + scene.n_steps):
            for player in players:
                player.step(scene.agent, scene.deterministic, generator)
            for player in players:
                yield from player.pop_ended()


def longest_episode(tasks: Sequence[Task]) -> int:
    """Return the largest time limit among the tasks' environments, in steps; 1000 for an environment without one."""
    limits = []
    for task in tasks:
        env = task.make()
        limits.append((env.spec.max_episode_steps if env.spec else None) or _MAX_EPISODE_STEPS)
        env.close()
    return max(limits)


@contextmanager
def _players(scene: Scene, *, renders: bool) -> Iterator[list[_Player]]:
    """Yield a player for each task; close their environments afterwards."""
    seeds = (env_seed(scene.seed, i, training=False) for i in range(len(scene.tasks)))
    players: list[_Player] = []
    try:
        for task, seed in zip(scene.tasks, seeds, strict=True):
            players.append(
                _Player(scene, task, seed, renders=renders)
            )  # Made one by one, so that the others are closed if one fails.
        yield players
    finally:
        for player in players:
            player.env.close()


def _rendering_env(task: Task, size: tuple[int, int]) -> gym.Env[np.ndarray, np.ndarray]:
    """Make a task's environment; for MuJoCo's, with the requested size and a camera that follows the robot.

    Unless the task names a camera, Gymnasium's does not move, and the robots run out of its sight.
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
