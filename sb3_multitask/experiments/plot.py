"""Curves of any runs, ours or rl_zoo3's, in one picture."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, TypeAlias

from sb3_multitask.experiments.curves import (
    ALL_TASKS,
    RunCurves,
    draw_learning_curves,
    read_evaluations,
    read_training_returns,
)

Which: TypeAlias = Literal["both", "training", "evaluations"]
_FORMATS = (".png", ".svg", ".pdf")


def plot_runs(folders: Sequence[Path], output: Path | None = None, which: Which = "both", window: int = 20) -> Path:
    """Draw the curves of runs, one panel a task.

    :param folders: of runs: ours, with ``monitor/`` and ``evaluations.npz``, or rl_zoo3's, with the monitor files in
        the folder itself
    :param output: the picture, ``.png``, ``.svg`` or ``.pdf``; ``None``: ``<first run>_curves.png`` beside the first
        run's folder
    :param which: training returns, evaluations, or both
    :param window: training episodes that the line is the mean of
    :return: where the picture is
    :raises FileNotFoundError: if a folder is missing, or has nothing to plot
    :raises ValueError: on an unknown format, ``window`` below 1 or no folder
    """
    if not folders:
        raise ValueError("`folders` must hold at least one run's folder (got none)")
    if window < 1:
        raise ValueError(f"`window` must be at least 1 (got {window})")
    if output is None:
        first = Path(folders[0]).resolve()
        more = f"_and_{len(folders) - 1}_more" if len(folders) > 1 else ""
        output = first.with_name(f"{first.name}{more}_curves.png")
    if output.suffix.lower() not in _FORMATS:
        raise ValueError(f"`output` must end in {', '.join(_FORMATS)} (got {str(output)!r})")
    runs = {name: read_run(folder, which) for name, folder in zip(_names(folders), folders, strict=True)}
    tasks = list(dict.fromkeys(task for curves in runs.values() for task in (*curves.training, *curves.evaluations)))
    title = next(iter(runs)) if len(runs) == 1 else f"{len(runs)} runs"
    draw_learning_curves(runs, tasks, output, title, window)
    return output


def read_run(folder: Path, which: Which = "both") -> RunCurves:
    """The curves of one run, see :func:`plot_runs`."""
    folder = Path(folder)
    if not folder.is_dir():
        raise FileNotFoundError(f"{folder} is no folder; give that of a run")
    monitor = folder / "monitor" if (folder / "monitor").is_dir() else folder
    training = read_training_returns(monitor) if which != "evaluations" else {}
    evaluations = read_evaluations(folder / "evaluations.npz") if which != "training" else {}
    if len(training) == 1 and ALL_TASKS in evaluations:
        evaluations = dict(zip(training, evaluations.values(), strict=True))
    if not training and not evaluations:
        missing = {
            "training": "no episode in monitor files (*.monitor.csv, in monitor/ or in the folder itself)",
            "evaluations": "no evaluations.npz",
        }
        looked_for = missing.values() if which == "both" else [missing[which]]
        raise FileNotFoundError(f"{folder} has nothing to plot: {', and '.join(looked_for)}")
    return RunCurves(training, evaluations)


def _names(folders: Sequence[Path]) -> list[str]:
    """What tells the runs apart: their folders' names, or else the whole paths."""
    names = [Path(folder).resolve().name for folder in folders]
    if len(set(names)) < len(names):
        names = [str(folder) for folder in folders]
    if len(set(names)) < len(names):
        raise ValueError(f"`folders` must be different runs (got {', '.join(names)})")
    return names
