"""Distral: rewards regularised towards a policy that all tasks share, which learns from all of them."""

import copy
import math
from itertools import pairwise

import numpy as np
import pytest
import torch as th
from helpers.drift import drift_tasks, recorded_tasks, sized_tasks
from helpers.models import make_model, weights_equal
from helpers.policies import batch_for, make_policy, make_sized_policy
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import DictRolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import set_random_seed

import sb3_multitask as mt
from sb3_multitask.agents import agent_of
from sb3_multitask.algorithms.engine import TorchEngine
from sb3_multitask.algorithms.rollout_buffer import TaskRolloutBufferSamples, generalized_advantages
from sb3_multitask.experiments.algorithms import make_algorithm
from sb3_multitask.experiments.config import ConfigError, TrainConfig, make_config
from sb3_multitask.losses import A2CLoss, DistralLoss, Outputs, gaussian_kl
from sb3_multitask.losses.loss import terms_of_samples
from sb3_multitask.policies.products import product_of_log_stds, weights_of_products
from sb3_multitask.readers import UnreadableFileError

ALGORITHMS = {
    "a2c": (mt.A2CMultiTask, {"learning_rate": 3e-3}),
    "ppo": (mt.PPOMultiTask, {"n_steps": 8, "batch_size": 12, "n_epochs": 2, "learning_rate": 3e-3}),
}
FORMS = {
    "1col": {"distral": mt.Distral(0.1, 0.05, "1col")},
    "2col": {"distral": mt.Distral(0.1, 0.05, "2col")},
    "1col, hidden": {"distral": mt.Distral(0.1, 0.05, "1col"), "policy_kwargs": {"head_arch": {"pi": [6, 5]}}},
    "2col, hidden": {"distral": mt.Distral(0.1, 0.05, "2col"), "policy_kwargs": {"head_arch": {"pi": [6, 5]}}},
    "2col, no trunk": {
        "distral": mt.Distral(0.1, 0.05, "2col"),
        "policy_kwargs": {"net_arch": [], "head_arch": {"pi": [7]}},
    },
}


def model_of(name="a2c", form="1col", tasks=None, n_envs=2, seed=0, normalize=True, **kwargs):
    made, settings = ALGORITHMS[name]
    env = mt.make_multitask_vec_env(tasks or drift_tasks(3), n_envs, seed=seed, normalize=normalize)
    return made("MultiTaskMlpPolicy", env, seed=seed, device="cpu", **{**settings, **FORMS.get(form, {}), **kwargs})


def trained(*args, steps=400, **kwargs):
    """A model after some updates, with weights that are far from the first ones."""
    model = model_of(*args, **kwargs).learn(steps)
    with th.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(th.randn_like(parameter), alpha=0.2)
    return model


def raw_observations(n_rows=30, n_tasks=3, obs_dim=3):
    return {"obs": np.random.default_rng(0).normal(size=(n_rows, obs_dim)), "task": np.arange(n_rows) % n_tasks}


def as_the_model_sees(model, raw):
    normalizer = model.get_vec_normalize_env()
    obs = raw if normalizer is None else normalizer.normalize_obs(copy.deepcopy(raw))
    return {"obs": obs["obs"].astype(np.float32), "task": raw["task"]}


def gaussians_of(policy, observations):
    """Means and standard deviations of the tasks' policies and of the shared one, for observations."""
    tensors = {name: th.as_tensor(value) for name, value in observations.items()}
    with th.no_grad():
        task = policy.get_distribution(tensors).distribution
    return *(part.numpy() for part in (task.mean, task.stddev)), *(
        part.detach().numpy() for part in (policy.shared_dist.distribution.mean, policy.shared_dist.distribution.stddev)
    )


# The objective


def test_alpha_and_beta_are_the_papers():
    distral = mt.Distral(c_kl=0.3, c_ent=0.1)
    assert (distral.alpha, distral.beta) == pytest.approx((0.75, 2.5))
    assert distral.alpha / distral.beta == pytest.approx(0.3)
    assert 1 / distral.beta == pytest.approx(0.4)
    assert [mt.Distral(0.3, 0.1, form).shared_power for form in ("1col", "2col")] == [0, pytest.approx(0.75)]


def test_hand_worked_rewards():
    extra = mt.Distral(c_kl=0.5, c_ent=0.25).reward(np.array([-1.0, -2.0]), np.array([-3.0, -1.0]))
    np.testing.assert_allclose(extra, [0.5 * -3 + 0.75 * 1, 0.5 * -1 + 0.75 * 2])


def test_alpha_0_is_entropy_and_alpha_1_is_kl():
    log_prob, shared = np.array([-1.0, 0.5]), np.array([-4.0, 2.0])
    np.testing.assert_allclose(mt.Distral(0.0, 0.2).reward(log_prob, shared), -0.2 * log_prob)
    np.testing.assert_allclose(mt.Distral(0.2, 0.0).reward(log_prob, shared), -0.2 * (log_prob - shared))
    np.testing.assert_array_equal(mt.Distral(0.2, 0.0).reward(log_prob, log_prob), 0)
    assert (mt.Distral(0.0, 0.2).alpha, mt.Distral(0.2, 0.0).alpha) == (0, 1)


