"""The command record, and runs and grids that distil offline."""

import numpy as np
import pytest
from typer.testing import CliRunner

import sb3_multitask as mt
from sb3_multitask.cli import app
from sb3_multitask.experiments import datasets
from sb3_multitask.experiments.config import RecordConfig, TrainConfig, dump_config, load_config, make_config
from sb3_multitask.experiments.grid import load_grid
from sb3_multitask.experiments.progress import read_progress
from sb3_multitask.experiments.run_folder import RunFolder
from sb3_multitask.experiments.train import train_run
from sb3_multitask.storage.yaml_files import ConfigError

SHORT = {"max_episode_steps": 10}
TASKS = {"A": "Swimmer-v5", "B": "Swimmer-v5"}
RUN = {
    "tasks": TASKS,
    "env_kwargs": SHORT,
    "n_envs_per_task": 1,
    "algo": "policy_distillation",
    "n_timesteps": 640,
    "eval_freq": 320,
    "eval_episodes": 1,
    "n_eval_episodes": 1,
    "log_interval": 1,
    "algo_kwargs": {"batch_size": 16, "temperature": 0.5},
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    """The path of an agent with two heads."""
    path = tmp_path_factory.mktemp("teacher") / "agent"
    tasks = [mt.Task(name, env_id, SHORT) for name, env_id in TASKS.items()]
    mt.save_agent(mt.A2CMultiTask("MultiTaskMlpPolicy", tasks, seed=0), path)
    return str(path)


def config_of(**settings):
    return make_config(TrainConfig, {**RUN, **settings})


def test_a_dataset_is_recorded_by_a_command(teacher, tmp_path):
    output = tmp_path / "data"
    command = ["record", teacher, "--n-steps", "20", "--n-envs-per-task", "2", "--output", str(output), "--no-progress"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "mean return" in done.output
    dataset = mt.TeacherDataset.load(output)
    assert {name: recording.n_rows for name, recording in dataset.recordings.items()} == {"A": 20, "B": 20}
    again = CliRunner().invoke(app, command)
    assert isinstance(again.exception, FileExistsError)


def test_a_recording_may_be_a_file_and_name_tasks(teacher, tmp_path):
    settings = {"teachers": {"B": teacher}, "tasks": {"B": "Swimmer-v5"}, "env_kwargs": SHORT, "n_episodes": 2}
    config = make_config(RecordConfig, settings)
    dump_config(config, tmp_path / "record.yml")
    assert load_config(RecordConfig, tmp_path / "record.yml") == config
    command = ["record", "--config", str(tmp_path / "record.yml"), "--output", str(tmp_path / "data"), "--seed", "3"]
    done = CliRunner().invoke(app, [*command, "--no-progress"])
    assert done.exit_code == 0, done.output
    dataset = mt.TeacherDataset.load(tmp_path / "data")
    assert np.bincount(dataset.recordings["B"].episodes).tolist() == [10, 10]
    assert (dataset.facts["seed"], dataset.tasks[0].env_kwargs) == (3, SHORT)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "Give a run's folder or an agent's file, --pretrained NAME, --teachers or --config"),
        (["agent", "--teachers", "{A: b}"], "only one of them"),
        (["agent"], "give one of n_steps and n_episodes .got None and None"),
        (["agent", "--n-steps", "0"], "n_steps.*greater than 0"),
        (["agent", "--n-steps", "1", "--env-kwargs", "{a: 1}"], "env_kwargs are arguments of tasks"),
        (["agent", "--n-steps", "1", "--tasks", "Swimer-v5"], "Did you mean"),
    ],
)
def test_other_commands_are_refused(arguments, message, tmp_path):
    done = CliRunner().invoke(app, ["record", *arguments, "--output", str(tmp_path / "data")])
    with pytest.raises(ValueError, match=message):
        raise done.exception


def test_a_run_records_its_teachers_and_learns_from_them(teacher, tmp_path):
    config = config_of(dataset={"teachers": teacher, "n_steps": 40, "n_envs_per_task": 2}, report_at=[320])
    folder = RunFolder(tmp_path)
    results = train_run(config, folder)
    assert list(results) == ["before", "320", "after"]
    assert load_config(TrainConfig, folder.config) == config
    header, rows = read_progress(folder.progress)
    column = header.index("distill/A/kl")
    kls = [float(row[column]) for row in rows if row[column]]
    assert kls[-1] < kls[0]
    dataset = mt.TeacherDataset.load(tmp_path)
    assert dataset.n_rows == 80
    assert mt.load_agent(tmp_path).task_names == ("A", "B")
    assert mt.load_agent(tmp_path / "best_model.zip").tasks == config.resolved_tasks()
    assert folder.read_status()["engine"] == "fast"
    other = RunFolder(tmp_path / "other")
    other.path.mkdir()
    train_run(config_of(dataset=str(tmp_path), algo_kwargs={"batch_size": 16, "loss": "nll"}), other)
    assert not other.dataset.exists()


