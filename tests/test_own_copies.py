"""Environments that use their arrays and dicts again: whatever they hand over may change afterwards."""

import gymnasium as gym
import numpy as np
import pytest
from helpers.drift import DriftEnv
from stable_baselines3.common.running_mean_std import RunningMeanStd

import sb3_multitask as mt


class Reusing(DriftEnv):
    """Writes each observation and info into the same objects, and into the action that it is given."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.buffer, self.info = np.zeros(3, dtype=np.float32), {"position": np.zeros(1), "deep": {"list": [0.0]}}

    def _shared(self):
        self.buffer[:] = super()._obs()
        self.info["position"][0] = self.info["deep"]["list"][0] = self.position
        return self.buffer, self.info

    def reset(self, **kwargs):
        super().reset(**kwargs)
        return self._shared()

    def step(self, action):
        _, *rest, _ = super().step(action)
        action[:] = 77.0
        obs, info = self._shared()
        return obs, *rest, info


class Fresh(Reusing):
    """The same, with new objects each time."""

    def _shared(self):
        self.buffer = np.zeros(3, dtype=np.float32)
        self.info = {"position": np.zeros(1), "deep": {"list": [0.0]}}
        return super()._shared()

    def step(self, action):
        return super().step(action.copy())


@pytest.mark.parametrize("backend", ["dummy", "subproc"])
def test_what_an_environment_hands_over_is_copied(backend):
    kwargs = {"n_envs_per_task": 2, "seed": 0, "backend": backend, "start_method": "fork"}
    kwargs = kwargs if backend == "subproc" else {k: v for k, v in kwargs.items() if k != "start_method"}
    reusing, fresh = (mt.MultiTaskVecEnv([mt.Task("A", cls)], **kwargs) for cls in (Reusing, Fresh))
    firsts = [env.reset() for env in (reusing, fresh)]
    assert firsts[0]["obs"].tolist() == firsts[1]["obs"].tolist()
    history = []
    for _ in range(12):
        actions = [np.full((2, 2), 0.3, dtype=np.float32) for _ in range(2)]
        steps = [env.step(action) for env, action in zip((reusing, fresh), actions, strict=True)]
        assert actions[0].tolist() == actions[1].tolist()  # not written into
        history.append(steps)
    for (obs, rewards, dones, infos), (other_obs, other_rewards, other_dones, other_infos) in history:
        np.testing.assert_array_equal(obs["obs"], other_obs["obs"])
        np.testing.assert_array_equal(rewards, other_rewards)
        np.testing.assert_array_equal(dones, other_dones)
        for info, other in zip(infos, other_infos, strict=True):
            assert info["position"] == other["position"]
            assert info["deep"] == other["deep"]
            assert ("terminal_observation" in info) == ("terminal_observation" in other)
            if "terminal_observation" in info:
                last, others_last = info["terminal_observation"]["obs"], other["terminal_observation"]["obs"]
                np.testing.assert_array_equal(last, others_last)
    for env in (reusing, fresh):
        env.close()


def test_training_on_reused_arrays_is_training_on_fresh_ones():
    weights = []
    for cls in (Reusing, Fresh):
        env = mt.make_multitask_vec_env([mt.Task("A", cls)], 2, seed=0)
        weights.append(mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=0).learn(300).policy.parameters_to_vector())
    np.testing.assert_array_equal(*weights)


def test_a_single_environment_with_its_task_hands_over_copies_too():
    env = mt.TaskEnv(Reusing(), "A", ["A"])
    first, _ = env.reset(seed=0)
    kept = first["obs"].copy()
    env.step(np.zeros(2))
    np.testing.assert_array_equal(first["obs"], kept)


class Gridded(gym.Wrapper):
    """Observations in metres of a map's grid, in a type of its own."""

    def __init__(self, env, dtype):
        super().__init__(env)
        self.dtype = dtype
        self.observation_space = gym.spaces.Box(0, 10**7, (3,), dtype=dtype)

    def _on_map(self, obs):
        return (np.asarray(obs, dtype=np.float64) * (1 if self.dtype is np.float64 else 1000) + 5.4e6).astype(
            self.dtype
        )

    def reset(self, **kwargs):
        obs, info = self.env.reset(**kwargs)
        return self._on_map(obs), info

    def step(self, action):
        obs, *rest = self.env.step(action)
        return self._on_map(obs), *rest


@pytest.mark.parametrize("dtype", [np.float64, np.int64, np.int32])
def test_large_observations_keep_their_digits_until_they_are_normalised(dtype):
    env = mt.make_multitask_vec_env([mt.Task("A", lambda: Gridded(DriftEnv(), dtype))], 2, seed=0)
    assert env.observation_space["obs"].dtype == np.float32
    assert env.venv.observation_space["obs"].dtype == np.float64
    seen, raw = [env.reset()["obs"]], [env.old_obs["obs"]]
    for _ in range(200):
        seen.append(env.step(np.random.default_rng(0).uniform(-1, 1, (2, 2)))[0]["obs"])
        raw.append(env.old_obs["obs"])
    assert seen[0].dtype == np.float32
    normalised, truth = np.concatenate(seen[100:])[:, 0], np.concatenate(raw[100:])[:, 0]
    assert np.unique(truth).size > 100
    assert np.corrcoef(normalised, truth - 5.4e6)[0, 1] > 0.99
    theirs = RunningMeanStd(shape=(3,))
    for obs in raw:
        theirs.update(obs)
    np.testing.assert_allclose(env.obs_rms["obs"].mean[0], theirs.mean, rtol=1e-12)
    np.testing.assert_allclose(env.obs_rms["obs"].var[0], theirs.var, rtol=1e-9)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.int16, np.uint8, np.bool_])
def test_small_observations_are_float32(dtype):
    class Small(DriftEnv):
        def __init__(self):
            super().__init__()
            high = 1 if dtype in (np.uint8, np.bool_) else 100
            self.observation_space = gym.spaces.Box(0, high, (3,), dtype=dtype)

        def _obs(self):
            return super()._obs().astype(dtype)

    env = mt.MultiTaskVecEnv([mt.Task("A", Small)], seed=0)
    assert env.observation_space["obs"].dtype == env.reset()["obs"].dtype == np.float32
