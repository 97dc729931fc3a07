import inspect
import json
import os
import re
import subprocess
import sys

import numpy as np
import pytest
import typer
from PIL import Image
from stable_baselines3.common.monitor import load_results
from typer.testing import CliRunner

from sb3_multitask.cli import app, main
from sb3_multitask.cli import train as train_command
from sb3_multitask.evaluation.films import find_renderer
from sb3_multitask.experiments.config import EvaluateConfig, TrainConfig
from sb3_multitask.tasks import resolve_tasks

TINY = [
    "--n-timesteps",
    "6000",
    "--n-envs-per-task",
    "1",
    "--set",
    "n_eval_episodes=1",
    "--set",
    "eval_episodes=1",
]


PRETRAINED = ["--pretrained", "HalfCheetahBody6-vanilla"]


def run(*args, cwd=None, **environment):
    command = [sys.executable, "-c", "from sb3_multitask.cli import main; main()", *map(str, args)]
    env = {**os.environ, **environment}
    return subprocess.run(command, cwd=cwd, env=env, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    cwd = tmp_path_factory.mktemp("train")
    tasks = "HalfCheetahSmallFoot-v0,HalfCheetahBigFoot-v0"
    done = run("train", "--tasks", tasks, "--seed", 3, *TINY, "--set", "eval_freq=2500", cwd=cwd)
    return cwd, done


def test_train_leaves_a_run_folder_and_nothing_else(trained):
    cwd, done = trained
    assert done.returncode == 0, done.stderr
    assert [path.name for path in cwd.iterdir()] == ["runs"]
    folder = cwd / "runs" / "2_tasks_1"
    names = {"config.yml", "run.json", "monitor", "progress.csv", "evaluations.npz", "results.json"}
    assert {path.name for path in folder.iterdir()} == names | {
        "model.zip",
        "best_model.zip",
        "learning_curves.png",
        "checkpoints",
        "agents",
        ".lock",
    }
    facts = json.loads((folder / "run.json").read_text())
    assert facts["status"] == "finished"
    assert facts["versions"]["mujoco"]
    assert sorted(set(load_results(str(folder / "monitor"))["task"])) == [
        "HalfCheetahBigFoot-v0",
        "HalfCheetahSmallFoot-v0",
    ]
    assert np.load(folder / "evaluations.npz")["timesteps"].tolist() == [2500, 5000]
    assert (folder / "learning_curves.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_training_in_which_no_episode_ends_draws_nothing(tmp_path):
    done = run("train", "--tasks", "Swimmer-v5", "--n-timesteps", 40, "--set", "n_eval_episodes=1", cwd=tmp_path)
    assert "No episode ended, so there are no learning curves; Model: " in done.stdout
    assert not (tmp_path / "runs" / "Swimmer-v5_1" / "learning_curves.png").exists()


@pytest.mark.native  # else a warning names the backend that is taken
def test_train_shows_progress_and_returns_before_and_after(trained):
    _, done = trained
    assert re.search(r"HalfCheetahBigFoot-v0\s+│\s+-?\d+\.\d ± \d+\.\d\s+│\s+-?\d+\.\d ±", done.stdout)
    assert "6,000/6,000" in done.stdout
    assert "Warning" not in done.stdout + done.stderr
    results = json.loads((trained[0] / "runs/2_tasks_1/results.json").read_text())
    assert results["after"]["HalfCheetahBigFoot-v0"]["episode_lengths"] == [1000]


def test_evaluate_reads_the_run_folder(trained):
    cwd, _ = trained
    done = run("evaluate", "runs/2_tasks_1", "--n-eval-episodes", 1, cwd=cwd)
    assert done.returncode == 0, done.stderr
    results = json.loads((cwd / "runs/2_tasks_1/results.json").read_text())
    for task, result in results["after"].items():
        assert f"{result['mean_reward']:.1f}" in next(line for line in done.stdout.splitlines() if task in line)


@pytest.mark.slow
def test_evaluate_from_a_config(trained):
    cwd, _ = trained
    (cwd / "e.yml").write_text("model: runs/2_tasks_1\nn_eval_episodes: 1\n")
    from_config = run("evaluate", "--config", "e.yml", cwd=cwd)
    assert from_config.returncode == 0, from_config.stderr
    assert from_config.stdout == run("evaluate", "runs/2_tasks_1", "--n-eval-episodes", 1, cwd=cwd).stdout
    (cwd / "e.yml").write_text("modell: runs/2_tasks_1\n")
    assert "e.yml:1: unknown key 'modell'. Did you mean 'model'" in run("evaluate", "--config", "e.yml", cwd=cwd).stderr
    (cwd / "e.yml").unlink()


@pytest.mark.slow
def test_a_run_is_not_overwritten_unless_asked(trained):
    cwd, _ = trained
    done = run("train", "--run-dir", "runs/2_tasks_1", *TINY, cwd=cwd)
    assert done.returncode == 2
    assert "`--resume runs/2_tasks_1`" in done.stderr
    (cwd / "precious").mkdir(exist_ok=True)
    (cwd / "precious" / "thesis.tex").touch()
    done = run("train", "--run-dir", "precious", "--overwrite", *TINY, cwd=cwd)
    assert "holds no run" in done.stderr
    assert (cwd / "precious" / "thesis.tex").exists()


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["train", "--tasks", "HalfCheetahBody7"], "Did you mean 'HalfCheetahBody8'"),
        (["train", "--config", "no.yml"], "no.yml: cannot read this config"),
        (["train", "--set", "ent_coeff=1"], "unknown key 'ent_coeff'. Did you mean 'ent_coef'"),
        (["train", "--set", "policy_kwargs={pi: ["], "the value is no YAML"),
        (["evaluate", "[/x]"], "[/x] does not exist"),
        (["train", "--set", "ent_coef"], "--set needs KEY=VALUE (got 'ent_coef')"),
        (["train", "--policy-kwargs", "{pi: ["], "--policy-kwargs '{pi: [': the value is no YAML"),
        (["train", "--engine", "gpu"], "`engine`: Input should be 'auto', 'fast' or 'torch' (got 'gpu')"),
        (
            ["train", "--n-timesteps", "0"],
            "`n_timesteps`: Input should be greater than or equal to 1 (got 0)",
        ),
        (["evaluate"], "Give a run's folder or a model.zip"),
        (["evaluate", "nowhere"], "nowhere does not exist"),
        (["plot", "."], "nothing to plot: no episode in monitor files"),
        (["plot", "nowhere"], "nowhere is no folder"),
        (["enjoy", "--output", "film.gif"], "Give a run's folder, a model.zip or an agent's .safetensors, or --pretr"),
        (["enjoy", "nowhere", "--output", "film.gif"], "nowhere does not exist"),
        (["enjoy", "x", "--pretrained", "HalfCheetahBody6-vanilla"], "Give a model or --pretrained, not both"),
        (["enjoy", *PRETRAINED, "--output", "film.gif", "--no-render"], "Give --output or --no-render, not both"),
        (["enjoy", *PRETRAINED, "--no-render", "--fps", "5"], "--fps is for what is shown"),
        (["enjoy", *PRETRAINED, "--no-render", "--env-kwargs", "x"], "--env-kwargs needs KEY=VALUE (got 'x')"),
        (["plot", "x", "--group"], "--group needs --show evaluations"),
        (["enjoy", *PRETRAINED, "--output", "film.avi"], "must end in .mp4 or .gif (got 'film.avi')"),
        (["enjoy", *PRETRAINED, "--output", "f.gif", "--fps", "0"], "--fps must be a positive number (got 0.0)"),
        (["enjoy", *PRETRAINED, "--output", "f.gif", "--seconds", "1", "--n-steps", "9"], "--seconds or --n-steps"),
        (
            ["enjoy", *PRETRAINED, "--output", "f.gif", "--task", "SmalFoot"],
            "no task 'SmalFoot'. Did you mean 'SmallFoo",
        ),
    ],
)
def test_mistakes_are_one_clear_message(args, message, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["sb3-multitask", *map(str, args)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_mistake_ends_the_program_without_a_traceback(tmp_path):
    done = run("plot", "nowhere", cwd=tmp_path)
    assert done.returncode == 2
    assert "nowhere is no folder" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("command", [None, "train", "evaluate", "enjoy", "plot", "grid", "report"])
def test_help_has_an_example(command):
    args = [command, "--help"] if command else ["--help"]
    result = CliRunner().invoke(app, args)
    assert result.exit_code == 0
    assert command is None or f"sb3-multitask {command} " in result.output


@pytest.mark.parametrize(("command", "config"), [("train", TrainConfig), ("evaluate", EvaluateConfig)])
def test_every_setting_has_a_flag(command, config):
    parameters = {p.name: p for p in typer.main.get_command(app).commands[command].params}
    assert not set(config.model_fields) - set(parameters)
    made = {name: field for name, field in config.model_fields.items() if name not in ("tasks", "model")}
    for name, field in made.items():
        flag = parameters[name]
        assert flag.opts == [f"--{name.replace('_', '-')}"]
        assert flag.default is None  # what is not given is the config's
        assert field.description.split("[")[0] in flag.help or name == "deterministic"


FLAGS = {
    "tasks": ("Hopper-v5,HopperBigFoot-v0", "[Hopper-v5, HopperBigFoot-v0]"),
    "ent_coef": ("0.01", "0.01"),
    "n_steps": ("8", "8"),
    "policy_kwargs": ("{log_std_mode: shared}", "{log_std_mode: shared}"),
    "learning_rate": ("lin_1e-3", "lin_1e-3"),
    "rl_coef": ("1e-1", "0.1"),
    "normalize": ("{clip_obs: 5}", "{clip_obs: 5}"),
    "report_at": ("[100, 200]", "[100, 200]"),
    "init_from": ("runs/1", "runs/1"),
    "freeze": ("trunk", "trunk"),
    "teachers": ("{Hopper-v5: a, HopperBigFoot-v0: b}", "{Hopper-v5: a, HopperBigFoot-v0: b}"),
}


def config_of(monkeypatch, *args):
    """What a command line trains; nothing is trained."""
    seen = []

    def train_run(config, *others):
        seen.append(config)
        raise RuntimeError("not trained")

    monkeypatch.setattr("sb3_multitask.experiments.train.train_run", train_run)
    assert str(CliRunner().invoke(app, ["train", *args]).exception) == "not trained"
    return seen[0]


def test_a_flag_says_what_set_says(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    flags = [part for name, (value, _) in FLAGS.items() for part in (f"--{name.replace('_', '-')}", value)]
    settings = [part for name, (_, value) in FLAGS.items() for part in ("--set", f"{name}={value}")]
    by_flags = config_of(monkeypatch, *flags, "--tensorboard", "--no-normalize-advantage")
    assert by_flags == config_of(monkeypatch, *settings, "--set", "tensorboard=true")
    assert {*FLAGS, "tensorboard", "normalize_advantage"} == by_flags.model_fields_set
    assert by_flags.policy_kwargs == {"log_std_mode": "shared"}


def test_set_wins_over_a_flag_and_a_flag_over_the_file(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "run.yml").write_text("seed: 1\nn_steps: 1\ngamma: 0.5\n")
    config = config_of(monkeypatch, "--set", "seed=3", "--seed", "2", "--n-steps", "2", "--config", "run.yml")
    assert (config.seed, config.n_steps, config.gamma) == (3, 2, 0.5)


def test_tasks_in_the_help_examples_exist():
    source = inspect.getsource(train_command)
    examples = re.findall(r"--tasks ([\w,-]+)", source)
    assert len(examples) >= 2
    for example in examples:
        resolve_tasks(train_command.split_tasks(example))


def test_a_failed_run_says_why_in_its_folder(tmp_path):
    done = run("train", *TINY, "--set", "policy_kwargs={log_std_mode: no}", "--run-dir", "r", cwd=tmp_path)
    assert done.returncode == 2
    facts = json.loads((tmp_path / "r" / "run.json").read_text())
    assert facts["status"] == "failed"
    assert "log_std_mode" in facts["reason"]


@pytest.mark.slow
def test_plot_draws_the_run_beside_its_folder(trained):
    cwd, _ = trained
    done = run("plot", "runs/2_tasks_1", cwd=cwd)
    assert done.returncode == 0, done.stderr
    assert "2_tasks_1_curves.png" in done.stdout
    assert (cwd / "runs" / "2_tasks_1_curves.png").exists()


@pytest.mark.slow
@pytest.mark.skipif(find_renderer() is None, reason="nothing can render here")
def test_enjoy_films_the_tasks_that_are_asked_for(tmp_path):
    tasks = ["--task", "BigFoot", "--task", "SmallFoot"]
    done = run("enjoy", *PRETRAINED, *tasks, "--n-steps", 4, "--output", "film.gif", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "Film: film.gif" in done.stdout
    with Image.open(tmp_path / "film.gif") as film:
        assert film.size == (2 * 320, 240)
        assert film.n_frames == 4
        assert film.info["duration"] == 50  # real time


def test_enjoy_without_pictures_prints_an_episode_of_every_task(tmp_path):
    short = ["--task", "BigFoot", "--task", "SmallFoot", "--env-kwargs", "max_episode_steps=5"]
    done = run("enjoy", *PRETRAINED, *short, "--no-render", cwd=tmp_path, DISPLAY="", WAYLAND_DISPLAY="")
    assert done.returncode == 0, done.stderr
    assert re.findall(r"Task (\w+): return -?[\d.]+ in (\d+) steps", done.stdout) == [
        ("SmallFoot", "5"),
        ("BigFoot", "5"),
    ]
    assert re.findall(r"  (\w+): -?[\d.]+ \(1\)", done.stdout) == ["SmallFoot", "BigFoot"]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="elsewhere there is always a screen")
def test_enjoy_without_a_screen_suggests_a_film(tmp_path):
    done = run("enjoy", *PRETRAINED, cwd=tmp_path, DISPLAY="", WAYLAND_DISPLAY="")
    assert done.returncode == 2
    assert "no screen" in done.stderr
    assert "--output film.mp4" in done.stderr
