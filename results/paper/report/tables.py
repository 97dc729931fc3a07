"""The paper's tables from a grid's runs, the paper's numbers beside ours."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from results.paper.report.methods import BODIES, FINETUNING, METHODS, Method, budgets, or_of, stacked
from sb3_multitask.experiments.report import Run, Table, continual, returns, select, statistics
from sb3_multitask.experiments.report.statistics import Estimate

_NUMBERS = json.loads(Path(__file__).with_name("paper_numbers.json").read_text(encoding="utf-8"))


def table_1(runs: Sequence[Run], preset: str) -> Table:
    """Scratch and fine-tuning on E1 (SmallFoot) and E2 (SmallLeg)."""
    rows = []

    def add(label: str, name: str, stage: str, body: str) -> None:
        trained = select(runs, preset, name)
        frames = budgets((run, stage) for run in trained)
        cells = _cells(statistics.mean(returns(trained, stage, [body])))
        rows.append([label, or_of(frames), body, *cells, _published_1(name, frames, body)])

    for body, _ in FINETUNING:
        add(f"scratch {body}", f"scratch_{body}", "after", body)
    for source, target in FINETUNING:
        for stage in ("before", "1000000", "after"):
            for body, _ in FINETUNING:
                add(f"{source} to {target}", f"finetune_{source}_to_{target}", stage, body)
    return Table(
        f"table_1_{preset}",
        f"Table 1: fine-tuning ({preset})",
        f"{ours(runs, preset)} 0M is the source's model on both bodies before fine-tuning. The one head's statistics "
        "of observations are the source's, which fine-tuning goes on averaging. The paper: one seed.",
        ["training", "steps", "evaluated on", "ours", "seeds", "paper"],
        rows,
    )


def table_2(runs: Sequence[Run], preset: str) -> Table:
    """Scratch 3M, distillation 1M a head, vanilla 1M a head."""
    methods = [Method(preset, name) for name in METHODS]
    rows = []
    for label, *cells in method_rows(runs, methods):
        published = [_published_2(label, method.name) for method in methods]
        rows.append([label, *(cell for pair in zip(cells, published, strict=True) for cell in pair)])
    header = ["body", *(title for method in methods for title in (method.title(runs), "paper"))]
    note = (
        f"{ours(runs, preset)} Frames are per body. The paper: scratch at 3M, the others at 1M, one seed, mean ± "
        f"standard deviation over 20 episodes. {statistics.WORST_TASK}"
    )
    return Table(f"table_2_{preset}", f"Table 2: multi-task ({preset})", note, header, rows)


def method_rows(runs: Sequence[Run], methods: Sequence[Method]) -> list[list[str]]:
    """A row a body, the summaries over the bodies, and the number of seeds; a column a method."""
    scores = [stacked(method.returns(runs)) for method in methods]
    rows = [[body, *(str(statistics.mean(s[:, [i]])) for s in scores)] for i, body in enumerate(BODIES)]
    rows += [[label, *(str(statistic(s)) for s in scores)] for label, (statistic, _) in _SUMMARIES.items()]
    return [*rows, ["seeds", *(str(len(s)) for s in scores)]]


def ours(runs: Sequence[Run], preset: str) -> str:
    """What a number of this preset is, in a sentence."""
    episodes = sorted({run.config.n_eval_episodes for run in runs if run.preset == preset})
    count = " or ".join(map(str, episodes))
    return (
        f"Ours: mean over seeds of the mean over {count} deterministic episodes, with the 95% bootstrap interval over "
        f"seeds. {statistics.FEW_SEEDS}"
    )


def transfer_matrix(runs: Sequence[Run], preset: str) -> Table:
    """After each phase the return on both bodies; forgetting and transfer."""
    rows = []
    for source, target in FINETUNING:
        tuned = select(runs, preset, f"finetune_{source}_to_{target}")
        scratch = {run.seed: run for run in select(runs, preset, f"scratch_{target}")}
        phases = [returns(tuned, stage, [source, target]) for stage in ("before", "after")]
        matrix = np.stack(phases, axis=1)  # (n_seeds, n_phases, n_tasks)
        sources = select(runs, preset, f"scratch_{source}")
        first, second = (or_of(budgets((run, "after") for run in phase)) for phase in (sources, tuned))
        untrained = returns([scratch[run.seed] for run in tuned if run.seed in scratch], "before", [target])
        measures = {
            f"after phase 1 ({source} {first}), on {source}": matrix[:, 0, [0]],
            f"after phase 1 ({source} {first}), on {target}": matrix[:, 0, [1]],
            f"after phase 2 ({target} {second}), on {source}": matrix[:, 1, [0]],
            f"after phase 2 ({target} {second}), on {target}": matrix[:, 1, [1]],
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
        rows += [[f"{source} to {target}", name, *_cells(statistics.mean(v))] for name, v in measures.items()]
    return Table(
        f"transfer_{preset}",
        f"Forgetting and transfer ({preset})",
        "In units of return. Forgetting: the return on the first body after its own training, less that at the end "
        "(Continual World, Wolczyk et al. 2021; CORA, Powers et al. 2021); backward transfer is its "
        "negative. Forward transfer: zero-shot as in CORA, the source's model on the new body less the untrained one; "
        "area as in Continual World, mean of the learning curve less that of scratch over as many steps, not "
        "normalised, since returns have no upper bound. A head and statistics per body would forget nothing by "
        "construction; here one head is trained on.",
        ["direction", "measure", "ours", "seeds"],
        rows,
    )


def _curve(run: Run, task: str) -> tuple[np.ndarray, np.ndarray]:
    return run.curves().get(task, (np.empty(0), np.empty(0)))


def _cells(estimate: Estimate) -> list[str]:
    return [str(estimate), str(estimate.n_seeds)]


def _published_1(training: str, frames: Sequence[int], body: str) -> str:
    """The paper's number for a row of Table 1, where it has this budget."""
    found = _NUMBERS["table1"].get(training, {}).get("".join(map(str, frames)), {}).get(body)
    return _mean_and_std(found) if found else ""


def _published_2(label: str, method: str) -> str:
    """The paper's number for a row of Table 2."""
    table = _NUMBERS["table2"]
    if label in BODIES:
        return _mean_and_std(table[label][method])
    _, of_paper = _SUMMARIES.get(label, (None, None))
    return f"{of_paper([table[body][method][0] for body in BODIES]):.0f}" if of_paper else ""


def _mean_and_std(numbers: Sequence[float]) -> str:
    return f"{numbers[0]:.0f} ± {numbers[1]:.0f}"


_SUMMARIES: dict[str, tuple[Callable[[np.ndarray], Estimate], Callable[[Sequence[float]], Any] | None]] = {
    "mean of the six": (statistics.mean, np.mean),
    "interquartile mean": (statistics.interquartile_mean, None),
    "median task": (statistics.median_task, np.median),
    "worst task": (statistics.worst_task, np.min),
}
