"""The folder of one run: the only truth about it.

=====================  ==============================================================================
``config.yml``         the validated config
``run.json``           command, versions, machine, threads, code revision, status
``monitor/``           SB3's monitor files, one per sub-environment
``progress.csv``       SB3's log
``evaluations.npz``    evaluations while training: SB3's arrays and per-task ones
``results.json``       returns per task before and after training, every episode
``best_model.zip``     the best model by the config's score
``model.zip``          the model at the end
``learning_curves.png``  training returns per task
=====================  ==============================================================================
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch as th

from sb3_multitask.evaluation import TaskResult

_PACKAGES = ("sb3-multitask", "stable-baselines3", "sb3-contrib", "gymnasium", "mujoco", "torch", "numpy")


class RunFolder:
    """Paths and small files of one run.

    :param path: the folder
    """

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        self.config = self.path / "config.yml"
        self.run = self.path / "run.json"
        self.monitor = self.path / "monitor"
        self.evaluations = self.path / "evaluations.npz"
        self.results = self.path / "results.json"
        self.model = self.path / "model.zip"
        self.curves = self.path / "learning_curves.png"

    @classmethod
    def create(cls, path: str | Path | None, name: str, overwrite: bool = False) -> RunFolder:
        """A new, empty folder: ``path``, or the first free ``runs/<name>_<number>``.

        :raises FileExistsError: if ``path`` holds something, unless ``overwrite`` and it is a run's folder
        """
        if path is None:
            number = 1
            while (Path("runs") / f"{name}_{number}").exists():
                number += 1
            path = Path("runs") / f"{name}_{number}"
        folder = cls(path)
        if folder.path.exists() and any(folder.path.iterdir()):
            if not overwrite:
                raise FileExistsError(f"{folder.path} is not empty; choose another folder, or pass --overwrite")
            if not folder.run.exists():
                raise FileExistsError(f"{folder.path} holds no run (no run.json), so it is not overwritten")
            shutil.rmtree(folder.path)
        folder.path.mkdir(parents=True, exist_ok=True)
        return folder

    def write_status(self, status: str, **facts: Any) -> None:
        """Write ``run.json``: status (running, finished, interrupted, failed) and where and with what it ran."""
        provenance = {
            "status": status,
            "command": shlex.join(sys.argv),
            "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
            "python": platform.python_version(),
            "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {platform.system()}",
            "torch_threads": th.get_num_threads(),
            "revision": _revision(),
        }
        self.run.write_text(json.dumps({**provenance, **facts}, indent=2) + "\n", encoding="utf-8")

    def write_results(self, **results: Mapping[str, TaskResult]) -> None:
        """Write ``results.json``: moment (``before``, ``after``) -> task -> result."""
        content = {
            moment: {task: asdict(result) for task, result in by_task.items()} for moment, by_task in results.items()
        }
        self.results.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _revision() -> str | None:
    """The code's git revision, with ``-dirty`` on local changes; None outside a checkout."""
    git = shutil.which("git")
    package = Path(__file__).parents[2]
    if git is None or not (package / ".git").exists():
        return None
    command = [git, "-C", str(package), "describe", "--always", "--dirty", "--abbrev=40"]
    described = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return described.stdout.strip() or None
