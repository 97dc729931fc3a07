"""SB3's CSV log with quoted keys, since a task's name may contain a comma."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any, TextIO

from stable_baselines3.common.logger import (
    CSVOutputFormat,
    Figure,
    FormatUnsupportedError,
    HParam,
    Image,
    Logger,
    Video,
    filter_excluded_keys,
)

_UNSUPPORTED: dict[type, str] = {Video: "video", Figure: "figure", Image: "image", HParam: "hparam"}


class QuotedCSVOutputFormat(CSVOutputFormat):
    """SB3's CSV log, with header and rows as the :mod:`csv` module writes them.

    SB3 writes keys unquoted, so that the comma in ``rollout/left, slow/ep_rew_mean`` starts another column, and adds
    new columns in the order of a set.

    :param file: a file open for reading and writing, at its end
    :param keys: the columns of the file
    """

    def __init__(self, file: TextIO, keys: Sequence[str] = ()) -> None:
        self.file, self.keys = file, list(keys)  # type: ignore[assignment]
        self.separator, self.quotechar = ",", '"'

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:  # noqa: ARG002
        """Append a row; new keys become columns at the end."""
        values = filter_excluded_keys(key_values, key_excluded, "csv")
        for kind, name in _UNSUPPORTED.items():
            if any(isinstance(value, kind) for value in values.values()):
                raise FormatUnsupportedError(["csv"], name)
        known = set(self.keys)
        if new := [key for key in values if key not in known]:
            self._add_columns(new)
        self.file.write(csv_line([values.get(key) for key in self.keys]))
        self.file.flush()

    def _add_columns(self, new: Sequence[str]) -> None:
        self.file.seek(0)
        _, *rows = list(csv.reader(self.file)) or [[]]
        self.keys.extend(new)
        self.file.seek(0)
        self.file.truncate()
        self.file.write(csv_line(self.keys))
        self.file.writelines(csv_line([*row, *[""] * len(new)]) for row in rows)


def csv_line(values: Sequence[Any]) -> str:
    """Return one line of a CSV file; None is an empty field."""
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(values)
    return text.getvalue()


def quote_keys(logger: Logger) -> None:
    """Make a logger's CSV format quote keys where necessary, from its next row on."""
    formats: list[Any] = logger.output_formats
    for i, one in enumerate(formats):
        if type(one) is CSVOutputFormat:
            formats[i] = QuotedCSVOutputFormat(one.file, one.keys)
