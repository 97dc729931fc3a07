"""What `policy_kwargs` put before, between and behind the layers: features, layer norms, the task, one head for all."""

import contextlib
import json
import zipfile

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from helpers.drift import ReachingEnv, drift_tasks
from helpers.killed_runs import KillAt, Killed, killed_and_resumed, optimizer_difference
from helpers.models import is_finite, model_on, weights_equal
from helpers.policies import OwnFeatures, batch_for, make_policy
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, NatureCNN
from torch import nn
from torch.nn import functional

import sb3_multitask as mt
from sb3_multitask.agents import agent_of
from sb3_multitask.checkpoint.format import CheckpointError
from sb3_multitask.policies.heads import TaskHeads, TaskLayerNorm, TaskRows
from sb3_multitask.policies.task_steps import stacked_parameters
from sb3_multitask.readers import UnreadableFileError

DEEP = {"net_arch": {"pi": [8, 7], "vf": [6]}, "head_arch": {"pi": [5], "vf": [4]}}
ACTING = {
    "norm_of_critic": {"layer_norm": "critic", **DEEP},
    "norms": {"layer_norm": True, **DEEP},
    "values": {"value_norm": "popart", "layer_norm": "critic", **DEEP},
    "onehot": {"task_embedding": "onehot"},
    "learned": {"task_embedding": 2},
    "learned_without_trunk": {"task_embedding": 2, "net_arch": [], "head_arch": [6]},
    "one_head": {"share": "all"},
    "one_head_deep": {"share": "all", "task_embedding": 3, "layer_norm": True, "activation_fn": "elu", **DEEP},
    "one_head_state": {"share": "all", "log_std_mode": "state_dependent", "log_std_init": -1.0},
    "one_head_own_std": {"share": "all", "log_std_mode": "per_task"},
}
"""Options of which agents are made."""
EXTRACTING = {
    "extractor": {"features_extractor_class": OwnFeatures},
    "extractors_apart": {
        "features_extractor_class": OwnFeatures,
        "features_extractor_kwargs": {"features_dim": 4},
        "share_features_extractor": False,
        "task_embedding": "onehot",
    },
}
OPTIONS = {**ACTING, **EXTRACTING}
ALGORITHMS = {
    "a2c": (mt.A2CMultiTask, {}),
    "ppo": (mt.PPOMultiTask, {"n_steps": 10, "batch_size": 30, "n_epochs": 2}),
    "trpo": (mt.TRPOMultiTask, {"n_steps": 10, "batch_size": 30, "n_critic_updates": 2}),
}


def make(algorithm="a2c", tasks=None, seed=0, **policy_kwargs):
    made, settings = ALGORITHMS[algorithm]
    env = mt.make_multitask_vec_env(tasks or drift_tasks(3, high=0.5), 2, seed=seed)
    return made("MultiTaskMlpPolicy", env, seed=seed, device="cpu", policy_kwargs=policy_kwargs, **settings)


def raw_observations(n=9):
    rng = np.random.default_rng(0)
    return {"obs": 3 * rng.normal(size=(n, 3)), "task": np.arange(n) % 3}


def predicted(model, raw):
    seen = model.get_vec_normalize_env().normalize_obs(raw)
    return model.predict({"obs": seen["obs"].astype(np.float32), "task": raw["task"]}, deterministic=True)[0]


# Learning, files, resume


@pytest.mark.parametrize("algorithm", ALGORITHMS)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_every_parameter_learns_and_the_file_holds_all(tmp_path, algorithm, options):
    if algorithm == "trpo" and "value_norm" in options:
        pytest.skip("it has normalised values no more than teachers")
    model = make(algorithm, **options)
    before = {name: parameter.clone() for name, parameter in model.policy.named_parameters()}
    model.learn(300)
    is_fast = algorithm != "trpo" and options.keys() <= {"layer_norm", "value_norm", *DEEP}
    assert model.last_engine == ("fast" if is_fast else "torch")
    assert is_finite(model)
    still = [name for name, p in model.policy.named_parameters() if th.equal(p, before[name])]
    assert not still
    model.save(tmp_path / "model")
    loaded = type(model).load(tmp_path / "model", env=model.get_env())
    assert weights_equal(model, loaded)
    assert loaded.policy.options() == model.policy.options() != {}
    np.testing.assert_array_equal(predicted(loaded, raw_observations()), predicted(model, raw_observations()))
    assert is_finite(loaded.learn(60))


