"""Simulations that fail, on every backend."""

import mujoco
import numpy as np
import pytest
from helpers.drift import DriftEnv
from helpers.faulty import break_simulation, simulations

import sb3_multitask as mt
from sb3_multitask.vec_env.faults import MAX_CONSECUTIVE_FAULTS


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["batch", "dummy", "subproc"])
def test_a_simulation_that_fails_is_a_fault(backend, capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env = simulations(backend, "stop")
    env.reset()
    env.step(np.zeros((4, 6)))
    break_simulation(env, 2)
    with pytest.raises(mt.TaskFault, match=r"BigFoot-v0'.* 2\) at step 2 .*MuJoCo"):
        env.step(np.zeros((4, 6)))
    env.close()


class HandMade(DriftEnv):
    """Uses MuJoCo by itself, and never clears its counters."""

    def __init__(self):
        super().__init__()
        self.model = mujoco.MjModel.from_xml_string(
            "<mujoco><worldbody><body><freejoint/><geom size='1'/></body></worldbody></mujoco>"
        )
        self.data = mujoco.MjData(self.model)
        self.n_steps = 0

    def step(self, action):
        self.n_steps += 1
        if self.n_steps % 10 == 3:
            self.data.qvel[:] = np.nan
        mujoco.mj_step(self.model, self.data)
        return super().step(action)


@pytest.mark.filterwarnings("ignore:Nan, Inf or huge value")
@pytest.mark.parametrize("backend", ["dummy", "subproc"])
def test_a_simulation_of_an_environment_that_is_not_gymnasiums_is_watched_too(backend, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)  # MuJoCo writes MUJOCO_LOG.TXT there
    env = mt.MultiTaskVecEnv(
        [mt.Task("A", HandMade)], 1, seed=0, backend=backend, on_fault="quarantine", start_method="fork"
    )
    env.reset()
    faults = ["fault" in env.step(np.zeros((1, 2)))[3][0] for _ in range(40)]
    assert np.flatnonzero(faults).tolist() == [2, 12, 22, 32]
    env.close()


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["batch", "dummy", "subproc"])
def test_a_simulation_that_fails_is_quarantined_and_the_others_go_on_to_the_bit(backend, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    broken, whole = simulations(backend, "quarantine"), simulations(backend, "quarantine")
    for env in (broken, whole):
        env.reset()
        env.step(np.zeros((4, 6)))
    break_simulation(broken, 1)
    obs, rewards, dones, infos = broken.step(np.zeros((4, 6)))
    assert dones.tolist() == [False, True, False, False]
    assert "MuJoCo found" in infos[1]["fault"]
    assert rewards[1] == 0
    assert np.abs(obs["obs"][1]).max() < 1  # a new episode
    theirs = whole.step(np.zeros((4, 6)))
    for _ in range(20):
        for row in (0, 2, 3):
            np.testing.assert_array_equal(obs["obs"][row], theirs[0]["obs"][row])
        obs, rewards, dones, infos = broken.step(np.zeros((4, 6)))
        theirs = whole.step(np.zeros((4, 6)))
        assert not dones.any()
    broken.close()
    whole.close()


@pytest.mark.native
@pytest.mark.parametrize("what", ["action", "simulation"])
def test_bad_actions_and_failed_simulations_are_given_up_too(what):
    env = simulations("batch", "quarantine")
    env.reset()
    actions = np.zeros((4, 6))
    if what == "action":
        actions[2, 0] = np.nan
    with pytest.raises(mt.TaskFault, match=f"{MAX_CONSECUTIVE_FAULTS} times without a good step"):
        fail_on(env, actions, what)
    assert env.fault_counts["HalfCheetahBigFoot-v0"] == MAX_CONSECUTIVE_FAULTS


def fail_on(env, actions, what):
    for _ in range(50):
        if what == "simulation":
            break_simulation(env, 2)
        env.step(actions)
