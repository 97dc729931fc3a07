"""Read the complete rows of SB3's monitor files."""

from __future__ import annotations

import csv
import json
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np

_SUCCESS = {"1": True, "0": False, "1.0": True, "0.0": False, "True": True, "False": False}
"""What SB3's files and ours hold below ``is_success``; other values say nothing."""
_MAX_LENGTH = 2**53  # largest whole number that a float holds exactly


@dataclass(frozen=True)
class Episode:
    """One row: undiscounted return, length (steps), seconds since the start, the task's name, and success if said."""

    total_reward: float
    length: int
    seconds: float
    task: str
    success: bool | None = None


def read_monitor_files(folder: Path) -> list[list[Episode]]:
    """Return the episodes of every sub-environment's file, in the order of the rows of the VecEnv.

    A row that was truncated (by a kill, or a full disk) is left out, since a truncated number is a number too. A
    warning counts such rows.

    :param folder: folder of ``<row>.monitor.csv`` files with the columns r, l, t, task, and perhaps ``is_success``;
        without a column ``task``, the environment's id in the file's first line is used
    """
    files = sorted(folder.glob("*.monitor.csv"), key=lambda path: (len(path.name), path.name))
    episodes, n_damaged = [], 0
    for path in files:
        whole, n = _read(path)
        episodes.append(whole)
        n_damaged += n
    if n_damaged:
        rows = f"{n_damaged} damaged row{'s' * (n_damaged > 1)}"
        warnings.warn(f"{rows} left out of the monitor files in {folder}", stacklevel=2)
    return episodes


def _read(path: Path) -> tuple[list[Episode], int]:
    """Read the complete episodes of a file, and count the other rows."""
    lines = path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True)
    rows = [_fields(line) for line in lines[1:] if line.strip()]
    if not rows or not {"r", "l", "t"} <= set(rows[0]):
        return [], int(len(rows) > 0)
    only_task = _env_id(lines[0])
    header, *rows = rows
    n_damaged = 0
    if not lines[-1].endswith("\n") and rows:
        rows.pop()
        n_damaged += 1
    episodes = []
    for row in rows:
        try:
            fields = dict(zip(header, row, strict=True))
            task, success = fields.get("task", only_task), _SUCCESS.get(fields.get("is_success", ""))
            episode = Episode(float(fields["r"]), int(fields["l"]), float(fields["t"]), task, success)
        except ValueError:
            n_damaged += 1
            continue
        if np.isfinite(episode.total_reward) and 0 < episode.length <= _MAX_LENGTH:
            episodes.append(episode)
        else:
            n_damaged += 1
    return episodes, n_damaged


def _fields(line: str) -> list[str]:
    """Return the fields of a row, or none if it cannot be parsed."""
    try:
        return next(csv.reader([line]), [])
    except csv.Error:
        return []


def _env_id(first_line: str) -> str:
    """Return the environment's id in the line ``#{"t_start": ..., "env_id": ...}`` that monitor files begin with."""
    try:
        return str(json.loads(first_line.removeprefix("#"))["env_id"])
    except (ValueError, KeyError, TypeError, RecursionError):
        return "task"
