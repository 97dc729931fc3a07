"""Backends run the environments of a :class:`MultiTaskVecEnv`: their common parts, and the simplest one.

A backend runs all sub-environments, or the contiguous rows of one task, and knows nothing of tasks in
observations, monitoring or float32: ``MultiTaskVecEnv`` adds those once for all backends.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, TypeAlias

import gymnasium as gym
import numpy as np

from sb3_multitask.envs.task_space import padded
from sb3_multitask.tasks import Task
from sb3_multitask.vec_env.env_state import get_env_state, set_env_state, why_inexact
from sb3_multitask.vec_env.faults import physics_fault
from sb3_multitask.vec_env.infos import StepInfos
from sb3_multitask.vec_env.success import NOT_SAID, joined_success, success_of
from sb3_multitask.vec_env.wrappers import wrappers_of

Info: TypeAlias = dict[str, Any]
_PHYSICS_FAULT = "sb3_multitask/physics_fault"  # a key that no environment has
BackendName: TypeAlias = Literal["auto", "batch", "dummy", "subproc", "ray"]
EnvStep: TypeAlias = tuple[np.ndarray, float, bool, Info, int]
"""The step of one sub-environment: observation, reward, whether its episode ended, info, and success (-1, 0 or 1)."""


@dataclass
class Transitions:
    """The result of one step of some sub-environments, with automatic resets as in SB3.

    ``obs`` (n_rows, obs_dim), as wide as the widest of the rows, is the first observation of the next episode where
    ``dones`` is true; ``infos[i]["terminal_observation"]`` (obs_dim,) then holds the last one, padded or not.
    ``rewards`` (n_rows,) float64.
    ``faults``: row -> failure of its simulation, which must be reset; the row's other entries are meaningless.
    ``success`` (n_rows,) int8: what the steps say of it (:mod:`~sb3_multitask.vec_env.success`); None: nothing.
    """

    obs: np.ndarray
    rewards: np.ndarray
    dones: np.ndarray
    infos: StepInfos
    faults: dict[int, str] = field(default_factory=dict)
    success: np.ndarray | None = None

    @property
    def ended(self) -> list[int]:
        """The rows whose episode ended, ascending."""
        return self.infos.ended


class Backend(Protocol):
    """Runs the sub-environments. ``rows`` is a contiguous slice: all of them, or those of one task.

    ``n_threads`` is the number of threads in this process that step them.
    """

    n_threads: int

    def reset(self, rows: slice, seeds: Sequence[int | None], options: Sequence[Info]) -> tuple[np.ndarray, list[Info]]:
        """Return first observations (n_rows, obs_dim), as wide as the widest of the rows, and reset infos."""

    def reset_row(self, row: int) -> np.ndarray:
        """Start a new episode in one sub-environment, by its own generator; return the first observation (obs_dim,)."""

    def send(self, rows: slice, actions: np.ndarray) -> None:
        """Start a step with ``actions`` (n_rows, action_dim), padded for narrower tasks."""

    def receive(self, rows: slice) -> Transitions:
        """Finish the step that was sent."""

    def get_attr(self, row: int, name: str) -> Any:
        """Return an attribute of one sub-environment, wrappers included."""

    def set_attr(self, row: int, name: str, value: Any) -> None:
        """Set an attribute of one sub-environment."""

    def call(self, row: int, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a method of one sub-environment."""

    def is_wrapped(self, row: int, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]]) -> bool:
        """Return whether one sub-environment is wrapped with a class."""

    def why_inexact(self) -> list[str | None]:
        """Return, for every sub-environment, why :meth:`get_state` is incomplete; None where it is complete."""

    def get_state(self) -> list[dict[str, Any]]:
        """Return the state of the sub-environments: dicts, lists, plain values and arrays."""

    def set_state(self, state: list[dict[str, Any]]) -> None:
        """Restore a state that :meth:`get_state` returned."""

    def close(self) -> None:
        """Release everything."""


