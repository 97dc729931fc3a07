"""Does it learn? Compare one agent for six bodies with SB3's own A2C on each body alone, at the same frames.

    python benchmarks/learning.py --method multitask-fast --seeds 0 1 2 3 4
    python benchmarks/learning.py --table

A job is one run of one seed. It writes one JSON file to ``results/learning/`` and is skipped if that file exists, so a
killed command resumes where it stopped. Every method has the same networks, hyper-parameters (SB3's defaults), copies
of a task and frames per task. Returns are those of 20 episodes with deterministic actions.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import time
from collections import defaultdict
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch as th
from scipy import stats
from stable_baselines3 import A2C
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import VecNormalize, sync_envs_normalization

import sb3_multitask as mt

RESULTS = Path(__file__).parents[1] / "results" / "learning"
TASKS = mt.TASK_SETS["HalfCheetahBody6"]
STEPS_PER_TASK = 500_000
N_ENVS_PER_TASK = 4
N_EPISODES = 20
NET = {"pi": [64, 64], "vf": [64, 64]}  # one task's share of the multi-task net


def run_multitask(seed: int, engine: str) -> dict[str, dict]:
    env = mt.make_multitask_vec_env(TASKS, N_ENVS_PER_TASK, seed=seed)
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=seed, engine=engine, device="cpu")
    before = mt.evaluate_tasks(model, n_eval_episodes=N_EPISODES)
    model.learn(STEPS_PER_TASK * len(TASKS))
    after = mt.evaluate_tasks(model, n_eval_episodes=N_EPISODES)
    return {task: {"before": asdict(before[task]), "after": asdict(after[task])} for task in after}


def run_sb3(seed: int, task: mt.Task) -> dict[str, dict]:
    env = VecNormalize(make_vec_env(task.make, N_ENVS_PER_TASK, seed=seed))
    eval_env = VecNormalize(make_vec_env(task.make, 5, seed=0), training=False, norm_reward=False)
    model = A2C("MlpPolicy", env, seed=seed, policy_kwargs={"net_arch": NET}, device="cpu")
    results = {}
    for stage in ("before", "after"):
        if stage == "after":
            model.learn(STEPS_PER_TASK)
        sync_envs_normalization(env, eval_env)
        episodes = evaluate_policy(model, eval_env, N_EPISODES, return_episode_rewards=True)
        results[stage] = asdict(mt.TaskResult.of(list(zip(*episodes, strict=True))))
    return {task.name: results}


def run_job(method: str, seed: int, task: mt.Task | None, path: Path) -> str:
    th.set_num_threads(1)  # one run per core
    start = time.time()
    results = run_multitask(seed, method.removeprefix("multitask-")) if task is None else run_sb3(seed, task)
    content = {
        "method": method,
        "seed": seed,
        "steps_per_task": STEPS_PER_TASK,
        "n_envs_per_task": N_ENVS_PER_TASK,
        "n_eval_episodes": N_EPISODES,
        "seconds": round(time.time() - start, 1),
        "results": results,
    }
    path.write_text(json.dumps(content) + "\n")
    return path.name


def load_results() -> dict[str, dict[str, dict[str, list[float]]]]:
    """Return method -> task -> "before" or "after" training -> mean return of each seed, from the files alone."""
    returns: dict = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    for path in sorted(RESULTS.glob("*_*.json")):
        content = json.loads(path.read_text())
        for task, stages in content["results"].items():
            for stage, result in stages.items():
                returns[content["method"]][task][stage].append(result["mean_reward"])
    return returns


def interval(values: list[float]) -> str:
    """Return the mean over seeds and its 95% interval (Student's t)."""
    if len(values) < 2:
        return f"{np.mean(values):.0f}"
    low, high = stats.t.interval(0.95, len(values) - 1, np.mean(values), stats.sem(values))
    return f"{np.mean(values):.0f} [{low:.0f}, {high:.0f}]"


def table() -> str:
    """Return Markdown, a row per task, a column per method: return after training, mean over seeds [95% interval]."""
    returns = load_results()
    methods = list(returns)
    n_seeds = {method: len(next(iter(returns[method].values()))["after"]) for method in methods}
    header = ["task", "untrained", *(f"{method} ({n_seeds[method]} seeds)" for method in methods)]
    lines = ["| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
    for task in (task.name for task in TASKS):
        before = [value for method in methods for value in returns[method][task]["before"]]
        cells = [task, f"{np.mean(before):.0f}", *(interval(returns[method][task]["after"]) for method in methods)]
        lines.append("| " + " | ".join(cells) + " |")
    for name, pick in {"**mean over tasks**": np.mean, "**worst task**": np.min}.items():
        cells = [interval(list(pick([t["after"] for t in returns[m].values()], axis=0))) for m in methods]
        lines.append("| " + " | ".join([name, "", *cells]) + " |")
    return "\n".join(lines)


def engine_difference() -> str:
    """Return Markdown: the return with the fast engine minus that with torch, 95% interval (Welch's t over seeds)."""
    returns = load_results()
    rows = {
        task.name: [returns[f"multitask-{engine}"][task.name]["after"] for engine in ("fast", "torch")]
        for task in TASKS
    }
    rows["**mean over tasks**"] = [np.mean(engine, axis=0).tolist() for engine in zip(*rows.values(), strict=True)]
    lines = ["| task | fast minus torch | 95% interval | half-width |", "|---|---|---|---|"]
    for name, (fast, torch) in rows.items():
        low, high = stats.ttest_ind(fast, torch, equal_var=False).confidence_interval(0.95)
        difference = np.mean(fast) - np.mean(torch)
        lines.append(f"| {name} | {difference:+.0f} | [{low:.0f}, {high:.0f}] | {(high - low) / 2:.0f} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--method", choices=["multitask-torch", "multitask-fast", "sb3-single"])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--jobs", type=int, default=2, help="runs side by side, one per core")
    parser.add_argument("--table", action="store_true", help="print the table of all results as Markdown")
    args = parser.parse_args()
    if args.table:
        print(table(), engine_difference(), sep="\n\n")
        return
    if args.method is None:
        parser.error("--method or --table is needed")
    RESULTS.mkdir(parents=True, exist_ok=True)
    tasks = list(TASKS) if args.method == "sb3-single" else [None]
    jobs = []
    for seed in args.seeds:
        for task in tasks:
            name = f"{args.method}_{task.name}_{seed}" if task else f"{args.method}_{seed}"
            path = RESULTS / f"{name}.json"
            if not path.exists():
                jobs.append((args.method, seed, task, path))
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(args.jobs, mp_context=context) as pool:
        futures = [pool.submit(run_job, *job) for job in jobs]
        for done, future in enumerate(as_completed(futures), 1):
            print(f"{done}/{len(jobs)} {future.result()}", flush=True)


if __name__ == "__main__":
    main()
