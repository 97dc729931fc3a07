"""The folder of one run, which holds all facts about it.

=====================  ==============================================================================
``config.yml``         the validated config
``run.json``           status, time taken, command, versions, machine, threads, code revision
``log.txt``            the output of a run of a grid
``checkpoints/``       from which ``--resume`` resumes (:mod:`sb3_multitask.checkpoint`); of tasks in turn one
                       folder for each, ``task_<number>``
``monitor/``           SB3's monitor files, one per sub-environment
``progress.csv``       SB3's log
``evaluations.npz``    evaluations during training: SB3's arrays and per-task ones
``conflicts.npz``      cosines of the tasks' gradients (:mod:`sb3_multitask.experiments.conflicts`)
``agents/``            the agents at reported budgets, the best and the last (:mod:`sb3_multitask.agents`)
``dataset/``           recorded teachers, if the run recorded some (:mod:`sb3_multitask.distillation.dataset`)
``results.json``       returns per task before and after training, every episode
``best_model.zip``     the best model by the config's score
``model.zip``          the model at the end
``vecnormalize.pkl``   its normaliser, if the algorithm is not ours
``learning_curves.png``  training returns per task
``earlier_<number>/``  the files of an earlier attempt that could not be resumed
=====================  ==============================================================================

The results are by *stage*: "before" training, a budget in steps, "after_<i>" when the i-th of several tasks in turn has
been learned, "best", or "after" training.
"""

from __future__ import annotations

import importlib.metadata
import itertools
import json
import os
import platform
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import torch as th
from filelock import FileLock, Timeout

from sb3_multitask.agents.trained_files import run_of
from sb3_multitask.checkpoint.format import list_checkpoints, read_latest
from sb3_multitask.distillation.dataset import IN_RUN_FOLDER
from sb3_multitask.evaluation.results import TaskResult
from sb3_multitask.storage.files import remove_leftovers, write_json

_LOCK = ".lock"
_OUTPUTS = (
    *("agents", "dataset", "monitor", "checkpoints", "on_*", "progress.csv", "evaluations.npz", "conflicts.npz"),
    "results.json",
    *("best_model.zip", "model.zip", "vecnormalize.pkl", "learning_curves.png", "events.out.tfevents.*"),
)
_PACKAGES = ("sb3-multitask", "stable-baselines3", "sb3-contrib", "gymnasium", "mujoco", "torch", "numpy")

_KINDS_OF_FACTS: dict[str, type] = {
    **dict.fromkeys(("status", "command", "host", "reason", "python", "machine"), str),
    "versions": dict,
}
DAMAGE = (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError)
"""The exceptions of reading a damaged JSON file."""
_MAX_SECONDS = 1e10  # three centuries


class FolderInUseError(RuntimeError):
    """Another process works in a run's folder."""


