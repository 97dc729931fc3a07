"""The results file of `benchmarks/time_to_score.py`, and its tables."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.contenders.entries import ONE_THREAD, OURS

Run = dict[str, Any]


def read_runs(path: Path) -> list[Run]:
    """Return the runs in a results file. A last line that a kill has truncated is removed from the file."""
    if not path.exists():
        return []
    content = path.read_text()
    whole = content[: content.rfind("\n") + 1]
    if whole != content:
        path.write_text(whole)
    return [json.loads(line) for line in whole.splitlines()]


def append_run(path: Path, run: Run) -> None:
    """Add a line to a results file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps(run) + "\n")


def is_finished(runs: Iterable[Run], contender: str, task: str, seed: int, settings: dict[str, Any]) -> bool:
    """Return whether there is a run already.

    :raises ValueError: if there is one with other settings
    """
    for run in runs:
        if (run["contender"], run["task"], run["seed"]) == (contender, task, seed):
            if different := sorted(name for name in settings if run["settings"].get(name) != settings[name]):
                raise ValueError(
                    f"the run of {contender!r} on {task!r} with seed {seed} has other settings "
                    f"({', '.join(different)}); choose another --output"
                )
            return True
    return False


def time_to(run: Run, score: float) -> float:
    """Return the seconds from the start of the process until a score was passed; infinite if it was not."""
    return next((float(seconds) for passed, seconds, _ in run["passed"] if passed == score), math.inf)


def steps_to(run: Run, score: float) -> float:
    """Return the environment steps until a score was passed; infinite if it was not."""
    return next((float(n_steps) for passed, _, n_steps in run["passed"] if passed == score), math.inf)


def ratio(ours: Run, other: Run, score: float) -> tuple[float, bool]:
    """Return our time to a score over the other's.

    :return: the ratio, and whether it is only an upper bound, since the other run ended before it passed the score
    """
    theirs = time_to(other, score)
    is_bound = math.isinf(theirs)
    return time_to(ours, score) / (other["end"]["seconds"] if is_bound else theirs), is_bound


def _steps_per_second(run: Run) -> float:
    """Return the environment steps per second since the first step; 0 for a run that was killed before it."""
    seconds = run["end"]["seconds"] - run["start_up"]
    return float(run["end"]["n_steps"] / seconds) if seconds else 0.0


def report(runs: Sequence[Run]) -> str:
    """Return all tables as Markdown."""
    by_task: dict[str, dict[str, list[Run]]] = defaultdict(lambda: defaultdict(list))
    for run in runs:
        by_task[run["task"]][run["contender"]].append(run)
    return "\n".join(part for task, by_name in by_task.items() for part in _report_of_task(task, by_name))


def _report_of_task(task: str, by_name: dict[str, list[Run]]) -> list[str]:
    settings = next(iter(by_name.values()))[0]["settings"]
    scores = settings["scores"]
    lines = [
        f"## {task}",
        "",
        f"Median [lowest, highest] over seeds. Seconds are wall-clock; the mean training return is of the latest "
        f'{settings["window"]} episodes of each task. "-": not passed within {settings["cap"]:g} s or the budget.',
        "",
        "| contender | score | passed by | seconds since the start | seconds since the first step | env-steps |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in by_name.items():
        for score in scores:
            times = [time_to(run, score) for run in runs]
            training = [time_to(run, score) - run["start_up"] for run in runs]
            steps = [steps_to(run, score) for run in runs]
            passed = f"{sum(map(math.isfinite, times))} of {len(runs)}"
            cells = [_spread(times, ".1f"), _spread(training, ".1f"), _spread(steps, ",.0f")]
            lines.append(f"| {name} | {score:g} | {passed} | {' | '.join(cells)} |")
    return [*lines, "", *_rates(by_name), "", *_ratios(by_name, scores)]


def _rates(by_name: dict[str, list[Run]]) -> list[str]:
    lines = [
        "| contender | start-up, s | compiling the update, s | env-steps/s | mean return at the end | "
        "CPU-seconds of other processes |",
        "|---|---|---|---|---|---|",
    ]
    for name, runs in by_name.items():
        ends = [run["end"] for run in runs]
        columns: list[tuple[list[float | None], str]] = [
            ([run["start_up"] for run in runs], ".1f"),
            ([run["compiling"] for run in runs], ".1f"),
            ([_steps_per_second(run) for run in runs], ",.0f"),
            ([end["mean_return"] for end in ends], ".0f"),
            ([run["cpu_seconds_of_others"] for run in runs], ".0f"),
        ]
        known = [([value for value in column if value is not None], form) for column, form in columns]
        lines.append(f"| {name} | {' | '.join(_spread(column, form) for column, form in known)} |")
    return lines


def _ratios(by_name: dict[str, list[Run]], scores: Sequence[float]) -> list[str]:
    ours = {run["seed"]: run for run in by_name.get(OURS, [])}
    lines = [
        f"| {OURS}'s seconds since the start, over those of | score | ratio, within a seed |",
        "|---|---|---|",
    ]
    for score in scores:
        for name in _faster_variants(by_name, score):
            pairs = [ratio(ours[run["seed"]], run, score) for run in by_name[name] if run["seed"] in ours]
            if name != OURS and pairs:
                bound = "at most " if any(is_bound for _, is_bound in pairs) else ""
                cell = _spread([value for value, _ in pairs], ".2f")
                lines.append(f"| {name} | {score:g} | {bound if cell != '-' else ''}{cell} |")
    return lines


def _faster_variants(by_name: dict[str, list[Run]], score: float) -> list[str]:
    """Return the contenders, and of those that differ in torch's threads alone the faster one."""
    variants = defaultdict(list)
    for name in by_name:
        variants[name.removesuffix(ONE_THREAD)].append(name)

    def slowness(name: str) -> tuple[float, float]:
        runs = by_name[name]
        return median(time_to(run, score) for run in runs), -median(run["end"]["n_steps"] for run in runs)

    return [min(names, key=slowness) for names in variants.values()]


def _spread(values: Sequence[float], form: str) -> str:
    """Return the median and the range; "-" stands for infinity and for no values."""

    def written(value: float) -> str:
        return format(value, form) if math.isfinite(value) else "-"

    if not values or math.isinf(min(values)):
        return "-"
    return f"{written(median(values))} [{written(min(values))}, {written(max(values))}]"
