"""How the environments of a :class:`MultiTaskVecEnv` are run: what they share, and the portable two.

A backend runs all sub-environments, or the contiguous rows of one task, and knows nothing of tasks in
observations, monitoring or float32: ``MultiTaskVecEnv`` adds those once for all backends.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol, TypeAlias

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import SubprocVecEnv

from sb3_multitask.envs.mujoco_messages import mujoco_messages_as_warnings
from sb3_multitask.tasks import Task
from sb3_multitask.vec_env.env_state import StatefulEnv, get_env_state, set_env_state, why_inexact, wrappers_of

Info: TypeAlias = dict[str, Any]
BackendName: TypeAlias = Literal["auto", "batch", "dummy", "subproc"]


@dataclass
class Transitions:
    """One step of some sub-environments, auto-reset as in SB3.

    ``obs`` (n_rows, obs_dim) is the first observation of the next episode where ``dones`` is true;
    ``infos[i]["terminal_observation"]`` (obs_dim,) then holds the last one. ``rewards`` (n_rows,) float64.
    """

    obs: np.ndarray
    rewards: np.ndarray
    dones: np.ndarray
    infos: list[Info]


class Backend(Protocol):
    """Runs the sub-environments. ``rows`` is a contiguous slice: all of them, or those of one task.

    ``n_threads`` is the number of threads in this process that step them.
    """

    n_threads: int

    def reset(self, rows: slice, seeds: Sequence[int | None], options: Sequence[Info]) -> tuple[np.ndarray, list[Info]]:
        """First observations (n_rows, obs_dim) and reset infos."""

    def send(self, rows: slice, actions: np.ndarray) -> None:
        """Start a step with ``actions`` (n_rows, action_dim)."""

    def receive(self, rows: slice) -> Transitions:
        """Finish the step that was sent."""

    def get_attr(self, row: int, name: str) -> Any:
        """Attribute of one sub-environment, wrappers included."""

    def set_attr(self, row: int, name: str, value: Any) -> None:
        """Set an attribute of one sub-environment."""

    def call(self, row: int, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Call a method of one sub-environment."""

    def is_wrapped(self, row: int, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]]) -> bool:
        """Whether one sub-environment is wrapped with a class."""

    def why_inexact(self) -> list[str | None]:
        """For every sub-environment why :meth:`get_state` does not hold all of it; None where it does."""

    def get_state(self) -> list[dict[str, Any]]:
        """State of the sub-environments: dicts, lists, plain values and arrays."""

    def set_state(self, state: list[dict[str, Any]]) -> None:
        """Put back what :meth:`get_state` gave."""

    def close(self) -> None:
        """Release everything."""


def make_quietly(task: Task, render_mode: str | None = None) -> gym.Env[Any, Any]:
    """Make a task's environment without MuJoCo writing to the terminal or to ``MUJOCO_LOG.TXT``."""
    with mujoco_messages_as_warnings():
        return task.make(**({} if render_mode is None else {"render_mode": render_mode}))


def _make_stateful(task: Task, render_mode: str | None) -> StatefulEnv:
    """Make a task's environment for a worker process, which leaves Ctrl-C to the process that it works for."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return StatefulEnv(make_quietly(task, render_mode))


class DummyBackend:
    """All sub-environments one after the other in this process, like SB3's ``DummyVecEnv``."""

    n_threads = 1

    def __init__(self, tasks: Sequence[Task], n_envs_per_task: int, render_mode: str | None) -> None:
        self.envs = [make_quietly(task, render_mode) for task in tasks for _ in range(n_envs_per_task)]
        self.names = [task.name for task in tasks for _ in range(n_envs_per_task)]
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
        results = [
            env.reset(seed=seed, options=option or None)
            for env, seed, option in zip(self.envs[rows], seeds, options, strict=True)
        ]
        return np.stack([obs for obs, _ in results]), [info for _, info in results]

    def send(self, rows: slice, actions: np.ndarray) -> None:  # noqa: ARG002
        self._actions = actions

    def receive(self, rows: slice) -> Transitions:
        assert self._actions is not None
        results = []
        for i, env, action in zip(range(len(self.envs))[rows], self.envs[rows], self._actions, strict=True):
            try:
                results.append(_step_and_reset(env, action))
            except Exception as e:
                e.add_note(f"raised by the environment of task {self.names[i]!r} (sub-environment {i})")
                raise
        obs, rewards, dones, infos = zip(*results, strict=True)
        return Transitions(np.stack(obs), np.array(rewards, dtype=np.float64), np.array(dones), list(infos))

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
        for env in self.envs:
            env.close()


