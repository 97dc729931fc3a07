"""Read observation statistics from a ``VecNormalize`` pickle."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sb3_multitask.readers.inert_pickle import Inert, UnreadableFileError, array_of, read_pickle

_MAX_BYTES = 64 * 2**20


@dataclass(frozen=True)
class ObsStatistics:
    """Statistics that normalise observations: ``clip((obs - mean) / sqrt(var + epsilon), -clip, clip)``.

    ``mean``, ``var``: (n_tasks, obs_dim), one row for a single-task normaliser, which has no ``task_names``.
    """

    mean: np.ndarray
    var: np.ndarray
    epsilon: float
    clip: float
    task_names: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.mean.ndim != 2 or self.mean.shape != self.var.shape:
            raise UnreadableFileError(f"its means {self.mean.shape} and variances {self.var.shape} do not fit")
        if not np.isfinite(self.mean).all() or not np.isfinite(self.var).all():
            raise UnreadableFileError("its means or variances are not finite")
        if not (self.var >= 0).all() or not self.epsilon > 0 or not self.clip > 0:
            raise UnreadableFileError("its variances, epsilon and clip must not be negative")

    def normalize(self, obs: np.ndarray, row: int = 0) -> np.ndarray:
        """Normalise raw observations (..., obs_dim) with one row of the statistics; float32."""
        normalized: np.ndarray = (obs - self.mean[row]) / np.sqrt(self.var[row] + self.epsilon)
        clipped: np.ndarray = np.clip(normalized, -self.clip, self.clip)
        return clipped.astype(np.float32)


def read_vec_normalize(path: str | Path) -> ObsStatistics:
    """Return the observation statistics from a file of ``VecNormalize.save`` or ``MultiTaskVecNormalize.save``.

    The pickle is not unpickled: no code in it runs.

    :raises UnreadableFileError: if the file is missing, too large or of another kind, or its numbers are not finite
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise UnreadableFileError("is no file")
        if path.stat().st_size > _MAX_BYTES:
            raise UnreadableFileError(f"larger than {_MAX_BYTES // 2**20} MB, which no VecNormalize is")
        return _statistics(read_pickle(path.read_bytes()))
    except OSError as e:
        raise UnreadableFileError(f"{path}: cannot be read ({e.strerror})") from e
    except UnreadableFileError as e:
        raise UnreadableFileError(f"{path}: {e}") from e


def _statistics(saved: Any) -> ObsStatistics:
    if not isinstance(saved, Inert) or not saved.of.endswith("VecNormalize"):
        raise UnreadableFileError(f"is no VecNormalize (but {getattr(saved, 'of', type(saved).__name__)})")
    try:
        if not saved.attribute("norm_obs"):
            raise UnreadableFileError("does not normalise observations (norm_obs=False)")
        epsilon, clip = (float(array_of(saved.attribute(name))) for name in ("epsilon", "clip_obs"))
        if saved.of.endswith(".MultiTaskVecNormalize"):
            moments = saved.attribute("_shared").attribute("moments")
            mean, var = (array_of(moments.attribute(name))[:, :-1] for name in ("mean", "var"))
            names = saved.attribute("_task_names")
            if type(names) is not tuple or not all(type(name) is str for name in names) or len(names) != len(mean):
                raise UnreadableFileError("its task names do not fit its statistics")
            return ObsStatistics(mean, var, epsilon, clip, names)
        rms = saved.attribute("obs_rms")
        mean, var = (array_of(rms.attribute(name))[None] for name in ("mean", "var"))
    except (KeyError, AttributeError, TypeError, IndexError, OverflowError) as e:
        raise UnreadableFileError(f"is not the VecNormalize of one Box observation ({e} is missing)") from e
    return ObsStatistics(mean, var, epsilon, clip)


def statistics_of_model(saved: Any, task_names: Sequence[str]) -> ObsStatistics | None:
    """Convert the statistics in a multi-task model's file, already read; None if it does not normalise observations.

    :raises UnreadableFileError: if the data are not statistics
    """
    try:
        if not saved["norm_obs"]:
            return None
        rms = saved["obs_rms"]
        mean, var = array_of(rms["mean"]), array_of(rms["var"])
        epsilon, clip = float(array_of(saved["epsilon"])), float(array_of(saved["clip_obs"]))
    except (KeyError, TypeError, OverflowError) as e:
        raise UnreadableFileError(f"its statistics lack {e}") from e
    return ObsStatistics(mean, var, epsilon, clip, tuple(task_names))
