"""Agents: a policy with its normaliser, in files that nothing executes."""

import dataclasses
import json

import gymnasium as gym
import numpy as np
import pytest
import stand_in
import torch as th
from helpers.drift import drift_tasks
from helpers.models import make_model
from stable_baselines3 import A2C
from stable_baselines3.common.distributions import SquashedDiagGaussianDistribution
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from torch import nn

import sb3_multitask as mt
from sb3_multitask.agents import Agent, agent_of
from sb3_multitask.agents.pretrained import PRETRAINED
from sb3_multitask.policies.arguments import ACTIVATIONS
from sb3_multitask.policies.heads import TaskHeads
from sb3_multitask.readers import UnreadableFileError


def trained(**kwargs):
    return make_model(drift_tasks(3, high=0.5), **kwargs).learn(300)


@pytest.fixture(scope="module")
def model():
    return trained()


@pytest.fixture
def saved(tmp_path, model):
    mt.save_agent(model, tmp_path / "agent")
    return tmp_path / "agent"


def raw_observations(n=7):
    rng = np.random.default_rng(0)
    return {"obs": 3 * rng.normal(size=(n, 3)), "task": rng.integers(0, 3, n)}


@pytest.mark.parametrize(
    "kwargs",
    [
        {},
        {"normalize": False},
        {"policy_kwargs": {"log_std_mode": "shared"}},
        {"policy_kwargs": {"log_std_mode": "state_dependent", "log_std_init": -1.0}},
        {"policy_kwargs": {"net_arch": {"pi": [], "vf": []}, "head_arch": {"pi": [5, 4], "vf": []}}},
        *({"policy_kwargs": {"activation_fn": activation}} for activation in ACTIVATIONS.values()),
    ],
)
def test_an_agent_acts_on_raw_observations_as_its_model_on_normalised_ones(tmp_path, kwargs):
    model = trained(**kwargs)
    mt.save_agent(model, tmp_path / "agent")
    agent = mt.load_agent(tmp_path / "agent")
    raw = raw_observations()
    normalizer = model.get_vec_normalize_env()
    seen = raw if normalizer is None else normalizer.normalize_obs(raw)
    expected, _ = model.predict({"obs": seen["obs"].astype(np.float32), "task": seen["task"]}, deterministic=True)
    actions, _ = agent.predict(raw, deterministic=True)
    np.testing.assert_allclose(actions, expected, atol=1e-6)
    assert agent.task_names == ("A", "B", "C")
    assert agent.digest == agent_of(model).digest
    model.learn(60)
    assert agent.digest != agent_of(model).digest


def test_samples_have_the_policys_spread(model):
    agent = agent_of(model)
    mean, log_std = agent.distribution(np.zeros((1, 3)), 1)
    wide = Agent(agent.weights, agent.task_names, agent.statistics)  # without bounds
    raw = {"obs": np.zeros((20_000, 3)), "task": np.ones(20_000)}
    actions, _ = wide.predict(raw, generator=np.random.default_rng(0))
    np.testing.assert_allclose(actions.mean(axis=0), mean[0], atol=0.05)
    np.testing.assert_allclose(actions.std(axis=0), np.exp(log_std[0]), rtol=0.05)
    bounded, _ = agent.predict(raw, generator=np.random.default_rng(0))
    assert np.abs(bounded).max() == 0.5


def test_one_observation_gives_one_action(model):
    actions, state = agent_of(model).predict({"obs": np.zeros(3), "task": 2}, state="kept", deterministic=True)
    assert actions.shape == (2,)
    assert state == "kept"


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        ({"obs": np.zeros((2, 4)), "task": [0, 1]}, r"must be \(n_rows, 3\) \(got \(2, 4\)\)"),
        ({"obs": np.zeros((2, 3)), "task": [0, 3]}, "task ids from 0 to 2"),
        ({"obs": np.zeros((2, 3)), "task": [-1, 0]}, "task ids from 0 to 2"),
    ],
)
def test_other_observations_are_refused(model, observation, message):
    with pytest.raises(ValueError, match=message):
        agent_of(model).predict(observation)


def test_files_are_two_and_small(saved):
    assert sorted(path.name for path in saved.parent.iterdir()) == ["agent.json", "agent.safetensors"]
    assert json.loads(saved.with_name("agent.json").read_text())["facts"]["num_timesteps"] == 300


