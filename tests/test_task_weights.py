"""Weights of tasks: how much each counts in an update."""

import numpy as np
import pytest
import torch as th
from helpers.drift import drift_tasks
from stable_baselines3.common.logger import Logger

import sb3_multitask as mt
from sb3_multitask.checkpoint import CheckpointError

ALGORITHMS = [
    (mt.A2CMultiTask, {"n_steps": 8, "ent_coef": 0.01}),
    (mt.PPOMultiTask, {"n_steps": 16, "batch_size": 32, "n_epochs": 2, "ent_coef": 0.01}),
]


def made(algorithm=mt.A2CMultiTask, seed=0, **kwargs):
    env = mt.make_multitask_vec_env(drift_tasks(3), 2, seed=seed)
    return algorithm("MultiTaskMlpPolicy", env, seed=seed, **kwargs)


def vector_of(model):
    return model.policy.parameters_to_vector()


def learned(algorithm, **kwargs):
    model = made(algorithm, **kwargs)
    model.learn(200)
    return vector_of(model)


@pytest.mark.parametrize(("algorithm", "kwargs"), ALGORITHMS)
@pytest.mark.parametrize("engine", ["fast", "torch"])
def test_weights_of_one_change_nothing(algorithm, kwargs, engine):
    plain = learned(algorithm, engine=engine, **kwargs)
    np.testing.assert_array_equal(plain, learned(algorithm, engine=engine, task_weights={"A": 1, "C": 1.0}, **kwargs))
    assert (plain != learned(algorithm, engine=engine, task_weights={"A": 2}, **kwargs)).any()


@pytest.mark.parametrize(("algorithm", "kwargs"), ALGORITHMS)
@pytest.mark.parametrize("log_std_mode", ["per_task", "shared"])
def test_both_engines_weigh_alike(algorithm, kwargs, log_std_mode):
    given = {**kwargs, "task_weights": {"A": 0.5, "C": 3}, "policy_kwargs": {"log_std_mode": log_std_mode}}
    first, second = (learned(algorithm, engine=engine, **given) for engine in ("fast", "torch"))
    np.testing.assert_allclose(first, second, atol=2e-4)


@pytest.mark.parametrize("engine", ["fast", "torch"])
def test_the_gradient_is_the_weighted_sum_of_those_of_the_tasks(engine):
    """Of one rollout: the objective is linear in the weights."""

    def gradient(task_weights):
        model = made(engine=engine, n_steps=8, ent_coef=0.01, task_weights=task_weights)
        _, callback = model._setup_learn(48)
        model._choose_engine()
        model.collect_rollouts(model.env, callback, model.rollout_buffer, 8)
        loss = mt.losses.A2CLoss(1.0, 0.01, 0.5)
        (batch,) = model.numerics.batches(model.rollout_buffer, None, normalize_advantage=False)
        model.numerics.evaluate([loss], batch)
        if engine == "fast":
            return model.numerics.parameters.gradient.copy()
        return th.cat([p.grad.flatten() for p in model.policy.parameters()]).numpy()

    alone = [gradient({name: float(name == task) for name in "ABC"}) for task in "ABC"]
    assert all(np.abs(one).max() > 1e-4 for one in alone)
    weighted = gradient({"A": 0.5, "B": 2.0, "C": 3.0})
    np.testing.assert_allclose(weighted, 0.5 * alone[0] + 2 * alone[1] + 3 * alone[2], atol=1e-6)
    np.testing.assert_allclose(gradient(None), sum(alone), atol=1e-6)


@pytest.mark.parametrize("engine", ["fast", "torch"])
def test_logs_show_the_losses_unweighted(engine):
    def first_update(task_weights):
        model = made(engine=engine, n_steps=8, task_weights=task_weights)
        model.set_logger(Logger(None, []))
        seen = {}
        model.logger.dump = lambda *_, **__: seen.update(model.logger.name_to_value)
        model.learn(48, log_interval=1)
        return {key: value for key, value in seen.items() if "loss" in key}

    plain, weighted = first_update(None), first_update({"A": 5})
    assert "train/A/value_loss" in plain
    assert plain == pytest.approx(weighted, rel=1e-6)


def test_with_unequal_copies_every_row_counts_alike():
    """Tasks of more copies have more rows, and so more weight: 3 : 1 here, undone by weights of 1 : 3."""
    env = mt.make_multitask_vec_env(drift_tasks(2), {"A": 3, "B": 1}, seed=0)
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", env, task_weights={"B": 3}, seed=0)
    model.learn(80)
    assert model.num_timesteps == 80
    assert np.isfinite(vector_of(model)).all()


def test_a_saved_model_keeps_its_weights(tmp_path):
    model = made(task_weights={"A": 2.0})
    model.learn(60)
    model.save(tmp_path / "model")
    loaded = mt.A2CMultiTask.load(tmp_path / "model", env=mt.make_multitask_vec_env(drift_tasks(3), 2))
    assert loaded.task_weights == {"A": 2.0}
    assert loaded.loss_weights.tolist() == [2, 1, 1]


@pytest.mark.filterwarnings("ignore:A run that resumes")
def test_a_run_with_other_weights_is_another_run(tmp_path):
    def learn(weights, n_steps):
        model = made(n_steps=4, task_weights=weights)
        model.learn(n_steps, mt.ResumableCheckpointCallback(tmp_path / "checkpoints", 48))
        return model

    learn({"A": 2.0}, 96)
    with pytest.raises(CheckpointError, match=r"task_weights: \{'A': 2.0"):
        learn(None, 192)
    assert learn({"A": 2.0}, 192).num_timesteps == 192


@pytest.mark.parametrize(
    ("weights", "error", "message"),
    [
        ({"a": 2.0}, ValueError, r"'a', which is no task. Did you mean 'A'"),
        ({"A": -1}, ValueError, r"of 'A' must be a finite number of at least 0 \(got -1\)"),
        ({"A": float("nan")}, ValueError, r"of 'A' must be a finite number"),
        ({"A": "2"}, ValueError, r"of 'A' must be a finite number"),
        (dict.fromkeys("ABC", 0), ValueError, r"a weight above 0"),
        ([1, 2, 3], TypeError, r"must map tasks to weights"),
        (0, TypeError, r"must map tasks to weights.*\(got 0\)"),
    ],
)
def test_bad_weights_are_refused(weights, error, message):
    with pytest.raises(error, match=message):
        made(task_weights=weights)
