"""Observation and return normalisation with statistics per task."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, cast

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvWrapper

from sb3_multitask.envs.observations import task_ids
from sb3_multitask.envs.task_env import StepReturn, TaskObs, box_of
from sb3_multitask.storage.files import replacing
from sb3_multitask.vec_env.cycling import TaskCyclingVecEnv
from sb3_multitask.vec_env.faults import is_fault
from sb3_multitask.vec_env.statistics import ObsRms, TaskMoments, TaskRunningMeanStd, Tasks


@dataclass
class _Shared:
    """What a normaliser and its views share."""

    moments: TaskMoments


class MultiTaskVecNormalize(VecNormalize):
    """SB3's ``VecNormalize`` with statistics per task, so that no task's scale reaches another.

    Same arguments as ``VecNormalize`` (``norm_obs_keys`` is always ``["obs"]``). All statistics live in
    ``obs_rms["obs"]`` and ``ret_rms`` (leading axis: task), which is what ``sync_envs_normalization`` copies.

    Observations are normalised in the type that they come in, then become float32.

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
        (obs_dim,) = cast("spaces.Box", observation_space["obs"]).shape
        # Before SB3's constructor, which assigns initial values to the properties below.
        self._shared = _Shared(TaskMoments(venv.n_tasks, obs_dim))
        self._task_names: tuple[str, ...] = venv.task_names
        self._obs_columns, self._ret_column = slice(0, obs_dim), slice(obs_dim, obs_dim + 1)
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
        """Normalised observations are float32, whatever the VecEnv's are."""
        space = venv.observation_space
        if self.norm_obs:
            obs = box_of(space["obs"].low, space["obs"].high, np.float32)
            space = spaces.Dict({"obs": obs, "task": space["task"]})
        self.observation_space = space

    def _make_returns(self, venv: Any) -> None:
        """Discounted returns of every sub-environment, (n_tasks, n_envs_per_task), shared with the views."""
        self._returns = np.zeros((venv.n_tasks, venv.n_envs_per_task))

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the VecEnv, for ``save`` and ``pickle``."""
        state = self.__dict__.copy()
        del state["venv"], state["class_attributes"]
        return state

    def save(self, save_path: str | Path) -> None:
        """Save the statistics, as SB3; a file that is there is replaced only by a whole one.

        :raises SaveError: if it cannot be written
        """
        with replacing(save_path) as beside:
            super().save(str(beside))

    def set_venv(self, venv: Any) -> None:
        """After unpickling: the VecEnv to wrap.

        :raises ValueError: if it has other tasks than these statistics, or is normalised already
        """
        _check_raw(venv)
        if venv.task_names != self._task_names:
            raise ValueError(
                "These statistics are of other tasks, or in another order.\n"
                f"  statistics: {', '.join(self._task_names)}\n  env:        {', '.join(venv.task_names)}"
            )
        self._make_returns(venv)
        super().set_venv(venv)
        self._set_observation_space(venv)

    # Statistics are properties onto a table that all views share. Assigning makes a new table for all of them, so that
    # what was read before stays as it was; SB3 assigns in its constructor and in sync_envs_normalization.

    @property
    def _moments(self) -> TaskMoments:
        return self._shared.moments

    @property  # type: ignore[override]  # dict values are ours
    def obs_rms(self) -> dict[str, TaskRunningMeanStd]:
        return ObsRms(obs=TaskRunningMeanStd(self._moments, self._obs_columns))

    @obs_rms.setter
    def obs_rms(self, value: dict[str, RunningMeanStd]) -> None:
        self._shared.moments = self._moments.copy()
        self.obs_rms["obs"].assign(value["obs"])

    @property
    def ret_rms(self) -> TaskRunningMeanStd:
        return TaskRunningMeanStd(self._moments, self._obs_columns.stop)

    @ret_rms.setter
    def ret_rms(self, value: RunningMeanStd) -> None:
        self._shared.moments = self._moments.copy()
        self.ret_rms.assign(value)

    @property
    def returns(self) -> np.ndarray:
        return self._returns

    @returns.setter
    def returns(self, value: np.ndarray) -> None:
        self._returns[...] = np.reshape(value, (-1, self._returns.shape[1]))

    def over(self, venv: Any) -> Self:
        """A normaliser over another VecEnv of the same tasks that shares these statistics.

        Flags (``training``, ``norm_reward``, ...) are copied, and may be set on each.
        """
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        VecEnvWrapper.__init__(other, venv)
        other._set_observation_space(venv)
        return other

    def task_view(self, task_id: int) -> Self:
        """A normalised VecEnv over the sub-environments of one task, with the shared statistics.

        :param task_id: from 0 to ``n_tasks - 1``
        :raises IndexError: if there is no such task
        """
        return self.over(self.venv.task_view(task_id))

    def cycling(self) -> Self:
        """The same tasks one at a time: this normaliser, sharing statistics, over a ``TaskCyclingVecEnv``."""
        return self.over(TaskCyclingVecEnv(self.venv))

    def next_task(self) -> TaskObs:
        """Over a ``TaskCyclingVecEnv``: go to the next task and return its last observations, normalised."""
        obs = self.venv.next_task()
        self.old_obs = obs
        return self._seen(obs) if self.venv.first_visit else self.normalize_obs(obs)

    def reset(self) -> TaskObs:
        obs = cast("TaskObs", self.venv.reset())
        self.old_obs = obs
        self.returns[getattr(self.venv, "reset_task_ids", self.venv.task_ids)] = 0.0
        return self._seen(obs)

    def _seen(self, obs: TaskObs) -> TaskObs:
        """Take first observations into the statistics and normalise them."""
        if self.training and self.norm_obs:
            self._moments.update(self._present(), self._by_task(obs["obs"]), self._obs_columns)
        return self.normalize_obs(obs)

    def step_wait(self) -> StepReturn:
        obs, rewards, dones, infos = self.venv.step_wait()
        self.old_obs, self.old_reward = obs, rewards
        tasks = self._present()
        obs_rows, reward_rows = self._by_task(obs["obs"]), self._by_task(rewards)
        faulty = [i for i in dones.nonzero()[0].tolist() if is_fault(infos[i])] if dones.any() else []
        if self.training:
            self._update(tasks, obs_rows, reward_rows, faulty)
        if dones.any():
            for i in dones.nonzero()[0].tolist():
                infos[i]["terminal_observation"] = self.normalize_obs(infos[i]["terminal_observation"])
                self.returns[obs["task"][i], i % self.venv.n_envs_per_task] = 0.0
        moments, columns = self._shared.moments, self._obs_columns
        std = np.sqrt(moments.var[tasks] + self.epsilon)[:, None]
        if self.norm_obs:
            normalized = obs_rows - moments.mean[tasks, None, columns]
            normalized /= std[:, :, columns]
            normalized = np.clip(normalized, -self.clip_obs, self.clip_obs).reshape(obs["obs"].shape)
            obs = {"obs": normalized.astype(np.float32), "task": obs["task"]}
        if self.norm_reward:
            scaled = reward_rows / std[:, :, columns.stop]
            rewards = np.clip(scaled, -self.clip_reward, self.clip_reward).reshape(-1).astype(np.float32)
        return obs, rewards, dones, infos

    def _update(self, tasks: Tasks, obs_rows: np.ndarray, reward_rows: np.ndarray, faulty: list[int]) -> None:
        """Take a step into the statistics: observations and discounted returns, as SB3 does, but for faulty rows."""
        returns = self.returns[tasks] * self.gamma
        returns += reward_rows
        self.returns[tasks] = returns
        if self.norm_obs:
            batch = np.empty((*reward_rows.shape, self._obs_columns.stop + 1))
            batch[:, :, self._obs_columns] = obs_rows
            batch[:, :, -1] = returns
            columns = slice(None)
        else:
            batch, columns = returns[:, :, None], self._ret_column
        if not faulty:
            self._moments.update(tasks, batch, columns)
            return
        good = np.ones(reward_rows.shape, dtype=bool)
        good.reshape(-1)[faulty] = False
        ids = np.arange(len(self._returns))[tasks]
        for i, task in enumerate(ids):
            if good[i].any():
                self._moments.update(np.array([task]), batch[i : i + 1, good[i]], columns)

    def _present(self) -> Tasks:
        """The tasks of the rows, for indexing what has a task axis."""
        venv = self.venv
        if venv.num_envs == self._returns.size:
            return slice(None)
        task_ids: np.ndarray = venv.task_ids[:: venv.n_envs_per_task]
        return task_ids

    def _by_task(self, rows: np.ndarray) -> np.ndarray:
        """(num_envs, ...) -> (k, n_envs_per_task, ...): rows come grouped by task."""
        return rows.reshape(-1, self._returns.shape[1], *rows.shape[1:])

    def normalize_obs(self, obs: TaskObs) -> TaskObs:  # type: ignore[override]
        """Normalise observations of any rows with the statistics of the tasks they carry; updates nothing.

        :param obs: ``{"obs": (..., obs_dim), "task": (...,)}``; a rollout buffer's ``task`` of shape (..., 1) will do
        :raises ValueError: if there is not one task for each observation, or one is no task id
        """
        if not self.norm_obs:
            return dict(obs)
        rms, task = self.obs_rms["obs"], _task_of_rows(obs, self.n_tasks)
        normalized = (obs["obs"] - rms.mean[task]) / np.sqrt(rms.var[task] + self.epsilon)
        return {**obs, "obs": np.clip(normalized, -self.clip_obs, self.clip_obs).astype(np.float32)}

    def unnormalize_obs(self, obs: TaskObs) -> TaskObs:  # type: ignore[override]
        """The inverse of :meth:`normalize_obs`, but for what was clipped."""
        if not self.norm_obs:
            return dict(obs)
        rms, task = self.obs_rms["obs"], _task_of_rows(obs, self.n_tasks)
        return {**obs, "obs": obs["obs"] * np.sqrt(rms.var[task] + self.epsilon) + rms.mean[task]}

    def normalize_reward(self, reward: np.ndarray) -> np.ndarray:
        """Scale the rewards of all rows, (num_envs,), by the statistics of their tasks; updates nothing."""
        if self.norm_reward:
            reward = np.clip(
                reward / np.sqrt(self.ret_rms.var[self.venv.task_ids] + self.epsilon),
                -self.clip_reward,
                self.clip_reward,
            )
        return reward.astype(np.float32)

    def unnormalize_reward(self, reward: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`normalize_reward`, but for what was clipped."""
        if self.norm_reward:
            reward = reward * np.sqrt(self.ret_rms.var[self.venv.task_ids] + self.epsilon)
        return reward

    def get_statistics(self) -> dict[str, Any]:
        """What a model's inputs depend on, and its returns' statistics: plain values and arrays, copied."""
        state: dict[str, Any] = {name: getattr(self, name) for name in ("norm_obs", "clip_obs", "epsilon")}
        for name, rms in {"obs_rms": self.obs_rms["obs"], "ret_rms": self.ret_rms}.items():
            state[name] = {"mean": rms.mean.copy(), "var": rms.var.copy(), "count": rms.count.copy()}
        return state

    def set_statistics(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_statistics` returned. How rewards are treated stays as it is.

        :raises ValueError: if the statistics have another shape
        """
        for rms, saved in (
            (self.obs_rms["obs"], state["obs_rms"]),
            (self.ret_rms, state["ret_rms"]),
        ):
            if saved["mean"].shape != rms.mean.shape:
                raise ValueError(
                    f"Statistics of shape {saved['mean'].shape} do not fit this normaliser's {rms.mean.shape} "
                    "(n_tasks, obs_dim)"
                )
            for name, value in saved.items():
                setattr(rms, name, value)
        for name, value in state.items():
            if not name.endswith("_rms"):
                setattr(self, name, value)

    def get_state(self) -> dict[str, Any]:
        """Everything that decides the next values: the statistics, the discounted returns, and the flags."""
        flags = {name: getattr(self, name) for name in ("training", "norm_reward", "clip_reward", "gamma")}
        old_obs = getattr(self, "old_obs", None)
        return {
            "statistics": self.get_statistics(),
            "returns": self.returns.copy(),
            "old_obs": None if old_obs is None else dict(old_obs),
            "flags": flags,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_state` gave."""
        self.set_statistics(state["statistics"])
        self.returns = state["returns"]
        if state["old_obs"] is not None:
            self.old_obs = dict(state["old_obs"])
        for name, value in state["flags"].items():
            setattr(self, name, value)


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
    """The task of each observation, in the shape of the observations without their last axis."""
    task, shape = task_ids(obs["task"], n_tasks, "obs"), np.shape(obs["obs"])[:-1]
    if task.shape == shape:
        return task
    if task.size != np.prod(shape, dtype=int):
        raise ValueError(f"`obs` must have a task for each observation (got {task.shape} for {np.shape(obs['obs'])})")
    return task.reshape(shape)