def test_damaged_files_are_refused_with_their_name(saved):
    for ending in ("safetensors", "json"):
        file = saved.with_name(f"agent.{ending}")
        content = file.read_bytes()
        for n_bytes in range(0, len(content) - 64, max(64, len(content) // 40)):
            file.write_bytes(content[:n_bytes])
            with pytest.raises(UnreadableFileError, match=r"agent\.(json|safetensors): "):
                mt.load_agent(saved)
        file.unlink()
        with pytest.raises(UnreadableFileError, match=rf"agent.{ending} does not exist; give"):
            mt.load_agent(saved)
        file.write_bytes(content)
    mt.load_agent(saved)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"task_names": ["A", "B"]}, "3 heads for 2 tasks: A, B"),
        ({"task_names": [1, 2, 3]}, "task names must be strings"),
        ({"activation": stand_in.EXPRESSION}, "activation must be one of Tanh, ReLU, ELU"),
        ({"schema": 9}, "no agent of schema version 1 to 3.*got 9"),
        ({"normalizer": {"epsilon": -1, "clip": 10}}, "must not be negative"),
    ],
)
def test_descriptions_that_do_not_fit_are_refused(saved, change, message):
    file = saved.with_name("agent.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(UnreadableFileError, match=message):
        mt.load_agent(saved)


@pytest.mark.parametrize(
    "change",
    [
        {"action_low": [-0.25, -0.5]},
        {"facts": {"num_timesteps": 301}},
        {"schema": 1},
        {"description_sha256": None},
        {"x": 1},
    ],
)
def test_a_description_that_was_changed_is_refused(saved, change):
    file = saved.with_name("agent.json")
    file.write_text(json.dumps({**json.loads(file.read_text()), **change}))
    with pytest.raises(UnreadableFileError, match=r"agent\.json: .*SHA-256 differs.*save_agent"):
        mt.load_agent(saved)


def test_a_description_of_schema_1_had_no_checksum(saved):
    file, digest = saved.with_name("agent.json"), mt.load_agent(saved).digest
    old = {**json.loads(file.read_text()), "schema": 1}
    del old["description_sha256"]
    file.write_text(json.dumps(old))
    assert mt.load_agent(saved).digest == digest


def test_weights_that_are_not_finite_are_refused(model):
    agent = agent_of(model)
    weights = {**agent.weights, "log_std": np.full((3, 2), np.nan)}
    with pytest.raises(ValueError, match="not finite: log_std"):
        Agent(weights, agent.task_names, agent.statistics)


def test_an_agent_is_named_by_either_of_its_files_or_by_the_folder_it_is_shared_in(saved):
    digest = mt.load_agent(saved).digest
    for path in (f"{saved}.safetensors", f"{saved}.json", saved.parent):
        assert mt.load_agent(path).digest == digest


def test_a_run_folder_is_its_model(tmp_path, model):
    model.save(tmp_path / "run" / "model.zip")
    assert mt.load_agent(tmp_path / "run").digest == agent_of(model).digest


# Evaluated by themselves


@pytest.mark.parametrize("normalize", [True, False])
def test_an_agent_is_evaluated_as_its_model_is(normalize):
    model = trained(normalize=normalize)
    agent = agent_of(model)
    expected = mt.evaluate_tasks(model, n_eval_episodes=3)
    results = mt.evaluate_tasks(agent, n_eval_episodes=3)  # its tasks are known
    assert list(results) == list(expected)
    for task, result in results.items():
        np.testing.assert_allclose(result.episode_rewards, expected[task].episode_rewards, rtol=1e-5)
    env = mt.make_multitask_vec_env(drift_tasks(3, high=0.5), 3, seed=0, training=False)
    on_given = mt.evaluate_tasks(agent, env, n_eval_episodes=3)
    np.testing.assert_allclose(on_given["A"].mean_reward, results["A"].mean_reward, rtol=1e-5)
    samples = [mt.evaluate_tasks(agent, n_eval_episodes=3, deterministic=False, seed=seed) for seed in (1, 1, 2)]
    assert samples[0] == samples[1] != samples[2]


def test_tasks_that_are_ids_are_kept_in_the_file(tmp_path, saved):
    assert mt.load_agent(saved).tasks is None  # classes in a script cannot be found again
    with pytest.raises(ValueError, match="its file does not name their ids"):
        mt.evaluate_tasks(mt.load_agent(saved))
    tasks = (mt.Task("light", "HalfCheetahSmallFoot-v0", {"ctrl_cost_weight": 0.5}),)
    mt.save_agent(mt.A2CMultiTask("MultiTaskMlpPolicy", tasks, device="cpu"), tmp_path / "ids")
    assert mt.load_agent(tmp_path / "ids").tasks == tasks
    description = json.loads((tmp_path / "ids.json").read_text())
    for tasks, message in (
        ([{"name": "light", "env_id": "os:Nothing-v0"}], "must not name a module"),
        ([{"name": "dark", "env_id": "HalfCheetahSmallFoot-v0"}], "tasks dark are not those of the heads: light"),
        ([{"name": "light", "id": "HalfCheetahSmallFoot-v0"}], "KeyError"),
    ):
        (tmp_path / "ids.json").write_text(json.dumps({**description, "tasks": tasks}))
        with pytest.raises(UnreadableFileError, match=message):
            mt.load_agent(tmp_path / "ids")


def test_an_unknown_pretrained_agent_is_an_error_with_the_names():
    with pytest.raises(ValueError, match="No pretrained agent 'nobody'"):
        mt.load_pretrained("nobody")


@pytest.mark.slow
def test_pretrained_agents_are_as_good_as_their_files_say():
    assert set(PRETRAINED) == {
        "HalfCheetahBody6-vanilla",
        "HalfCheetahBody6-distilled",
        *(f"HalfCheetahBody6-teacher-{task.name}" for task in mt.TASK_SETS["HalfCheetahBody6"]),
    }
    for name in PRETRAINED:
        agent = mt.load_pretrained(name)
        assert all(agent.facts[key] for key in ("trained_by", "run", "revision", "chosen", "returns"))
        results = mt.evaluate_tasks(agent, n_eval_episodes=5)
        assert list(results) == list(agent.task_names)
        expected = np.mean(list(agent.facts["returns"].values()))
        mean = np.mean([result.mean_reward for result in results.values()])
        # Some agents fall in some episodes, and which these are depends on the processor: four standard errors.
        errors = [result.std_reward**2 / len(result.episode_rewards) for result in results.values()]
        assert mean == pytest.approx(expected, rel=0.25, abs=4 * np.sqrt(np.sum(errors)) / len(results))


def test_a_pretrained_agent_takes_raw_observations():
    agent = mt.load_pretrained("HalfCheetahBody6-vanilla")
    env = mt.make_multitask_vec_env(agent.tasks, 1, seed=0, normalize=False)
    actions, _ = agent.predict(env.reset(), deterministic=True)
    assert actions.shape == (6, 6)
    assert env.observation_space["obs"].shape == (agent.obs_dim,)
    assert agent.task_names == tuple(task.name for task in mt.TASK_SETS["HalfCheetahBody6"])


@pytest.mark.parametrize(
    "change",
    [
        {"log_std_bounds": [-5, 2, 2]},
        {"action_low": [float("nan")] * 2},
        {"action_low": [3.0, 3.0]},
        {"action_low": [-1.0] * 3},
        {"tasks": [{"name": name, "env_id": "Hopper-v5", "env_kwargs": None} for name in "ABC"]},
    ],
)
def test_hostile_descriptions_are_refused(saved, change):
    path = saved.with_name("agent.json")
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(UnreadableFileError):
        mt.load_agent(saved)
    path.write_text("[" * 200_000)
    with pytest.raises(UnreadableFileError):
        mt.load_agent(saved)


def test_statistics_that_are_views_are_saved_as_they_are(tmp_path, saved):
    agent = mt.load_agent(saved)
    wide = np.random.default_rng(0).uniform(1, 2, (2, 3, 4))
    views = dataclasses.replace(agent.statistics, mean=wide[0, :, :-1], var=wide[1, :, :-1])
    mt.save_agent(dataclasses.replace(agent, statistics=views), tmp_path / "views")
    read = mt.load_agent(tmp_path / "views").statistics
    np.testing.assert_array_equal([read.mean, read.var], wide[:, :, :-1])


def test_tuples_in_a_tasks_arguments_are_kept_as_lists(tmp_path):
    task = mt.Task("x", "Hopper-v5", {"healthy_z_range": (0.7, 2.0)})
    mt.save_agent(mt.A2CMultiTask("MultiTaskMlpPolicy", [task], device="cpu"), tmp_path / "agent")
    assert mt.load_agent(tmp_path / "agent").tasks[0].env_kwargs == {"healthy_z_range": [0.7, 2.0]}


def test_endings_are_the_same_for_saving_and_reading(tmp_path):
    agent = mt.load_pretrained("HalfCheetahBody6-vanilla")
    mt.save_agent(agent, tmp_path / "a.json")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.json", "a.safetensors"]
    assert mt.load_agent(tmp_path / "a.json").digest == agent.digest
    with pytest.raises(ValueError, match="is an agent's own file, which has its statistics"):
        mt.load_agent(tmp_path / "a", normalizer="nothing.pkl")


@pytest.mark.parametrize("observation", [np.zeros(17), {"obs": np.zeros(17)}, {"obs": np.zeros(17), "task": "BigFoot"}])
def test_observations_without_a_task_id_are_refused(observation):
    with pytest.raises(ValueError, match=r"`observation"):
        mt.load_pretrained("HalfCheetahBody6-vanilla").predict(observation)


def test_a_zip_whose_statistics_are_elsewhere_says_so(tmp_path):
    env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]))
    A2C("MlpPolicy", env, device="cpu").learn(5).save(tmp_path / "a2c")
    env.save(str(tmp_path / "statistics.pkl"))
    with pytest.warns(UserWarning, match="A2C was trained in a VecNormalize"):
        mt.load_agent(tmp_path / "a2c.zip")
    assert mt.load_agent(tmp_path / "a2c.zip", tmp_path / "statistics.pkl").statistics is not None


