import copy

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers.drift import drift_tasks
from helpers.models import weights_equal
from helpers.policies import batch_for, make_policy
from sb3_contrib import TRPO
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.torch_layers import FlattenExtractor, NatureCNN

import sb3_multitask as mt

MODES = ("per_task", "shared", "state_dependent")


def permute_tasks(policy, order):
    """A policy whose task i is the given one's task order[i]."""
    other = make_policy(policy.n_tasks, policy.obs_dim, log_std_mode=policy.log_std_mode)
    state = {
        name: value[order] if name.startswith(("action_net", "value_net")) or
        (name == "log_std" and value.ndim == 2) else value
        for name, value in policy.state_dict().items()
    }  # fmt: skip
    other.load_state_dict(state)
    return other


def test_default_nets_are_the_papers():
    policy = make_policy(n_tasks=6, obs_dim=17, action_dim=6)
    shapes = {name: tuple(p.shape) for name, p in policy.named_parameters()}
    assert shapes == {
        "log_std": (6, 6),
        "mlp_extractor.policy_net.0.weight": (64, 17),
        "mlp_extractor.policy_net.0.bias": (64,),
        "mlp_extractor.policy_net.2.weight": (64, 64),
        "mlp_extractor.policy_net.2.bias": (64,),
        "mlp_extractor.value_net.0.weight": (64, 17),
        "mlp_extractor.value_net.0.bias": (64,),
        "action_net.layers.0.weight": (6, 64, 6),
        "action_net.layers.0.bias": (6, 6),
        "value_net.layers.0.weight": (6, 64, 64),
        "value_net.layers.0.bias": (6, 64),
        "value_net.layers.1.weight": (6, 64, 1),
        "value_net.layers.1.bias": (6, 1),
    }


@pytest.mark.parametrize("mode", MODES)
def test_forward_loss_and_gradient_follow_a_permutation_of_the_tasks(mode):
    policy = make_policy(log_std_mode=mode)
    order = [2, 0, 1]  # new task i is old task order[i]
    permuted = permute_tasks(policy, order)
    obs = batch_for(policy, [0, 1, 2, 2, 1, 0, 0])
    renamed = {**obs, "task": th.tensor([order.index(t) for t in obs["task"].tolist()])}
    actions, weights = th.randn(7, 2), th.randn(7)
    losses = []
    for one, batch in ((policy, obs), (permuted, renamed)):
        values, log_prob, entropy = one.evaluate_actions(batch, actions)
        loss = (weights * log_prob).mean() + values.square().mean() - 0.01 * entropy.mean()
        loss.backward()
        losses.append((loss, values, log_prob))
    for mine, theirs in zip(*losses, strict=True):
        th.testing.assert_close(mine, theirs)
    gradients = dict(permuted.named_parameters())
    for name, parameter in policy.named_parameters():
        expected = parameter.grad
        if name.startswith(("action_net", "value_net")) or (name == "log_std" and expected.ndim == 2):
            expected = expected[order]
        th.testing.assert_close(gradients[name].grad, expected)


@pytest.mark.parametrize("mode", MODES)
def test_task_as_loss_has_no_gradient_in_head_b(mode):
    policy = make_policy(log_std_mode=mode)
    obs = batch_for(policy, [0, 0, 1, 2, 2, 1])
    values, log_prob, entropy = policy.evaluate_actions(obs, th.randn(6, 2))
    rows = obs["task"] == 0
    (values.flatten() + log_prob + entropy)[rows].sum().backward()
    for name, parameter in policy.named_parameters():
        if parameter.shape[0] == 3 and not name.startswith("mlp"):
            assert not parameter.grad[1:].any(), name
            assert parameter.grad[0].any() or name.endswith("bias"), name


def test_rows_do_not_depend_on_their_neighbours():
    policy = make_policy()
    obs = batch_for(policy, [2, 0, 1, 1, 0, 2, 2])
    together = policy.get_distribution(obs).mode().detach()
    for i in range(7):
        alone = policy.get_distribution({key: value[i : i + 1] for key, value in obs.items()}).mode()
        th.testing.assert_close(together[i], alone[0])


def test_log_std_modes():
    start = batch_for(make_policy(), [0, 1, 2])
    per_task, shared, dependent = (make_policy(log_std_mode=mode, log_std_init=-0.5) for mode in MODES)
    assert per_task.log_std.shape == (3, 2)
    assert shared.log_std.shape == (2,)
    assert not hasattr(dependent, "log_std")
    with th.no_grad():
        per_task.log_std[1] = 0.3
    stds = per_task.get_distribution(start).distribution.stddev
    th.testing.assert_close(stds[:, 0].log(), th.tensor([-0.5, 0.3, -0.5]))
    # zero weights: the head's output is 0, which gives the initial value
    for parameter in dependent.action_net.parameters():
        parameter.data.zero_()
    th.testing.assert_close(dependent.get_distribution(start).distribution.stddev.log(), th.full((3, 2), -0.5))


