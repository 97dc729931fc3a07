"""The callback that writes checkpoints and resumes from them."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from stable_baselines3.common.callbacks import BaseCallback

from sb3_multitask.algorithms import ALGORITHMS, has_ability
from sb3_multitask.checkpoint import format as checkpoint_format
from sb3_multitask.checkpoint.format import CheckpointError
from sb3_multitask.checkpoint.snapshot import Baseline, baseline_of, capture, restore, why_inexact
from sb3_multitask.storage.files import SaveError


class TrainingInterrupted(KeyboardInterrupt):
    """Training stopped on request, after it wrote a checkpoint."""


class ResumableCheckpointCallback(BaseCallback):
    """Write checkpoints from which the same script, started again, resumes to the same bits.

    Pass it to ``learn`` of an ``A2CMultiTask``, ``PPOMultiTask`` or ``TRPOMultiTask`` and, after a kill or a crash, run
    the same script again. Training resumes from the newest valid checkpoint in ``save_path``, and ends with the
    weights, statistics, monitor rows and evaluations of a run that was never interrupted. Checkpoints are taken at the
    start of a rollout; they hold model, optimizer, normaliser, environments, counters, callbacks and all random number
    generators.

    These cannot be stored completely, and a warning says so at the start: environments that are neither MuJoCo's nor
    have ``get_state()`` and ``set_state(state)``, and callbacks with attributes other than numbers that lack these
    methods.

    :param save_path: folder of a single run's checkpoints; each checkpoint is a folder ``<steps>`` in it
    :param every: environment steps between two checkpoints; one more is written at the end of training
    :param keep: number of the newest checkpoints to keep
    :param resume: resume from the newest checkpoint; ``False`` refuses a folder that holds one
    :param verbose: 1 prints the checkpoint from which training resumes
    :raises ValueError: if ``every`` or ``keep`` is below 1

    When training starts, a folder in use by another process raises a ``CheckpointError``, and a folder that is not
    writable a ``SaveError``.
    """

    def __init__(
        self,
        save_path: str | Path = "checkpoints",
        every: int = 100_000,
        keep: int = 2,
        resume: bool = True,
        verbose: int = 1,
    ) -> None:
        super().__init__(verbose)
        for name, value in {"every": every, "keep": keep}.items():
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1 (got {value})")
        self.save_path = Path(save_path)
        self.every, self.keep, self.resume = every, keep, resume
        self.resumed_from: Path | None = None
        self._root: BaseCallback = self
        self._to_restore: dict[str, Any] | None = None
        self._last_saved = 0
        self._must_stop: str | None = None
        self._lock: FileLock | None = None
        self._baseline: Baseline | None = None
        self._has_trained = False
        self._is_between_rollouts = True

    def stop(self, reason: str) -> None:
        """Write a checkpoint at the next start of a rollout and raise :class:`TrainingInterrupted` there."""
        self._must_stop = reason

    def get_state(self) -> dict[str, Any]:
        """Return no state: the script defines the settings."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Do nothing, since there is no state."""

    def _init_callback(self) -> None:
        if not has_ability(self.model, "resumable"):
            able = [algorithm.__name__ for algorithm in ALGORITHMS.values() if has_ability(algorithm, "resumable")]
            raise TypeError(
                f"ResumableCheckpointCallback needs an {' or '.join(able)} (got a {type(self.model).__name__})"
            )

    def _on_training_start(self) -> None:
        self._lock_folder()
        self._root = self.locals.get("callback", self)
        self._is_between_rollouts = True
        self._baseline = baseline_of(self._model, self._root)
        if self._has_trained and self.model.num_timesteps < self._last_saved:
            raise ValueError(
                f"learn() was called again from 0 steps, and {self.save_path} holds checkpoints of the first call: "
                "continue with reset_num_timesteps=False, or give the second call a callback with another folder."
            )
        newest = None if self._has_trained else checkpoint_format.read_latest(self.save_path)
        self._has_trained = True
        self._last_saved = self.model.num_timesteps
        if newest is None:
            self._announce_inexact(why_inexact(self._model, self._root))
            return
        path, snapshot = newest
        if not self.resume:
            raise ValueError(f"{self.save_path} holds checkpoints already ({path.name}): choose another folder")
        self._announce_inexact(why_inexact(self._model, self._root, snapshot))
        self._restore(path, snapshot)
        one_rollout = self._model.n_steps * self._model.n_envs
        if self.model.num_timesteps >= self.model._total_timesteps + one_rollout:
            raise CheckpointError(
                f"{path} lies beyond the {self.model._total_timesteps:,} steps of this learn(). A script that calls "
                "learn() several times cannot be resumed: make it one call, or give each its own callback and folder."
            )
        self.resumed_from, self._to_restore = path, snapshot
        checkpoint_format.remove_old(path, self.keep)  # the earlier process may have been killed before it did so
        if self.verbose >= 1:
            print(f"Resuming from {path} at {self.model.num_timesteps:,} steps")  # noqa: T201

    def _lock_folder(self) -> None:
        """Lock the folder for this process, so that checkpoints of two processes are not mixed.

        The lock is released when training or the process ends, in any way.
        """
        if self._lock is not None and self._lock.is_locked:
            return
        try:
            self.save_path.mkdir(parents=True, exist_ok=True)
            self._lock = FileLock(self.save_path.absolute() / ".lock", timeout=0, is_singleton=True)
            self._lock.acquire()
        except Timeout:
            raise CheckpointError(
                f"{self.save_path} is in use by another process, whose checkpoints would be mixed up with this one's. "
                "Wait for it, or choose another folder."
            ) from None
        except OSError as e:
            raise SaveError(f"Cannot write checkpoints to {self.save_path}: {e.strerror or e}") from e

    def _on_rollout_end(self) -> None:
        self._is_between_rollouts = True

    def _on_rollout_start(self) -> None:
        if self._to_restore is not None:  # again, after every callback's start of training
            assert self.resumed_from is not None
            self._restore(self.resumed_from, self._to_restore)
            self._to_restore = None
        self._is_between_rollouts = False
        steps = self.model.num_timesteps
        if self._must_stop is not None:
            self.save()
            raise TrainingInterrupted(f"{self._must_stop}: checkpoint at {steps:,} steps")
        if steps // self.every > self._last_saved // self.every:
            self.save()

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        # A callback that ended training in the middle of a rollout ends it again after a resume.
        if self.model.num_timesteps > self._last_saved and self._is_between_rollouts:
            self.save()
        if self._lock is not None:
            self._lock.release(force=True)

    def save(self) -> None:
        """Write a checkpoint. Call it only at the start of a rollout, or between calls of ``learn``.

        :raises SaveError: if it cannot be written; earlier checkpoints remain
        """
        assert self._baseline is not None, "only while training, or after it"
        steps = self.model.num_timesteps
        checkpoint_format.save_step(self.save_path, steps, capture(self._model, self._root, self._baseline), self.keep)
        self._last_saved = steps

    def _restore(self, path: Path, snapshot: dict[str, Any]) -> None:
        try:
            assert self._baseline is not None
            restore(self._model, self._root, snapshot, self._baseline)
        except CheckpointError as e:
            raise CheckpointError(f"{path}: {e}") from e
        except (KeyError, TypeError, ValueError, RuntimeError) as e:
            raise CheckpointError(f"{path}: does not fit this model: {type(e).__name__}: {e}") from e
        self._last_saved = self.model.num_timesteps

    @property
    def _model(self) -> Any:
        return self.model

    def _announce_inexact(self, reasons: list[str]) -> None:
        if reasons:
            warnings.warn(
                "A run that resumes from a checkpoint will not make the same bits: " + "; ".join(reasons), stacklevel=2
            )
