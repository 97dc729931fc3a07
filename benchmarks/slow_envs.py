"""Time a step of the backends for environments that take a while, such as slow simulators.

    python benchmarks/slow_envs.py

Every environment sleeps for some milliseconds a step, as one does that waits for a simulator, so the cores of this
machine do not limit how many of them run at once. Two tasks of four copies each; Ray runs on this machine. The table
has the milliseconds of a step of all eight, the best of several timings.
"""

from __future__ import annotations

import argparse
import time
from typing import Any

import gymnasium as gym
import numpy as np

import sb3_multitask as mt

BACKENDS = ("dummy", "subproc", "ray")
DELAYS = (0.0, 1.0, 5.0, 20.0, 100.0)
N_COPIES = 4


class Delayed(gym.Wrapper[Any, Any, Any, Any]):
    """Sleeps before every step.

    :param delay: milliseconds
    """

    def __init__(self, env: gym.Env[Any, Any], delay: float) -> None:
        super().__init__(env)
        self.delay = delay

    def step(self, action: Any) -> Any:
        time.sleep(self.delay / 1000)
        return self.env.step(action)


def make(delay: float) -> gym.Env[Any, Any]:
    return Delayed(gym.make("Pendulum-v1"), delay)


def milliseconds(backend: Any, delay: float, n_steps: int, repeats: int) -> float:
    """Return the milliseconds of a step of all environments."""
    tasks = [mt.Task(name, make, {"delay": delay}) for name in ("first", "second")]
    env = mt.MultiTaskVecEnv(tasks, N_COPIES, seed=0, backend=backend)
    actions = np.zeros((env.num_envs, 1), dtype=np.float32)
    env.reset()
    env.step(actions)
    timings = []
    for _ in range(repeats):
        began = time.perf_counter()
        for _ in range(n_steps):
            env.step(actions)
        timings.append((time.perf_counter() - began) / n_steps * 1000)
    env.close()
    return min(timings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40, help="steps of one timing")
    parser.add_argument("--repeats", type=int, default=8, help="timings, of which the best counts")
    parser.add_argument("--delays", type=float, nargs="*", default=DELAYS, help="milliseconds of waiting")
    args = parser.parse_args()
    print("| ms that an environment waits |", " | ".join(f'"{name}"' for name in BACKENDS), "|")
    print("|---" * (len(BACKENDS) + 1) + "|")
    for delay in args.delays:
        cells = (f"{milliseconds(name, delay, args.steps, args.repeats):.2f}" for name in BACKENDS)
        print(f"| {delay:g} |", " | ".join(cells), "|", flush=True)


if __name__ == "__main__":
    main()
