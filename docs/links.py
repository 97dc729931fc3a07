"""Rewrite links that work on GitHub so that they work on the site: links out of docs/, and links in included files."""

from __future__ import annotations

import os
import re
from pathlib import Path

from sphinx.application import Sphinx

DOCS = Path(__file__).resolve().parent
PAGES = {DOCS.parent / f"{name.upper()}.md": DOCS / f"{name}.md" for name in ("changelog", "contributing", "security")}
"""Files of the repository's root, and the page in docs/ that includes each."""


def relink(text: str, written_in: Path, shown_in: Path) -> str:
    """Rewrite the links of a text for the page that shows it.

    Links out of docs/ become links to files; links to folders become plain text.

    :param text: Markdown; fenced blocks are not changed
    :param written_in: folder that its links are relative to
    :param shown_in: folder of the page
    """

    def relinked(link: re.Match[str]) -> str:
        is_image, label, target, anchor = link.groups()
        there = (written_in / target).resolve()
        if not there.exists():
            return link[0]  # unchanged, so that Sphinx reports the dead link
        if there.is_dir():
            return label
        there = PAGES.get(there, there)
        path = os.path.relpath(there, shown_in)
        is_page = there.is_relative_to(DOCS)
        return f"{is_image}[{label}]({path}{anchor})" if is_image or is_page else f"[{label}](path:{path})"

    parts = re.split(r"(^```.*?^```$)", text, flags=re.DOTALL | re.MULTILINE)
    parts[::2] = [re.sub(r"(!?)\[([^\]]*)\]\((?!\w+:|#)([^)#\s]+)([^)\s]*)\)", relinked, part) for part in parts[::2]]
    return "".join(parts)


def _relink_page(app: Sphinx, docname: str, content: list[str]) -> None:
    folder = Path(app.env.doc2path(docname)).parent
    content[0] = relink(content[0], folder, folder)


def _relink_included(app: Sphinx, path: Path, _docname: str, content: list[str]) -> None:
    content[0] = relink(content[0], (DOCS / path).parent, Path(app.env.doc2path(app.env.docname)).parent)


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    app.connect("source-read", _relink_page)
    app.connect("include-read", _relink_included)
    return {"parallel_read_safe": True}
