"""The wall clock may jump, and files may have any date: nothing is sorted or decided by either."""

import itertools
import os
import time

import numpy as np
import pytest
from helpers.drift import drift_tasks
from helpers.killing import jumping_clock
from stable_baselines3.common.monitor import load_results

import sb3_multitask as mt
from sb3_multitask.checkpoint.format import list_checkpoints, read_latest, save_step
from sb3_multitask.experiments.config import TrainConfig
from sb3_multitask.experiments.curves import read_training_returns
from sb3_multitask.experiments.report.collect import read_runs
from sb3_multitask.experiments.run_folder import RunFolder
from sb3_multitask.experiments.train import train_run

CONFIG = TrainConfig(
    tasks={"SmallFoot": "HalfCheetahSmallFoot-v0", "BigFoot": "HalfCheetahBigFoot-v0"},
    n_timesteps=6_000,
    n_envs_per_task=1,
    n_eval_episodes=1,
    eval_freq=2_000,
    eval_episodes=1,
    checkpoint_freq=1_000,
    report_at=(3_000,),
)


@pytest.fixture
def clock(monkeypatch):
    return jumping_clock(monkeypatch)


def test_the_clock_of_these_tests_jumps_back(clock):
    times = [time.time() for _ in range(20)]
    assert sum(later < earlier for earlier, later in itertools.pairwise(times)) > 5
    assert time.time_ns() != time.time_ns()


def play(folder, n_steps=40, state=None):
    """Episodes of different lengths in two files."""
    env = mt.MultiTaskVecEnv(drift_tasks(2), 1, seed=0, monitor_dir=folder)
    env.reset()
    if state is not None:
        env.monitor.set_state(state)
    for _ in range(n_steps):
        env.step(np.zeros((2, 2)))
    state = env.monitor.get_state()
    env.close()
    return state


def test_the_times_of_monitor_files_never_go_back_not_even_in_a_run_that_goes_on(clock, tmp_path):
    state = play(tmp_path, 6)  # only A's first episode, of 5 steps, has ended; B's file is begun after the jump
    assert state["t_start"] > 0
    play(tmp_path, 40, state)
    for row in (0, 1):
        lines = (tmp_path / f"{row}.monitor.csv").read_text().splitlines()
        seconds = [float(line.split(",")[2]) for line in lines[2:]]
        assert seconds == sorted(seconds)
        assert seconds[0] >= 0
        assert str(state["t_start"]) in lines[0]
    together = load_results(str(tmp_path))  # SB3's, which sorts by date
    steps = together.groupby("task")["l"].cumsum()  # since the start, of either task
    assert len(steps) > 10
    assert steps.is_monotonic_increasing


@pytest.mark.slow
def test_a_run_under_a_clock_that_jumps_ends_the_same(tmp_path, monkeypatch):
    train_run(CONFIG, RunFolder.create(tmp_path / "g/p/steady/seed_0", ""))
    jumping_clock(monkeypatch)
    train_run(CONFIG, RunFolder.create(tmp_path / "g/p/jumps/seed_0", ""))
    (jumps, steady), others = read_runs(tmp_path / "g")
    assert others == []
    assert jumps.results == steady.results
    assert list(jumps.results) == ["before", "3000", "after"]
    assert jumps.status["status"] == "finished"
    assert 0 <= jumps.status["wall_seconds"] < 600
    for ours, theirs in zip(jumps.curves().values(), steady.curves().values(), strict=True):
        np.testing.assert_array_equal(ours, theirs)
        assert (np.diff(ours[0]) > 0).all()
    ours, theirs = (read_training_returns(run.path / "monitor") for run in (jumps, steady))
    for task in CONFIG.task_names:
        np.testing.assert_array_equal(ours[task], theirs[task])
    names = [[path.name for path in list_checkpoints(run.path / "checkpoints")] for run in (jumps, steady)]
    assert names[0] == names[1]


def test_checkpoints_are_chosen_by_their_steps_not_by_their_dates(tmp_path):
    for step in (100, 200, 300):
        save_step(tmp_path, step, {"step": step}, keep=3)
        for path in [tmp_path / f"{step:012d}", *(tmp_path / f"{step:012d}").iterdir()]:
            os.utime(path, (2e9 - 1e6 * step,) * 2)  # the newest has the oldest date
    assert read_latest(tmp_path)[1] == {"step": 300}
    save_step(tmp_path, 400, {"step": 400}, keep=2)
    assert [int(path.name) for path in list_checkpoints(tmp_path)] == [400, 300]


@pytest.mark.slow
def test_a_run_goes_on_though_clock_and_dates_went_back(tmp_path, monkeypatch):
    """Interrupted, then gone on with under a clock and with files of years before: the same bits."""
    config = CONFIG.model_copy(update={"eval_freq": 0, "report_at": ()})
    train_run(config, RunFolder.create(tmp_path / "whole", ""))
    folder = RunFolder.create(tmp_path / "cut", "")
    stop_after(3, monkeypatch, config, folder)
    for path in folder.path.rglob("*"):
        os.utime(path, (0, 0))
    jumping_clock(monkeypatch)
    train_run(config, folder)
    assert RunFolder(tmp_path / "whole").read_results() == folder.read_results()


def stop_after(n_saves, monkeypatch, config, folder):
    """Train until the checkpoint after ``n_saves`` others, and be interrupted there."""
    save, calls = mt.ResumableCheckpointCallback.save, []

    def interrupted(callback):
        save(callback)
        calls.append(callback)
        if len(calls) > n_saves:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(mt.ResumableCheckpointCallback, "save", interrupted)
        with pytest.raises(KeyboardInterrupt):
            train_run(config, folder)
    assert folder.read_status()["status"] == "interrupted"
