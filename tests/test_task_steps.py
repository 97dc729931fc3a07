"""An optimizer's step in "cycle": a head and what the optimizer knows of it belong to its task alone."""

import copy

import numpy as np
import pytest
import torch as th
from helpers.drift import DriftEnv, drift_tasks
from helpers.policies import make_policy
from torch import nn

import sb3_multitask as mt
from sb3_multitask.policies.task_steps import stacked_parameters, step_of_tasks

OPTIMIZERS = {
    "Adam": (th.optim.Adam, {"weight_decay": 0.1}),
    "Adam amsgrad": (th.optim.Adam, {"amsgrad": True}),
    "AdamW": (th.optim.AdamW, {}),
    "NAdam": (th.optim.NAdam, {}),
    "RAdam": (th.optim.RAdam, {}),
    "Adagrad": (th.optim.Adagrad, {}),
    "Rprop": (th.optim.Rprop, {}),
    "SGD": (th.optim.SGD, {"momentum": 0.9, "dampening": 0.5}),
    "plain SGD": (th.optim.SGD, {"weight_decay": 0.1}),
    "RMSprop": (th.optim.RMSprop, {"momentum": 0.9, "centered": True, "weight_decay": 0.1}),
    "Adafactor": (th.optim.Adafactor, {}),
}


def make(name, **kwargs):
    optimizer_class, settings = OPTIMIZERS[name]
    return make_policy(optimizer_class=optimizer_class, optimizer_kwargs=settings, **kwargs)


def give_gradients(policy, task, generator):
    """Gradients as a rollout of one task leaves them: 0 in the other heads."""
    heads = set(stacked_parameters(policy).values())
    for parameter in policy.parameters():
        parameter.grad = th.randn(parameter.shape, generator=generator)
        if parameter in heads:
            others = [i for i in range(policy.n_tasks) if i != task]
            parameter.grad[others] = 0.0


def step(policy, task):
    step_of_tasks(policy, [i == task for i in range(policy.n_tasks)])


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_head_is_trained_as_if_it_had_an_optimizer_of_its_own(name):
    policy, generator = make(name), th.Generator().manual_seed(0)
    heads = stacked_parameters(policy)
    alone = {key: [nn.Parameter(row.clone()) for row in p.detach()] for key, p in heads.items()}
    optimizer_class, settings = OPTIMIZERS[name]
    optimizers = [
        optimizer_class([rows[task] for rows in alone.values()], lr=1e-3, **settings) for task in range(policy.n_tasks)
    ]
    for task in (0, 1, 0, 2, 2, 1, 0, 0, 2):
        give_gradients(policy, task, generator)
        for key, rows in alone.items():
            rows[task].grad = heads[key].grad[task].clone()
        optimizers[task].step()
        step(policy, task)
    for key, rows in alone.items():
        th.testing.assert_close(heads[key], th.stack(list(rows)), rtol=0, atol=0, msg=key)
    assert all(parameter in policy.optimizer.state or name == "plain SGD" for parameter in policy.parameters())
    assert set(policy.optimizer.state) <= set(policy.parameters())  # no row is left behind


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_saved_optimizer_goes_on_to_the_same_bits(name):
    policy, generator = make(name), th.Generator().manual_seed(0)
    for task in (0, 1, 0):  # the third has not begun
        give_gradients(policy, task, generator)
        step(policy, task)
    other = make(name, seed=1)
    other.load_state_dict(copy.deepcopy(policy.state_dict()))
    other.optimizer.load_state_dict(copy.deepcopy(policy.optimizer.state_dict()))
    for task in (2, 1, 2, 0):
        for one in (policy, other):
            give_gradients(one, task, th.Generator().manual_seed(task))
            step(one, task)
    assert all(map(th.equal, policy.parameters(), other.parameters()))


def test_with_all_tasks_it_is_the_optimizers_own_step():
    policies = [make("Adam") for _ in range(2)]
    for one, own in zip(policies, (False, True), strict=True):
        generator = th.Generator().manual_seed(0)
        for _ in range(5):
            for parameter in one.parameters():
                parameter.grad = th.randn(parameter.shape, generator=generator)
            one.optimizer.step() if own else step_of_tasks(one, [True] * 3)
    assert all(map(th.equal, policies[0].parameters(), policies[1].parameters()))
    assert all(set(state) == {"step", "exp_avg", "exp_avg_sq"} for state in policies[0].optimizer.state.values())


def test_all_tasks_after_one_alone():
    """A quarantine took all rows of two tasks once: each goes on with its own averages and count."""
    policy, generator = make("Adam"), th.Generator().manual_seed(0)
    for present in ([True] * 3, [False, True, False], [True] * 3):
        for parameter in policy.parameters():
            parameter.grad = th.randn(parameter.shape, generator=generator)
        step_of_tasks(policy, present)
    state = policy.optimizer.state[policy.log_std]
    assert state["step_of_tasks"].tolist() == [2, 3, 2]


def test_in_joint_a_task_without_a_row_leaves_its_head_as_it_is():
    """Of two tasks the one env has the first."""
    env = mt.TaskEnv(DriftEnv(), "A", ["A", "B"])
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=0, use_rms_prop=False, engine="torch")
    heads = stacked_parameters(model.policy)
    with th.no_grad():
        for p in heads.values():
            p.add_(1.0)
    model.policy.optimizer.param_groups[0]["weight_decay"] = 0.1
    before = {key: p.detach().clone() for key, p in heads.items()}
    model.learn(20)
    for key, p in heads.items():
        assert th.equal(p[1], before[key][1])
        assert not th.equal(p[0], before[key][0])


def test_in_joint_each_task_goes_on_with_its_own_count_after_a_quarantine():
    env = mt.make_multitask_vec_env(drift_tasks(3), 2, seed=0)
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=0, use_rms_prop=False, engine="torch").learn(90)
    for parameter in model.policy.parameters():
        parameter.grad = th.zeros_like(parameter)
    step_of_tasks(model.policy, [True, False, True])  # all rows of B were quarantined
    model.learn(90)
    assert model.policy.optimizer.state[model.policy.log_std]["step_of_tasks"].tolist() == [7, 6, 7]


SETTINGS = [
    {"use_rms_prop": False},
    {"policy_kwargs": {"optimizer_class": th.optim.AdamW}},
    {"policy_kwargs": {"optimizer_kwargs": {"momentum": 0.9, "weight_decay": 0.1}}},
    {"engine": "fast"},
    {"engine": "torch"},
]


@pytest.mark.parametrize("settings", SETTINGS)
def test_in_cycle_waiting_heads_stay_as_they_are(settings):
    """Their weights, and what the optimizer knows of them."""
    env = mt.make_multitask_vec_env(drift_tasks(3), 2, seed=0)
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=0, task_schedule="cycle", **settings).learn(90)
    heads = stacked_parameters(model.policy)

    def copies():
        state = model.policy.optimizer.state
        averages = {
            key: [v.clone() for v in state[p].values() if th.is_tensor(v) and v.shape == p.shape]
            for key, p in heads.items()
        }
        return {key: [p.detach().clone(), *averages[key]] for key, p in heads.items()}

    train, seen = model.train, []

    def watched():
        before, task = copies(), model.env.active_task
        train()
        for key, tensors in copies().items():
            for old, new in zip(before[key], tensors, strict=True):
                others = [i for i in range(3) if i != task]
                assert th.equal(old[others], new[others]), key
                seen.append(not th.equal(old[task], new[task]))

    model.train = watched
    model.learn(90)
    assert np.mean(seen) > 0.9  # those whose turn it is do move
