"""Which method is better, which is sooner, and what one change does."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

import numpy as np

from sb3_multitask.experiments.report import statistics
from sb3_multitask.experiments.report.collect import Run, returns, select, shared_runs
from sb3_multitask.experiments.report.paper import BODIES, METHODS, by_common_seed, method_returns
from sb3_multitask.experiments.report.statistics import Estimate
from sb3_multitask.experiments.report.tables import Table


def comparisons(runs: Sequence[Run], preset: str) -> Table:
    """Differences of means and probabilities of improvement between the methods."""
    scores = {method: method_returns(runs, preset, method) for method in METHODS}
    rows = []
    for first, second in (("vanilla", "scratch"), ("distillation", "scratch"), ("vanilla", "distillation")):
        a, b = scores[first], scores[second]
        better = statistics.probability_of_improvement(a, b)
        n = min(len(a), len(b))
        rows.append([f"{first} over {second}", str(statistics.difference(a, b)), _probability(better), str(n)])
    return Table(
        f"comparisons_{preset}",
        f"Which method is better ({preset})",
        "Difference of the means over the six bodies, and the probability that a seed of the first beats a seed of the "
        "second on a body (1/2: no difference), with 95% bootstrap intervals.",
        ["", "difference of means", "probability of improvement", "seeds"],
        rows,
    )


def frames_to_reach(runs: Sequence[Run], preset: str, level: float = 1000) -> Table:
    """How many frames of a body a method needs until an evaluation while training reaches ``level``."""
    rows = []
    for method in METHODS:
        frames = _first_frames(runs, preset, method, level)
        within = [f"{np.mean(frames <= budget):.2f}" if frames.size else "-" for budget in (1e6, 3e6)]
        if method != "scratch":
            within[1] = ""  # these end at 1M
        medians = np.median(frames, axis=0) if frames.size else []
        each = "; ".join(f"{body} {_frames(m)}" for body, m in zip(BODIES, medians, strict=False))
        rows.append([method, *within, _frames(np.median(frames)) if frames.size else "-", each, str(len(frames))])
    return Table(
        f"reaching_{preset}",
        f"Frames until a return of {level:.0f} ({preset})",
        f"At evaluations of 5 deterministic episodes: the share of (seed, body) whose curve reaches {level:.0f} within "
        "1M and 3M frames of that body; the median of the first such frame, and of each body. A distilled student's "
        "frames are its own; its teachers had 3M each before.",
        ["method", "within 1M", "within 3M", "median frames", "each body", "seeds"],
        rows,
    )


def ablation(runs: Sequence[Run], preset: str, base: str) -> Table:
    """Every run ``<method>_<change>`` of a preset beside the method of the base preset, same seeds."""
    rows = []
    for name in dict.fromkeys(run.name for run in runs if run.preset == preset):
        method, _, change = name.partition("_")
        changed, original = select(runs, preset, name), select(runs, base, method)
        seeds = {run.seed for run in changed} & {run.seed for run in original}
        if original:
            changed = [run for run in changed if run.seed in seeds]
        original = [run for run in original if run.seed in seeds]
        a, b = returns(changed, "after", BODIES), returns(original, "after", BODIES)
        rows.append(
            [
                f"{method}: {change.replace('_', ' ')}",
                str(statistics.mean(a)),
                str(statistics.median_task(a)),
                str(statistics.worst_task(a)),
                str(statistics.mean(b)),
                str(statistics.difference(a, b)),
                _probability(statistics.probability_of_improvement(a, b)),
                str(min(len(a), len(b))),
            ]
        )
    return Table(
        f"ablation_{preset}",
        f"One change at a time ({preset})",
        f"Returns over the six bodies at 1M frames a head, beside the preset {base!r} with the same seeds: difference "
        "of the means, and the probability that a seed with the change beats one without (95% bootstrap intervals).",
        ["change", "mean", "median task", "worst task", "without", "difference", "probability of improvement", "seeds"],
        rows,
    )


def presets_compared(runs: Sequence[Run]) -> Table | None:
    """Every two presets that have the same run, same seeds; None if there are none."""
    rows = []
    for name, presets in shared_runs(runs).items():
        for first, second in combinations(presets, 2):
            ours, theirs = select(runs, first, name), select(runs, second, name)
            seeds = {run.seed for run in ours} & {run.seed for run in theirs}
            tasks = ours[0].config.task_names
            a, b = (returns([run for run in side if run.seed in seeds], "after", tasks) for side in (ours, theirs))
            better = _probability(statistics.probability_of_improvement(a, b))
            cells = [str(statistics.mean(a)), str(statistics.mean(b)), str(statistics.difference(a, b)), better]
            rows.append([name, f"{first} over {second}", *cells, str(len(seeds))])
    if not rows:
        return None
    return Table(
        "presets",
        "The same run in two presets",
        "Returns over all tasks at the end of training: difference of the means, and the probability that a seed of "
        "the first beats a seed of the second on a task (95% bootstrap intervals).",
        ["run", "", "the first", "the second", "difference", "probability of improvement", "seeds"],
        rows,
    )


def gains(runs: Sequence[Run], preset: str) -> Table:
    """Every task of every run of a preset, before and after training."""
    rows = []
    for name in dict.fromkeys(run.name for run in runs if run.preset == preset):
        seeds = select(runs, preset, name)
        tasks = seeds[0].config.task_names
        before, after = (returns(seeds, moment, tasks) for moment in ("before", "after"))
        for i, task in enumerate(tasks):
            first, last = before[:, [i]], after[:, [i]]
            gain = statistics.mean(last - first)
            cells = [str(statistics.mean(first)), str(statistics.mean(last)), str(gain)]
            rows.append([name, task, *cells, "yes" if gain.low > 0 else "no", str(len(seeds))])
    return Table(
        f"gains_{preset}",
        f"Before and after training ({preset})",
        "Deterministic returns, mean over seeds with 95% bootstrap intervals; whether the gain's lower end is above 0.",
        ["run", "task", "untrained", "trained", "gain", "above 0", "seeds"],
        rows,
    )


def _first_frames(runs: Sequence[Run], preset: str, method: str, level: float) -> np.ndarray:
    """Frames of a body at its first evaluation at ``level`` or above, infinite if there is none: (n_seeds, 6)."""
    columns = []
    for body in BODIES:
        found = select(runs, preset, f"scratch_{body}" if method == "scratch" else method)
        curves = {run.seed: run.curves()[body] for run in found if body in run.curves()}
        columns.append({s: float(np.min(x[y >= level], initial=np.inf)) for s, (x, y) in curves.items()})
    return by_common_seed(columns)


def _frames(frames: float) -> str:
    return f"{frames / 1e6:.2f}M" if np.isfinite(frames) else "never"


def _probability(estimate: Estimate) -> str:
    if not np.isfinite(estimate.low):
        return "-" if not np.isfinite(estimate.value) else f"{estimate.value:.2f}"
    return f"{estimate.value:.2f} [{estimate.low:.2f}, {estimate.high:.2f}]"
