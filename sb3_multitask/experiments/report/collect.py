"""The finished runs of a grid, read from their folders or from the data of a report."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from sb3_multitask.evaluation.results import TaskResult
from sb3_multitask.experiments.config import TrainConfig, load_config, make_config
from sb3_multitask.experiments.conflicts import Conflicts, read_conflicts
from sb3_multitask.experiments.curves import Curve, read_evaluations, read_success_rates
from sb3_multitask.experiments.run_folder import DAMAGE, RunFolder, results_from_json, valid_facts
from sb3_multitask.readers import UnreadableFileError
from sb3_multitask.storage.files import write_text
from sb3_multitask.storage.yaml_files import ConfigError

_MAY_DIFFER = {
    *("seed", "n_timesteps", "report_at"),  # tables show the budgets
    *("engine", "backend", "device", "log_interval", "eval_freq", "eval_episodes", "n_eval_episodes"),
    *("checkpoint_freq", "keep_checkpoints", "tensorboard"),
}
"""Settings in which the seeds of a run may differ: they do not affect learning, or the report shows them."""
_PROVENANCE = (
    *("versions", "python", "machine", "torch_threads", "revision", "engine", "backend", "physics_threads"),
    *("wall_seconds", "cpu_seconds"),
)
"""Facts of ``run.json`` in a report's data."""


@dataclass(frozen=True)
class Run:
    """A finished run: its place in the grid, its settings, and its returns.

    :param path: the run's folder, or the file of a report's ``data/`` that holds the run
    :param results: stage ("before", a budget in steps, "after") -> task -> result
    :param status: contents of ``run.json``
    :param recorded: the curves from a report's data; None if the run's folder has them
    :param recorded_success: the success rates from a report's data
    :param recorded_conflicts: the conflicts of gradients from a report's data
    """

    preset: str
    name: str
    seed: int
    path: Path
    config: TrainConfig
    results: dict[str, dict[str, TaskResult]]
    status: dict[str, Any]
    recorded: Mapping[str, Curve] | None = None
    recorded_success: Mapping[str, Curve] = field(default_factory=dict)
    recorded_conflicts: Conflicts | None = None

    def curves(self) -> dict[str, Curve]:
        """Return task -> (steps of that task so far, mean return of the evaluation), both (n_evaluations,)."""
        if self.recorded is not None:
            return dict(self.recorded)
        return self._read(read_evaluations)

    def success_curves(self) -> dict[str, Curve]:
        """Return task -> (steps of that task so far, success rate of the evaluation), of the tasks that say success."""
        return dict(self.recorded_success) if self.recorded is not None else self._read(read_success_rates)

    def conflicts(self) -> Conflicts | None:
        """Return how the gradients of the tasks conflicted; None if it was not measured."""
        if self.recorded is not None:
            return self.recorded_conflicts
        return read_conflicts(self.path / "conflicts.npz")

    def _read(self, read: Callable[[Path], dict[str, Curve]]) -> dict[str, Curve]:
        curves = read(self.path / "evaluations.npz")
        for other in self.config.also_on:
            of_other = read(self.path / f"on_{other}" / "evaluations.npz").values()
            curves.update((other, curve) for curve in of_other)
        return curves


