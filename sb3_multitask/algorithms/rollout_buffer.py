"""SB3's rollout buffer with what else is known of each row: whether it is learned from, and what a teacher would do."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple, Self

import numpy as np
import torch as th
from gymnasium.spaces import Discrete
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.type_aliases import TensorDict
from stable_baselines3.common.vec_env import VecNormalize

from sb3_multitask.process.arrays import aligned_zeros
from sb3_multitask.process.kernels import load_kernels


class TaskRolloutBufferSamples(NamedTuple):
    """SB3's samples, and for each row of the batch the further columns of :class:`TaskRolloutBuffer`.

    ``keep`` (batch,) bool, ``None``: all rows are learned from; ``teacher_mean`` and ``teacher_log_std`` (batch,
    action_dim), ``None`` without teachers; ``teacher_features`` (batch, units of the widest teacher's last hidden
    layer), ``None`` without feature regression.
    """

    observations: TensorDict
    actions: th.Tensor
    old_values: th.Tensor
    old_log_prob: th.Tensor
    advantages: th.Tensor
    returns: th.Tensor
    keep: th.Tensor | None = None
    teacher_mean: th.Tensor | None = None
    teacher_log_std: th.Tensor | None = None
    teacher_features: th.Tensor | None = None

    def kept(self) -> Self:
        """The samples of the rows that are learned from."""
        if self.keep is None:
            return self
        observations = {name: value[self.keep] for name, value in self.observations.items()}
        others: dict[str, Any] = {
            name: None if value is None else value[self.keep]
            for name, value in self._asdict().items()
            if name != "observations"
        }
        return self._replace(observations=observations, **others)


@dataclass(frozen=True)
class _Memory:
    """Arrays of a rollout of T steps and n envs; ``observations`` and ``episode_starts`` have a row for after it."""

    observations: dict[str, np.ndarray]
    episode_starts: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    values: np.ndarray
    log_probs: np.ndarray
    advantages: np.ndarray
    returns: np.ndarray


class TaskRolloutBuffer(DictRolloutBuffer):
    """SB3's ``DictRolloutBuffer`` with columns that stay beside their rows, for any number of epochs and minibatches.

    It draws exactly SB3's permutations. The columns are filled while a rollout is collected, and hold until the next.
    Observations are kept as float32, which is what policies take.
    """

    def reset(self) -> None:
        """Begin a rollout in memory of its own, as SB3's buffer."""
        self._memory = self._allocate()
        self.begin()

    def begin(self) -> None:
        """Begin a rollout in the memory of the last one; every step of it will be written."""
        memory = self._memory
        self.observations = {name: rows[:-1] for name, rows in memory.observations.items()}
        self.episode_starts = memory.episode_starts[:-1]
        self.actions, self.rewards, self.values = memory.actions, memory.rewards, memory.values
        self.log_probs, self.advantages, self.returns = memory.log_probs, memory.advantages, memory.returns
        self.pos, self.full, self.generator_ready = 0, False, False
        self.faults: list[tuple[int, int]] = []
        self.targets: tuple[np.ndarray, np.ndarray] | None = None
        self.teacher_features: np.ndarray | None = None
        self._flat: dict[str, np.ndarray] | None = None

    def _allocate(self) -> _Memory:
        def zeros(n_rows: int, *shape: int, dtype: Any = np.float32) -> np.ndarray:
            return aligned_zeros((n_rows, self.n_envs, *shape), np.dtype(dtype))

        n_steps, spaces_of = self.buffer_size, self.observation_space.spaces
        observations = {
            name: zeros(n_steps + 1, *shape, dtype=np.int64 if isinstance(spaces_of[name], Discrete) else np.float32)
            for name, shape in self.obs_shape.items()
        }
        of_steps = (zeros(n_steps) for _ in range(5))
        return _Memory(observations, zeros(n_steps + 1), zeros(n_steps, self.action_dim), *of_steps)

    @property
    def observation_rows(self) -> dict[str, np.ndarray]:
        """The memory of the observations, and of those after the rollout: (n_steps + 1, n_envs, ...)."""
        return self._memory.observations

    @property
    def episode_start_rows(self) -> np.ndarray:
        """The memory of ``episode_starts``, and whether the last step ended an episode: (n_steps + 1, n_envs)."""
        return self._memory.episode_starts

    def finish(self, values: np.ndarray, log_probs: np.ndarray | None) -> None:
        """Compute advantages and returns of a rollout whose rows were written into the memory.

        :param values: of the observations, and of those after the rollout, (n_steps + 1, n_envs)
        :param log_probs: of the actions, (n_steps, n_envs); ``None`` leaves NaN
        """
        self.values[...] = values[:-1]
        self.log_probs[...] = np.nan if log_probs is None else log_probs
        kernels, of_rewards = load_kernels("fast"), (self.rewards, values, self.episode_start_rows)
        if kernels is None:
            self.advantages[...] = generalized_advantages(*of_rewards, self.gamma, self.gae_lambda)
            np.add(self.advantages, self.values, out=self.returns)
        else:
            decays = float(self.gamma), float(self.gae_lambda)  # for whole numbers it would be compiled again
            kernels.advantages(*of_rewards, *decays, self.advantages, self.returns)
        self.pos, self.full = self.buffer_size, True

    def add_rewards(self, extra: np.ndarray) -> None:
        """Add to the rewards of a whole rollout, and to its advantages and returns, which are linear in them.

        :param extra: (n_steps, n_envs); an episode that a time limit cut keeps the value that its last reward has
        """
        n_steps, n_envs = self.rewards.shape
        extra = extra.astype(self.rewards.dtype)
        starts = np.concatenate([self.episode_starts, np.zeros((1, n_envs), self.episode_starts.dtype)])
        no_values = np.zeros((n_steps + 1, n_envs), self.rewards.dtype)
        self.rewards += extra
        self.advantages += generalized_advantages(extra, no_values, starts, self.gamma, self.gae_lambda)
        np.add(self.advantages, self.values, out=self.returns)

    def by_step(self, name: str) -> np.ndarray:
        """A column of the rollout, (n_steps, n_envs, dim), whether or not :meth:`get` has reordered its rows.

        :param name: "obs", "task", or an attribute such as "actions"
        """
        array: np.ndarray = self.observations[name] if name in self.observations else getattr(self, name)
        if self.generator_ready:  # SB3 has flattened it, environment by environment
            return array.reshape(self.n_envs, self.buffer_size, -1).swapaxes(0, 1)
        return array.reshape(self.buffer_size, self.n_envs, -1)

    def note_fault(self, step: int, env: int) -> None:
        """Note that a fault was quarantined at a step of a sub-environment."""
        self.faults.append((step, env))
        self._flat = None

    @property
    def keep(self) -> np.ndarray | None:
        """Which rows are learned from, (n_steps, n_envs) bool; None for all.

        A fault takes with it the steps before it of the same episode, whose returns would have gone on through it.
        """
        if not self.faults:
            return None
        keep = np.ones((self.buffer_size, self.n_envs), dtype=bool)
        for step, env in self.faults:
            starts = self.episode_starts[: step + 1, env].nonzero()[0]
            keep[(starts[-1] if len(starts) else 0) : step + 1, env] = False
        return keep

    def kept_returns(self) -> tuple[np.ndarray, np.ndarray]:
        """Return returns and tasks of the rows that are learned from, (n_rows,) each."""
        returns, tasks = self.by_step("returns")[:, :, 0], self.by_step("task")[:, :, 0].astype(np.int64, copy=False)
        keep = self.keep
        return (returns.ravel(), tasks.ravel()) if keep is None else (returns[keep], tasks[keep])

    def set_targets(self, mean: np.ndarray, log_std: np.ndarray) -> None:
        """Set what the teachers would have done in the rollout.

        :param mean: of their actions, (n_steps, n_envs, action_dim)
        :param log_std: (n_steps, n_envs, action_dim)
        """
        self.targets, self._flat = (mean, log_std), None

    def set_teacher_features(self, features: np.ndarray) -> None:
        """Set the activations of the teachers' last hidden layers in the rollout, (n_steps, n_envs, dim)."""
        self.teacher_features, self._flat = features, None

    def _columns(self) -> dict[str, np.ndarray]:
        """The columns in the order of SB3's flattened rows: environment by environment."""
        if self._flat is None:
            keep, targets = self.keep, self.targets
            columns = {} if keep is None else {"keep": keep}
            columns |= {} if targets is None else {"teacher_mean": targets[0], "teacher_log_std": targets[1]}
            columns |= {} if self.teacher_features is None else {"teacher_features": self.teacher_features}
            self._flat = {
                name: column.swapaxes(0, 1).reshape(-1, *column.shape[2:]) for name, column in columns.items()
            }
        return self._flat

    def _get_samples(  # type: ignore[override]  # it has more fields
        self, batch_inds: np.ndarray, env: VecNormalize | None = None
    ) -> TaskRolloutBufferSamples:
        samples: Any = super()._get_samples(batch_inds, env)
        columns: dict[str, Any] = {name: self.to_torch(column[batch_inds]) for name, column in self._columns().items()}
        return TaskRolloutBufferSamples(*samples, **columns)


