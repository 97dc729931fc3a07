"""One Gymnasium environment that carries its task in the observation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor

from sb3_multitask.envs.flat_layout import why_not_flattened
from sb3_multitask.envs.flattening import check_layouts, flat_env, layout_of
from sb3_multitask.envs.observations import observation_dtype
from sb3_multitask.envs.task_space import TaskSizes, TaskSpace, padded
from sb3_multitask.tasks import Task, task_set

TaskObs = dict[str, Any]
StepReturn = tuple[TaskObs, np.ndarray, np.ndarray, list[dict[str, Any]]]
"""Return value of `step_wait` of a VecEnv of tasks."""


@dataclass(frozen=True)
class Description:
    """The facts that a VecEnv needs about an environment; they can be sent between processes.

    :param task: name of its task
    :param n_envs: number of environments that a vectorised one steps at once; ``None`` for a single one
    :param reward_space: space of the rewards of an environment with several objectives
    :param has_monitor: whether an SB3 ``Monitor`` is among its wrappers
    :param obeys_seeds: whether it comes with Gymnasium or this package, whose resets are known to obey their seed
    :param layout: how its observations are flattened; ``None`` if they are not
    """

    task: str
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    n_envs: int | None = None
    reward_space: spaces.Space[Any] | None = None
    has_monitor: bool = False
    obeys_seeds: bool = False
    layout: str | None = None

    @classmethod
    def of(cls, task: Task | str, env: gym.Env[Any, Any]) -> Self:
        core = env.unwrapped
        has_monitor, weighs, layer = False, False, env
        while isinstance(layer, gym.Wrapper):
            has_monitor = has_monitor or isinstance(layer, Monitor)
            weighs = weighs or _may_combine_rewards(layer)
            layer = layer.env
        space = getattr(env, "reward_space", None) or (None if weighs else getattr(core, "reward_space", None))
        return cls(
            task.name if isinstance(task, Task) else task,
            env.observation_space,
            env.action_space,
            _n_envs(core),
            space if isinstance(space, spaces.Space) else None,
            has_monitor,
            type(core).__module__.startswith(("gymnasium.envs.", "sb3_multitask.")),
            layout_of(env),
        )


def _may_combine_rewards(wrapper: gym.Wrapper[Any, Any, Any, Any]) -> bool:
    """Return whether a wrapper may combine several rewards into one, as ``mo_gymnasium.wrappers.LinearReward`` does.

    Such a wrapper need not declare a reward space. If it does not combine the rewards, the first step raises.
    """
    kind = type(wrapper)
    if isinstance(wrapper, gym.RewardWrapper):
        return not kind.__module__.startswith("mo_gymnasium.")  # mo_gymnasium's other wrappers keep the vector
    own_step = next(base for base in kind.__mro__ if "step" in vars(base))
    library = own_step.__module__.startswith(("gymnasium.", "stable_baselines3.", "rl_zoo3."))
    return not library and not (own_step.__module__.startswith("mo_gymnasium.") and own_step.__name__.startswith("MO"))


def _n_envs(env: Any) -> int | None:
    """Return the number of environments of a vectorised one: a VectorEnv of Gymnasium or a pool of EnvPool."""
    is_pool = callable(getattr(env, "send", None)) and callable(getattr(env, "recv", None))
    config = getattr(env, "config", None) if is_pool else None  # other environments may have a config of their own
    n_envs = getattr(env, "num_envs", config.get("num_envs") if isinstance(config, Mapping) else None)
    return int(n_envs) if isinstance(n_envs, int | np.integer) else None


def task_observation_space(box: spaces.Box, n_tasks: int) -> spaces.Dict:
    """Return ``Dict(obs=Box(obs_dim,), task=Discrete(n_tasks))``, the space that every part of the package reads."""
    return spaces.Dict({"obs": box, "task": spaces.Discrete(n_tasks)})


def _instead_of(action_space: spaces.Space[Any]) -> str:
    """Name what trains on actions that this package does not take."""
    if isinstance(action_space, spaces.Discrete):
        return " Train on it with stable_baselines3.PPO, A2C or DQN, a model for each task."
    if isinstance(action_space, spaces.MultiDiscrete | spaces.MultiBinary):
        return " Train on it with stable_baselines3.PPO or A2C, a model for each task."
    if isinstance(action_space, spaces.Box):
        return " A wrapper of the environment, such as gymnasium.wrappers.TransformAction, can flatten it."
    return ""


def check_spaces(env: Description) -> tuple[spaces.Box, spaces.Box]:
    """Return the observation and action space of a task's environment, if this package can train on them.

    :raises ValueError: if either is not a flat Box, or if it is a vectorised environment or has several rewards; the
        message names the task and the remedy
    """
    if env.n_envs is not None:
        raise ValueError(
            f"Task {env.task!r}: its environment is vectorised (num_envs={env.n_envs}). A task is one environment: "
            "pass a single one, and `n_envs_per_task` for how many copies of it to run."
        )
    if env.reward_space is not None and env.reward_space.shape not in ((), (1,)):
        raise ValueError(
            f"Task {env.task!r}: its reward is a vector of shape {env.reward_space.shape}, one number for each "
            "objective. Wrap it with what weighs them into one, such as mo_gymnasium.wrappers.LinearReward."
        )
    if not isinstance(env.observation_space, spaces.Box) or len(env.observation_space.shape) != 1:
        raise ValueError(
            f"Task {env.task!r}: its observation space must be a Box of shape (obs_dim,), not {env.observation_space}. "
            f"{why_not_flattened(env.observation_space) or 'flatten=True makes one of it.'}"
        )
    if not isinstance(env.action_space, spaces.Box) or len(env.action_space.shape) != 1:
        raise ValueError(
            f"Task {env.task!r}: its action space must be a Box of shape (action_dim,), not {env.action_space}: "
            f"this package is for continuous control.{_instead_of(env.action_space)}"
        )
    return env.observation_space, env.action_space


def common_spaces(envs: Sequence[Description], task_names: Sequence[str]) -> tuple[spaces.Dict, spaces.Box]:
    """Return the spaces of all tasks together, ``Dict(obs, task)`` and a Box. SB3 itself looks at the first env only.

    Both are as wide as the widest task's, with the widest bounds. Observations have one type: float32 if it represents
    all of them, else float64. If tasks differ in size or in the bounds of their actions, ``task`` is a
    :class:`TaskSpace`, which says how.

    :param envs: environments of all tasks, at least one of each
    :param task_names: all tasks, in order
    :raises ValueError: if copies of a task differ in size or in their actions, or a space is not a flat Box
    """
    of_tasks: dict[str, list[tuple[spaces.Box, spaces.Box]]] = {name: [] for name in task_names}
    for env in envs:
        of_tasks[env.task].append(check_spaces(env))
    for name, (first, *others) in of_tasks.items():
        for other in others:
            _check_same(name, first, other)
    obs_spaces = [obs for copies in of_tasks.values() for obs, _ in copies]
    actions = [copies[0][1] for copies in of_tasks.values()]
    obs_dims = [copies[0][0].shape[0] for copies in of_tasks.values()]
    low, high = _widest(obs_spaces, np.float64)  # Box warns of other types
    box = box_of(low, high, observation_dtype(*(space.dtype for space in obs_spaces)))
    if len(set(obs_dims)) == 1 and all(_same_bounds(actions[0], action) for action in actions):
        return task_observation_space(box, len(task_names)), actions[0]
    task = TaskSpace(obs_dims, [(action.low.tolist(), action.high.tolist()) for action in actions])
    low, high = _widest(actions, np.float64)
    return spaces.Dict({"obs": box, "task": task}), box_of(low, high, np.float32)


def _widest(boxes: Sequence[spaces.Box], dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """The widest bounds of boxes of any sizes; 0, the padding, is within those that not all have."""
    width = max(box.shape[0] for box in boxes)
    low, high = np.zeros((2, len(boxes), width), dtype)
    for i, box in enumerate(boxes):
        low[i, : len(box.low)], high[i, : len(box.high)] = box.low, box.high
    return low.min(axis=0), high.max(axis=0)


def _same_bounds(first: spaces.Box, other: spaces.Box) -> bool:
    return np.array_equal(first.low, other.low) and np.array_equal(first.high, other.high)


def _check_same(task: str, first: tuple[spaces.Box, spaces.Box], other: tuple[spaces.Box, spaces.Box]) -> None:
    """Raise if copies of a task differ in the size of their observations, or in their actions."""
    (obs, action), (other_obs, other_action) = first, other
    if obs.shape != other_obs.shape:
        kind, spaces_of, needed = "observation", (obs, other_obs), "the same shape"
    elif not _same_bounds(action, other_action):
        kind, spaces_of, needed = "action", (action, other_action), "the same shape and bounds"
    else:
        return
    raise ValueError(
        f"Copies of a task must have {kind} spaces of {needed}: task {task!r} has {spaces_of[0]} and {spaces_of[1]}. "
        "Environments of different sizes are different tasks."
    )


def box_of(low: np.ndarray, high: np.ndarray, dtype: Any) -> spaces.Box:
    """Return a Box of a float type, with bounds rounded to that type."""
    return spaces.Box(low.astype(dtype), high.astype(dtype), dtype=dtype)


class TaskEnv(gym.Wrapper[Any, np.ndarray, Any, np.ndarray], gym.utils.RecordConstructorArgs):
    """Write the task into the observation of one environment, as ``MultiTaskVecEnv`` does for many.

    Use it where a single environment is expected, such as in a stock evaluation or a video of one task. The task's name
    is in every step's ``info["task"]``.

    :param env: the task's environment
    :param task: name of the task
    :param tasks: all tasks of the agent, in the agent's order: names, tasks, or a set's name
    :param sizes_of: spaces of a VecEnv or a model of tasks that differ in size, as ``(observation_space,
        action_space)``: observations are then padded as theirs, and actions may be. Without them the environment keeps
        its own size
    :param flatten: flatten observations that are not a flat Box, see ``FlatObservation``; False refuses them
    :raises ValueError: if ``task`` is not one of ``tasks``, if observations cannot be flattened or actions are not a
        flat Box, or if they are not of the size that ``sizes_of`` has for the task
    """

    def __init__(
        self,
        env: gym.Env[Any, np.ndarray],
        task: str,
        tasks: str | Sequence[str | Task],
        sizes_of: tuple[spaces.Dict, spaces.Box] | None = None,
        flatten: bool = True,
    ) -> None:
        gym.utils.RecordConstructorArgs.__init__(self, task=task, tasks=tasks, sizes_of=sizes_of, flatten=flatten)
        gym.Wrapper.__init__(self, flat_env(env, task) if flatten else env)
        if isinstance(tasks, str):
            tasks = task_set(tasks) or [tasks]
        names = tuple(one.name if isinstance(one, Task) else one for one in tasks)
        if task not in names:
            raise ValueError(f"`task` must be one of {', '.join(names)} (got {task!r})")
        description = Description.of(task, self.env)
        box, action = check_spaces(description)
        check_layouts({} if description.layout is None else {task: description.layout}, flatten)
        self.task_names = names
        self.task_name = task
        self.task_id = self.task_names.index(task)
        self._dtype = observation_dtype(box.dtype)
        self.observation_space = task_observation_space(box_of(box.low, box.high, self._dtype), len(self.task_names))
        self._width, self._action_dim = box.shape[0], action.shape[0]
        if sizes_of is not None:
            self.observation_space, self.action_space = sizes_of
            sizes = TaskSizes.of(*sizes_of)
            self._check_fits(sizes, box, action)
            self._dtype, self._width = np.dtype(sizes_of[0]["obs"].dtype), sizes.obs_dim

    def _check_fits(self, sizes: TaskSizes, box: spaces.Box, action: spaces.Box) -> None:
        """Raise ValueError if the environment has other sizes than its task in those of all tasks."""
        wanted = sizes.obs_dims[self.task_id], sizes.action_dims[self.task_id]
        if (box.shape[0], action.shape[0]) != wanted:
            raise ValueError(
                f"Task {self.task_name!r} has {wanted[0]} numbers in an observation and {wanted[1]} in an action by "
                f"`sizes_of` (got an environment with {box.shape[0]} and {action.shape[0]})"
            )

    def _with_task(self, obs: np.ndarray) -> TaskObs:
        # a copy, since an environment may write its next observation into the same array
        return {"obs": padded(np.array(obs, dtype=self._dtype), self._width), "task": np.int64(self.task_id)}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[TaskObs, dict[str, Any]]:
        # As in SB3, options are passed on only if there are some: not every environment takes them.
        obs, info = self.env.reset(seed=seed, **({} if options is None else {"options": options}))
        return self._with_task(obs), info

    def step(self, action: np.ndarray) -> tuple[TaskObs, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(np.asarray(action)[: self._action_dim])
        return self._with_task(obs), reward, terminated, truncated, {**info, "task": self.task_name}
