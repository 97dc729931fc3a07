"""Which method is better, and what one change does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from results.paper.report.methods import BODIES, Method, stacked
from results.paper.report.tables import method_rows, ours
from sb3_multitask.experiments.report import Run, Table, of_same_seeds, returns, select, statistics

_COMPARED = ("", "difference of means", "probability of improvement", "seeds")
_DIFFERENCES = (
    "Difference of the means over the six bodies, and the probability that a seed of the first beats a seed of the "
    "second on a body (1/2: no difference), with 95% bootstrap intervals. "
    f"{statistics.FEW_SEEDS}"
)
_PAIRED = (
    "Students share teachers, seed by seed, with what they stand beside: their differences are taken seed by seed."
)


def comparisons(runs: Sequence[Run], preset: str) -> Table:
    """Differences of means and probabilities of improvement between the methods, on the seeds that both have."""
    pairs = (("vanilla", "scratch"), ("distillation", "scratch"), ("vanilla", "distillation"))
    return Table(
        f"comparisons_{preset}",
        f"Which method is better ({preset})",
        f"{_DIFFERENCES} {_PAIRED}",
        _COMPARED,
        [_compare(runs, Method(preset, first), Method(preset, second)) for first, second in pairs],
    )


def students(runs: Sequence[Run], preset: str) -> Table:
    """How much of their teachers' return the distilled students keep, seed by seed."""
    scores = {name: Method(preset, name).returns(runs) for name in ("scratch", "distillation")}
    seeds = sorted(set.intersection(*map(set, scores.values())))
    means = {seed: (scores["scratch"][seed].mean(), scores["distillation"][seed].mean()) for seed in seeds}
    sides = [(str(seed), pair) for seed, pair in means.items()]
    if seeds:
        sides.append(("mean", tuple(np.mean(list(means.values()), axis=0))))
    return Table(
        f"students_{preset}",
        f"Students beside their teachers ({preset})",
        "Mean return over the six bodies.",
        ["seed", "teachers", "student", "share"],
        [[label, f"{t:.0f}", f"{s:.0f}", f"{s / t:.0%}" if t > 0 else "-"] for label, (t, s) in sides],
    )


def control(runs: Sequence[Run], preset: str, base: str) -> Table:
    """Single tasks with other settings (``alone_<body>``) beside the base preset's single tasks and its vanilla."""
    methods = [Method(base, "scratch"), Method(preset, "alone"), Method(base, "vanilla")]
    titles = [f"{method.title(runs)} ({method.preset})" for method in methods]
    return Table(
        f"control_{preset}",
        f"Single tasks with the settings of {preset!r}",
        f"{ours(runs, preset)} {statistics.WORST_TASK} Frames are per body. "
        "Each column has the seeds that its last row counts.",
        ["body", *titles],
        method_rows(runs, methods),
    )


def control_compared(runs: Sequence[Run], preset: str, base: str) -> Table:
    """What the settings give a single task, and what is left to sharing: differences, on the seeds that both have."""
    scratch, alone, vanilla = Method(base, "scratch"), Method(preset, "alone"), Method(base, "vanilla")
    return Table(
        f"comparisons_{preset}",
        f"What the settings of {preset!r} explain",
        _DIFFERENCES,
        _COMPARED,
        [_compare(runs, *pair) for pair in ((vanilla, scratch), (alone, scratch), (vanilla, alone))],
    )


def changes(runs: Sequence[Run], preset: str, base: str) -> Iterator[tuple[str, str, list[Run], list[Run]]]:
    """Every run ``<method>_<change>`` of a preset: method, change, its runs, and the unchanged ones of the same seeds.

    These are the preset's own of that method, such as students of the same teachers, or else the base's. Without any,
    all runs of the change.
    """
    for name in dict.fromkeys(run.name for run in runs if run.preset == preset):
        method, _, change = name.partition("_")
        if not change:
            continue
        changed, original = select(runs, preset, name), select(runs, preset, method) or select(runs, base, method)
        if original:
            changed, original = of_same_seeds(changed, original)
        yield method, change.replace("_", " "), changed, original


def ablation(runs: Sequence[Run], preset: str, base: str) -> Table:
    """Every run ``<method>_<change>`` of a preset beside the method of the base preset, same seeds."""
    rows = []
    for method, change, changed, original in changes(runs, preset, base):
        a, b = returns(changed, "after", BODIES), returns(original, "after", BODIES)
        apart = statistics.paired_difference if method == "distillation" and original else statistics.difference
        rows.append(
            [
                f"{method}: {change}",
                str(statistics.mean(a)),
                str(statistics.median_task(a)),
                str(statistics.worst_task(a)),
                str(statistics.mean(b)),
                *statistics.estimates(apart(a, b), a, b, min(len(a), len(b))),
            ]
        )
    return Table(
        f"ablation_{preset}",
        f"One change at a time ({preset})",
        f"Returns over the six bodies at the end, beside the preset {base!r} with the same seeds. {_DIFFERENCES} "
        f"{_PAIRED} {statistics.WORST_TASK} No correction is made for the number of rows.",
        ["change", "mean", "median task", "worst task", "without", "difference", "probability of improvement", "seeds"],
        rows,
    )


def _compare(runs: Sequence[Run], first: Method, second: Method) -> list[str]:
    ours, theirs = first.returns(runs), second.returns(runs)
    seeds = sorted(set(ours) & set(theirs))
    a, b = stacked(ours, seeds), stacked(theirs, seeds)
    taught = first.name == "distillation" and second.name == "scratch"
    change = statistics.paired_difference(a, b) if taught else statistics.difference(a, b)
    return [f"{first.name} over {second.name}", *statistics.estimates(change, a, b, len(seeds))]
