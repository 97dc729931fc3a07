"""SB3's rollout buffer with what else is known of each row: whether it is learned from, and what a teacher would do."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import numpy as np
import torch as th
from stable_baselines3.common.buffers import DictRolloutBuffer
from stable_baselines3.common.type_aliases import TensorDict
from stable_baselines3.common.vec_env import VecNormalize


class TaskRolloutBufferSamples(NamedTuple):
    """SB3's samples, and for each row of the batch what :class:`TaskRolloutBuffer` keeps beside.

    ``keep`` (batch,) bool, ``None``: all rows are learned from; ``teacher_mean`` and ``teacher_log_std`` (batch,
    action_dim), ``None`` without teachers.
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


class TaskRolloutBuffer(DictRolloutBuffer):
    """SB3's ``DictRolloutBuffer`` with columns that stay beside their rows, for any number of epochs and minibatches.

    It draws exactly SB3's permutations. The columns are filled while a rollout is collected, and hold until the next.
    """

    def reset(self) -> None:
        super().reset()
        self.clear_columns()

    def clear_columns(self) -> None:
        """Forget what was known of the last rollout's rows."""
        self.faults: list[tuple[int, int]] = []
        self._targets: tuple[np.ndarray, np.ndarray] | None = None
        self._flat: dict[str, np.ndarray] | None = None

    def note_fault(self, step: int, env: int) -> None:
        """A fault was quarantined at a step of a sub-environment."""
        self.faults.append((step, env))

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

    def set_targets(self, mean: np.ndarray, log_std: np.ndarray) -> None:
        """What the teachers would have done in the rollout.

        :param mean: of their actions, (n_steps, n_envs, action_dim)
        :param log_std: (n_steps, n_envs, action_dim)
        """
        self._targets = mean, log_std

    def _columns(self) -> dict[str, np.ndarray]:
        """The columns in the order of SB3's flattened rows: environment by environment."""
        if self._flat is None:
            keep, targets = self.keep, self._targets
            columns = {} if keep is None else {"keep": keep}
            columns |= {} if targets is None else {"teacher_mean": targets[0], "teacher_log_std": targets[1]}
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
