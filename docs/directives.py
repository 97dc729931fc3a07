"""What pages take from the code and from results/ while they are built, so that nothing stands in two places."""

from __future__ import annotations

import importlib
import re
from pathlib import Path
from typing import Any, ClassVar

from docutils import nodes
from docutils.statemachine import StringList
from pydantic import BaseModel
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

RESULTS = Path(__file__).parents[1] / "results"


class _Markdown(SphinxDirective):
    """A directive that stands for Markdown."""

    def lines(self) -> list[str]:
        raise NotImplementedError

    def run(self) -> list[nodes.Node]:
        node = nodes.container()
        lines = StringList(self.lines(), self.get_source_info()[0])
        self.state.nested_parse(lines, self.content_offset, node, match_titles=True)
        return node.children


class SettingsDirective(_Markdown):
    """``{settings} module.Class``: a table of the settings of a config class."""

    required_arguments = 1
    option_spec: ClassVar[dict[str, Any]] = {}

    def lines(self) -> list[str]:
        module, _, name = self.arguments[0].rpartition(".")
        config: type[BaseModel] = getattr(importlib.import_module(module), name)
        rows = ["| setting | type | default | |", "|---|---|---|---|"]
        for key, field in config.model_fields.items():
            default = "required" if field.is_required() else f"`{field.default!r}`"
            kind = _escaped(_spelled(field.annotation))
            rows.append(f"| `{key}` | `{kind}` | {default} | {_escaped(field.description or '')} |")
        return rows


class ReportsDirective(_Markdown):
    """``{reports}``: the README of every folder of results/ that has one, as sections."""

    def lines(self) -> list[str]:
        pages = sorted(RESULTS.glob("*/README.md"))
        for page in pages:
            self.env.note_dependency(str(page))
        return [line for page in pages for line in [*_moved(page).splitlines(), ""]]


def _moved(page: Path) -> str:
    """A page of results/, headings one level down, with links that hold from docs/; those to folders become text."""

    def moved(link: re.Match[str]) -> str:
        is_image, text, target = link.groups()
        there = page.parent / target.partition("#")[0]
        kind = "" if is_image else "path:"  # a file to show or to download, and no page of these
        return text if there.is_dir() else f"{is_image}[{text}]({kind}../results/{page.parent.name}/{target})"

    parts = re.split(r"(^```.*?^```$)", page.read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE)
    for i in range(0, len(parts), 2):  # the others are code
        parts[i] = re.sub(r"^(#+ )", r"#\1", parts[i], flags=re.MULTILINE)
        parts[i] = re.sub(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)\s]+)\)", moved, parts[i])
    return "".join(parts)


def _spelled(annotation: Any) -> str:
    """A type as one would write it, without modules."""
    text = (
        annotation.__name__ if isinstance(annotation, type) and not hasattr(annotation, "__args__") else str(annotation)
    )
    text = re.sub(r"Annotated\[(\w+), FieldInfo\(.*?\)\]\)\]", r"\1", text.replace("typing.", ""))
    return re.sub(r"Literal\[([^\]]*)\]", lambda match: match[1].replace(", ", " | "), text)


def _escaped(text: str) -> str:
    return text.replace("|", "\\|")


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.add_directive("settings", SettingsDirective)
    app.add_directive("reports", ReportsDirective)
    return {"parallel_read_safe": True}