def quadrature(mean, log_std):
    """Actions of a Gaussian in one dimension and their weights, with which expectations of polynomials are exact."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(20)
    return mean + log_std.exp() * th.as_tensor(nodes), th.as_tensor(weights / weights.sum())


def test_one_steps_policy_gradient_is_that_of_kl_and_entropy():
    """The advantages have the log terms as numbers; the derivative of these where they are written is left out."""
    mean, log_std = (th.tensor(x, dtype=th.float64, requires_grad=True) for x in (0.4, -0.3))
    shared = th.distributions.Normal(th.tensor(-0.2).double(), th.tensor(1.5).double())
    ours, distral = th.distributions.Normal(mean, log_std.exp()), mt.Distral(0.3, 0.2)
    actions, weights = (x.detach() for x in quadrature(mean, log_std))
    log_prob, shared_log_prob = ours.log_prob(actions), shared.log_prob(actions)
    extra = th.as_tensor(distral.reward(log_prob.detach().numpy(), shared_log_prob.numpy()))
    by_policy_gradient = th.autograd.grad((weights * extra * log_prob).sum(), (mean, log_std), retain_graph=True)
    expectation = -0.3 * th.distributions.kl_divergence(ours, shared) + 0.2 * ours.entropy()
    assert (weights * extra).sum().item() == pytest.approx(expectation.item())
    th.testing.assert_close(by_policy_gradient, th.autograd.grad(expectation, (mean, log_std)))


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"c_kl": -0.1, "c_ent": 0.1}, ValueError, r"`c_kl` of Distral must be .* at least 0 \(got -0.1\)"),
        ({"c_kl": 0.1, "c_ent": math.inf}, ValueError, r"`c_ent` of Distral .*\(got inf\)"),
        ({"c_kl": 0.1, "c_ent": "a"}, TypeError, r"`c_ent` of Distral .*\(got 'a'\)"),
        ({"c_kl": 0, "c_ent": 0}, ValueError, "both 0"),
        (
            {"c_kl": 1, "c_ent": 0, "form": "3col"},
            ValueError,
            r"`form` of Distral must be one of 1col, 2col \(got '3col'",
        ),
    ],
)
def test_other_settings_are_refused(kwargs, error, message):
    with pytest.raises(error, match=message):
        mt.Distral(**kwargs)


# The loss of the shared policy


def two_tasks_two_actions(shared_mean, shared_log_std):
    """Actions 1 of task 0 and 3 of task 1, which N(1, 1) and N(2, 0.5^2) give; and what the shared policy gives."""
    actions = th.tensor([[1.0], [3.0]], dtype=th.float64)
    own = th.distributions.Normal(th.tensor([[1.0], [2.0]]).double(), th.tensor([[1.0], [0.5]]).double())
    shared = th.distributions.Normal(shared_mean.expand(2, 1), shared_log_std.exp().expand(2, 1))
    zeros = th.zeros(2, dtype=th.float64)
    of_shared = {"shared_log_prob": shared.log_prob(actions).sum(1), "shared_distribution": shared}
    outputs = Outputs(zeros, own.log_prob(actions).sum(1), zeros, own, **of_shared)
    return TaskRolloutBufferSamples({}, actions, zeros, zeros, zeros, zeros), outputs


def test_hand_worked_loss_of_two_tasks_and_two_actions():
    samples, outputs = two_tasks_two_actions(th.tensor([0.0]).double(), th.tensor([math.log(2)]).double())
    loss = DistralLoss(coef=0.3)
    rows, terms = loss.rows(samples, outputs), loss.terms(samples, outputs)
    constant = 0.5 * math.log(2 * math.pi) + math.log(2)
    losses = [constant + 1 / 8, constant + 9 / 8]
    kls = [math.log(2) + (1 + 1) / 8 - 0.5, math.log(4) + (0.25 + 4) / 8 - 0.5]
    found = terms_of_samples(loss, rows, terms, th.tensor([0, 1]), 3)
    np.testing.assert_allclose(found.of_tasks, np.transpose([losses, kls]))
    assert found.pooled == pytest.approx((np.mean(losses), np.mean(kls)))
    assert found.weighted() == pytest.approx(0.3 * np.mean(losses))


def test_the_loss_against_finite_differences():
    def loss_of(mean, log_std):
        loss = DistralLoss(coef=0.3)
        return loss.weighted(loss.terms(*two_tasks_two_actions(mean, log_std)))

    given = [th.tensor([x], dtype=th.float64, requires_grad=True) for x in (0.3, -0.2)]
    assert th.autograd.gradcheck(loss_of, given)


def test_the_shared_policy_learns_the_centroid_of_what_all_tasks_did():
    """The best Gaussian has the mean 2 and the standard deviation 1 of the actions 1 and 3."""
    mean, log_std = (th.tensor([x], dtype=th.float64, requires_grad=True) for x in (2.0, 0.0))
    loss = DistralLoss(coef=0.3)
    found = th.autograd.grad(loss.weighted(loss.terms(*two_tasks_two_actions(mean, log_std))), (mean, log_std))
    assert [gradient.item() for gradient in found] == pytest.approx([0, 0])


# The policy


def far_policy(**kwargs):
    policy = make_policy(**kwargs)
    with th.no_grad():
        for parameter in policy.parameters():
            parameter.add_(th.randn_like(parameter), alpha=0.3)
    return policy


@pytest.mark.parametrize("power", [0.25, 1.0])
def test_two_columns_are_the_product_of_densities(power):
    policy = far_policy(shared_policy=power, action_dim=1)
    observations, grid = batch_for(policy, [0, 1, 2]), np.linspace(-30, 30, 200_001)[:, None]
    mean, std, shared_mean, shared_std = (part[:, 0] for part in gaussians_of(policy, observations))
    vectors, rows, task = policy.split_observation(observations)
    own_mean = policy.action_net(policy._latents(vectors, task)[0], rows).detach().numpy()[:, 0]
    own_std = policy.log_std.detach().exp().numpy()[:, 0]
    density = np.exp(
        -power * (grid - shared_mean) ** 2 / (2 * shared_std**2) - (grid - own_mean) ** 2 / (2 * own_std**2)
    )
    density /= density.sum(axis=0)
    by_sums = (density * grid).sum(axis=0)
    np.testing.assert_allclose(mean, by_sums, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(std, np.sqrt((density * (grid - by_sums) ** 2).sum(axis=0)), rtol=1e-4)
    np.testing.assert_allclose(policy.task_log_std.detach().exp()[:, 0], std, rtol=1e-6)


def test_gradients_of_products_against_finite_differences():
    def product(shared_mean, shared_log_std, mean, log_std):
        found, share = product_of_log_stds(shared_log_std, log_std, 0.6)
        return mean + share * (shared_mean - mean), found

    generator = th.Generator().manual_seed(0)
    shapes = ((5, 2), (2,), (5, 2), (5, 2))
    given = [th.randn(*s, generator=generator, dtype=th.float64, requires_grad=True) for s in shapes]
    assert th.autograd.gradcheck(product, given)


def test_one_column_is_the_policy_without_a_shared_one():
    plain, policy = make_policy(head_arch={"pi": [6]}), make_policy(head_arch={"pi": [6]}, shared_policy=0.0)
    own = policy.state_dict()
    assert all(th.equal(tensor, own[name]) for name, tensor in plain.state_dict().items())
    assert own.keys() - plain.state_dict().keys() == {
        *(f"shared_head.layers.{i}.{part}" for i in (0, 1) for part in ("weight", "bias")),
        *("shared_log_std", "shared_power"),
    }
    observations, actions = batch_for(plain, [0, 1, 2, 1]), th.ones(4, 2)
    for first, second in zip(
        plain.evaluate_actions(observations, actions), policy.evaluate_actions(observations, actions), strict=True
    ):
        assert th.equal(first, second)


@pytest.mark.parametrize("power", [0.0, 0.5])
def test_where_gradients_flow(power):
    """The policy gradient reaches the shared head in two columns alone; the likelihood reaches no task's head."""
    policy = far_policy(shared_policy=power)
    _, log_prob, _ = policy.evaluate_actions(batch_for(policy, [0, 1, 2, 1]), th.ones(4, 2))
    shared_log_prob = policy.shared_dist.log_prob(th.ones(4, 2))
    heads = [policy.shared_head.layers[0].weight, policy.shared_log_std, policy.action_net.layers[0].weight]

    def reached(rows):
        gradients = th.autograd.grad(rows.sum(), heads, retain_graph=True, allow_unused=True)
        return [gradient is not None and bool(gradient.any()) for gradient in gradients]

    assert reached(log_prob) == [power > 0, power > 0, True]
    assert reached(shared_log_prob) == [True, True, False]


