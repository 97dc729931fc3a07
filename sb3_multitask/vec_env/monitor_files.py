"""SB3's monitor files of all sub-environments; none is kept open, since a process may open about a thousand."""

from __future__ import annotations

import csv
import io
import json
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from stable_baselines3.common.monitor import Monitor

from sb3_multitask.files import SaveError

_COLUMNS = ("r", "l", "t", "task")
_ASIDE = ".earlier"
"""Ending of a file of an earlier run, until the first step shows that the run is not resumed."""


class MonitorFiles:
    """``<row>.monitor.csv`` for every row, as SB3's ``load_results`` reads them.

    A file begins at the first reset, with its header. Rows of an earlier run are set aside there: a run that is resumed
    takes them back, another removes them at its first step and says so.

    :param folder: where they are
    :param env_ids: id of the environment of every row, for the headers
    :param override_existing: ``False`` appends to the files of earlier runs
    """

    def __init__(self, folder: str | Path, env_ids: Sequence[str], override_existing: bool) -> None:
        self.folder = Path(folder)
        self.override_existing = override_existing
        self._env_ids = env_ids
        self._begun: set[int] = set()
        self._aside: set[int] = set()

    def path(self, row: int) -> Path:
        return self.folder / f"{row}.{Monitor.EXT}"

    def _path_aside(self, row: int) -> Path:
        return self.path(row).with_name(self.path(row).name + _ASIDE)

    def begin(self, rows: Iterable[int], t_start: float) -> None:
        """Write the headers of rows that have no file yet.

        :param t_start: seconds since the epoch
        :raises SaveError: if a file cannot be written
        """
        for row in rows:
            if row not in self._begun:
                self._writing(row, lambda row=row: self._begin(row, t_start))
                self._begun.add(row)

    def _begin(self, row: int, t_start: float) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        path, aside = self.path(row), self._path_aside(row)
        if path.exists():
            if not self.override_existing:
                return
            if _has_rows(path) or not aside.exists():  # there is one if a run was killed before its first step
                path.replace(aside)
        if aside.exists():
            self._aside.add(row)
        header = {"t_start": t_start, "env_id": self._env_ids[row]}
        path.write_text(f"#{json.dumps(header)}\n{_line(_COLUMNS)}", encoding="utf-8")

    def discard_earlier(self) -> None:
        """Remove what was set aside: this run is not the earlier one resumed."""
        if not self._aside:
            return
        aside, self._aside = {self._path_aside(row) for row in self._aside}, set()
        if any(map(_has_rows, aside)):
            warnings.warn(
                f"The monitor files of an earlier run in {self.folder} are replaced. To keep their rows, pass "
                "`override_existing=False` or another `monitor_dir`.",
                stacklevel=6,
            )
        for path in aside:
            path.unlink(missing_ok=True)

    def write(self, row: int, episode: Mapping[str, Any], t_start: float) -> None:
        """Append an episode.

        :raises SaveError: if it cannot be written; the rows before stay
        """
        self.begin([row], t_start)
        line = _line(episode[column] for column in _COLUMNS)
        self._writing(row, lambda: self._append(row, line))

    def _append(self, row: int, line: str) -> None:
        with self.path(row).open("a", encoding="utf-8", newline="") as file:
            file.write(line)

    def _writing(self, row: int, write: Any) -> None:
        try:
            write()
        except OSError as e:
            raise SaveError(f"Cannot write {self.path(row)}: {e.strerror or e}. The rows before stay.") from e

    def t_start(self, row: int) -> float | None:
        """When the file of a row says that it began; None if it does not."""
        try:
            with self.path(row).open(encoding="utf-8") as file:
                return float(json.loads(file.readline().removeprefix("#"))["t_start"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def get_state(self) -> dict[str, int]:
        """Length of each file that was begun, in bytes."""
        return {str(row): self.path(row).stat().st_size for row in sorted(self._begun) if self.path(row).exists()}

    def set_state(self, n_bytes: Mapping[str, int]) -> None:
        """Take the files of the run that is resumed, cut to what they held then."""
        for row in self._aside:
            self._path_aside(row).replace(self.path(row))
        self._aside.clear()
        self._begun.clear()
        for key, n in n_bytes.items():
            path = self.path(int(key))
            if not path.exists():
                warnings.warn(f"{path} is missing; it begins with the rows from here on", stacklevel=2)
                continue
            content = path.read_bytes()[:n]
            if len(content) < n:
                warnings.warn(f"{path} is shorter than it was at the checkpoint; rows are missing", stacklevel=2)
            os.truncate(path, content.rfind(b"\n") + 1)
            self._begun.add(int(key))


def _line(fields: Iterable[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(fields)
    return text.getvalue()


def _has_rows(path: Path) -> bool:
    """Whether a file holds more than its two lines of header."""
    try:
        with path.open("rb") as file:
            return len(file.readlines(4096)) > 2
    except FileNotFoundError:
        return False
