"""How the gradients of a run's tasks conflict: ``conflicts.npz`` of its folder, written and read.

=============  =======================================================================================
``timesteps``  environment steps at each measurement, (n,)
``task_names``  (n_tasks,)
``actor``      cosines between the tasks' gradients, (n, n_tasks, n_tasks) float32; NaN for a task without
               rows, and throughout if the net was not measured
``critic``     the critic's
=============  =======================================================================================
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback

from sb3_multitask.checkpoint import ResumableCheckpointCallback
from sb3_multitask.checkpoint.snapshot import descend
from sb3_multitask.combiners import NETS, Net, pair_statistics
from sb3_multitask.readers import UnreadableFileError, read_npz
from sb3_multitask.storage.files import replacing

_MAX_MEASUREMENTS, _MIN_MEASUREMENTS = 512, 16
_MAX_NUMBERS = 2**20  # of both nets: 4 MB, unless the least number of measurements has more

_DECIMALS = 6  # of what reports read, and keep as JSON


class ConflictsCallback(BaseCallback):
    """Keep in a file how the gradients of the tasks conflict, as often as ``conflict_freq`` measures it.

    The file is written whenever the steps pass a multiple of ``every``, and at the end of training. It has at most
    512 measurements, fewer of more than 32 tasks, and 16 of more than 181: when there are more, every second one is
    dropped, and from then on only every second one is added. So they stay evenly apart, whatever the length of the
    training. Checkpoints hold them, so that a run that resumes ends with the same file.

    Pass it to ``learn`` before a ``ResumableCheckpointCallback``.

    :param path: the file, such as ``conflicts.npz``
    :param every: environment steps between two writes
    :raises ValueError: if ``every`` is below 1; when training starts, if the model does not measure conflicts, or a
        ``ResumableCheckpointCallback`` comes first, whose checkpoints would lack the latest measurement
    """

    def __init__(self, path: str | Path, every: int = 100_000) -> None:
        super().__init__()
        if every < 1:
            raise ValueError(f"`every` must be at least 1 (got {every})")
        self.path, self.every = Path(path), every
        self._timesteps: list[int] = []
        self._cosines: list[np.ndarray] = []  # (2, n_tasks, n_tasks) of each measurement
        self._n_measured = 0
        self._stride = 1  # of the measurements, these are kept whose index is its multiple
        self._last_measured = -1
        self._last_timesteps = 0

    def get_state(self) -> dict[str, Any]:
        """Return all measurements so far, for a checkpoint."""
        return {
            "timesteps": list(self._timesteps),
            "cosines": np.array(self._cosines, dtype=np.float32),
            "n_measured": self._n_measured,
            "stride": self._stride,
            "last_measured": self._last_measured,
            "last_timesteps": self._last_timesteps,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore a state that :meth:`get_state` returned."""
        self._timesteps, self._cosines = list(state["timesteps"]), list(state["cosines"])
        self._n_measured, self._stride = state["n_measured"], state["stride"]
        self._last_measured, self._last_timesteps = state["last_measured"], state["last_timesteps"]

    def _on_training_start(self) -> None:
        if not getattr(self.model, "conflict_freq", 0):
            raise ValueError(
                f"ConflictsCallback needs a model that measures conflicts (got a {type(self.model).__name__} without "
                "them): make an A2CMultiTask or PPOMultiTask with `conflict_freq` of at least 1"
            )
        in_order = descend(self.locals.get("callback", self))
        if next(one for one in in_order if isinstance(one, ResumableCheckpointCallback) or one is self) is not self:
            raise ValueError("ConflictsCallback must come before ResumableCheckpointCallback in the list of callbacks")
        self._last_timesteps = self.num_timesteps

    def _on_rollout_start(self) -> None:
        self._take_measurement()
        if self.model.num_timesteps // self.every > self._last_timesteps // self.every:
            self._write()
        self._last_timesteps = self.model.num_timesteps

    def _on_step(self) -> bool:
        return True

    def _on_training_end(self) -> None:
        self._take_measurement()
        self._write()

    def _take_measurement(self) -> None:
        """Take the cosines of the update that has just been made, if it measured them."""
        combining: Any = self.model.combining  # type: ignore[attr-defined]
        at = combining.measured_at
        if not combining.cosines or at != self.model.num_timesteps or at == self._last_measured:
            return
        self._last_measured = at
        index, self._n_measured = self._n_measured, self._n_measured + 1
        if index % self._stride:
            return
        n = combining.n_tasks
        unknown = np.full((n, n), np.nan)
        self._timesteps.append(at)
        self._cosines.append(np.array([combining.cosines.get(net, unknown) for net in NETS], dtype=np.float32))
        if len(self._timesteps) > max_measurements(n):
            self._timesteps, self._cosines = self._timesteps[::2], self._cosines[::2]
            self._stride *= 2

    def _write(self) -> None:
        if not self._timesteps:
            return
        cosines = np.stack(self._cosines, axis=1)
        names: Any = self.model.task_names  # type: ignore[attr-defined]
        with replacing(self.path) as temporary:
            np.savez(
                temporary,
                timesteps=self._timesteps,
                task_names=np.array(names),
                **dict(zip(NETS, cosines, strict=True)),
            )


