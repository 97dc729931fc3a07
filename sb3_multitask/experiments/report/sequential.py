"""Tables of runs that learn the tasks of a group in turn, with the numbers of Henderson et al. 2017."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sb3_multitask.experiments.report import continual, statistics
from sb3_multitask.experiments.report.collect import Run, returns, select
from sb3_multitask.experiments.report.tables import Table

_HENDERSON = json.loads(Path(__file__).with_name("henderson_2017.json").read_text(encoding="utf-8"))
"""Task set -> task -> "first", "own", "last" -> mean and standard deviation, or null.

Hopper's "last" at half gravity is null, since the publication repeats HalfCheetah's number there.
"""


def sequential_tables(runs: Sequence[Run], preset: str) -> list[Table]:
    """Return a table for each group that was learned in turn."""
    names = dict.fromkeys(run.name for run in runs if run.preset == preset and run.config.sequential)
    return [_table(select(runs, preset, name), preset, name) for name in names]


def matrix_of(runs: Sequence[Run]) -> np.ndarray:
    """Return the matrix of returns after each phase, (n_seeds, n_phases, n_tasks)."""
    tasks = runs[0].config.task_names
    return np.stack([returns(runs, f"after_{i + 1}", tasks) for i in range(len(tasks))], axis=1)


def _table(runs: Sequence[Run], preset: str, name: str) -> Table:
    tasks = runs[0].config.task_names
    matrix = matrix_of(runs)
    untrained = returns(runs, "before", tasks)
    first = np.concatenate((untrained[:, :1], np.diagonal(matrix, offset=1, axis1=1, axis2=2)), axis=1)
    own, last = np.diagonal(matrix, axis1=1, axis2=2), matrix[:, -1]
    theirs = _HENDERSON.get(runs[0].config.tasks, {}) if isinstance(runs[0].config.tasks, str) else {}
    rows = []
    for i, task in enumerate(tasks):
        row = [task]
        for stage, values in (("first", first), ("own", own), ("last", last)):
            row += [str(statistics.mean(values[:, [i]])), _published(theirs.get(task, {}).get(stage))]
        rows.append(row)
    row = ["mean over tasks"]
    for stage, values in (("first", first), ("own", own), ("last", last)):
        published = [theirs[task][stage][0] for task in tasks if theirs.get(task, {}).get(stage)]
        row += [str(statistics.mean(values)), f"{np.mean(published):.0f}" if len(published) == len(tasks) else ""]
    rows.append(row)
    for label, values in (
        ("forgetting, mean over all but the last", continual.forgetting(matrix)[:, :-1]),
        ("backward transfer, mean over all but the last", continual.backward_transfer(matrix)),
        ("forward transfer, zero-shot, mean over all but the first", continual.zero_shot_transfer(matrix, untrained)),
    ):
        rows.append([label, str(statistics.mean(values)), *[""] * 5])
    per_task = runs[0].config.n_timesteps // len(tasks)
    header = ["task", "first step", "2017", "after own training", "2017", "fully trained", "2017"]
    beside = "Beside ours: Henderson et al. 2017, TRPO, mean ± standard deviation, on that time's versions. "
    if not theirs:
        beside = ""
        header, *rows = [[row[0], *row[1::2]] for row in (header, *rows)]
    return Table(
        f"{name}_{preset}",
        f"{name}: one head, one task after the other ({preset})",
        f"{len(runs)} {'seed' if len(runs) == 1 else 'seeds'}, {per_task:,} steps a task; mean of deterministic "
        f"returns with 95% bootstrap intervals over seeds. First step: before a task's own training. {beside}"
        "Forgetting and transfer: in units of return, positive backward transfer is what later tasks gave (Continual "
        f"World, Wolczyk et al. 2021; CORA, Powers et al. 2021). {statistics.FEW_SEEDS}",
        header,
        rows,
    )


def _published(numbers: Sequence[float] | None) -> str:
    return f"{numbers[0]:.0f} ± {numbers[1]:.0f}" if numbers else ""