def folder_of_agent(agent: str | Path) -> tuple[Path, str]:
    """Return the folder of an agent's run, and the stage of its results: a budget in steps, "best", or "after"."""
    folder, which = run_of(agent)
    return folder, "after" if which == "final" else which


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
        self.conflicts = self.path / "conflicts.npz"
        self.results = self.path / "results.json"
        self.checkpoints = self.path / "checkpoints"
        self.log = self.path / "log.txt"
        self.agents = self.path / "agents"
        self.dataset = self.path / IN_RUN_FOLDER
        self.progress = self.path / "progress.csv"
        self.model = self.path / "model.zip"
        self.vec_normalize = self.path / "vecnormalize.pkl"
        self.curves = self.path / "learning_curves.png"

    @classmethod
    def create(cls, path: str | Path | None, name: str, overwrite: bool = False) -> RunFolder:
        """Make a new, empty folder: ``path``, or the first free ``runs/<name>_<number>``.

        :raises FileExistsError: if ``path`` is not empty, unless it is a run's folder and ``overwrite`` is set
        """
        if path is None:
            path = _first_free(Path("runs"), name)
        folder = cls(path)
        if folder.path.exists() and any(item.name != _LOCK for item in folder.path.iterdir()):
            if not overwrite:
                raise FileExistsError(
                    f"{folder.path} is not empty; resume it with `--resume {folder.path}`, choose another folder, or "
                    "replace what is there with --overwrite"
                )
            if not folder.run.exists():
                raise FileExistsError(f"{folder.path} holds no run (no run.json), so it is not overwritten")
            with folder.locked():
                for item in folder.path.iterdir():
                    if item.is_dir() and not item.is_symlink():
                        shutil.rmtree(item)
                    elif item.name != _LOCK:
                        item.unlink()
        folder.path.mkdir(parents=True, exist_ok=True)
        return folder

    @classmethod
    def existing(cls, path: str | Path) -> RunFolder:
        """Return the folder of a run that was started before.

        :raises FileNotFoundError: if there is none
        """
        folder = cls(path)
        if not folder.config.exists():
            why = f"no {folder.config.name}" if folder.path.exists() else "it does not exist"
            raise FileNotFoundError(f"{folder.path} is no run's folder ({why})")
        return folder

    def outputs(self) -> list[Path]:
        """Return the files of a run so far, except its config, status and log."""
        return sorted(path for pattern in _OUTPUTS for path in self.path.glob(pattern))

    def set_aside(self) -> Path | None:
        """Move the outputs of an earlier attempt into ``earlier_<number>``, with copies of its config and status.

        :return: the new folder; None if there were no outputs
        """
        if not (outputs := self.outputs()):
            return None
        aside = _first_free(self.path, "earlier")
        for file in (self.config, self.run):
            if file.exists():
                shutil.copy2(file, aside / file.name)
        for path in outputs:
            path.rename(aside / path.name)
        return aside

    def remove_outputs(self) -> None:
        """Delete the outputs of an earlier attempt."""
        for path in self.outputs():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            else:
                path.unlink()

    @property
    def lacks_checkpoints(self) -> bool:
        """Whether a run has trained here without checkpoints, such as one of an earlier version."""
        return self.monitor.exists() and not self.checkpoints.exists()

    def checkpoints_of_turn(self, turn: int) -> Path:
        """Return the folder of the checkpoints of a task that is learned in turn, the first one's for 0."""
        return self.checkpoints / f"task_{turn + 1}"

    def newest_checkpoint_in_turn(self) -> tuple[int, int] | None:
        """Return turn and environment steps of the newest valid checkpoint of tasks in turn; None without one."""
        turns = [int(number) for path in self.checkpoints.glob("task_*") if (number := path.name[5:]).isdecimal()]
        for turn in sorted(turns, reverse=True):
            if (newest := read_latest(self.checkpoints_of_turn(turn - 1))) is not None:
                return turn - 1, int(newest[0].name)
        return None

    def steps_of_checkpoints(self) -> list[int]:
        """Return the environment steps of all checkpoints, valid or not."""
        folders = [self.checkpoints, *self.checkpoints.glob("task_*")]
        return [int(checkpoint.name) for path in folders for checkpoint in list_checkpoints(path)]

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Lock out other processes. The lock of a dead process is free.

        :raises FolderInUseError: if another process has the lock
        """
        lock = FileLock(self.path / _LOCK, timeout=0)
        try:
            with lock:
                for folder in (self.path, *self.path.glob("agents"), *self.path.glob("on_*")):
                    remove_leftovers(folder)
                yield
        except PermissionError as e:
            raise PermissionError(f"{self.path} may not be written to; choose another folder") from e
        except Timeout:
            owner = self.read_status()
            raise FolderInUseError(
                f"{self.path} is in use by another process (pid {owner.get('pid', 'unknown')} on "
                f"{owner.get('host', 'an unknown host')}). Wait for it, or choose another folder."
            ) from None

    def is_locked(self) -> bool:
        """Return whether a process works in the folder now."""
        try:
            with FileLock(self.path / _LOCK, timeout=0):
                return False
        except Timeout:
            return True

    def read_status(self) -> dict[str, Any]:
        """Return the readable contents of ``run.json``; empty without one."""
        try:
            content = json.loads(self.run.read_text(encoding="utf-8"))
        except (OSError, ValueError, RecursionError):
            return {}
        return valid_facts(content)

    def write_status(self, status: str, **facts: Any) -> None:
        """Write ``run.json``: status (running, finished, interrupted, failed), machine and versions."""
        provenance = {
            "status": status,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "command": shlex.join([_program(), *sys.argv[1:]]),
            "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
            "python": platform.python_version(),
            "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {platform.system()}",
            "torch_threads": th.get_num_threads(),
            "revision": _revision(),
        }
        write_json(self.run, {**provenance, **facts})

    def write_death(self, reason: str) -> None:
        """Write to ``run.json`` the reason of the end of a run that could not write it, such as a killed run.

        :raises OSError: if the file cannot be written
        """
        write_json(self.run, {**self.read_status(), "status": "failed", "reason": reason})

    def write_results(self, **results: Mapping[str, TaskResult]) -> None:
        """Write ``results.json``: stage (``before``, ``after``) -> task -> result."""
        content = {
            stage: {task: result.to_json() for task, result in by_task.items()} for stage, by_task in results.items()
        }
        write_json(self.results, content)

    def read_results(self) -> dict[str, dict[str, TaskResult]]:
        """Return the contents of ``results.json``; empty without one.

        :raises ValueError: if it is damaged; names the file
        """
        if not self.results.exists():
            return {}
        try:
            return results_from_json(json.loads(self.results.read_text(encoding="utf-8")))
        except DAMAGE as e:
            raise ValueError(f"{self.results} does not hold the results of a run ({e}); it was damaged") from e


def results_from_json(content: Any) -> dict[str, dict[str, TaskResult]]:
    """Return the results in the contents of ``results.json``; raises one of :data:`DAMAGE` if they are damaged."""
    return {
        stage: {task: TaskResult.from_json(result) for task, result in by_task.items()}
        for stage, by_task in content.items()
    }


def valid_facts(content: Any) -> dict[str, Any]:
    """Return the facts of a status that have valid types; none if it is not a mapping."""
    if not isinstance(content, dict):
        return {}
    return {name: value for name, value in content.items() if _is_valid(name, value)}


def _is_valid(name: str, value: Any) -> bool:
    """Return whether a fact of a status has a valid type, since an editor or a disk may have changed the file."""
    if name in ("wall_seconds", "cpu_seconds"):
        return type(value) in (int, float) and 0 <= value < _MAX_SECONDS
    return isinstance(value, _KINDS_OF_FACTS.get(name, object))


def _program() -> str:
    """Return the name of the program that was started, without its folders."""
    name = Path(sys.argv[0]).name
    return "sb3-multitask" if name == "__main__.py" else name


def _first_free(parent: Path, name: str) -> Path:
    """Make and return ``<parent>/<name>_<number>`` with the first free number."""
    for number in itertools.count(1):
        path = parent / f"{name}_{number}"
        with suppress(FileExistsError):
            path.mkdir(parents=True)
            return path
    raise AssertionError


def _revision() -> str | None:
    """Return the code's git revision, with ``-dirty`` on local changes; None outside a checkout."""
    git = shutil.which("git")
    package = Path(__file__).parents[2]
    if git is None or not (package / ".git").exists():
        return None
    command = [git, "-C", str(package), "describe", "--always", "--dirty", "--abbrev=40"]
    described = subprocess.run(command, capture_output=True, text=True, check=False)  # noqa: S603
    return described.stdout.strip() or None
