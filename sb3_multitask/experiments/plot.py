"""Draw the curves of any runs, ours or rl_zoo3's, in one picture."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from sb3_multitask.experiments.curves import (
    ALL_TASKS,
    RunCurves,
    draw_learning_curves,
    mean_of_runs,
    read_evaluations,
    read_n_envs,
    read_success_rates,
    read_training_returns,
    read_training_successes,
)

Which: TypeAlias = Literal["both", "training", "evaluations", "success"]
_EVALUATIONS = "evaluations.npz"
_FORMATS = (".png", ".svg", ".pdf")
_NUMBER = re.compile(r"_\d+(_[0-9a-f-]{36})?$")
"""End of the names of runs' folders: their number, and rl_zoo3's ``--uuid``."""


def plot_runs(
    folders: Sequence[Path],
    output: Path | None = None,
    which: Which = "both",
    window: int = 20,
    max_timesteps: int | None = None,
    group: bool = False,
) -> Path:
    """Draw the curves of runs, with one panel per task.

    :param folders: folders of runs: ours, with ``monitor/`` and ``evaluations.npz``, or rl_zoo3's, with the monitor
        files in the folder itself
    :param output: the picture, ``.png``, ``.svg`` or ``.pdf``; ``None`` for ``<first run>_curves.png`` next to the
        first run's folder
    :param which: training returns, evaluations, or both; or success rates, of training and of evaluations
    :param window: number of training episodes in the line's mean
    :param max_timesteps: environment steps over all tasks at which the curves end; ``None`` for the end of the run
    :param group: draw runs whose folders differ only in the number at the end (seeds) as one curve: the mean of their
        evaluations, with its standard error
    :return: path of the picture
    :raises FileNotFoundError: if a folder is missing, or has nothing to plot
    :raises ValueError: on an unknown format, ``window`` or ``max_timesteps`` below 1, no folder, or groups of training
        returns, whose episodes end at different steps
    """
    if not folders:
        raise ValueError("`folders` must hold at least one run's folder (got none)")
    for name, value in {"window": window, "max_timesteps": max_timesteps}.items():
        if value is not None and value < 1:
            raise ValueError(f"`{name}` must be at least 1 (got {value})")
    if group and which != "evaluations":
        raise ValueError(f"`group` is for `which='evaluations'`, whose steps the runs have in common (got {which!r})")
    if output is None:
        first = Path(folders[0]).resolve()
        more = f"_and_{len(folders) - 1}_more" if len(folders) > 1 else ""
        output = first.with_name(f"{first.name}{more}_curves.png")
    if output.suffix.lower() not in _FORMATS:
        raise ValueError(f"`output` must end in {', '.join(_FORMATS)} (got {str(output)!r})")
    runs = {name: read_run(folder, which) for name, folder in zip(_names(folders, group), folders, strict=True)}
    if max_timesteps is not None:
        runs = _up_to(max_timesteps, runs, folders)
    if group:
        runs = _grouped(runs)
    tasks = list(dict.fromkeys(task for curves in runs.values() for task in (*curves.training, *curves.evaluations)))
    if not tasks:
        raise FileNotFoundError(f"{', '.join(runs)}: nothing to plot in the steps that were asked for")
    title = next(iter(runs)) if len(runs) == 1 else f"{len(runs)} {'groups of ' if group else ''}runs"
    y_label = "success rate" if which == "success" else "return per episode"
    draw_learning_curves(runs, tasks, output, title, window, y_label)
    return output


def read_run(folder: Path, which: Which = "both") -> RunCurves:
    """Return the curves of one run, see :func:`plot_runs`."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; give that of a run")
    read_training, read_evaluated = read_training_returns, read_evaluations
    if which == "success":
        read_training, read_evaluated = read_training_successes, read_success_rates
    training = read_training(_monitor_of(folder)) if which != "evaluations" else {}
    evaluations = read_evaluated(folder / _EVALUATIONS) if which != "training" else {}
    if len(training) == 1 and ALL_TASKS in evaluations:
        evaluations = dict(zip(training, evaluations.values(), strict=True))
    if not training and not evaluations:
        missing = {
            "training": "no episode in monitor files (*.monitor.csv, in monitor/ or in the folder itself)",
            "evaluations": "no evaluations.npz",
            "success": "no task says success in its monitor files or evaluations.npz",
        }
        looked_for = [missing[one] for one in (("training", "evaluations") if which == "both" else (which,))]
        raise FileNotFoundError(f"{folder} has nothing to plot: {', and '.join(looked_for)}")
    return RunCurves(training, evaluations)


def _up_to(max_timesteps: int, runs: Mapping[str, RunCurves], folders: Sequence[Path]) -> dict[str, RunCurves]:
    n_envs = [read_n_envs(_monitor_of(folder), folder / _EVALUATIONS) for folder in map(Path, folders)]
    return {name: runs[name].up_to(max_timesteps, of_run) for name, of_run in zip(runs, n_envs, strict=True)}


def _monitor_of(folder: Path) -> Path:
    return folder / "monitor" if (folder / "monitor").is_dir() else folder


def _names(folders: Sequence[Path], group: bool) -> list[str]:
    """Return distinct names of the runs: their folders' names if these differ, else the paths."""
    names = [Path(folder).resolve().name for folder in folders]
    parents = {Path(folder).resolve().parent for folder in folders}
    if len(set(names)) < len(names) or (group and len(parents) > 1):
        names = [str(folder) for folder in folders]
    if len(set(names)) < len(names):
        raise ValueError(f"`folders` must be different runs (got {', '.join(names)})")
    return names


def _grouped(runs: Mapping[str, RunCurves]) -> dict[str, RunCurves]:
    """Return the mean of the runs of each group, under the group's common name and number of runs."""
    groups = defaultdict(list)
    for name, curves in runs.items():
        groups[_NUMBER.sub("", name)].append(curves)
    return {f"{name} (mean of {len(curves)})": mean_of_runs(curves) for name, curves in groups.items()}
