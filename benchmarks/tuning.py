"""Search for tuned settings of A2C and PPO on six bodies, on seeds that are never reported.

    python benchmarks/tuning.py                 # A2C: all candidates below that have no result yet, one after the other
    python benchmarks/tuning.py --algorithm ppo --per-head 300_000
    python benchmarks/tuning.py --table

Every run adds a line to ``results/tuning/vanilla.jsonl`` or ``ppo.jsonl``: settings, seed, and the deterministic return
of every task over 5 episodes at half time and 20 at the end. Reported seeds are 0 to 4; the search uses 100 and up. Two
processes may search at once if they have other seeds, or ``--only`` other candidates.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

import sb3_multitask as mt

FOLDER = Path(__file__).parents[1] / "results" / "tuning"
PER_HEAD = 1_000_000
FIRST_BASE = {"gae_lambda": 0.9, "n_envs_per_task": 4}
"""Base settings of lines without a base."""
A2C_CANDIDATES: list[dict[str, Any]] = [
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
    {"gamma": 0.98, "log_std_init": -2.0, "linear": True, "n_envs_per_task": 16},
    {"gamma": 0.98, "log_std_init": -2.0, "linear": True, "n_envs_per_task": 16, "learning_rate": 1.4e-3},
    {"gamma": 0.98, "log_std_init": -1.0, "linear": True, "n_envs_per_task": 16, "learning_rate": 1.4e-3},
    {"gamma": 0.98, "log_std_init": -2.0, "linear": True, "n_envs_per_task": 16, "learning_rate": 3e-3},
    {"gamma": 0.98, "log_std_init": -2.0, "linear": True, "n_envs_per_task": 16, "normalize_advantage": True},
    {
        "gamma": 0.98,
        "log_std_init": -2.0,
        "linear": True,
        "n_envs_per_task": 16,
        "n_steps": 10,
        "learning_rate": 1.4e-3,
    },
    {"gamma": 0.98, "log_std_init": -2.0, "linear": True, "n_envs_per_task": 8, "learning_rate": 1e-3},
]
PPO_CANDIDATES: list[dict[str, Any]] = [
    {},
    {"batch_size": 1024},
    {"batch_size": 512},
    {"batch_size": 512, "n_steps": 256},
    {"batch_size": 512, "n_steps": 128},
    {"n_epochs": 5, "batch_size": 512},
    {"learning_rate": 1e-3},
    {"learning_rate": 1e-3, "batch_size": 512, "n_epochs": 5},
    {"desired_kl": 0.01},
    {"desired_kl": 0.02},
    {"desired_kl": 0.01, "batch_size": 512, "n_epochs": 5},
    {"desired_kl": 0.02, "batch_size": 512, "n_epochs": 5, "n_steps": 256},
    {"gae_lambda": 0.95},
    {"gamma": 0.99, "gae_lambda": 0.95},
    {"log_std_init": -2.0},
    {"log_std_init": -0.5},
    {"max_grad_norm": 0.5},
    {"linear": True, "learning_rate": 1e-3, "batch_size": 512},
    {"linear": True, "learning_rate": 1e-3, "batch_size": 1024, "n_steps": 256},
    {"linear": True, "learning_rate": 1e-3, "batch_size": 512, "n_steps": 256},
    {"linear": True, "learning_rate": 1e-3, "batch_size": 1024},
    {"linear": True, "learning_rate": 6e-4, "batch_size": 512},
    {"linear": True, "learning_rate": 1e-3, "batch_size": 512, "gae_lambda": 0.95},
    {"linear": True, "learning_rate": 1e-3, "batch_size": 512, "n_epochs": 5},
    {"n_epochs": 3, "linear": True, "learning_rate": 1e-3, "batch_size": 512},
    {"n_epochs": 5, "linear": True, "learning_rate": 2e-3, "batch_size": 512},
    {"n_epochs": 5, "linear": True, "learning_rate": 1e-3, "batch_size": 512, "n_steps": 256},
    {"n_epochs": 5, "linear": True, "learning_rate": 1e-3, "batch_size": 256},
    {"n_epochs": 5, "linear": True, "learning_rate": 1e-3, "batch_size": 128},
    {"n_epochs": 5, "linear": True, "learning_rate": 6e-4, "batch_size": 256},
    {"n_epochs": 5, "linear": True, "learning_rate": 1e-3, "batch_size": 256, "gae_lambda": 0.95},
    {"n_epochs": 5, "linear": True, "learning_rate": 1e-3, "batch_size": 256, "log_std_init": -2.0},
    {"linear": True, "learning_rate": 6e-4, "batch_size": 512, "n_steps": 256},
]
SEEDS = (100, 101, 102)


@dataclass(frozen=True)
class Search:
    """What is searched: candidates are changes of a base."""

    algorithm: type[mt.A2CMultiTask | mt.PPOMultiTask]
    base: dict[str, Any]
    candidates: list[dict[str, Any]]
    results: Path


SEARCHES = {
    "a2c": Search(mt.A2CMultiTask, FIRST_BASE, A2C_CANDIDATES, FOLDER / "vanilla.jsonl"),
    "ppo": Search(
        mt.PPOMultiTask,
        {
            "n_envs_per_task": 4,
            "n_steps": 512,
            "batch_size": 2048,
            "n_epochs": 10,
            "learning_rate": 3e-4,
            "gamma": 0.98,
            "gae_lambda": 0.92,
            "max_grad_norm": 0.8,
            "log_std_init": -1.0,
        },
        PPO_CANDIDATES,
        FOLDER / "ppo.jsonl",
    ),
}


def train(search: Search, settings: dict[str, Any], seed: int, per_head: int = PER_HEAD) -> dict[str, Any]:
    """Train one run and return its returns per task."""
    kwargs = {**search.base, **settings}
    normalize = {"gamma": kwargs.pop("normalizer_gamma", kwargs.get("gamma", 0.99))}
    n_envs = kwargs.pop("n_envs_per_task")
    env = mt.make_multitask_vec_env("HalfCheetahBody6", n_envs, seed=seed * 1000, normalize=normalize)
    rate = kwargs.pop("learning_rate", 7e-4)
    kwargs["learning_rate"] = (lambda progress: rate * progress) if kwargs.pop("linear", False) else rate
    if "log_std_init" in kwargs:
        kwargs["policy_kwargs"] = {"log_std_init": kwargs.pop("log_std_init")}
    model = search.algorithm("MultiTaskMlpPolicy", env, seed=seed, device="cpu", **kwargs)
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


def table(search: Search) -> str:
    """Return the table: mean over tasks, per seed and over seeds."""
    rows: dict[str, list[dict[str, Any]]] = defaultdict(list)
    for line in search.results.read_text().splitlines():
        run = json.loads(line)
        base = run.get("base", FIRST_BASE)
        settings = run["settings"] if base == search.base else {**base, **run["settings"]}
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
    parser.add_argument("--algorithm", choices=SEARCHES, default="a2c")
    parser.add_argument("--table", action="store_true", help="print what there is")
    parser.add_argument("--only", default="", help="only candidates whose settings contain this")
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--per-head", type=int, default=PER_HEAD, help="steps per head; fewer sort out candidates")
    args = parser.parse_args()
    search = SEARCHES[args.algorithm]
    search.results.parent.mkdir(parents=True, exist_ok=True)
    if args.table:
        print(table(search))
        return
    th.set_num_threads(1)
    done = [json.loads(line) for line in search.results.read_text().splitlines()] if search.results.exists() else []
    finished = {(_settings_of(run), run["seed"], run.get("per_head", PER_HEAD)) for run in done}
    for seed in args.seeds:
        for settings in search.candidates:
            asked_for = args.only in json.dumps(settings)
            if (json.dumps({**search.base, **settings}), seed, args.per_head) in finished or not asked_for:
                continue
            results = train(search, settings, seed, args.per_head)
            run = {"settings": settings, "base": search.base, "seed": seed, **results}
            with search.results.open("a") as file:
                file.write(json.dumps(run) + "\n")
            print(run, flush=True)


if __name__ == "__main__":
    main()
