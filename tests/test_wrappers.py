import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest

import sb3_multitask as mt
from sb3_multitask.vec_env import wrappers
from sb3_multitask.vec_env.env_state import get_env_state, set_env_state, why_inexact

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


@pytest.mark.slow
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
    assert why_inexact(env.envs[0]) is None  # it keeps numbers only


class Fading(gym.RewardWrapper):
    """Rewards fade from step to step, and are noisy."""

    def __init__(self, env):
        super().__init__(env)
        self.factor, self.seen, self.noise = 1.0, [], np.random.default_rng(0)

    def reward(self, reward):
        self.factor *= 0.9
        self.seen.append(float(reward))
        return self.factor * reward + self.noise.normal() + sum(self.seen)


def test_wrappers_that_keep_plain_values_are_restored_to_the_bit():
    def made():
        env = wrappers.TimeLimit(gym.make("Swimmer-v5").unwrapped, 20)
        space = gym.spaces.Box(-np.inf, np.inf, (8,))
        return Fading(gym.wrappers.TransformObservation(env, lambda obs: 2 * obs, space))

    first, second = made(), made()
    assert why_inexact(first) is None
    first.reset(seed=0)
    second.reset(seed=1)
    for _ in range(5):
        first.step(first.action_space.high)
    state = get_env_state(first)
    expected = [first.step(first.action_space.low)[:2] for _ in range(5)]
    set_env_state(second, state)
    for (obs, reward), (other, other_reward) in zip(
        expected, [second.step(second.action_space.low)[:2] for _ in range(5)], strict=True
    ):
        np.testing.assert_array_equal(obs, other)
        assert reward == other_reward


def test_wrappers_that_keep_more_are_named_with_it():
    class Recording(gym.Wrapper):
        def __init__(self, env):
            super().__init__(env)
            self.film = object()

    factor = 2.0
    env = gym.make("Swimmer-v5")
    assert why_inexact(Recording(env)) == "Recording keeps film and has no get_state() and set_state(state)"
    assert "keeps func" in why_inexact(gym.wrappers.TransformReward(env, lambda reward: factor * reward))  # a closure


def test_the_least_of_several_time_limits_counts():
    make = lambda: wrappers.TimeLimit(gym.make("HalfCheetah-v5"), 4)  # noqa: E731
    for backend in ("batch", "dummy"):
        env = mt.MultiTaskVecEnv([mt.Task("A", make)], backend=backend, seed=0)
        env.reset()
        assert [bool(env.step(np.zeros((1, 6)))[2]) for _ in range(8)] == [False, False, False, True] * 2
