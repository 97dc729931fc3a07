"""Tables of any grid: learning, distillation, forgetting and transfer."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import combinations

import numpy as np

from sb3_multitask.experiments.config import TrainConfig
from sb3_multitask.experiments.report import continual, statistics
from sb3_multitask.experiments.report.collect import Run, of_same_seeds, presets_of_runs, returns, select, success_rates
from sb3_multitask.experiments.report.in_turn_tables import in_turn_tables
from sb3_multitask.experiments.report.statistics import estimates
from sb3_multitask.experiments.report.tables import Table, brief_rows, listed_scores
from sb3_multitask.experiments.run_folder import folder_of_agent
from sb3_multitask.many_tasks import MANY


def tables_of_preset(runs: Sequence[Run], preset: str) -> list[Table]:
    """Return the tables for which a preset of a grid has runs."""
    tables = [make(runs, preset) for make in (gains, success, taught, carried_over)]
    return [*filter(None, tables), *in_turn_tables(runs, preset)]


def tables_of_grid(runs: Sequence[Run]) -> list[Table]:
    """Return the tables over all presets: the runs that several of them have, and every run."""
    return [*filter(None, [presets_compared(runs)]), all_runs(runs)]


def gains(runs: Sequence[Run], preset: str) -> Table | None:
    """Return a table of every task of every run of a preset, before and after training; None without runs."""
    rows: list[list[str]] = []
    brief: list[Sequence[str]] = []
    for name, seeds in _by_name(runs, preset, lambda config: not config.sequential):
        tasks = seeds[0].config.task_names
        before, after = (returns(seeds, stage, tasks) for stage in ("before", "after"))
        of_tasks = {}
        for i, task in enumerate(tasks):
            first, last = before[:, [i]], after[:, [i]]
            gain = statistics.mean(last - first)
            cells = [str(statistics.mean(first)), str(statistics.mean(last)), str(gain)]
            of_tasks[task] = [name, task, *cells, "yes" if gain.low > 0 else "no", str(len(seeds))]
        rows += of_tasks.values()
        brief += brief_rows(of_tasks, _by_task(tasks, after), column=1)
    return _table(
        f"gains_{preset}",
        f"Before and after training ({preset})",
        "Deterministic returns, mean over seeds with 95% bootstrap intervals; whether the gain's lower end is above 0. "
        f"Before: the untrained agent, or the one that a run with `init_from` begins with. {statistics.FEW_SEEDS}",
        ["run", "task", "before", "after", "gain", "above 0", "seeds"],
        rows,
        brief,
    )


def success(runs: Sequence[Run], preset: str) -> Table | None:
    """Return a table of the success of every task of a preset's runs that says it; None if no task does."""
    rows: list[list[str]] = []
    brief: list[Sequence[str]] = []
    for name, seeds in _by_name(runs, preset, lambda _config: True):
        config = seeds[0].config
        tasks = [*config.task_names, *config.also_on]
        before, after = (100 * success_rates(seeds, stage, tasks) for stage in ("before", "after"))
        said = np.isfinite(after).all(axis=0).nonzero()[0].tolist()
        labels = [(tasks[i], [i]) for i in said]
        if len(said) > 1:
            labels.append(("mean", said))
        of_labels = []
        for label, chosen in labels:
            cells = [str(statistics.mean(values[:, chosen])) for values in (before, after)]
            of_labels.append([name, label, *cells, str(len(seeds))])
        of_tasks = {tasks[i]: row for i, row in zip(said, of_labels, strict=False)}
        rows += of_labels
        brief += [
            *brief_rows(of_tasks, _by_task([tasks[i] for i in said], after[:, said]), column=1),
            *of_labels[len(said) :],
        ]
    return _table(
        f"success_{preset}",
        f"Success before and after training ({preset})",
        "Percent of the deterministic episodes with a successful step, mean over seeds with 95% bootstrap intervals; "
        f"mean: over the tasks that say success. {statistics.FEW_SEEDS}",
        ["run", "task", "before, %", "after, %", "seeds"],
        rows,
        brief,
    )


