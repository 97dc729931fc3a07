"""Observation and return normalisation with statistics per task."""

from __future__ import annotations

from typing import Any, Self, cast

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvWrapper

from sb3_multitask.envs.observations import task_ids
from sb3_multitask.envs.task_env import StepReturn, TaskObs, box_of
from sb3_multitask.envs.task_space import TaskSizes
from sb3_multitask.process.kernels import load_kernels
from sb3_multitask.vec_env.cycling import TaskCyclingVecEnv
from sb3_multitask.vec_env.faults import is_fault
from sb3_multitask.vec_env.infos import ended_rows
from sb3_multitask.vec_env.shared_statistics import SharedMoments, SharedStatistics

_Shared = SharedMoments  # its name in the files of earlier releases


class MultiTaskVecNormalize(SharedStatistics):
    """SB3's ``VecNormalize`` with statistics per task, so that no task's scale affects another.

    It has the arguments of ``VecNormalize`` (``norm_obs_keys`` is always ``["obs"]``). All statistics are in
    ``obs_rms["obs"]`` and ``ret_rms`` (leading axis: task), which ``sync_envs_normalization`` copies.

    Observations are normalised in their own type, and cast to float32 afterwards.

    :param venv: a ``MultiTaskVecEnv``, one of its task views, or a ``TaskCyclingVecEnv`` over it
    :raises TypeError: if ``venv`` has no tasks
    :raises ValueError: if ``venv`` is normalised already
    """

    venv: Any  # a VecEnv with tasks

    def __init__(
        self,
        venv: Any,
        training: bool = True,
        norm_obs: bool = True,
        norm_reward: bool = True,
        clip_obs: float = 10.0,
        clip_reward: float = 10.0,
        gamma: float = 0.99,
        epsilon: float = 1e-8,
    ) -> None:
        if not hasattr(venv, "task_view") and not hasattr(venv, "task_ids"):
            raise TypeError(
                f"MultiTaskVecNormalize needs a MultiTaskVecEnv, which knows the task of each row (got {venv!r}). "
                "Make one with sb3_multitask.make_multitask_vec_env(tasks, normalize=True)."
            )
        _check_raw(venv)
        observation_space = cast("spaces.Dict", venv.observation_space)
        self._task_names: tuple[str, ...] = venv.task_names
        # Before SB3's constructor, which assigns initial values to these properties.
        self._make_statistics(TaskSizes.of(observation_space, venv.action_space))
        self._make_returns(venv)
        super().__init__(
            venv,
            training,
            norm_obs,
            norm_reward,
            clip_obs,
            clip_reward,
            gamma,
            epsilon,
            norm_obs_keys=["obs"],
        )
        self._set_observation_space(venv)

    def _set_observation_space(self, venv: Any) -> None:
        """Set the space of normalised observations, which are float32 for every VecEnv."""
        space = venv.observation_space
        if self.norm_obs:
            obs = box_of(space["obs"].low, space["obs"].high, np.float32)
            space = spaces.Dict({"obs": obs, "task": space["task"]})
        self.observation_space = space

    def set_venv(self, venv: Any) -> None:
        """Set the VecEnv to wrap, after unpickling.

        :raises ValueError: if it has other tasks than these statistics, or tasks of other sizes, or is normalised
            already
        """
        _check_raw(venv)
        if venv.task_names != self._task_names:
            raise ValueError(
                "These statistics are of other tasks, or in another order.\n"
                f"  statistics: {', '.join(self._task_names)}\n  env:        {', '.join(venv.task_names)}"
            )
        self._check_sizes(TaskSizes.of(venv.observation_space, venv.action_space))
        self._make_returns(venv)
        super().set_venv(venv)
        self._set_observation_space(venv)

    def over(self, venv: Any) -> Self:
        """Return a normaliser over another VecEnv of the same tasks that shares these statistics.

        Flags (``training``, ``norm_reward``, ...) are copied, and may be set on each.
        """
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        VecEnvWrapper.__init__(other, venv)
        other._set_observation_space(venv)
        return other

    def task_view(self, task_id: int) -> Self:
        """Return a normalised VecEnv over the sub-environments of one task, with the shared statistics.

        :param task_id: from 0 to ``n_tasks - 1``
        :raises IndexError: if there is no such task
        """
        return self.over(self.venv.task_view(task_id))

    def cycling(self) -> Self:
        """Return a normaliser over a ``TaskCyclingVecEnv`` of the same tasks that shares these statistics."""
        return self.over(TaskCyclingVecEnv(self.venv))

    def next_task(self, task: int | None = None) -> TaskObs:
        """Select a task of a ``TaskCyclingVecEnv`` and return its last observations, normalised.

        :param task: its index; ``None``: the one after the active task, in turn
        """
        obs = self.venv.next_task(task)
        self.old_obs = obs
        if self.venv.first_visit:
            return self._seen(obs)
        kernels = load_kernels("vec_env")
        if kernels is None:
            return self._normalize_rows(obs, *self._mean_and_std())
        return self._step(kernels, obs, np.zeros(self.venv.num_envs, np.float32), training=False)[0]

    def reset(self) -> TaskObs:
        obs = cast("TaskObs", self.venv.reset())
        self.old_obs = obs
        self._returns[slice(None) if hasattr(self.venv, "reset_task_ids") else self._rows()] = 0.0
        return self._seen(obs)

    def _seen(self, obs: TaskObs) -> TaskObs:
        """Add first observations to the statistics and normalise them."""
        if self.training and self.norm_obs:
            for tasks, rows, n_copies in self._parts():
                samples = obs["obs"][rows].reshape(-1, n_copies, obs["obs"].shape[1]).swapaxes(0, 1)
                self._moments.update(tasks, samples, self._obs_columns)
        return self._normalize_rows(obs, *self._mean_and_std())

    def step_wait(self) -> StepReturn:
        obs, rewards, dones, infos = self.venv.step_wait()
        self.old_obs, self.old_reward = obs, rewards
        ended = ended_rows(dones, infos)
        faulty = [i for i in ended if is_fault(infos[i])]
        kernels = None if faulty else load_kernels("vec_env")
        if kernels is None:
            step = self._step_of_arrays(obs, rewards, faulty)
        else:
            step = self._step(kernels, obs, rewards, self.training)
        if ended:
            returns, (mean, std) = self._returns[self._rows()], self._mean_and_std()
            first = self.venv.task_ids[0]
        for i in ended:
            task = self.venv.task_ids[i] - first  # counted among those present
            returns[i] = 0.0
            last = infos[i]["terminal_observation"]
            infos[i]["terminal_observation"] = self._normalize_rows(last, mean[task, None], std[task, None])
        return *step, dones, infos

    def _step(self, kernels: Any, obs: TaskObs, rewards: np.ndarray, training: bool) -> tuple[TaskObs, np.ndarray]:
        """Add a step to the statistics if ``training``, and normalise it."""
        moments, start = self._moments, self._first_task()
        returns = self._returns[self._rows(start)]
        new_obs, new_rewards = kernels.normalize_step(
            obs["obs"],
            rewards,
            returns,
            moments.mean,
            moments.var,
            moments.count,
            self._row_bounds,
            self._obs_dims,
            start,
            float(self.gamma),  # for a whole number it would be compiled again
            float(self.epsilon),
            (float(self.clip_obs), float(self.clip_reward)),
            training,
            self.norm_obs,
            self.norm_reward,
        )
        obs = {**obs, "obs": new_obs} if self.norm_obs else dict(obs)
        return obs, new_rewards if self.norm_reward else rewards

    def _step_of_arrays(self, obs: TaskObs, rewards: np.ndarray, faulty: list[int]) -> tuple[TaskObs, np.ndarray]:
        """Do the same with array operations, and leave faulty rows out of the statistics."""
        if self.training:
            self._update(obs["obs"], rewards, faulty)
        mean, std = self._mean_and_std()
        if self.norm_reward:
            scales = np.repeat(std[:, -1], self._copies.of_tasks[self._present()])
            rewards = _clipped(rewards / scales, self.clip_reward)
        return self._normalize_rows(obs, mean, std), rewards

    def _update(self, obs: np.ndarray, rewards: np.ndarray, faulty: list[int]) -> None:
        """Add a step to the statistics: observations and discounted returns, as in SB3, but no faulty rows."""
        returns = self._returns[self._rows()]  # a view
        returns *= self.gamma
        returns += rewards
        is_good = np.ones(rewards.shape, dtype=bool)
        is_good[faulty] = False
        columns = slice(None) if self.norm_obs else self._ret_column
        for tasks, rows, n_copies in self._parts():
            samples = returns[rows, None]
            if self.norm_obs:
                samples = np.concatenate((obs[rows], samples), axis=1, dtype=np.float64)
            batch = samples.reshape(-1, n_copies, samples.shape[1]).swapaxes(0, 1)
            if faulty:
                self._moments.update_in_part(tasks, batch, is_good[rows].reshape(-1, n_copies).T, columns)
            else:
                self._moments.update(tasks, batch, columns)

    def _first_task(self) -> int:
        """Return the first task of the rows."""
        return 0 if self.venv.num_envs == self._returns.size else int(self.venv.task_ids[0])

    def _present(self) -> slice:
        """Return the tasks of the rows, which are consecutive, as an index of a task axis."""
        venv = self.venv
        if venv.num_envs == self._returns.size:
            return slice(None)
        return slice(int(venv.task_ids[0]), int(venv.task_ids[-1]) + 1)

    def _rows(self, first_task: int | None = None) -> slice:
        """Return the rows that the VecEnv shows among those of all tasks."""
        first = self._copies.bounds[self._first_task() if first_task is None else first_task]
        return slice(first, first + self.venv.num_envs)

    def _parts(self) -> list[tuple[slice, slice, int]]:
        """Return tasks with as many copies: their ids, their rows among those shown, and the copies of each."""
        tasks = self._present()
        if self._copies.are_equal:
            return [(tasks, slice(None), self._copies.of_tasks[0])]
        ids = range(len(self._copies.of_tasks))[tasks]
        bounds = [bound - self._copies.bounds[ids[0]] for bound in self._copies.bounds]
        return [(slice(i, i + 1), slice(bounds[i], bounds[i + 1]), self._copies.of_tasks[i]) for i in ids]

    def normalize_obs(self, obs: TaskObs) -> TaskObs:  # type: ignore[override]
        """Normalise observations of any rows with the statistics of their tasks, without an update.

        :param obs: ``{"obs": (..., obs_dim), "task": (...,)}``; a rollout buffer's ``task`` of shape (..., 1) will do
        :raises ValueError: if there is not one task for each observation, or one is no task id
        """
        if not self.norm_obs:
            return dict(obs)
        rms, task = self.obs_rms["obs"], _task_of_rows(obs, self.n_tasks)
        return {**obs, "obs": self._scaled(obs["obs"], rms.mean[task], np.sqrt(rms.var[task] + self.epsilon))}

    def _mean_and_std(self) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and standard deviation of the present tasks, each (k, obs_dim + 1), with the return's last."""
        tasks = self._present()
        return self._moments.mean[tasks], np.sqrt(self._moments.var[tasks] + self.epsilon)

    def _normalize_rows(self, obs: TaskObs, mean: np.ndarray, std: np.ndarray) -> TaskObs:
        """Normalise as :meth:`normalize_obs`, with rows grouped by task and the moments of these tasks."""
        if not self.norm_obs:
            return dict(obs)
        if self._copies.are_equal or len(mean) == 1:
            rows = obs["obs"].reshape(len(mean), -1, mean.shape[1] - 1)
            normalized = self._scaled(rows, mean[:, None, :-1], std[:, None, :-1])
            return {**obs, "obs": normalized.reshape(obs["obs"].shape)}
        tasks = self.venv.task_ids - self.venv.task_ids[0]
        return {**obs, "obs": self._scaled(obs["obs"], mean[tasks, :-1], std[tasks, :-1])}

    def _scaled(self, obs: np.ndarray, mean: np.ndarray, std: np.ndarray) -> np.ndarray:
        """Standardise and clip, as float32, with few new arrays, since this runs at every step."""
        normalized = obs - mean
        normalized /= std
        return _clipped(normalized, self.clip_obs)

    def unnormalize_obs(self, obs: TaskObs) -> TaskObs:  # type: ignore[override]
        """Invert :meth:`normalize_obs`, except clipping."""
        if not self.norm_obs:
            return dict(obs)
        rms, task = self.obs_rms["obs"], _task_of_rows(obs, self.n_tasks)
        return {**obs, "obs": obs["obs"] * np.sqrt(rms.var[task] + self.epsilon) + rms.mean[task]}

    def normalize_reward(self, reward: np.ndarray) -> np.ndarray:
        """Scale the rewards of all rows, (num_envs,), by the statistics of their tasks, without an update."""
        if self.norm_reward:
            std = np.sqrt(self.ret_rms.var[self.venv.task_ids] + self.epsilon)
            return _clipped(reward / std, self.clip_reward)
        return reward.astype(np.float32)

    def unnormalize_reward(self, reward: np.ndarray) -> np.ndarray:
        """Invert :meth:`normalize_reward`, except clipping."""
        if self.norm_reward:
            reward = reward * np.sqrt(self.ret_rms.var[self.venv.task_ids] + self.epsilon)
        return reward


def _clipped(values: np.ndarray, limit: float) -> np.ndarray:
    """Clip an array in place, and return it as float32."""
    values.clip(-limit, limit, out=values)
    return values.astype(np.float32)


def _check_raw(venv: Any) -> None:
    """Raise if a VecEnv is normalised already: its observations would be normalised twice."""
    layer = venv
    while layer is not None:
        if isinstance(layer, VecNormalize):
            raise ValueError(
                f"The VecEnv is normalised already, by {type(layer).__name__}, and would be normalised twice: make it "
                "with make_multitask_vec_env(tasks, normalize=False)."
            )
        layer = vars(layer).get("venv")


def _task_of_rows(obs: TaskObs, n_tasks: int) -> np.ndarray:
    """Return the task of each observation, in the shape of the observations without their last axis."""
    task, shape = task_ids(obs["task"], n_tasks, "obs"), np.shape(obs["obs"])[:-1]
    if task.shape == shape:
        return task
    if task.size != np.prod(shape, dtype=int):
        raise ValueError(f"`obs` must have a task for each observation (got {task.shape} for {np.shape(obs['obs'])})")
    return task.reshape(shape)
