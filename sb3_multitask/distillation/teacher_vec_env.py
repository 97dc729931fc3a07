"""Teachers in the env of a student: they see its raw observations, and may act in its place.

As in DAgger (Ross et al. 2011), whose collector in the library imitation is a wrapper, too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices, VecEnvStepReturn

from sb3_multitask.distillation.teachers import Teachers
from sb3_multitask.losses.schedules import in_range
from sb3_multitask.vec_env.layers import task_normalizer_of


class TeacherVecEnv(VecEnv):
    """Stands under the normaliser, so that it sees raw observations, and substitutes the teachers' actions.

    The rollout buffer holds the student's proposed actions also where teachers act; no loss reads them there, since RL
    and critic have weight 0.

    Steps that a callback makes in between, such as an evaluation in the training env, are the callback's own: they are
    neither recorded nor the teachers' (``is_collecting`` is False).

    It is no ``VecEnvWrapper``, so that ``sync_envs_normalization`` takes it for the innermost VecEnv, which it
    stands for.

    :param venv: a ``MultiTaskVecEnv`` or a ``TaskCyclingVecEnv``
    """

    def __init__(self, venv: Any, teachers: Teachers) -> None:
        self.venv, self.teachers = venv, teachers
        self.teachers_act = False
        self.is_collecting = False
        self._observation = np.empty(0)
        self._seen: list[np.ndarray] = []
        super().__init__(venv.num_envs, venv.observation_space, venv.action_space)

    def __getattr__(self, name: str) -> Any:
        """Forward the tasks and whatever else the VecEnv has."""
        if name.startswith("_") or name == "venv":
            raise AttributeError(name)
        return getattr(self.venv, name)

    @property
    def task_ids(self) -> np.ndarray:
        """The task of every row, (num_envs,)."""
        task_ids: np.ndarray = self.venv.task_ids
        return task_ids

    def begin_rollout(self, observation: np.ndarray, teachers_act: bool) -> None:
        """Begin to record.

        :param observation: the latest raw one of every row, (n_envs, obs_dim)
        :param teachers_act: whether the rollout's actions are theirs
        """
        self._observation, self._seen, self.teachers_act = observation, [], teachers_act
        self.is_collecting = True

    def targets(self) -> tuple[np.ndarray, np.ndarray]:
        """What the teachers would have done in the rollout: means and log-stds, each (n_steps, n_envs, action_dim)."""
        return self.teachers.targets(self.task_ids, np.stack(self._seen))

    def features(self) -> np.ndarray:
        """The teachers' last hidden layers in the rollout's states, (n_steps, n_envs, dim)."""
        return self.teachers.features(self.task_ids, np.stack(self._seen))

    def step_async(self, actions: np.ndarray) -> None:
        if self.is_collecting:
            self._seen.append(self._observation)
        if self.is_collecting and self.teachers_act:
            sizes, tasks = self.teachers.sizes, self.task_ids
            actions = self.teachers.act(tasks, self._observation)
            actions = np.clip(actions, sizes.action_low[tasks], sizes.action_high[tasks])
        self.venv.step_async(actions)

    def step_wait(self) -> VecEnvStepReturn:
        obs, rewards, dones, infos = self.venv.step_wait()
        if self.is_collecting:
            self._observation = obs["obs"]
        return obs, rewards, dones, infos

    def reset(self) -> Any:
        return self.venv.reset()

    @property
    def reset_infos(self) -> list[dict[str, Any]]:
        infos: list[dict[str, Any]] = self.venv.reset_infos
        return infos

    @reset_infos.setter
    def reset_infos(self, infos: list[dict[str, Any]]) -> None:
        """Ignored: ``venv`` owns ``reset_infos``; SB3's constructor assigns a list that is not needed."""

    @property
    def unwrapped(self) -> VecEnv:
        unwrapped: VecEnv = self.venv.unwrapped
        return unwrapped

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        seeds: Sequence[int | None] = self.venv.seed(seed)
        return seeds

    def set_options(self, options: list[dict[str, Any]] | dict[str, Any] | None = None) -> None:
        self.venv.set_options(options)

    def close(self) -> None:
        self.venv.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        values: list[Any] = self.venv.get_attr(attr_name, indices)
        return values

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        self.venv.set_attr(attr_name, value, indices)

    def env_method(self, method_name: str, *args: Any, indices: VecEnvIndices = None, **kwargs: Any) -> list[Any]:
        results: list[Any] = self.venv.env_method(method_name, *args, indices=indices, **kwargs)
        return results

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        are_wrapped: list[bool] = self.venv.env_is_wrapped(wrapper_class, indices)
        return are_wrapped

    def get_images(self) -> Sequence[np.ndarray | None]:
        images: Sequence[np.ndarray | None] = self.venv.get_images()
        return images


class TeachersInEnv:
    """Puts teachers into a student's env while a rollout is collected, and takes them out again.

    :param teachers: of the student's tasks
    """

    def __init__(self, teachers: Teachers) -> None:
        self.teachers = teachers
        self._venv: TeacherVecEnv | None = None

    @property
    def teachers_act(self) -> bool:
        """Whether the latest rollout's actions were the teachers'."""
        return self._venv is not None and self._venv.teachers_act

    @contextmanager
    def in_env(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: Any, student: Any
    ) -> Iterator[tuple[VecEnv, BaseCallback]]:
        """The env and the callback with which to collect one rollout.

        :param rollout_buffer: a ``TaskRolloutBuffer``, which receives what the teachers would have done
        :param student: the model, whose settings decide who acts
        """
        normalizer = task_normalizer_of(env)
        inner = env if normalizer is None else normalizer.venv
        if self._venv is None or self._venv.venv is not inner:
            self._venv = TeacherVecEnv(inner, self.teachers)
        venv = self._venv
        venv.is_collecting = False

        def begin() -> None:
            progress = in_range(1 - student.num_timesteps / student._total_timesteps)
            teachers_act = not student.distillation.rollout_is_students(progress)
            observations = student._last_obs if normalizer is None else normalizer.old_obs
            venv.begin_rollout(observations["obs"], teachers_act)

        def end() -> None:
            rollout_buffer.set_targets(*venv.targets())
            if self.teachers.feature_dims is not None:
                rollout_buffer.set_teacher_features(venv.features())

        around = _Around(callback, venv, begin, end)
        if normalizer is None:
            yield venv, around
            return
        normalizer.venv = venv
        try:
            yield env, around
        finally:
            normalizer.venv = inner


class _Around(BaseCallback):
    """A callback with a function after its ``on_rollout_start``, which may restore a checkpoint, and one before its
    ``on_rollout_end``. While the callback runs, ``venv`` does not collect.
    """

    def __init__(
        self, callback: BaseCallback, venv: TeacherVecEnv, begin: Callable[[], None], end: Callable[[], None]
    ) -> None:
        super().__init__()
        self.callback, self._venv, self._begin, self._end = callback, venv, begin, end

    def on_rollout_start(self) -> None:
        self.callback.on_rollout_start()
        self._begin()

    def update_locals(self, locals_: dict[str, Any]) -> None:
        self.callback.update_locals(locals_)

    def on_step(self) -> bool:
        self._venv.is_collecting = False
        continues = self.callback.on_step()
        self._venv.is_collecting = True
        return continues

    def on_rollout_end(self) -> None:
        self._venv.is_collecting = False
        self._end()
        self.callback.on_rollout_end()

    def _on_step(self) -> bool:
        return True