def test_the_shared_policy_counts_a_tasks_own_actions_only():
    policy = make_sized_policy(shared_policy=0.5)
    observations = batch_for(policy, [0, 1, 2])
    actions = th.randn(3, 3) * policy.action_mask
    policy.evaluate_actions(observations, actions)
    found, shared = policy.shared_dist.log_prob(actions), policy.shared_dist.distribution
    for row, n in enumerate((2, 3, 1)):
        own = th.distributions.Normal(shared.mean[row, :n], policy.shared_log_std.exp()[:n])
        th.testing.assert_close(found[row], own.log_prob(actions[row, :n]).sum())


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"shared_policy": 1.5}, r"`shared_policy` must be None or a number from 0 to 1.*\(got 1.5\)"),
        ({"share": "all"}, "`share='all'` does not go with a shared policy"),
        ({"task_embedding": 3}, "`task_embedding=3` does not go"),
        ({"log_std_mode": "shared"}, "`log_std_mode='shared'` does not go"),
        ({"log_std_mode": "state_dependent"}, "`log_std_mode='state_dependent'` does not go"),
    ],
)
def test_policies_that_leave_no_place_for_a_shared_one(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make_policy(**{"shared_policy": 0.0, **kwargs})


def test_others_do_not_train_a_policy_with_a_shared_one(venv):
    sb3 = PPO(mt.MultiTaskActorCriticPolicy, venv, n_steps=8, batch_size=8, policy_kwargs={"shared_policy": 0.0})
    with pytest.raises(ValueError, match=r"`shared_policy=0.0` is for A2CMultiTask and PPOMultiTask with `distral`"):
        sb3.learn(60)
    for algorithm in (mt.A2CMultiTask, mt.TRPOMultiTask):
        with pytest.raises(ValueError, match=r"`policy_kwargs` has shared_policy=0.0, and `distral` is None"):
            algorithm("MultiTaskMlpPolicy", venv, policy_kwargs={"shared_policy": 0.0})


# Rollouts and updates


class AtTheEnd(BaseCallback):
    """Calls a function with the model at the end of each rollout."""

    def __init__(self, function):
        super().__init__()
        self.function = function

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.function(self.model)


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("form", ["1col", "2col"])
def test_rewards_advantages_and_returns_are_regularised(name, form):
    model, seen = model_of(name, form), {}
    model.learn(0)
    callback = AtTheEnd(lambda m: seen.update(rewards=m.rollout_buffer.rewards.copy()))
    callback.init_callback(model)
    buffer, n = model.rollout_buffer, model.n_steps
    for _ in range(3):  # episodes end and begin within
        assert model.collect_rollouts(model.env, callback, buffer, n)
    rows = {key: th.as_tensor(buffer.by_step(key).reshape(6 * n, -1)) for key in ("obs", "task", "actions")}
    with th.no_grad():
        _, log_prob, _ = model.policy.evaluate_actions({k: rows[k] for k in ("obs", "task")}, rows["actions"])
        shared_log_prob = model.policy.shared_dist.log_prob(rows["actions"])
    extra = (0.1 * shared_log_prob - 0.15 * log_prob).numpy().reshape(n, 6)
    np.testing.assert_allclose(buffer.rewards, seen["rewards"] + extra, atol=1e-5)
    last = model.policy.predict_values(model.policy.obs_to_tensor(model._last_obs)[0]).detach().numpy().reshape(1, 6)
    starts = np.concatenate([buffer.episode_starts, model._last_episode_starts[None]])
    assert starts[1:].any()
    values = np.concatenate([buffer.values, last])
    wanted = generalized_advantages(buffer.rewards, values, starts, model.gamma, model.gae_lambda)
    np.testing.assert_allclose(buffer.advantages, wanted, atol=1e-5)
    np.testing.assert_allclose(buffer.returns, wanted + buffer.values, atol=1e-5)


def test_neither_the_normaliser_nor_the_returns_in_the_log_see_the_terms():
    models = [model_of(distral=mt.Distral(0.0, c_ent), n_steps=20) for c_ent in (1e-6, 50.0)]
    for model in models:
        set_random_seed(3)
        model.learn(120)  # one rollout
    first, second = models
    for part in ("mean", "var", "count"):
        ours, others = (getattr(model.get_vec_normalize_env().ret_rms, part) for model in models)
        np.testing.assert_array_equal(ours, others)
    assert first.task_ep_info_buffers["A"]
    assert [e["r"] for e in first.ep_info_buffer] == [e["r"] for e in second.ep_info_buffer]
    assert np.abs(second.rollout_buffer.rewards).max() > 5 > np.abs(first.rollout_buffer.rewards).max()


@pytest.mark.parametrize("name", ALGORITHMS)
def test_alpha_0_trains_as_without_distral_on_rewards_with_entropies(name):
    def add_entropies(model):
        model.rollout_buffer.add_rewards(-0.2 * model.rollout_buffer.log_probs)

    unclipped = {"max_grad_norm": 1e9}  # the sum of more squares, though of zeros, is rounded in another order
    plain = model_of(name, None, engine="torch", **unclipped)
    with_distral = model_of(name, distral=mt.Distral(c_kl=0.0, c_ent=0.2), **unclipped)
    shared = with_distral.policy.shared_head.layers[0].weight.clone()
    for model, callback in ((plain, AtTheEnd(add_entropies)), (with_distral, None)):
        set_random_seed(1)
        model.learn(300, callback)
    weights = with_distral.policy.state_dict()
    assert all(th.equal(tensor, weights[key]) for key, tensor in plain.policy.state_dict().items())
    assert th.equal(weights["shared_head.layers.0.weight"], shared)  # which learned nothing


def test_an_update_is_along_both_losses():
    model = model_of("a2c", "2col", ent_coef=0.01)
    model.learn(30)
    engine, policy = TorchEngine(model), model.policy
    (batch,) = engine.batches(model.rollout_buffer, None, normalize_advantage=False)
    engine.evaluate([A2CLoss(1.0, 0.01, 0.5), *model.shared_losses()], batch)
    found = {name: parameter.grad.clone() for name, parameter in policy.named_parameters()}
    values, log_prob, entropy = policy.evaluate_actions(batch.observations, batch.actions)
    loss = -(batch.advantages * log_prob).mean() - 0.01 * entropy.mean()
    loss = loss + 0.5 * ((batch.returns - values.flatten()) ** 2).mean()
    loss = loss - 0.1 * policy.shared_dist.log_prob(batch.actions).mean()
    policy.optimizer.zero_grad()
    loss.backward()
    for name, parameter in policy.named_parameters():
        th.testing.assert_close(found[name], parameter.grad, msg=name)


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("schedule", ["joint", "cycle"])
def test_all_heads_and_the_shared_one_learn(name, form, schedule):
    model = model_of(name, form, task_schedule=schedule)
    before = copy.deepcopy(model.policy.state_dict())
    model.learn(300)
    after = model.policy.state_dict()
    assert all(tensor.isfinite().all() for tensor in after.values())
    for head in ("action_net", "value_net", "shared_head"):
        weight = f"{head}.layers.0.weight"
        assert all(not th.equal(one, other) for one, other in zip(before[weight], after[weight], strict=True))
    assert not th.equal(before["shared_log_std"], after["shared_log_std"])
    assert th.equal(before["shared_power"], after["shared_power"])
    assert model.last_engine == "torch"


@pytest.mark.parametrize("form", ["1col", "2col"])
@pytest.mark.parametrize("name", ALGORITHMS)
def test_policies_whose_rewards_say_nothing_become_alike(name, form):
    own = {"n_steps": 32, "batch_size": 192, "n_epochs": 4} if name == "ppo" else {}
    model = trained(name, form, steps=0, tasks=recorded_tasks(), n_envs=8, distral=mt.Distral(1.0, 0.0, form), **own)
    observations = {
        "obs": np.random.default_rng(0).normal(size=(300, 3)).astype(np.float32),
        "task": np.arange(300) % 3,
    }

    def kl():
        mean, std, shared_mean, shared_std = map(th.as_tensor, gaussians_of(model.policy, observations))
        return gaussian_kl(mean, std.log(), shared_mean, shared_std.log()).mean().item()

    before = kl()
    model.learn(10_000)
    assert kl() < before / 2


@pytest.mark.parametrize("c_kl", [0.0, 0.3])
def test_the_entropy_grows_and_the_shared_policy_follows(c_kl):
    model = model_of("a2c", tasks=recorded_tasks(), n_envs=8, distral=mt.Distral(c_kl, 0.3)).learn(15_000)
    assert model.policy.log_std.min() > 0.1
    assert (model.policy.shared_log_std.min() > 0.05) == (c_kl > 0)


def test_in_cycle_waiting_heads_stay_while_the_shared_one_learns():
    model, seen = model_of("a2c", task_schedule="cycle", use_rms_prop=False), []
    names = ("log_std", "shared_log_std")
    at_the_end = AtTheEnd(lambda m: seen.append({name: m.policy.state_dict()[name].clone() for name in names}))
    model.learn(150, at_the_end)
    for i, (before, after) in enumerate(pairwise(seen)):  # between two ends of rollouts is one update
        stays = [th.equal(before["log_std"][task], after["log_std"][task]) for task in range(3)]
        assert stays == [task != i % 3 for task in range(3)]
        assert not th.equal(before["shared_log_std"], after["shared_log_std"])
    assert len(seen) > 6


def test_logs_of_each_task():
    model = model_of("a2c", "2col").learn(60)
    logged = model.logger.name_to_value
    for task in "ABC":
        assert {f"distral/{task}/{term}" for term in ("kl", "loss", "reward")} <= logged.keys()
        assert logged[f"distral/{task}/kl"] > 0
    assert logged["train/distral_loss"] == pytest.approx(
        np.mean([logged[f"distral/{t}/loss"] for t in "ABC"]), rel=1e-5
    )
    assert logged["train/A/std"] == pytest.approx(model.policy.task_log_std[0].exp().mean().item(), rel=1e-6)


@pytest.mark.parametrize(
    "kwargs",
    [
        {"gradient_combiner": "pcgrad", "conflict_freq": 1},
        {"task_weights": {"A": 2.0, "B": 0.0}},
        {"policy_kwargs": {"value_norm": "popart"}},
        {"policy_kwargs": {"layer_norm": True, "head_arch": {"pi": [4]}}},
        {"normalize": False},
        {"tasks": sized_tasks()},
    ],
)
@pytest.mark.parametrize("form", ["1col", "2col"])
def test_with_what_else_there_is(form, kwargs):
    model = model_of("a2c", form, **kwargs).learn(100)
    assert all(tensor.isfinite().all() for tensor in model.policy.state_dict().values())


def test_while_the_actor_waits_the_shared_policy_does_too():
    model = model_of("a2c", rl_coef=mt.PiecewiseConstant({0: 0.0, 0.5: 1.0}))
    before = model.policy.shared_head.layers[0].weight.clone()
    model.learn(60, AtTheEnd(lambda m: None))
    assert not th.equal(before, model.policy.shared_head.layers[0].weight)
    waiting = model_of("a2c", rl_coef=0.0)
    before = waiting.policy.shared_head.layers[0].weight.clone()
    waiting.learn(60)
    assert th.equal(before, waiting.policy.shared_head.layers[0].weight)


# What does not go with it


def test_the_fast_engine_is_refused(venv):
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", venv, engine="fast", distral=mt.Distral(0.1, 0.1))
    with pytest.raises(ValueError, match=r'`engine="fast"` does not apply: the policy has a shared policy \(Distral\)'):
        model.learn(60)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"teachers": dict.fromkeys("ABC", lambda obs: obs[:, :2])}, ValueError, "`distral` .*`teachers`"),
        ({"policy_kwargs": {"share": "all"}}, ValueError, "`share='all'` does not go with"),
        ({"policy_kwargs": {"shared_policy": 0.5}}, ValueError, "has shared_policy=0.5, with which the model was made"),
        ({"distral": 0.1}, TypeError, r"`distral` must be None, a Distral, .*\(got 0.1\)"),
        ({"distral": {"c_kl": 0.1}}, TypeError, "`distral` needs c_ent"),
        ({"distral": {"c_kl": 0.1, "c_en": 1}}, TypeError, "no argument 'c_en'. Did you mean 'c_ent'"),
        ({"rollout_buffer_class": DictRolloutBuffer, "distral": {"c_kl": 0.1, "c_ent": -1}}, ValueError, "`c_ent`"),
    ],
)
def test_refused_arguments(kwargs, error, message):
    with pytest.raises(error, match=message):
        model_of(**kwargs)