def test_state_dependent_log_std_is_bounded():
    policy = make_policy(log_std_mode="state_dependent", log_std_bounds=(-2.0, 0.5))
    for parameter in policy.action_net.parameters():
        parameter.data.mul_(1e6)
    std = policy.get_distribution(batch_for(policy, [0, 1, 2] * 20)).distribution.stddev
    assert std.log().min() >= -2.001
    assert std.log().max() <= 0.501


@pytest.mark.parametrize("mode", MODES)
def test_policy_save_and_load(mode, tmp_path):
    policy = make_policy(log_std_mode=mode, net_arch={"pi": [8], "vf": []}, head_arch={"pi": [6, 5], "vf": [4]})
    policy.save(tmp_path / "policy.pth")
    loaded = mt.MultiTaskActorCriticPolicy.load(tmp_path / "policy.pth")
    obs = {key: value.numpy() for key, value in batch_for(policy, [0, 1, 2, 1]).items()}
    np.testing.assert_array_equal(
        policy.predict(obs, deterministic=True)[0], loaded.predict(obs, deterministic=True)[0]
    )
    assert loaded.head_arch == policy.head_arch


@pytest.mark.parametrize("algorithm", [A2C, PPO, TRPO])
@pytest.mark.parametrize("mode", MODES)
def test_it_is_a_policy_class_of_the_other_algorithms(algorithm, mode, tmp_path):
    env = mt.make_multitask_vec_env(drift_tasks(3), 2, seed=0)
    steps = {} if algorithm is A2C else {"n_steps": 10, "batch_size": 20}
    model = algorithm(
        mt.MultiTaskActorCriticPolicy,
        env,
        seed=0,
        policy_kwargs={"log_std_mode": mode},
        device="cpu",
        **steps,
    )
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.learn(120)
    assert all(not th.equal(before[name], value) for name, value in model.policy.state_dict().items())
    model.save(tmp_path / "model")
    loaded = algorithm.load(tmp_path / "model")
    assert weights_equal(model, loaded)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"use_sde": True}, "`use_sde=True` is not supported: gSDE keeps one exploration matrix"),
        ({"log_std_mode": "state"}, "`log_std_mode` must be one of per_task, state_dependent, shared"),
        ({"log_std_mode": "state_dependent", "log_std_init": 3.0}, "`log_std_init` must lie within"),
        ({"net_arch": "64"}, "`net_arch` must be a dict with the keys pi and vf.*'64'"),
        ({"net_arch": [64, "32"]}, "`net_arch` must be .*'32'"),
        ({"net_arch": {"pi": 64}}, "`net_arch` must be .*64"),
        ({"net_arch": [True]}, "`net_arch` must be .*True"),
        ({"activation_fn": "rellu"}, "`activation_fn` must be one of tanh, relu.*'rellu'.*Did you mean 'relu'"),
        ({"activation_fn": th.nn.ReLU()}, r"`activation_fn` must be a class.*ReLU\(\)"),
        ({"squash_output": True}, "`squash_output=True` is not supported.*leave it out"),
        ({"full_std": False}, "`full_std=False` is for gSDE.*leave it out"),
        ({"use_expln": True}, "`use_expln=True` is for gSDE"),
        ({"features_extractor_class": NatureCNN}, "`features_extractor_class=NatureCNN` .*`net_arch`"),
        ({"features_extractor_kwargs": {"features_dim": 9}}, "`features_extractor_kwargs=.*features_dim.*9"),
        ({"optimizer_kwargs": {"weight_decai": 0.1}}, "Adam .*'weight_decai'.*Did you mean 'weight_decay'"),
        ({"optimizer_kwargs": {"lr": 0.1}}, "`optimizer_kwargs` .*'lr'.*`learning_rate`"),
        ({"head_arch": {"pi": [0]}}, "`head_arch` must hold positive layer sizes"),
        ({"head_arch": {"q": [3]}}, "`head_arch` must be a dict"),
    ],
)
def test_bad_arguments_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make_policy(**kwargs)


def test_observations_without_a_task_are_refused_with_the_remedy():
    with pytest.raises(ValueError, match=r"needs observations Dict\(obs=.*make_multitask_vec_env"):
        mt.MultiTaskActorCriticPolicy(spaces.Box(-1, 1, (3,)), spaces.Box(-1, 1, (2,)), lambda _: 1e-3)


