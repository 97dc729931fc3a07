"""Task schedules, gradient combiners, normalised values and layer norms beside the plain algorithm, at equal frames.

    sb3-multitask grid benchmarks/studies_grid.yml
    sb3-multitask report runs/studies --output results/studies --no-clips
    python benchmarks/studies.py

The last prints tables from the report's data. A task's score is its mean return over 20 deterministic episodes after
the training, in percent of the reward threshold in Gymnasium's spec of the environment, in the scale of the task's
rewards. Of each arm: the mean score over the six tasks, and that of the worst, with differences to the plain algorithm
and Welch's 95% intervals, which do not assume equal spreads. An interval in bold leaves out 0 also when the rate of
false discoveries among all differences of all tables is held at 5% (Benjamini and Hochberg).
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import gymnasium as gym
import numpy as np
from scipy import stats

from sb3_multitask.experiments.report.collect import Run, read_runs

DATA = Path(__file__).parents[1] / "results" / "studies" / "data"
STUDIES = {
    "Which task next (A2C)": ("joint", ["cycle", "uniform", "shortfall", "progress", "bandit"]),
    "Gradient combiners (PPO)": ("ppo", ["ppo_pcgrad", "ppo_fairgrad", "ppo_cagrad", "ppo_upgrad"]),
    "Values (A2C)": ("joint", ["a2c_popart", "a2c_layer_norm", "a2c_both"]),
    "Values (PPO)": ("ppo", ["ppo_popart", "ppo_layer_norm", "ppo_both"]),
}
RUNS = {"six_bodies": "six bodies, rewards normalised", "unequal": "unequal tasks, rewards x 0.1, 1 and 10"}


def scores_of(runs: list[Run], preset: str, name: str) -> dict[str, np.ndarray]:
    """Scores of the tasks after training, one for each seed of a preset."""
    found = [run for run in runs if run.name == name and run.preset in (preset, f"{preset}_{name}")]
    scores = {}
    for task in found[0].config.resolved_tasks() if found else ():
        threshold = gym.spec(str(task.env_id)).reward_threshold
        assert threshold is not None
        scale = task.kwargs_of().get("forward_reward_weight", 1.0)
        returns = [run.results["after"][task.name].mean_reward for run in found]
        scores[task.name] = 100 * np.array(returns) / (scale * threshold)
    return scores


@dataclass(frozen=True)
class Difference:
    """The difference of two means, with Welch's test."""

    value: float
    low: float
    high: float
    p: float

    @classmethod
    def of(cls, mine: np.ndarray, others: np.ndarray) -> Difference:
        """Of scores of some seeds each."""
        test = stats.ttest_ind(mine, others, equal_var=False)
        low, high = test.confidence_interval(0.95)
        return cls(mine.mean() - others.mean(), low, high, float(test.pvalue))

    def text(self, *, is_discovery: bool) -> str:
        """The difference and its interval."""
        interval = f"[{self.low:z.1f}, {self.high:z.1f}]"
        return f"{self.value:z.1f} {f'**{interval}**' if is_discovery else interval}"


def rows_of(
    runs: list[Run], name: str, baseline: str, arms: list[str]
) -> list[tuple[str, list[str], list[Difference]]]:
    """The arms of a study on some tasks: the name, cells before the differences, and the differences."""
    plain, rows = scores_of(runs, baseline, name), []
    for arm in (baseline, *arms):
        scores = scores_of(runs, arm, name)
        if not scores:
            continue
        table, of_plain = (np.stack(list(of_arm.values())) for of_arm in (scores, plain))  # (n_tasks, n_seeds)
        each = "; ".join(f"{task} {of_task.mean():z.0f}" for task, of_task in scores.items())
        cells = [str(table.shape[1]), f"{table.mean():z.1f}", f"{table.min(axis=0).mean():z.1f}", each]
        enough = arm != baseline and min(table.shape[1], of_plain.shape[1]) > 1
        pairs = [(table.mean(axis=0), of_plain.mean(axis=0)), (table.min(axis=0), of_plain.min(axis=0))]
        rows.append((arm, cells, [Difference.of(*pair) for pair in pairs] if enough else []))
    return rows


def tables(runs: list[Run]) -> str:
    """A table for each study and set of tasks."""
    found = [
        (f"{title}: {of_run}", rows_of(runs, name, baseline, arms))
        for title, (baseline, arms) in STUDIES.items()
        for name, of_run in RUNS.items()
    ]
    every = [difference for _, rows in found for *_, differences in rows for difference in differences]
    kept = stats.false_discovery_control([difference.p for difference in every]) <= 0.05 if every else []
    discoveries = {id(difference) for difference, is_kept in zip(every, kept, strict=True) if is_kept}
    lines = []
    for title, rows in found:
        if len(rows) < 2:
            continue
        lines += [f"## {title}", "", "| arm | seeds | mean | difference | worst task | difference | each task |"]
        lines.append("|---|---|---|---|---|---|---|")
        for arm, (seeds, mean, worst, each), differences in rows:
            texts = [of_one.text(is_discovery=id(of_one) in discoveries) for of_one in differences] or ["", ""]
            lines.append(f"| {' | '.join([arm, seeds, mean, texts[0], worst, texts[1], each])} |")
        lines.append("")
    return "\n".join(lines)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, default=DATA, help="the grid's folder, or the data of its report")
    finished, _ = read_runs(parser.parse_args().runs)
    print(tables(finished))
