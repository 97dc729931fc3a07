"""Sphinx: ``make docs`` builds this folder into ``docs/_build/html``, offline; every warning is an error."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parent
sys.path[:0] = [
    str(DOCS),
    str(DOCS.parent),
]  # directives.py and links.py; the package beside these pages, installed or not

from docutils import nodes  # noqa: E402
from sphinx.application import Sphinx  # noqa: E402
from sphinx.environment import BuildEnvironment  # noqa: E402

import sb3_multitask  # noqa: E402

project = "sb3-multitask"
author = copyright = "The sb3-multitask authors"  # noqa: A001 (Sphinx's name)
version = release = sb3_multitask.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx_copybutton", "directives", "links"]
exclude_patterns = ["_build"]

html_theme = "furo"
html_title = f"sb3-multitask {version}"
html_copy_source = False

myst_heading_anchors = 3  # page.md#a-heading, as on GitHub

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
python_use_unqualified_type_names = True
maximum_signature_line_length = 88

# Every reference must resolve, but for those into other packages, whose inventories an offline build cannot have.
nitpicky = True
nitpick_ignore_regex = [
    (
        r"py:.*",
        r"(torch|th|nn|numpy|np|gymnasium|gym|spaces|stable_baselines3|mujoco|pydantic|pathlib|io|collections)\..+",
    ),
    ("py:class", r"sb3_multitask\.experiments\.config_files\.ConfigT"),  # a TypeVar
    (
        r"py:.*",
        "BaseAlgorithm|BaseBuffer|BaseCallback|GymEnv|MaybeCallback|Path|PyTorchObs|RolloutBuffer|Schedule|VecEnv",
    ),
]


def _find_by_last_name(
    app: Sphinx, env: BuildEnvironment, node: nodes.Element, contnode: nodes.TextElement
) -> nodes.reference | None:
    """Resolve names in signatures and after ``:raises`` that lack their module, and aliases of types.

    Annotations are strings with the names of their own module. Sphinx looks for a class, where an alias is data.
    """
    if node.get("refdomain") != "py" or "." in node["reftarget"].removeprefix("sb3_multitask."):
        return None
    node["refspecific"] = True
    domain: Any = env.domains.python_domain
    return domain.resolve_xref(env, node["refdoc"], app.builder, "obj", node["reftarget"], node, contnode)


def setup(app: Sphinx) -> None:
    """Called by Sphinx."""
    app.connect("missing-reference", _find_by_last_name)
