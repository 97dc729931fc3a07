"""Learning curves of a run, drawn from its monitor files alone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np

from sb3_multitask.experiments.monitor_files import read_monitor_files
from sb3_multitask.files import replacing

Curve: TypeAlias = tuple[np.ndarray, np.ndarray]


def read_training_returns(monitor_dir: Path) -> dict[str, Curve]:
    """Training episodes of each task, in the order they ended.

    :param monitor_dir: folder of SB3 monitor files with a ``task`` column
    :return: task -> (steps of this task so far, return), both (n_episodes,). Steps count all copies of the task;
        they come from the episodes' lengths, so no clock is involved.
    """
    ends: dict[str, list[tuple[int, float]]] = defaultdict(list)
    n_copies: dict[str, int] = defaultdict(int)
    for episodes in read_monitor_files(monitor_dir):
        steps = 0
        for episode in episodes:
            steps += episode.length
            ends[episode.task].append((steps, episode.total_reward))
        for task in {episode.task for episode in episodes}:
            n_copies[task] += 1
    curves = {}
    for task, steps_and_returns in ends.items():
        steps_of_copy, returns = np.array(sorted(steps_and_returns)).T
        curves[task] = (steps_of_copy * n_copies[task], returns)
    return curves


def smooth(returns: np.ndarray, window: int = 20) -> np.ndarray:
    """Mean over the last ``window`` episodes, fewer at the start; (n_episodes,)."""
    sums = np.cumsum(np.concatenate([[0.0], returns]))
    last = np.arange(1, len(returns) + 1)
    first = np.maximum(last - window, 0)
    means: np.ndarray = (sums[last] - sums[first]) / (last - first)
    return means


def draw_learning_curves(
    curves: Mapping[str, Curve], tasks: Sequence[str], path: Path, title: str, window: int = 20
) -> None:
    """One panel a task: each training episode's return as a dot, and the mean of the last ``window``."""
    from matplotlib.figure import Figure

    n_columns = min(3, len(tasks))
    n_rows = -(-len(tasks) // n_columns)
    figure = Figure(figsize=(4 * n_columns, 2.6 * n_rows + 0.5), layout="constrained")
    axes = figure.subplots(n_rows, n_columns, sharex=True, sharey=True, squeeze=False).flat
    for axis, task in zip(axes, tasks, strict=False):
        steps, returns = curves.get(task, (np.empty(0), np.empty(0)))
        axis.plot(steps / 1e3, returns, ".", markersize=2, alpha=0.3, color="tab:blue")
        axis.plot(steps / 1e3, smooth(returns, window), color="tab:blue")
        axis.set_title(task, fontsize=10)
        axis.grid(alpha=0.3)
    for axis in list(axes)[len(tasks) :]:
        axis.set_visible(False)
    figure.suptitle(title, fontsize=11)
    figure.supxlabel("thousand steps of this task", fontsize=9)
    figure.supylabel(f"return per episode (line: mean of {window})", fontsize=9)
    with replacing(path) as beside:
        figure.savefig(beside, dpi=110)
