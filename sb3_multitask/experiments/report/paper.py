"""The paper's tables from a grid's runs, the paper's numbers beside ours."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sb3_multitask.experiments.report import continual, statistics
from sb3_multitask.experiments.report.collect import Run, returns, select
from sb3_multitask.experiments.report.tables import Table
from sb3_multitask.tasks import TASK_SETS

BODIES = tuple(task.name for task in TASK_SETS["HalfCheetahBody6"])
FINETUNING = (("SmallFoot", "SmallLeg"), ("SmallLeg", "SmallFoot"))
METHODS = ("scratch", "distillation", "vanilla")
_NUMBERS = json.loads(Path(__file__).with_name("paper_numbers.json").read_text(encoding="utf-8"))
_OURS = "Ours: mean over seeds of the mean over 20 deterministic episodes, with the 95% bootstrap interval over seeds."


def method_returns(runs: Sequence[Run], preset: str, method: str) -> np.ndarray:
    """Returns at the paper's budget of Table 2, (n_seeds, 6): scratch at 3M a task, the others at 1M a head."""
    if method != "scratch":
        return returns(select(runs, preset, method), "after", BODIES)
    columns = []
    for body in BODIES:
        single = select(runs, preset, f"scratch_{body}")
        moments = ["3000000" if "3000000" in run.results else "after" for run in single]
        columns.append({run.seed: run.results[m][body].mean_reward for run, m in zip(single, moments, strict=True)})
    return by_common_seed(columns)


def by_common_seed(columns: Sequence[Mapping[int, float]]) -> np.ndarray:
    """Numbers of each body by seed -> (n_seeds, n_bodies) of the seeds that all bodies have."""
    seeds = sorted(set.intersection(*(set(column) for column in columns)))
    return np.array([[column[seed] for column in columns] for seed in seeds]).reshape(len(seeds), len(columns))


def table_1(runs: Sequence[Run], preset: str) -> Table:
    """Scratch and fine-tuning on E1 (SmallFoot) and E2 (SmallLeg)."""
    rows = []
    for body in ("SmallFoot", "SmallLeg"):
        ours = statistics.mean(returns(select(runs, preset, f"scratch_{body}"), "after", [body]))
        rows.append([f"scratch {body}", "5M", body, str(ours), _paper("table1", f"scratch_{body}", "5000000", body)])
    for source, target in FINETUNING:
        name = f"finetune_{source}_to_{target}"
        tuned = select(runs, preset, name)
        for moment, budget in (("before", "0"), ("1000000", "1000000"), ("after", "5000000")):
            for body in ("SmallFoot", "SmallLeg"):
                ours = statistics.mean(returns(tuned, moment, [body]))
                paper = _paper("table1", name, budget, body)
                rows.append([f"{source} to {target}", f"{int(budget) // 1_000_000}M", body, str(ours), paper])
    return Table(
        f"table_1_{preset}",
        f"Table 1: fine-tuning ({preset})",
        f"{_OURS} 0M is the source's model on both bodies before fine-tuning. The paper: one seed.",
        ["training", "steps", "evaluated on", "ours", "paper"],
        rows,
    )


def table_2(runs: Sequence[Run], preset: str) -> Table:
    """Scratch 3M, distillation 1M a head, vanilla 1M a head."""
    scores = {method: method_returns(runs, preset, method) for method in METHODS}
    rows = []
    for i, body in enumerate(BODIES):
        cells = [str(statistics.mean(scores[method][:, [i]])) for method in METHODS]
        rows.append([body, *_beside(cells, [_paper("table2", body, method) for method in METHODS])])
    paper = {method: [_NUMBERS["table2"][body][method][0] for body in BODIES] for method in METHODS}
    for label, statistic, of_paper in (
        ("mean of the six", statistics.mean, np.mean),
        ("interquartile mean", statistics.interquartile_mean, None),
        ("median task", statistics.median_task, np.median),
        ("worst task", statistics.worst_task, np.min),
    ):
        cells = [str(statistic(scores[method])) for method in METHODS]
        papers = [f"{of_paper(paper[method]):.0f}" if of_paper else "" for method in METHODS]
        rows.append([label, *_beside(cells, papers)])
    header = ["body", *_beside(["scratch 3M", "distillation 1M", "vanilla 1M"], ["paper"] * 3)]
    note = f"{_OURS} Frames are per body. The paper: one seed, mean ± standard deviation over 20 episodes."
    return Table(f"table_2_{preset}", f"Table 2: multi-task ({preset})", note, header, rows)


def transfer_matrix(runs: Sequence[Run], preset: str) -> Table:
    """After each phase the return on both bodies; forgetting and transfer."""
    rows = []
    for source, target in FINETUNING:
        tuned = select(runs, preset, f"finetune_{source}_to_{target}")
        scratch = {run.seed: run for run in select(runs, preset, f"scratch_{target}")}
        phases = [returns(tuned, moment, [source, target]) for moment in ("before", "after")]
        matrix = np.stack(phases, axis=1)  # (n_seeds, n_phases, n_tasks)
        untrained = returns([scratch[run.seed] for run in tuned if run.seed in scratch], "before", [target])
        measures = {
            f"after phase 1 ({source} 5M), on {source}": matrix[:, 0, [0]],
            f"after phase 1 ({source} 5M), on {target}": matrix[:, 0, [1]],
            f"after phase 2 ({target} 5M), on {source}": matrix[:, 1, [0]],
            f"after phase 2 ({target} 5M), on {target}": matrix[:, 1, [1]],
            f"forgetting of {source}": continual.forgetting(matrix)[:, [0]],
            f"backward transfer to {source}": continual.backward_transfer(matrix),
        }
        if len(untrained) == len(tuned):
            areas = [continual.area_transfer(_curve(run, target), _curve(scratch[run.seed], target)) for run in tuned]
            measures |= {
                f"forward transfer to {target}, zero-shot": continual.zero_shot_transfer(
                    matrix, np.pad(untrained, ((0, 0), (1, 0)))
                ),
                f"forward transfer to {target}, area": np.reshape(areas, (-1, 1)),
            }
        rows += [[f"{source} to {target}", name, str(statistics.mean(v))] for name, v in measures.items()]
    return Table(
        f"transfer_{preset}",
        f"Forgetting and transfer ({preset})",
        "In units of return. Forgetting: the return on the first body at the end of its phase less that at the end "
        "(Continual World, Wolczyk et al. 2021; CORA, Powers et al. 2021); backward transfer is its "
        "negative. Forward transfer: zero-shot as in CORA, the source's model on the new body less the untrained one; "
        "area as in Continual World, mean of the learning curve less that of scratch over as many steps, not "
        "normalised, since returns have no upper bound. A head and statistics per body would forget nothing by "
        "construction; here one head is trained on.",
        ["direction", "measure", "ours"],
        rows,
    )


def _curve(run: Run, task: str) -> tuple[np.ndarray, np.ndarray]:
    return run.curves().get(task, (np.empty(0), np.empty(0)))


def _paper(*keys: str) -> str:
    found: Any = _NUMBERS
    for key in keys:
        found = found.get(key, {})
    return f"{found[0]:.0f} ± {found[1]:.0f}" if found else ""


def _beside(ours: Sequence[str], papers: Sequence[str]) -> list[str]:
    return [cell for pair in zip(ours, papers, strict=True) for cell in pair]