class DummyBackend:
    """All sub-environments one after the other in this process, like SB3's ``DummyVecEnv``.

    :param tasks: in order
    :param envs: the copies of each task
    """

    n_threads = 1

    def __init__(self, tasks: Sequence[Task], envs: Sequence[Sequence[gym.Env[Any, Any]]]) -> None:
        self.envs = [env for copies in envs for env in copies]
        self.names = [task.name for task, copies in zip(tasks, envs, strict=True) for _ in copies]
        seen: set[int] = set()
        for name, env in zip(self.names, self.envs, strict=True):
            if id(env.unwrapped) in seen:
                raise ValueError(
                    f"Task {name!r}: its factory returned an environment that is in use already; "
                    "it must make a new one at every call."
                )
            seen.add(id(env.unwrapped))
        self._actions: np.ndarray | None = None

    def reset(self, rows: slice, seeds: Sequence[int | None], options: Sequence[Info]) -> tuple[np.ndarray, list[Info]]:
        results = []
        for row, seed, option in zip(range(len(self.envs))[rows], seeds, options, strict=True):
            with self._naming(row):
                results.append(reset_env(self.envs[row], seed, option))
        return stacked([obs for obs, _ in results]), [info for _, info in results]

    def reset_row(self, row: int) -> np.ndarray:
        with self._naming(row):
            return reset_env(self.envs[row])[0]

    def send(self, rows: slice, actions: np.ndarray) -> None:  # noqa: ARG002
        self._actions = actions.copy()  # a copy: environments may keep it, or write into it

    def receive(self, rows: slice) -> Transitions:
        assert self._actions is not None
        results = []
        for i, env, action in zip(range(len(self.envs))[rows], self.envs[rows], self._actions, strict=True):
            with self._naming(i):
                results.append(step_and_reset(env, action))
        return joined(results)

    def get_attr(self, row: int, name: str) -> Any:
        return self.envs[row].get_wrapper_attr(name)

    def set_attr(self, row: int, name: str, value: Any) -> None:
        self.envs[row].set_wrapper_attr(name, value)

    def call(self, row: int, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        return self.get_attr(row, name)(*args, **kwargs)

    def is_wrapped(self, row: int, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]]) -> bool:
        return any(isinstance(wrapper, wrapper_class) for wrapper in wrappers_of(self.envs[row]))

    def why_inexact(self) -> list[str | None]:
        return [why_inexact(env) for env in self.envs]

    def get_state(self) -> list[dict[str, Any]]:
        return [get_env_state(env) for env in self.envs]

    def set_state(self, state: list[dict[str, Any]]) -> None:
        for env, saved in zip(self.envs, state, strict=True):
            set_env_state(env, saved)

    def close(self) -> None:
        with ExitStack() as stack:  # close all, even if one raises
            for row, env in reversed(list(enumerate(self.envs))):
                stack.enter_context(self._naming(row))
                stack.callback(env.close)

    @contextmanager
    def _naming(self, row: int) -> Iterator[None]:
        """Add task and index of the sub-environment to its error."""
        try:
            yield
        except Exception as e:
            e.add_note(f"raised by the environment of task {self.names[row]!r} (sub-environment {row})")
            raise


def joined(results: Sequence[EnvStep]) -> Transitions:
    """Join the steps of single sub-environments."""
    obs, rewards, dones, infos, success = zip(*results, strict=True)
    return Transitions(
        stacked(obs),
        np.array(rewards, dtype=np.float64),
        np.array(dones),
        StepInfos(infos, [i for i, done in enumerate(dones) if done]),
        {i: info.pop(_PHYSICS_FAULT) for i, info in enumerate(infos) if _PHYSICS_FAULT in info},
        joined_success(success),
    )


def stacked(observations: Sequence[np.ndarray]) -> np.ndarray:
    """Stack observations (obs_dim,), padded to the widest."""
    width = max(map(len, observations))
    return np.stack([padded(obs, width) for obs in observations])


def step_env(env: gym.Env[Any, Any], action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, Info]:
    """Take a step with an action, which may be padded.

    A failed simulation does not end its episode here; its info marks the failure.

    Returned values are copies, since environments may reuse their arrays and dicts.

    :raises ValueError: if the observation has another shape than its space, since it could be broadcast silently, or
        if the reward is not one number
    """
    obs, reward, terminated, truncated, info = env.step(action[: env.action_space.shape[0]])  # type: ignore[index]
    obs, reward, info = _checked(obs, env), _checked_reward(reward), own_copy(info)
    fault = physics_fault(env)
    if fault is None:
        return obs, reward, terminated, truncated, info
    return obs, reward, False, False, {**info, _PHYSICS_FAULT: fault}


def reset_env(
    env: gym.Env[Any, Any], seed: int | None = None, options: Mapping[str, Any] | None = None
) -> tuple[np.ndarray, Info]:
    """Reset an environment; as in SB3, pass ``options`` only if there are some: not every environment takes them.

    :raises ValueError: if the observation has another shape than its space
    """
    obs, info = env.reset(seed=seed, **({"options": dict(options)} if options else {}))
    return _checked(obs, env), own_copy(info)


def own_copy(value: Any) -> Any:
    """Return a copy of an info: dicts, lists and arrays are copied, other objects are shared."""
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, dict):
        return {key: own_copy(item) for key, item in value.items()}
    if type(value) in (list, tuple):
        return type(value)(own_copy(item) for item in value)
    return value


def _checked(obs: Any, env: gym.Env[Any, Any]) -> np.ndarray:
    array = np.array(obs)
    if array.shape != env.observation_space.shape or array.dtype.hasobject:
        raise ValueError(f"the observation {obs!r:.200} is none of the environment's {env.observation_space}")
    return array


def _checked_reward(reward: Any) -> float:
    if isinstance(reward, float | int):
        return float(reward)
    value = np.asarray(reward)
    if value.size != 1 or value.dtype.kind not in "fiub":
        raise ValueError(
            f"the reward must be one number (got {reward!r:.200}); a wrapper of the environment can weigh several"
        )
    return float(value.item())


def step_and_reset(env: gym.Env[Any, Any], action: np.ndarray) -> EnvStep:
    obs, reward, terminated, truncated, info = step_env(env, action)
    success = NOT_SAID if _PHYSICS_FAULT in info else success_of(info)
    info["TimeLimit.truncated"] = bool(truncated and not terminated)
    done = bool(terminated or truncated)
    if done:
        info["terminal_observation"] = obs
        obs, _ = reset_env(env)
    return obs, reward, done, info, success