def read_runs(root: Path) -> tuple[list[Run], list[str]]:
    """Return the finished runs below ``root``, and the statuses of the others.

    :param root: folder of a grid: ``<preset>/<run>/seed_<n>``; or ``data/`` of a report on a grid, which has all data
        of a report except the agents
    :raises FileNotFoundError: if there is no run
    :raises UnreadableFileError: if a file of ``data/`` is damaged
    :raises ConfigError: if the seeds of a run have different settings; names these
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
    of_data = map(_read_data, sorted(root.glob("*/*_seed_*.json")))
    runs += sorted(of_data, key=lambda run: (run.preset, run.name))  # in the order of the folders
    if not runs and not others:
        raise FileNotFoundError(
            f"{root} holds no runs of a grid (<preset>/<run>/seed_<n>, or <preset>/<run>_seed_<n>.json in data/ of a "
            "report); `sb3-multitask plot` and `card` are for a single run"
        )
    for preset, name in dict.fromkeys((run.preset, run.name) for run in runs):
        _check_seeds(root, select(runs, preset, name))
    return runs, others


def write_data(run: Run, folder: Path) -> None:
    """Write the sources of a run's numbers: settings, versions, all evaluations and their episodes, conflicts.

    :param folder: ``data/`` of a report, for :func:`read_runs`
    """
    success_curves, conflicts = run.success_curves(), run.conflicts()
    content = {
        "settings": run.config.model_dump(mode="json", exclude_unset=True),
        "ran_with": {name: run.status[name] for name in _PROVENANCE if name in run.status},
        "results": {m: {task: result.to_json() for task, result in tasks.items()} for m, tasks in run.results.items()},
        "curves": {task: _curve_to_json(curve, "returns") for task, curve in run.curves().items()},
    }
    if success_curves:
        content["success_curves"] = {task: _curve_to_json(curve, "rates") for task, curve in success_curves.items()}
    if conflicts is not None:
        content["conflicts"] = conflicts.to_json()
    write_text(folder / run.preset / f"{run.name}_seed_{run.seed}.json", json.dumps(content) + "\n")


def _read_data(path: Path) -> Run:
    name = path.stem.rpartition("_seed_")[0]
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        config = make_config(TrainConfig, content["settings"], where=lambda _key: str(path))
        results, status = results_from_json(content["results"]), valid_facts(content["ran_with"])
        curves = {task: _read_curve(curve, "returns") for task, curve in content["curves"].items()}
        of_success = {task: _read_curve(curve, "rates") for task, curve in content.get("success_curves", {}).items()}
        conflicts = Conflicts.from_json(content["conflicts"]) if "conflicts" in content else None
    except ConfigError:
        raise
    except DAMAGE as e:
        raise UnreadableFileError(f"{path}: does not hold a run of a report ({e})") from e
    return Run(path.parent.name, name, config.seed, path, config, results, status, curves, of_success, conflicts)


def _curve_to_json(curve: Curve, what: str) -> dict[str, Any]:
    steps, values = curve
    return {"steps": steps.tolist(), what: values.tolist()}


def _read_curve(curve: Mapping[str, Any], what: str) -> Curve:
    steps, values = (np.array(curve[name], dtype=float) for name in ("steps", what))
    if steps.ndim != 1 or steps.shape != values.shape:
        raise ValueError(f"a curve of {steps.shape} steps and {values.shape} {what}")
    return steps, values


def _check_seeds(root: Path, seeds: Sequence[Run]) -> None:
    """Raise unless the seeds of a run have the same settings, without which a mean over them is meaningless."""
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
    """Return a run's settings without its seed, also in the folders of the runs from which it starts."""
    settings = run.config.model_dump(exclude=_MAY_DIFFER)
    return {key: _without_seed(value, f"seed_{run.seed}") for key, value in settings.items()}


def _without_seed(value: Any, seed: str) -> Any:
    if isinstance(value, Mapping):
        return {key: _without_seed(item, seed) for key, item in value.items()}
    if not isinstance(value, str):
        return value
    return ["seed" if part == seed else part for part in Path(value).parts]


def select(runs: Sequence[Run], preset: str, name: str) -> list[Run]:
    """Return the runs of one preset and name, by seed."""
    return sorted((run for run in runs if (run.preset, run.name) == (preset, name)), key=lambda run: run.seed)


def of_same_seeds(first: Sequence[Run], second: Sequence[Run]) -> tuple[list[Run], list[Run]]:
    """Return the runs of both sides whose seeds both have."""
    seeds = {run.seed for run in first} & {run.seed for run in second}
    mine, others = ([run for run in side if run.seed in seeds] for side in (first, second))
    return mine, others


def presets_of_runs(runs: Sequence[Run]) -> dict[str, list[str]]:
    """Return run name -> the presets that have it."""
    names = dict.fromkeys(run.name for run in runs)
    return {name: list(dict.fromkeys(run.preset for run in runs if run.name == name)) for name in names}


def returns(runs: Sequence[Run], stage: str, tasks: Sequence[str]) -> np.ndarray:
    """Return mean returns of runs at a stage, (n_runs, n_tasks); NaN where a run has none."""
    return _of_results(runs, stage, tasks, "mean_reward")


def success_rates(runs: Sequence[Run], stage: str, tasks: Sequence[str]) -> np.ndarray:
    """Return success rates of runs at a stage, (n_runs, n_tasks); NaN where nothing is said."""
    return _of_results(runs, stage, tasks, "success_rate")


def _of_results(runs: Sequence[Run], stage: str, tasks: Sequence[str], name: str) -> np.ndarray:
    rows = [[run.results.get(stage, {}).get(task) for task in tasks] for run in runs]
    cells = [[getattr(result, name, None) for result in row] for row in rows]
    return np.array(cells, dtype=float).reshape(len(runs), len(tasks))  # NaN for None