def test_a_task_named_shared_is_refused():
    tasks = [
        mt.Task(name, task.env_id, task.env_kwargs) for name, task in zip(("A", "shared"), drift_tasks(), strict=False)
    ]
    with pytest.raises(ValueError, match="no task may have the name 'shared'"):
        model_of(tasks=tasks)
    plain = make_model(tasks)  # without it any name will do
    mt.transfer(plain, plain, {"A": "shared"})
    assert th.equal(plain.policy.log_std[0], plain.policy.log_std[1])


class OwnPPO(mt.algorithms.MultiTaskOnPolicyAlgorithm, PPO):
    def __init__(self, policy, env, distral=None, _init_setup_model=True, **kwargs):
        self.begin("joint", "torch", 8)
        self.learn_from()
        self.share_policy(distral)
        super().__init__(policy, env, n_steps=8, batch_size=8, _init_setup_model=_init_setup_model, **kwargs)


def test_an_algorithm_that_would_ignore_it_is_refused(venv):
    OwnPPO("MultiTaskMlpPolicy", venv)
    with pytest.raises(ValueError, match=r"OwnPPO has SB3's own train\(\), which ignores `distral`"):
        OwnPPO("MultiTaskMlpPolicy", venv, distral=mt.Distral(0.1, 0.1))