@pytest.mark.parametrize("algorithm", [A2C, PPO])
@pytest.mark.parametrize("name", ["norms", "one_head", "extractors_apart"])
def test_sb3s_own_algorithms_learn_with_them(tmp_path, algorithm, name):
    env = mt.make_multitask_vec_env(drift_tasks(3), 2, seed=0)
    settings = {"n_steps": 10, "batch_size": 30} if algorithm is PPO else {}
    model = algorithm(mt.MultiTaskActorCriticPolicy, env, policy_kwargs=OPTIONS[name], device="cpu", **settings)
    model.learn(120).save(tmp_path / "model")
    assert is_finite(model)
    assert weights_equal(model, algorithm.load(tmp_path / "model", device="cpu"))


def test_a_policys_own_file_holds_them(tmp_path):
    for name, options in OPTIONS.items():
        policy = make_policy(**options)
        policy.save(tmp_path / name)
        loaded = mt.MultiTaskActorCriticPolicy.load(tmp_path / name)
        assert loaded.options() == policy.options()
        for key, tensor in policy.state_dict().items():
            assert th.equal(tensor, loaded.state_dict()[key])


def with_state(n=3):
    """Tasks whose environments tell their state."""
    return [mt.Task(task.name, ReachingEnv, task.env_kwargs) for task in drift_tasks(n)]


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("algorithm", ["a2c", "ppo"])
def test_a_checkpoint_resumes_exactly(tmp_path, algorithm, options):
    def run(folder, stop):
        model = make(algorithm, with_state(), **options)
        checkpoints = mt.ResumableCheckpointCallback(tmp_path / folder, every=60, verbose=0)
        with contextlib.suppress(Killed):
            model.learn(240, [checkpoints, KillAt(stop)])
        return model

    run("resumed", 150)
    resumed, whole = run("resumed", np.inf), run("whole", np.inf)
    assert resumed.num_timesteps == whole.num_timesteps == 240
    assert weights_equal(resumed, whole)
    assert not optimizer_difference(*(model.policy.optimizer.state_dict() for model in (resumed, whole)))


@pytest.mark.native
@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["a2c", "ppo"])
@pytest.mark.parametrize("name", ["norms", "learned", "one_head_deep", "extractors_apart"])
def test_runs_with_them_resume_exactly(tmp_path, name, algorithm):
    made, settings = ALGORITHMS[algorithm]
    settings = {**settings, **({"batch_size": 10} if algorithm == "ppo" else {})}
    schedule = "cycle" if name == "learned" else "joint"
    different, _ = killed_and_resumed(
        tmp_path,
        [(777, 0.0), (1610, 0.05)],
        total=2000,
        n_envs=1,
        algorithm=made,
        policy_kwargs=OPTIONS[name],
        task_schedule=schedule,
        **settings,
    )
    assert different == []


def test_a_run_of_other_options_does_not_resume(tmp_path):
    class Doubling(BaseFeaturesExtractor):
        def forward(self, observations):
            return 2 * observations

    given = {"features_extractor_class": Doubling, "features_extractor_kwargs": {"features_dim": 3}}

    def learn(**policy_kwargs):
        checkpoints = mt.ResumableCheckpointCallback(tmp_path, every=30, verbose=0)
        model_on(mt.make_multitask_vec_env(with_state()), policy_kwargs=policy_kwargs, engine="torch").learn(
            60, checkpoints
        )

    learn(**given)
    learn(**given)
    with pytest.raises(CheckpointError, match=r"policy_options: \{'features_extractor_class': '.*Doubling'.* now"):
        learn()