def max_measurements(n_tasks: int) -> int:
    """Return how many measurements a file has at most."""
    of_that_size = _MAX_NUMBERS // (len(NETS) * n_tasks**2)
    return max(_MIN_MEASUREMENTS, min(_MAX_MEASUREMENTS, of_that_size))


@dataclass(frozen=True)
class Conflicts:
    """How the gradients of a run's tasks conflicted, over the measurements of its file; NaN where nothing was measured.

    :param timesteps: environment steps over all tasks at each measurement, (n,)
    :param cosines: net -> mean over the measurements, (n_tasks, n_tasks)
    :param means: net -> mean cosine over all pairs of tasks at each measurement, (n,)
    :param negative_shares: net -> share of the pairs whose cosine is negative, (n,)
    """

    task_names: tuple[str, ...]
    timesteps: np.ndarray
    cosines: Mapping[Net, np.ndarray]
    means: Mapping[Net, np.ndarray]
    negative_shares: Mapping[Net, np.ndarray]

    def __post_init__(self) -> None:
        n, k = len(self.timesteps), len(self.task_names)
        right = {"cosines": (k, k), "means": (n,), "negative_shares": (n,)}
        for name, shape in right.items():
            for net in NETS:
                found = getattr(self, name)[net]
                if found.shape != shape or found.dtype.kind != "f" or (np.abs(found) > 1).any():
                    raise ValueError(f"{name} of the {net}, {found!r:.100}, for {n} measurements of {k} tasks")
        if self.timesteps.ndim != 1 or self.timesteps.dtype.kind not in "iuf" or not n:
            raise ValueError(f"{self.timesteps!r:.100} as steps of the measurements")

    def to_json(self) -> dict[str, Any]:
        """Return plain values, with ``None`` for NaN."""
        return {
            "task_names": list(self.task_names),
            "timesteps": self.timesteps.tolist(),
            **{
                name: {net: _to_json(values) for net, values in getattr(self, name).items()}
                for name in ("cosines", "means", "negative_shares")
            },
        }

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> Conflicts:
        """Return what :meth:`to_json` gave.

        :raises ValueError: if parts do not fit together; other exceptions of damaged contents, too
        """
        parts: Any = [
            {net: np.array(content[name][net], dtype=float) for net in NETS}
            for name in ("cosines", "means", "negative_shares")
        ]
        return cls(tuple(map(str, content["task_names"])), np.array(content["timesteps"]), *parts)


def read_conflicts(path: Path) -> Conflicts | None:
    """Read how the gradients of a run's tasks conflicted.

    :param path: a ``conflicts.npz``; if it does not exist, nothing was measured
    :raises ValueError: if the file is damaged
    """
    if not path.exists():
        return None
    arrays = read_npz(path)
    try:
        names, timesteps = tuple(map(str, arrays["task_names"])), arrays["timesteps"]
        means, matrices, shares = {}, {}, {}
        for net in NETS:
            of_net = arrays[net].astype(float)
            if of_net.shape != (len(timesteps), len(names), len(names)):
                raise ValueError(f"cosines of shape {of_net.shape} for {len(timesteps)} measurements of {names!r:.100}")
            matrices[net] = mean_of_known(of_net).round(_DECIMALS)
            pairs = [pair_statistics(of_tasks) or (np.nan, np.nan) for of_tasks in of_net]
            means[net], shares[net] = np.array(pairs, dtype=float).reshape(-1, 2).T.round(_DECIMALS)
        return Conflicts(names, timesteps, matrices, means, shares)
    except (KeyError, TypeError, ValueError, IndexError) as e:
        raise UnreadableFileError(f"{path}: holds no conflicts of gradients ({e})") from e


def mean_of_known(values: np.ndarray) -> np.ndarray:
    """Return the mean over the first axis of what is not NaN; NaN where all is."""
    known = ~np.isnan(values)
    counts = known.sum(axis=0)
    sums = np.where(known, values, 0).sum(axis=0)
    return np.asarray(np.divide(sums, counts, out=np.full(sums.shape, np.nan), where=counts > 0))


def _to_json(values: np.ndarray) -> Any:
    if values.ndim > 1:
        return [_to_json(row) for row in values]
    return [None if np.isnan(value) else value for value in values.tolist()]
