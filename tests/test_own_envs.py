"""Environments of one's own, by the module that registers them, on the command line and in configs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import pytest
from typer.testing import CliRunner

import sb3_multitask as mt
from sb3_multitask.agents import agent_of
from sb3_multitask.cli import app
from sb3_multitask.cli.output import console
from sb3_multitask.cli.packages import modules_of
from sb3_multitask.experiments.config import TrainConfig, dump_config, load_config
from sb3_multitask.experiments.run_folder import RunFolder
from sb3_multitask.experiments.train import train_run
from sb3_multitask.storage.yaml_files import ConfigError
from sb3_multitask.tasks import resolve_tasks

pytestmark = pytest.mark.filterwarnings("ignore:A run that resumes from a checkpoint will not make the same bits")
HERE = Path(__file__).parent
ARM, HEAVY = "own_envs:Own/Arm-v0", "own_envs:Own/HeavyArm-v0"
TINY = ["--n-timesteps", 200, "--n-envs-per-task", 1, "--no-progress", "--set", "n_eval_episodes=1"]
TINY += ["--set", "eval_freq=0", "--set", "log_interval=5"]


@pytest.fixture
def not_imported(monkeypatch):
    """As in a new process: nobody has imported the module yet."""
    for name in list(gym.registry):
        if name.startswith("Own/"):
            monkeypatch.delitem(gym.registry, name)
    monkeypatch.delitem(sys.modules, "own_envs", raising=False)
    yield
    for name in list(gym.registry):
        if name.startswith("Own/"):
            del gym.registry[name]
    sys.modules.pop("own_envs", None)


def command(*args, cwd):
    env = {**os.environ, "PYTHONPATH": os.pathsep.join((str(HERE), os.environ.get("PYTHONPATH", "")))}
    line = [sys.executable, "-m", "sb3_multitask.cli", *map(str, args)]
    return subprocess.run(line, cwd=cwd, env=env, capture_output=True, text=True, check=False)


def test_ids_with_a_module_are_tasks(not_imported):
    env = mt.make_multitask_vec_env([ARM, mt.Task("heavy", HEAVY, {"scale": 2.0})], 1, seed=0)
    assert env.task_names == ("Own/Arm-v0", "heavy")
    env.reset()
    env.close()


@pytest.mark.parametrize(
    ("env_id", "message"),
    [
        ("no_such_module:Own/Arm-v0", "'no_such_module' cannot be imported.*PYTHONPATH"),
        ("own_envs:Own/Amr-v0", "Unknown .* 'own_envs:Own/Amr-v0'. Did you mean 'Own/Arm-v0'"),
        ("own envs:Own/Arm-v0", "'own envs' is not the name of a module"),
        (":Own/Arm-v0", "'' is not the name of a module"),
        ("Own/Arm-v0", "Unknown .* 'Own/Arm-v0'.*--gym-packages"),
    ],
)
def test_modules_and_ids_that_are_none_are_named(not_imported, env_id, message):
    with pytest.raises(ValueError, match=message):
        resolve_tasks([env_id])


def test_files_name_modules_and_import_none(not_imported, tmp_path):
    (tmp_path / "run.yml").write_text(f"tasks: ['{ARM}']\n")
    with pytest.raises(ConfigError, match=r"run.yml:1: `tasks`: .*'own_envs'.*--gym-packages own_envs"):
        load_config(TrainConfig, tmp_path / "run.yml")
    (tmp_path / "run.yml").write_text(f"tasks: Hopper-v5\nalso_on: {{arm: '{ARM}'}}\n")
    with pytest.raises(ConfigError, match=r"run.yml:2: `also_on`: .*--gym-packages own_envs"):
        load_config(TrainConfig, tmp_path / "run.yml")
    assert "own_envs" not in sys.modules
    import own_envs  # noqa: F401 (the user's, or --gym-packages)

    assert list(load_config(TrainConfig, tmp_path / "run.yml").other_tasks()) == ["arm"]


def test_agents_files_name_the_environment_and_no_module(not_imported, tmp_path):
    env = mt.make_multitask_vec_env({"arm": ARM, "heavy": HEAVY}, 1, seed=0)
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=0, device="cpu")
    mt.save_agent(model, tmp_path / "agent")
    described = json.loads((tmp_path / "agent.json").read_text())["tasks"]
    assert [task["env_id"] for task in described] == ["Own/Arm-v0", "Own/HeavyArm-v0"]
    agent = mt.load_agent(tmp_path / "agent")
    assert mt.evaluate_tasks(agent, n_eval_episodes=1) == mt.evaluate_tasks(agent_of(model), n_eval_episodes=1)
    assert list(mt.evaluate_tasks(agent, [HEAVY], n_eval_episodes=1)) == ["Own/HeavyArm-v0"]  # a bare id


def test_modules_of_settings():
    assert modules_of({"tasks": (ARM, "Hopper-v5", HEAVY), "also_on": {"x": "other:X-v0"}}) == ["own_envs", "other"]
    assert modules_of({"tasks": {"a": ARM}}) == modules_of({"tasks": ARM}) == ["own_envs"]
    assert modules_of({"tasks": "HalfCheetahBody6", "seed": 3}) == []


# Arguments of the environments


def test_env_kwargs_are_of_all_tasks_or_of_one(tmp_path):
    tasks = {"A": "Hopper-v5", "B": "HopperBigFoot-v0"}
    kwargs = {"healthy_reward": 0.5, "B": {"healthy_reward": 0.25, "ctrl_cost_weight": 0.1}}
    config = TrainConfig(tasks={"A": tasks["A"]}, also_on={"B": tasks["B"]}, env_kwargs=kwargs)
    assert config.resolved_tasks()[0].env_kwargs == {"healthy_reward": 0.5}
    assert config.other_tasks()["B"].env_kwargs == {"healthy_reward": 0.25, "ctrl_cost_weight": 0.1}
    config = TrainConfig(tasks=tasks, env_kwargs=kwargs)
    assert [task.env_kwargs.get("healthy_reward") for task in config.resolved_tasks()] == [0.5, 0.25]
    dump_config(config, tmp_path / "config.yml")
    assert load_config(TrainConfig, tmp_path / "config.yml") == config
    with pytest.raises(ValueError, match="env_kwargs of task 'B' must be a mapping .got 3"):
        TrainConfig(tasks=tasks, env_kwargs={"B": 3})


@pytest.mark.parametrize(
    "settings", [{}, {"sequential": True}, {"algo": "ppo", "n_steps": 10, "algo_kwargs": {"batch_size": 20}}], ids=repr
)
def test_env_kwargs_reach_training_and_evaluation(tmp_path, settings, not_imported):
    import own_envs  # noqa: F401

    tasks = {"A": "Own/Arm-v0", "B": "Own/HeavyArm-v0"}
    small = {"n_timesteps": 120, "n_envs_per_task": 1, "n_eval_episodes": 1, "eval_freq": 0}
    config = TrainConfig(tasks=tasks, env_kwargs={"horizon": 4, "B": {"horizon": 6}}, **small, **settings)
    folder = RunFolder.create(tmp_path / "run", "run")
    results = train_run(config, folder)
    assert {task: result.episode_lengths for task, result in results["after"].items()} == {"A": (4,), "B": (6,)}
    rows = [path.read_text().splitlines()[2:] for path in sorted(folder.monitor.rglob("*.csv"))]
    assert [{int(row.split(",")[1]) for row in file} for file in rows] == [{4}, {6}]
    if "sequential" not in settings:
        agent = mt.load_agent(folder.agents / "final")
        assert [task.env_kwargs["horizon"] for task in agent.tasks] == [4, 6]


def test_other_envs_have_their_kwargs(tmp_path, not_imported):
    import own_envs  # noqa: F401

    kwargs = {"horizon": 4, "other": {"horizon": 9}}
    small = {"n_timesteps": 60, "n_envs_per_task": 1, "n_eval_episodes": 1, "eval_episodes": 1, "eval_freq": 30}
    config = TrainConfig(tasks={"A": "Own/Arm-v0"}, also_on={"other": "Own/HeavyArm-v0"}, env_kwargs=kwargs, **small)
    results = train_run(config, RunFolder.create(tmp_path / "run", "run"))
    assert {task: result.episode_lengths for task, result in results["after"].items()} == {"A": (4,), "other": (9,)}


# The command line


def test_train_takes_ones_own_environments(tmp_path, not_imported, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["train", "--tasks", f"{ARM},{HEAVY}", *map(str, TINY)])
    assert done.exit_code == 0, done.exception
    assert set(RunFolder("runs/2_tasks_1").read_results()["after"]) == {"Own/Arm-v0", "Own/HeavyArm-v0"}


def test_modules_are_imported_for_whoever_asks_for_them(tmp_path, not_imported):
    (tmp_path / "config.yml").write_text(f"tasks: ['{ARM}', Own/HeavyArm-v0]\nn_timesteps: 30\neval_freq: 0\n")
    line = ["train", "--config", str(tmp_path / "config.yml"), "--run-dir", str(tmp_path / "run"), *map(str, TINY)]
    done = CliRunner().invoke(app, line)
    assert "--gym-packages own_envs" in str(done.exception)
    assert CliRunner().invoke(app, [*line, "--gym-packages", "own_envs"]).exit_code == 0


def test_ctrl_c_names_the_modules_too(tmp_path, not_imported, monkeypatch):
    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt("SIGINT")

    monkeypatch.setattr("sb3_multitask.experiments.train.train_run", interrupted)
    with console.capture() as shown:  # rich keeps the stream that it met first
        CliRunner().invoke(app, ["train", "--tasks", ARM, "--run-dir", str(tmp_path / "run")])
    assert f"--resume {tmp_path / 'run'} --gym-packages own_envs" in shown.get()


@pytest.mark.slow
def test_train_resume_evaluate_and_report_know_ones_own_environments(tmp_path):
    done = command("train", "--tasks", f"{ARM},{HEAVY}", *TINY, "--run-dir", "runs/p/arm/seed_0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = RunFolder(tmp_path / "runs/p/arm/seed_0")
    assert set(folder.read_results()["after"]) == {"Own/Arm-v0", "Own/HeavyArm-v0"}
    packages = ["--gym-packages", "own_envs"]
    folder.write_status("interrupted")
    refused = command("train", "--resume", folder.path, cwd=tmp_path)
    assert refused.returncode == 2
    assert "--gym-packages own_envs" in refused.stderr
    for line in (
        ["train", "--resume", folder.path, *packages],
        ["evaluate", folder.path, "--n-eval-episodes", 1],  # a model of one's own, which is unpickled
        ["evaluate", folder.agents / "final.safetensors", "--n-eval-episodes", 1, *packages],
        ["report", "runs", *packages, "--no-clips"],
    ):
        done = command(*line, cwd=tmp_path)
        assert done.returncode == 0, (line, done.stderr)


@pytest.mark.slow
def test_a_grid_knows_ones_own_environments(tmp_path):
    small = "n_timesteps: 60\nn_envs_per_task: 1\nn_eval_episodes: 1\neval_freq: 0\n"
    (tmp_path / "base.yml").write_text(f"tasks: [Own/Arm-v0, '{HEAVY}']\n{small}")
    (tmp_path / "grid.yml").write_text(
        "folder: runs\npresets: {p: {config: base.yml, seeds: [0]}}\nruns: {one: {env_kwargs: {horizon: 4}}}\n"
    )
    refused = command("grid", "grid.yml", cwd=tmp_path)
    assert refused.returncode == 2
    assert "--gym-packages" in refused.stderr
    done = command("grid", "grid.yml", "--gym-packages", "own_envs", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    results = RunFolder(tmp_path / "runs/p/one/seed_0").read_results()
    assert results["after"]["Own/Arm-v0"].episode_lengths == (4,)


def test_a_package_that_cannot_be_imported_is_named(tmp_path):
    done = command("train", "--tasks", "Hopper-v5", "--gym-packages", "no_such_module", *TINY, cwd=tmp_path)
    assert done.returncode == 2
    assert "--gym-packages: the module 'no_such_module' cannot be imported" in done.stderr
    assert not (tmp_path / "runs").exists()