def test_options_left_out_change_neither_names_nor_files(tmp_path):
    policy = make_policy()
    assert policy.options() == {}
    assert policy.features_dim == policy.obs_dim
    assert {name.partition(".")[0] for name, _ in policy.named_parameters()} == {
        "log_std", "mlp_extractor", "action_net", "value_net"}  # fmt: skip
    assert "norms" not in str(policy)
    assert "policy_options" not in model_on(drift_tasks(2)).settings()
    explicit = make_policy(layer_norm=False, task_embedding=None, share="heads", log_std_mode="per_task")
    assert all(th.equal(a, b) for a, b in zip(policy.parameters(), explicit.parameters(), strict=True))
    assert policy._get_constructor_parameters().keys() == explicit._get_constructor_parameters().keys()
    assert "share" not in policy._get_constructor_parameters()


# Layer norm


def test_a_heads_layer_norm_is_torchs_for_each_task():
    norms, rows = TaskLayerNorm(3, 4), TaskRows.of(th.tensor([2, 0, 2, 0]), 3)
    generator = th.Generator().manual_seed(0)
    with th.no_grad():
        norms.weight.copy_(th.randn(3, 4, generator=generator))
        norms.bias.copy_(th.randn(3, 4, generator=generator))
    x = th.randn(4, 4, generator=generator)
    given = rows.ungroup(norms(rows.group(x), rows))
    for row, task in enumerate([2, 0, 2, 0]):
        expected = functional.layer_norm(x[row], (4,), norms.weight[task], norms.bias[task])
        th.testing.assert_close(given[row], expected)


def test_layer_norms_stand_between_each_hidden_layer_and_its_activation():
    policy = make_policy(layer_norm=True, **DEEP)
    kinds = [type(layer).__name__ for layer in policy.mlp_extractor.policy_net]
    assert kinds == ["Linear", "LayerNorm", "Tanh"] * 2
    assert [len(net.norms) for net in (policy.action_net, policy.value_net)] == [1, 1]
    of_critic = make_policy(layer_norm="critic", **DEEP)
    assert [type(layer).__name__ for layer in of_critic.mlp_extractor.policy_net] == ["Linear", "Tanh"] * 2
    assert [type(layer).__name__ for layer in of_critic.mlp_extractor.value_net] == ["Linear", "LayerNorm", "Tanh"]
    assert of_critic.action_net.norms is None
    assert len(of_critic.value_net.norms) == 1


@pytest.mark.parametrize("layer_norm", [True, "critic"])
def test_outputs_do_not_depend_on_the_scale_of_a_normalised_layer(layer_norm):
    """Worked by hand: (a x - mean) / std is the same for every a > 0."""
    policy = make_policy(layer_norm=layer_norm, **DEEP)
    obs = batch_for(policy, [0, 1, 2, 2])
    values, mean = policy.predict_values(obs), policy.get_distribution(obs).distribution.mean
    with th.no_grad():
        for name, parameter in policy.named_parameters():
            if name in ("mlp_extractor.policy_net.0.weight", "mlp_extractor.value_net.0.weight"):
                parameter.mul_(50.0)
    th.testing.assert_close(policy.predict_values(obs), values, atol=1e-3, rtol=0)
    changed = (policy.get_distribution(obs).distribution.mean - mean).abs().max()
    assert (changed > 0.003) == (layer_norm == "critic")


# The task in the input, and one head


def test_the_task_follows_the_observation_in_the_input():
    policy = make_policy(n_tasks=3, obs_dim=4, task_embedding="onehot")
    seen = []
    policy.mlp_extractor.policy_net[0].register_forward_pre_hook(lambda _, given: seen.append(given[0]))
    obs = batch_for(policy, [2, 0])
    policy.get_distribution(obs)
    th.testing.assert_close(seen[0], th.cat([obs["obs"], th.tensor([[0.0, 0, 1], [1, 0, 0]])], dim=1))
    assert "task_vectors.weight" not in dict(policy.named_parameters())
    assert make_policy(n_tasks=3, task_embedding=5).task_vectors.weight.shape == (3, 5)


