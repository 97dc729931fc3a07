"""The options of `policy_kwargs` where tasks differ in size."""

import numpy as np
import pytest
import torch as th
from helpers.drift import drift_tasks, sized_tasks
from helpers.models import is_finite, make_model, weights_equal
from helpers.policies import OwnFeatures, make_sized_policy

import sb3_multitask as mt
from sb3_multitask.agents import agent_of

OPTIONS = {
    "norms": {"layer_norm": True, "head_arch": [6]},
    "onehot": {"task_embedding": "onehot"},
    "learned": {"task_embedding": 2},
    "one_head": {"share": "all"},
    "one_head_state": {"share": "all", "log_std_mode": "state_dependent", "layer_norm": True},
    "extractor": {"features_extractor_class": OwnFeatures},
}
TASK = np.array([0, 1, 2, 2, 1, 0])
DIMS = {"obs": (5, 3, 4), "action": (2, 3, 1)}


def batch(scale=1.0, seed=0):
    """Padded observations of mixed tasks, with other numbers than 0 in the padding for ``scale`` other than 0."""
    rng = np.random.default_rng(seed)
    obs = rng.normal(size=(len(TASK), 5)).astype(np.float32)
    for row, task in zip(obs, TASK, strict=True):
        row[DIMS["obs"][task] :] *= scale
    return {"obs": th.from_numpy(obs), "task": th.from_numpy(TASK)}


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_padding_changes_nothing(options):
    policy = make_sized_policy(**options)
    actions = policy.predict({key: value.numpy() for key, value in batch().items()}, deterministic=True)[0]
    assert all(not row[DIMS["action"][task] :].any() for row, task in zip(actions, TASK, strict=True))
    drawn = th.from_numpy(actions) + 0.1
    first, second = (policy.evaluate_actions(batch(scale), drawn) for scale in (0.0, 7.0))
    assert all(th.equal(a, b) for a, b in zip(first, second, strict=True))
    other = drawn.clone()
    for row, task in zip(other, TASK, strict=True):
        row[DIMS["action"][task] :] = 9.0
    assert th.equal(policy.evaluate_actions(batch(), other)[1], first[1])


def test_one_head_learns_in_the_padding_of_one_task_from_another():
    """The head is as wide as the widest task: B has 3 actions, and A the first 2 of them."""
    policy = make_sized_policy(share="all")
    only = {key: value[TASK == 0] for key, value in batch().items()}
    policy.evaluate_actions(only, th.ones(2, 3))[1].sum().backward()
    gradient = policy.action_net.layers[-1].bias.grad[0]
    assert (gradient[:2] != 0).all()
    assert gradient[2] == 0


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_models_learn_are_saved_and_become_agents(tmp_path, options):
    model = make_model(sized_tasks(), policy_kwargs=options).learn(150)
    assert is_finite(model)
    model.save(tmp_path / "model.zip")
    assert weights_equal(model, mt.A2CMultiTask.load(tmp_path / "model", env=model.get_env()))
    raw = {"obs": batch()["obs"].numpy().astype(np.float64), "task": TASK}
    seen = model.get_vec_normalize_env().normalize_obs(raw)
    seen = {"obs": seen["obs"].astype(np.float32), "task": TASK}
    expected, _ = model.predict(seen, deterministic=True)
    if "features_extractor_class" in options:
        with pytest.raises(ValueError, match="features extractor"):
            agent_of(model)
        return
    mt.save_agent(model, tmp_path / "agent")
    for agent in (mt.load_agent(tmp_path / "agent"), mt.load_agent(tmp_path / "model.zip")):
        np.testing.assert_allclose(agent.predict(raw, deterministic=True)[0], expected, atol=1e-6)
    mt.export_torch(agent, tmp_path / "agent.pt2")
    program = th.export.load(tmp_path / "agent.pt2").module()
    given = program(th.from_numpy(raw["obs"].astype(agent.obs_dtype)), th.from_numpy(TASK))
    np.testing.assert_allclose(given.numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("name", ["norms", "onehot", "learned", "one_head", "extractor"])
def test_the_trunk_is_carried_without_the_heads(name):
    sizes = {"obs_dim": 5, "action_dim": 3}
    source = make_model(drift_tasks(2, obs_dim=5), seed=1, policy_kwargs=OPTIONS[name]).learn(60)
    model = make_model(drift_tasks(3, **sizes), policy_kwargs=OPTIONS[name])
    heads = {key: p.clone() for key, p in model.policy.named_parameters() if key.startswith(("action", "value", "log"))}
    mt.transfer(model, source, {"C": "A"}, heads=False)
    ours, theirs = dict(model.policy.named_parameters()), dict(source.policy.named_parameters())
    assert all(th.equal(ours[key], p) for key, p in heads.items())
    obs = th.randn(4, 5)
    latents = [policy._latents(obs, th.full((4,), task))[0] for policy, task in ((model.policy, 2), (source.policy, 0))]
    th.testing.assert_close(*latents)
    assert ours.keys() == theirs.keys()


@pytest.mark.parametrize("name", ["norms", "one_head", "learned"])
def test_a_narrower_task_acts_as_one_number_of_its_own_size(name):
    agent = agent_of(make_model(sized_tasks(), policy_kwargs=OPTIONS[name]).learn(60))
    for task, (obs_dim, action_dim) in enumerate(zip(DIMS["obs"], DIMS["action"], strict=True)):
        action, _ = agent.predict({"obs": np.ones(obs_dim), "task": task}, deterministic=True)
        assert action.shape == (action_dim,)