# Files, agents


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("name", ALGORITHMS)
def test_files_and_agents_act_as_the_model(tmp_path, name, form):
    model = trained(name, form)
    model.save(tmp_path / "model.zip")
    mt.save_agent(model, tmp_path / "agent")
    loaded = type(model).load(tmp_path / "model.zip", env=mt.make_multitask_vec_env(drift_tasks(3), 2, seed=0))
    assert weights_equal(model, loaded)
    assert (loaded.distral, loaded.policy_kwargs) == (model.distral, model.policy_kwargs)
    loaded.learn(60, reset_num_timesteps=False)
    raw = raw_observations()
    mean, std, *_ = gaussians_of(model.policy, as_the_model_sees(model, raw))
    for agent in (agent_of(model), mt.load_agent(tmp_path / "model.zip"), mt.load_agent(tmp_path / "agent")):
        for task in range(3):
            of_task = raw["task"] == task
            found, log_std = agent.distribution(raw["obs"][of_task], task)
            np.testing.assert_allclose(found, mean[of_task], atol=2e-6)
            np.testing.assert_allclose(np.exp(log_std), std[of_task], rtol=1e-5)


def test_agents_of_products_with_layer_norms_are_refused():
    model = model_of(form="2col", policy_kwargs={"layer_norm": True, "head_arch": {"pi": [4]}})
    with pytest.raises(ValueError, match=r"products with a shared policy \(Distral, 2col\) and have layer norms"):
        agent_of(model)
    agent_of(model_of(form="2col", policy_kwargs={"layer_norm": True}))  # no hidden layers in the heads of actions
    agent_of(model_of(form="1col", policy_kwargs={"layer_norm": True, "head_arch": {"pi": [4]}}))


