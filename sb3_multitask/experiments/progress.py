"""SB3's ``progress.csv``, which a resumed run continues."""

from __future__ import annotations

import csv
import io
import os
import warnings
from pathlib import Path

from stable_baselines3.common.logger import KVWriter, Logger, make_output_format

from sb3_multitask.algorithms.task_table import shorten_tables
from sb3_multitask.storage.csv_log import QuotedCSVOutputFormat, csv_line
from sb3_multitask.storage.files import write_text

_STEPS = "time/total_timesteps"
_MAX_DIGITS = 18


def make_logger(path: Path, formats: list[str], up_to: int) -> Logger:
    """Make SB3's logger for a run's folder; ``progress.csv`` keeps the rows of an earlier process up to a step.

    :param path: file of the CSV log
    :param formats: SB3's other formats: stdout, tensorboard
    :param up_to: environment steps of the checkpoint that the run resumes from; 0 for a new run
    """
    header, rows = _rows_up_to(path, up_to)
    write_text(path, "".join(map(csv_line, [header, *rows] if header else [])))
    file = path.open("r+", encoding="utf-8", newline="")  # closed by the logger
    file.seek(0, os.SEEK_END)
    others: list[KVWriter] = [make_output_format(name, str(path.parent)) for name in formats]
    logger = Logger(str(path.parent), [QuotedCSVOutputFormat(file, header), *others])
    shorten_tables(logger)
    return logger


def read_progress(path: Path) -> tuple[list[str], list[list[str]]]:
    """Return columns and complete rows of a ``progress.csv``; a truncated row is left out.

    :raises OSError: if it cannot be read
    :raises ValueError: if it is not a CSV
    """
    text = path.read_text(encoding="utf-8", errors="replace")
    try:
        header, *rows = list(csv.reader(io.StringIO(text, newline=""))) or [[]]
    except csv.Error as e:
        raise ValueError(f"{path} is no CSV ({e})") from e
    if rows and not text.endswith("\n"):
        rows.pop()
    return header, [row for row in rows if len(row) == len(header)]


def steps_of(header: list[str], row: list[str]) -> int | None:
    """Return the environment steps of a row; None if it has none."""
    field = row[header.index(_STEPS)] if _STEPS in header else ""
    return int(field) if field.isdecimal() and len(field) <= _MAX_DIGITS else None


def _rows_up_to(path: Path, up_to: int) -> tuple[list[str], list[list[str]]]:
    if up_to == 0 or not path.exists():
        return [], []
    try:
        header, rows = read_progress(path)
    except ValueError as e:
        warnings.warn(f"{e}; the log begins again", stacklevel=3)
        return [], []
    if _STEPS not in header:
        return [], []
    steps = [steps_of(header, row) for row in rows]
    return header, [row for row, n in zip(rows, steps, strict=True) if n is not None and n <= up_to]
