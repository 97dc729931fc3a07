"""Tables as rows of text, written as Markdown and CSV."""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from sb3_multitask.many_tasks import AT_EACH_END, gap, shown_tasks
from sb3_multitask.storage.files import write_text

_LONG = 50
"""Length in characters from which a cell may be broken into lines."""


@dataclass(frozen=True)
class Table:
    """A table with a title and a sentence that explains it; for :meth:`write` its cells are plain text.

    :param brief: rows that Markdown and HTML show in place of ``rows``, which the CSV has; ``None`` for ``rows``
    :param pictures: SVG files that Markdown and HTML show below the table -> what they show, in words
    """

    name: str
    title: str
    note: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    brief: Sequence[Sequence[str]] | None = None
    pictures: Mapping[Path, str] = field(default_factory=dict)

    @property
    def shown(self) -> Sequence[Sequence[str]]:
        """The rows that people read."""
        return self.rows if self.brief is None else self.brief

    def markdown(self) -> str:
        """Return the table as Markdown; cells may be Markdown too. Pictures are taken to lie beside it."""
        lines = [f"## {self.title}", "", self.note, "", _line(self.header), _line(["---"] * len(self.header))]
        lines += map(_line, self.shown)
        for path, words in self.pictures.items():
            lines += ["", f"![{markdown_text(words)}](<{path.name}>)"]
        return "\n".join(lines) + "\n"

    def html(self) -> str:
        """Return a section with the table's name as its id; columns have the classes "words", "long" and "numbers"."""
        kinds = [_kind([row[i] for row in self.shown]) for i in range(len(self.header))]
        head = _row("th", self.header, kinds)
        body = "".join(_row("td", row, kinds) for row in self.shown)
        title, note = html.escape(self.title), html.escape(self.note)
        table = f"<table><thead>{head}</thead><tbody>{body}</tbody></table>"
        return f"<section id='{self.name}'><h2>{title}</h2><p>{note}</p>{table}</section>"

    def write(self, folder: Path) -> None:
        """Write ``<name>.md`` and ``<name>.csv``."""
        plain = replace(self, header=_plain(self.header), rows=list(map(_plain, self.shown)), brief=None)
        write_text(folder / f"{self.name}.md", plain.markdown())
        file = io.StringIO()
        csv.writer(file, lineterminator="\n").writerows([self.header, *self.rows])
        write_text(folder / f"{self.name}.csv", file.getvalue())


def brief_rows(rows: Mapping[str, Sequence[str]], scores: Mapping[str, float], column: int = 0) -> list[Sequence[str]]:
    """Return the rows of the tasks that are shown, with a row between that says how many are not.

    :param rows: task -> its row
    :param scores: task -> its return
    :param column: column of the tasks; those before it are equal in all rows
    """
    shown = [rows[task] for task in shown_tasks(scores)]
    if len(shown) < len(rows):
        first = shown[0]
        shown.insert(AT_EACH_END, [*first[:column], gap(len(rows)), *[""] * (len(first) - column - 1)])
    return shown


def listed_scores(scores: Mapping[str, float]) -> tuple[str, str]:
    """Return a cell that lists the return of every task, and one of the tasks that are shown.

    :param scores: task -> its return
    """
    each, shown = ([f"{task} {scores[task]:.0f}" for task in some] for some in (list(scores), shown_tasks(scores)))
    if len(shown) < len(each):
        shown.insert(AT_EACH_END, gap(len(each)))
    return "; ".join(each), "; ".join(shown)


def markdown_text(text: str) -> str:
    """Escape a text, such as a task's name, for Markdown."""
    return re.sub(r"([\\`*<\[\]]|\b_|_\b)", r"\\\1", text)


def _plain(cells: Sequence[str]) -> list[str]:
    """Escape plain text for Markdown, except brackets that make no link, as in intervals."""
    return [re.sub(r"([\\`*<]|\](?=[(\[:]))", r"\\\1", cell) for cell in cells]


def _line(cells: Sequence[str]) -> str:
    joined = " | ".join(cell.replace("|", "\\|") for cell in cells)
    return f"| {joined} |"


def _kind(column: Sequence[str]) -> str:
    if any(len(cell) > _LONG for cell in column):
        return "long"
    return "words" if any(cell[:1].isalpha() for cell in column) else "numbers"


def _row(tag: str, cells: Sequence[str], kinds: Sequence[str]) -> str:
    pairs = zip(cells, kinds, strict=True)
    return "<tr>" + "".join(f"<{tag} class={kind}>{html.escape(cell)}</{tag}>" for cell, kind in pairs) + "</tr>"
