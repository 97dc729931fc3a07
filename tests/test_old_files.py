"""Models and folders that old versions of SB3 and rl_zoo3 left: read, evaluated and learned from as today's are."""

import io
import json
import shutil
import zipfile
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import stand_in
import torch as th
from helpers.drift import drift_tasks
from stable_baselines3 import A2C
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import sb3_multitask as mt
from sb3_multitask.distillation.teachers import Teachers
from sb3_multitask.envs.task_space import TaskSizes
from sb3_multitask.readers import UnreadableFileError, read_sb3_zip
from sb3_multitask.readers.zoo_folder import ZooFolder
from sb3_multitask.storage.yaml_files import ConfigError, load_values

FILES = Path(__file__).parent / "old_files"
OBS = np.array([[0.126, -0.132, 0.64], [0.105, -0.536, 0.362], [1.304, 0.947, -0.704], [-1.265, -0.623, 0.041]])
ACTIONS = {
    "sb3_1.3.0_a2c": [[-0.332519, 0.035708], [-0.492054, 0.258079], [-0.34649, 0.5], [-0.5, -0.076016]],
    "sb3_1.3.0_ppo_shared_relu": [[-0.154105, -0.09658], [-0.288029, 0.037044], [-0.280512, -0.38088], [0.5, 0.201532]],
    "sb3_1.5.0_trpo_all_shared": [[-0.23775, -0.143373], [-0.5, -0.219413], [-0.287776, -0.5], [-0.5, -0.5]],
    "sb3_1.7.0_ppo_shared": [[-0.414482, 0.117918], [-0.5, 0.171557], [-0.5, -0.5], [0.28403, 0.290355]],
}
"""What the version that made a file did on OBS, deterministically."""
TAG = "!!python/object/apply:collections.OrderedDict"


def tagged(**values):
    """A mapping as rl_zoo3 writes it."""
    return f"{TAG}\n- " + "\n  ".join(f"- - {key}\n    - {value}" for key, value in values.items()) + "\n"


def make_zoo_folder(path, env_id="Old/Arm-v3", model="sb3_1.3.0_ppo_shared_relu", **config):
    """What rl_zoo3 leaves of a training, with one of the old models."""
    name = env_id.replace("/", "-")
    (path / name).mkdir(parents=True)
    shutil.copy(FILES / f"{model}.zip", path / f"{name}.zip")
    (path / name / "config.yml").write_text(tagged(**{"n_timesteps": 1000000.0, "policy": "MlpPolicy", **config}))
    (path / name / "args.yml").write_text(tagged(algo="ppo", env=env_id, env_kwargs="null", seed=3, gym_packages="[]"))
    return path


def save_statistics(path, mean=1.0):
    env = VecNormalize(DummyVecEnv([lambda: gym.make("Pendulum-v1")]))  # three numbers, as the models' observations
    env.obs_rms.mean, env.obs_rms.var = np.full(3, mean), np.full(3, 4.0)
    env.save(str(path))


@pytest.mark.parametrize("name", ACTIONS)
def test_a_policy_acts_as_in_the_version_that_made_it(name):
    agent = mt.load_agent(FILES / f"{name}.zip")
    actions, _ = agent.predict({"obs": OBS, "task": np.zeros(4)}, deterministic=True)
    np.testing.assert_allclose(actions, ACTIONS[name], atol=2e-6)
    assert agent.facts["algorithm"] == name.split("_")[2].upper()
    assert agent.activation == ("ReLU" if "relu" in name else "Tanh")


def test_shared_layers_come_first_in_actor_and_critic():
    policy = read_sb3_zip(FILES / "sb3_1.7.0_ppo_shared.zip")
    with zipfile.ZipFile(FILES / "sb3_1.7.0_ppo_shared.zip") as archive:
        old = th.load(io.BytesIO(archive.read("policy.pth")), weights_only=True)
    shared = old["mlp_extractor.shared_net.0.weight"].numpy()
    for net in ("policy_net", "value_net"):
        np.testing.assert_array_equal(policy.weights[f"mlp_extractor.{net}.0.weight"], shared)
        np.testing.assert_array_equal(
            policy.weights[f"mlp_extractor.{net}.2.weight"], old[f"mlp_extractor.{net}.0.weight"].numpy()
        )
    assert not any("shared" in name for name in policy.weights)


