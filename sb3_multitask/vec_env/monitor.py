"""Episode returns and lengths of all sub-environments, as SB3's ``Monitor`` reports them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.monitor import ResultsWriter


class EpisodeMonitor:
    """Count rewards and steps; at an episode's end fill ``info["episode"]`` and write a row to its CSV.

    Returns are undiscounted and unnormalised. The files are SB3's: ``<row>.monitor.csv`` with the columns
    ``r`` (return), ``l`` (length, steps), ``t`` (seconds since the start) and ``task`` (name).

    :param tasks: name of the task of every row
    :param env_ids: id of the environment of every row, for the files' headers
    :param monitor_dir: folder for the files; ``None`` writes none
    """

    def __init__(self, tasks: Sequence[str], env_ids: Sequence[str], monitor_dir: str | Path | None) -> None:
        self.tasks = tasks
        self.returns = np.zeros(len(tasks))
        self.lengths = np.zeros(len(tasks), dtype=np.int64)
        self.t_start = time.time()
        self._writers: list[ResultsWriter] = []
        if monitor_dir is not None:
            self._writers = [
                ResultsWriter(
                    str(Path(monitor_dir) / f"{row}.monitor.csv"),
                    header={"t_start": self.t_start, "env_id": env_id},
                    extra_keys=("task",),
                )
                for row, env_id in enumerate(env_ids)
            ]

    def reset(self, rows: slice) -> None:
        self.returns[rows] = 0.0
        self.lengths[rows] = 0

    def step(self, rows: slice, rewards: np.ndarray, dones: np.ndarray, infos: list[dict[str, Any]]) -> None:
        self.returns[rows] += rewards
        self.lengths[rows] += 1
        if not dones.any():
            return
        for i in dones.nonzero()[0].tolist():
            row = i + (rows.start or 0)
            episode: dict[str, Any] = {
                "r": round(float(self.returns[row]), 6),
                "l": int(self.lengths[row]),
                "t": round(time.time() - self.t_start, 6),
                "task": self.tasks[row],
            }
            infos[i]["episode"] = episode
            infos[i]["task"] = self.tasks[row]
            if self._writers:
                self._writers[row].write_row(episode)
            self.returns[row] = 0.0
            self.lengths[row] = 0

    def close(self) -> None:
        for writer in self._writers:
            writer.close()
