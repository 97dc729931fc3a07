"""Measure the cost of checkpoints: training with a checkpoint every 100k steps and without, interleaved.

python benchmarks/checkpoints.py
"""

from __future__ import annotations

import json
import tempfile
import time
from pathlib import Path

import numpy as np

import sb3_multitask as mt

RESULTS = Path(__file__).parents[1] / "results" / "throughput" / "checkpoints.json"
N_STEPS, EVERY, REPEATS = 300_000, 100_000, 5


def make() -> mt.A2CMultiTask:
    env = mt.make_multitask_vec_env("HalfCheetahBody6", n_envs_per_task=4, seed=0)
    return mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=0, device="cpu").learn(20_000)


def main() -> None:
    without, with_checkpoints = make(), make()
    ratios, save_seconds = [], []
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(REPEATS):
            start = time.perf_counter()
            without.learn(N_STEPS)
            seconds = time.perf_counter() - start
            callback = mt.ResumableCheckpointCallback(Path(folder) / str(repeat), every=EVERY, verbose=0)
            start = time.perf_counter()
            with_checkpoints.learn(N_STEPS, callback)
            ratios.append((time.perf_counter() - start) / seconds)
            callback.save_path = Path(folder) / f"alone_{repeat}"
            start = time.perf_counter()
            callback.save()
            save_seconds.append(time.perf_counter() - start)
    results = {"n_steps": N_STEPS, "every": EVERY, "time_with_over_without": ratios, "seconds_of_one": save_seconds}
    RESULTS.write_text(json.dumps(results, indent=1) + "\n")
    print(f"time with over without: {np.median(ratios):.3f}; one checkpoint: {np.median(save_seconds) * 1e3:.0f} ms")


if __name__ == "__main__":
    main()