def test_a_runs_backend_and_faults_are_those_of_its_recording(teacher, tmp_path, monkeypatch):
    class AskedError(Exception):
        pass

    def asked(*args, **kwargs):
        raise AskedError(kwargs["backend"], kwargs["on_fault"])

    monkeypatch.setattr(datasets, "record", asked)
    recipe = {"teachers": teacher, "n_steps": 4}
    for settings, expected in (
        ({}, ("auto", "stop")),
        ({"backend": "dummy", "on_fault": "quarantine"}, ("dummy", "quarantine")),
    ):
        folder = RunFolder(tmp_path / expected[0])
        folder.path.mkdir()
        with pytest.raises(AskedError) as raised:
            train_run(config_of(dataset=recipe, **settings), folder)
        assert raised.value.args == expected


def test_a_run_that_was_killed_learns_from_what_it_had_recorded(teacher, tmp_path):
    config = config_of(dataset={"teachers": teacher, "n_steps": 40})
    whole, killed = RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "killed")
    for folder in (whole, killed):
        folder.path.mkdir()
    train_run(config, whole)
    (killed.path / "dataset").symlink_to(whole.dataset)  # as if it had got so far
    train_run(config, killed)
    assert mt.load_agent(killed.path).digest == mt.load_agent(whole.path).digest


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "algo 'policy_distillation' needs a dataset"),
        ({"algo": "a2c_mt", "algo_kwargs": {}, "dataset": "data"}, "algo 'a2c_mt' has no dataset"),
        ({"dataset": {"teachers": "x"}}, "give one of n_steps and n_episodes"),
        ({"dataset": {"teachers": "x", "n_steps": 1, "n_step": 1}}, "dataset.*n_step"),
        ({"dataset": "data", "teachers": {"A": "x", "B": "x"}}, "algo 'policy_distillation' has no teachers"),
        ({"dataset": "data", "batch_size": 8}, "write algo_kwargs: {batch_size: 8}"),
        ({"dataset": "data", "sequential": True, "eval_freq": 0}, "sequential training has no dataset"),
    ],
)
def test_other_configs_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        config_of(**settings)


def test_a_dataset_that_is_not_there_or_of_other_tasks_is_named(teacher, tmp_path):
    with pytest.raises(ConfigError, match="dataset: .*nowhere holds no dataset"):
        train_run(config_of(dataset=str(tmp_path / "nowhere")), RunFolder(tmp_path))
    mt.record(teacher, path=tmp_path / "data", n_steps=2)
    run = RunFolder(tmp_path / "run")
    run.path.mkdir()
    with pytest.raises(ValueError, match="must have the tasks of the env"):
        train_run(config_of(tasks={"A": "Swimmer-v5"}, dataset=str(tmp_path / "data")), run)


GRID = """
folder: grid
presets:
  a: {config: base.yml, seeds: [0]}
runs:
  teacher: {n_timesteps: 40}
  online: {n_timesteps: 40, teachers: {A: run:teacher, B: run:teacher}}
  offline:
    algo: policy_distillation
    n_timesteps: 64
    dataset: {teachers: {A: run:teacher, B: run:teacher}, n_steps: 20}
    algo_kwargs: {batch_size: 16}
  sharper:
    algo: policy_distillation
    n_timesteps: 64
    dataset: run:offline
    algo_kwargs: {batch_size: 16, temperature: 0.5}
"""
BASE = (
    "tasks: {A: Swimmer-v5, B: Swimmer-v5}\nenv_kwargs: {max_episode_steps: 10}\neval_freq: 0\nn_eval_episodes: 1\n"
    "n_envs_per_task: 1\n"
)


def test_a_grid_compares_online_and_offline(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yml").write_text(BASE)
    (tmp_path / "grid.yml").write_text(GRID)
    runs = load_grid(tmp_path / "grid.yml")
    needs = {run.key.split("/")[1]: [key.split("/")[1] for key in run.needs] for run in runs}
    assert needs == {"teacher": [], "online": ["teacher"], "offline": ["teacher"], "sharper": ["offline"]}
    for run in runs:
        run.folder.mkdir(parents=True)
        train_run(run.config, RunFolder(run.folder))
    assert all(RunFolder(run.folder).read_status()["status"] == "finished" for run in runs)
    bad = GRID.replace("B: run:teacher}, n_steps", "C: run:teacher}, n_steps")
    (tmp_path / "grid.yml").write_text(bad)
    with pytest.raises(ConfigError, match="offline.*: teachers takes task 'C' from .*teacher"):
        load_grid(tmp_path / "grid.yml")
