"""SB3's ``progress.csv``, continued by a run that is resumed."""

from __future__ import annotations

import csv
import os
from pathlib import Path

from stable_baselines3.common.logger import CSVOutputFormat, KVWriter, Logger, make_output_format

from sb3_multitask.files import write_text

_STEPS = "time/total_timesteps"


class _ContinuedCSV(CSVOutputFormat):
    """A CSV log that begins with earlier rows.

    :param header: their columns
    :param lines: the rows as they stood in the file
    """

    def __init__(self, filename: str, header: list[str], lines: list[str]) -> None:
        write_text(filename, "".join([",".join(header) + "\n", *lines] if header else []))
        self.file = open(filename, "r+")  # noqa: SIM115 (closed by SB3's close)
        self.file.seek(0, os.SEEK_END)
        self.keys, self.separator, self.quotechar = header, ",", '"'


def make_logger(path: Path, formats: list[str], up_to: int) -> Logger:
    """SB3's logger for a run's folder; ``progress.csv`` keeps the rows of an earlier process up to a step.

    :param path: file of the CSV log
    :param formats: SB3's other formats: stdout, tensorboard
    :param up_to: environment steps of the checkpoint that the run goes on from; 0 for a new run
    """
    csv_log = _ContinuedCSV(str(path), *_rows_up_to(path, up_to))
    others: list[KVWriter] = [make_output_format(name, str(path.parent)) for name in formats]
    return Logger(str(path.parent), [csv_log, *others])


def _rows_up_to(path: Path, up_to: int) -> tuple[list[str], list[str]]:
    if up_to == 0 or not path.exists():
        return [], []
    header_line, *lines = path.read_text(encoding="utf-8").splitlines(keepends=True) or [""]
    header = header_line.strip().split(",")
    if _STEPS not in header:
        return [], []
    column = header.index(_STEPS)

    def is_kept(line: str) -> bool:
        fields = next(csv.reader([line]), [])
        is_whole = line.endswith("\n") and len(fields) == len(header)
        return is_whole and fields[column].isdecimal() and int(fields[column]) <= up_to

    return header, [line for line in lines if is_kept(line)]