def taught(runs: Sequence[Run], preset: str) -> Table | None:
    """Compare students with their teachers that are runs of the grid, seed by seed; None without such runs."""
    rows: list[list[str]] = []
    brief: list[Sequence[str]] = []
    for name, students in _by_name(runs, preset, lambda config: bool(config.teachers)):
        tasks = students[0].config.task_names
        theirs = np.array([[_of_teacher(runs, run, task) for task in tasks] for run in students])
        ours = returns(students, "after", tasks)
        known = np.isfinite(theirs).all(axis=1)
        theirs, ours = theirs[known], ours[known]
        labels = [(task, [i]) for i, task in enumerate(tasks)]
        if len(tasks) > 1:
            labels.append(("mean", list(range(len(tasks)))))
        of_labels = []
        for label, columns in labels:
            teacher, student = statistics.mean(theirs[:, columns]), statistics.mean(ours[:, columns])
            apart = statistics.paired_difference(ours[:, columns], theirs[:, columns])
            share = f"{student.value / teacher.value:.0%}" if teacher.value > 0 else "-"
            of_labels.append([name, label, str(teacher), str(student), str(apart), share, str(known.sum())])
        rows += of_labels
        of_tasks = dict(zip(tasks, of_labels, strict=False))
        brief += [*brief_rows(of_tasks, _by_task(tasks, ours), column=1), *of_labels[len(tasks) :]]
    return _table(
        f"taught_{preset}",
        f"Students beside their teachers ({preset})",
        "Deterministic returns; the teacher's at the budget that the student learned from. Differences are taken seed "
        f"by seed, since a student shares its seed's teachers. {statistics.FEW_SEEDS}",
        ["run", "task", "teachers", "student", "difference", "share", "seeds"],
        rows,
        brief,
    )


def carried_over(runs: Sequence[Run], preset: str) -> Table | None:
    """Return transfer and forgetting of runs that started from another run's agent; None without such runs."""
    rows = []
    for name, seeds in _by_name(runs, preset, lambda config: config.init_from is not None):
        config = seeds[0].config
        for other in config.also_on:
            before, after = (returns(seeds, stage, [other]) for stage in ("before", "after"))
            cells = [str(statistics.mean(values)) for values in (before, after, before - after)]
            rows.append([name, f"forgetting of {other}", *cells, str(len(seeds))])
        scratch = _from_scratch(runs, seeds[0])
        for task in config.task_names if scratch else ():
            both = of_same_seeds(seeds, scratch)
            begun, untrained = (returns(side, "before", [task]) for side in both)
            cells = [str(statistics.mean(values)) for values in (untrained, begun, begun - untrained)]
            rows.append([name, f"zero-shot transfer to {task}", *cells, str(len(begun))])
            pairs = [[run.curves().get(task) for run in pair] for pair in zip(*both, strict=True)]
            areas = [continual.area_transfer(mine, theirs) for mine, theirs in pairs if mine and theirs]
            if areas:
                area = statistics.mean(np.reshape(areas, (-1, 1)))
                rows.append([name, f"area transfer to {task}", "", "", str(area), str(len(areas))])
    return _table(
        f"carried_over_{preset}",
        f"Forgetting and transfer ({preset})",
        "In units of return. Forgetting of an env (`also_on`): the return there before the run less that after it. "
        "Transfer to a task, beside the preset's run that learns the same tasks from scratch. Zero-shot: before "
        "training, less the untrained agent's (CORA, Powers et al. 2021). Area: mean of the learning curve less that "
        f"of scratch over as many steps (Continual World, Wolczyk et al. 2021). {statistics.FEW_SEEDS}",
        ["run", "measure", "from", "to", "value", "seeds"],
        rows,
    )


def presets_compared(runs: Sequence[Run]) -> Table | None:
    """Compare every two presets that have the same run, on the same seeds; None if there are none."""
    rows = []
    for name, presets in presets_of_runs(runs).items():
        for first, second in combinations(presets, 2):
            sides = of_same_seeds(select(runs, first, name), select(runs, second, name))
            tasks = select(runs, first, name)[0].config.task_names
            a, b = (returns(side, "after", tasks) for side in sides)
            cells = [
                str(statistics.mean(a)),
                str(statistics.mean(b)),
                *estimates(statistics.difference(a, b), a, b, len(a)),
            ]
            rows.append([name, f"{first} over {second}", *cells])
    return _table(
        "presets",
        "The same run in two presets",
        "Returns over all tasks at the end of training: difference of the means, and the probability that a seed of "
        f"the first beats a seed of the second on a task (95% bootstrap intervals). {statistics.FEW_SEEDS}",
        ["run", "", "the first", "the second", "difference", "probability of improvement", "seeds"],
        rows,
    )


