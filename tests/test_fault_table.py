"""Every row of the fault table names tests that exist, and together they are a campaign."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "docs" / "faults.md").read_text(encoding="utf-8")
CAMPAIGN = (
    "faults",
    "quarantine",
    "simulation_faults",
    "six_tasks",
    "workers",
    "disk",
    "clock",
    "grid_killed",
    "resume",
)


def rows():
    """(first cell, tests named in the last cell as (file, pattern)) of each row; `tests/...` in the text above a table
    is the file of tests without one."""
    found, default = [], None
    for line in TEXT.splitlines():
        if line.startswith("Tests without a file are in"):
            default = re.search(r"`(tests/\w+\.py)`", line)[1]
        if line.startswith("#"):
            default = None
        if not line.startswith("|") or set(line) <= set("|-") or line.endswith("| tests |"):
            continue
        first, *_, last = [cell.strip() for cell in line.strip("|").split("|")]
        named = re.findall(r"`(?:(tests/\w+\.py)::)?(test_\w+(?:\.\.\.)?)`", last)
        found.append((first, [(file or default, pattern) for file, pattern in named]))
    return found


def functions(file):
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    return [node.name for node in tree.body if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")]


@pytest.mark.parametrize(("fault", "tests"), rows(), ids=lambda value: value if isinstance(value, str) else "")
def test_the_tests_of_every_row_exist(fault, tests):
    assert tests, f"no test is named for: {fault}"
    for file, pattern in tests:
        assert file is not None, f"{pattern}: in which file?"
        start = pattern.removesuffix("...")
        fits = [name for name in functions(file) if (name.startswith(start) if pattern != start else name == start)]
        assert fits, f"{file} has no {pattern}"


def test_the_table_is_read():
    assert len(rows()) > 30
    assert TEXT.count("`test_") + TEXT.count("::test_") == sum(len(tests) for _, tests in rows())


@pytest.mark.slow
def test_the_campaign_has_at_least_forty_cases(tmp_path):
    files = [str(ROOT / "tests" / f"test_{name}.py") for name in CAMPAIGN]
    command = [
        sys.executable,
        "-m",
        "pytest",
        "--collect-only",
        "-q",
        "-p",
        "no:xdist",
        f"--basetemp={tmp_path}",
        *files,
    ]
    collected = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout
    assert len(re.findall(r"^tests/\S+::test_", collected, flags=re.MULTILINE)) >= 200
