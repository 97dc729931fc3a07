"""Folders of finished runs, with returns that can be worked out by hand."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sb3_multitask.evaluation.results import TaskResult
from sb3_multitask.experiments.config import TrainConfig, dump_config
from sb3_multitask.experiments.run_folder import RunFolder
from sb3_multitask.tasks import TASK_SETS

BODIES = tuple(task.name for task in TASK_SETS["HalfCheetahBody6"])


def write_run(
    root: Path,
    preset: str,
    name: str,
    seed: int,
    tasks: Any,
    level: float,
    moments: Sequence[str] = ("before", "after"),
    also_on: dict[str, str] | None = None,
    points: int = 4,
    **settings: Any,
) -> None:
    """A finished run whose returns are ``level`` plus the seed."""
    folder = RunFolder(root / preset / name / f"seed_{seed}")
    folder.path.mkdir(parents=True)
    config = TrainConfig(tasks=tasks, seed=seed, also_on=also_on or {}, **settings)
    dump_config(config, folder.config)
    names = [*config.task_names, *config.also_on]
    value = {moment: 0.0 if moment == "before" else level + seed for moment in moments}
    folder.write_results(**{m: {task: TaskResult.of([(value[m], 1000)] * 2) for task in names} for m in moments})
    folder.write_status("finished")
    for sub, own in (("", config.task_names), *((f"on_{task}", (task,)) for task in config.also_on)):
        (folder.path / sub).mkdir(exist_ok=True)
        curve = np.linspace(0, level + seed, points)[:, None, None] * np.ones((1, len(own), 2))
        steps = np.linspace(4000 / points, 4000, points) * len(own)
        np.savez(folder.path / sub / "evaluations.npz", timesteps=steps, task_results=curve, task_names=np.array(own))


def write_grid(root: Path) -> Path:
    """The runs of the paper's tables, in preset "p" with two seeds, and one that has not begun; ``root``."""
    for seed in (0, 1):
        for body in BODIES:
            moments = ("before", "3000000", "after")
            tasks = {body: f"HalfCheetah{body}-v0"}
            write_run(root, "p", f"scratch_{body}", seed, tasks, 1000, moments, n_timesteps=5_000_000)
        for method, level in (("vanilla", 1500), ("distillation", 900)):
            write_run(root, "p", method, seed, "HalfCheetahBody6", level, n_timesteps=6_000_000)
        for source, target in (("SmallFoot", "SmallLeg"), ("SmallLeg", "SmallFoot")):
            tasks, other = {target: f"HalfCheetah{target}-v0"}, {source: f"HalfCheetah{source}-v0"}
            moments = ("before", "1000000", "after")
            name, budget = f"finetune_{source}_to_{target}", {"n_timesteps": 5_000_000}
            write_run(root, "p", name, seed, tasks, 700, moments, also_on=other, **budget)
    RunFolder(root / "p/vanilla/seed_2").path.mkdir(parents=True)
    return root
