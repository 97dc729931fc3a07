"""Episode returns, lengths and successes of all sub-environments, as SB3's ``Monitor`` reports them."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sb3_multitask.vec_env.faults import is_fault
from sb3_multitask.vec_env.monitor_files import MonitorFiles
from sb3_multitask.vec_env.success import FAILED, NOT_SAID, SUCCEEDED, SUCCESS


class EpisodeMonitor:
    """Count rewards and steps; at an episode's end fill ``info["episode"]`` and write a row to its CSV.

    Returns are undiscounted and unnormalised. Where environments say it (:mod:`~sb3_multitask.vec_env.success`),
    ``info["is_success"]`` of an episode's last step says whether any of its steps was successful.

    The files are SB3's: ``<row>.monitor.csv`` with the columns ``r`` (return), ``l`` (length, steps), ``t`` (seconds
    since the start), ``task`` (name) and, where the environment says it, ``is_success`` (0 or 1). ``t`` comes from a
    monotonic clock, since SB3's ``load_results`` sorts by it; ``t_start`` in the header is the date.

    :param tasks: name of the task of every row
    :param env_ids: id of the environment of every row, for the files' headers
    :param monitor_dir: folder for the files; ``None`` writes none
    :param override_existing: ``False`` appends to files of earlier runs
    :param monitored: rows whose environment has its own ``Monitor``, which defines the episode's return and length
    """

    def __init__(
        self,
        tasks: Sequence[str],
        env_ids: Sequence[str],
        monitor_dir: str | Path | None,
        override_existing: bool = True,
        monitored: Collection[int] = (),
    ) -> None:
        self.tasks = tasks
        self.returns = np.zeros(len(tasks))
        self.lengths = np.zeros(len(tasks), dtype=np.int64)
        self.successes = np.full(len(tasks), NOT_SAID, dtype=np.int8)
        self.t_start = time.time()
        self._began = time.monotonic()
        self._files = None if monitor_dir is None else MonitorFiles(monitor_dir, env_ids, override_existing)
        self._monitored = frozenset(monitored)

    def begin(self, rows: slice) -> None:
        """Start the episodes of a reset; the first reset begins the files."""
        self.reset(rows)
        if self._files is not None:
            self._files.begin(range(len(self.tasks))[rows], self.t_start)

    def reset(self, rows: slice) -> None:
        self.returns[rows] = 0.0
        self.lengths[rows] = 0
        # an environment that has said it once and then says nothing in a whole episode has had no success in it
        self.successes[rows] = np.minimum(self.successes[rows], FAILED)

    def step(
        self,
        rows: slice,
        rewards: np.ndarray,
        ended: Sequence[int],
        infos: Sequence[dict[str, Any]],
        success: np.ndarray | None = None,
    ) -> None:
        """Record a step of some rows.

        :param ended: which of them ended their episode; their infos are filled
        :param success: what the rows say of it, (n_rows,) int8; ``None``: nothing
        """
        returns, lengths = self.returns[rows], self.lengths[rows]  # views
        returns += rewards
        lengths += 1
        if success is not None:
            so_far = self.successes[rows]
            np.maximum(so_far, success, out=so_far)
        if self._files is not None:
            self._files.start(self.t_start)
        for i in ended:
            row = i + rows.start
            if not is_fault(infos[i]):  # a quarantined row is not an episode
                infos[i]["episode"] = episode = self._episode(row, infos[i])
                infos[i]["task"] = self.tasks[row]
                succeeded = self.success_so_far(row)
                if succeeded is not None:
                    infos[i][SUCCESS] = succeeded
                if self._files is not None:
                    self._files.write(row, self._by_files_clock(row, episode), self.t_start, succeeded)
            self.reset(slice(row, row + 1))

    def success_so_far(self, row: int) -> bool | None:
        """Return whether a step of a row's running episode was successful; None if the environment never said it."""
        said = int(self.successes[row])
        return None if said == NOT_SAID else said == SUCCEEDED

    def _episode(self, row: int, info: dict[str, Any]) -> dict[str, Any]:
        """Return the return, length and time of the episode that has ended."""
        total, length = float(self.returns[row]), int(self.lengths[row])
        inner = info.get("episode") if row in self._monitored else None
        if inner is not None:
            total, length = float(inner["r"]), int(inner["l"])
        seconds = time.monotonic() - self._began
        return {"r": round(total, 6), "l": length, "t": round(seconds, 6), "task": self.tasks[row]}

    def _by_files_clock(self, row: int, episode: dict[str, Any]) -> dict[str, Any]:
        """Return the episode with the seconds since the start in the file's header, perhaps of an earlier run."""
        assert self._files is not None
        if self._files.override_existing:
            return episode
        began = self._files.t_start(row)
        return episode if began is None else {**episode, "t": round(episode["t"] + self.t_start - began, 6)}

    def get_state(self) -> dict[str, Any]:
        """Return running episodes, the date of the start, the time since then (s), and each file's length (bytes)."""
        return {
            "returns": self.returns.copy(),
            "lengths": self.lengths.copy(),
            "successes": self.successes.copy(),
            "t_start": self.t_start,
            "seconds": time.monotonic() - self._began,
            "n_bytes": {} if self._files is None else self._files.get_state(),
            "with_success": [] if self._files is None else self._files.rows_with_success(),
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore a state of :meth:`get_state`; files are truncated to their length in it, and continued."""
        self.returns[...], self.lengths[...] = state["returns"], state["lengths"]
        self.successes[...] = state.get("successes", NOT_SAID)  # older checkpoints lack them
        self._began = time.monotonic() - state["seconds"]
        # that of the first process: SB3 adds it to ``t`` to sort the rows of several files
        self.t_start = state.get("t_start", time.time() - state["seconds"])
        if self._files is not None:
            self._files.set_state(state["n_bytes"], state.get("with_success", ()))
