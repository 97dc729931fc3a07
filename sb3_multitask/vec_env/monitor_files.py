"""SB3's monitor files of all sub-environments; none is kept open, since a process may open about a thousand."""

from __future__ import annotations

import csv
import io
import json
import os
import warnings
from collections.abc import Iterable, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from stable_baselines3.common.monitor import Monitor

from sb3_multitask.storage.files import SaveError, replacing
from sb3_multitask.vec_env.success import SUCCESS

_COLUMNS = ("r", "l", "t", "task")
_WITH_SUCCESS = (*_COLUMNS, SUCCESS)
_COLUMN_OF_SUCCESS = f",{SUCCESS}".encode()


class MonitorFiles:
    """``<row>.monitor.csv`` for every row, as SB3's ``load_results`` reads them.

    The first reset writes the header of a file that does not exist yet. Files of an earlier run, also of surplus
    sub-environments, stay as they are until the first step, which replaces them, with a warning: a run that is refused
    before it, or resumes the earlier one, has not touched them.

    A file gets the column ``is_success`` with its first episode that says it; the cells of earlier rows stay empty.

    :param folder: folder of the files
    :param env_ids: id of the environment of every row, for the headers
    :param override_existing: ``False`` appends to the files of earlier runs
    """

    def __init__(self, folder: str | Path, env_ids: Sequence[str], override_existing: bool) -> None:
        self.folder = Path(folder)
        self.override_existing = override_existing
        self._env_ids = env_ids
        self._begun: set[int] = set()
        self._earlier: set[int] = set()
        """Rows with a file of an earlier run, until the first step."""
        self._with_success: set[int] = set()
        """Rows whose file has the column ``is_success``."""

    def path(self, row: int) -> Path:
        return self.folder / f"{row}.{Monitor.EXT}"

    def begin(self, rows: Iterable[int], t_start: float) -> None:
        """Write the headers of rows that have no file yet.

        :param t_start: seconds since the epoch
        :raises SaveError: if a file cannot be written, or rows cannot be appended to it
        """
        if self.override_existing and not self._begun:
            self._earlier.update(self._surplus())
        for row in rows:
            if row not in self._begun:
                self._writing(row, lambda row=row: self._begin(row, t_start))

    def _begin(self, row: int, t_start: float) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if self.path(row).exists():
            if not self.override_existing:
                _check_columns(self.path(row))
            self._earlier.add(row)
        else:
            self._write_header(row, t_start)

    def _write_header(self, row: int, t_start: float) -> None:
        header = {"t_start": t_start, "env_id": self._env_ids[row]}
        text = f"#{json.dumps(header)}\n{_line(_COLUMNS)}"
        self.path(row).write_text(text, encoding="utf-8", newline="\n")
        self._begun.add(row)
        self._with_success.discard(row)

    def start(self, t_start: float) -> None:
        """Replace the files of an earlier run at the first step, or make them ready for rows to be appended.

        :param t_start: seconds since the epoch
        :raises SaveError: if a file cannot be written
        """
        if not self._earlier:
            return
        rows, self._earlier = sorted(self._earlier), set()
        if self.override_existing and any(_has_rows(self.path(row)) for row in rows):
            warnings.warn(
                f"The monitor files of an earlier run in {self.folder} are replaced. To keep their rows, pass "
                "`override_existing=False` or another `monitor_dir`.",
                stacklevel=6,
            )
        for row in rows:
            self._writing(row, lambda row=row: self._start(row, t_start))

    def _start(self, row: int, t_start: float) -> None:
        if row >= len(self._env_ids):
            self.path(row).unlink(missing_ok=True)
        elif not self.override_existing and _remove_truncated_row(self.path(row)):
            self._begun.add(row)
            if _says_success(self.path(row)):
                self._with_success.add(row)
        else:
            self._write_header(row, t_start)

    def _surplus(self) -> list[int]:
        """Return rows beyond ours that have a file of an earlier run: ``load_results`` would read it with ours."""
        names = [path.name.removesuffix(f".{Monitor.EXT}") for path in self.folder.glob(f"*.{Monitor.EXT}")]
        rows = [int(name) for name in names if name.isdecimal() and name == str(int(name))]
        return [row for row in sorted(rows) if row >= len(self._env_ids) and _is_ours(self.path(row))]

    def write(self, row: int, episode: Mapping[str, Any], t_start: float, succeeded: bool | None = None) -> None:
        """Append an episode.

        :param succeeded: whether it was successful; ``None`` where its environment does not say it
        :raises SaveError: if it cannot be written; earlier rows remain
        """
        self.begin([row], t_start)
        self.start(t_start)
        fields = [episode[column] for column in _COLUMNS]
        if succeeded is not None and row not in self._with_success:
            self._writing(row, lambda: self._add_success(row, t_start))
        if row in self._with_success:
            fields.append("" if succeeded is None else int(succeeded))  # a number, so that a mean leaves out empty ones
        self._writing(row, lambda: self._append(row, _line(fields)))

    def _add_success(self, row: int, t_start: float) -> None:
        """Add the column ``is_success`` to a file, with empty cells; begin the file if someone has removed it."""
        if not _is_header(_first_lines(self.path(row), 2)):
            self._write_header(row, t_start)
        first, header, *rows = self.path(row).read_bytes().splitlines()
        lines = [first, header + _COLUMN_OF_SUCCESS, *(line + b"," for line in rows)]
        with replacing(self.path(row)) as temporary:
            temporary.write_bytes(b"".join(line + b"\n" for line in lines))
        self._with_success.add(row)

    def _append(self, row: int, line: str) -> None:
        with self.path(row).open("a", encoding="utf-8", newline="") as file:
            file.write(line)

    def _writing(self, row: int, write: Any) -> None:
        try:
            write()
        except OSError as e:
            raise SaveError(f"Cannot write {self.path(row)}: {e.strerror or e}. The rows before stay.") from e

    def t_start(self, row: int) -> float | None:
        """Return the date in the header of a row's file; None without one."""
        try:
            with self.path(row).open(encoding="utf-8") as file:
                return float(json.loads(file.readline().removeprefix("#"))["t_start"])
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def get_state(self) -> dict[str, int]:
        """Return the length of each file in bytes."""
        return {str(row): self.path(row).stat().st_size for row in sorted(self._begun) if self.path(row).exists()}

    def rows_with_success(self) -> list[int]:
        """Return the rows whose file has the column ``is_success``, for a checkpoint."""
        return sorted(self._with_success)

    def set_state(self, n_bytes: Mapping[str, int], with_success: Iterable[int] = ()) -> None:
        """Restore the files of the resumed run, truncated to their length in the state.

        :param with_success: the rows whose file had the column ``is_success`` then
        """
        self._earlier.clear()
        self._begun.clear()
        self._with_success = set(with_success)
        for key, n in n_bytes.items():
            path = self.path(int(key))
            if not path.exists():
                warnings.warn(f"{path} is missing; it begins with the rows from here on", stacklevel=2)
                continue
            if int(key) not in self._with_success and _says_success(path):
                _remove_success(path)
            content = path.read_bytes()[:n]
            if len(content) < n:
                warnings.warn(f"{path} is shorter than it was at the checkpoint; rows are missing", stacklevel=2)
            os.truncate(path, content.rfind(b"\n") + 1)
            self._begun.add(int(key))
        if self.override_existing and n_bytes:  # files that were started later are started again
            for row in set(range(len(self._env_ids))) - self._begun - set(map(int, n_bytes)):
                self.path(row).unlink(missing_ok=True)


