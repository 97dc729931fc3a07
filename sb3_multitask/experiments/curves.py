"""Learning curves of runs, from their monitor files and evaluations only."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np

from sb3_multitask.experiments.monitor_files import Episode, read_monitor_files
from sb3_multitask.many_tasks import shown_tasks, shown_words
from sb3_multitask.readers import UnreadableFileError, read_npz
from sb3_multitask.storage.files import replacing

Curve: TypeAlias = tuple[np.ndarray, np.ndarray]
ALL_TASKS = "all tasks"


@dataclass(frozen=True)
class RunCurves:
    """Curves of one run, by task: each training episode's return, and the mean returns of evaluations; or success.

    For a group of runs the evaluations are means over the runs, with ``standard_errors`` of shape (n_evaluations,).
    """

    training: Mapping[str, Curve] = field(default_factory=dict)
    evaluations: Mapping[str, Curve] = field(default_factory=dict)
    standard_errors: Mapping[str, np.ndarray] = field(default_factory=dict)

    def up_to(self, max_timesteps: int, n_envs: Mapping[str, int]) -> RunCurves:
        """Return the curves up to ``max_timesteps`` environment steps over all tasks.

        :param n_envs: environments of each task, as of :func:`read_n_envs`; a task that has none there has all steps
        """
        total = sum(n_envs.values())

        def cut(curves: Mapping[str, Curve]) -> dict[str, Curve]:
            kept = {}
            for task, (steps, returns) in curves.items():
                within = steps <= (max_timesteps * n_envs[task] / total if task in n_envs else max_timesteps)
                kept[task] = (steps[within], returns[within])
            return {task: curve for task, curve in kept.items() if len(curve[0])}

        return RunCurves(cut(self.training), cut(self.evaluations))


def mean_of_runs(runs: Sequence[RunCurves]) -> RunCurves:
    """Return the evaluations of several runs as one curve per task: the mean over the runs, and its standard error.

    The curve has only the steps at which all runs with the task were evaluated.
    """
    evaluations, errors = {}, {}
    for task in dict.fromkeys(task for run in runs for task in run.evaluations):
        curves = [
            dict(zip(*map(np.ndarray.tolist, run.evaluations[task]), strict=True))
            for run in runs
            if task in run.evaluations
        ]
        steps = sorted(set.intersection(*map(set, curves)))
        returns = np.array([[curve[step] for curve in curves] for step in steps]).reshape(len(steps), len(curves))
        if steps:
            evaluations[task] = (np.array(steps), returns.mean(axis=1))
            errors[task] = returns.std(axis=1) / np.sqrt(len(curves))
    return RunCurves(evaluations=evaluations, standard_errors=errors)


def read_training_returns(monitor_dir: Path) -> dict[str, Curve]:
    """Return the training episodes of each task, in the order of their ends.

    :param monitor_dir: folder of SB3 monitor files with a ``task`` column
    :return: task -> (steps of this task so far, return), both (n_episodes,). Steps count all copies of the task. They
        are sums of the episodes' lengths, and do not depend on a clock.
    """
    return _read_training(monitor_dir, lambda episode: episode.total_reward)


def read_training_successes(monitor_dir: Path) -> dict[str, Curve]:
    """Return whether the training episodes were successful (0 or 1), as :func:`read_training_returns` their returns.

    :return: curves of the tasks that say success, without their episodes that say nothing
    """
    return _read_training(monitor_dir, lambda episode: episode.success)


def _read_training(monitor_dir: Path, value_of: Callable[[Episode], float | None]) -> dict[str, Curve]:
    ends: dict[str, list[tuple[int, float]]] = defaultdict(list)
    n_copies: dict[str, int] = defaultdict(int)
    for episodes in read_monitor_files(monitor_dir):
        steps = 0
        for episode in episodes:
            steps += episode.length
            value = value_of(episode)
            if value is not None:
                ends[episode.task].append((steps, value))
        for task in {episode.task for episode in episodes}:
            n_copies[task] += 1
    curves = {}
    for task, steps_and_values in ends.items():
        steps_of_copy, values = np.array(sorted(steps_and_values)).T
        curves[task] = (steps_of_copy * n_copies[task], values)
    return curves


def read_evaluations(path: Path) -> dict[str, Curve]:
    """Read the evaluations during training, of our callback or of SB3's.

    :param path: an ``evaluations.npz``; if it does not exist, there are no curves
    :return: task -> (steps of this task so far, mean return of the evaluation), both (n_evaluations,). SB3's own
        callback does not distinguish tasks: its curve is under :data:`ALL_TASKS`, over the steps of all tasks.
    :raises ValueError: if the file is damaged
    """
    return _read_evaluations(read_npz(path), path, "results", "task_results") if path.exists() else {}


def read_success_rates(path: Path) -> dict[str, Curve]:
    """Read the success rates of the evaluations during training, as :func:`read_evaluations` reads their returns.

    :return: curves of the tasks that say success, without the evaluations in which they say nothing
    :raises ValueError: if the file is damaged
    """
    arrays = read_npz(path) if path.exists() else {}
    ours, stock = "task_successes", "successes"
    if (ours if "task_names" in arrays else stock) not in arrays:
        return {}
    curves = _read_evaluations(arrays, path, stock, ours)
    said = {task: (steps[~np.isnan(rates)], rates[~np.isnan(rates)]) for task, (steps, rates) in curves.items()}
    return {task: curve for task, curve in said.items() if len(curve[0])}


def _read_evaluations(arrays: Mapping[str, np.ndarray], path: Path, stock: str, ours: str) -> dict[str, Curve]:
    """Return the mean of each evaluation's episodes by task, as :func:`read_evaluations`.

    :param stock: name of SB3's array
    :param ours: name of our callback's array
    """
    try:
        steps = arrays["timesteps"]
        if "task_names" not in arrays:
            return {ALL_TASKS: (steps, _means(arrays[stock][:, None], len(steps), 1)[:, 0])}
        names = [str(name) for name in arrays["task_names"]]
        values, n_envs = _means(arrays[ours], len(steps), len(names)), _n_envs(arrays)
        return {name: (steps * n_envs[i] / n_envs.sum(), values[:, i]) for i, name in enumerate(names)}
    except (KeyError, TypeError, ValueError, IndexError) as e:
        raise UnreadableFileError(f"{path}: holds no evaluations ({e})") from e


def read_n_envs(monitor_dir: Path, evaluations: Path) -> dict[str, int]:
    """Return how many environments each task of a run has, which say its share of the steps; in ratio to each other.

    :param monitor_dir: folder of SB3 monitor files, which are counted if there are no evaluations
    :param evaluations: an ``evaluations.npz``, which may not exist
    :return: task -> number; empty if the tasks are not known
    :raises ValueError: if the file is damaged
    """
    arrays = read_npz(evaluations) if evaluations.exists() else {}
    if "task_names" in arrays:
        return dict(zip(map(str, arrays["task_names"]), _n_envs(arrays).tolist(), strict=False))
    tasks = [{episode.task for episode in episodes} for episodes in read_monitor_files(monitor_dir)]
    return Counter(task for of_env in tasks for task in of_env)


def _n_envs(arrays: Mapping[str, np.ndarray]) -> np.ndarray:
    """Return how many environments each task has, (n_tasks,), or 1 of each in a file that does not say it."""
    n_tasks = len(arrays["task_names"])
    n_envs = arrays.get("task_n_envs", np.ones(n_tasks, dtype=np.int64))
    if n_envs.shape != (n_tasks,) or n_envs.dtype.kind not in "iu" or not (n_envs > 0).all():
        raise ValueError(f"{n_envs!r:.100} environments of {n_tasks} tasks")
    return n_envs


def _means(values: np.ndarray, n_evaluations: int, n_tasks: int) -> np.ndarray:
    """Return means, (n_evaluations, n_tasks), of (n_evaluations, n_tasks, n_episodes)."""
    if values.ndim != 3 or values.shape[:2] != (n_evaluations, n_tasks) or not values.shape[2]:
        raise ValueError(f"returns of shape {values.shape} for {n_evaluations} evaluations of {n_tasks} tasks")
    means: np.ndarray = values.mean(axis=2)
    return means


def smooth(returns: np.ndarray, window: int = 20) -> np.ndarray:
    """Return the mean over the last ``window`` episodes, or over fewer at the start; (n_episodes,)."""
    sums = np.cumsum(np.concatenate([[0.0], returns]))
    last = np.arange(1, len(returns) + 1)
    first = np.maximum(last - window, 0)
    means: np.ndarray = (sums[last] - sums[first]) / (last - first)
    return means


def _are_of_one_scale(runs: Sequence[RunCurves], tasks: Sequence[str]) -> bool:
    """Return whether one vertical axis shows the returns of all tasks."""
    sizes = []
    for task in tasks:
        curves = [of_run[task][1] for run in runs for of_run in (run.training, run.evaluations) if task in of_run]
        values = np.concatenate([np.ravel(returns) for returns in curves] or [np.zeros(0)])
        values = np.abs(values[np.isfinite(values)])
        if values.size:
            sizes.append(float(np.quantile(values, 0.9)))
    return not sizes or max(sizes) <= 10 * max(min(sizes), 1e-9)


def draw_learning_curves(
    runs: Mapping[str, RunCurves],
    tasks: Sequence[str],
    path: Path,
    title: str,
    window: int = 20,
    y_label: str = "return per episode",
) -> None:
    """Draw one panel per task, with one colour per run.

    Of more than 20 tasks it draws the ten that end with the lowest and the ten that end with the highest return, and
    the title says so.

    Training returns are a line, the mean of the last ``window`` episodes; for a single run each episode is a dot too.
    Success rates are drawn in the same way. Panels share their vertical axis unless the returns of some task are more
    than ten times those of another.
    Evaluations are joined points.

    :param runs: name -> its curves
    :param path: path of the picture, whose ending determines the format
    """
    from matplotlib.figure import Figure

    if words := shown_words(len(tasks), y_label):
        title = f"{title}: {words}"
        tasks = shown_tasks({task: _last_value(runs.values(), task, window) for task in tasks})
    n_columns = min(3, len(tasks))
    n_rows = -(-len(tasks) // n_columns)
    figure = Figure(figsize=(4 * n_columns, 2.6 * n_rows + 0.5), layout="constrained")
    is_one_scale = _are_of_one_scale(list(runs.values()), tasks)
    axes = list(figure.subplots(n_rows, n_columns, sharex=True, sharey=is_one_scale, squeeze=False).flat)
    for axis, task in zip(axes, tasks, strict=False):
        for number, (name, curves) in enumerate(runs.items()):
            _draw_run(axis, curves, task, name, f"C{number}", window, with_episodes=len(runs) == 1)
        axis.set_title(task, fontsize=10, parse_math=False)  # names are not formulas
        axis.grid(alpha=0.3)
    for axis in axes[len(tasks) :]:
        axis.set_visible(False)
    for axis in axes[: len(tasks)][-n_columns:]:  # the lowest panel of each column
        axis.tick_params(labelbottom=True)
    lines = {str(line.get_label()): line for axis in figure.axes for line in axis.get_lines()}
    named = {label: line for label, line in lines.items() if not label.startswith("_")}
    if len(named) > 1:
        legend = figure.legend(list(named.values()), list(named), loc="outside right upper", fontsize=8)
        for text in legend.get_texts():
            text.set_parse_math(False)
    figure.suptitle(title, fontsize=11, parse_math=False)
    figure.supxlabel("thousand steps of this task", fontsize=9)
    has_training = any(curves.training for curves in runs.values())
    figure.supylabel(f"{y_label}{f' (line: mean of {window})' if has_training else ''}", fontsize=9)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=110)


def _last_value(runs: Iterable[RunCurves], task: str, window: int) -> float:
    """Return where the curves of a task end, mean over the runs: the last evaluation, or the last training returns.

    NaN for a task without a curve, which counts as the lowest.
    """
    ends = []
    for curves in runs:
        if task in curves.evaluations:
            ends.append(curves.evaluations[task][1][-1])
        elif task in curves.training:
            ends.append(curves.training[task][1][-window:].mean())
    return float(np.mean(ends)) if ends else float("nan")


def _draw_run(
    axis: Any, curves: RunCurves, task: str, name: str, color: str, window: int, *, with_episodes: bool
) -> None:
    if task in curves.training:
        steps, returns = curves.training[task]
        if with_episodes:
            axis.plot(steps / 1e3, returns, ".", markersize=2, alpha=0.3, color=color)
        axis.plot(steps / 1e3, smooth(returns, window), color=color, label=f"{name} training")
    if task in curves.evaluations:
        steps, returns = curves.evaluations[task]
        style = "o--" if curves.training else "o-"
        axis.plot(steps / 1e3, returns, style, markersize=3, lw=1, color=color, label=f"{name} evaluations")
        if task in curves.standard_errors:
            error = curves.standard_errors[task]
            axis.fill_between(steps / 1e3, returns - error, returns + error, color=color, alpha=0.3, lw=0)
