"""The grid of students of PPO teachers: budgets, stages, and that it runs to its end after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from ruamel.yaml import YAML

import sb3_multitask as mt
from sb3_multitask.checkpoint.format import list_checkpoints
from sb3_multitask.experiments.grid import load_grid
from sb3_multitask.tasks import resolve_tasks

GRID = Path(__file__).parents[1] / "zoo_configs" / "ppo_students_grid.yml"
NAMES = [task.name for task in resolve_tasks("HalfCheetahBody6")]
STEPS_PER_BODY = 1_000_000


def runs_of_a_seed():
    runs = {run.key: run for run in load_grid(GRID)}
    return {key.split("/")[1]: run for key, run in runs.items() if key.endswith("seed_0")}


def test_every_body_has_a_teacher_and_every_student_all_of_them():
    runs = runs_of_a_seed()
    teachers = {name: run for name, run in runs.items() if not run.config.teachers}
    assert [f"teacher_{name}" for name in NAMES] == list(teachers)
    for name, run in teachers.items():
        assert (run.config.algo, run.config.n_timesteps) == ("ppo", STEPS_PER_BODY)
        assert run.config.task_names == (name.removeprefix("teacher_"),)
    for name in runs.keys() - teachers.keys():
        config = runs[name].config
        assert (config.algo, config.task_names) == ("ppo", tuple(NAMES))
        assert config.teachers == {body: str(teachers[f"teacher_{body}"].folder) for body in NAMES}


def test_a_student_has_a_million_steps_per_body_in_all_its_stages():
    runs = runs_of_a_seed()
    by_folder = {str(run.folder): run for run in runs.values()}
    ends = [run for name, run in runs.items() if name.startswith("student_then")]
    assert len(ends) == 3
    for run in ends:
        first = by_folder[run.config.init_from].config
        assert (first.distill_loss, first.init_from) == ("forward_kl", None)
        assert first.n_timesteps + run.config.n_timesteps == STEPS_PER_BODY * len(NAMES)
    losses = {run.config.distill_loss for run in ends}
    assert losses == {"forward_kl", "reverse_kl"}


def test_rl_begins_with_a_warm_up_and_ends_without_teachers():
    arguments = runs_of_a_seed()["student_then_rl"].config.algorithm_kwargs()

    def at(done):
        return [arguments[name](1 - done) for name in ("rl_coef", "distill_coef")]

    assert [at(done) for done in (0.01, 0.09)] == [[0.0, 0.0]] * 2
    assert arguments["critic_coef"] == 1.0
    weights = [at(done)[1] for done in np.arange(0.1, 1.0, 0.05)]
    assert weights[0] > 0
    assert weights == sorted(weights, reverse=True)
    assert at(0.99) == [1.0, 0.0]


# Two bodies, in seconds


@pytest.fixture
def short_grid(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    content = YAML(typ="safe").load(GRID)
    content["folder"] = "grid"
    (preset,) = content["presets"].values()
    preset["seeds"] = [0]
    preset["set"] = {
        "n_envs_per_task": 1,
        "n_steps": 20,
        "checkpoint_freq": 500,
        "n_eval_episodes": 1,
        "algo_kwargs": {"batch_size": 40, "n_epochs": 2, "clip_range": 0.2},
        "env_kwargs": {"max_episode_steps": 50},
    }
    bodies = ("SmallFoot", "BigFoot")
    content["runs"] = {
        name: settings
        for name, settings in content["runs"].items()
        if not name.startswith("teacher") or name.endswith(bodies)
    }
    for settings in content["runs"].values():
        settings |= {"n_timesteps": 400, "eval_freq": 0}
        if "teachers" in settings:
            settings |= {"n_timesteps": 4000, "tasks": {name: f"HalfCheetah{name}-v0" for name in bodies}}
            settings["teachers"] = {name: f"run:teacher_{name}" for name in bodies}
    YAML().dump(content, tmp_path / "grid.yml")
    (tmp_path / "ppo.yml").write_text((GRID.parent / "ppo.yml").read_text())
    return tmp_path


def start(*args):
    command = [sys.executable, "-m", "sb3_multitask.cli", "grid", "grid.yml", "--processes", "2", *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process):
    out, _ = process.communicate(timeout=900)
    assert process.returncode == 0, out
    return out


@pytest.mark.slow
@pytest.mark.native
def test_the_grid_runs_and_a_killed_one_ends_the_same(short_grid):
    assert "6 of 6 runs finished" in finish(start("--folder", "whole"))
    process = start("--only", "ppo/student_then_rl")
    folder = short_grid / "grid/ppo/student_then_rl/seed_0"
    deadline = time.time() + 600
    while not list_checkpoints(folder / "checkpoints"):
        assert time.time() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    run = json.loads((folder / "run.json").read_text())["pid"]
    for pid in (process.pid, run):
        os.kill(pid, signal.SIGKILL)
    process.communicate()
    assert json.loads((folder / "run.json").read_text())["status"] == "running"
    assert "4 of 4 runs finished" in finish(start("--only", "ppo/student_then_rl"))
    assert "Going on from" in (folder / "log.txt").read_text()
    for name in ("teacher_SmallFoot", "teacher_BigFoot", "student", "student_then_rl"):
        there, here = (short_grid / root / "ppo" / name / "seed_0" for root in ("whole", "grid"))
        assert json.loads((there / "results.json").read_text()) == json.loads((here / "results.json").read_text())
        assert mt.load_agent(there).digest == mt.load_agent(here).digest