def _line(fields: Iterable[Any]) -> str:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(fields)
    return text.getvalue()


def _has_rows(path: Path) -> bool:
    """Return whether a file holds more than its two lines of header."""
    return len(_first_lines(path, 3)) > 2


def _is_ours(path: Path) -> bool:
    """Return whether a file has a header that this module writes."""
    return _first_lines(path, 2)[1:] in ([_line(columns).encode()] for columns in (_COLUMNS, _WITH_SUCCESS))


def _says_success(path: Path) -> bool:
    """Return whether a file has the column ``is_success``."""
    return _first_lines(path, 2)[1:] == [_line(_WITH_SUCCESS).encode()]


def _remove_success(path: Path) -> None:
    """Remove the column ``is_success`` that a file got after a checkpoint, whose rows have empty cells there."""
    first, header, *rows = path.read_bytes().splitlines()
    lines = [first, header.removesuffix(_COLUMN_OF_SUCCESS), *(line.removesuffix(b",") for line in rows)]
    with replacing(path) as temporary:
        temporary.write_bytes(b"".join(line + b"\n" for line in lines))


def _check_columns(path: Path) -> None:
    """:raises OSError: if a file's columns differ from those of the rows to append"""
    header = _first_lines(path, 2)
    if _is_header(header) and header[1].split() not in ([_line(c).encode().strip()] for c in (_COLUMNS, _WITH_SUCCESS)):
        raise OSError(
            f"its columns are {header[1].decode(errors='replace').strip()}, and rows of {', '.join(_COLUMNS)} would be "
            "appended; pass another `monitor_dir`, or `override_existing=True`"
        )


def _remove_truncated_row(path: Path) -> bool:
    """Remove what a kill left of a file's last row; return whether the file has its whole header."""
    if not _is_header(_first_lines(path, 2)):
        return False
    content = path.read_bytes()
    if not content.endswith(b"\n"):
        os.truncate(path, content.rfind(b"\n") + 1)
    return True


def _is_header(lines: Sequence[bytes]) -> bool:
    """Return whether a file's first lines are the two of a header, both whole."""
    return len(lines) == 2 and lines[1].endswith(b"\n")


def _first_lines(path: Path, n: int) -> list[bytes]:
    """Return the first lines of a file, at most ``n``; none if the file does not exist."""
    try:
        with path.open("rb") as file:
            return list(islice(file, n))
    except FileNotFoundError:
        return []
