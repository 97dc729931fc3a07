"""The methods that the paper compares: which runs of a grid they are, at which budget, and what they return."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sb3_multitask.experiments.report import Run, select
from sb3_multitask.tasks import TASK_SETS

BODIES = tuple(task.name for task in TASK_SETS["HalfCheetahBody6"])
METHODS = ("scratch", "distillation", "vanilla")
"""The columns of the paper's Table 2."""
_E1_E2 = ("SmallFoot", "SmallLeg")
FINETUNING = (_E1_E2, _E1_E2[::-1])
"""The paper's Table 1: first body, second body."""
_ONE_AGENT_A_BODY = ("scratch", "alone")
_TEACHERS = "3000000"
"""Scratch is reported where it teaches; it may go on for Table 1."""


@dataclass(frozen=True)
class Method:
    """A preset's runs of one method: one agent for the six bodies, or ``<name>_<body>`` for each."""

    preset: str
    name: str

    def of_body(self, runs: Sequence[Run], body: str) -> list[Run]:
        """The runs that learn a body, by seed."""
        return select(runs, self.preset, f"{self.name}_{body}" if self.name in _ONE_AGENT_A_BODY else self.name)

    def returns(self, runs: Sequence[Run]) -> dict[int, np.ndarray]:
        """Seed -> the six bodies' returns, (6,), of the seeds that have them all."""
        return by_common_seed(
            {run.seed: run.results[_stage(run)][body].mean_reward for run in self.of_body(runs, body)}
            for body in BODIES
        )

    def title(self, runs: Sequence[Run]) -> str:
        """Name and frames of a body, such as "scratch 3M"."""
        return f"{self.name} {or_of(budgets((r, _stage(r)) for body in BODIES for r in self.of_body(runs, body)))}"


def is_of_paper(run: Run) -> bool:
    """Whether a run belongs into the paper's tables: its name is that of a part, its tasks are this part's bodies."""
    method, _, rest = run.name.partition("_")
    bodies: tuple[str, ...]
    if method in _ONE_AGENT_A_BODY:
        bodies = (rest,)
    elif method == "finetune":
        bodies = tuple(target for source, target in FINETUNING if rest == f"{source}_to_{target}")
    else:
        bodies = BODIES if method in METHODS else ()
    tasks = {task.name: task for task in TASK_SETS["HalfCheetahBody6"]}
    return bool(bodies) and run.config.resolved_tasks() == tuple(tasks.get(body) for body in bodies)


def budgets(stages: Iterable[tuple[Run, str]]) -> list[int]:
    """Frames of a task that runs had at a stage of their results ("before", a number of steps, "after")."""

    def frames(run: Run, stage: str) -> int:
        steps = {"before": 0, "after": run.config.n_timesteps}.get(stage)
        return (int(stage) if steps is None else steps) // len(run.config.task_names)

    return sorted({frames(run, stage) for run, stage in stages})


def or_of(frames: Iterable[int]) -> str:
    """Such as "3M", or "1M or 3M"."""
    return " or ".join(millions(number) for number in frames)


def millions(frames: float) -> str:
    """Frames in words, such as "0.05M"."""
    return f"{frames / 1e6:.3g}M"


def by_common_seed(columns: Iterable[Mapping[int, float]]) -> dict[int, np.ndarray]:
    """Numbers of each body by seed -> seed -> numbers, (n_bodies,), of the seeds that all bodies have."""
    columns = list(columns)
    seeds = sorted(set.intersection(*(set(column) for column in columns)))
    return {seed: np.array([column[seed] for column in columns]) for seed in seeds}


def stacked(by_seed: Mapping[int, np.ndarray], seeds: Iterable[int] | None = None) -> np.ndarray:
    """Rows of these seeds (default: all), (n_seeds, n_bodies)."""
    seeds = list(by_seed if seeds is None else seeds)
    return np.array([by_seed[seed] for seed in seeds]).reshape(len(seeds), len(BODIES))


def _stage(run: Run) -> str:
    return _TEACHERS if run.name.startswith("scratch_") and _TEACHERS in run.results else "after"
