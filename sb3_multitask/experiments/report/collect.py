"""The finished runs of a grid, read from their folders."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sb3_multitask.experiments.config import TrainConfig, load_config
from sb3_multitask.experiments.curves import read_evaluations
from sb3_multitask.experiments.run_folder import RunFolder
from sb3_multitask.task_results import TaskResult


@dataclass(frozen=True)
class Run:
    """A finished run: where it stands in the grid, its settings, and its returns.

    :param results: moment ("before", a budget in steps, "after") -> task -> result
    :param status: what ``run.json`` says
    """

    preset: str
    name: str
    seed: int
    path: Path
    config: TrainConfig
    results: dict[str, dict[str, TaskResult]]
    status: dict[str, Any]

    def curves(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """Task -> (steps of that task so far, mean return of the episodes then), both (n_evaluations,)."""
        curves = read_evaluations(self.path / "evaluations.npz")
        for other in self.config.also_on:
            read = read_evaluations(self.path / f"on_{other}" / "evaluations.npz").values()
            curves.update((other, curve) for curve in read)
        return curves


def read_runs(root: Path) -> tuple[list[Run], list[str]]:
    """The finished runs below ``root``, and of the others what they are.

    :param root: folder of a grid: ``<preset>/<run>/seed_<n>``
    :raises FileNotFoundError: if there is no run
    """
    runs, others = [], []
    for path in sorted(root.glob("*/*/seed_*")):
        preset, name = path.parts[-3:-1]
        folder = RunFolder(path)
        status = folder.read_status()
        if status.get("status") != "finished":
            others.append(f"{preset}/{name}/{path.name}: {status.get('status', 'waiting')}")
            continue
        config = load_config(TrainConfig, folder.config)
        runs.append(Run(preset, name, config.seed, path, config, folder.read_results(), status))
    if not runs and not others:
        raise FileNotFoundError(f"{root} holds no runs (<preset>/<run>/seed_<n>)")
    return runs, others


def select(runs: Sequence[Run], preset: str, name: str) -> list[Run]:
    """The runs of one preset and name, by seed."""
    return sorted((run for run in runs if (run.preset, run.name) == (preset, name)), key=lambda run: run.seed)


def presets_of_runs(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Name of a run -> the presets that have it."""
    names = dict.fromkeys(run.name for run in runs)
    return {name: list(dict.fromkeys(run.preset for run in runs if run.name == name)) for name in names}


def returns(runs: Sequence[Run], moment: str, tasks: Sequence[str]) -> np.ndarray:
    """Mean returns of runs, (n_runs, n_tasks); NaN where a run has none."""
    rows = [[run.results.get(moment, {}).get(task) for task in tasks] for run in runs]
    cells = [[np.nan if result is None else result.mean_reward for result in row] for row in rows]
    return np.array(cells, dtype=float).reshape(len(runs), len(tasks))