def test_one_head_is_an_mlp_of_observation_and_task():
    policy = make_policy(n_tasks=3, obs_dim=4, share="all", net_arch=[6], head_arch=[])
    assert policy.task_embedding == "onehot"
    assert policy.log_std.shape == (2,)
    assert (policy.action_net.layers[0].weight.shape, policy.value_net.layers[0].weight.shape) == ((1, 6, 2), (1, 6, 1))
    obs = batch_for(policy, [1, 2, 0, 1, 1])
    inputs = th.cat([obs["obs"], functional.one_hot(obs["task"], 3).float()], dim=1)
    for net, heads, given in (
        (policy.mlp_extractor.policy_net, policy.action_net, policy.get_distribution(obs).distribution.mean),
        (policy.mlp_extractor.value_net, policy.value_net, policy.predict_values(obs)),
    ):
        hidden = th.tanh(inputs @ net[0].weight.T + net[0].bias)
        th.testing.assert_close(given, hidden @ heads.layers[0].weight[0] + heads.layers[0].bias[0])
    actions, values, log_prob = policy(obs)
    again = policy.evaluate_actions(obs, actions)
    th.testing.assert_close(again[:2], (values, log_prob))


def test_one_head_stands_for_all_tasks_and_rows_in_any_order():
    policy = make_policy(share="all", task_embedding=2)
    obs, order = batch_for(policy, [2, 2, 0, 1, 0, 2]), th.tensor([3, 0, 5, 1, 4, 2])
    shuffled = {key: value[order] for key, value in obs.items()}
    th.testing.assert_close(policy.predict_values(shuffled), policy.predict_values(obs)[order])
    with th.no_grad():
        policy.task_vectors.weight[2] = policy.task_vectors.weight[0]
    renamed = {**obs, "task": th.where(obs["task"] == 2, 0, obs["task"])}
    assert th.equal(policy.predict_values(obs), policy.predict_values(renamed))
    assert policy.predict({"obs": np.zeros((0, 4)), "task": np.zeros(0, dtype=int)})[0].shape == (0, 2)


def test_which_parameters_have_a_task_axis():
    def stacked(**options):
        return {name.partition(".")[0] for name in stacked_parameters(make_policy(**options))}

    assert stacked() == {"action_net", "value_net", "log_std"}
    assert stacked(task_embedding="onehot") == {"action_net", "value_net", "log_std"}
    assert stacked(task_embedding=2, layer_norm=True) == {"action_net", "value_net", "log_std", "task_vectors"}
    assert stacked(share="all", task_embedding=2) == {"task_vectors"}
    assert stacked(share="all", log_std_mode="per_task") == {"log_std"}
    assert any("norms" in name for name in stacked_parameters(make_policy(layer_norm=True)))


@pytest.mark.parametrize("name", ["learned", "norms"])
@pytest.mark.parametrize("algorithm", ["ppo", "trpo"])
def test_in_cycle_what_absent_tasks_own_keeps_still(algorithm, name):
    class Owned(BaseCallback):
        def _on_step(self):
            return True

        def _on_rollout_end(self):
            self.seen.append({key: p.detach().clone() for key, p in stacked_parameters(self.model.policy).items()})

    env = mt.make_multitask_vec_env(drift_tasks(3), 2, seed=0)
    made, settings = ALGORITHMS[algorithm]
    model = made("MultiTaskMlpPolicy", env, task_schedule="cycle", policy_kwargs=OPTIONS[name], seed=0, **settings)
    owned = Owned()
    owned.seen = []
    model.learn(120, owned)  # two tours; in the second one the optimizer remembers gradients of all tasks
    for update in range(len(owned.seen) - 1):
        before, after = owned.seen[update : update + 2]
        moved = {key: [not th.equal(after[key][task], before[key][task]) for task in range(3)] for key in before}
        turns = [task == update % 3 for task in range(3)]
        assert all(of_tasks == turns for of_tasks in moved.values())


