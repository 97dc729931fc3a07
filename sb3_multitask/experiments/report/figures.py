"""Learning curves: every seed, the mean over seeds, and its interval."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from sb3_multitask.combiners import NETS, Net, pair_statistics
from sb3_multitask.combiners.heat_map import draw_cosines
from sb3_multitask.experiments.conflicts import Conflicts, mean_of_known
from sb3_multitask.experiments.curves import Curve
from sb3_multitask.experiments.report import statistics
from sb3_multitask.experiments.report.collect import Run, presets_of_runs, select
from sb3_multitask.many_tasks import shown_tasks, shown_words
from sb3_multitask.storage.files import replacing

Panel = tuple[str, Sequence[Run], str]
"""Title, runs (one per seed), and the task whose curve is drawn."""
Sides: TypeAlias = Mapping[str, Sequence[Curve]]
"""Label -> curves, one per seed."""
_MAX_PARTS = 25
_RETURN, _SUCCESS = "return, deterministic episodes", "success rate, deterministic episodes"


def draw_runs(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Draw the curves of every run, with a panel per task (also for tasks of ``also_on``) and a colour per preset.

    A run with tasks that say success has a figure of success rates too.
    """
    drawn = []
    for name, presets in presets_of_runs(runs).items():
        of_presets = {preset: select(runs, preset, name) for preset in presets}
        returns = {preset: [run.curves() for run in seeds] for preset, seeds in of_presets.items()}
        success = {preset: [run.success_curves() for run in seeds] for preset, seeds in of_presets.items()}
        drawn += _draw_tasks(returns, folder / f"curves_{name}.svg", _RETURN)
        drawn += _draw_tasks(success, folder / f"success_curves_{name}.svg", _SUCCESS)
    return drawn


def _draw_tasks(sides: Mapping[str, Sequence[Mapping[str, Curve]]], path: Path, y_label: str) -> list[Path]:
    """Draw the curves of the seeds of several sides, with a panel per task.

    Of more than 20 tasks these are the ten that end with the lowest and the ten that end with the highest values, mean
    over sides and seeds, and the label of the steps says so.
    """
    ends = defaultdict(list)
    for seed in (seed for curves in sides.values() for seed in curves):
        for task, (_, values) in seed.items():
            ends[task].append(values[-1])
    tasks = shown_tasks({task: float(np.mean(last)) for task, last in ends.items()})
    words = shown_words(len(ends), y_label.partition(",")[0])
    panels = {
        task: {preset: [seed[task] for seed in side if task in seed] for preset, side in sides.items()}
        for task in tasks
    }
    return draw_sides(panels, path, f"steps of a task{words and f' ({words})'}", y_label)


