"""Search for the tuned preset: vanilla multi-task A2C, 1M steps per head, on seeds that are never reported.

    python benchmarks/tuning.py                 # all candidates below that have no result yet, one after the other
    python benchmarks/tuning.py --table

Every run adds a line to ``results/tuning/vanilla.jsonl``: settings, seed, and the deterministic return of every task
over 5 episodes at half time and 20 at the end. Reported seeds are 0 to 4; the search uses 100 and up.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

import sb3_multitask as mt

RESULTS = Path(__file__).parents[1] / "results" / "tuning" / "vanilla.jsonl"
PER_HEAD = 1_000_000
BASE = {"gae_lambda": 0.9, "n_envs_per_task": 4}
FIRST_BASE = {"gae_lambda": 0.9, "n_envs_per_task": 4}
"""Base settings of lines without a base."""
CANDIDATES: list[dict[str, Any]] = [
    {},
    {"max_grad_norm": 0.1},
    {"linear": True},
    {"normalize_advantage": True},
    {"gae_lambda": 0.95},
    {"ent_coef": 0.001},
    {"n_envs_per_task": 8},
    {"log_std_init": -1.0},
    {"max_grad_norm": 0.25},
    {"learning_rate": 1e-3},
    {"gae_lambda": 0.8},
    {"gamma": 0.98, "normalizer_gamma": 0.99},
    {"gamma": 0.98},
    {"gamma": 0.97},
    {"gamma": 0.98, "log_std_init": -1.0},
    {"gamma": 0.98, "log_std_init": -2.0},
    {"gamma": 0.98, "log_std_init": -1.0, "max_grad_norm": 0.083},
    {"gamma": 0.98, "log_std_init": -2.0, "max_grad_norm": 0.083},
    {"gamma": 0.98, "log_std_init": -2.0, "linear": True},
    {"gamma": 0.95},
]
SEEDS = (100, 101, 102)


def train(settings: dict[str, Any], seed: int, per_head: int = PER_HEAD) -> dict[str, Any]:
    """Train one run and return its returns per task."""
    kwargs = {**BASE, **settings}
    normalize = {"gamma": kwargs.pop("normalizer_gamma", kwargs.get("gamma", 0.99))}
    n_envs = kwargs.pop("n_envs_per_task")
    env = mt.make_multitask_vec_env("HalfCheetahBody6", n_envs, seed=seed * 1000, normalize=normalize)
    rate = kwargs.pop("learning_rate", 7e-4)
    kwargs["learning_rate"] = (lambda progress: rate * progress) if kwargs.pop("linear", False) else rate
    if "log_std_init" in kwargs:
        kwargs["policy_kwargs"] = {"log_std_init": kwargs.pop("log_std_init")}
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=seed, device="cpu", **kwargs)
    results, start = {}, time.perf_counter()
    half = mt.make_multitask_vec_env("HalfCheetahBody6", 5, seed=seed * 1000 + 500, normalize=False)
    callback = mt.MultiTaskEvalCallback(half, n_eval_episodes=5, eval_freq=3 * per_head - 1000, verbose=0)
    model.learn(6 * per_head, callback)
    for stage, by_task in (
        ("half", callback.evaluations_tasks[0]),
        ("end", mt.evaluate_tasks(model, n_eval_episodes=20)),
    ):
        results[stage] = {task: round(result.mean_reward, 1) for task, result in by_task.items()}
    return {**results, "per_head": per_head, "seconds": round(time.perf_counter() - start)}


def _settings_of(run: dict[str, Any]) -> str:
    """Return all settings of a line: candidates are changes of a base, which may change too."""
    return json.dumps({**run.get("base", FIRST_BASE), **run["settings"]})


def table() -> str:
    """Return the table: mean over tasks, per seed and over seeds."""
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in RESULTS.read_text().splitlines():
        run = json.loads(line)
        base = run.get("base", FIRST_BASE)
        settings = run["settings"] if base == BASE else {**base, **run["settings"]}
        rows[run.get("per_head", PER_HEAD), json.dumps(settings)].append(run)
    lines = ["| steps per head | settings | half | end | worst task | per seed |", "|---|---|---|---|---|---|"]
    for (per_head, settings), runs in sorted(rows.items()):
        half, end = ([float(np.mean(list(run[m].values()))) for run in runs] for m in ("half", "end"))
        worst = float(np.mean([min(run["end"].values()) for run in runs]))
        lines.append(
            f"| {per_head:,} | {settings} | {np.mean(half):.0f} | {np.mean(end):.0f} | {worst:.0f} | "
            f"{', '.join(f'{value:.0f}' for value in end)} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print what there is")
    parser.add_argument("--only", default="", help="only candidates whose settings contain this")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--per-head", type=int, default=PER_HEAD, help="steps per head; fewer sort out candidates")
    args = parser.parse_args()
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    if args.table:
        print(table())
        return
    th.set_num_threads(1)
    done = [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []
    finished = {(_settings_of(run), run["seed"], run.get("per_head", PER_HEAD)) for run in done}
    for seed in args.seeds:
        for settings in CANDIDATES:
            if (json.dumps({**BASE, **settings}), seed, args.per_head) in finished or args.only not in json.dumps(
                settings
            ):
                continue
            run = {"settings": settings, "base": BASE, "seed": seed, **train(settings, seed, args.per_head)}
            with RESULTS.open("a") as file:
                file.write(json.dumps(run) + "\n")
            print(run, flush=True)


if __name__ == "__main__":
    main()
