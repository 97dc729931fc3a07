"""What rl_zoo3 left, read as our own runs are: agents, exports and model cards."""

import numpy as np
import pytest
from ruamel.yaml import YAML
from sb3_contrib import TRPO
from stable_baselines3 import PPO
from typer.testing import CliRunner

import sb3_multitask as mt
from sb3_multitask import cli
from sb3_multitask.experiments.card import write_card
from sb3_multitask.readers import UnreadableFileError
from sb3_multitask.zoo.folder import ZooFolder

SET = "MultiTask/HalfCheetahBody6-v0"
NAME = SET.replace("/", "-")
SHORT = {"max_episode_steps": 5}
SMALL = {"net_arch": {"pi": [4], "vf": [4]}, "log_std_mode": "state_dependent"}
ALGORITHMS = {"a2c_mt": mt.A2CMultiTask, "ppo_mt": PPO, "trpo_mt": TRPO}


def make_folder(path, algo="a2c_mt", normalize=True):
    """What the zoo leaves of a short training, and the model in it."""
    tasks = [mt.Task(task.name, task.env_id, SHORT) for task in mt.TASK_SETS["HalfCheetahBody6"]]
    env = mt.make_multitask_vec_env(tasks, 1, seed=0, normalize=normalize, monitor_dir=path)
    kwargs = {"n_steps": 10, "seed": 0, "device": "cpu", "policy_kwargs": dict(SMALL)}
    kwargs |= {} if algo == "a2c_mt" else {"batch_size": 60}
    model = ALGORITHMS[algo](mt.MultiTaskActorCriticPolicy, env, **kwargs)
    model.learn(60)
    model.save(path / f"{NAME}.zip")
    settings = path / NAME
    settings.mkdir()
    if normalize:
        env.save(settings / "vecnormalize.pkl")
    env.close()
    arguments = {"algo": algo, "env": SET, "env_kwargs": SHORT, "eval_env_kwargs": None, "seed": 3, "trained_agent": ""}
    YAML().dump({"n_timesteps": 60, "n_envs": 1, "normalize": normalize}, settings / "config.yml")
    YAML().dump(arguments, settings / "args.yml")
    (settings / "command.txt").write_text(f"/a/b/python -m sb3_multitask.zoo train --algo {algo} --env {SET} -n 60")
    return model


@pytest.fixture(params=ALGORITHMS)
def trained(request, tmp_path):
    folder = tmp_path / f"{NAME}_1"
    return folder, make_folder(folder, request.param)


def actions_of(model, obs, task):
    """What a model does on raw observations."""
    normalizer = model.get_vec_normalize_env()
    return model.predict(normalizer.normalize_obs({"obs": obs, "task": task}), deterministic=True)[0]


def test_the_agent_acts_as_the_last_model_with_its_statistics(trained):
    folder, model = trained
    agent = mt.load_agent(folder)
    obs, task = np.random.default_rng(0).normal(size=(6, 17)), np.arange(6)
    np.testing.assert_allclose(
        agent.predict({"obs": obs, "task": task}, deterministic=True)[0], actions_of(model, obs, task), atol=1e-5
    )
    assert agent.task_names == tuple(task.name for task in mt.TASK_SETS["HalfCheetahBody6"])
    assert agent.tasks[0] == mt.Task("SmallFoot", "HalfCheetahSmallFoot-v0", SHORT)
    assert agent.facts == {"algorithm": type(model).__name__, "num_timesteps": 60}


def test_the_card_tells_an_evaluation_and_how_it_was_trained(trained):
    folder, model = trained
    arguments = ["card", str(folder), "--no-clips", "--n-eval-episodes", "2"]
    assert CliRunner().invoke(cli.app, arguments, catch_exceptions=False).exit_code == 0
    written = {path.name for path in (folder / "card").iterdir()}
    assert written == {"README.md", "config.yml", "agent.json", "agent.safetensors", "learning_curves.png"}
    text = (folder / "card" / "README.md").read_text()
    (entry,) = YAML(typ="safe").load(text.split("---\n")[1])["model-index"]
    agent = mt.load_agent(folder / "card")
    assert agent.digest == mt.load_agent(folder).digest
    results = mt.evaluate_tasks(agent, n_eval_episodes=2)
    told = {result["dataset"]["name"]: result["metrics"][0]["value"] for result in entry["results"]}
    assert told == {task: f"{result.mean_reward:.2f} +/- {result.std_reward:.2f}" for task, result in results.items()}
    assert {result.episode_lengths for result in results.values()} == {(5, 5)}
    assert entry["name"] == type(model).__name__
    assert text.count("| - | 2 | 3 | 60 |") == 6  # untrained, episodes, seed, steps
    assert f"\npython -m sb3_multitask.zoo train --algo {ZooFolder.at(folder).arguments['algo']} --env {SET} " in text
    assert "/a/b" not in text
    assert "sb3-multitask train" not in text
    write_card(folder, folder / "card", clips=False, n_eval_episodes=1)  # a card is replaced, and is no training
    assert mt.load_agent(folder).digest == agent.digest


def test_observations_that_are_not_normalised_need_no_statistics(tmp_path):
    model = make_folder(tmp_path, "ppo_mt", normalize=False)
    agent = mt.load_agent(tmp_path)
    obs = {"obs": np.ones((6, 17), dtype=np.float32), "task": np.arange(6)}
    np.testing.assert_allclose(
        agent.predict(obs, deterministic=True)[0], model.predict(obs, deterministic=True)[0], atol=1e-5
    )


@pytest.mark.slow
def test_export_and_evaluate_take_the_folder(tmp_path):
    make_folder(tmp_path)
    export = ["export", str(tmp_path), "--format", "torch", "--output", str(tmp_path / "agent.pt2")]
    for arguments in (export, ["evaluate", str(tmp_path), "--n-eval-episodes", "1"]):
        assert CliRunner().invoke(cli.app, arguments, catch_exceptions=False).exit_code == 0
    assert (tmp_path / "agent.pt2").exists()


def test_a_training_that_did_not_end_names_the_models_it_has(tmp_path):
    make_folder(tmp_path)
    (tmp_path / f"{NAME}.zip").rename(tmp_path / "rl_model_60_steps.zip")
    with pytest.raises(UnreadableFileError, match=r"training did not end.*rl_model_60_steps\.zip"):
        mt.load_agent(tmp_path)
    assert mt.load_agent(tmp_path / "rl_model_60_steps.zip").n_tasks == 6


def test_nothing_in_the_settings_is_executed(tmp_path):
    make_folder(tmp_path)
    config, made = tmp_path / NAME / "config.yml", tmp_path / "made"
    config.write_text(f"normalize: true\nx: !!python/object/apply:os.mkdir [{made}]\n")
    write_card(tmp_path, tmp_path / "card", clips=False, n_eval_episodes=1)
    assert not made.exists()
    assert "!!python" not in (tmp_path / "card" / "config.yml").read_text()
    config.write_text("!!python/object/apply:collections.OrderedDict\n- - - normalize\n    - true\n")  # rl_zoo3's own
    with pytest.raises(ValueError, match=rf"must be a mapping.*The model alone can be read: .*{NAME}\.zip"):
        write_card(tmp_path, tmp_path / "card", clips=False)


def test_unknown_environments_are_refused(tmp_path):
    make_folder(tmp_path)
    (tmp_path / NAME).rename(tmp_path / "Nothing-v0")
    (tmp_path / f"{NAME}.zip").rename(tmp_path / "Nothing-v0.zip")
    with pytest.raises(UnreadableFileError, match="no environment is registered that is called Nothing-v0"):
        mt.load_agent(tmp_path)
