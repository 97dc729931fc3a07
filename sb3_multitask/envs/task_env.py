"""One Gymnasium environment that carries its task in the observation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor

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
    """

    task: str
    observation_space: spaces.Space[Any]
    action_space: spaces.Space[Any]
    n_envs: int | None = None
    reward_space: spaces.Space[Any] | None = None
    has_monitor: bool = False
    obeys_seeds: bool = False

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


def observation_dtype(*dtypes: Any) -> np.dtype[Any]:
    """Return float32 if it represents all values of these types exactly, else float64."""
    return np.dtype(np.float32 if all(np.can_cast(dtype, np.float32) for dtype in dtypes) else np.float64)


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
            "gymnasium.wrappers.FlattenObservation flattens most others."
        )
    if not isinstance(env.action_space, spaces.Box) or len(env.action_space.shape) != 1:
        raise ValueError(
            f"Task {env.task!r}: its action space must be a Box of shape (action_dim,), not {env.action_space}: "
            f"this package is for continuous control.{_instead_of(env.action_space)}"
        )
    return env.observation_space, env.action_space


def common_spaces(envs: Sequence[Description]) -> tuple[spaces.Box, spaces.Box]:
    """Return the common spaces of all tasks. SB3 itself looks at the first env only.

    Observations may differ in their bounds (the widest are taken) and their type (float32 if it represents all of them,
    else float64), but not in their shape. Actions must not differ.

    :raises ValueError: if they differ; the message names two tasks and their spaces
    """
    first, *others = envs
    first_obs, first_action = check_spaces(first)
    low, high = first_obs.low.astype(np.float64), first_obs.high.astype(np.float64)  # Box warns of other types
    dtypes = [first_obs.dtype]
    for other in others:
        obs_space, action_space = check_spaces(other)
        if obs_space.shape != first_obs.shape:
            raise _spaces_differ("observation", first.task, first_obs, other.task, obs_space, "the same shape")
        same_bounds = action_space.shape == first_action.shape and (
            np.array_equal(action_space.low, first_action.low) and np.array_equal(action_space.high, first_action.high)
        )
        if not same_bounds:
            raise _spaces_differ(
                "action", first.task, first_action, other.task, action_space, "the same shape and bounds"
            )
        low, high = np.minimum(low, obs_space.low), np.maximum(high, obs_space.high)
        dtypes.append(obs_space.dtype)
    return box_of(low, high, observation_dtype(*dtypes)), first_action


def box_of(low: np.ndarray, high: np.ndarray, dtype: Any) -> spaces.Box:
    """Return a Box of a float type, with bounds rounded to that type."""
    return spaces.Box(low.astype(dtype), high.astype(dtype), dtype=dtype)


def _spaces_differ(
    kind: str, task: str, space: spaces.Box, other: str, other_space: spaces.Box, needed: str
) -> ValueError:
    return ValueError(
        f"Tasks must have {kind} spaces of {needed}: task {task!r} has {space}, task {other!r} has {other_space}."
    )


class TaskEnv(gym.Wrapper[Any, np.ndarray, Any, np.ndarray], gym.utils.RecordConstructorArgs):
    """Write the task into the observation of one environment, as ``MultiTaskVecEnv`` does for many.

    Use it where a single environment is expected, such as in a stock evaluation or a video of one task. The task's name
    is in every step's ``info["task"]``.

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
        box, _ = check_spaces(Description.of(task, env))
        self.task_names = names
        self.task_name = task
        self.task_id = self.task_names.index(task)
        self._dtype = observation_dtype(box.dtype)
        self.observation_space = task_observation_space(box_of(box.low, box.high, self._dtype), len(self.task_names))

    def _with_task(self, obs: np.ndarray) -> TaskObs:
        # a copy, since an environment may write its next observation into the same array
        return {"obs": np.array(obs, dtype=self._dtype), "task": np.int64(self.task_id)}

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[TaskObs, dict[str, Any]]:
        # As in SB3, options are passed on only if there are some: not every environment takes them.
        obs, info = self.env.reset(seed=seed, **({} if options is None else {"options": options}))
        return self._with_task(obs), info

    def step(self, action: np.ndarray) -> tuple[TaskObs, Any, bool, bool, dict[str, Any]]:
        obs, reward, terminated, truncated, info = self.env.step(action)
        return self._with_task(obs), reward, terminated, truncated, {**info, "task": self.task_name}