def test_a_folder_of_rl_zoo3_is_one_agent_with_its_statistics(tmp_path):
    folder = make_zoo_folder(tmp_path, normalize="true")
    save_statistics(folder / "Old-Arm-v3" / "vecnormalize.pkl")
    agent = mt.load_agent(str(folder))
    assert (agent.task_names, agent.tasks) == (("Old/Arm-v3",), None)  # the id is not registered
    assert agent.facts["env_id"] == "Old/Arm-v3"
    raw = 1.0 + OBS * np.sqrt(4.0 + 1e-8)
    actions, _ = agent.predict({"obs": raw, "task": np.zeros(4)}, deterministic=True)
    np.testing.assert_allclose(actions, ACTIONS["sb3_1.3.0_ppo_shared_relu"], atol=2e-6)


def test_a_registered_id_is_its_task_unless_a_wrapper_made_its_observations(tmp_path):
    assert mt.load_agent(make_zoo_folder(tmp_path / "a", "Pendulum-v1")).tasks == mt.tasks.resolve_tasks("Pendulum-v1")
    wrapped = make_zoo_folder(
        tmp_path / "b", "Pendulum-v1", env_wrapper="sb3_contrib.common.wrappers.TimeFeatureWrapper"
    )
    agent = mt.load_agent(wrapped)
    assert agent.tasks is None
    assert agent.facts["wrapper"] == "env_wrapper: sb3_contrib.common.wrappers.TimeFeatureWrapper"


def test_an_agent_of_rl_zoo3_teaches_and_is_saved(tmp_path):
    folder = make_zoo_folder(tmp_path / "logs")
    spaces = gym.spaces
    observation_space = spaces.Dict(obs=spaces.Box(-np.inf, np.inf, (3,)), task=spaces.Discrete(1))
    sizes = TaskSizes.of(observation_space, spaces.Box(-1, 1, (2,)))
    teachers = Teachers({"A": str(folder)}, ["A"], sizes)
    mean, log_std = teachers.targets(np.zeros(4, int), OBS[None])
    np.testing.assert_allclose(np.clip(mean[0], -0.5, 0.5), ACTIONS["sb3_1.3.0_ppo_shared_relu"], atol=2e-6)
    assert log_std.shape == (1, 4, 2)
    student = mt.A2CMultiTask("MultiTaskMlpPolicy", drift_tasks(1), device="cpu", teachers={"A": str(folder)})
    student.learn(60)
    agent = mt.load_agent(folder)
    mt.save_agent(agent, tmp_path / "agent")
    assert mt.load_agent(tmp_path / "agent").digest == agent.digest


def test_an_agent_of_rl_zoo3_is_evaluated_by_one_call(tmp_path):
    agent = mt.load_agent(make_zoo_folder(tmp_path))
    task = mt.Task("arm", drift_tasks(1)[0].env_id)
    results = mt.evaluate_tasks(agent, [task], n_eval_episodes=2)
    assert list(results) == ["arm"]
    assert len(results["arm"].episode_rewards) == 2


def test_normalize_as_python_text_is_understood_and_not_executed(tmp_path, monkeypatch):
    monkeypatch.setattr(stand_in, "BUILT", [])
    for normalize, has_statistics in (
        ('"dict(norm_obs=False, norm_reward=True)"', False),
        ("\"{'norm_obs': False, 'norm_reward': True}\"", False),
        ('"dict(norm_obs=True, norm_reward=False)"', True),
        (f'"{stand_in.EXPRESSION}"', True),
    ):
        folder = make_zoo_folder(tmp_path / "logs", normalize=normalize)
        save_statistics(folder / "Old-Arm-v3" / "vecnormalize.pkl")
        assert (mt.load_agent(folder).statistics is not None) == has_statistics
        shutil.rmtree(folder)
    assert not stand_in.BUILT


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (f"{stand_in.TAGS[0]}\n", "must be a mapping.*stand_in.EmptyDict"),
        (f"{TAG}\n- - - normalize\n    - {stand_in.TAGS[0]}\n", None),
        (f"{TAG}\n- - - normalize\n    - true\n    - 3\n", "one list of pairs"),
        (f"{TAG}\n- - - a\n    - 1\n  - - a\n    - 2\n", "key twice: a"),
        (f"{TAG}\n- - - [a]\n    - 1\n", "one list of pairs"),
        (f"{TAG} a text\n", "must be a mapping"),
    ],
)
def test_only_the_one_tag_is_read_and_nothing_executed(tmp_path, monkeypatch, text, message):
    monkeypatch.setattr(stand_in, "BUILT", [])
    file = tmp_path / "config.yml"
    file.write_text(text)
    if message is None:
        assert load_values(file) == {"normalize": []}
    else:
        with pytest.raises(ConfigError, match=message):
            load_values(file)
    assert not stand_in.BUILT


def test_a_tagged_mapping_inside_another_is_one_too(tmp_path):
    (tmp_path / "args.yml").write_text(f"{TAG}\n- - - env_kwargs\n    - {TAG}\n      - - - goal\n          - 0.5\n")
    assert load_values(tmp_path / "args.yml") == {"env_kwargs": {"goal": 0.5}}


