"""One Gymnasium environment that carries its task in the observation."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_multitask.tasks import Task, task_set

TaskObs = dict[str, Any]
StepReturn = tuple[TaskObs, np.ndarray, np.ndarray, list[dict[str, Any]]]
"""What `step_wait` of a VecEnv of tasks gives."""


def task_observation_space(box: spaces.Box, n_tasks: int) -> spaces.Dict:
    """``Dict(obs=Box(obs_dim,) float32, task=Discrete(n_tasks))``, what every part of the package reads."""
    obs = spaces.Box(box.low.astype(np.float32), box.high.astype(np.float32), dtype=np.float32)
    return spaces.Dict({"obs": obs, "task": spaces.Discrete(n_tasks)})


def check_spaces(task: Task | str, env: gym.Env[Any, Any]) -> tuple[spaces.Box, spaces.Box]:
    """Observation and action space of a task's environment, if they are ones this package can train on.

    :raises ValueError: if either is not a flat Box; the message names the task and the remedy
    """
    name = task.name if isinstance(task, Task) else task
    observation_space, action_space = env.observation_space, env.action_space
    if not isinstance(observation_space, spaces.Box) or len(observation_space.shape) != 1:
        raise ValueError(
            f"Task {name!r}: its observation space must be a Box of shape (obs_dim,), not {observation_space}. "
            "gymnasium.wrappers.FlattenObservation flattens most others."
        )
    if not isinstance(action_space, spaces.Box) or len(action_space.shape) != 1:
        raise ValueError(
            f"Task {name!r}: its action space must be a Box of shape (action_dim,), not {action_space}: "
            "this package is for continuous control."
        )
    return observation_space, action_space


def common_spaces(envs: Iterable[tuple[Task, gym.Env[Any, Any]]]) -> tuple[spaces.Box, spaces.Box]:
    """The spaces of all tasks, compared, since SB3 looks at the first env only.

    Observations may differ in their bounds (the widest are taken) but not in their shape; actions in neither.

    :raises ValueError: if they differ; names two tasks and their spaces
    """
    (first, env), *others = envs
    first_obs, first_action = check_spaces(first, env)
    low, high = first_obs.low.astype(np.float64), first_obs.high.astype(np.float64)  # Box warns of other types
    for task, other in others:
        obs_space, action_space = check_spaces(task, other)
        if obs_space.shape != first_obs.shape:
            raise _spaces_differ("observation", first, first_obs, task, obs_space, "the same shape")
        same_bounds = action_space.shape == first_action.shape and (
            np.array_equal(action_space.low, first_action.low) and np.array_equal(action_space.high, first_action.high)
        )
        if not same_bounds:
            raise _spaces_differ("action", first, first_action, task, action_space, "the same shape and bounds")
        low, high = np.minimum(low, obs_space.low), np.maximum(high, obs_space.high)
    return spaces.Box(low, high, dtype=np.float64), first_action


def _spaces_differ(
    kind: str, task: Task, space: spaces.Box, other: Task, other_space: spaces.Box, needed: str
) -> ValueError:
    return ValueError(
        f"Tasks must have {kind} spaces of {needed}: task {task.name!r} has {space}, "
        f"task {other.name!r} has {other_space}."
    )


class TaskEnv(gym.Wrapper[Any, np.ndarray, Any, np.ndarray], gym.utils.RecordConstructorArgs):
    """Write the task into the observation of one environment, as ``MultiTaskVecEnv`` does for many.

    Use it where a single environment is asked for, such as a stock evaluation or a video of one task. The name is
    in every step's ``info["task"]``.

    :param env: the task's environment, with a flat Box observation
    :param task: name of the task
    :param tasks: all tasks of the agent, in the agent's order: names, tasks, or a set's name
    :raises ValueError: if ``task`` is not one of ``tasks``, or if the spaces are not flat Boxes
    """

    def __init__(self, env: gym.Env[np.ndarray, np.ndarray], task: str, tasks: str | Sequence[str | Task]) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, task=task, tasks=tasks)
        gym.Wrapper.__init__(self, env)
        if isinstance(tasks, str):
            tasks = task_set(tasks) or [tasks]
        names = tuple(one.name if isinstance(one, Task) else one for one in tasks)
        if task not in names:
            raise ValueError(f"`task` must be one of {', '.join(names)} (got {task!r})")
        box, _ = check_spaces(task, env)
        self.task_names = names
        self.task_name = task
        self.task_id = self.task_names.index(task)
        self.observation_space = task_observation_space(box, len(self.task_names))

    def _with_task(self, obs: np.ndarray) -> TaskObs:
        return {"obs": np.asarray(obs, dtype=np.float32), "task": np.int64(self.task_id)}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[TaskObs, dict[str, Any]]:
        obs, info = self.env.reset(seed=seed, options=options)
        return self._with_task(obs), info

    def step(self, action: np.ndarray) -> tuple[TaskObs, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._with_task(obs), reward, terminated, truncated, {**info, "task": self.task_name}
