"""One Gymnasium environment that goes through the tasks of a set."""

import warnings

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env
from helpers.drift import DriftEnv, drift_tasks
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy

import sb3_multitask as mt
from sb3_multitask.tasks import resolve_tasks, set_id


def play(env, n_episodes, seed=0):
    """Task, first observation and return of each episode, with actions of 0."""
    episodes = []
    for i in range(n_episodes):
        obs, info = env.reset(seed=seed if i == 0 else None)
        assert env.observation_space.contains(obs)
        first, total, over = obs, 0.0, False
        while not over:
            obs, reward, terminated, truncated, step_info = env.step(np.zeros(env.action_space.shape, np.float32))
            assert step_info["task"] == info["task"]
            assert obs["task"] == first["task"]
            total += reward
            over = terminated or truncated
        episodes.append((info["task"], int(first["task"]), first["obs"].tolist(), total))
    return episodes


@pytest.mark.parametrize("name", mt.TASK_SETS)
def test_every_set_is_an_id_that_gymnasium_accepts(name):
    env = gym.make(set_id(name))
    assert env.get_wrapper_attr("task_names") == tuple(task.name for task in mt.TASK_SETS[name])
    assert {"human", "rgb_array"} <= set(env.metadata["render_modes"])
    with warnings.catch_warnings():  # its advice on spaces; what is wrong it raises
        warnings.simplefilter("ignore", UserWarning)
        check_env(env.unwrapped, skip_render_check=True)
    env.close()


def test_each_episode_is_the_next_tasks():
    env = mt.TaskSetEnv(drift_tasks(3))
    assert [(name, i) for name, i, *_ in play(env, 4)] == [("A", 0), ("B", 1), ("C", 2), ("A", 0)]


def test_a_reset_without_a_step_stays():
    env = mt.TaskSetEnv(drift_tasks(3))
    assert [env.reset()[1]["task"] for _ in range(3)] == ["A", "A", "A"]


def test_a_reset_with_a_seed_begins_the_same_tour_again():
    env = mt.TaskSetEnv(drift_tasks(3))
    first = play(env, 5, seed=3)
    assert play(env, 5, seed=3) == first
    assert play(env, 5, seed=4) != first


def test_episodes_are_those_of_the_vec_env():
    """Task i of a tour with a seed begins as sub-environment i of a VecEnv with that seed."""
    tasks = drift_tasks(3)
    venv = mt.make_multitask_vec_env(tasks, 1, seed=7, normalize=False)
    firsts = venv.reset()["obs"]
    tour = play(mt.TaskSetEnv(tasks), 3, seed=7)
    np.testing.assert_array_equal([first for _, _, first, _ in tour], firsts)


def test_one_task_keeps_its_id():
    env = gym.make(set_id("HalfCheetahBody6"), task="SmallLeg", max_episode_steps=2)
    assert [(name, i) for name, i, *_ in play(env, 2)] == [("SmallLeg", 2)] * 2
    assert env.observation_space["task"].n == 6


def test_arguments_reach_every_task():
    env = gym.make(set_id("HalfCheetahBody6"), ctrl_cost_weight=0.5, max_episode_steps=1)
    for _ in range(7):
        env.reset()
        *_, info = env.step(np.ones(6, np.float32))
        assert info["reward_ctrl"] == pytest.approx(-0.5 * 6)


@pytest.mark.parametrize(("asked", "steps"), [({}, 100), ({"max_episode_steps": 120}, 120)])
def test_the_episodes_length_is_the_sets_or_what_was_asked_for(asked, steps):
    env = gym.make(set_id("Pusher2"), **asked)
    for _ in range(2):
        env.reset()
        cuts = [env.step(np.zeros(7, np.float32))[3] for _ in range(steps)]
        assert cuts == [False] * (steps - 1) + [True]


@pytest.mark.parametrize("name", mt.TASK_SETS)
def test_the_tasks_of_a_set_have_the_limit_of_its_id(name):
    limits = {gym.spec(task.env_id).max_episode_steps for task in mt.TASK_SETS[name]}
    assert limits == {gym.spec(set_id(name)).max_episode_steps}


def test_without_gymnasiums_limit_the_tasks_keep_theirs():
    env = mt.TaskSetEnv("Pusher2")
    env.reset()
    assert [env.step(np.zeros(7, np.float32))[3] for _ in range(100)] == [False] * 99 + [True]


def test_bad_tasks_are_refused():
    with pytest.raises(ValueError, match=r"`task`.*SmallFoot.*'SmallLeg'"):
        gym.make(set_id("HalfCheetahBody6"), task="SmalLeg")
    with pytest.raises(ValueError, match=r"Did you mean 'MultiTask/HalfCheetahBody6-v0'"):
        resolve_tasks("MultiTask/HalfCheetaBody6-v0")


def test_a_sets_id_is_the_set_wherever_tasks_are_asked_for():
    assert resolve_tasks(set_id("HalfCheetahBody6")) == mt.TASK_SETS["HalfCheetahBody6"]
    venv = mt.make_multitask_vec_env(set_id("HalfCheetahBody6"), 1)
    assert (venv.num_envs, venv.task_names) == (6, tuple(task.name for task in mt.TASK_SETS["HalfCheetahBody6"]))
    venv.close()
    wrapped = mt.TaskEnv(gym.make("HalfCheetahBigFoot-v0"), "BigFoot", set_id("HalfCheetahBody6"))
    assert wrapped.task_id == 1


def test_stock_algorithms_and_evaluation_take_it():
    model = PPO(mt.MultiTaskActorCriticPolicy, mt.TaskSetEnv(drift_tasks(2)), n_steps=32, batch_size=32, device="cpu")
    model.learn(64)
    seen = []

    def note(local, _):
        seen.append(local["info"]["task"])

    evaluate_policy(model, mt.TaskSetEnv(drift_tasks(2)), 4, callback=note, warn=False)
    assert set(seen) == {"A", "B"}


def test_only_one_window_is_open(monkeypatch):
    closed = []
    monkeypatch.setattr(DriftEnv, "close", lambda self: closed.append(self.target))
    tasks = [mt.Task(name, _Shown, {"target": i}) for i, name in enumerate("AB")]
    env = mt.TaskSetEnv(tasks, render_mode="human")
    assert [name for name, *_ in play(env, 4)] == ["A", "B", "A", "B"]
    assert closed == [0, 1, 0]


class _Shown(DriftEnv):
    metadata = {"render_modes": ["human"]}

    def __init__(self, render_mode, **kwargs):
        super().__init__(**kwargs)
