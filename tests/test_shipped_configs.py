"""Configs by the names that README gives them, from a checkout and from an installed package."""

import shutil
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from helpers.programs import output_of
from typer.testing import CliRunner

from sb3_multitask import cli
from sb3_multitask.experiments.shipped import find_config, shipped_config
from sb3_multitask.storage.yaml_files import ConfigError
from sb3_multitask.zoo.settings import default_config, read_hyperparameters

ROOT = Path(__file__).parents[1]
NAMES = sorted(path.relative_to(ROOT / "zoo_configs").as_posix() for path in (ROOT / "zoo_configs").rglob("*.yml"))


def test_a_shipped_config_is_found_from_anywhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert [find_config(f"zoo_configs/{name}") for name in NAMES] == [ROOT / "zoo_configs" / name for name in NAMES]
    done = CliRunner().invoke(cli.app, ["grid", "zoo_configs/algorithms_grid.yml", "--dry-run"])
    assert done.exit_code == 0, done.exception
    assert read_hyperparameters("zoo_configs/a2c_mt.yml", "x") == read_hyperparameters(default_config("a2c_mt"), "x")


def test_a_file_that_is_there_comes_first(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("zoo_configs").mkdir()
    Path("zoo_configs/a2c_mt.yml").write_text("x: {n_timesteps: 3}")
    assert read_hyperparameters("zoo_configs/a2c_mt.yml", "x") == {"n_timesteps": 3}
    assert default_config("a2c_mt") == ROOT / "zoo_configs" / "a2c_mt.yml"


def test_other_names_are_refused_and_other_paths_left_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"'tund\.yml'.*'tuned\.yml'.*a2c_mt"):
        find_config("zoo_configs/tund.yml")
    for path in (
        "tuned.yml",
        "../zoo_configs/tuned.yml",
        "zoo_configs/../tuned.yml",
        "zoo_configs",
        tmp_path / "zoo_configs" / "tuned.yml",
    ):
        assert find_config(path) == Path(path)
    with pytest.raises(ConfigError, match=r"tuned\.yml: cannot read this config"):
        CliRunner().invoke(cli.app, ["train", "--config", "tuned.yml"], catch_exceptions=False)


def test_the_distribution_lists_every_package():
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = {path.parent.relative_to(ROOT) for path in (ROOT / "sb3_multitask").rglob("*.py")}
    assert packages == [*sorted(".".join(folder.parts) for folder in folders), "sb3_multitask.zoo_configs"]


@pytest.mark.slow
def test_an_installed_package_has_the_configs(tmp_path):
    pytest.importorskip("setuptools")
    source, site = tmp_path / "source", tmp_path / "site"
    for name in ("sb3_multitask", "zoo_configs"):
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copyfile(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation", "--no-cache-dir"]
    subprocess.run([*pip, "-w", str(tmp_path), str(source)], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    zipfile.ZipFile(wheel).extractall(site)
    shutil.rmtree(source)
    code = f"""
import sys; sys.path.insert(0, {str(site)!r})
import importlib.resources
from sb3_multitask.experiments.shipped import shipped_config
print(shipped_config("tuned.yml"))
def names(folder, place=""):
    for file in folder.iterdir():
        yield from names(file, place + file.name + "/") if file.is_dir() else [place + file.name]
print(sorted(names(importlib.resources.files("sb3_multitask.zoo_configs"))))
"""
    shipped, names = output_of([sys.executable, "-c", code], tmp_path, {}).splitlines()
    assert Path(shipped).read_text() == shipped_config("tuned.yml").read_text()
    assert Path(shipped) == site / "sb3_multitask" / "zoo_configs" / "tuned.yml"
    assert names == str(NAMES)
