"""What leaves the checkout: the source distribution, and tests that run from it and from a fresh clone."""

import importlib.metadata
import os
import shutil
import sys
import tarfile
import tomllib
from pathlib import Path

import pytest
from helpers.programs import output_of
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parents[1]
OF_THE_REPOSITORY = {".gitignore", ".ci/run"}
BUILD = "import sys; from setuptools import build_meta; build_meta.build_sdist(sys.argv[1])"


def tracked_files():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    listed = output_of(["git", "-C", ROOT, "ls-files", "-z"], None, os.environ).split("\0")
    return {name for name in listed if name and (ROOT / name).exists()} - OF_THE_REPOSITORY


@pytest.fixture(scope="module")
def files():
    return tracked_files()


@pytest.fixture(scope="module")
def unpacked(files, tmp_path_factory):
    """Folder of the source distribution, built from a copy of the checkout's files."""
    folder = tmp_path_factory.mktemp("distribution")
    source = folder / "source"
    for name in files:
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, source / name)
    output_of([sys.executable, "-c", BUILD, folder], source, os.environ)
    (archive,) = folder.glob("*.tar.gz")
    with tarfile.open(archive) as tar:
        tar.extractall(folder, filter="data")
    return folder / archive.name.removesuffix(".tar.gz")


def test_the_source_distribution_holds_every_file_of_the_checkout(files, unpacked):
    assert [name for name in sorted(files) if not (unpacked / name).exists()] == []


@pytest.mark.slow
def test_tests_run_from_the_source_distribution(unpacked):
    environment = {**os.environ, "PYTHONPATH": str(unpacked)}
    command = [sys.executable, "-m", "pytest", "-q"]
    output_of([*command, "--collect-only"], unpacked, environment)  # imports every test and its helpers
    output = output_of(
        [*command, "-m", "not slow", "tests/test_losses.py", "tests/test_docs.py"], unpacked, environment
    )
    assert " passed" in output


@pytest.mark.slow
@pytest.mark.parametrize("folder", [".", "tests"])
def test_a_fresh_clone_needs_no_folder_for_temporary_files(folder, tmp_path):
    for name in ("pyproject.toml", "tests/conftest.py"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copyfile(ROOT / name, tmp_path / name)
    shutil.copytree(ROOT / "tests" / "helpers", tmp_path / "tests" / "helpers")  # which conftest.py imports
    own = tmp_path / ".cache" / "tmp"
    (tmp_path / "tests" / "test_it.py").write_text(
        f"def test_it(tmp_path): assert str(tmp_path).startswith({str(own)!r})"
    )
    output_of([sys.executable, "-m", "pytest", "-n", "0"], tmp_path / folder, os.environ)


def requirements():
    """What pyproject.toml asks for, extras included, but for its own extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    groups = [project["dependencies"], *project["optional-dependencies"].values()]
    found = [Requirement(line) for group in groups for line in group]
    return [requirement for requirement in found if requirement.name != project["name"]]


def pins():
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    found = [Requirement(line) for line in lines if not line.startswith("#")]
    return {canonicalize_name(pin.name): next(iter(pin.specifier)).version for pin in found}


def test_every_dependency_has_a_lower_bound_and_a_pin_that_it_allows():
    assert [str(r) for r in requirements() if not any(s.operator == ">=" for s in r.specifier)] == []
    assert [str(r) for r in requirements() if not r.specifier.contains(pins()[canonicalize_name(r.name)])] == []


def test_every_pin_is_for_the_oldest_python_that_is_supported():
    """A pin that asks for a later Python, be it 3.11.5, cannot be installed on Debian 12 (3.11.2)."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    oldest = project["requires-python"].removeprefix(">=") + ".0"
    installed = {canonicalize_name(d.name): d for d in importlib.metadata.distributions()}
    tried = {
        name: installed[name] for name, pin in pins().items() if name in installed and installed[name].version == pin
    }
    asked = {name: SpecifierSet(d.metadata["Requires-Python"] or "") for name, d in tried.items()}
    assert {name: str(wanted) for name, wanted in asked.items() if not wanted.contains(oldest)} == {}
