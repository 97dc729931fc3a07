"""One Gymnasium environment for several tasks, which alternate by episode."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_multitask.envs.flattening import flat_env
from sb3_multitask.envs.task_env import Description, TaskEnv, TaskObs, common_spaces
from sb3_multitask.process.seeding import env_seed
from sb3_multitask.tasks import Task, TasksLike, did_you_mean, resolve_tasks


class TaskSetEnv(gym.Env[TaskObs, np.ndarray]):
    """The tasks of a set in turn, one per episode; ``gymnasium.make("MultiTask/<set>-v0")`` makes it.

    It is for code that expects a single environment: a stock algorithm or evaluation, a video, rl-zoo. Observations are
    ``{"obs": (obs_dim,) float32, "task": task id}``, as in ``MultiTaskVecEnv``, which runs all tasks faster.
    ``info["task"]`` names the episode's task. Observations of tasks that differ in size are padded with zeros, and
    actions may be.

    A reset selects the next task if the previous episode has had a step. A reset with a seed starts again with the
    first task, and seeds every task as ``MultiTaskVecEnv`` seeds its first copy.

    :param tasks: a set's name, an id, or a list of ids and tasks
    :param task: show only the task of this name; its id in the observation remains its id in the set
    :param render_mode: as in ``gymnasium.make``
    :param time_limits: whether episodes end at the limits of the tasks' ids; ``gymnasium.make`` turns them off, and
        applies its own ``max_episode_steps`` to every episode
    :param flatten: flatten observations that are not a flat Box, see ``FlatObservation``; False refuses them
    :param env_kwargs: arguments of every task's environment, such as ``ctrl_cost_weight=0.5``
    :raises ValueError: on an unknown task, or spaces that are not flat Boxes
    :raises RuntimeError: if a task's environment cannot be made; the message names the task
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["human", "rgb_array", "depth_array", "rgbd_tuple"]}  # type: ignore[misc]

    observation_space: spaces.Dict
    action_space: spaces.Box

    def __init__(
        self,
        tasks: TasksLike,
        task: str | None = None,
        render_mode: str | None = None,
        time_limits: bool = True,
        flatten: bool = True,
        **env_kwargs: Any,
    ) -> None:
        self.tasks = resolve_tasks(tasks)
        self.task_names = tuple(one.name for one in self.tasks)
        if task is not None and task not in self.task_names:
            hint = did_you_mean(str(task), self.task_names)
            raise ValueError(f"`task` must be one of {', '.join(self.task_names)} (got {task!r}).{hint}")
        self.render_mode, self._flatten = render_mode, flatten
        self._env_kwargs = env_kwargs if render_mode is None else {**env_kwargs, "render_mode": render_mode}
        if not time_limits:
            self._env_kwargs = {**self._env_kwargs, "max_episode_steps": -1}  # in gymnasium.make's terms
        self._tour = range(len(self.tasks)) if task is None else [self.task_names.index(task)]
        shown = {i: self._make(self.tasks[i]) for i in self._tour}
        descriptions = {i: Description.of(self.tasks[i], env) for i, env in shown.items()}
        descriptions |= self._describe_hidden(descriptions, are_alike=isinstance(tasks, str))
        self.observation_space, self.action_space = common_spaces(list(descriptions.values()), self.task_names)
        self._envs = {i: self._with_task(self.tasks[i], env) for i, env in shown.items()}
        self.metadata = self._envs[self._tour[0]].metadata  # type: ignore[misc]  # with the frame rate
        self._place = 0  # index of the episode's task among those that are shown
        self._has_stepped = False
        self._seeds: dict[int, int] = {}  # of tasks that have not been reset since the last seed

    def _make(self, task: Task, **overriding: Any) -> gym.Env[Any, Any]:
        env = task.make(**{**self._env_kwargs, **overriding})
        return flat_env(env, task.name) if self._flatten else env

    def _describe_hidden(self, shown: Mapping[int, Description], *, are_alike: bool) -> dict[int, Description]:
        """Describe the tasks that are not shown, whose sizes count too; those of a named set are all alike."""
        hidden = {i: task for i, task in enumerate(self.tasks) if i not in shown}
        if are_alike:
            (known, *_) = shown.values()
            return {i: replace(known, task=task.name) for i, task in hidden.items()}
        described = {}
        for i, task in hidden.items():
            env = self._make(task, render_mode=None)
            described[i] = Description.of(task, env)
            env.close()
        return described

    def _with_task(self, task: Task, env: gym.Env[Any, Any]) -> TaskEnv:
        return TaskEnv(env, task.name, self.tasks, (self.observation_space, self.action_space))

    @property
    def task_id(self) -> int:
        """The task of this episode."""
        return self._tour[self._place]

    @property
    def task_name(self) -> str:
        """The name of this episode's task."""
        return self.task_names[self.task_id]

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[TaskObs, dict[str, Any]]:
        super().reset(seed=seed)
        if seed is not None:
            self._seeds = {i: env_seed(seed, i) for i in self._tour}
            self._go_to(0)
        elif self._has_stepped:
            self._go_to((self._place + 1) % len(self._tour))
        self._has_stepped = False
        obs, info = self._envs[self.task_id].reset(seed=self._seeds.pop(self.task_id, None), options=options)
        return obs, {**info, "task": self.task_name}

    def _go_to(self, place: int) -> None:
        if self.render_mode == "human" and place != self._place:  # one window: its task's environment goes with it
            left = self.task_id
            self._envs[left].close()
            self._envs[left] = self._with_task(self.tasks[left], self._make(self.tasks[left]))
            self._seeds.setdefault(left, int(self.np_random.integers(2**31)))
        self._place = place

    def step(self, action: np.ndarray) -> tuple[TaskObs, Any, bool, bool, dict[str, Any]]:
        self._has_stepped = True
        return self._envs[self.task_id].step(action)

    def render(self) -> Any:
        return self._envs[self.task_id].render()

    def close(self) -> None:
        for env in self._envs.values():
            env.close()
