"""Observation and return normalisation with statistics per task."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import Any, Self, TypeAlias, cast

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize
from stable_baselines3.common.vec_env.base_vec_env import VecEnvWrapper

from sb3_multitask.envs.task_env import TaskObs
from sb3_multitask.vec_env.cycling import TaskCyclingVecEnv
from sb3_multitask.vec_env.multitask_vec_env import StepReturn

Tasks: TypeAlias = slice | np.ndarray


class TaskRunningMeanStd(RunningMeanStd):
    r"""SB3's running moments, one set a task: ``mean``, ``var`` (n_tasks, \\*shape), ``count`` (n_tasks, 1, ...).

    :param n_tasks: number of tasks
    :param shape: shape of one sample
    """

    count: np.ndarray  # type: ignore[assignment]  # SB3 has one count, here each task has its own

    def __init__(self, n_tasks: int, shape: tuple[int, ...] = (), epsilon: float = 1e-4) -> None:
        super().__init__(epsilon, (n_tasks, *shape))
        self.count = np.full((n_tasks, *(1 for _ in shape)), epsilon)

    def update_tasks(self, tasks: Tasks, batch: np.ndarray) -> None:
        r"""Take in new samples of some tasks; the others stay as they are, bit for bit.

        SB3's formula (Chan et al. 1979), written with the weight ``w`` of the new samples; runs at every step.

        :param tasks: ``slice(None)`` for all, or (k,) ids, each once
        :param batch: (k, n, \*shape), n samples of each
        """
        n = batch.shape[1]
        batch_mean = np.add.reduce(batch, axis=1, keepdims=True)
        batch_mean /= n
        deviation = batch - batch_mean
        deviation *= deviation
        batch_var = np.add.reduce(deviation, axis=1)
        total = self.count[tasks] + n
        w = n / total
        delta = batch_mean[:, 0] - self.mean[tasks]
        # var <- (1 - w) * (var + w * delta^2) + w * batch_var
        var = delta * delta
        var *= w
        var += self.var[tasks]
        var *= 1 - w
        var += batch_var * (w / n)
        delta *= w
        self.mean[tasks] += delta
        self.var[tasks] = var
        self.count[tasks] = total

    def copy(self) -> TaskRunningMeanStd:
        return copy.deepcopy(self)


@dataclass
class _Statistics:
    """What a normaliser and its views share. ``returns`` (n_tasks, n_envs_per_task): discounted so far."""

    obs_rms: dict[str, TaskRunningMeanStd]
    ret_rms: TaskRunningMeanStd
    returns: np.ndarray


class MultiTaskVecNormalize(VecNormalize):
    """SB3's ``VecNormalize`` with statistics per task, so that no task's scale reaches another.

    Same arguments as ``VecNormalize`` (``norm_obs_keys`` is always ``["obs"]``). All statistics live in
    ``obs_rms["obs"]`` and ``ret_rms`` (leading axis: task), which is what ``sync_envs_normalization`` copies.

    :param venv: a ``MultiTaskVecEnv``, one of its task views, or a ``TaskCyclingVecEnv`` over it
    :raises TypeError: if ``venv`` has no tasks
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
        observation_space = cast("spaces.Dict", venv.observation_space)
        obs_shape = cast("spaces.Box", observation_space["obs"]).shape
        n_tasks = venv.n_tasks
        self._statistics = _Statistics({}, TaskRunningMeanStd(n_tasks), np.zeros(0))
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
        # SB3's constructor filled in statistics without a task axis.
        self.obs_rms = {"obs": TaskRunningMeanStd(n_tasks, obs_shape)}
        self.ret_rms = TaskRunningMeanStd(n_tasks)
        self.returns = np.zeros((n_tasks, venv.n_envs_per_task))
        self._n_rows_of_all = n_tasks * venv.n_envs_per_task

    def __getstate__(self) -> dict[str, Any]:
        """Everything but the VecEnv, for ``save`` and ``pickle``."""
        state = self.__dict__.copy()
        del state["venv"], state["class_attributes"]
        return state

    def set_venv(self, venv: Any) -> None:
        """After unpickling: the VecEnv to wrap."""
        super().set_venv(venv)
        self._n_rows_of_all = venv.n_tasks * venv.n_envs_per_task
        self.returns = np.zeros((venv.n_tasks, venv.n_envs_per_task))

    # Statistics are properties, so that replacing them here replaces them in every view.

    @property  # type: ignore[override]  # dict values are ours
    def obs_rms(self) -> dict[str, TaskRunningMeanStd]:
        return self._statistics.obs_rms

    @obs_rms.setter
    def obs_rms(self, value: dict[str, TaskRunningMeanStd]) -> None:
        self._statistics.obs_rms = value

    @property  # type: ignore[override]  # ours has a task axis
    def ret_rms(self) -> TaskRunningMeanStd:
        return self._statistics.ret_rms

    @ret_rms.setter
    def ret_rms(self, value: TaskRunningMeanStd) -> None:
        self._statistics.ret_rms = value

    @property
    def returns(self) -> np.ndarray:
        return self._statistics.returns

    @returns.setter
    def returns(self, value: np.ndarray) -> None:
        self._statistics.returns = value

    def over(self, venv: Any) -> Self:
        """A normaliser over another VecEnv of the same tasks that shares these statistics.

        Flags (``training``, ``norm_reward``, ...) are copied, and may be set on each.
        """
        other = object.__new__(type(self))
        other.__dict__.update(self.__dict__)
        VecEnvWrapper.__init__(other, venv)
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
        if self.training and self.norm_obs and self.venv.first_visit:
            self.obs_rms["obs"].update_tasks(self._present(), _by_task(obs["obs"], self.venv.n_envs_per_task))
        return self.normalize_obs(obs)

    def reset(self) -> TaskObs:
        obs = cast("TaskObs", self.venv.reset())
        self.old_obs = obs
        task_ids = getattr(self.venv, "reset_task_ids", self.venv.task_ids)
        self.returns[task_ids] = 0.0
        if self.training and self.norm_obs:
            self.obs_rms["obs"].update_tasks(self._present(), _by_task(obs["obs"], self.venv.n_envs_per_task))
        return self.normalize_obs(obs)

    def step_wait(self) -> StepReturn:
        obs, rewards, dones, infos = self.venv.step_wait()
        self.old_obs, self.old_reward = obs, rewards
        tasks, n = self._present(), self.venv.n_envs_per_task
        if self.training:
            if self.norm_obs:
                self.obs_rms["obs"].update_tasks(tasks, _by_task(obs["obs"], n))
            returns = self.returns[tasks] * self.gamma
            returns += _by_task(rewards, n)
            self.returns[tasks] = returns
            self.ret_rms.update_tasks(tasks, returns)
        if dones.any():
            for i in dones.nonzero()[0].tolist():
                infos[i]["terminal_observation"] = self.normalize_obs(infos[i]["terminal_observation"])
                self.returns[obs["task"][i], i % n] = 0.0
        return self._normalize_rows(obs, tasks), self.normalize_reward(rewards), dones, infos

    def _present(self) -> Tasks:
        """The tasks of the rows, for indexing what has a task axis."""
        venv = self.venv
        if venv.num_envs == self._n_rows_of_all:
            return slice(None)
        task_ids: np.ndarray = venv.task_ids[:: venv.n_envs_per_task]
        return task_ids

    def _normalize_rows(self, obs: TaskObs, tasks: Tasks) -> TaskObs:
        """:meth:`normalize_obs` for all rows of the VecEnv, without looking up the task of each."""
        if not self.norm_obs:
            return dict(obs)
        rms = self.obs_rms["obs"]
        normalized = _by_task(obs["obs"], self.venv.n_envs_per_task) - rms.mean[tasks][:, None]
        normalized /= np.sqrt(rms.var[tasks] + self.epsilon)[:, None]
        _clip(normalized, self.clip_obs)
        return {**obs, "obs": normalized.reshape(obs["obs"].shape).astype(np.float32)}

    def normalize_obs(self, obs: TaskObs) -> TaskObs:  # type: ignore[override]
        """Normalise observations of any rows with the statistics of the tasks they carry; updates nothing.

        :param obs: ``{"obs": (..., obs_dim), "task": (...,)}``
        """
        if not self.norm_obs:
            return dict(obs)
        rms, task = self.obs_rms["obs"], obs["task"]
        normalized = (obs["obs"] - rms.mean[task]) / np.sqrt(rms.var[task] + self.epsilon)
        return {**obs, "obs": _clip(normalized, self.clip_obs).astype(np.float32)}

    def unnormalize_obs(self, obs: TaskObs) -> TaskObs:  # type: ignore[override]
        """The inverse of :meth:`normalize_obs`, but for what was clipped."""
        if not self.norm_obs:
            return dict(obs)
        rms, task = self.obs_rms["obs"], obs["task"]
        return {**obs, "obs": obs["obs"] * np.sqrt(rms.var[task] + self.epsilon) + rms.mean[task]}

    def normalize_reward(self, reward: np.ndarray) -> np.ndarray:
        """Scale the rewards of all rows, (num_envs,), by the statistics of their tasks; updates nothing."""
        if self.norm_reward:
            std = np.sqrt(self.ret_rms.var[self._present()] + self.epsilon)
            scaled = _by_task(reward, self.venv.n_envs_per_task) / std[:, None]
            reward = _clip(scaled, self.clip_reward).reshape(-1)
        return reward.astype(np.float32)

    def unnormalize_reward(self, reward: np.ndarray) -> np.ndarray:
        """The inverse of :meth:`normalize_reward`, but for what was clipped."""
        if self.norm_reward:
            reward = reward * np.sqrt(self.ret_rms.var[self.venv.task_ids] + self.epsilon)
        return reward

    def get_state(self) -> dict[str, Any]:
        """Statistics and settings, as travel with a model: plain values and arrays, copied."""
        settings = ("norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon")
        state: dict[str, Any] = {name: getattr(self, name) for name in settings}
        for name, rms in {"obs_rms": self.obs_rms["obs"], "ret_rms": self.ret_rms}.items():
            state[name] = {"mean": rms.mean.copy(), "var": rms.var.copy(), "count": rms.count.copy()}
        return state

    def set_state(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`get_state` returned.

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
                setattr(rms, name, value.copy())
        for name, value in state.items():
            if not name.endswith("_rms"):
                setattr(self, name, value)


def _by_task(rows: np.ndarray, n_envs_per_task: int) -> np.ndarray:
    """(num_envs, ...) -> (k, n_envs_per_task, ...): rows come grouped by task."""
    return rows.reshape(-1, n_envs_per_task, *rows.shape[1:])


def _clip(values: np.ndarray, limit: float) -> np.ndarray:
    """Clip to ±limit in place: ``np.clip`` takes three times as long on arrays of this size."""
    np.maximum(values, -limit, out=values)
    np.minimum(values, limit, out=values)
    return values
