"""Adapters of users' own robots, for the native backend."""

from functools import partial

import numpy as np
import pytest
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from gymnasium.envs.mujoco.inverted_pendulum_v5 import InvertedPendulumEnv

import sb3_multitask as mt
from sb3_multitask.vec_env.adapters import ADAPTERS, Adapter, Outcome


class PendulumAdapter(Adapter):
    limit = 0.2
    keys = ("reward_survive",)

    def observe(self, state):
        return np.concatenate((state.qpos, state.qvel), axis=1)

    def outcome(self, rows, before, after, actions):
        terminated = np.abs(after.qpos[:, 1]) > self.limit
        return Outcome(1.0 - terminated, terminated, lambda: dict.fromkeys(self.keys, 1 - terminated))

    def draw_reset(self, row, generator):
        low, high = -0.01, 0.01
        qpos = self.init_qpos[row] + generator.uniform(size=2, low=low, high=high)
        return qpos, self.init_qvel[row] + generator.uniform(size=2, low=low, high=high)


@pytest.fixture
def registered():
    def register(adapter):
        ADAPTERS.pop(InvertedPendulumEnv, None)
        mt.register_adapter(InvertedPendulumEnv, adapter)

    yield register
    ADAPTERS.pop(InvertedPendulumEnv, None)


@pytest.mark.native
def test_an_own_robot_runs_in_the_batch(registered):
    with pytest.raises(ValueError, match="no adapter for task 'InvertedPendulum-v5'.*register_adapter takes one"):
        mt.MultiTaskVecEnv(["InvertedPendulum-v5"], backend="batch")
    registered(PendulumAdapter)
    registered(PendulumAdapter)  # the same again changes nothing
    mt.check_adapter(["InvertedPendulum-v5"], n_steps=300)
    env = mt.make_multitask_vec_env(["InvertedPendulum-v5"], 4, seed=0)
    assert env.unwrapped.backend == "batch"
    mt.A2CMultiTask("MultiTaskMlpPolicy", env, engine="fast", seed=0, device="cpu").learn(400)


def off(**attributes):
    return type("Off", (PendulumAdapter,), attributes)


@pytest.mark.native
@pytest.mark.parametrize(
    ("adapter", "message"),
    [
        (off(limit=0.19), r"Step \d+, task 'InvertedPendulum-v5': (reward|done|observation) .* from the adapter"),
        (off(keys=("survive",)), r"Step 1, .*: info has other keys: 'reward_survive', 'survive'"),
        (off(keys=("reward_survive", "more")), "info has other keys: 'more'"),
        (
            off(observe=lambda self, state: np.concatenate((state.qpos, state.qvel + 1e-9), axis=1)),
            "Step 0, .*: observation",
        ),
        (
            off(draw_reset=lambda self, row, generator: (self.init_qpos[row], self.init_qvel[row])),
            "Step 0, .*: observation",
        ),
    ],
)
def test_a_check_names_the_first_difference(registered, adapter, message):
    registered(adapter)
    with pytest.raises(AssertionError, match=message):
        mt.check_adapter(["InvertedPendulum-v5"], n_steps=300)


class ReachingPendulumEnv(InvertedPendulumEnv):
    """Successful while its cart is right of the middle; falls soon."""

    key, values = "success", bool

    def step(self, action):
        *step, info = super().step(action)
        return *step, {**info, self.key: self.values(self.data.qpos[0] > 0)}


class ReachingPendulumAdapter(PendulumAdapter):
    def outcome(self, rows, before, after, actions):
        outcome = super().outcome(rows, before, after, actions)
        is_right = after.qpos[:, 0] > 0
        values = is_right if ReachingPendulumEnv.values is bool else is_right.astype(float)
        columns = outcome.columns
        return Outcome(outcome.rewards, outcome.terminated, lambda: {**columns(), ReachingPendulumEnv.key: values})


@pytest.mark.native
@pytest.mark.parametrize("values", [bool, float])
@pytest.mark.parametrize("key", ["is_success", "success"])
def test_success_in_the_batch_is_that_of_the_environments(monkeypatch, registered, key, values):
    """The first and the last group of simulations say nothing."""
    monkeypatch.setattr(ReachingPendulumEnv, "key", key)
    monkeypatch.setattr(ReachingPendulumEnv, "values", values)
    registered(PendulumAdapter)
    mt.register_adapter(ReachingPendulumEnv, ReachingPendulumAdapter)
    silent, says = "InvertedPendulum-v5", mt.Task("says", partial(ReachingPendulumEnv, reset_noise_scale=0.01))
    tasks = [mt.Task("before", silent), says, mt.Task("after", silent)]
    try:
        mt.check_adapter(tasks, n_steps=200)
        env = mt.MultiTaskVecEnv(tasks, 2, backend="batch", seed=0)
        env.reset()
        said, ever = {"before": [], "says": [], "after": []}, np.zeros(6, dtype=bool)
        for _ in range(200):
            *_, infos = env.step(np.random.default_rng(0).uniform(-1, 1, (6, 1)))
            ever |= [bool(info.get(key)) for info in infos]
            for i in infos.ended:
                said[infos[i]["task"]].append((infos[i].get("is_success"), bool(ever[i])))
                ever[i] = False
        assert {one for one, _ in said["before"] + said["after"]} == {None}
        assert all(one == other for one, other in said["says"])
        assert {one for one, _ in said["says"]} == {True, False}
        _, infos = env.reset(), env.step(np.zeros((6, 1)))[3]
        assert not infos._made  # nor are infos made for it
    finally:
        del ADAPTERS[ReachingPendulumEnv]


class Nothing(Adapter):
    pass


@pytest.mark.parametrize(
    ("env_class", "adapter", "error", "message"),
    [
        (object, PendulumAdapter, TypeError, "`env_class` must be a class derived from gymnasium's MujocoEnv .*object"),
        ("InvertedPendulum-v5", PendulumAdapter, TypeError, "`env_class` must be .*'InvertedPendulum-v5'"),
        (InvertedPendulumEnv, object, TypeError, "`adapter` must be a class derived from .*Adapter"),
        (InvertedPendulumEnv, Nothing, TypeError, "`adapter` Nothing must define observe, outcome, draw_reset"),
        (HalfCheetahEnv, PendulumAdapter, ValueError, "HalfCheetahEnv has the adapter HalfCheetahAdapter already"),
    ],
)
def test_what_is_no_adapter_is_refused(env_class, adapter, error, message):
    with pytest.raises(error, match=message):
        mt.register_adapter(env_class, adapter)
    assert InvertedPendulumEnv not in ADAPTERS
