"""The fast engine where tasks have different numbers of environments: as torch, within rounding."""

import numpy as np
import pytest
from helpers.drift import RecordedEnv, recorded_tasks, sized_tasks

import sb3_multitask as mt
from sb3_multitask.algorithms.engine import TorchEngine
from sb3_multitask.fast.parameters import FlatParameters
from sb3_multitask.fast.rollout_memory import RolloutMemory
from sb3_multitask.losses import A2CLoss

COPIES = {"A": 1, "B": 4, "C": 2}
PPO_SETTINGS = {"n_steps": 16, "batch_size": 28, "n_epochs": 2, "ent_coef": 0.01}


def make(engine, algorithm=mt.A2CMultiTask, tasks=None, on_fault="stop", **kwargs):
    env = mt.make_multitask_vec_env(tasks or recorded_tasks(), COPIES, seed=0, normalize=True, on_fault=on_fault)
    return algorithm("MultiTaskMlpPolicy", env, seed=0, device="cpu", engine=engine, **kwargs)


def trained(n_rollouts, *args, **kwargs):
    models = []
    for engine in ("torch", "fast"):
        model = make(engine, *args, **kwargs)
        models.append(model.learn(n_rollouts * model.n_steps * model.n_envs))
        assert model.last_engine == engine
    return models


def assert_close(models):
    for mine, theirs in zip(*(model.policy.parameters() for model in models), strict=True):
        assert (mine - theirs).abs().max() < 1e-4


@pytest.mark.parametrize("tasks", [recorded_tasks(), sized_tasks(RecordedEnv)], ids=["equal", "sized"])
@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        (mt.A2CMultiTask, {"ent_coef": 0.01, "normalize_advantage": True}),
        (mt.A2CMultiTask, {"policy_kwargs": {"log_std_mode": "shared", "net_arch": {"pi": [], "vf": []}}}),
        (mt.PPOMultiTask, PPO_SETTINGS),
    ],
)
@pytest.mark.usefixtures("kernels")
def test_30_updates_of_both_engines_agree(algorithm, settings, tasks):
    assert_close(trained(30, algorithm, tasks, **settings))


@pytest.mark.parametrize("algorithm", [mt.A2CMultiTask, mt.PPOMultiTask])
def test_both_engines_agree_with_teachers_and_weights_of_tasks(algorithm):
    teachers = dict.fromkeys("ABC", make("fast").learn(70))
    settings = {**(PPO_SETTINGS if algorithm is mt.PPOMultiTask else {}), "task_weights": {"A": 3.0}}
    assert_close(trained(20, algorithm, teachers=teachers, rl_coef=0.5, **settings))


def test_the_first_rollout_is_sb3s():
    theirs, mine = (model.rollout_buffer for model in trained(1, mt.PPOMultiTask, **PPO_SETTINGS, learning_rate=0.0))
    for name in ("actions", "values", "log_probs", "advantages", "returns"):
        np.testing.assert_allclose(mine.by_step(name), theirs.by_step(name), rtol=1e-4, atol=3e-6, err_msg=name)


def test_gradients_are_autograds():
    model = make("fast", n_steps=7)
    model.train = lambda: None
    model.learn(7 * 7)
    fast, torch = model.numerics, TorchEngine(model)
    for engine in (fast, torch):  # torch's comes last: it reorders the buffer's rows
        (batch,) = engine.batches(model.rollout_buffer, None, normalize_advantage=False)
        evaluation = engine.evaluate([A2CLoss(1.0, 0.1, 0.5)], batch)
        assert evaluation.tasks == [0, 1, 2]
    for parameter, place in fast.parameters.offsets.items():
        mine, expected = fast.parameters.gradient[place], parameter.grad.flatten().numpy()
        assert np.abs(mine - expected).max() <= 1e-5 * np.abs(expected).max()


@pytest.mark.parametrize("algorithm", [mt.A2CMultiTask, mt.PPOMultiTask])
def test_quarantined_rows_are_left_out_by_both_engines(algorithm):
    class Flawed(RecordedEnv):
        def step(self, action):
            obs, *rest = super().step(action)
            return (obs * np.nan if self.time == 3 else obs), *rest

    tasks = [recorded_tasks()[0], mt.Task("B", Flawed, {"horizon": 7}), recorded_tasks()[2]]
    settings = {**PPO_SETTINGS, "batch_size": 16} if algorithm is mt.PPOMultiTask else {}
    models = trained(8, algorithm, tasks, on_fault="quarantine", **settings)
    assert all(model.env.unwrapped.fault_counts["B"] for model in models)
    assert_close(models)


def test_rows_that_are_repeated_count_for_nothing():
    """Hand-worked: 2 steps of 1 and 2 environments."""
    memory = RolloutMemory(2, (1, 2), FlatParameters(make("fast").policy))
    np.testing.assert_array_equal(memory.grouping.rows, [[0, 3, 3, 3], [1, 2, 4, 5]])
    np.testing.assert_array_equal(memory.kept(None)[:, :, 0], [[1, 1, 0, 0], [1, 1, 1, 1]])
    keep = np.array([[True, True, False], [False, True, True]])
    np.testing.assert_array_equal(memory.kept(keep)[:, :, 0], [[1, 0, 0, 0], [1, 0, 1, 1]])