def test_load_with_other_coefficients(tmp_path):
    for form in ("1col", "2col"):
        model_of(form=form).save(tmp_path / form)
    one = mt.A2CMultiTask.load(tmp_path / "1col", distral=mt.Distral(0.7, 0.1))
    assert one.distral == mt.Distral(0.7, 0.1)
    assert mt.A2CMultiTask.load(tmp_path / "2col", distral=mt.Distral(0.2, 0.1, "2col")).distral.c_kl == 0.2
    for form, other in (("2col", mt.Distral(0.7, 0.1, "2col")), ("2col", mt.Distral(0.1, 0.05)), ("2col", None)):
        with pytest.raises(ValueError, match="`policy_kwargs` has shared_policy="):
            mt.A2CMultiTask.load(tmp_path / form, distral=other)


def test_the_same_ratio_is_the_same_alpha_whatever_its_last_bit(tmp_path):
    first, second = mt.Distral(0.3, 0.1, "2col"), mt.Distral(0.9, 0.3, "2col")
    assert first.alpha != second.alpha  # 0.75, and its neighbour
    model = trained(distral=first)
    model.save(tmp_path / "model")
    loaded = mt.A2CMultiTask.load(tmp_path / "model", env=model.env, distral=second).learn(60)
    assert (loaded.distral, loaded.policy.shared_policy) == (second, first.alpha)
    mt.transfer(model_of(distral=second), model, {"A": "B"})


def test_files_without_a_shared_policy_are_not_for_models_with_one(tmp_path):
    model_of(form=None).save(tmp_path / "plain")
    message = "The policy has a shared policy, which `distral` trains, and the weights have none: .*transfer"
    with pytest.raises(ValueError, match=message):
        mt.A2CMultiTask.load(tmp_path / "plain", distral=mt.Distral(0.1, 0.1))
    with pytest.raises(ValueError, match="The weights have a shared policy, .* and the policy has none"):
        model_of(form=None).set_parameters(model_of().get_parameters())


@pytest.mark.parametrize("load", ["parameters", "state", "file"])
def test_weights_of_another_alpha_are_refused(tmp_path, load):
    """The heads would mean something else, and an agent of them would not act as the model."""
    source, model = trained(form="2col"), model_of(distral=mt.Distral(0.1, 0.3, "2col"))
    source.save(tmp_path / "source")
    before = copy.deepcopy(model.policy.state_dict())
    message = "The policy has shared_policy=0.25, .* and the weights are for 0.6666667: .*`c_kl` and `c_ent`"
    given = {"parameters": source.get_parameters, "state": source.get_state, "file": lambda: tmp_path / "source.zip"}
    take_over = model.set_state if load == "state" else model.set_parameters
    with pytest.raises(ValueError, match=message):
        take_over(given[load]())
    assert all(th.equal(before[name], tensor) for name, tensor in model.policy.state_dict().items())


@pytest.mark.parametrize(
    ("form", "distral", "message"),
    [
        (None, mt.Distral(0.1, 0.1), r"`distral` is Distral\(.* now and was None when the model was made"),
        ("1col", None, "`distral` is None, so nothing would train it"),
        ("1col", mt.Distral(0.1, 0.05, "2col"), "has shared_policy=0.0, with which the model was made"),
        ("2col", {"c_kl": 0.1, "c_ent": 0.9, "form": "2col"}, "has shared_policy=0.66.*, with which the model"),
    ],
)
def test_other_settings_that_do_not_fit_the_policy_are_refused(form, distral, message):
    model = model_of(form=form)
    model.distral = distral
    with pytest.raises(ValueError, match=message):
        model.learn(30)
    model = model_of(form=form)
    if distral is not None:  # set in the middle of a training
        with pytest.raises(ValueError, match=message):
            model.learn(60, AtTheEnd(lambda m: setattr(m, "distral", distral)))


def test_a_mapping_may_be_set_too():
    model = model_of()
    model.distral = {"c_kl": 0.4, "c_ent": 0.1}
    assert model.learn(30).distral == mt.Distral(0.4, 0.1)


def test_coefficients_of_numpy_and_torch_are_plain_numbers():
    distral = mt.Distral(np.float32(0.5), th.tensor(0.25), "2col")
    assert distral == mt.Distral(0.5, 0.25, "2col")
    assert all(type(value) is float for value in (distral.c_kl, distral.c_ent, model_of(distral=distral).distral.c_kl))


def test_another_rollout_buffer_is_refused_before_training():
    class Buffer(DictRolloutBuffer):
        pass

    with pytest.raises(ValueError, match="`rollout_buffer_class` is Buffer, which cannot hold regularised rewards"):
        model_of(rollout_buffer_class=Buffer)


def damaged(**changes):
    weights = {name: tensor.numpy() for name, tensor in make_policy(shared_policy=0.5).state_dict().items()}
    return {**weights, **changes}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"shared_head.layers.0.weight": np.zeros((1, 9, 9), "f4")}, "do not make a product"),
        ({"shared_log_std": np.zeros(1, "f4")}, "shared_log_std and log_std have the shapes"),
        ({"log_std": np.zeros((10**5, 2), "f4")}, "do not make a product"),
        ({"shared_power": np.array([-1.0], "f4")}, "its shared_power is not one number from 0 to 1"),
        ({"shared_power": np.zeros(0, "f4")}, "its shared_power is not one number"),
    ],
)
def test_damaged_weights_make_no_product(changes, message):
    """A wide shared head beside many narrow ones would ask for memory that no file has."""
    with pytest.raises(ValueError, match=message):
        weights_of_products(damaged(**changes))


def test_a_damaged_files_reason_is_told(tmp_path):
    model = model_of(form="2col")
    model.policy.shared_power.fill_(3)
    model.save(tmp_path / "model")
    with pytest.raises(UnreadableFileError, match=r"model\.zip: its shared_power is not one number from 0 to 1"):
        mt.load_agent(tmp_path / "model.zip")