# Agents


@pytest.mark.parametrize("options", ACTING.values(), ids=ACTING)
def test_agents_act_as_their_models(tmp_path, options):
    model = make(**options).learn(300)
    mt.save_agent(model, tmp_path / "agent")
    model.save(tmp_path / "model.zip")
    raw = raw_observations()
    expected = predicted(model, raw)
    for agent in (mt.load_agent(tmp_path / "agent"), mt.load_agent(tmp_path / "model.zip")):
        np.testing.assert_allclose(agent.predict(raw, deterministic=True)[0], expected, atol=1e-6)
        assert agent.task_names == ("A", "B", "C")
        assert (agent.obs_dim, agent.action_dim, agent.digest) == (3, 2, agent_of(model).digest)
        seen = model.get_vec_normalize_env().normalize_obs(raw)
        tensors = {"obs": th.as_tensor(seen["obs"], dtype=th.float32), "task": th.as_tensor(raw["task"])}
        std = model.policy.get_distribution(tensors).distribution.stddev.detach().numpy()
        for task in range(3):
            mine = raw["task"] == task
            np.testing.assert_allclose(np.exp(agent.distribution(raw["obs"][mine], task)[1]), std[mine], rtol=1e-5)


@pytest.mark.parametrize("name", ["one_head", "norms"])
def test_agents_of_sb3s_zips_know_their_tasks(tmp_path, name):
    env = mt.make_multitask_vec_env(drift_tasks(3), 2, seed=0)
    model = PPO(mt.MultiTaskActorCriticPolicy, env, policy_kwargs=ACTING[name], n_steps=5, batch_size=30, device="cpu")
    model.learn(30).save(tmp_path / "model")
    env.save(str(tmp_path / "vn.pkl"))
    with pytest.raises(UnreadableFileError, match="does not name its 3 tasks"):
        mt.load_agent(tmp_path / "model.zip")
    agent = mt.load_agent(tmp_path / "model.zip", normalizer=tmp_path / "vn.pkl")
    assert agent.task_names == ("A", "B", "C")
    raw = raw_observations()
    seen = env.normalize_obs(raw)
    expected, _ = model.predict({"obs": seen["obs"].astype(np.float32), "task": raw["task"]}, deterministic=True)
    np.testing.assert_allclose(agent.predict(raw, deterministic=True)[0], expected, atol=1e-6)


@pytest.mark.parametrize("options", EXTRACTING.values(), ids=EXTRACTING)
def test_agents_of_features_extractors_are_refused_with_the_reason(tmp_path, options):
    model = make(**options)
    reason = "it has a features extractor, OwnFeatures, and agents have none"
    with pytest.raises(ValueError, match=reason):
        agent_of(model)
    model.save(tmp_path / "model")
    with pytest.raises(UnreadableFileError, match=reason):
        mt.load_agent(tmp_path / "model.zip")
    PPO(mt.MultiTaskActorCriticPolicy, model.env, policy_kwargs=options, device="cpu").save(tmp_path / "ppo")
    with pytest.raises(UnreadableFileError, match="features_extractor_class .*OwnFeatures"):
        mt.load_agent(tmp_path / "ppo.zip")
    assert list(mt.evaluate_tasks(model, n_eval_episodes=1)) == ["A", "B", "C"]


