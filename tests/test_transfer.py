"""Weights and statistics from task to task; what is frozen stays."""

import numpy as np
import pytest
import torch as th
from helpers.drift import drift_tasks
from helpers.models import make_model, recorded_model, weights_equal
from stable_baselines3 import PPO

import sb3_multitask as mt
from sb3_multitask.experiments.milestones import evaluate_fully


def make(n=3, **kwargs):
    return make_model(drift_tasks(n), **kwargs)


def predictions(model, task, as_task=None):
    obs = {"obs": np.random.default_rng(0).normal(size=(5, 3)), "task": np.full(5, task)}
    normalizer = model.get_vec_normalize_env()
    obs = obs if normalizer is None else normalizer.normalize_obs(obs)
    obs = {"obs": obs["obs"].astype(np.float32), "task": np.full(5, task if as_task is None else as_task)}
    return model.predict(obs, deterministic=True)[0]


def test_a_head_takes_over_anothers_weights_and_statistics():
    model = make().learn(300)
    before = predictions(model, 1)
    mt.transfer(model, model, {"C": "A"})
    np.testing.assert_array_equal(predictions(model, 2), predictions(model, 0))
    np.testing.assert_array_equal(predictions(model, 1), before)
    np.testing.assert_array_equal(model.policy.log_std[2].detach(), model.policy.log_std[0].detach())
    rms = model.get_vec_normalize_env().ret_rms
    assert rms.var[2] == rms.var[0] != rms.var[1]


def test_tasks_may_be_exchanged():
    model = make().learn(300)
    first, second = predictions(model, 0), predictions(model, 1)
    mt.transfer(model, model, {"A": "B", "B": "A"})
    np.testing.assert_array_equal(predictions(model, 0), second)
    np.testing.assert_array_equal(predictions(model, 1), first)


def test_a_model_with_one_task_more_keeps_what_the_other_knew():
    small, large = make(2).learn(300), make(3, seed=1)
    new_head = large.policy.action_net.layers[0].weight[2].clone()
    mt.transfer(large, small, {"A": "A", "B": "B"})
    for task in range(2):
        np.testing.assert_allclose(predictions(large, task), predictions(small, task), atol=1e-6)
    assert th.equal(large.policy.action_net.layers[0].weight[2], new_head)
    large.learn(100)  # and it trains on
    assert predictions(small, 0).tolist() != predictions(large, 0).tolist()


def test_the_source_is_left_alone():
    source, model = make(2).learn(100), make(2, seed=1)
    before = {name: tensor.clone() for name, tensor in source.policy.state_dict().items()}
    mt.transfer(model, source, {"A": "B"})
    model.learn(200)
    assert all(th.equal(before[name], tensor) for name, tensor in source.policy.state_dict().items())


