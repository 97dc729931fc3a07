"""A policy of tasks of different sizes: what is padding has no part in it, and takes no part in a loss."""

import copy

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers.policies import batch_for, make_policy, make_sized_policy, sized_spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.distributions import DiagGaussianDistribution, kl_divergence

import sb3_multitask as mt
from sb3_multitask.losses import A2CLoss, DistillationLoss, GroupedOutputs, GroupedRows, Loss, PPOLoss
from sb3_multitask.policies.distributions import MaskedGaussianDistribution
from sb3_multitask.policies.task_steps import stacked_parameters

MODES = ("per_task", "shared", "state_dependent")
SIZES = [((5, 3, 4), (2, 3, 1), (1.0, 0.5, 1.0)), ((1, 7), (4, 1), (1.0, 1.0)), ((3, 3), (1, 2), (1.0, 1.0))]
TASKS = [0, 1, 1, 0, 1]


def padding_of(policy):
    """Names of parameters -> where they belong to no action or observation of a task; the trunk belongs to all."""
    padding = {}
    is_own = th.from_numpy(policy.sizes.action_mask)
    outputs = is_own.repeat(1, 2) if policy.log_std_mode == "state_dependent" else is_own
    last = len(policy.action_net.layers) - 1
    padding[f"action_net.layers.{last}.weight"] = ~outputs[:, None].expand_as(policy.action_net.layers[last].weight)
    padding[f"action_net.layers.{last}.bias"] = ~outputs
    if policy.log_std_mode == "per_task":
        padding["log_std"] = ~is_own
    return padding


def with_other_padding(policy, seed=1):
    """A copy with other weights in the padding."""
    other, generator = copy.deepcopy(policy), th.Generator().manual_seed(seed)
    with th.no_grad():
        for name, where in padding_of(policy).items():
            parameter = dict(other.named_parameters())[name]
            parameter[where] = th.randn(int(where.sum()), generator=generator) * 10
    return other


def alone(policy, task):
    """A single-task policy of a task's own size with its weights."""
    obs_dim, action_dim = policy.sizes.obs_dims[task], policy.sizes.action_dims[task]
    other = make_policy(1, int(obs_dim), int(action_dim), log_std_mode=policy.log_std_mode)
    stacked = stacked_parameters(policy)
    state = {name: value[task : task + 1] if name in stacked else value for name, value in policy.state_dict().items()}
    for net in ("policy_net", "value_net"):
        state[f"mlp_extractor.{net}.0.weight"] = state[f"mlp_extractor.{net}.0.weight"][:, :obs_dim]
    own = policy.sizes.action_mask[task]
    outputs = np.tile(own, 2) if policy.log_std_mode == "state_dependent" else own
    for name in ("weight", "bias"):
        state[f"action_net.layers.0.{name}"] = state[f"action_net.layers.0.{name}"][..., outputs]
    if "log_std" in state:
        state["log_std"] = state["log_std"][..., own]
    other.load_state_dict(state)
    return other


