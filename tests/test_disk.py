"""Folders that may not be written to, disks that are full, and two processes that write to one place."""

import itertools
import os
import re
import signal
import tempfile
import time
from pathlib import Path

import numpy as np
import pytest
from helpers.drift import drift_tasks
from helpers.killing import as_nobody, in_child, with_file_size_limit

import sb3_multitask as mt
from sb3_multitask.checkpoint.format import list_checkpoints, read_latest, save_step
from sb3_multitask.experiments.config import TrainConfig
from sb3_multitask.experiments.run_folder import RunFolder
from sb3_multitask.experiments.train import train_run
from sb3_multitask.storage.files import SaveError, write_json


@pytest.fixture
def open_path():
    """A folder that every user reaches, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def error_of(work, wrapped=lambda work: work):
    """Type and text of the error that ``work`` ends with in a process of its own; empty if it does not."""
    reader, writer = os.pipe()

    def run():
        try:
            work()
        except Exception as e:
            os.write(writer, f"{type(e).__name__}: {e}".encode())
            raise

    code = in_child(wrapped(run))
    os.close(writer)
    with os.fdopen(reader) as file:
        text = file.read()
    assert code in (0, 1)
    assert (code == 1) == bool(text)
    return text


def model(folder):
    env = mt.make_multitask_vec_env(drift_tasks(2), 1, seed=0, monitor_dir=folder / "monitor")
    return mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=0, device="cpu")


def learn(folder, callback=None, total=300):
    learner = model(folder)
    try:
        learner.learn(total, callback)
    finally:
        learner.env.close()


CONFIG = TrainConfig(tasks=("HalfCheetahSmallFoot-v0",), n_timesteps=10, n_eval_episodes=1, eval_freq=0)
WRITERS = {
    "a checkpoint": (
        lambda folder: save_step(folder, 1, {"step": 1}, keep=1),
        "SaveError: Cannot write .*000000000001",
    ),
    "a model": (lambda folder: model(folder.parent).save(folder / "model"), "SaveError: Cannot write .*model.zip"),
    "a small file": (lambda folder: write_json(folder / "run.json", {}), "SaveError: Cannot write .*run.json"),
    "a run": (lambda folder: train_run(CONFIG, RunFolder(folder)), "PermissionError: .* may not be written to"),
    "checkpoints in training": (
        lambda folder: learn(folder.parent, mt.ResumableCheckpointCallback(folder / "checkpoints", verbose=0)),
        "SaveError: Cannot write checkpoints to .*checkpoints: Permission denied",
    ),
}


@pytest.mark.filterwarnings("ignore:A run that resumes from a checkpoint")
@pytest.mark.parametrize("what", WRITERS)
def test_a_folder_that_may_not_be_written_to_is_named_and_stays_as_it_is(what, open_path, tmp_path):
    """As nobody, since root may write anywhere; the same where writing is allowed shows that only that is missing."""
    work, message = WRITERS[what]
    (tmp_path / "first").mkdir()
    work(tmp_path / "first")  # imports what is needed, which nobody may not be able to read
    if what != "a run":  # which reads files of the packages
        open_path.chmod(0o777)
        (open_path / "open").mkdir(mode=0o777)
        (open_path / "open").chmod(0o777)
        assert error_of(lambda: work(open_path / "open"), as_nobody) == ""
    closed = open_path / "closed"
    closed.mkdir(mode=0o555)
    (closed / "before").write_text("before")
    error = error_of(lambda: work(closed), as_nobody)
    assert [path.name for path in closed.iterdir()] == ["before"]
    assert re.match(message, error), error


def test_a_disk_that_fills_up_while_training_names_the_file_and_leaves_whole_rows(tmp_path):
    """The monitor's rows are written all the time; the one that no longer fits is an error, not half of a number."""
    error = error_of(lambda: learn(tmp_path), lambda work: with_file_size_limit(200, work))
    assert error.startswith(f"SaveError: Cannot write {tmp_path / 'monitor' / '0.monitor.csv'}: File too large")
    assert (tmp_path / "monitor" / "0.monitor.csv").stat().st_size <= 200


def test_a_disk_that_is_full_does_not_hide_what_failed_first(tmp_path, monkeypatch):
    folder = RunFolder.create(tmp_path / "run", "")
    config = CONFIG.model_copy(update={"policy_kwargs": {"nonsense": 1}})
    write_status = RunFolder.write_status

    def full(self, status, **facts):
        if status == "failed":
            raise SaveError("no space")
        write_status(self, status, **facts)

    monkeypatch.setattr(RunFolder, "write_status", full)
    with pytest.raises(TypeError, match="nonsense"):
        train_run(config, folder)


# Two writers


def holding(folder, ready):
    """A process that trains with checkpoints in ``folder`` until it is killed."""
    pid = os.fork()
    if pid == 0:
        try:
            callback = mt.ResumableCheckpointCallback(folder, every=20, verbose=0)
            learn(folder.parent, callback, 10**9)
        finally:
            os._exit(1)
    deadline = time.monotonic() + 60
    while not ready():
        assert time.monotonic() < deadline
        time.sleep(0.02)
    return pid


@pytest.mark.filterwarnings("ignore:A run that resumes from a checkpoint")
def test_a_second_process_is_kept_out_of_a_folder_of_checkpoints_until_the_first_has_died(tmp_path):
    folder = tmp_path / "checkpoints"
    first = holding(folder, lambda: list_checkpoints(folder))
    try:
        with pytest.raises(mt.CheckpointError, match="checkpoints is in use"):
            learn(tmp_path, mt.ResumableCheckpointCallback(folder, every=20, verbose=0))
    finally:
        os.kill(first, signal.SIGKILL)
        os.waitpid(first, 0)
    steps = int(read_latest(folder)[0].name)
    callback = mt.ResumableCheckpointCallback(folder, every=20, verbose=0)
    learn(tmp_path, callback, steps + 100)  # its lock died with it
    assert int(callback.resumed_from.name) == steps


@pytest.mark.filterwarnings("ignore:A run that resumes from a checkpoint")
def test_a_folder_is_free_again_after_training(tmp_path):
    learn(tmp_path, mt.ResumableCheckpointCallback(tmp_path / "checkpoints", every=100, verbose=0))
    again = mt.ResumableCheckpointCallback(tmp_path / "checkpoints", every=100, verbose=0)
    assert error_of(lambda: learn(tmp_path, again, 400)) == ""


def test_two_processes_that_replace_one_file_leave_one_of_the_two_whole(tmp_path):
    """Whatever the order: readers see a whole file of one of them at any time."""
    path = tmp_path / "file.json"
    contents = [{"writer": writer, "filler": [writer] * 2000} for writer in range(2)]
    write_json(path, contents[0])
    text = path.read_text()
    pids = []
    for content in contents:
        pid = os.fork()
        if pid == 0:
            for _ in itertools.count():
                write_json(path, content)
        pids.append(pid)
    try:
        seen = {path.read_text() for _ in range(2000)}
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
    assert text in seen
    assert len(seen) <= 2
    assert np.all([len(one) == len(text) for one in seen])