def test_settings_name_it():
    assert model_of(form="2col").settings()["distral"] == {"c_kl": 0.1, "c_ent": 0.05, "form": "2col"}
    assert "distral" not in model_of(form=None).settings()


@pytest.mark.parametrize("algo", ["a2c_mt", "ppo"])
def test_configs_have_its_arguments(algo):
    arguments = {"distral": {"c_kl": 0.1, "c_ent": 0.05, "form": "2col"}}
    config = TrainConfig(tasks=["Hopper-v5"], algo=algo, algo_kwargs=arguments)
    env = mt.make_multitask_vec_env(drift_tasks(2), 1)
    assert make_algorithm(config, env, 0).distral == mt.Distral(0.1, 0.05, "2col")


# The shared policy alone


@pytest.mark.parametrize("form", FORMS)
def test_the_shared_policy_as_an_agent_of_the_tasks(tmp_path, form):
    model = trained("a2c", form)
    raw = raw_observations()
    *_, mean, std = gaussians_of(model.policy, as_the_model_sees(model, raw))
    mt.save_agent(mt.shared_agent(model, ["C", "A"]), tmp_path / "agent")
    for agent, tasks in ((mt.shared_agent(model, ["A", "B", "C"]), "ABC"), (mt.load_agent(tmp_path / "agent"), "CA")):
        assert agent.task_names == tuple(tasks)
        for head, task in enumerate(tasks):
            of_task = raw["task"] == "ABC".index(task)
            found, log_std = agent.distribution(raw["obs"][of_task], head)
            np.testing.assert_allclose(found, mean[of_task], atol=2e-6)
            np.testing.assert_allclose(np.exp(log_std), std[of_task], rtol=1e-6)
    results = mt.evaluate_tasks(mt.shared_agent(model, model.task_names), n_eval_episodes=2)
    assert list(results) == ["A", "B", "C"]


def test_the_shared_policy_acts_in_a_new_task():
    model = trained("a2c")
    agent = mt.shared_agent(agent_of(model))
    rms = model.get_vec_normalize_env().obs_rms["obs"]
    assert agent.task_names == ("shared",)
    np.testing.assert_allclose(agent.statistics.mean[0], rms.mean.mean(axis=0))
    np.testing.assert_allclose(agent.statistics.var[0], rms.var.mean(axis=0) + rms.mean.var(axis=0))
    new = mt.Task("New", drift_tasks(1)[0].env_id, {"target": 0.9})
    assert list(mt.evaluate_tasks(agent, [new], 2)) == ["New"]
    np.testing.assert_array_equal(agent.weights["log_std"][0], model.policy.shared_log_std.detach())


def test_tasks_that_wait_for_their_first_turn_do_not_count_in_the_statistics():
    model = model_of(task_schedule=mt.task_schedules.TaskSequence()).learn(40)
    normalizer = model.get_vec_normalize_env()
    normalizer.obs_rms["obs"].mean[2], normalizer.obs_rms["obs"].var[2] = 0, 1  # as new statistics are
    mean, var = (part[:2] for part in (normalizer.obs_rms["obs"].mean, normalizer.obs_rms["obs"].var))
    statistics = mt.shared_agent(model).statistics
    np.testing.assert_allclose(statistics.mean[0], mean.mean(axis=0))
    np.testing.assert_allclose(statistics.var[0], var.mean(axis=0) + mean.var(axis=0))
    target = new_model()
    mt.transfer(target, model, {"New": "shared"})
    np.testing.assert_array_equal(target.get_vec_normalize_env().obs_rms["obs"].mean[0], statistics.mean[0])
    assert mt.shared_agent(model_of()).statistics.var.tolist() == [[1, 1, 1]]  # no task had a turn


def test_shared_agents_that_cannot_be():
    with pytest.raises(ValueError, match="`source` has no shared policy"):
        mt.shared_agent(model_of(form=None))
    model = model_of(tasks=sized_tasks())
    with pytest.raises(ValueError, match=r"differ in size or bounds: .*tasks=\['A', 'B', 'C'\]"):
        mt.shared_agent(model)
    with pytest.raises(ValueError, match="No head for task 'D'"):
        mt.shared_agent(model, ["D"])
    for tasks in ("A", [], ["A", "A"], [1], 3):
        with pytest.raises(ValueError, match="`tasks` must be different names of tasks"):
            mt.shared_agent(model, tasks)
    with pytest.raises(ValueError, match="No head for task 'X'. Heads: A"):
        mt.shared_agent(model_of(tasks=drift_tasks(1)), ["X"])
    with pytest.raises(TypeError, match=r"`source` must be a model or an Agent, .*\(got 'model.zip'\)"):
        mt.shared_agent("model.zip")
    with pytest.raises(
        ValueError, match=r"`tasks` must hold the source's widest, with 5 numbers .*\(got C, A, of A, B, C"
    ):
        mt.shared_agent(model, ["C", "A"])
    agent = mt.shared_agent(model, ["C", "A", "B"])
    assert (agent.task_space.obs_dims, agent.sizes.action_dims.tolist()) == ((4, 5, 3), [1, 2, 3])
    assert list(mt.evaluate_tasks(agent, n_eval_episodes=1)) == ["C", "A", "B"]


def test_it_teaches():
    teacher = mt.shared_agent(trained("a2c"))
    student = make_model(drift_tasks(2), teachers=dict.fromkeys("AB", teacher)).learn(60)
    assert "distill/A/kl" in student.logger.name_to_value


# Transfer


def new_model(form=None, seed=5, **kwargs):
    return model_of(
        "a2c", form, tasks=[mt.Task("New", t.env_id, t.env_kwargs) for t in drift_tasks(1)], seed=seed, **kwargs
    )


