"""One agent for five robots of different sizes beside each robot alone, at the same frames.

    sb3-multitask grid zoo_configs/robots_grid.yml
    sb3-multitask report runs/robots --output results/robots --no-clips
    python benchmarks/robots.py

The last prints a table from the report's data: returns of 20 deterministic episodes, means over seeds, and the agent's
difference to a robot alone with Welch's 95% interval, which does not assume equal spreads.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from scipy import stats

from sb3_multitask.experiments.report.collect import Run, read_runs

DATA = Path(__file__).parents[1] / "results" / "robots" / "data"


def returns(runs: list[Run], preset: str, task: str) -> np.ndarray:
    """Mean returns of a task after training, one for each seed of a preset."""
    results = [run.results["after"] for run in runs if run.preset == preset]
    return np.array([of_run[task].mean_reward for of_run in results if task in of_run])


def difference(mine: np.ndarray, others: np.ndarray) -> str:
    """The difference of two means with its 95% interval."""
    low, high = stats.ttest_ind(mine, others, equal_var=False).confidence_interval(0.95)
    return f"{mine.mean() - others.mean():z.0f} [{low:z.0f}, {high:z.0f}]"


def table(runs: list[Run]) -> str:
    """A row for each robot."""
    lines = ["| robot | one agent (PPO) | alone (PPO) | difference | alone (A2C) | difference | seeds |"]
    lines.append("|---|---|---|---|---|---|---|")
    tasks = next(run.config.task_names for run in runs if run.preset == "ppo")
    for task in tasks:
        mine, ppo, a2c = (returns(runs, preset, task) for preset in ("ppo", "ppo_alone", "a2c_alone"))
        cells = [task, f"{mine.mean():.0f}"]
        for others in (ppo, a2c):
            cells += [f"{others.mean():.0f}", difference(mine, others)]
        lines.append(f"| {' | '.join(cells)} | {len(mine)}, {len(ppo)}, {len(a2c)} |")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=DATA, help="the grid's folder, or the data of its report")
    finished, _ = read_runs(parser.parse_args().runs)
    print(table(finished))
