"""The documentation is whole: it builds without a warning, and has all that the package offers."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest
from ruamel.yaml import YAML

import sb3_multitask as mt
from sb3_multitask.experiments import run_folder
from sb3_multitask.experiments.config import TrainConfig, load_config
from sb3_multitask.experiments.grid import load_grid

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
API = "\n".join(page.read_text(encoding="utf-8") for page in (DOCS / "api").glob("*.md"))


def documented_names():
    """Names of ``sb3_multitask`` itself that the API pages document."""
    names = re.findall(r"^\.\. (?:auto\w+|py:data):: (\w+)$", API, flags=re.MULTILINE)
    assert len(names) == len(set(names)), "a name is documented twice"
    return set(names)


def test_every_public_name_is_in_the_api_reference():
    assert documented_names() == set(mt.__all__)


def test_the_overview_lists_every_public_name():
    overview = (DOCS / "api" / "index.md").read_text(encoding="utf-8")
    assert set(mt.__all__) <= set(re.findall(r"`(\w+)`", overview))


def test_public_names_have_docstrings_of_their_own():
    for name in set(mt.__all__) - {"TASK_SETS"}:
        assert getattr(mt, name).__doc__, name
        assert not getattr(mt, name).__doc__.startswith(f"{name}("), f"{name}: a dataclass's own signature"


@pytest.mark.parametrize(
    "page",
    [
        *(
            "combiners.md",
            "experiments.md",
            "family/distral.md",
            "family/forgetting.md",
            "family/policy_distillation.md",
        ),
        *("family/progressive.md", "task_schedules.md", "tasks.md"),
    ],
)
def test_configs_on_pages_are_valid(page, tmp_path):
    blocks = re.findall(r"```yaml\n(.*?)```", (DOCS / page).read_text(encoding="utf-8"), flags=re.DOTALL)
    assert blocks
    shutil.copy(ROOT / "zoo_configs" / "tuned.yml", tmp_path)
    for block in blocks:
        (tmp_path / "page.yml").write_text(block)
        if "presets:" in block:
            assert load_grid(tmp_path / "page.yml")
        else:
            load_config(TrainConfig, tmp_path / "page.yml")


def test_the_page_on_run_folders_has_every_file():
    files = re.findall(r"^``([\w.]+/?)``", run_folder.__doc__, flags=re.MULTILINE)
    assert len(files) >= 10
    page = (DOCS / "experiments.md").read_text(encoding="utf-8")
    assert [file for file in files if f"`{file}" not in page] == []


def test_folders_of_the_zoo_are_called_as_it_calls_them():
    """By the id with dashes and a number, in pages and in the help of commands."""
    names = {env_id.replace("/", "-") for env_id in gym.registry}
    sources = [*DOCS.rglob("*.md"), *(ROOT / "sb3_multitask").rglob("*.py")]
    folders = [
        (source.name, name)
        for source in sources
        for name in re.findall(r"\blogs/\w+/([\w-]+)_\d+\b", source.read_text(encoding="utf-8"))
    ]
    assert len(folders) >= 4
    assert [(page, name) for page, name in folders if name not in names] == []


def test_the_citation_is_of_this_version():
    citation = YAML(typ="safe").load(ROOT / "CITATION.cff")
    assert (citation["title"], citation["version"]) == ("sb3-multitask", mt.__version__)
    assert {"cff-version", "message", "authors"} <= set(citation)


@pytest.mark.slow
def test_the_site_builds_without_a_warning(tmp_path):
    """As ``make docs`` does: references, links between pages, includes, docstrings, and every page in the contents."""
    command = [sys.executable, "-m", "sphinx", "-b", "html", "-W", "--keep-going", "-n", "-q"]
    built = subprocess.run(
        [*command, "-d", str(tmp_path / "doctrees"), str(DOCS), str(tmp_path / "html")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    pages = {page.relative_to(DOCS).with_suffix(".html") for page in DOCS.rglob("*.md") if "_build" not in page.parts}
    missing = [str(page) for page in pages if not (tmp_path / "html" / page).exists()]
    assert not missing
    assert (tmp_path / "html" / "_images" / "concepts.svg").exists()
