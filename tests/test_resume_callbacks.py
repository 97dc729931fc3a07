"""What callbacks, settings and environments of one's own do to a resume: exact, or announced."""

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
from helpers.killed_runs import BODIES, KillAt, monitor_rows, run
from helpers.models import weights_equal
from stable_baselines3.common.callbacks import BaseCallback, StopTrainingOnMaxEpisodes

import sb3_multitask as mt

SHORT = {"total": 1200, "n_envs": 1}


class Anneal(BaseCallback):
    """Changes a setting of the model, and keeps a word and a number."""

    def __init__(self):
        super().__init__()
        self.word, self.number = "start", 0

    def _on_step(self):
        self.number += 1
        self.word = f"step {self.number}"
        self.model.ent_coef = 1e-5 * self.number
        return True


def test_a_setting_that_a_callback_changes_is_resumed(tmp_path):
    ends = []
    for folder, kills in (("a", []), ("b", [700])):
        for step in [*kills, 10**9]:
            callback = Anneal()
            model = run(tmp_path / folder, step, callbacks=[callback], **SHORT)
        ends.append((model.ent_coef, callback.number, callback.word))
    assert ends[0] == ends[1]
    assert ends[0][1] == 600


@pytest.mark.slow
def test_a_callback_that_stops_training_does_so_again(tmp_path):
    kwargs = {"total": 10_000, "n_envs": 1}
    a, b = tmp_path / "a", tmp_path / "b"
    first = run(a, callbacks=[StopTrainingOnMaxEpisodes(2)], **kwargs)
    run(b, 1500, callbacks=[StopTrainingOnMaxEpisodes(2)], **kwargs)
    second = run(b, callbacks=[StopTrainingOnMaxEpisodes(2)], **kwargs)
    again = run(b, callbacks=[StopTrainingOnMaxEpisodes(2)], **kwargs)
    assert first.num_timesteps == second.num_timesteps == again.num_timesteps < 10_000
    assert weights_equal(first, second)
    assert weights_equal(first, again)
    assert monitor_rows(a) == monitor_rows(b)


@pytest.mark.slow
def test_settings_of_callbacks_are_the_scripts(tmp_path):
    run(tmp_path, 1500, callbacks=[StopTrainingOnMaxEpisodes(2)], total=3000, n_envs=1)
    model = run(tmp_path, callbacks=[StopTrainingOnMaxEpisodes(30)], total=3000, n_envs=1)
    assert model.num_timesteps == 3000


def test_learn_twice_with_one_callback(tmp_path):
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", BODIES, device="cpu", seed=0)
    checkpoints = mt.ResumableCheckpointCallback(tmp_path, every=100, verbose=0)
    model.learn(400, checkpoints).learn(400, checkpoints, reset_num_timesteps=False)
    assert model.num_timesteps == 800
    with pytest.raises(ValueError, match=r"learn\(\) was called again from 0 steps"):
        model.learn(400, checkpoints)
    again = mt.A2CMultiTask("MultiTaskMlpPolicy", BODIES, device="cpu", seed=0)
    with pytest.raises(mt.CheckpointError, match="lies beyond the 400 steps of this"):
        again.learn(400, mt.ResumableCheckpointCallback(tmp_path, verbose=0))


def test_functions_that_close_over_something_are_announced(tmp_path):
    counts = []

    def count(_locals, _globals):
        counts.append(1)
        return True

    model = mt.A2CMultiTask("MultiTaskMlpPolicy", BODIES, device="cpu")
    from stable_baselines3.common.callbacks import ConvertCallback

    with pytest.warns(UserWarning, match="may keep state out of reach"):
        model.learn(40, [ConvertCallback(count), mt.ResumableCheckpointCallback(tmp_path, verbose=0)])


class Net(BaseCallback):
    def __init__(self):
        super().__init__()
        self.net = th.nn.Linear(1, 1)

    def _on_step(self):
        return True


def test_a_net_in_a_callback_is_announced(tmp_path):
    with pytest.warns(UserWarning, match="Net 1 keeps net"):
        run(tmp_path, callbacks=[Net()], total=40)


# Environments of MuJoCo's with something of their own


class HeavyHopper(HopperEnv):
    """Its model, a list, numpy scalars, a generator of its own and its action space's change while it runs."""

    def __init__(self, **kwargs):
        self.history, self.scale, self.own = [], np.float32(1), np.random.default_rng(3)
        super().__init__(**kwargs)

    def reset_model(self):
        self.model.body_mass[1] = 3.5 + self.np_random.uniform()
        self.history.append(self.own.normal())
        return super().reset_model()

    def step(self, action):
        self.scale = np.float32(self.scale * 0.999)
        noise = 0.1 * self.action_space.sample() + 0.01 * self.own.normal() + 0.001 * len(self.history)
        return super().step(np.clip(action + noise * self.scale, -1, 1).astype(np.float32))


class SecretiveHopper(HopperEnv):
    def __init__(self, **kwargs):
        self.secret = object()
        super().__init__(**kwargs)


def make_heavy():
    env = gym.wrappers.TimeLimit(HeavyHopper(), 100)
    env.unwrapped.action_space.seed(0)
    return env


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["dummy", "subproc"])
def test_a_mujoco_env_with_state_of_its_own_is_resumed_exactly(tmp_path, backend):
    kwargs = {"tasks": [mt.Task("Heavy", make_heavy)], "total": 600, "n_envs": 1, "backend": backend}
    a, b = tmp_path / "a", tmp_path / "b"
    uninterrupted = run(a, **kwargs)
    run(b, 411, **kwargs)
    assert weights_equal(uninterrupted, run(b, **kwargs))
    assert monitor_rows(a) == monitor_rows(b)


def test_a_mujoco_env_that_keeps_something_else_is_announced(tmp_path):
    with pytest.warns(UserWarning, match="SecretiveHopper keeps secret"):
        run(tmp_path, tasks=[mt.Task("A", SecretiveHopper)], total=20)


def test_other_arguments_of_a_task_are_refused(tmp_path):
    def tasks(weight):
        return [mt.Task("A", "HalfCheetahSmallFoot-v0", {"ctrl_cost_weight": weight})]

    run(tmp_path, tasks=tasks(0.1), total=300)
    with pytest.raises(mt.CheckpointError, match="envs"):
        run(tmp_path, tasks=tasks(0.2), total=600)
    assert KillAt(0).get_state() == {}
