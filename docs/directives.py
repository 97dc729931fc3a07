"""Directives that read the code and results/ when the pages are built, so that no text exists twice."""

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

DOCS = Path(__file__).resolve().parent


class _Markdown(SphinxDirective):
    """A directive that is replaced by the Markdown of `lines`."""

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
        pages = sorted((DOCS.parent / "results").glob("*/README.md"))
        files = [f"../results/{page.parent.name}/README.md" for page in pages]
        return [line for file in files for line in (f"```{{include}} {file}", ":heading-offset: 1", "```", "")]


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
