"""``sb3-multitask train --resume``: runs of every algorithm, of tasks at once or in turn, end with the same bits."""

import json
import os
import shutil
import signal

import numpy as np
import pytest
from helpers.killed_runs import kill_after, monitor_rows, optimizer_difference
from helpers.killing import in_child
from helpers.models import weights_equal
from typer.testing import CliRunner

import sb3_multitask as mt
from sb3_multitask.algorithms import ALGORITHMS
from sb3_multitask.checkpoint.format import list_checkpoints
from sb3_multitask.cli import app
from sb3_multitask.experiments import sequential
from sb3_multitask.experiments.config import TrainConfig, dump_config
from sb3_multitask.experiments.run_folder import RunFolder
from sb3_multitask.experiments.train import train_run

pytestmark = pytest.mark.native

TOTAL = 1500
SMALL = {"n_envs_per_task": 2, "n_eval_episodes": 1, "eval_episodes": 1, "checkpoint_freq": 100, "n_timesteps": TOTAL}
GROUP = {"tasks": ("Hopper-v5", "HopperBigFoot-v0", "HopperSmallLeg-v0"), **SMALL}
ALGOS = {
    "a2c_mt": {},
    "ppo": {"algo": "ppo", "n_steps": 25, "algo_kwargs": {"batch_size": 25, "n_epochs": 2, "desired_kl": 0.02}},
    "trpo": {"algo": "trpo", "n_steps": 25, "algo_kwargs": {"batch_size": 25, "n_critic_updates": 2}},
}
KINDS = {
    "ppo": {
        **ALGOS["ppo"],
        "algo_kwargs": {**ALGOS["ppo"]["algo_kwargs"], "conflict_freq": 2},
        "eval_freq": 600,
    },
    "trpo": {**ALGOS["trpo"], "eval_freq": 600},
    "ppo sequence": {**ALGOS["ppo"], "task_schedule": {"sequence": {}}, "eval_freq": 0},
    **{f"{algo} in turn": {**settings, "sequential": True, "eval_freq": 0} for algo, settings in ALGOS.items()},
}


def die(*_args, **_kwargs):
    os.kill(os.getpid(), signal.SIGKILL)


def killed_at_step(step, seconds=0.0):
    """Let this process be killed some time after a step."""
    on_step = mt.ResumableCheckpointCallback._on_step
    armed = []

    def counted(self):
        if self.num_timesteps >= step and not armed:
            armed.append(step)
            kill_after(seconds)
        return on_step(self)

    mt.ResumableCheckpointCallback._on_step = counted


def killed_before(name):
    """Let this process be killed at its first call of a function of tasks in turn."""
    setattr(sequential, name, die)


def go_on(folder, prepare=lambda: None):
    """Start or resume a run in a process that is killed; ``prepare`` says when."""

    def work():
        prepare()
        resume(folder)
        die()  # a run that ends before its kill comes, or that had ended before

    assert in_child(work) == -signal.SIGKILL


def resume(folder):
    done = CliRunner().invoke(app, ["train", "--no-progress", "--resume", str(folder.path)])
    assert done.exit_code == 0, repr(done.exception)


def begun(path, **settings):
    """A run's folder, with its config and nothing else: as of a run that was killed at once."""
    folder = RunFolder.create(path, "run")
    dump_config(TrainConfig(**{**GROUP, **settings}), folder.config)
    return folder


def difference(a, b, algo):
    """What differs between two runs' folders."""
    different = []
    models = [ALGORITHMS[algo].load(folder.model) for folder in (a, b)]
    if not weights_equal(*models):
        different.append("weights")
    different += optimizer_difference(*(model.policy.optimizer.state_dict() for model in models))
    if a.results.read_text() != b.results.read_text():
        different.append("results")
    if monitor_rows(a.path) != monitor_rows(b.path):
        different.append("monitor")
    agents = [
        {path.name: mt.load_agent(path.with_suffix("")).digest for path in folder.agents.glob("*.json")}
        for folder in (a, b)
    ]
    if agents[0] != agents[1] or not agents[0]:
        different.append("agents")
    for name in ("evaluations.npz", "conflicts.npz"):
        if (a.path / name).exists():
            first, second = (np.load(folder.path / name) for folder in (a, b))
            different += [key for key in first if not np.array_equal(first[key], second[key])]
    return different


def killed_again_and_again(tmp_path, kind, kills, is_early=False):
    """What differs between a run that is killed again and again, and one that is not; and the folder of the first.

    :param is_early: whether every kill comes before the end
    """
    settings = KINDS[kind]
    a, b = (begun(tmp_path / name, **settings) for name in "ab")
    for kill in kills:
        go_on(b, kill)
        assert not is_early or b.read_status()["status"] == "running"
    resume(b)
    resume(a)
    assert all(len(rows) > 1 for rows in monitor_rows(a.path).values())
    return difference(a, b, settings.get("algo", "a2c_mt")), b


def random_kills(n, *seed):
    generator = np.random.default_rng(seed)
    steps, seconds = np.sort(generator.integers(1, TOTAL, n)).tolist(), generator.uniform(0, 0.2, n).tolist()
    return [lambda kill=kill: killed_at_step(*kill) for kill in zip(steps, seconds, strict=True)]


