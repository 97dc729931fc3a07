"""Sphinx: ``make docs`` builds this folder into ``docs/_build/html``, offline; every warning is an error."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the package beside these pages, installed or not

import sb3_multitask  # noqa: E402

project = "sb3-multitask"
author = copyright = "The sb3-multitask authors"  # noqa: A001 (Sphinx's name)
version = release = sb3_multitask.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode", "sphinx_copybutton"]
exclude_patterns = ["_build"]
suppress_warnings = ["toc.empty_glob"]  # pages of optional extras may be left out of a checkout's docs

html_theme = "furo"
html_title = f"sb3-multitask {version}"
html_copy_source = False
copybutton_exclude = ".linenos, .gp, .go"

myst_heading_anchors = 3  # links such as page.md#a-heading, as on GitHub
myst_enable_extensions = ["dollarmath"]

autodoc_member_order = "bysource"
autodoc_typehints = "description"
autodoc_typehints_description_target = "documented"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_class_signature = "mixed"
python_use_unqualified_type_names = True
maximum_signature_line_length = 88

# Every reference must resolve, but for those into other packages: the build downloads no inventories.
nitpicky = True
nitpick_ignore_regex = [
    (r"py:.*", r"(torch|th|nn|numpy|np|gymnasium|gym|spaces|stable_baselines3|sb3_contrib|pathlib|collections)\..*"),
]