def test_agents_teach(tmp_path):
    teacher = agent_of(make(**ACTING["one_head_deep"]).learn(60))
    student = mt.A2CMultiTask(
        "MultiTaskMlpPolicy",
        mt.make_multitask_vec_env(drift_tasks(3, high=0.5), 2, seed=1),
        teachers=dict.fromkeys("ABC", teacher),
        policy_kwargs=ACTING["one_head"],
        learning_rate=0.01,
        seed=0,
    )
    student.learn(60)
    first = student.logger.name_to_value["distill/A/kl"]
    student.learn(3000, reset_num_timesteps=False)
    assert student.logger.name_to_value["distill/A/kl"] < first


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda p: setattr(p.mlp_extractor.policy_net[1], "eps", 0.1), "policy_net.1` is LayerNorm.*eps=0.1"),
        (lambda p: p.mlp_extractor.policy_net.__setitem__(1, nn.Identity()), "policy_net.1` is a Identity"),
        (lambda p: p.action_net.norms.__setitem__(0, nn.Identity()), r"action_net.norms.0` is a Identity"),
        (lambda p: setattr(p, "task_vectors", nn.Embedding(3, 2)), "task_vectors` is a Embedding"),
    ],
)
def test_changed_parts_make_no_agents(change, reason):
    model = make(layer_norm=True, task_embedding=2, **DEEP)
    change(model.policy)
    with pytest.raises(ValueError, match=reason):
        agent_of(model)


def test_weights_that_do_not_fit_make_no_agents():
    agent = agent_of(make(share="all", task_embedding=2))
    weights, names = dict(agent.weights), agent.task_names
    for vectors, message in (
        (None, "do not fit together|normaliser has statistics|1 heads for 3 tasks"),
        (np.zeros((2, 2), np.float32), "vectors of 2 tasks for 3 tasks: A, B, C"),
        (np.zeros((3, 1), np.float32), r"normaliser has statistics of shape \(3, 3\), the policy needs \(3, 4\)"),
        (np.zeros(3, np.float32), "do not fit together"),
    ):
        changed = {**weights, "task_vectors.weight": vectors}
        changed = {name: array for name, array in changed.items() if array is not None}
        with pytest.raises(ValueError, match=message):
            mt.Agent(changed, names, agent.statistics)


def test_layers_that_are_not_linear_need_the_option(tmp_path):
    make(layer_norm=True).save(tmp_path / "model.zip")
    with zipfile.ZipFile(tmp_path / "model.zip") as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    data = json.loads(members["data"])
    del data["policy_kwargs"]["layer_norm"]
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        for name, content in {**members, "data": json.dumps(data).encode()}.items():
            archive.writestr(name, content)
    with pytest.raises(UnreadableFileError, match="layers between that are not linear"):
        mt.load_agent(tmp_path / "other.zip")


# Transfer, freezing, stages


def means(model, task):
    obs = {"obs": np.random.default_rng(0).normal(size=(5, 3)).astype(np.float32), "task": np.full(5, task)}
    return model.predict(obs, deterministic=True)[0]


TRANSFERRED = {
    **{name: OPTIONS[name] for name in ("norms", "onehot", "learned", "one_head", "one_head_deep", "extractor")},
    "onehot_without_trunk": {"task_embedding": "onehot", "net_arch": [], "head_arch": [6]},
    "extractors_apart": EXTRACTING["extractors_apart"],
}


@pytest.mark.parametrize("options", TRANSFERRED.values(), ids=TRANSFERRED)
def test_a_task_takes_over_what_another_has_learned(options):
    model = make(**options).learn(300)
    kept = means(model, 1)
    mt.transfer(model, model, {"C": "A"})
    np.testing.assert_array_equal(means(model, 2), means(model, 0))
    np.testing.assert_array_equal(means(model, 1), kept)
    small = make(tasks=drift_tasks(2, high=0.5), seed=1, **options).learn(300)
    mt.transfer(model, small, {"C": "A", "B": "B"})  # the input of the larger one has other columns
    np.testing.assert_allclose(means(model, 2), means(small, 0), atol=1e-6)
    np.testing.assert_allclose(means(model, 1), means(small, 1), atol=1e-6)