@pytest.fixture(scope="module")
def model_and_agent():
    env = mt.make_multitask_vec_env(drift_tasks(3), 1, seed=0, normalize=False)
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=0, device="cpu")
    return model, agent_of(model)


BATCH = np.zeros((2, 3), dtype=np.float32)
NO_TASK_IDS = [
    (BATCH[0], 1.5),
    (BATCH[0], np.nan),
    (BATCH[0], np.inf),
    (BATCH[0], True),
    (BATCH[0], "B"),
    (BATCH[0], None),
    (BATCH[0], 1j),
    (BATCH[0], np.timedelta64(1)),
    (BATCH[0], -1),
    (BATCH[0], 3),
    (BATCH[0], [0, 1]),
    (BATCH, [0, 0.5]),
    (BATCH, [0, np.nan]),
    (BATCH, [True, False]),
    (BATCH, [[0], [1]]),
    (BATCH, [[0, 1]]),
    (BATCH, ["0", "1"]),
    (BATCH, [0, -1]),
    (BATCH, [0]),
    (BATCH, [0, 1, 2]),
]


@pytest.mark.parametrize(("obs", "task"), NO_TASK_IDS, ids=repr)
def test_what_is_no_task_id_is_refused_by_models_and_agents_in_the_same_words(model_and_agent, obs, task):
    said = []
    for one in model_and_agent:
        with pytest.raises(ValueError, match=r"`observation\['task'\]` must ") as refused:
            one.predict({"obs": obs, "task": task}, deterministic=True)
        said.append(str(refused.value))
    assert said[0] == said[1]