def draw_sides(panels: Mapping[str, Sides], path: Path, x_label: str, y_label: str = _RETURN) -> list[Path]:
    """Draw panels in rows of three, each with the curves of several sides; return the SVG file, if there are curves."""
    if not any(curves for sides in panels.values() for curves in sides.values()):
        return []
    n_columns = min(3, len(panels))
    n_rows = -(-len(panels) // n_columns)
    figure = Figure(figsize=(3.4 * n_columns, 2.6 * n_rows), layout="constrained")
    axes = list(figure.subplots(n_rows, n_columns, sharey=True, squeeze=False).flat)
    colors = {
        label: f"C{i}" for i, label in enumerate(dict.fromkeys(side for sides in panels.values() for side in sides))
    }
    for axis, (title, sides) in zip(axes, panels.items(), strict=False):
        for label, curves in sides.items():
            _draw(axis, curves, colors[label], f"{label}: mean over seeds", f"{label}: 95% interval")
        _finish(axis, f"{title} ({_seeds(sides.values())})")
    for axis in axes[len(panels) :]:
        axis.set_visible(False)
    handles: dict[str, Any] = {}  # collected over all panels, since some lack a side
    for axis in axes:
        drawn, labels = axis.get_legend_handles_labels()
        handles |= dict(zip(labels, drawn, strict=True))
    figure.legend(list(handles.values()), list(handles), loc="outside upper center", ncols=2 * n_columns, fontsize=7)
    return [_save(figure, path, x_label, y_label)]


def draw_panels(panels: Sequence[Panel], path: Path, x_label: str) -> Path:
    """Draw panels side by side with one scale, as SVG and as PNG."""
    figure = Figure(figsize=(3.2 * len(panels), 2.8), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axis, (title, runs, task) in zip(axes, panels, strict=True):
        curves = [run.curves()[task] for run in runs if task in run.curves()]
        _draw(axis, curves, "C0", f"mean of {_seeds([curves])}", "95% interval")
        _finish(axis, title)
        if runs:
            axis.legend(fontsize=7)
    return _save(figure, path, x_label, _RETURN)


def draw_conflicts(seeds: Sequence[Conflicts], path: Path) -> Path:
    """Draw mean cosines of the actor and of the critic side by side, and how many pairs conflict over the training.

    :param seeds: of one run, at least one
    :param path: path of the SVG; a PNG lies beside it
    """
    nets = measured_nets(seeds)
    ratios = [*[1.25] * len(nets), 1]
    figure = Figure(figsize=(3.6 * len(ratios), 3.2), layout="constrained")
    *heat_maps, axis = figure.subplots(1, len(ratios), squeeze=False, width_ratios=ratios)[0]
    for heat_map, net in zip(heat_maps, nets, strict=True):
        draw_cosines(heat_map, mean_of_known(np.stack([seed.cosines[net] for seed in seeds])), seeds[0].task_names)
        heat_map.set_title(f"{net}: mean cosines", fontsize=9)
    for i, net in enumerate(nets):
        curves = [_in_parts(seed.timesteps, seed.negative_shares[net]) for seed in seeds]
        _draw(axis, curves, f"C{i}", f"{net}: mean of {_seeds([curves])}", f"{net}: 95% interval")
    _finish(axis, "share of pairs below 0")
    axis.set_ylim(0, 1)
    axis.set_xlabel("steps of all tasks", fontsize=8)
    axis.legend(fontsize=7)
    return _save(figure, path, "", "")


def measured_nets(seeds: Sequence[Conflicts]) -> list[Net]:
    """Return the nets whose gradients were measured in all seeds."""
    return [net for net in NETS if all(pair_statistics(seed.cosines[net]) is not None for seed in seeds)]


def _in_parts(steps: np.ndarray, values: np.ndarray) -> Curve:
    """Return the means of at most 25 parts of a curve, one after the other."""
    parts = [np.array_split(numbers, min(len(steps), _MAX_PARTS)) for numbers in (steps, values)]
    of_steps, of_values = (np.array([float(mean_of_known(np.asarray(part, float))) for part in some]) for some in parts)
    known = ~np.isnan(of_values)
    return of_steps[known], of_values[known]


def _finish(axis: Any, title: str) -> None:
    axis.set_title(title, fontsize=9, parse_math=False)  # names are not formulas
    axis.grid(alpha=0.3)
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))  # 0.5M


def _save(figure: Figure, path: Path, x_label: str, y_label: str) -> Path:
    figure.supylabel(y_label, fontsize=8)
    figure.supxlabel(x_label, fontsize=8)
    with rc_context({"svg.hashsalt": path.stem, "svg.fonttype": "none"}):  # reproducible files, with text as text
        for suffix, metadata in ((".svg", {"Date": None}), (".png", None)):
            with replacing(path.with_suffix(suffix)) as temporary:
                figure.savefig(temporary, dpi=110, metadata=metadata, bbox_inches="tight")
    return path


def _seeds(sides: Iterable[Sequence[Curve]]) -> str:
    """Return the number of seeds of a panel, such as "1 seed", "2 or 3 seeds"."""
    counts = sorted({len(curves) for curves in sides} - {0})
    return f"{' or '.join(map(str, counts)) or 'no'} seed{'s' if counts != [1] else ''}"


def _draw(axis: Any, curves: Sequence[Curve], color: str, mean: str, interval: str) -> None:
    for steps, values in curves:
        axis.plot(steps, values, color=color, alpha=0.3, lw=0.8)
    if not curves:
        axis.text(0.5, 0.5, "no runs", ha="center", transform=axis.transAxes)
        return
    n = min(len(steps) for steps, _ in curves)
    steps, values = curves[0][0][:n], np.array([values[:n] for _, values in curves])
    axis.plot(steps, values.mean(axis=0), color=color, lw=1.8, label=mean)
    if len(curves) > 1:
        intervals = [statistics.mean(values[:, [i]]) for i in range(n)]
        low, high = [e.low for e in intervals], [e.high for e in intervals]
        axis.fill_between(steps, low, high, color=color, alpha=0.2, label=interval)
