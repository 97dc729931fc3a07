"""Make the agents that come with the package from the runs of a grid.

    python benchmarks/export_pretrained.py runs/paper/tuned

The vanilla agent and the distilled student are those of the seed with the best mean over the tasks. Their returns are
therefore the best of several, and their files say so. The teachers are the teachers of that student.
"""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

import numpy as np

import sb3_multitask as mt
from sb3_multitask.evaluation.evaluate import TaskResult
from sb3_multitask.experiments.report.collect import Run, read_runs, select

PACKAGE = Path(mt.__file__).parent / "agents" / "pretrained"
SET = "HalfCheetahBody6"


def export(run: Run, n_seeds: int, stage: str, name: str) -> None:
    agent = mt.load_agent(run.path / "agents" / ("final" if stage == "after" else stage))
    results = {task: round(result.mean_reward, 1) for task, result in run.results[stage].items()}
    facts = {
        **agent.facts,
        "trained_by": "sb3-multitask grid zoo_configs/paper_grid.yml",
        "run": f"{run.preset}/{run.name}/seed_{run.seed}",
        "revision": run.status["revision"],
        "chosen": f"best mean over the tasks of {n_seeds} seeds" if n_seeds > 1 else "teacher of the distilled student",
        "returns": results,
        "episodes": "20 per task, deterministic",
    }
    mt.save_agent(replace(agent, facts=facts, tasks=run.config.resolved_tasks()), PACKAGE / name)
    print(f"{name}: {run.preset}/{run.name}/seed_{run.seed}, mean {np.mean(list(results.values())):.0f}")


def mean(results: dict[str, TaskResult]) -> float:
    return float(np.mean([result.mean_reward for result in results.values()]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", type=Path, help="folder of a preset's runs")
    preset = parser.parse_args().runs
    runs, _ = read_runs(preset.parent)
    for name, role in (("vanilla", "vanilla"), ("distillation", "distilled")):
        seeds = select(runs, preset.name, name)
        best = max(seeds, key=lambda run: mean(run.results["after"]))
        export(best, len(seeds), "after", f"{SET}-{role}")
    for task in mt.TASK_SETS[SET]:
        (teacher,) = [run for run in select(runs, preset.name, f"scratch_{task.name}") if run.seed == best.seed]
        export(teacher, 1, "3000000", f"{SET}-teacher-{task.name}")


if __name__ == "__main__":
    main()