@pytest.mark.parametrize("task", [1, 1.0, np.uint8(1), np.array(1), [1, 1], np.array([1.0, 1.0]), (1, 1)])
def test_whole_numbers_are_task_ids_of_models_and_agents(model_and_agent, task):
    model, agent = model_and_agent
    observation = {"obs": BATCH + 0.3, "task": task}
    first, second = (one.predict(observation, deterministic=True)[0] for one in (model, agent))
    np.testing.assert_allclose(first, second, atol=1e-6)
    np.testing.assert_allclose(agent.predict({**observation, "task": [1, 1]}, deterministic=True)[0], second)


@pytest.mark.parametrize("observation", [BATCH, {"obs": BATCH}, {"obs": BATCH, "task": [0, 1], "mask": 1}, None, "obs"])
def test_other_observations_are_refused_by_models_and_agents(model_and_agent, observation):
    for one in model_and_agent:
        with pytest.raises(ValueError, match=r"`observation` must be \{'obs': "):
            one.predict(observation, deterministic=True)


class Documented(mt.MultiTaskActorCriticPolicy):
    """Adds to the policy and changes nothing of how it acts."""

    def n_weights(self):
        return sum(parameter.numel() for parameter in self.parameters())

    def predict_values(self, obs):
        return 2 * super().predict_values(obs)


