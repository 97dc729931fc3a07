"""The code in README and docs runs as it stands there."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = [page for page in sorted((ROOT / "docs").rglob("*.md")) if "_build" not in page.parts]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *DOCS]


def name_of(page):
    return str(page.relative_to(ROOT).with_suffix(""))


BLOCKS = [
    pytest.param(block, id=f"{name_of(page)}-{i}", marks=[pytest.mark.slow] if 'backend="ray"' in block else [])
    for page in PAGES
    for i, block in enumerate(re.findall(r"```python\n(.*?)```", page.read_text(), flags=re.DOTALL))
]


@pytest.mark.parametrize("block", BLOCKS)
def test_python_blocks_run(block, tmp_path, monkeypatch):
    """With less training: the numbers of steps are the only thing changed."""
    monkeypatch.chdir(tmp_path)
    block = re.sub(r"\b\d[\d_]*_000\b", "3_000", block)
    exec(compile(block, "page", "exec"), {"__name__": "__main__"})  # noqa: S102


def test_there_are_blocks():
    assert len(BLOCKS) >= 4


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_what_pages_link_to_is_there(page):
    text = page.read_text()
    for path in re.findall(r"\]\(((?!http|#)[^)#]+)[^)]*\)", text):
        assert (page.parent / path).exists(), path


def test_commands_exist():
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"^make ([a-z-]+)", PAGES[0].read_text(), flags=re.MULTILINE):
        assert f"\n{target}:" in makefile, target
