"""Means over tasks in the log of algorithms that are not ours."""

import numpy as np
import pytest
from helpers.drift import drift_tasks
from stable_baselines3 import PPO
from stable_baselines3.common.logger import configure

import sb3_multitask as mt
from sb3_multitask.evaluation.episodes import TaskEpisodesCallback


def test_ppo_logs_the_mean_over_tasks_of_their_own_means(tmp_path):
    env = mt.make_multitask_vec_env(drift_tasks(2), 150, seed=0)
    model = PPO(mt.MultiTaskActorCriticPolicy, env, n_steps=40, batch_size=6000, n_epochs=1, seed=0)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(3 * 40 * 300, TaskEpisodesCallback())
    model.logger.close()
    rows = np.genfromtxt(tmp_path / "progress.csv", delimiter=",", names=True, deletechars="", replace_space=" ")
    own = [rows[f"rollout/{name}/ep_rew_mean"] for name in env.unwrapped.task_names]
    assert np.isfinite(own).all()
    assert abs(own[0] - own[1]).max() > 0
    assert rows["rollout/ep_rew_mean"] == pytest.approx(np.mean(own, axis=0), rel=1e-5)
    assert len(model.ep_info_buffer) == 100  # SB3's own again