class Halving(mt.MultiTaskActorCriticPolicy):
    def split_observation(self, obs):
        features, rows, task = super().split_observation(obs)
        return 0.5 * features, rows, task


class Inherits(Halving):
    """Has the override of its base."""


class Bounded(mt.MultiTaskActorCriticPolicy):
    def _distribution(self, latent_pi, rows, task):
        return super()._distribution(th.tanh(latent_pi), rows, task)


class Swish(nn.Module):
    def forward(self, x):
        return x * th.sigmoid(x)


class OwnHeads(TaskHeads):
    pass


def of_policy(policy="MultiTaskMlpPolicy", **kwargs):
    env = mt.make_multitask_vec_env(drift_tasks(2), 1, seed=0)
    return mt.A2CMultiTask(policy, env, seed=0, device="cpu", policy_kwargs=kwargs)


def test_a_policy_that_acts_as_its_weights_say_becomes_an_agent(tmp_path):
    model = of_policy(Documented)
    assert isinstance(agent_of(model), Agent)
    model.save(tmp_path / "model")
    assert mt.load_agent(tmp_path / "model.zip").task_names == ("A", "B")


def add_hook(policy):
    policy.action_net.layers[0].register_forward_hook(lambda *_: None)


def replace_distribution(policy):
    policy.action_dist = SquashedDiagGaussianDistribution(2)


def replace_layer(policy):
    policy.mlp_extractor.policy_net[1] = nn.ReLU()


def replace_heads(policy):
    policy.action_net.__class__ = OwnHeads


def replace_method(policy):
    policy.forward = lambda *_args: None


def replace_extractor(policy):
    policy.mlp_extractor = nn.Identity()


@pytest.mark.parametrize(
    ("policy", "kwargs", "change", "reason"),
    [
        (Halving, {}, None, "Halving overrides `split_observation`"),
        (Inherits, {}, None, "Inherits overrides `split_observation`"),
        (Bounded, {}, None, "Bounded overrides `_distribution`"),
        ("MultiTaskMlpPolicy", {"activation_fn": Swish}, None, "Swish is not torch's"),
        ("MultiTaskMlpPolicy", {}, add_hook, "forward hooks"),
        ("MultiTaskMlpPolicy", {}, replace_distribution, "`action_dist` is a SquashedDiagGaussian"),
        ("MultiTaskMlpPolicy", {}, replace_layer, r"`mlp_extractor.policy_net.1` is ReLU\(\), not Tanh"),
        ("MultiTaskMlpPolicy", {}, replace_heads, "`action_net` is a OwnHeads"),
        ("MultiTaskMlpPolicy", {}, replace_method, "`forward` was replaced"),
        ("MultiTaskMlpPolicy", {}, replace_extractor, "`mlp_extractor` is a Identity"),
    ],
)
def test_a_policy_that_acts_otherwise_than_its_weights_say_is_refused(policy, kwargs, change, reason, tmp_path):
    model = of_policy(policy, **kwargs)
    if change is not None:
        change(model.policy)
    with pytest.raises(ValueError, match=f"the policy of a subclass|{reason}"):
        mt.save_agent(model, tmp_path / "agent")
    with pytest.raises(ValueError, match=f"teacher of task 'A'.*{reason}"):
        mt.A2CMultiTask("MultiTaskMlpPolicy", model.env, teachers={"A": model, "B": model})
    assert not list(tmp_path.iterdir())
    if change not in (add_hook, replace_method):  # which hold functions, and do not pickle or load
        model.save(tmp_path / "model")
        with pytest.raises(UnreadableFileError, match=reason):
            mt.load_agent(tmp_path / "model.zip")


def test_a_zip_of_another_algorithm_tells_what_its_policy_overrides(tmp_path):
    env = mt.make_multitask_vec_env(drift_tasks(2), 1, seed=0, normalize=False)
    A2C(Halving, env, device="cpu").save(tmp_path / "model")
    with pytest.raises(UnreadableFileError, match="overrides `split_observation`"):
        mt.load_agent(tmp_path / "model.zip")
