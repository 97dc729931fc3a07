"""The sub-environments of one task, as a VecEnv."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

from sb3_multitask.envs.task_env import StepReturn, TaskObs

if TYPE_CHECKING:
    from sb3_multitask.vec_env.multitask_vec_env import MultiTaskVecEnv


class TaskView(VecEnv):
    """The sub-environments of one task of a :class:`MultiTaskVecEnv`; ``num_envs = n_envs_per_task``.

    Its observations carry the task like those of the whole. Made by ``task_view``; closing it does nothing.
    """

    def __init__(self, venv: MultiTaskVecEnv, task_id: int) -> None:
        if not 0 <= task_id < venv.n_tasks:
            raise IndexError(f"`task_id` must be between 0 and {venv.n_tasks - 1} (got {task_id})")
        self.venv = venv
        self.task_id = task_id
        self.task_names = venv.task_names
        self.n_tasks = venv.n_tasks
        self.n_envs_per_task = venv.n_envs_per_task
        self._rows = venv.rows(task_id)
        self.task_ids = venv.task_ids[self._rows]
        super().__init__(venv.n_envs_per_task, venv.observation_space, venv.action_space)

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed the sub-environments of this task as the whole would; the others keep theirs."""
        kept = list(self.venv._seeds)
        self._seeds = list(self.venv.seed(seed)[self._rows])
        self.venv._seeds[:] = kept
        self.venv._seeds[self._rows] = self._seeds
        return self._seeds

    def set_options(self, options: list[dict[str, Any]] | dict[str, Any] | None = None) -> None:
        super().set_options(options)
        self.venv._options[self._rows] = self._options

    def reset(self) -> TaskObs:
        obs = self.venv.reset_rows(self._rows)
        self.reset_infos = self.venv.reset_infos[self._rows]
        return obs

    def step_async(self, actions: np.ndarray) -> None:
        self.venv.send_rows(self._rows, actions)

    def step_wait(self) -> StepReturn:
        return self.venv.receive_rows(self._rows)

    def close(self) -> None:
        """Do nothing: the environments belong to the whole."""

    def _global(self, indices: VecEnvIndices) -> list[int]:
        return [self._rows.start + i for i in self._get_indices(indices)]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        return self.venv.get_attr(attr_name, self._global(indices))

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        self.venv.set_attr(attr_name, value, self._global(indices))

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        return self.venv.env_method(method_name, *args, indices=self._global(indices), **kwargs)

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        return self.venv.env_is_wrapped(wrapper_class, self._global(indices))

    def get_images(self) -> Sequence[np.ndarray | None]:
        return self.env_method("render")
