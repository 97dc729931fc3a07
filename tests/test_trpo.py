"""TRPO on several tasks: sb3-contrib's bits, with tasks, statistics and exact resume."""

import numpy as np
import pytest
import torch as th
from helpers.drift import drift_tasks, recorded_tasks
from helpers.models import is_finite, weights_equal
from sb3_contrib import TRPO

import sb3_multitask as mt
from sb3_multitask.policies.task_steps import stacked_parameters

GIVEN = {"n_steps": 20, "batch_size": 40, "n_critic_updates": 2, "seed": 0, "device": "cpu"}


def make(tasks=None, on_fault="stop", **kwargs):
    env = mt.make_multitask_vec_env(tasks or recorded_tasks(), 2, seed=0, on_fault=on_fault)
    return mt.TRPOMultiTask("MultiTaskMlpPolicy", env, **{**GIVEN, **kwargs})


def test_joint_is_sb3_contribs_trpo_bit_for_bit():
    models = []
    for algorithm in (TRPO, mt.TRPOMultiTask):
        env = mt.make_multitask_vec_env(drift_tasks(3), 2, seed=0)
        models.append(algorithm(mt.MultiTaskActorCriticPolicy, env, **GIVEN).learn(30 * 120))
    assert weights_equal(*models)


def test_in_cycle_heads_of_waiting_tasks_stay_as_they_are():
    model = make(task_schedule="cycle")
    model.learn(3 * 40)  # each task has had its turn, so the optimizer has averages of every head

    def heads():
        policy, state = model.policy, model.policy.optimizer.state
        stacked = stacked_parameters(policy).values()
        return [[p.detach().clone(), *(v.clone() for v in state[p].values() if v.shape == p.shape)] for p in stacked]

    before = heads()
    model.collect_rollouts(model.env, model._init_callback(None), model.rollout_buffer, model.n_steps)
    model.train()
    for mine, theirs in zip(heads(), before, strict=True):
        for a, b in zip(mine, theirs, strict=True):
            assert th.equal(a[1:], b[1:])
            assert not th.equal(a[0], b[0])


@pytest.mark.parametrize("what", ["trunk", "all_but_last"])
@pytest.mark.parametrize("schedule", ["joint", "cycle"])
def test_what_is_frozen_does_not_change_and_the_rest_learns(schedule, what):
    model = make(task_schedule=schedule, learning_rate=1e-2)
    mt.freeze(model, what)
    before = {name: parameter.clone() for name, parameter in model.policy.named_parameters()}
    model.learn(5 * 120)
    changed = {name for name, parameter in model.policy.named_parameters() if not th.equal(parameter, before[name])}
    assert changed == set(before) - set(model.frozen)
    assert model.frozen


def test_quarantined_steps_are_left_out():
    class Flawed(type(recorded_tasks()[0].make())):
        def step(self, action):
            obs, *rest = super().step(action)
            return (obs * np.nan if self.time == 3 else obs), *rest

    always = mt.Task("A", Flawed, {"horizon": 5})
    model = make([always, *recorded_tasks()[1:]], on_fault="quarantine")
    before = [p[0].clone() for p in stacked_parameters(model.policy).values()]
    model.learn(600)
    assert model.get_env().unwrapped.fault_counts["A"] > 10
    assert is_finite(model)
    assert any(not th.equal(p[0], b) for p, b in zip(stacked_parameters(model.policy).values(), before, strict=True))


def test_it_is_saved_loaded_and_an_agent(tmp_path):
    model = make().learn(240)
    model.save(tmp_path / "model")
    loaded = mt.TRPOMultiTask.load(tmp_path / "model", env=mt.make_multitask_vec_env(recorded_tasks(), 3))
    assert weights_equal(model, loaded)
    loaded.learn(240)
    agent = mt.load_agent(tmp_path / "model.zip")
    assert agent.facts["algorithm"] == "TRPOMultiTask"
    assert {f"train/{name}/explained_variance" for name in "ABC"} <= set(model.logger.name_to_value)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sub_sampling_factor": 2}, r"`sub_sampling_factor` must be 1 \(got 2\)"),
        ({"batch_size": 1}, "`batch_size` must be at least 2"),
        ({"task_schedule": "random"}, "`task_schedule` must be one of joint, cycle"),
    ],
)
def test_settings_that_fail_later_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


@pytest.mark.parametrize("settings", [{"target_kl": 0}, {"target_kl": -0.01}, {"n_critic_updates": 0}])
def test_settings_with_which_nothing_is_learned_are_refused(tmp_path, settings):
    (name,) = settings
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        make(**settings)
    make().save(tmp_path / "model")
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        mt.TRPOMultiTask.load(tmp_path / "model", **settings)
