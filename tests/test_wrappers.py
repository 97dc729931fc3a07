import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest

import sb3_multitask as mt
from sb3_multitask.vec_env import wrappers
from sb3_multitask.vec_env.env_state import why_inexact

pytestmark = pytest.mark.native

PROGRAM = """
import warnings
import gymnasium as gym
import numpy as np
{imports}
from sb3_multitask.vec_env.env_state import why_inexact

def make():
    return gym.wrappers.TimeLimit(gym.make("HalfCheetahBigLeg-v0").unwrapped, 10)

for backend in ("batch", "dummy", "auto"):
    env = mt.MultiTaskVecEnv([mt.Task("A", make), mt.Task("B", "HalfCheetahSmallLeg-v0")], 2, seed=0, backend=backend)
    env.reset()
    dones = sum(env.step(np.zeros((4, 6)))[2] for _ in range(35))
    print(backend, env.backend, dones.tolist(), env.why_inexact())
    env.close()
"""


@pytest.mark.parametrize(
    "order", ["import sb3_multitask as mt; import rl_zoo3", "import rl_zoo3; import sb3_multitask as mt"]
)
def test_time_limits_count_whoever_has_replaced_the_class(order):
    """rl_zoo3 puts a subclass into the place of Gymnasium's TimeLimit when it is imported."""
    pytest.importorskip("rl_zoo3")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", PROGRAM.format(imports=order)],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == [
        "batch batch [3, 3, 0, 0] None",
        "dummy dummy [3, 3, 0, 0] None",
        "auto batch [3, 3, 0, 0] None",
    ]


class Renamed(wrappers.TimeLimit):
    """Another name, and nothing else."""


class Rewarding(wrappers.TimeLimit):
    """Changes an episode."""

    def step(self, action):
        obs, reward, terminated, truncated, info = super().step(action)
        return obs, 2 * reward, terminated, truncated, info


def test_a_subclass_counts_as_what_it_derives_from_only_if_it_overrides_nothing():
    tasks = {
        cls: [mt.Task("A", lambda cls=cls: cls(gym.make("HalfCheetah-v5").unwrapped, 5))]
        for cls in (Renamed, Rewarding)
    }
    assert mt.MultiTaskVecEnv(tasks[Renamed]).backend == "batch"
    assert why_inexact(tasks[Renamed][0].make()) is None
    env = mt.MultiTaskVecEnv(tasks[Rewarding], seed=0)
    assert env.backend == "dummy"
    assert "Rewarding" in env.backend_reason
    assert "Rewarding" in why_inexact(env.envs[0])


def test_the_least_of_several_time_limits_counts():
    make = lambda: wrappers.TimeLimit(gym.make("HalfCheetah-v5"), 4)  # noqa: E731
    for backend in ("batch", "dummy"):
        env = mt.MultiTaskVecEnv([mt.Task("A", make)], backend=backend, seed=0)
        env.reset()
        assert [bool(env.step(np.zeros((1, 6)))[2]) for _ in range(8)] == [False, False, False, True] * 2
