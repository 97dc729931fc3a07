"""What rl_zoo3 left, read as our own runs are: agents, exports and model cards."""

import re
import shlex

import numpy as np
import pytest
import stand_in
from ruamel.yaml import YAML
from sb3_contrib import TRPO
from stable_baselines3 import PPO
from typer.testing import CliRunner

import sb3_multitask as mt
from sb3_multitask import cli
from sb3_multitask.cli.trained import load_trained
from sb3_multitask.experiments.card import write_card
from sb3_multitask.readers import UnreadableFileError
from sb3_multitask.readers.zoo_folder import ZooFolder
from sb3_multitask.zoo.settings import read_hyperparameters

SET = "MultiTask/HalfCheetahBody6-v0"
NAME = SET.replace("/", "-")
FLAGS = ["train", "--env", SET, "-n", "60", "-params", "policy_kwargs:{log_std_mode: state_dependent}"]
SHORT = {"max_episode_steps": 5}
SMALL = {"net_arch": {"pi": [4], "vf": [4]}, "log_std_mode": "state_dependent"}
ALGORITHMS = {"a2c_mt": mt.A2CMultiTask, "ppo_mt": PPO, "trpo_mt": TRPO}
LAST = f"{NAME}.zip"
KILLED = {
    "best_model.zip": f"{NAME}/best_model_vecnormalize.pkl",
    "rl_model_120_steps.zip": "rl_model_vecnormalize_120_steps.pkl",
}
"""A model of a training that did not end -> the statistics that it had."""


def make_folder(path, algo="a2c_mt", normalize=True, which=LAST):
    """What the zoo leaves of a short training, and the model in it; with a model of ``KILLED``, no last one."""
    tasks = [mt.Task(task.name, task.env_id, SHORT) for task in mt.TASK_SETS["HalfCheetahBody6"]]
    env = mt.make_multitask_vec_env(tasks, 1, seed=0, normalize=normalize, monitor_dir=path)
    kwargs = {"n_steps": 10, "seed": 0, "device": "cpu", "policy_kwargs": dict(SMALL)}
    kwargs |= {} if algo == "a2c_mt" else {"batch_size": 60}
    model = ALGORITHMS[algo](mt.MultiTaskActorCriticPolicy, env, **kwargs)
    model.learn(60)
    settings = path / NAME
    settings.mkdir()
    if normalize:
        env.save(settings / "vecnormalize.pkl")
    if which != LAST:
        model.learn(60, reset_num_timesteps=False)
        env.save(path / KILLED[which])
    model.save(path / which)
    env.close()
    arguments = {"algo": algo, "env": SET, "env_kwargs": SHORT, "eval_env_kwargs": None, "seed": 3, "trained_agent": ""}
    YAML().dump({"n_timesteps": 60, "n_envs": 1, "normalize": normalize}, settings / "config.yml")
    YAML().dump(arguments, settings / "args.yml")
    (settings / "command.txt").write_text(f"/a/b/python -m sb3_multitask.zoo {shlex.join(FLAGS)} --algo {algo}")
    return model


@pytest.fixture(params=ALGORITHMS)
def trained(request, tmp_path):
    folder = tmp_path / f"{NAME}_1"
    return folder, make_folder(folder, request.param)


def assert_acts_as(agent, model):
    """On raw observations, which the model's own normaliser has to normalise."""
    obs = {"obs": np.random.default_rng(0).normal(size=(6, 17)), "task": np.arange(6)}
    expected, _ = model.predict(model.get_vec_normalize_env().normalize_obs(obs), deterministic=True)
    np.testing.assert_allclose(agent.predict(obs, deterministic=True)[0], expected, atol=1e-5)


def test_the_agent_acts_as_the_last_model_with_its_statistics(trained):
    folder, model = trained
    agent = mt.load_agent(folder)
    assert_acts_as(agent, model)
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
    (command,) = re.findall(r"```sh\n(.*)\n```", text)  # as a shell takes it apart, with the seed that was drawn
    algo = ["--algo", ZooFolder.at(folder).arguments["algo"]]
    assert shlex.split(command) == ["python", "-m", "sb3_multitask.zoo", *FLAGS, *algo, "--seed", "3"]
    assert "/a/b" not in text
    assert "sb3-multitask train" not in text
    config = read_hyperparameters(folder / "card" / "config.yml", SET)  # as -conf takes it
    assert config == ZooFolder.at(folder).hyperparameters
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