@pytest.mark.parametrize(
    ("tasks", "kwargs", "message"),
    [
        ({"X": "A"}, {}, "`model` has no task 'X'; it has: A, B, C"),
        ({"A": "X"}, {}, "`source` has no task 'X'; it has: A, B, C"),
        ({}, {}, "`tasks` must name at least one task"),
        (
            {"A": "A"},
            {"policy_kwargs": {"net_arch": {"pi": [8], "vf": [64]}}},
            "of the model and of the source differ",
        ),
        ({"A": "A"}, {"normalize": False}, "The model normalises its observations and the source does not"),
        ({"A": "A"}, {"normalize": {"norm_obs": False}}, "The model normalises its observations and the source does"),
        (
            {"A": "A"},
            {"policy_kwargs": {"activation_fn": th.nn.ReLU}},
            r"The model's `activation_fn` is .*Tanh.*, the source's is .*ReLU",
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(tasks, kwargs, message):
    model, copy = make(), make()
    with pytest.raises(ValueError, match=message):
        mt.transfer(model, make(seed=1, **kwargs), tasks)
    assert weights_equal(model, copy)


def test_the_start_of_a_state_dependent_log_std_belongs_to_its_weights():
    kwargs = {"log_std_mode": "state_dependent"}
    model, source = (make(1, policy_kwargs={**kwargs, "log_std_init": init}) for init in (-1.0, -2.0))
    with pytest.raises(ValueError, match=r"`log_std_init` is -1.0, the source's is -2.0"):
        mt.transfer(model, source, {"A": "A"})
    mt.transfer(model, make(1, policy_kwargs={**kwargs, "log_std_init": -1.0}), {"A": "A"})


def test_a_model_without_its_env_is_refused_and_changes_nothing(tmp_path):
    make().save(tmp_path / "model")
    model, copy = (mt.A2CMultiTask.load(tmp_path / "model", device="cpu") for _ in range(2))
    with pytest.raises(ValueError, match="`model` has no env"):
        mt.transfer(model, make(seed=1), {"A": "A"})
    assert weights_equal(model, copy)


def test_weights_that_are_not_finite_are_not_taken_over():
    model, copy, source = make(), make(), make(seed=1)
    with th.no_grad():
        source.policy.log_std[1, 0] = np.nan
    with pytest.raises(ValueError, match="not finite: log_std"):
        mt.transfer(model, source, {"A": "A"})
    assert weights_equal(model, copy)


# Freezing

TRUNK = {f"mlp_extractor.{net}.{i}.{part}" for net, i in (("policy_net", 0), ("policy_net", 2), ("value_net", 0))
         for part in ("weight", "bias")}  # fmt: skip
LAST = {"action_net.layers.0.weight", "action_net.layers.0.bias", "value_net.layers.1.weight",
        "value_net.layers.1.bias", "log_std"}  # fmt: skip


def changed(model, n_steps=300):
    before = {name: parameter.clone() for name, parameter in model.policy.named_parameters()}
    model.learn(n_steps)
    return {name for name, parameter in model.policy.named_parameters() if not th.equal(parameter, before[name])}


@pytest.mark.parametrize("engine", ["fast", "torch"])
def test_what_is_frozen_does_not_change(engine):
    model = make(engine=engine)
    everything = set(dict(model.policy.named_parameters()))
    assert changed(model) == everything
    mt.freeze(model, "trunk")
    assert changed(model) == everything - TRUNK
    mt.freeze(model, "all_but_last")
    assert changed(model) == LAST
    mt.freeze(model, "nothing")
    assert changed(model) == everything


def test_freezing_survives_save_and_load(tmp_path):
    model = make().learn(60)
    mt.freeze(model, "all_but_last")
    model.save(tmp_path / "model")
    env = mt.make_multitask_vec_env(drift_tasks(3), 2, seed=0)
    assert changed(mt.A2CMultiTask.load(tmp_path / "model", env=env, device="cpu")) == LAST


@pytest.mark.parametrize("schedule", ["joint", "cycle"])
def test_both_engines_train_what_is_not_frozen_alike(schedule):
    models = []
    for engine in ("torch", "fast"):
        model = recorded_model(engine, schedule, max_grad_norm=0.01)
        mt.freeze(model, "all_but_last")
        model.learn(50 * 5 * model.n_envs)
        models.append(model)
    for (name, a), b in zip(models[0].policy.named_parameters(), models[1].policy.parameters(), strict=True):
        assert (a - b).abs().max() < 1e-4, name
        states = [model.policy.optimizer.state.get(p, {}) for model, p in zip(models, (a, b), strict=True)]
        assert bool(states[0]) == bool(states[1])
        if states[0]:
            th.testing.assert_close(states[0]["square_avg"], states[1]["square_avg"], rtol=1e-3, atol=1e-7)


def test_unknown_parts_are_refused():
    with pytest.raises(ValueError, match="`what` must be one of trunk, all_but_last, nothing"):
        mt.freeze(make(), "heads")


@pytest.mark.slow
def test_in_the_papers_fine_tuning_one_head_meets_both_tasks():
    """E1's model goes on with E2, and what it returns on E1 is its only head's, seen through its present statistics.

    With a head and statistics per task forgetting would be zero by construction. E1 and E2 here are one environment, so
    that the return on E1 must be that on E2; and one whose rewards are others, where it must not be.
    """
    small, large = mt.Task("E2", "HalfCheetahSmallFoot-v0"), "HalfCheetahBigFoot-v0"
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", [small], device="cpu", seed=0, policy_kwargs={"ortho_init": False})
    model.learn(2_000)
    mt.freeze(model, "all_but_last")
    for n_steps in (0, 2_000):
        if n_steps:
            model.learn(n_steps, reset_num_timesteps=False)
        results = evaluate_fully(model, 2, {"E1": small.env_id, "other": large})
        assert list(results) == ["E2", "E1", "other"]
        np.testing.assert_allclose(results["E1"].episode_rewards, results["E2"].episode_rewards)
        assert results["other"].episode_rewards != results["E2"].episode_rewards
        statistics = model.get_vec_normalize_env().obs_rms["obs"].mean.copy()
        model.get_vec_normalize_env().obs_rms["obs"].mean[:] += 1
        moved = evaluate_fully(model, 2, {"E1": small.env_id})
        assert moved["E1"].episode_rewards != results["E1"].episode_rewards
        model.get_vec_normalize_env().obs_rms["obs"].mean[:] = statistics


def test_sides_that_are_no_models_are_refused():
    model = make()
    agent = mt.load_pretrained("HalfCheetahBody6-vanilla")
    for source in (agent, "model.zip", PPO(mt.MultiTaskActorCriticPolicy, model.get_env(), device="cpu")):
        with pytest.raises(TypeError, match="`source` must be a multi-task model"):
            mt.transfer(model, source, {"A": "A"})
    with pytest.raises(TypeError, match="`tasks` must map"):
        mt.transfer(model, model, ["A"])
    with pytest.raises(TypeError, match="`model` must be a multi-task model"):
        mt.freeze(agent, "trunk")


def test_a_model_of_another_algorithm_names_no_tasks(tmp_path):
    env = mt.make_multitask_vec_env(drift_tasks(2), n_envs_per_task=1)
    PPO(mt.MultiTaskActorCriticPolicy, env, n_steps=2, batch_size=4, device="cpu").save(tmp_path / "ppo")
    source = mt.A2CMultiTask.load(tmp_path / "ppo")
    with pytest.raises(ValueError, match="`source` names no tasks.*another algorithm"):
        mt.transfer(mt.A2CMultiTask("MultiTaskMlpPolicy", drift_tasks(2)), source, {"A": "A"})