def _step_and_reset(env: gym.Env[Any, Any], action: np.ndarray) -> tuple[np.ndarray, float, bool, Info]:
    obs, reward, terminated, truncated, info = env.step(action)
    info["TimeLimit.truncated"] = truncated and not terminated
    done = bool(terminated or truncated)
    if done:
        info["terminal_observation"] = obs
        obs, _ = env.reset()
    return obs, float(reward), done, info


class SubprocBackend:
    """One process a sub-environment: for environments that cost more than the traffic between processes."""

    n_threads = 1

    def __init__(
        self,
        tasks: Sequence[Task],
        n_envs_per_task: int,
        render_mode: str | None,
        start_method: str | None = None,
    ) -> None:
        # One SubprocVecEnv a task, so that a single task can be stepped.
        self.n_envs_per_task = n_envs_per_task
        self.venvs: list[SubprocVecEnv] = []
        try:
            for task in tasks:
                env_fn = partial(_make_stateful, task, render_mode)
                self.venvs.append(SubprocVecEnv([env_fn] * n_envs_per_task, start_method=start_method))
        except BaseException:
            self.close()
            raise

    def _tasks(self, rows: slice) -> list[SubprocVecEnv]:
        start, stop, _ = rows.indices(len(self.venvs) * self.n_envs_per_task)
        return self.venvs[start // self.n_envs_per_task : stop // self.n_envs_per_task]

    def _locate(self, row: int) -> tuple[SubprocVecEnv, int]:
        task, index = divmod(row, self.n_envs_per_task)
        return self.venvs[task], index

    def reset(self, rows: slice, seeds: Sequence[int | None], options: Sequence[Info]) -> tuple[np.ndarray, list[Info]]:
        n = self.n_envs_per_task
        venvs = self._tasks(rows)
        for i, venv in enumerate(venvs):
            venv._seeds = list(seeds[i * n : (i + 1) * n])
            venv._options = list(options[i * n : (i + 1) * n])
        obs = np.concatenate([venv.reset() for venv in venvs])
        return obs, [info for venv in venvs for info in venv.reset_infos]

    def send(self, rows: slice, actions: np.ndarray) -> None:
        n = self.n_envs_per_task
        for i, venv in enumerate(self._tasks(rows)):
            venv.step_async(actions[i * n : (i + 1) * n])

    def receive(self, rows: slice) -> Transitions:
        obs, rewards, dones, infos = zip(*(venv.step_wait() for venv in self._tasks(rows)), strict=True)
        return Transitions(
            np.concatenate(obs),
            np.concatenate(rewards).astype(np.float64, copy=False),
            np.concatenate(dones),
            [info for task_infos in infos for info in task_infos],
        )

    def get_attr(self, row: int, name: str) -> Any:
        venv, index = self._locate(row)
        return venv.get_attr(name, index)[0]

    def set_attr(self, row: int, name: str, value: Any) -> None:
        venv, index = self._locate(row)
        venv.set_attr(name, value, index)

    def call(self, row: int, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        venv, index = self._locate(row)
        return venv.env_method(name, *args, indices=index, **kwargs)[0]

    def is_wrapped(self, row: int, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]]) -> bool:
        venv, index = self._locate(row)
        return bool(venv.env_is_wrapped(wrapper_class, index)[0])

    def why_inexact(self) -> list[str | None]:
        return [reason for venv in self.venvs for reason in venv.env_method("why_inexact")]

    def get_state(self) -> list[dict[str, Any]]:
        return [state for venv in self.venvs for state in venv.env_method("get_env_state")]

    def set_state(self, state: list[dict[str, Any]]) -> None:
        for row, saved in enumerate(state):
            self.call(row, "set_env_state", (saved,), {})

    def close(self) -> None:
        for venv in self.venvs:
            venv.close()