@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("mode", MODES)
def test_every_task_is_as_a_policy_of_its_own_size(mode, sizes):
    policy = make_sized_policy(*sizes, log_std_mode=mode)
    obs = batch_for(policy, TASKS)
    actions = policy.forward(obs)[0].detach()
    values, log_prob, entropy = policy.evaluate_actions(obs, actions)
    gaussian = policy.action_dist.distribution
    for task in (0, 1):
        rows, obs_dim, n = obs["task"] == task, policy.sizes.obs_dims[task], policy.sizes.action_dims[task]
        single = alone(policy, task)
        mine = {"obs": obs["obs"][rows, :obs_dim], "task": th.zeros(int(rows.sum()), dtype=th.long)}
        for of_all, of_one in zip(
            (values, log_prob, entropy, gaussian.mean[:, :n], gaussian.stddev[:, :n]),
            (*single.evaluate_actions(mine, actions[rows, :n]), single.action_dist.distribution.mean,
             single.action_dist.distribution.stddev), strict=True,
        ):  # fmt: skip
            th.testing.assert_close(of_all[rows], of_one, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("mode", MODES)
def test_padding_changes_nothing(mode):
    policy = make_sized_policy(log_std_mode=mode)
    other, obs = with_other_padding(policy), batch_for(policy, [0, 1, 2, 2])
    noisy = {**obs, "obs": th.where(policy.obs_mask[obs["task"]], obs["obs"], th.nan)}
    results = []
    for one, batch in ((policy, obs), (other, noisy)):
        th.manual_seed(0)
        actions, values, log_prob = one.forward(batch)
        results.append((actions, values, log_prob, one.get_distribution(batch).entropy(), one.predict_values(batch)))
        results[-1] += (one.action_dist.distribution.mean, one.action_dist.distribution.stddev, one.action_dist.mode())
    for mine, theirs in zip(*results, strict=True):
        th.testing.assert_close(mine, theirs, rtol=0, atol=0)


SIZES_OF_TASKS = st.lists(
    st.tuples(st.integers(1, 6), st.integers(1, 4), st.sampled_from([0.4, 1.0, 3.0])), min_size=2, max_size=5
)


@settings(max_examples=15, deadline=None)
@given(SIZES_OF_TASKS, st.sampled_from(MODES), st.integers(0, 2**31))
def test_for_any_sizes_permuted_padding_changes_nothing(sizes, mode, seed):
    policy, rng = make_sized_policy(*zip(*sizes, strict=True), log_std_mode=mode), np.random.default_rng(seed)
    task = rng.integers(len(sizes), size=7)
    obs, is_own = batch_for(policy, task.tolist(), seed), policy.sizes.action_mask[task]
    actions = rng.normal(size=(7, policy.sizes.action_dim)).astype(np.float32)
    permuted, given_actions = copy.deepcopy(policy), actions.copy()
    given_actions[~is_own] = rng.permutation(actions[~is_own])
    given_obs = obs["obs"].clone()
    padding = ~th.from_numpy(policy.sizes.obs_mask[task])
    given_obs[padding] = given_obs[padding][rng.permutation(int(padding.sum()))]
    with th.no_grad():
        for name, where in padding_of(policy).items():
            parameter = dict(permuted.named_parameters())[name]
            parameter[where] = parameter[where][rng.permutation(int(where.sum()))]
    results = []
    for one, all_obs, all_actions in ((policy, obs["obs"], actions), (permuted, given_obs, given_actions)):
        batch = {"obs": all_obs, "task": obs["task"]}
        outputs = one.evaluate_actions(batch, th.from_numpy(all_actions))
        sum(output.sum() for output in outputs).backward()
        th.manual_seed(0)
        numpy_batch = {"obs": all_obs.numpy(), "task": task}
        results.append([*outputs, th.from_numpy(one.predict(numpy_batch, deterministic=True)[0])])
        results[-1] += [th.from_numpy(one.predict(numpy_batch)[0])]
        results[-1] += [parameter.grad for parameter in one.parameters() if parameter.grad is not None]
    for mine, theirs in zip(*results, strict=True):
        th.testing.assert_close(mine, theirs, rtol=0, atol=0)
    for name, where in padding_of(policy).items():
        assert not dict(policy.named_parameters())[name].grad[where].any()
    assert not results[0][3].numpy()[~is_own].any()
    for i, (obs_dim, action_dim, high) in enumerate(sizes):
        one, _ = policy.predict({"obs": np.ones(obs_dim), "task": i})
        assert one.shape == (action_dim,)
        assert (np.abs(one) <= np.float32(high)).all()


@pytest.mark.parametrize("mode", MODES)
def test_in_the_padding_a_gaussian_is_the_standard_one_and_its_samples_are_zero(mode):
    policy = make_sized_policy(log_std_mode=mode)
    obs = batch_for(policy, [0, 1, 2])
    is_own = policy.action_mask[obs["task"]]
    dist = policy.get_distribution(obs)
    assert not dist.distribution.mean[~is_own].any()
    assert (dist.distribution.stddev[~is_own] == 1).all()
    th.manual_seed(0)
    sample = dist.sample()
    th.manual_seed(0)
    noise = th.randn(3, 3)  # of all dimensions, as without padding
    assert not sample[~is_own].any()
    expected = dist.distribution.mean + noise * dist.distribution.stddev
    th.testing.assert_close(sample[is_own], expected[is_own])


@pytest.mark.parametrize("mode", MODES)
def test_gradients_are_exactly_zero_in_the_padding(mode):
    policy = make_sized_policy(log_std_mode=mode)
    obs = batch_for(policy, [0, 1, 2, 0])
    with th.no_grad():
        old = copy.copy(with_other_padding(policy).get_distribution(obs))
        actions = old.sample()
    values, log_prob, entropy = policy.evaluate_actions(obs, actions)
    kl = kl_divergence(old, policy.action_dist)
    assert not kl[~policy.action_mask[obs["task"]]].any()
    (log_prob.sum() + entropy.sum() + kl.sum() + values.sum() + policy.action_dist.distribution.stddev.log().sum()
     ).backward()  # fmt: skip
    for name, where in padding_of(policy).items():
        gradient = dict(policy.named_parameters())[name].grad
        assert (gradient[where] == 0).all(), name
        assert gradient[~where].any(), name


@pytest.mark.parametrize("net_arch", [None, {"pi": [], "vf": []}])
def test_a_task_gives_the_weights_of_numbers_that_it_does_not_have_no_gradient(net_arch):
    policy = make_sized_policy(net_arch=net_arch, head_arch={"pi": [4], "vf": [4]})
    obs = batch_for(policy, [1, 1])  # 3 of 5 numbers
    values, log_prob, _ = policy.evaluate_actions(obs, policy.forward(obs)[0].detach())
    (values.sum() + log_prob.sum()).backward()
    named = dict(policy.named_parameters())
    of_numbers = (
        [named[f"mlp_extractor.{net}.0.weight"].grad.T for net in ("policy_net", "value_net")]
        if net_arch is None
        else [named[f"{net}.layers.0.weight"].grad[1] for net in ("action_net", "value_net")]
    )
    for gradient in of_numbers:  # (obs_dim, out)
        assert gradient[:3].any()
        assert not gradient[3:].any()


def test_without_padding_it_is_sb3s_gaussian_bit_for_bit():
    observation_space, action_space = sized_spaces((4, 4), (2, 2), (1.0, 0.5))
    th.manual_seed(0)
    policy = mt.MultiTaskActorCriticPolicy(observation_space, action_space, lambda _: 1e-3)
    plain = make_policy(2)
    assert type(policy.action_dist) is DiagGaussianDistribution
    assert type(make_sized_policy().action_dist) is MaskedGaussianDistribution
    assert policy.state_dict().keys() == plain.state_dict().keys() == make_sized_policy().state_dict().keys()
    for one, other in zip(
        policy.forward(batch_for(policy, [0, 1])), plain.forward(batch_for(plain, [0, 1])), strict=True
    ):
        assert one.shape == other.shape
    (mine, _, _), (theirs, _, _) = (
        (th.manual_seed(0), p.evaluate_actions(batch_for(p, [0, 1]), th.zeros(2, 2)))[1] for p in (policy, plain)
    )
    assert th.equal(mine, theirs)


# predict


def test_one_observation_has_its_tasks_size_or_is_padded_and_gets_an_action_of_its_tasks_size():
    policy = make_sized_policy()
    obs = np.random.default_rng(0).normal(size=5) * 9
    for task, (obs_dim, action_dim, high) in enumerate(zip((5, 3, 4), (2, 3, 1), (1.0, 0.5, 1.0), strict=True)):
        actions = [
            policy.predict({"obs": given, "task": task}, deterministic=True)[0] for given in (obs, obs[:obs_dim])
        ]
        assert actions[0].shape == (action_dim,)
        np.testing.assert_array_equal(*actions)
        many = np.concatenate([policy.predict({"obs": obs, "task": task})[0] for _ in range(30)])
        assert np.abs(many).max() == np.float32(high)


def test_a_batch_is_padded_and_gets_padded_actions_within_the_bounds_of_their_tasks():
    policy = make_sized_policy()
    obs = np.random.default_rng(0).normal(size=(60, 5)) * 9
    task = np.arange(60) % 3
    actions, _ = policy.predict({"obs": obs, "task": task})
    assert actions.shape == (60, 3)
    assert not actions[~policy.sizes.action_mask[task]].any()
    assert [np.abs(actions[task == i]).max() for i in range(3)] == [1.0, 0.5, 1.0]
    own, wide = (policy.predict({"obs": given, "task": 1}, deterministic=True)[0] for given in (obs[:, :3], obs))
    np.testing.assert_array_equal(own, wide)


@pytest.mark.parametrize(
    ("shape", "task", "words"),
    [
        ((4,), 1, ["task 1", r"\(3,\)", r"\(5,\)", r"\(4,\)"]),
        ((2, 4), [2, 1], ["task 1", r"\(n_rows, 5\)", r"\(n_rows, 3\)", r"\(2, 4\)"]),
        ((6,), 0, ["task 0", r"\(5,\)", r"\(6,\)"]),
        ((), 2, ["task 2", r"\(4,\)"]),
    ],
)
def test_other_sizes_are_refused(shape, task, words):
    for word in words:
        with pytest.raises(ValueError, match=word):
            make_sized_policy().predict({"obs": np.zeros(shape), "task": task})


def test_bounds_may_differ_without_padding():
    policy = make_sized_policy((2, 2), (1, 1), (1.0, 0.25))
    assert not policy.sizes.has_padding
    actions, _ = policy.predict({"obs": np.zeros((40, 2)), "task": np.arange(40) % 2})
    assert [np.abs(actions[i::2]).max() for i in range(2)] == [1.0, 0.25]


# Losses of arrays

LOSSES = [
    *(A2CLoss(0.7, 0.1, 0.3), PPOLoss(0.5, None, 0.7, 0.1, 0.3), PPOLoss(0.9, 0.2)),
    *(DistillationLoss(kind, 0.7) for kind in ("forward_kl", "reverse_kl", "mse")),
]


def sized_rows(action_dims, m=5, seed=0):
    """Rows and outputs of tasks with so many actions each, in their canonical form, float64."""
    rng, k, n = np.random.default_rng(seed), len(action_dims), max(action_dims)
    is_own = np.arange(n) < np.array(action_dims)[:, None, None]

    def draw(*shape):
        array = rng.normal(size=(k, *shape)) * 0.5
        return array * is_own if shape[-1] == n else array

    names = ("actions", "teacher_mean", "teacher_log_std")
    columns = {**{name: draw(m, n) for name in names}, **{name: draw(m, 1) for name in ("advantages", "returns")}}
    rows = GroupedRows(np.arange(k), **columns, old_values=draw(m, 1), old_log_prob=draw(m, 1) - 2)
    return rows, GroupedOutputs(rows, draw(m, n), draw(1, n), draw(m, 1), np.array(action_dims))


def of_task(rows, outputs, task, n):
    """The same rows of one task, of its own size."""
    place = slice(task, task + 1)
    columns = {
        name: getattr(rows, name)[place][..., :n]
        for name in (
            "actions",
            "advantages",
            "returns",
            "teacher_mean",
            "teacher_log_std",
            "old_values",
            "old_log_prob",
        )
    }
    own = GroupedRows(rows.tasks[place], **columns, n_rows=rows.n_rows)
    return own, GroupedOutputs(own, *(getattr(outputs, name)[place][..., :n] for name in ("mean", "log_std", "values")))


@pytest.mark.parametrize("face", ["compiled", "arrays"])
@pytest.mark.parametrize("loss", LOSSES, ids=str)
@pytest.mark.parametrize("action_dims", [(2, 4, 3), (5, 2)])
def test_a_loss_of_padded_rows_is_that_of_each_task_alone(action_dims, loss, face):
    rows, outputs = sized_rows(action_dims)
    evaluate = loss.evaluate_groups if face == "compiled" else lambda *given: Loss.evaluate_groups(loss, *given)
    gradient, sums = evaluate(rows, outputs)
    for task, n in enumerate(action_dims):
        expected, expected_sums = evaluate(*of_task(rows, outputs, task, n))
        np.testing.assert_allclose(gradient.mean[task, :, :n], expected.mean[0], rtol=1e-9)
        np.testing.assert_allclose(gradient.log_std[task, :n], expected.log_std[0], rtol=1e-9)
        np.testing.assert_allclose(sums.of_tasks[task], expected_sums.of_tasks[0], rtol=1e-9)
        assert not gradient.mean[task, :, n:].any()
        assert not gradient.log_std[task, n:].any()


def test_hand_worked_log_probability_and_entropy():
    rows = GroupedRows(np.arange(2), np.array([[[0.0, 0]], [[1, 0]]]), np.ones((2, 1, 1)), np.ones((2, 1, 1)))
    outputs = GroupedOutputs(rows, np.zeros((2, 1, 2)), np.zeros((2, 1, 2)), np.zeros((2, 1, 1)), np.array([2, 1]))
    half_log_2_pi = 0.5 * np.log(2 * np.pi)
    np.testing.assert_allclose(outputs.log_prob.ravel(), [-2 * half_log_2_pi, -0.5 - half_log_2_pi])
    np.testing.assert_allclose(outputs.entropy.ravel(), [2 * (0.5 + half_log_2_pi), 0.5 + half_log_2_pi])


def test_plain_spaces_have_no_padding():
    policy = make_policy(2)
    assert policy.task_space is None
    assert isinstance(policy.observation_space["task"], spaces.Discrete)
    assert not policy.sizes.has_padding
