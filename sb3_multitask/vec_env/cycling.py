"""The paper's schedule: one task at a time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

from sb3_multitask.envs.task_env import StepReturn, TaskObs


class TaskCyclingVecEnv(VecEnv):
    """Show one task of a multi-task VecEnv at a time; ``num_envs`` is the number of its copies (section 4.3.1).

    ``next_task()`` goes from E1 to E2, ... En and back to E1, and ``next_task(i)`` to any task. Waiting tasks keep
    their state: their episodes continue where they stopped. A multi-task model with ``task_schedule="cycle"``, or a
    schedule that picks the next task, puts this under its normaliser. On this VecEnv, an algorithm of SB3's own would
    bootstrap from the next task's observation.

    It is not a ``VecEnvWrapper``, so that ``sync_envs_normalization`` takes it for the innermost VecEnv, which it
    represents.

    :param venv: a ``MultiTaskVecEnv`` or a ``MultiTaskVecNormalize`` over one
    :raises TypeError: if ``venv`` has no tasks
    :raises ValueError: if tasks have different numbers of copies, since rollouts have as many rows for every task
    """

    def __init__(self, venv: Any) -> None:
        if not hasattr(type(venv), "task_view"):  # on the class, since wrappers forward attributes of the VecEnv inside
            raise TypeError(
                "TaskCyclingVecEnv needs a MultiTaskVecEnv, or a MultiTaskVecNormalize over one, without other "
                f"wrappers (got {venv!r}). Make one with sb3_multitask.make_multitask_vec_env(tasks)."
            )
        self.venv = venv
        self.n_tasks: int = venv.n_tasks
        self.task_names: tuple[str, ...] = venv.task_names
        if not venv.copies.are_equal:
            raise ValueError(
                "One task at a time needs as many copies of every task, since SB3's rollouts have as many rows "
                f'(`n_envs_per_task` is {venv.n_envs_per_task!r}): give one number, or take task_schedule="joint"'
            )
        self.copies = venv.copies
        self.n_envs_per_task: int = venv.n_envs_per_task
        self._views = [venv.task_view(i) for i in range(self.n_tasks)]
        self._task_ids = list(np.repeat(np.arange(self.n_tasks), self.n_envs_per_task).reshape(self.n_tasks, -1))
        self.active_task = 0
        self.first_task = 0
        """The task that ``reset`` shows."""
        self._last_obs: list[TaskObs | None] = [None] * self.n_tasks
        self._episode_starts = np.ones((self.n_tasks, self.n_envs_per_task), dtype=bool)
        self._visited = np.zeros(self.n_tasks, dtype=bool)
        self.first_visit = False
        super().__init__(self.n_envs_per_task, venv.observation_space, venv.action_space)

    @property
    def tasks(self) -> Any:
        """The tasks, in order."""
        return self.venv.tasks

    @property
    def task_ids(self) -> np.ndarray:
        """Task of every row, (num_envs,): the active one."""
        return self._task_ids[self.active_task]

    @property
    def reset_task_ids(self) -> np.ndarray:
        """The tasks that ``reset`` resets, which are all."""
        return np.arange(self.n_tasks)

    @property
    def episode_starts(self) -> np.ndarray:
        """Whether the active task's last observations begin an episode, (num_envs,) bool."""
        starts: np.ndarray = self._episode_starts[self.active_task].copy()
        return starts

    @property
    def reset_infos(self) -> list[dict[str, Any]]:
        """Infos of the active task's latest reset."""
        infos: list[dict[str, Any]] = self._view.reset_infos
        return infos

    @reset_infos.setter
    def reset_infos(self, infos: list[dict[str, Any]]) -> None:
        """Ignored: the view owns ``reset_infos``; SB3's constructor assigns a list that is not needed."""

    @property
    def _view(self) -> VecEnv:
        view: VecEnv = self._views[self.active_task]
        return view

    def task_view(self, task_id: int) -> VecEnv:
        """Return a VecEnv over the sub-environments of one task, active or not."""
        view: VecEnv = self.venv.task_view(task_id)
        return view

    def next_task(self, task: int | None = None) -> TaskObs:
        """Make another task the active one and return its last observations.

        ``first_visit`` is then true if these have not been returned since the reset.

        :param task: its index, that of the active task included; ``None``: the one after the active task, in turn
        :raises IndexError: if there is no such task
        :raises RuntimeError: before the first ``reset``
        """
        if task is None:
            task = (self.active_task + 1) % self.n_tasks
        elif not 0 <= task < self.n_tasks:
            raise IndexError(f"`task` must be from 0 to {self.n_tasks - 1} (got {task})")
        obs = self._last_obs[task]
        if obs is None:
            raise RuntimeError("Call reset() before next_task()")
        self.active_task = task
        self.first_visit, self._visited[task] = not self._visited[task], True
        return {key: value.copy() for key, value in obs.items()}

    def to_whole_cycles(self, n_rollouts: int) -> int:
        """Return the least number of rollouts, at least ``n_rollouts``, that completes a cycle of the tasks."""
        return n_rollouts + -(self.active_task + n_rollouts) % self.n_tasks

    def reset(self) -> TaskObs:
        """Reset every task; ``first_task`` is then active."""
        self._last_obs = [view.reset() for view in self._views]
        self._episode_starts[:] = True
        self._visited[:] = False
        return self.next_task(self.first_task)

    def get_state(self) -> dict[str, Any]:
        """Return the active task and the last observations of the others, without the environments' own states."""
        return {
            "active_task": self.active_task,
            "first_visit": bool(self.first_visit),
            "last_obs": [None if obs is None else dict(obs) for obs in self._last_obs],
            "episode_starts": self._episode_starts.copy(),
            "visited": self._visited.copy(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore a state that :meth:`get_state` returned."""
        self.active_task, self.first_visit = state["active_task"], state["first_visit"]
        self._last_obs = list(state["last_obs"])
        self._episode_starts[...], self._visited[...] = state["episode_starts"], state["visited"]

    def step_async(self, actions: np.ndarray) -> None:
        self._view.step_async(actions)

    def step_wait(self) -> StepReturn:
        stepped: StepReturn = self._view.step_wait()  # type: ignore[assignment]
        obs, _, dones, _ = stepped
        # a copy, since the caller may write into what it is given
        self._last_obs[self.active_task] = {"obs": obs["obs"].copy(), "task": self.task_ids}
        self._episode_starts[self.active_task] = dones
        return stepped

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed every sub-environment of every task."""
        seeds: Sequence[int | None] = self.venv.seed(seed)
        return seeds

    def set_options(self, options: list[dict[str, Any]] | dict[str, Any] | None = None) -> None:
        self.venv.set_options(options)

    def close(self) -> None:
        self.venv.close()

    @property
    def unwrapped(self) -> VecEnv:
        unwrapped: VecEnv = self.venv.unwrapped
        return unwrapped

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        return self._view.get_attr(attr_name, indices)

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        self._view.set_attr(attr_name, value, indices)

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        return self._view.env_method(method_name, *args, indices=indices, **kwargs)

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        return self._view.env_is_wrapped(wrapper_class, indices)

    def get_images(self) -> Sequence[np.ndarray | None]:
        return self._view.get_images()
