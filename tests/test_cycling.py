import numpy as np
import pytest
from helpers.drift import DriftEnv, drift_tasks
from stable_baselines3.common.vec_env import DummyVecEnv

import sb3_multitask as mt

ZERO = np.zeros((2, 2), dtype=np.float32)


@pytest.mark.parametrize("normalize", [False, True])
def test_one_task_at_a_time_and_waiting_tasks_keep_their_state(normalize):
    env = mt.TaskCyclingVecEnv(mt.make_multitask_vec_env(drift_tasks(3), 2, seed=0, normalize=normalize))
    obs = env.reset()
    assert (env.num_envs, env.active_task) == (2, 0)
    np.testing.assert_array_equal(obs["task"], [0, 0])
    last, *_ = env.step(ZERO)
    for task in (1, 2):
        obs = env.next_task()
        assert env.active_task == task
        np.testing.assert_array_equal(obs["task"], [task, task])
        for _ in range(3):
            env.step(ZERO)
    back = env.next_task()
    assert env.active_task == 0
    np.testing.assert_array_equal(back["obs"], last["obs"])
    *_, infos = [env.step(ZERO) for _ in range(4)][-1]
    assert infos[0]["episode"]["l"] == 5  # 1 step before the others' turn, 4 after


def test_cycling_sees_what_each_task_alone_sees():
    cycling = mt.TaskCyclingVecEnv(mt.MultiTaskVecEnv(drift_tasks(2), 2, seed=0))
    whole = mt.MultiTaskVecEnv(drift_tasks(2), 2, seed=0)
    obs, expected, starts = cycling.reset(), whole.reset(), np.ones(4, dtype=bool)
    for _ in range(12):
        next_expected, rewards, dones, _ = whole.step(np.zeros((4, 2), dtype=np.float32))
        for task in range(2):
            rows = slice(2 * task, 2 * task + 2)
            np.testing.assert_array_equal(obs["obs"], expected["obs"][rows])
            np.testing.assert_array_equal(cycling.episode_starts, starts[rows])
            _, reward, done, _ = cycling.step(ZERO)
            np.testing.assert_array_equal(reward, rewards[rows])
            np.testing.assert_array_equal(done, dones[rows])
            obs = cycling.next_task()
        expected, starts = next_expected, dones


def test_under_a_normaliser_each_task_is_normalised_as_in_joint():
    joint = mt.make_multitask_vec_env(drift_tasks(2), 2, seed=0)
    cycling = mt.make_multitask_vec_env(drift_tasks(2), 2, seed=0).cycling()
    expected, obs = joint.reset(), cycling.reset()
    for _ in range(20):
        next_expected, rewards, _, _ = joint.step(np.zeros((4, 2), dtype=np.float32))
        for task in range(2):
            rows = slice(2 * task, 2 * task + 2)
            np.testing.assert_array_equal(obs["obs"], expected["obs"][rows])
            stepped, reward, _, _ = cycling.step(ZERO)
            np.testing.assert_array_equal(reward, rewards[rows])
            np.testing.assert_array_equal(stepped["obs"], next_expected["obs"][rows])
            obs = cycling.next_task()
        expected = next_expected
    np.testing.assert_array_equal(joint.obs_rms["obs"].mean, cycling.obs_rms["obs"].mean)
    np.testing.assert_array_equal(joint.ret_rms.var, cycling.ret_rms.var)


def test_seeding_reaches_every_task():
    env = mt.TaskCyclingVecEnv(mt.MultiTaskVecEnv(drift_tasks(2), 2))
    first = []
    for _ in range(2):
        env.seed(3)
        env.reset()
        first.append(env.next_task()["obs"])
    np.testing.assert_array_equal(*first)


def test_errors():
    with pytest.raises(TypeError, match="TaskCyclingVecEnv needs a MultiTaskVecEnv"):
        mt.TaskCyclingVecEnv(DummyVecEnv([DriftEnv]))
    with pytest.raises(RuntimeError, match="reset"):
        mt.TaskCyclingVecEnv(mt.MultiTaskVecEnv(drift_tasks(2))).next_task()