@pytest.mark.parametrize(
    "kind", ["ppo", *(pytest.param(k, marks=pytest.mark.slow) for k in ("ppo sequence", "ppo in turn"))]
)
def test_a_run_that_was_killed_ends_as_one_that_was_not(tmp_path, kind):
    different, folder = killed_again_and_again(tmp_path, kind, random_kills(2, len(kind)))
    assert different == []
    if kind == "ppo":  # whose rollouts have 150 steps, of which every second is measured
        conflicts = np.load(folder.conflicts)
        assert conflicts["timesteps"].tolist() == [300, 600, 900, 1200, 1500]
        assert conflicts["task_names"].tolist() == list(GROUP["tasks"])
        assert conflicts["actor"].shape == conflicts["critic"].shape == (5, 3, 3)
    else:
        assert not folder.conflicts.exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_that_was_killed_twenty_times_ends_as_one_that_was_not(tmp_path, kind):
    different, _ = killed_again_and_again(tmp_path, kind, random_kills(20, len(kind)))
    assert different == []


@pytest.mark.slow
def test_tasks_in_turn_resume_from_between_them(tmp_path):
    """Where a task is learned and not evaluated, evaluated and not stored, or the next one has begun without a step."""
    kills = [
        lambda: killed_before("_evaluate"),
        lambda: killed_before("_next_env"),
        lambda: killed_before("save_agent"),
        lambda: killed_at_step(501),
        lambda: killed_at_step(900),
        lambda: killed_before("_evaluate"),
        lambda: killed_before("save_model"),
    ]
    different, folder = killed_again_and_again(tmp_path, "a2c_mt in turn", kills, is_early=True)
    assert different == []
    assert [path.name for path in folder.checkpoints.iterdir()] == ["task_3"]


def test_tasks_in_turn_are_not_learned_twice(tmp_path):
    """A run whose second task was under way does nothing for the first one."""
    folder = begun(tmp_path / "run", **KINDS["ppo in turn"])
    go_on(folder, lambda: killed_at_step(800))
    (first,) = (folder.monitor / "Hopper-v5").glob("0*")
    before = first.read_bytes(), (folder.agents / "after_1.json").read_bytes()
    rows = folder.progress.read_text().splitlines()
    os.utime(first, ns=(0, 0))
    resume(folder)
    assert (first.read_bytes(), (folder.agents / "after_1.json").read_bytes()) == before
    assert first.stat().st_mtime_ns == 0
    assert folder.progress.read_text().splitlines()[: len(rows) // 2] == rows[: len(rows) // 2]
    assert folder.read_status()["status"] == "finished"


def test_tasks_in_turn_fall_back_to_the_task_before_if_all_checkpoints_of_one_are_damaged(tmp_path):
    a, b = (begun(tmp_path / name, **KINDS["a2c_mt in turn"]) for name in "ab")
    go_on(b, lambda: killed_at_step(800))
    for checkpoint in list_checkpoints(b.checkpoints_of_turn(1)):
        (checkpoint / "state.json").write_text("{}")
    with pytest.warns(UserWarning, match="Skipping a checkpoint"):
        resume(b)
    resume(a)
    assert difference(a, b, "a2c_mt") == []


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ppo", "a2c_mt in turn"])
def test_a_signal_leaves_a_checkpoint(tmp_path, kind):
    a, b = (begun(tmp_path / name, **KINDS[kind]) for name in "ab")

    def interrupted():
        on_step, sent = mt.ResumableCheckpointCallback._on_step, []

        def step(self):
            if self.num_timesteps >= 1000 and not sent:
                sent.append(signal.SIGTERM)
                os.kill(os.getpid(), signal.SIGTERM)
            return on_step(self)

        mt.ResumableCheckpointCallback._on_step = step
        done = CliRunner().invoke(app, ["train", "--no-progress", "--resume", str(b.path)])
        assert done.exit_code == 128 + signal.SIGTERM

    assert in_child(interrupted) == 0
    assert json.loads(b.run.read_text())["status"] == "interrupted"
    assert 1000 <= max(b.steps_of_checkpoints()) <= 1150
    resume(b)
    resume(a)
    assert difference(a, b, KINDS[kind].get("algo", "a2c_mt")) == []


def test_a_run_that_lost_its_checkpoints_is_not_begun_again_unasked(tmp_path):
    folder = begun(tmp_path / "run", **KINDS["ppo in turn"])
    go_on(folder, lambda: killed_at_step(800))
    shutil.rmtree(folder.checkpoints)
    done = CliRunner().invoke(app, ["train", "--no-progress", "--resume", str(folder.path)])
    assert isinstance(done.exception, FileExistsError)
    assert folder.results.exists()
    train_run(TrainConfig(**{**GROUP, **KINDS["ppo in turn"]}), folder)
    assert (folder.path / "earlier_1" / "results.json").exists()


def test_what_killed_writers_left_is_removed_wherever_a_run_writes(tmp_path):
    folder = RunFolder.create(tmp_path / "run", "run")
    for name in ("", "agents", "on_E1"):
        (folder.path / name).mkdir(exist_ok=True)
        (folder.path / name / ".6000.99.tmp.json").write_text("{")
        (folder.path / name / "6000.json").write_text("{}")
    with folder.locked():
        assert not list(folder.path.rglob("*.tmp.json"))
    assert len(list(folder.path.rglob("6000.json"))) == 3
