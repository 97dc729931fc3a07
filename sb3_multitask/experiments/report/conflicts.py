"""Tables and heat maps of how the gradients of tasks conflicted, for the runs that measured it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from sb3_multitask.experiments.conflicts import Conflicts, mean_of_known
from sb3_multitask.experiments.report import statistics
from sb3_multitask.experiments.report.collect import Run, select
from sb3_multitask.experiments.report.figures import draw_conflicts, measured_nets
from sb3_multitask.experiments.report.tables import Table

_NOTE = (
    "Two tasks conflict if the cosine between their gradients on the layers that they share is below 0. The mean "
    "cosine, and the percent of pairs that conflict, are over all pairs, over the measurements that a run's folder "
    "keeps (all of them, the first third and the last third), and over seeds, with 95% bootstrap intervals. Gradients "
    f"are of batches: with few rows cosines are closer to 0. {statistics.FEW_SEEDS}"
)


def conflict_tables(runs: Sequence[Run], folder: Path) -> list[Table]:
    """Return a table for each preset with runs that measured conflicts, and draw the figures that it shows.

    :param folder: of the report, which gets ``conflicts_<preset>_<run>.svg`` and ``.png``
    """
    tables = []
    for preset in sorted({run.preset for run in runs}):
        rows: list[list[str]] = []
        pictures: dict[Path, str] = {}
        for name in dict.fromkeys(run.name for run in runs if run.preset == preset):
            found = [run.conflicts() for run in select(runs, preset, name)]
            seeds = [conflicts for conflicts in found if conflicts is not None]
            if not seeds or not measured_nets(seeds):
                continue
            rows += _rows(name, seeds)
            path = draw_conflicts(seeds, folder / f"conflicts_{preset}_{name}.svg")
            pictures[path] = _words(name, seeds)
        if rows:
            header = ["run", "net", "mean cosine", "conflicts, %", "first third, %", "last third, %", "seeds"]
            title = f"Conflicts of the tasks' gradients ({preset})"
            tables.append(Table(f"conflicts_{preset}", title, _NOTE, header, rows, pictures=pictures))
    return tables


def _rows(name: str, seeds: Sequence[Conflicts]) -> list[list[str]]:
    rows = []
    for net in measured_nets(seeds):
        cosine = _over_seeds([seed.means[net] for seed in seeds])
        shares = [100 * seed.negative_shares[net] for seed in seeds]
        parts = (shares, [_third(of_seed, 0) for of_seed in shares], [_third(of_seed, -1) for of_seed in shares])
        rows.append([name, net, cosine.text(2), *(str(_over_seeds(part)) for part in parts), str(len(seeds))])
    return rows


def _third(values: np.ndarray, which: int) -> np.ndarray:
    """Return the first (0) or the last (-1) third of the measurements, at least one."""
    size = max(1, round(len(values) / 3))
    return values[:size] if which == 0 else values[-size:]


def _over_seeds(seeds: Sequence[np.ndarray]) -> statistics.Estimate:
    """Return the mean over seeds of the mean over each seed's measurements."""
    return statistics.mean(np.array([[float(mean_of_known(values))] for values in seeds]))


def _words(name: str, seeds: Sequence[Conflicts]) -> str:
    """Return what a figure shows, with the pair of tasks that conflicts most."""
    sentences = []
    for net in measured_nets(seeds):
        cosines = mean_of_known(np.stack([seed.cosines[net] for seed in seeds]))
        rows, columns = np.triu_indices(len(cosines), 1)
        pairs = cosines[rows, columns]
        lowest = int(np.nanargmin(pairs))
        one, other = (seeds[0].task_names[index[lowest]] for index in (rows, columns))
        sentences.append(f"the {net}'s lowest mean cosine is {pairs[lowest]:z.2f}, of {one} and {other}")
    return (
        f"{name}: heat maps of the mean cosines between the gradients of {len(seeds[0].task_names)} tasks, and the "
        f"share of pairs below 0 during training; {'; '.join(sentences)}."
    )
