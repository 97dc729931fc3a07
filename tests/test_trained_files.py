"""One way to name a trained thing, the same wherever one is asked for."""

import numpy as np
import pytest
from helpers.drift import drift_tasks
from typer.testing import CliRunner

import sb3_multitask as mt
from sb3_multitask.agents import agent_of
from sb3_multitask.agents.trained_files import model_zip
from sb3_multitask.cli import app
from sb3_multitask.cli.trained import load_trained
from sb3_multitask.experiments.config import TrainConfig
from sb3_multitask.experiments.run_folder import RunFolder, folder_of_agent
from sb3_multitask.experiments.train import train_run
from sb3_multitask.readers import UnreadableFileError

TASKS = {"A": "Hopper-v5", "B": "HopperBigFoot-v0"}
SMALL = {"n_timesteps": 600, "n_envs_per_task": 1, "n_eval_episodes": 1, "eval_episodes": 1, "eval_freq": 200}
FINAL = ("", "model.zip", "model", "agents/final", "agents/final.json", "agents/final.safetensors")
BEST = ("best_model.zip", "best_model", "agents/best", "agents/best.json", "agents/best.safetensors")


@pytest.fixture(scope="module", params=["a2c_mt", "ppo"])
def folder(request, tmp_path_factory):
    settings = {"algo": "ppo", "n_steps": 50, "algo_kwargs": {"batch_size": 50}} if request.param == "ppo" else {}
    folder = RunFolder.create(tmp_path_factory.mktemp("runs") / request.param, "run")
    train_run(TrainConfig(tasks=TASKS, report_at=(300,), **SMALL, **settings), folder)
    return folder


@pytest.mark.parametrize(("names", "agent"), [(FINAL, "final"), (BEST, "best")], ids=["final", "best"])
def test_every_name_is_the_same_agent_everywhere(folder, names, agent, tmp_path):
    digest = mt.load_agent(folder.agents / f"{agent}.json").digest
    for name in names:
        path = folder.path / name
        assert mt.load_agent(path).digest == mt.load_agent(str(path)).digest == digest
        trained = load_trained(str(path))
        trained = trained if isinstance(trained, mt.Agent) else agent_of(trained)
        assert all(np.array_equal(trained.weights[key], value) for key, value in mt.load_agent(path).weights.items())
        assert [task.env_id for task in mt.load_agent(path).tasks] == list(TASKS.values())
        assert model_zip(path).name == ("model.zip" if agent == "final" else "best_model.zip")
        assert folder_of_agent(path) == (folder.path, "after" if agent == "final" else "best")
        for line in (["evaluate", path, "--n-eval-episodes", 1], ["export", path, "--format", "torch"]):
            output = ["--output", tmp_path / f"{names.index(name)}.pt2"] if line[0] == "export" else []
            done = CliRunner().invoke(app, [*map(str, [*line, *output])])
            assert done.exit_code == 0, (line, done.exception)


@pytest.mark.slow
def test_cards_of_every_agent(folder, tmp_path):
    for i, name in enumerate(("", "best_model.zip", "agents/best", "agents/300")):
        done = CliRunner().invoke(
            app, ["card", str(folder.path / name), "--no-clips", "--output", str(tmp_path / str(i))]
        )
        assert done.exit_code == 0, (name, done.exception)
        told = mt.load_agent(tmp_path / str(i))
        expected = mt.load_agent(folder.path / name)
        assert told.digest == expected.digest
        text = (tmp_path / str(i) / "README.md").read_text()
        assert ("evaluated when this card was made" in text) == ("best" in name)
    returns = mt.load_agent(tmp_path / "3").facts["returns"]
    assert returns == {task: round(r.mean_reward, 1) for task, r in folder.read_results()["300"].items()}


@pytest.mark.slow
def test_a_run_begins_with_any_model(tmp_path):
    folder = RunFolder.create(tmp_path / "first", "run")
    train_run(TrainConfig(tasks=TASKS, **SMALL), folder)
    for i, name in enumerate(("", "best_model.zip", "best_model", "agents/best", "agents/final")):
        config = TrainConfig(tasks=TASKS, init_from=str(folder.path / name), **{**SMALL, "n_timesteps": 1})
        begun = RunFolder.create(tmp_path / str(i), "run")
        train_run(config, begun)
        before, source = begun.read_results()["before"], load_trained(str(folder.path / name))
        expected = mt.evaluate_tasks(source, n_eval_episodes=1)
        assert before["A"].mean_reward == pytest.approx(expected["A"].mean_reward, rel=1e-3), name
    mt.save_agent(load_trained(str(folder.path)), tmp_path / "alone")
    for name, message in (("alone", "agent without a model"), ("nowhere", "does not exist")):
        config = TrainConfig(tasks=TASKS, init_from=str(tmp_path / name), **SMALL)
        with pytest.raises(ValueError, match=f"init_from: .*{message}"):
            train_run(config, RunFolder.create(tmp_path / f"no_{name}", "run"))


def test_pretrained_agents_are_named_alike_everywhere(tmp_path):
    agent = mt.load_pretrained("HalfCheetahBody6-vanilla")
    name = "pretrained:HalfCheetahBody6-vanilla"
    assert mt.load_agent(name).digest == load_trained(name).digest == agent.digest
    export = CliRunner().invoke(app, ["export", name, "--format", "torch", "--output", str(tmp_path / "a.pt2")])
    assert export.exit_code == 0
    with pytest.raises(ValueError, match="No pretrained agent 'nobody'"):
        mt.load_agent("pretrained:nobody")


def test_what_is_not_there_is_named_with_what_can_be_given(tmp_path):
    for name in ("nothing", "nothing.zip", "nothing.safetensors"):
        for load in (mt.load_agent, lambda path: load_trained(str(path))):
            with pytest.raises((ValueError, OSError), match="nothing.*(does not exist|no such file)"):
                load(tmp_path / name)


def test_a_model_is_loaded_by_the_name_of_its_run(tmp_path):
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", drift_tasks(2), seed=0)
    (tmp_path / "agents").mkdir()
    model.save(tmp_path / "model.zip")
    mt.save_agent(model, tmp_path / "agents" / "final")
    for name in (tmp_path, str(tmp_path), tmp_path / "model", tmp_path / "agents" / "final"):
        assert mt.A2CMultiTask.load(name).task_names == model.task_names
    with pytest.raises(FileNotFoundError, match="nothing does not exist; give a run's folder, or a zip"):
        mt.A2CMultiTask.load(tmp_path / "nothing")
    with pytest.raises(TypeError, match=f"`source`.*A2CMultiTask.load\\('{tmp_path}'\\)"):
        mt.transfer(model, tmp_path, {"A": "A"})


def test_json_that_is_no_agent_is_not_taken_for_half_of_one(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UnreadableFileError, match=r"run\.json: is no file that an agent is read from"):
        mt.load_agent(tmp_path / "run.json")