def all_runs(runs: Sequence[Run]) -> Table:
    """Return a table of every run's final returns: each task, and the tasks' mean, median and worst."""
    rows: list[list[str]] = []
    brief: list[Sequence[str]] = []
    for preset, name in dict.fromkeys((run.preset, run.name) for run in runs):
        seeds = select(runs, preset, name)
        tasks = seeds[0].config.task_names
        scores = returns(seeds, "after", tasks)
        numbers = [
            f"{preset}/{name}",
            str(len(seeds)),
            str(statistics.mean(scores)),
            str(statistics.interquartile_mean(scores)),
            str(statistics.median_task(scores)),
            str(statistics.worst_task(scores)),
        ]
        each, shown = listed_scores(_by_task(tasks, scores))
        rows.append([*numbers, each, _minutes(seeds), _revisions(seeds)])
        brief.append([*numbers, shown, _minutes(seeds), _revisions(seeds)])
    return Table(
        "runs",
        "All runs",
        "Deterministic returns at the end of training: mean over seeds and tasks, interquartile mean, median task and "
        "worst task, with 95% stratified bootstrap intervals; the mean over seeds of each task; the mean CPU time of a "
        f"seed, evaluations included; and the revisions of the code that ran. {statistics.WORST_TASK}",
        ["run", "seeds", "mean", "IQM", "median task", "worst task", "each task", "CPU minutes", "code"],
        rows,
        brief,
    )


def _by_name(
    runs: Sequence[Run], preset: str, wanted: Callable[[TrainConfig], bool]
) -> Iterator[tuple[str, list[Run]]]:
    """Yield name and runs, one per seed, of the runs whose config is selected."""
    for name in dict.fromkeys(run.name for run in runs if run.preset == preset and wanted(run.config)):
        yield name, select(runs, preset, name)


def _table(
    name: str,
    title: str,
    note: str,
    header: Sequence[str],
    rows: Sequence[Sequence[str]],
    brief: Sequence[Sequence[str]] | None = None,
) -> Table | None:
    if not rows:
        return None
    if brief is not None and len(brief) < len(rows):
        note += f" Of more than {MANY} tasks the lowest and the highest are shown; {name}.csv has all."
    return Table(name, title, note, header, rows, brief)


def _by_task(tasks: Sequence[str], scores: np.ndarray) -> dict[str, float]:
    """Return the mean over the seeds of each task, NaN without a seed; ``scores`` (n_seeds, n_tasks)."""
    means = scores.mean(axis=0) if len(scores) else np.full(len(tasks), np.nan)
    return dict(zip(tasks, means.tolist(), strict=True))


def _of_teacher(runs: Sequence[Run], student: Run, task: str) -> float:
    """Return the mean return of a student's teacher, as it taught; NaN if it is not a finished run of the grid."""
    folder, stage = folder_of_agent(student.config.teachers[task])
    for run in runs:
        if (run.preset, run.name, f"seed_{run.seed}") == folder.parts[-3:]:
            own = run.config.task_names
            return float(returns([run], stage, [own[0] if len(own) == 1 else task]).item())
    return float("nan")


def _from_scratch(runs: Sequence[Run], tuned: Run) -> list[Run]:
    """Return the first runs of the preset that learn the same tasks from scratch."""
    for name, seeds in _by_name(runs, tuned.preset, lambda config: config.init_from is None and not config.teachers):
        if seeds[0].config.resolved_tasks() == tuned.config.resolved_tasks() and not seeds[0].config.tasks_in_turn:
            return select(runs, tuned.preset, name)
    return []


def _minutes(runs: Sequence[Run]) -> str:
    """Return the mean CPU time, in minutes, of the runs whose folders have it."""
    seconds = [run.status["cpu_seconds"] for run in runs if "cpu_seconds" in run.status]
    return f"{np.mean(seconds) / 60:.1f}" if seconds else "-"


def _revisions(runs: Sequence[Run]) -> str:
    """Return short revisions of the code of the runs, if it was under version control."""
    found = dict.fromkeys(str(run.status["revision"]) for run in runs if run.status.get("revision"))
    return ", ".join(f"{text[:7]}{'+' if text.endswith('-dirty') else ''}" for text in found)