@pytest.mark.parametrize("form", ["1col", "2col"])
@pytest.mark.parametrize("to", [None, "1col"])
def test_a_task_takes_over_the_shared_policy(form, to):
    source, model = trained("a2c", form), new_model(to)
    value_head = model.policy.value_net.layers[0].weight.clone()
    ret_count = model.get_vec_normalize_env().ret_rms.count.copy()
    mt.transfer(model, source, {"New": "shared"})
    raw = {**raw_observations(n_tasks=1)}
    agent = mt.shared_agent(source)
    mean, std = gaussians_of(model.policy, as_the_model_sees(model, raw))[:2] if to else plain_gaussians(model, raw)
    found, log_std = agent.distribution(raw["obs"], 0)
    np.testing.assert_allclose(mean, found, atol=2e-6)
    np.testing.assert_allclose(std, np.exp(log_std), rtol=1e-6)
    assert th.equal(model.policy.value_net.layers[0].weight, value_head)
    assert (model.get_vec_normalize_env().ret_rms.count == ret_count).all()
    assert th.equal(model.policy.mlp_extractor.value_net[0].weight, source.policy.mlp_extractor.value_net[0].weight)
    model.learn(60)


def plain_gaussians(model, raw):
    with th.no_grad():
        tensors = {name: th.as_tensor(value) for name, value in as_the_model_sees(model, raw).items()}
        found = model.policy.get_distribution(tensors).distribution
    return found.mean.numpy(), found.stddev.numpy()


def test_the_shared_policy_goes_to_another_with_the_trunk():
    source, model = trained("a2c", "2col"), new_model("2col")
    mt.transfer(model, source, {"shared": "shared"})
    own, theirs = model.policy.state_dict(), source.policy.state_dict()
    for name in own:
        if name.startswith(("shared_", "mlp_extractor.")):
            assert th.equal(own[name], theirs[name])
    mt.transfer(model, source, {"New": "B"})  # a factor, with the same other factor
    raw = raw_observations(n_tasks=1)
    mean, std = plain_gaussians(model, raw)
    found, log_std = agent_of(source).distribution(raw["obs"], 1)
    np.testing.assert_allclose(mean, found, atol=2e-6)
    np.testing.assert_allclose(std, np.exp(log_std), rtol=1e-5)


def test_the_shared_policy_takes_over_a_task():
    model = trained("a2c")
    mt.transfer(model, model, {"shared": "B"})
    raw = as_the_model_sees(model, raw_observations())
    mean, std, shared_mean, shared_std = (part[raw["task"] == 1] for part in gaussians_of(model.policy, raw))
    np.testing.assert_allclose(shared_mean, mean, atol=1e-6)
    np.testing.assert_allclose(shared_std, std, rtol=1e-6)


def test_one_column_and_a_model_without_it_exchange_tasks():
    source, model = trained("a2c"), new_model()
    mt.transfer(model, source, {"New": "C"})
    assert th.equal(model.policy.log_std[0], source.policy.log_std[2])
    shared = source.policy.shared_log_std.clone()
    mt.transfer(source, model, {"A": "New"})
    assert th.equal(source.policy.log_std[0], model.policy.log_std[0])
    assert th.equal(source.policy.shared_log_std, shared)


@pytest.mark.parametrize(
    ("to", "form", "tasks", "kwargs", "message"),
    [
        (None, "2col", {"New": "A"}, {}, "in Distral's 2col the head of a task is a factor"),
        ("1col", "2col", {"New": "A"}, {}, "in Distral's 2col the head of a task is a factor"),
        ("2col", "2col", {"New": "shared"}, {}, "in Distral's 2col the head of a task is a factor"),
        ("1col", "2col", {"shared": "A"}, {}, "in Distral's 2col the head of a task is a factor"),
        ("1col", None, {"New": "shared"}, {}, "`source` has no task 'shared'; it has: A, B, C"),
        (None, "1col", {"shared": "A"}, {}, "`model` has no task 'shared'; it has: New"),
        ("1col", "1col", {"New": "shared"}, {"heads": False}, "heads=False carries the trunk only"),
    ],
)
def test_transfers_that_mean_nothing_change_nothing(to, form, tasks, kwargs, message):
    source, model = trained("a2c", form), new_model(to)
    before = copy.deepcopy(model.policy.state_dict())
    with pytest.raises(ValueError, match=message):
        mt.transfer(model, source, tasks, **kwargs)
    assert all(th.equal(before[name], tensor) for name, tensor in model.policy.state_dict().items())


def test_the_shared_policy_of_tasks_of_different_sizes_is_not_carried():
    model = model_of(tasks=sized_tasks())
    with pytest.raises(ValueError, match="differ in size, and 'shared' has none"):
        mt.transfer(model, model, {"A": "shared"})


def test_the_trunk_alone_leaves_the_shared_policy():
    source, model = trained("a2c"), new_model("1col")
    shared = model.policy.shared_head.layers[0].weight.clone()
    mt.transfer(model, source, {}, heads=False)
    assert th.equal(model.policy.shared_head.layers[0].weight, shared)
    assert th.equal(model.policy.mlp_extractor.policy_net[0].weight, source.policy.mlp_extractor.policy_net[0].weight)


def test_freezing_knows_the_shared_policy():
    model = model_of(form="2col, hidden")
    mt.freeze(model, "all_but_last")
    free = {name for name, parameter in model.policy.named_parameters() if parameter.requires_grad}
    outputs = [*(f"{net}.layers.2." for net in ("action_net", "shared_head")), "value_net.layers.1."]
    assert free == {"log_std", "shared_log_std", *(o + part for o in outputs for part in ("weight", "bias"))}
    model.learn(60)


def test_a_config_may_begin_with_the_shared_policy_of_another():
    values = {"tasks": "HalfCheetahBody6", "algo": "ppo", "init_from": "runs/x", "init_tasks": {"shared": "shared"}}
    distral = {"c_kl": 0.1, "c_ent": 0.0}
    config = make_config(TrainConfig, {**values, "algo_kwargs": {"distral": distral}})
    assert config.init_tasks == {"shared": "shared"}
    with pytest.raises(ConfigError, match=r"init_tasks must name tasks of the run, .*'BigTorso'\) \(got shared\)"):
        make_config(TrainConfig, values)
