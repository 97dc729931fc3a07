"""Tables of tasks that were learned one after the other: forgetting and transfer, beside the same tasks at once."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sb3_multitask.experiments.config import TrainConfig
from sb3_multitask.experiments.report import continual, statistics
from sb3_multitask.experiments.report.collect import Run, returns, select
from sb3_multitask.experiments.report.in_turn import InTurn, has_teachers, learned_in_turn
from sb3_multitask.experiments.report.tables import Table, listed_scores
from sb3_multitask.tasks import Task

_HENDERSON = json.loads(Path(__file__).with_name("henderson_2017.json").read_text(encoding="utf-8"))
"""Task set -> task -> "first", "own", "last" -> mean and standard deviation, or null.

Hopper's "last" at half gravity is null, since the publication repeats HalfCheetah's number there.
"""
_FORGETTING = (
    "Forgetting and transfer: in units of return, positive backward transfer is what later tasks gave (Continual "
    "World, Wolczyk et al. 2021; CORA, Powers et al. 2021)."
)


def in_turn_tables(runs: Sequence[Run], preset: str) -> list[Table]:
    """Return tables of each run, or chain of runs, that learned its tasks in turn, and one beside tasks at once."""
    learned = learned_in_turn(runs, preset)
    tables = [table for one in learned for table in (_stages_table(runs, preset, one), _matrix_table(preset, one))]
    compared = _compared(runs, preset, learned)
    return [*tables, *([] if compared is None else [compared])]


def _stages_table(runs: Sequence[Run], preset: str, learned: InTurn) -> Table:
    tasks, matrix = learned.task_names, learned.matrix
    of_set = select(runs, preset, learned.name)[0].config.tasks
    first = np.concatenate((learned.untrained[:, :1], np.diagonal(matrix, offset=1, axis1=1, axis2=2)), axis=1)
    own, last = np.diagonal(matrix, axis1=1, axis2=2), matrix[:, -1]
    theirs = _HENDERSON.get(of_set, {}) if isinstance(of_set, str) else {}
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
    measures = _measures(learned)
    for label, values in (
        ("forgetting, mean over all but the last", measures["forgetting"]),
        ("backward transfer, mean over all but the last", continual.backward_transfer(matrix)),
        ("forward transfer, zero-shot, mean over all but the first", measures["zero-shot transfer"]),
        ("forward transfer, area, mean over all but the first", measures["area transfer"]),
    ):
        if np.isfinite(values).any():
            rows.append([label, str(statistics.mean(values)), *[""] * 5])
    header = ["task", "first step", "2017", "after own training", "2017", "fully trained", "2017"]
    beside = "Beside ours: Henderson et al. 2017, TRPO, mean ± standard deviation, on that time's versions. "
    if not theirs:
        beside = ""
        header, *rows = [[row[0], *row[1::2]] for row in (header, *rows)]
    return Table(
        f"{learned.name}_{preset}",
        f"{learned.name}: {learned.how}, one task after the other ({preset})",
        f"{_seeds(learned)}, {learned.steps:,} steps over all tasks; mean of deterministic returns with 95% bootstrap "
        f"intervals over seeds. First step: before a task's own training. {beside}{_FORGETTING} {statistics.FEW_SEEDS}",
        header,
        rows,
    )


def _matrix_table(preset: str, learned: InTurn) -> Table:
    stages = [("nothing", learned.untrained)]
    stages += [(task, learned.matrix[:, i]) for i, task in enumerate(learned.task_names)]
    rows = [
        [label, *(str(statistics.mean(values[:, [i]])) for i in range(len(learned.tasks)))] for label, values in stages
    ]
    return Table(
        f"{learned.name}_{preset}_matrix",
        f"{learned.name}: returns on every task after each ({preset})",
        f"{_seeds(learned)}; a row for each task that was learned, in order, and a column for each task that was "
        f"evaluated then: deterministic returns with 95% bootstrap intervals over seeds. {statistics.FEW_SEEDS}",
        ["after learning", *learned.task_names],
        rows,
    )


def _compared(runs: Sequence[Run], preset: str, learned: Sequence[InTurn]) -> Table | None:
    """Return a table of all runs with the tasks that some of them learn in turn; None if there is nothing beside."""
    rows: list[Sequence[str]] = []
    brief: list[Sequence[str]] = []
    for names, tasks in _groups(learned):
        cells = []
        for one in (one for one in learned if _sorted(one.tasks) == tasks):
            columns = [one.task_names.index(name) for name in names]
            own = np.diagonal(one.matrix, axis1=1, axis2=2)
            cells.append((one.name, one.how, one.steps, one.matrix[:, -1][:, columns], [own, *_measures(one).values()]))
        cells += [
            (
                *(seeds[0].name, _at_once_how(seeds[0].config), seeds[0].config.n_timesteps),
                *(returns(seeds, "after", names), []),
            )
            for seeds in _at_once(runs, preset, tasks)
        ]
        for name, how, steps, last, others in cells if len(cells) > 1 else ():
            means = last.mean(axis=0) if len(last) else np.full(len(names), np.nan)
            each, shown = listed_scores(dict(zip(names, means.tolist(), strict=True)))
            numbers = [str(statistics.mean(values)) for values in (last, *others)] + [""] * (4 - len(others))
            for target, text in ((rows, each), (brief, shown)):
                target.append([name, how, f"{steps:,}", numbers[0], text, *numbers[1:], str(len(last))])
    if not rows:
        return None
    return Table(
        f"in_turn_{preset}",
        f"Tasks in turn, beside the same tasks at once ({preset})",
        "Deterministic returns after all training, mean over seeds and tasks with 95% bootstrap intervals, and the "
        "mean over seeds of each task. Of tasks in turn also, with means over tasks: the returns after a task's own "
        "training; forgetting, of all but the last; forward transfer, of all but the first. Zero-shot: before a task's "
        "own training, less the untrained agent's, which says little where the task's own head is still untrained "
        "(CORA, Powers et al. 2021). Area: the learning curve in a task's turn less that of the preset's run which "
        "learns it alone (Continual World, Wolczyk et al. 2021); '-' without such curves. Steps are those over all "
        f"tasks, without those of teachers. {statistics.FEW_SEEDS}",
        [
            *("run", "learned", "steps", "after all", "each task", "after own training", "forgetting"),
            *("zero-shot transfer", "area transfer", "seeds"),
        ],
        rows,
        brief,
    )


def _measures(learned: InTurn) -> dict[str, np.ndarray]:
    """Return the measures of forgetting and forward transfer, each (n_seeds, n_tasks - 1)."""
    return {
        "forgetting": continual.forgetting(learned.matrix)[:, :-1],
        "zero-shot transfer": continual.zero_shot_transfer(learned.matrix, learned.untrained),
        "area transfer": learned.areas,
    }


def _groups(learned: Sequence[InTurn]) -> list[tuple[tuple[str, ...], list[Task]]]:
    """Return the groups of tasks that were learned in turn, each once: names in that order, and the tasks by name."""
    groups: list[tuple[tuple[str, ...], list[Task]]] = []
    for one in learned:
        if all(_sorted(one.tasks) != tasks for _, tasks in groups):
            groups.append((one.task_names, _sorted(one.tasks)))
    return groups


def _at_once(runs: Sequence[Run], preset: str, tasks: list[Task]) -> list[list[Run]]:
    """Return the runs of a preset, by name, that learn a group of tasks in another way than in turn."""
    names = dict.fromkeys(run.name for run in runs if run.preset == preset and not run.config.tasks_in_turn)
    of_names = [select(runs, preset, name) for name in names]
    return [seeds for seeds in of_names if _sorted(seeds[0].config.resolved_tasks()) == tasks]


def _at_once_how(config: TrainConfig) -> str:
    return f"at once, {'from teachers' if has_teachers(config) else 'from returns'}"


def _sorted(tasks: Sequence[Task]) -> list[Task]:
    return sorted(tasks, key=lambda task: task.name)


def _seeds(learned: InTurn) -> str:
    n_seeds = len(learned.matrix)
    return f"{n_seeds} {'seed' if n_seeds == 1 else 'seeds'}"


def _published(numbers: Sequence[float] | None) -> str:
    return f"{numbers[0]:.0f} ± {numbers[1]:.0f}" if numbers else ""
