"""Measure the cost of the guards against bad numbers and failed simulations: training with them and without.

    python benchmarks/guards.py

Two models with the same settings, six tasks x 4 envs, train alternately in one process: one with guards and one
without, then the other way round, in changing order, since the addresses of arrays change speed by a few per cent.
Without guards, this script replaces the functions that look for faults; the package has no such switch. Run it on a
quiet machine, alone. The budget is 2% of throughput.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from unittest.mock import patch

import numpy as np
from scipy.stats import bootstrap

import sb3_multitask as mt
from sb3_multitask.vec_env import multitask_vec_env
from sb3_multitask.vec_env.batch_group import SimulationGroup

CLOCKS = {"wall": time.perf_counter, "cpu": time.process_time}
"""Two clocks: wall-clock time, and CPU time of all threads, which other processes disturb less."""
SIDES = ("with", "without")
RESULTS = Path(__file__).parents[1] / "results" / "throughput" / "guards.json"


@contextmanager
def without_guards() -> Iterator[None]:
    """Turn off the checks of actions, observations, rewards and MuJoCo's counters."""
    with ExitStack() as stack:
        stack.enter_context(patch.object(multitask_vec_env, "bad_rows", lambda _kind, _values: {}))
        stack.enter_context(patch.object(mt.MultiTaskVecEnv, "_find_faults", lambda _self, _transitions: {}))
        stack.enter_context(patch.object(SimulationGroup, "_failed", lambda _self, _own: {}))
        yield


def make(n_warm_up: int) -> mt.A2CMultiTask:
    env = mt.make_multitask_vec_env("HalfCheetahBody6", n_envs_per_task=4, seed=0)
    return mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=0, device="cpu").learn(n_warm_up)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=24_000, help="env-steps of one timing")
    parser.add_argument("--repeats", type=int, default=60, help="pairs of pairs of timings")
    parser.add_argument("--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    models = [make(args.steps), make(args.steps)]
    seconds: dict[str, dict[str, list[float]]] = {clock: {name: [] for name in SIDES} for clock in CLOCKS}
    for repeat in range(2 * args.repeats):
        sides = SIDES if repeat % 2 else SIDES[::-1]  # the two models lie at different addresses
        order = [0, 1] if repeat // 2 % 2 else [1, 0]
        for i in order:
            with without_guards() if sides[i] == "without" else nullcontext():
                start = {clock: read() for clock, read in CLOCKS.items()}
                models[i].learn(args.steps)
                for clock, read in CLOCKS.items():
                    seconds[clock][sides[i]].append(read() - start[clock])
    results: dict[str, object] = {
        "tasks": "HalfCheetahBody6",
        "n_envs_per_task": 4,
        "n_steps": args.steps,
        "steps_per_second": {name: round(args.steps / float(np.median(s))) for name, s in seconds["wall"].items()},
    }
    for clock, times in seconds.items():
        logs = np.log(times["without"]) - np.log(times["with"])  # of the ratio of throughputs, with guards over without
        ratios = np.exp(logs.reshape(-1, 2).mean(axis=1))
        interval = bootstrap((ratios,), np.median, rng=np.random.default_rng(0)).confidence_interval
        results[clock] = {
            "throughput_with_over_without": float(np.median(ratios)),
            "interval_95": [float(interval.low), float(interval.high)],
            "ratios": ratios.round(4).tolist(),
        }
        print(
            f"{clock}: throughput with over without {np.median(ratios):.4f} [{interval.low:.4f}, {interval.high:.4f}]"
        )
    args.output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