class KeptRowsRolloutBuffer(TaskRolloutBuffer):
    """A buffer that gives only the rows that are learned from, for algorithms that do not look at ``keep``."""

    def get(  # type: ignore[override]  # its samples have more fields
        self, batch_size: int | None = None
    ) -> Iterator[TaskRolloutBufferSamples]:
        for samples in super().get(batch_size):
            kept = samples.kept()  # type: ignore[attr-defined]
            if len(kept.actions):
                yield kept


def present_tasks(buffer: DictRolloutBuffer, keep: np.ndarray | None, n_tasks: int) -> list[bool]:
    """Whether any row of a task is learned from in a rollout, (n_tasks,).

    :param keep: which rows are learned from, (n_steps, n_envs); ``None``: all
    """
    tasks = np.asarray(buffer.observations["task"]).astype(np.int64, copy=False)
    if keep is not None and isinstance(buffer, TaskRolloutBuffer):
        tasks = buffer.by_step("task")[keep]
    present: list[bool] = (np.bincount(tasks.ravel(), minlength=n_tasks) > 0).tolist()
    return present


def generalized_advantages(
    rewards: np.ndarray, values: np.ndarray, episode_starts: np.ndarray, gamma: float, gae_lambda: float
) -> np.ndarray:
    """Generalised advantages (Schulman et al. 2016, eq. 16), as ``RolloutBuffer.compute_returns_and_advantage``.

    :param rewards: (n_steps, n_envs)
    :param values: of the observations, and of those after the rollout, (n_steps + 1, n_envs)
    :param episode_starts: whether an observation begins an episode, (n_steps + 1, n_envs)
    :return: (n_steps, n_envs)
    """
    alive = 1.0 - episode_starts[1:]
    advantages: np.ndarray = rewards + gamma * values[1:] * alive - values[:-1]
    alive *= gamma * gae_lambda
    for step in reversed(range(len(rewards) - 1)):
        advantages[step] += alive[step] * advantages[step + 1]
    return advantages


def task_buffer(buffer: RolloutBuffer, purpose: str) -> TaskRolloutBuffer:
    """Return a buffer that is one for tasks.

    :param purpose: for which it must be one
    :raises ValueError: if it is another
    """
    if not isinstance(buffer, TaskRolloutBuffer):
        raise ValueError(
            f"`rollout_buffer_class` is {type(buffer).__name__}, which cannot {purpose}: derive it from "
            "sb3_multitask.algorithms.rollout_buffer.TaskRolloutBuffer"
        )
    return buffer