@pytest.mark.parametrize("which", KILLED)
@pytest.mark.parametrize("algo", ALGORITHMS)
def test_models_of_a_training_that_did_not_end_are_read_with_the_statistics_they_had(algo, which, tmp_path, capsys):
    model = make_folder(tmp_path, algo, which=which)
    with pytest.raises(UnreadableFileError, match=rf"training did not end.*{which}"):
        mt.load_agent(tmp_path)
    agent = mt.load_agent(tmp_path / which)
    assert_acts_as(agent, model)
    assert agent.tasks[0] == mt.Task("SmallFoot", "HalfCheetahSmallFoot-v0", SHORT)
    assert load_trained(str(tmp_path / which)).digest == agent.digest
    for arguments in (["evaluate"], ["card", "--no-clips"]):
        invoked = [*arguments, str(tmp_path / which), "--n-eval-episodes", "1"]
        assert CliRunner().invoke(cli.app, invoked, catch_exceptions=False).exit_code == 0
    card = tmp_path / f"{which.removesuffix('.zip')}_card"
    assert mt.load_agent(card).digest == agent.digest
    assert f"The returns are of `{which}`" in (card / "README.md").read_text()


def test_models_whose_tasks_or_statistics_are_missing_say_so(tmp_path):
    make_folder(tmp_path / "a", "ppo_mt", which="best_model.zip")
    alone = (tmp_path / "a" / "best_model.zip").rename(tmp_path / "best_model.zip")
    with pytest.raises(UnreadableFileError, match="best_model.zip: .*6 tasks"):
        mt.load_agent(alone)
    with pytest.raises(ValueError, match=r"best_model\.zip.*environments"):
        load_trained(str(alone))
    assert mt.load_agent(alone, tmp_path / "a" / NAME / "best_model_vecnormalize.pkl").n_tasks == 6
    alone.rename(tmp_path / "a" / "best_model.zip")
    for file in (tmp_path / "a" / NAME).glob("*.pkl"):
        file.unlink()
    with pytest.raises(UnreadableFileError, match=r"statistics .*best_model\.zip"):
        mt.load_agent(tmp_path / "a" / "best_model.zip")


def test_nothing_in_the_settings_is_executed(tmp_path, monkeypatch):
    monkeypatch.setattr(stand_in, "BUILT", [])
    make_folder(tmp_path)
    config = tmp_path / NAME / "config.yml"
    config.write_text(f"normalize: true\nx: {stand_in.TAGS[0]}\n")
    write_card(tmp_path, tmp_path / "card", clips=False, n_eval_episodes=1)
    assert not stand_in.BUILT
    assert "!!python" not in (tmp_path / "card" / "config.yml").read_text()
    config.write_text(f"{stand_in.TAGS[0]}\n")
    with pytest.raises(ValueError, match=rf"mapping.*{NAME}\.zip"):
        write_card(tmp_path, tmp_path / "card", clips=False)
    assert mt.load_agent(tmp_path / LAST).n_tasks == 6


def test_unknown_environments_are_refused(tmp_path):
    make_folder(tmp_path)
    (tmp_path / NAME).rename(tmp_path / "Nothing-v0")
    (tmp_path / f"{NAME}.zip").rename(tmp_path / "Nothing-v0.zip")
    with pytest.raises(UnreadableFileError, match="no environment is registered that is called Nothing-v0"):
        mt.load_agent(tmp_path)


def test_arguments_of_the_normaliser_that_are_none_normalise(tmp_path):
    settings = tmp_path / NAME
    settings.mkdir()
    (settings / "vecnormalize.pkl").touch()
    for normalize, path in (("{}", settings / "vecnormalize.pkl"), ("{norm_obs: false}", None), ("false", None)):
        (settings / "config.yml").write_text(f"normalize: {normalize}\n")
        assert ZooFolder(tmp_path, NAME, tmp_path / LAST).statistics == path
