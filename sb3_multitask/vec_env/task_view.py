"""VecEnvs over the sub-environments of all tasks or of one task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

from sb3_multitask.envs.task_env import StepReturn, TaskObs
from sb3_multitask.vec_env.sub_envs import SubEnvs


class SubEnvsView(VecEnv):
    """A VecEnv over some rows of sub-environments.

    :param sub_envs: all sub-environments
    :param rows: the rows that this VecEnv steps
    """

    observation_space: spaces.Dict
    action_space: spaces.Box

    def __init__(self, sub_envs: SubEnvs, rows: slice) -> None:
        self.sub_envs = sub_envs
        self.task_names, self.n_tasks = sub_envs.task_names, sub_envs.n_tasks
        self.copies, self.n_envs_per_task = sub_envs.copies, sub_envs.copies.described(sub_envs.task_names)
        self._rows = rows
        self.task_ids = sub_envs.task_ids[rows]
        seeds, options = sub_envs.seeds[rows], sub_envs.options[rows]
        super().__init__(len(self.task_ids), sub_envs.observation_space, sub_envs.action_space)
        self._seeds, self._options = seeds, options  # SB3's constructor has assigned empty ones

    # SB3's attributes are those of the sub-environments, which all views share.

    @property
    def _seeds(self) -> list[int | None]:
        return self.sub_envs.seeds[self._rows]

    @_seeds.setter
    def _seeds(self, seeds: list[int | None]) -> None:
        self.sub_envs.seeds[self._rows] = seeds

    @property
    def _options(self) -> list[dict[str, Any]]:
        return self.sub_envs.options[self._rows]

    @_options.setter
    def _options(self, options: list[dict[str, Any]]) -> None:
        self.sub_envs.options[self._rows] = options

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed every sub-environment of this VecEnv at the next reset, as ``seed`` of ``MultiTaskVecEnv`` does.

        :param seed: ``None`` draws one from numpy's global generator, as in SB3
        :return: the seeds of the sub-environments
        """
        if seed is None:
            seed = int(np.random.randint(0, np.iinfo(np.uint32).max, dtype=np.uint32))  # noqa: NPY002
        self._seeds = self.sub_envs.seeds_for(seed)[self._rows]
        return self._seeds

    def reset(self) -> TaskObs:
        obs = self.sub_envs.reset(self._rows)
        self.reset_infos = self.sub_envs.reset_infos[self._rows]
        return obs

    def step_async(self, actions: np.ndarray) -> None:
        self.sub_envs.send(self._rows, actions)

    def step_wait(self) -> StepReturn:
        return self.sub_envs.receive(self._rows)

    def _global(self, indices: VecEnvIndices) -> list[int]:
        return [self._rows.start + i for i in self._get_indices(indices)]

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        return [self.sub_envs.backend.get_attr(row, attr_name) for row in self._global(indices)]

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        for row in self._global(indices):
            self.sub_envs.backend.set_attr(row, attr_name, value)
        self.sub_envs.seed_checks.forget()

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        self.sub_envs.seed_checks.forget()
        return [self.sub_envs.backend.call(row, method_name, args, kwargs) for row in self._global(indices)]

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """Return whether sub-environments are wrapped with a class; true for ``Monitor``, which is built in."""
        backend = self.sub_envs.backend
        built_in = issubclass(Monitor, wrapper_class)
        return [built_in or backend.is_wrapped(row, wrapper_class) for row in self._global(indices)]

    def get_images(self) -> Sequence[np.ndarray | None]:
        return self.env_method("render")


class TaskView(SubEnvsView):
    """The sub-environments of one task of a ``MultiTaskVecEnv``; ``num_envs`` is the number of its copies.

    Its observations have the task, like those of ``venv``. ``task_view`` makes it; ``close`` does nothing.

    :param venv: the VecEnv of all tasks
    :param task_id: from 0 to ``n_tasks - 1``
    :raises IndexError: if there is no such task
    """

    def __init__(self, venv: Any, task_id: int) -> None:
        if not 0 <= task_id < venv.n_tasks:
            raise IndexError(f"`task_id` must be between 0 and {venv.n_tasks - 1} (got {task_id})")
        self.venv = venv
        self.task_id = task_id
        super().__init__(venv.sub_envs, venv.rows(task_id))

    def close(self) -> None:
        """Do nothing: the environments belong to the VecEnv of all tasks."""
