"""The README's code runs as it stands there."""

import re
from pathlib import Path

import pytest

README = (Path(__file__).parents[1] / "README.md").read_text()
BLOCKS = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


@pytest.mark.parametrize("block", BLOCKS, ids=range(len(BLOCKS)))
def test_python_blocks_run(block, tmp_path, monkeypatch):
    """With less training: the numbers of steps are the only thing changed."""
    monkeypatch.chdir(tmp_path)
    block = re.sub(r"\b\d[\d_]*_000\b", "3_000", block)
    exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})  # noqa: S102


def test_there_are_blocks():
    assert len(BLOCKS) >= 2


def test_commands_and_paths_exist():
    root = Path(__file__).parents[1]
    for path in re.findall(r"\]\(((?!http|#)[^)]+)\)", README):
        assert (root / path).exists(), path
    makefile = (root / "Makefile").read_text()
    for target in re.findall(r"^make ([a-z-]+)", README, flags=re.MULTILINE):
        assert f"\n{target}:" in makefile, target
