"""Files that version 0.1.0 wrote (revision 6cfc7f5) load, act and go on.

Two HalfCheetah bodies, one copy each, eight units a layer, seed 0: an ``A2CMultiTask`` with its checkpoint, normaliser
and agent, one without normalisation, and SB3's PPO.
"""

import shutil
from pathlib import Path

import numpy as np
import pytest
from stable_baselines3 import PPO

import sb3_multitask as mt
from sb3_multitask.readers import read_vec_normalize

FILES = Path(__file__).parent / "data" / "v0_1_0"
TASKS = ["HalfCheetahSmallFoot-v0", "HalfCheetahBigFoot-v0"]
SETTINGS = {
    "n_steps": 4,
    "policy_kwargs": {"net_arch": {"pi": [8], "vf": [8]}, "head_arch": {"pi": [], "vf": [8]}},
    "seed": 0,
}


def env(**kwargs):
    return mt.make_multitask_vec_env(TASKS, 1, seed=0, **kwargs)


@pytest.mark.parametrize(("name", "normalize"), [("model", True), ("raw_model", False)])
def test_a_model_loads_and_learns_on(name, normalize):
    model = mt.A2CMultiTask.load(FILES / name, env=env(normalize=normalize))
    assert model.num_timesteps > 0
    model.learn(16, reset_num_timesteps=False)
    loaded = mt.A2CMultiTask.load(FILES / name)
    loaded.set_env(env(normalize=normalize))
    loaded.learn(16)
    obs = {"obs": np.zeros((2, 17)), "task": np.array([0, 1])}
    assert np.isfinite(loaded.predict(obs)[0]).all()


def test_a_ppo_loads_and_learns_on():
    model = PPO.load(FILES / "ppo", env=env())
    model.learn(16, reset_num_timesteps=False)
    assert mt.load_agent(FILES / "ppo.zip", FILES / "vecnormalize.pkl").task_names == tuple(TASKS)


@pytest.mark.native
@pytest.mark.filterwarnings("ignore:A run that resumes from a checkpoint")  # versions differ
def test_a_checkpoint_is_resumed(tmp_path):
    shutil.copytree(FILES / "checkpoints", tmp_path / "checkpoints")
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", env(), **SETTINGS)
    callback = mt.ResumableCheckpointCallback(tmp_path / "checkpoints", every=24, verbose=0)
    model.learn(48 + 24, callback=callback)
    assert callback.resumed_from is not None
    assert model.num_timesteps == 48 + 24


@pytest.mark.parametrize("copies", [1, {TASKS[0]: 1, TASKS[1]: 2}])
def test_a_normaliser_goes_on(copies):
    loaded = mt.MultiTaskVecNormalize.load(FILES / "vecnormalize.pkl", mt.MultiTaskVecEnv(TASKS, copies, seed=0))
    before = loaded.obs_rms["obs"].count[:, 0].copy()
    loaded.reset()
    loaded.step(np.zeros((loaded.num_envs, 6)))
    np.testing.assert_allclose(loaded.obs_rms["obs"].count[:, 0] - before, 2 * np.array(loaded.venv.copies.of_tasks))


def test_an_agent_and_a_model_act_alike():
    agent, of_model = mt.load_agent(FILES / "agent"), mt.load_agent(FILES / "model.zip")
    obs = {"obs": np.linspace(-1, 1, 34).reshape(2, 17), "task": np.array([0, 1])}
    np.testing.assert_allclose(
        agent.predict(obs, deterministic=True)[0], of_model.predict(obs, deterministic=True)[0], atol=1e-6
    )


def test_a_normaliser_loads(tmp_path):
    loaded = mt.MultiTaskVecNormalize.load(str(FILES / "vecnormalize.pkl"), env(normalize=False))
    loaded.reset()
    assert read_vec_normalize(FILES / "vecnormalize.pkl").task_names == tuple(TASKS)