def test_a_source_of_other_options_is_refused_by_its_argument():
    model, copy = make(share="all", task_embedding=3), make(share="all", task_embedding=3)
    for options, message in (
        ({"task_embedding": 3, "log_std_mode": "shared"}, "The model's `share` is 'all', the source's is 'heads'"),
        ({"share": "all"}, "The model's `task_embedding` is 3, the source's is 'onehot'"),
        ({"share": "all", "task_embedding": 3, "layer_norm": True}, "The model's `layer_norm` is False"),
        ({"share": "all", "task_embedding": 3, **EXTRACTING["extractor"]}, "`features_extractor_class` is"),
    ):
        with pytest.raises(ValueError, match=message):
            mt.transfer(model, make(seed=1, **options), {"A": "A"})
    assert weights_equal(model, copy)


class Averaging(OwnFeatures):
    def __init__(self, observation_space):
        super().__init__(observation_space)
        self.net.append(nn.BatchNorm1d(5))


def test_averages_of_an_extractor_go_with_its_weights():
    source, model = (make(seed=seed, features_extractor_class=Averaging) for seed in (0, 1))
    source.learn(60)
    mt.transfer(model, source, {"A": "A"})
    np.testing.assert_allclose(means(model, 0), means(source, 0), atol=1e-6)


def test_freezing_knows_all_parts():
    model = make(layer_norm=True, task_embedding=2, **DEEP, **EXTRACTING["extractor"])

    def trained():
        return {name for name, parameter in model.policy.named_parameters() if parameter.requires_grad}

    mt.freeze(model, "all_but_last")
    last = {"action_net.layers.1.weight", "action_net.layers.1.bias", "value_net.layers.1.weight"}
    assert trained() == last | {"value_net.layers.1.bias", "log_std"}
    mt.freeze(model, "trunk")
    assert {name.partition(".")[0] for name in trained()} == {"action_net", "value_net", "log_std", "task_vectors"}
    before = model.policy.features_extractor.net[0].weight.clone()
    model.learn(60)
    assert th.equal(model.policy.features_extractor.net[0].weight, before)
    mt.freeze(model, "nothing")
    assert trained() == {name for name, _ in model.policy.named_parameters()}


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("how", ["frozen", "warm_up"])
def test_averages_of_an_extractor_that_does_not_learn_stay(how, apart):
    options = {"features_extractor_class": Averaging, "share_features_extractor": not apart}
    model = make(**options)
    if how == "frozen":
        mt.freeze(model, "trunk")
    else:
        teacher = dict.fromkeys(model.task_names, lambda obs: np.zeros((len(obs), 2)))
        env = mt.make_multitask_vec_env(model.tasks, 2, seed=0)
        settings = {"distill_coef": 0.0, "rl_coef": 0.0, "critic_coef": 1.0, "policy_kwargs": options}
        model = mt.A2CMultiTask("MultiTaskMlpPolicy", env, teachers=teacher, seed=0, **settings)

    def averages(side):
        return getattr(model.policy, f"{side}_features_extractor").net[-1].running_mean.clone()

    before = {side: averages(side) for side in ("pi", "vf")}
    model.learn(60)
    assert th.equal(averages("pi"), before["pi"])
    assert th.equal(averages("vf"), before["vf"]) == (how == "frozen" or not apart)
    if how == "frozen":
        mt.freeze(model, "nothing")
        model.learn(60)
        assert not th.equal(averages("pi"), before["pi"])


# What is refused


class NoSize(nn.Module):
    def __init__(self, box):
        super().__init__()

    def forward(self, x):
        return x


class Narrow(BaseFeaturesExtractor):
    def __init__(self, box):
        super().__init__(box, 9)

    def forward(self, x):
        return x[:, :2]


