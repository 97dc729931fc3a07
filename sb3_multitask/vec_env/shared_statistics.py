"""The statistics of a normaliser and its views: one table, under SB3's names, as plain values and in files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecNormalize

from sb3_multitask.envs.task_space import TaskSizes
from sb3_multitask.storage.files import replacing
from sb3_multitask.vec_env.copies import Copies
from sb3_multitask.vec_env.statistics import ObsRms, TaskMoments, TaskRunningMeanStd


@dataclass
class SharedMoments:
    """The table that a normaliser and its views share; assigning ``moments`` replaces it for all of them."""

    moments: TaskMoments


class SharedStatistics(VecNormalize):
    """The part of :class:`MultiTaskVecNormalize` that holds, saves and restores statistics and discounted returns."""

    def _make_statistics(self, sizes: TaskSizes) -> None:
        """Make the initial statistics."""
        n_tasks, obs_dim = sizes.obs_mask.shape
        self._shared = SharedMoments(TaskMoments(n_tasks, obs_dim, obs_mask=sizes.obs_mask))
        self._obs_columns, self._ret_column = slice(0, obs_dim), slice(obs_dim, obs_dim + 1)
        self._obs_dims = sizes.obs_dims

    def _check_sizes(self, sizes: TaskSizes) -> None:
        """Raise ValueError unless these statistics, of a file, are of observations of these sizes."""
        n_tasks, obs_dim = self.obs_rms["obs"].mean.shape
        # Files of earlier releases have no sizes: all tasks were as wide.
        self._obs_dims = vars(self).get("_obs_dims", np.full(n_tasks, obs_dim))
        if sizes.obs_dim != obs_dim or not np.array_equal(self._obs_dims, sizes.obs_dims):
            raise ValueError(
                "These statistics are of observations of other sizes.\n"
                f"  statistics: {self._obs_dims.tolist()}, {obs_dim} with padding\n"
                f"  env:        {sizes.obs_dims.tolist()}, {sizes.obs_dim} with padding"
            )

    def _make_returns(self, venv: Any) -> None:
        """Make the discounted returns of every sub-environment, (n_rows of all tasks,), shared with the views."""
        self._copies: Copies = venv.copies
        self._row_bounds = np.array(self._copies.bounds)
        self._returns = np.zeros(self._copies.n_rows)

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
        """Discounted returns, (n_tasks, copies); of tasks with different numbers of copies (n_rows,), task by task."""
        n_tasks = len(self._copies.of_tasks)
        return self._returns.reshape(n_tasks, -1) if self._copies.are_equal else self._returns

    @returns.setter
    def returns(self, value: np.ndarray) -> None:
        value = np.ravel(value)
        if value.size == self._returns.size:
            self._returns[...] = value
        else:  # those of one task, for all: SB3 assigns zeros in its constructor
            self.returns[...] = value

    def get_statistics(self) -> dict[str, Any]:
        """Return copies of the statistics of observations and returns, as plain values and arrays."""
        state: dict[str, Any] = {name: getattr(self, name) for name in ("norm_obs", "clip_obs", "epsilon")}
        for name, rms in {"obs_rms": self.obs_rms["obs"], "ret_rms": self.ret_rms}.items():
            state[name] = {"mean": rms.mean.copy(), "var": rms.var.copy(), "count": rms.count.copy()}
        return state

    def set_statistics(self, state: dict[str, Any]) -> None:
        """Restore statistics that :meth:`get_statistics` returned, without the flags of rewards.

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
        """Return the complete state: the statistics, the discounted returns, and the flags."""
        flags = {name: getattr(self, name) for name in ("training", "norm_reward", "clip_reward", "gamma")}
        old_obs = getattr(self, "old_obs", None)
        return {
            "statistics": self.get_statistics(),
            "returns": self.returns.copy(),
            "old_obs": None if old_obs is None else dict(old_obs),
            "flags": flags,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore a state that :meth:`get_state` returned."""
        self.set_statistics(state["statistics"])
        self.returns = state["returns"]
        if state["old_obs"] is not None:
            self.old_obs = dict(state["old_obs"])
        for name, value in state["flags"].items():
            setattr(self, name, value)

    def __getstate__(self) -> dict[str, Any]:
        """Return all attributes except the VecEnv, for ``save`` and ``pickle``."""
        state = self.__dict__.copy()
        del state["venv"], state["class_attributes"]
        return state

    def save(self, save_path: str | Path) -> None:
        """Save the statistics, as in SB3; an existing file is replaced only by a complete one.

        :raises SaveError: if it cannot be written
        """
        with replacing(save_path) as beside:
            super().save(str(beside))
