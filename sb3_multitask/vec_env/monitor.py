"""Episode returns and lengths of all sub-environments, as SB3's ``Monitor`` reports them."""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.monitor import Monitor, ResultsWriter

from sb3_multitask.files import SaveError
from sb3_multitask.vec_env.faults import is_fault


class EpisodeMonitor:
    """Count rewards and steps; at an episode's end fill ``info["episode"]`` and write a row to its CSV.

    Returns are undiscounted and unnormalised. The files are SB3's: ``<row>.monitor.csv`` with the columns
    ``r`` (return), ``l`` (length, steps), ``t`` (seconds since the start) and ``task`` (name). ``t`` is of a clock
    that nobody can set, since SB3's ``load_results`` sorts by it; ``t_start`` in the header is the date.

    :param tasks: name of the task of every row
    :param env_ids: id of the environment of every row, for the files' headers
    :param monitor_dir: folder for the files; ``None`` writes none
    """

    def __init__(self, tasks: Sequence[str], env_ids: Sequence[str], monitor_dir: str | Path | None) -> None:
        self.tasks = tasks
        self.returns = np.zeros(len(tasks))
        self.lengths = np.zeros(len(tasks), dtype=np.int64)
        self.t_start = time.time()
        self._began = time.monotonic()
        self._env_ids = env_ids
        self._folder = None if monitor_dir is None else Path(monitor_dir)
        self._writers: dict[int, ResultsWriter] = {}

    def _path(self, folder: Path, row: int) -> Path:
        return folder / f"{row}.{Monitor.EXT}"

    def _writer(self, folder: Path, row: int) -> ResultsWriter:
        """The row's file, begun at its first episode's end: an interrupted run's files stay until it is resumed."""
        if row not in self._writers:
            header: dict[str, Any] = {"t_start": self.t_start, "env_id": self._env_ids[row]}
            self._writers[row] = ResultsWriter(str(self._path(folder, row)), header, extra_keys=("task",))
        return self._writers[row]

    def reset(self, rows: slice) -> None:
        self.returns[rows] = 0.0
        self.lengths[rows] = 0

    def step(self, rows: slice, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        self.returns[rows] += rewards
        self.lengths[rows] += 1
        if not dones.any():
            return
        for i in dones.nonzero()[0].tolist():
            if is_fault(infos[i]):  # no episode
                self.reset(slice(i + (rows.start or 0), i + (rows.start or 0) + 1))
                continue
            row = i + (rows.start or 0)
            episode: dict[str, Any] = {
                "r": round(float(self.returns[row]), 6),
                "l": int(self.lengths[row]),
                "t": round(time.monotonic() - self._began, 6),
                "task": self.tasks[row],
            }
            infos[i]["episode"] = episode
            infos[i]["task"] = self.tasks[row]
            if self._folder is not None:
                self._write(self._folder, row, episode)
            self.returns[row] = 0.0
            self.lengths[row] = 0

    def _write(self, folder: Path, row: int, episode: dict[str, Any]) -> None:
        try:
            self._writer(folder, row).write_row(episode)
        except OSError as e:
            path = self._path(folder, row)
            if row in self._writers:
                with suppress(OSError):  # closing tries again to write
                    self._writers.pop(row).close()
            raise SaveError(f"Cannot write {path}: {e.strerror or e}. The rows before stay.") from e

    def get_state(self) -> dict[str, Any]:
        """Running episodes, the date of the start, the time since then (s), and how long each file is (bytes)."""
        return {
            "returns": self.returns.copy(),
            "lengths": self.lengths.copy(),
            "t_start": self.t_start,
            "seconds": time.monotonic() - self._began,
            "n_bytes": {str(row): Path(w.file_handler.name).stat().st_size for row, w in self._writers.items()},
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`get_state` gave; files are cut to what they held then, and go on from there."""
        self.returns[...], self.lengths[...] = state["returns"], state["lengths"]
        self._began = time.monotonic() - state["seconds"]
        # of the first process: SB3 adds it to ``t`` to bring the rows of several files in order
        self.t_start = state.get("t_start", time.time() - state["seconds"])
        self.close()
        self._writers = {}
        if self._folder is None:
            return
        for row, n_bytes in state["n_bytes"].items():
            path = self._path(self._folder, int(row))
            if not path.exists():
                warnings.warn(f"{path} is missing; it begins anew", stacklevel=2)
                continue
            content = path.read_bytes()[:n_bytes]
            if len(content) < n_bytes:
                warnings.warn(f"{path} is shorter than it was at the checkpoint; rows are missing", stacklevel=2)
            os.truncate(path, content.rfind(b"\n") + 1)
            writer = ResultsWriter(str(path), extra_keys=("task",), override_existing=False)
            self._writers[int(row)] = writer

    def close(self) -> None:
        for writer in self._writers.values():
            writer.close()