class OfImages(BaseFeaturesExtractor):
    def __init__(self, box):
        super().__init__(box, 9)
        self.net = nn.Conv2d(3, 4, 2)

    def forward(self, x):
        return self.net(x)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"layer_norm": "actor"}, r"`layer_norm` must be False, \"critic\" or True \(got 'actor'\)"),
        ({"layer_norm": 1}, "`layer_norm` must be .*got 1"),
        ({"task_embedding": "one-hot"}, r"`task_embedding` must be None, \"onehot\", or a whole number.*got 'one-hot'"),
        ({"task_embedding": 0}, "`task_embedding` must be .*got 0"),
        ({"task_embedding": True}, "`task_embedding` must be .*got True"),
        ({"task_embedding": 2.5}, r"`task_embedding` must be .*got 2\.5"),
        ({"share": "columns"}, r"`share` must be one of heads, all, progressive \(got 'columns'\)"),
        ({"share": "al"}, "got 'al'.*Did you mean 'all'"),
        ({"share": True}, "`share` must be one of heads, all, progressive .*got True"),
        ({"features_extractor_class": "Mine"}, "`features_extractor_class` must be a class .*'Mine'.*BaseFeaturesExtr"),
        ({"features_extractor_class": nn.ReLU()}, r"`features_extractor_class` must be a class \(got ReLU\(\)"),
        ({"features_extractor_class": NatureCNN}, "=NatureCNN` with {} cannot be made for Box.*only with images.*Give"),
        ({"features_extractor_class": NoSize}, "=NoSize` has no `features_dim`.*BaseFeaturesExtractor"),
        ({"features_extractor_class": Narrow}, r"=Narrow` gives \(2, 2\) for 2 rows, and must give \(2, 9\)"),
        ({"features_extractor_class": OfImages}, r"=OfImages` does not take observations of shape \(n_rows, 4\)"),
        (
            {"features_extractor_class": OwnFeatures, "features_extractor_kwargs": {"width": 3}},
            r"=OwnFeatures` with \{'width': 3\} cannot be made.*unexpected keyword argument 'width'",
        ),
        ({"features_extractor_kwargs": [3]}, r"`features_extractor_kwargs` must be a dict.*got \[3\]"),
    ],
)
def test_bad_values_are_refused_with_what_is_accepted(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make_policy(**kwargs)


def test_the_probe_of_an_extractor_leaves_its_averages():
    class Averaging(OwnFeatures):
        def __init__(self, observation_space):
            super().__init__(observation_space)
            self.net.append(nn.BatchNorm1d(5))

    policy = make_policy(features_extractor_class=Averaging)
    assert policy.features_extractor.net[2].num_batches_tracked == 0
    assert policy.features_extractor.training


def test_an_extractor_sees_the_box_of_the_observations():
    seen = []

    class Seeing(OwnFeatures):
        def __init__(self, observation_space):
            seen.append(observation_space)
            super().__init__(observation_space)

    make_policy(features_extractor_class=Seeing)
    assert seen == [spaces.Box(-np.inf, np.inf, (4,))]
    make_policy(features_extractor_class=Seeing, share_features_extractor=False)
    assert len(seen) == 3


def test_heads_without_norms_are_what_they_were():
    th.manual_seed(0)
    first = TaskHeads(2, (3, 4, 1), nn.Tanh)
    th.manual_seed(0)
    second = TaskHeads(2, (3, 4, 1), nn.Tanh, layer_norm=True)
    assert set(second.state_dict()) - set(first.state_dict()) == {"norms.0.weight", "norms.0.bias"}
    assert all(th.equal(tensor, second.state_dict()[name]) for name, tensor in first.state_dict().items())


@pytest.mark.parametrize("name", ["relu", "ReLU", "nn.ReLU", "torch.nn.ReLU"])
@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_activations_by_name_reach_the_agent(tmp_path, algorithm, name):
    model = make(algorithm, activation_fn=name)
    assert model.policy.activation_fn is nn.ReLU
    model.save(tmp_path / "model")
    assert mt.load_agent(tmp_path / "model.zip").activation == agent_of(model).activation == "ReLU"