# What is refused, by its own name


def change(source, target, weights=None, **data):
    """A copy of an old model with other settings, or weights; a setting that is None is left out."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        settings = {**json.loads(old.read("data")), **data}
        new.writestr("data", json.dumps({name: value for name, value in settings.items() if value is not None}))
        if weights is None:
            new.writestr("policy.pth", old.read("policy.pth"))
        elif weights:
            file = io.BytesIO()
            th.save({**th.load(io.BytesIO(old.read("policy.pth")), weights_only=True), **weights}, file)
            new.writestr("policy.pth", file.getvalue())
    return target


def policy_of(module):
    return {"__module__": module}


OFF_POLICY = {"n_steps": None, "gae_lambda": None, "clip_range": None}


@pytest.mark.parametrize(
    ("settings", "name"),
    [
        ({**OFF_POLICY, "delta_std_schedule": {}, "policy_class": policy_of("sb3_contrib.ars.policies")}, "ARS"),
        ({**OFF_POLICY, "target_entropy": -2.0, "policy_class": policy_of("stable_baselines3.sac.policies")}, "SAC"),
        ({**OFF_POLICY, "policy_delay": 2, "target_noise_clip": 0.5, "target_policy_noise": 0.2}, "TD3"),
        ({**OFF_POLICY, "policy_delay": 1, "target_noise_clip": 0.0, "target_policy_noise": 0.1}, "DDPG"),
        (
            {**OFF_POLICY, "exploration_fraction": 0.1, "policy_class": policy_of("stable_baselines3.dqn.policies")},
            "DQN",
        ),
        (
            {**OFF_POLICY, "exploration_fraction": 0.1, "policy_class": policy_of("sb3_contrib.qrdqn.policies")},
            "QR-DQN",
        ),
        ({**OFF_POLICY, "top_quantiles_to_drop_per_net": 2, "target_entropy": 1.0}, "TQC"),
        ({**OFF_POLICY, "policy_delay": 3, "target_entropy": 1.0}, "CrossQ"),
        ({"_last_lstm_states": {}}, "RecurrentPPO"),
        ({"policy_class": policy_of("sb3_contrib.common.recurrent.policies")}, "RecurrentPPO"),
        ({"policy_class": policy_of("sb3_contrib.common.maskable.policies")}, "MaskablePPO"),
        ({**OFF_POLICY, "n_sampled_goal": 4, "goal_selection_strategy": {}, "target_entropy": 1.0}, "HER"),
        (OFF_POLICY, "an unknown algorithm"),
    ],
)
def test_other_algorithms_are_refused_by_their_own_names(tmp_path, settings, name):
    path = change(FILES / "sb3_1.3.0_ppo_shared_relu.zip", tmp_path / "model.zip", **settings)
    with pytest.raises(UnreadableFileError, match=rf"model of {name}[ ,].*give one of A2C, PPO, TRPO"):
        mt.load_agent(path)


def test_a_model_of_sbx_is_named_though_it_has_no_weights_of_torch(tmp_path):
    source = FILES / "sb3_1.3.0_ppo_shared_relu.zip"
    path = change(source, tmp_path / "sbx.zip", weights={}, policy_class=policy_of("sbx.ppo.policies"))
    with pytest.raises(UnreadableFileError, match="model of sbx"):
        mt.load_agent(path)
    with pytest.raises(UnreadableFileError, match=r"no policy\.pth.*model\.save"):
        mt.load_agent(change(source, tmp_path / "none.zip", weights={}))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"use_sde": True}, "gSDE"),
        ({"action_space": {":type:": "<class 'gym.spaces.discrete.Discrete'>", "n": 3}}, "action_space is a Discrete"),
        ({"observation_space": {":type:": "<class 'gym.spaces.dict.Dict'>"}}, "observation_space is a Dict"),
        (
            {"observation_space": {":type:": "<class 'gym.spaces.discrete.Discrete'>"}},
            "observation_space is a Discrete",
        ),
        ({"policy_kwargs": {"features_extractor_class": "<class 'mine.Log'>"}}, "features_extractor_class.*mine.Log"),
        ({"policy_kwargs": {"activation_fn": "<function swish at 0x1>"}}, "activation_fn is '<function swish"),
        ({"policy_kwargs": {"activation_fn": "<class 'mine.ReLU'>"}}, "activation_fn is .*mine.ReLU"),
        ({"policy_kwargs": {"activation_fn": "<class 'torch.nn.modules.activation.GELU'>"}}, "activation.*'GELU'"),
    ],
)
def test_a_policy_that_is_no_agent_is_refused_for_its_true_reason(tmp_path, settings, message):
    path = change(FILES / "sb3_1.3.0_a2c.zip", tmp_path / "model.zip", **settings)
    with pytest.raises(UnreadableFileError, match=message):
        mt.load_agent(path)


@pytest.mark.parametrize(
    ("name", "shape", "message"),
    [
        ("features_extractor.cnn.0.weight", (2, 2), "CnnPolicy"),
        ("lstm_actor.weight_ih_l0", (2, 2), "no MlpPolicy has: lstm_actor"),
        ("mlp_extractor.policy_net.1.weight", (4,), "not linear: mlp_extractor.policy_net.1.weight"),
    ],
)
def test_weights_of_other_parts_are_named(tmp_path, name, shape, message):
    path = change(FILES / "sb3_1.3.0_a2c.zip", tmp_path / "model.zip", weights={name: th.zeros(shape)})
    with pytest.raises(UnreadableFileError, match=message):
        mt.load_agent(path)


def test_the_shape_that_old_gym_wrote_is_checked_too(tmp_path):
    with zipfile.ZipFile(FILES / "sb3_1.3.0_a2c.zip") as archive:
        space = json.loads(archive.read("data"))["observation_space"]
    space["shape"] = space.pop("_shape")
    assert (
        mt.load_agent(change(FILES / "sb3_1.3.0_a2c.zip", tmp_path / "same.zip", observation_space=space)).obs_dim == 3
    )
    space["shape"] = [4]
    with pytest.raises(UnreadableFileError, match=r"shape \[4\], its weights are for \[3\]"):
        mt.load_agent(change(FILES / "sb3_1.3.0_a2c.zip", tmp_path / "other.zip", observation_space=space))


@pytest.mark.parametrize("net_arch", [{"pi": [], "vf": [4]}, []])
def test_a_policy_without_hidden_layers_is_an_agent(tmp_path, net_arch):
    model = A2C("MlpPolicy", "Pendulum-v1", device="cpu", policy_kwargs={"net_arch": net_arch})
    model.save(tmp_path / "model")
    agent = mt.load_agent(tmp_path / "model.zip")
    actions, _ = agent.predict({"obs": OBS, "task": np.zeros(4)}, deterministic=True)
    np.testing.assert_allclose(actions, model.predict(OBS.astype(np.float32), deterministic=True)[0], atol=1e-6)


def test_a_zip_is_found_without_its_ending_and_under_another(tmp_path):
    shutil.copy(FILES / "sb3_1.3.0_a2c.zip", tmp_path / "model_1.zip")
    shutil.copy(FILES / "sb3_1.3.0_a2c.zip", tmp_path / "a2c_1.5M")  # SB3 adds no ending to a name with a dot
    digest = mt.load_agent(tmp_path / "model_1").digest
    assert digest == mt.load_agent(tmp_path / "a2c_1.5M").digest


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("model_10.pt", None, "model_10.pt: is a file of torch.save"),
        ("model.zip", None, "is no model of SB3.*a file of torch.save"),
        ("vecnormalize.pkl", b"\x80\x04N.", "give it as `normalizer`"),
        ("agent.onnx", b"x", "is an export"),
        ("notes.txt", b"x", "notes.txt: is no file that an agent is read from; give a run's folder"),
        ("model.zip", b"version https://git-lfs.github.com/spec/v1\n", "Git LFS.*git lfs pull"),
        ("results.json", b"{}", "results.json: is no file that an agent is read from; give a run's folder"),
        ("weights.safetensors", b"x", "weights.json does not exist; give an agent with both"),
        ("run/notes.txt", b"x", "run: holds no agent"),
        ("run/best_model.zip", b"x", "run: has no agent of its own; models in it.*best_model.zip"),
        ("run/manifest.json", b"x", "run: is a checkpoint"),
        (None, None, "missing does not exist; give a run's folder"),
    ],
)
def test_what_is_no_agent_is_refused_for_its_true_reason(tmp_path, name, content, message):
    path = tmp_path / (name or "missing")
    path.parent.mkdir(exist_ok=True)
    if name is not None and content is None:
        th.save({"actor.0.weight": th.zeros(2, 2)}, path)
    elif content is not None:
        path.write_bytes(content)
    with pytest.raises(UnreadableFileError, match=message):
        mt.load_agent(path.parent if path.parent != tmp_path else path)


def test_a_zoo_folder_whose_model_is_missing_says_both_reasons(tmp_path):
    folder = make_zoo_folder(tmp_path)
    (folder / "Old-Arm-v3.zip").unlink()
    with pytest.raises(UnreadableFileError, match="training did not end, or the file was not copied along"):
        mt.load_agent(folder)
    assert ZooFolder.at(folder) is not None