def test_a_task_for_all_rows_or_for_each():
    policy = make_policy()
    obs = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    for_all, _ = policy.predict({"obs": obs, "task": 1}, deterministic=True)
    for_each, _ = policy.predict({"obs": obs, "task": np.ones(6, dtype=int)}, deterministic=True)
    np.testing.assert_array_equal(for_all, for_each)
    with pytest.raises(ValueError, match="a task for each row"):
        policy.predict({"obs": obs, "task": np.zeros(2, dtype=int)})
    with pytest.raises(ValueError, match="whole numbers"):
        policy.predict({"obs": obs, "task": np.full(6, 0.9)})


def test_sb3s_ways_to_write_nets():
    policy = make_policy(net_arch=[32, 16], head_arch=[8], activation_fn="relu")
    assert policy.net_arch == {"pi": [32, 16], "vf": [32, 16]}
    assert policy.head_arch == {"pi": [8], "vf": [8]}
    assert policy.activation_fn is th.nn.ReLU
    assert make_policy(net_arch=[]).net_arch == {"pi": [], "vf": []}
    assert make_policy(net_arch=[{"pi": [3]}]).net_arch == {"pi": [3], "vf": [64]}
    assert make_policy(net_arch={"pi": []}).net_arch == {"pi": [], "vf": [64]}
    for name in ("LeakyReLU", "nn.LeakyReLU", "leaky_relu"):
        assert make_policy(activation_fn=name).activation_fn is th.nn.LeakyReLU
    make_policy(normalize_images=False, share_features_extractor=False, features_extractor_class=FlattenExtractor)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"activation_fn": th.relu}, "`activation_fn` must be a class, such as torch.nn.ReLU"),
        ({"activation_fn": th.nn.functional.relu}, "`activation_fn` must be a class, such as torch.nn.ReLU"),
        ({"activation_fn": th.nn.Linear}, "`activation_fn` must be a class, such as torch.nn.ReLU"),
        ({"net_arch": [64, {"pi": [8]}]}, r"one list for both \(got \[64, \{'pi': \[8\]\}\]\)"),
        ({"log_std_init": float("nan")}, r"`log_std_init` must be a finite number \(got nan\)"),
        ({"log_std_init": "-1"}, "`log_std_init` must be a finite number"),
        ({"log_std_init": None}, "`log_std_init` must be a finite number"),
        ({"optimizer_class": "adam"}, r"`optimizer_class` must be a class of torch.optim.*\(got 'adam'\)"),
        ({"optimizer_class": None}, "`optimizer_class` must be a class of torch.optim"),
    ],
)
def test_values_that_are_none_are_refused_by_their_argument(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make_policy(**kwargs)
    with pytest.raises(ValueError, match=message):
        mt.A2CMultiTask("MultiTaskMlpPolicy", drift_tasks(2), policy_kwargs=kwargs)


def test_names_that_the_policy_does_not_have_are_refused_by_their_argument():
    with pytest.raises(TypeError, match=r"`policy_kwargs`.*'net_arc'.*'net_arch'.*head_arch"):
        mt.A2CMultiTask("MultiTaskMlpPolicy", drift_tasks(2), policy_kwargs={"net_arc": [8]})
    with pytest.raises(ValueError, match=r"`use_sde` \(got True\).*`log_std_mode`"):
        mt.A2CMultiTask("MultiTaskMlpPolicy", drift_tasks(2), policy_kwargs={"use_sde": True})


def test_what_is_handed_over_stays_as_it_is():
    given = {
        "net_arch": {"pi": [8], "vf": [8]},
        "head_arch": {"pi": [4], "vf": [4]},
        "optimizer_kwargs": {"betas": (0.8, 0.9)},
    }
    before = copy.deepcopy(given)
    policy = make_policy(**given)
    policy.net_arch["pi"].append(3)
    policy.head_arch["vf"].append(3)
    policy.optimizer_kwargs["eps"] = 0.1
    assert given == before


def test_an_empty_batch_gives_no_actions():
    for kwargs in ({}, {"log_std_mode": "state_dependent"}, {"net_arch": [], "head_arch": [5]}):
        policy = make_policy(**kwargs)
        for task in (1, np.zeros(0, dtype=int)):
            actions, _ = policy.predict({"obs": np.zeros((0, 4)), "task": task})
            assert actions.shape == (0, 2)


def test_parameters_from_a_vector_have_memory_of_their_own():
    policy = make_policy()
    policy.load_from_vector(policy.parameters_to_vector())
    assert all(parameter.data_ptr() % 64 == 0 for parameter in policy.parameters())


def test_a_gpu_is_advised_against(monkeypatch):
    monkeypatch.setattr(th.nn.Module, "to", lambda self, *_args, **_kwargs: self)
    policy = make_policy()
    for device in ("cuda", "cuda:1", th.device("cuda")):
        with pytest.warns(UserWarning, match=r"'cuda.*faster on the CPU.*device=\"cpu\""):
            policy.to(device)
    policy.to("cpu")
    policy.to(th.float64)
