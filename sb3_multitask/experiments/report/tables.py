"""Tables as rows of text, written as Markdown and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from sb3_multitask.files import write_text


@dataclass(frozen=True)
class Table:
    """A table with a title and a sentence on how to read it."""

    name: str
    title: str
    note: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def markdown(self) -> str:
        lines = [f"## {self.title}", "", self.note, "", _line(self.header), _line(["---"] * len(self.header))]
        return "\n".join([*lines, *map(_line, self.rows)]) + "\n"

    def html(self) -> str:
        head = "".join(f"<th>{_escaped(cell)}</th>" for cell in self.header)
        body = "".join("<tr>" + "".join(f"<td>{_escaped(c)}</td>" for c in row) + "</tr>" for row in self.rows)
        title, note = _escaped(self.title), _escaped(self.note)
        return f"<h2>{title}</h2><p>{note}</p><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"

    def write(self, folder: Path) -> None:
        """Write ``<name>.md`` and ``<name>.csv``."""
        write_text(folder / f"{self.name}.md", self.markdown())
        file = io.StringIO()
        csv.writer(file, lineterminator="\n").writerows([self.header, *self.rows])
        write_text(folder / f"{self.name}.csv", file.getvalue())


def _line(cells: Sequence[str]) -> str:
    joined = " | ".join(cell.replace("|", "\\|") for cell in cells)
    return f"| {joined} |"


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
