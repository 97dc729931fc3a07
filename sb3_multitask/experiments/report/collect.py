"""The finished runs of a grid, read from their folders."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sb3_multitask.experiments.config import TrainConfig, load_config
from sb3_multitask.experiments.curves import read_evaluations
from sb3_multitask.experiments.run_folder import RunFolder
from sb3_multitask.task_results import TaskResult
from sb3_multitask.yaml_files import ConfigError

_MAY_DIFFER = {
    *("seed", "n_timesteps", "report_at"),  # tables name the budgets
    *("engine", "backend", "device", "log_interval", "eval_freq", "eval_episodes", "n_eval_episodes"),
    *("checkpoint_freq", "keep_checkpoints", "tensorboard"),
}
"""Settings in which the seeds of a run may differ: what was learned does not depend on them, or the report says it."""


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
    :raises ConfigError: if the seeds of a run have other settings; names what differs
    """
    runs: list[Run] = []
    others = []
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
    for preset, name in dict.fromkeys((run.preset, run.name) for run in runs):
        _check_seeds(root, select(runs, preset, name))
    return runs, others


def _check_seeds(root: Path, seeds: Sequence[Run]) -> None:
    """Raise unless the seeds of a run have the same settings: a mean over them would mean nothing."""
    first, *others = seeds
    ours = _settings(first)
    for run in others:
        theirs = _settings(run)
        different = [f"{key} ({ours[key]!r:.60} and {theirs[key]!r:.60})" for key in ours if ours[key] != theirs[key]]
        if different:
            raise ConfigError(
                f"{root / first.preset / first.name}: seeds {first.seed} and {run.seed} have different settings: "
                f"{', '.join(different)}. Move the seeds of one of them to a grid's folder of their own"
            )


def _settings(run: Run) -> dict[str, Any]:
    """A run's settings without its seed, in the folders of the runs that it begins with too."""
    settings = run.config.model_dump(exclude=_MAY_DIFFER)
    return {key: _without_seed(value, f"seed_{run.seed}") for key, value in settings.items()}


def _without_seed(value: Any, seed: str) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_seed(item, seed) for key, item in value.items()}
    if not isinstance(value, str):
        return value
    return ["seed" if part == seed else part for part in Path(value).parts]


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
