"""A grid that is killed at random moments, with and without its runs, ends with the bits of one that was not."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from sb3_multitask.checkpoint.format import list_checkpoints
from sb3_multitask.experiments import local_runner, scheduler
from sb3_multitask.experiments.grid import load_grid
from sb3_multitask.experiments.run_folder import RunFolder
from sb3_multitask.experiments.scheduler import run_grid, steps_so_far

N_KILLS = 6
BASE = "eval_freq: 4000\neval_episodes: 1\nn_eval_episodes: 1\nn_envs_per_task: 1\ncheckpoint_freq: 1000\n"
GRID = """
folder: killed
presets:
  a: {config: base.yml, seeds: [0, 1]}
runs:
  first: {tasks: {SmallFoot: HalfCheetahSmallFoot-v0, BigFoot: HalfCheetahBigFoot-v0}, n_timesteps: 16000}
  second:
    tasks: {SmallFoot: HalfCheetahSmallFoot-v0}
    n_timesteps: 12000
    init_from: run:first
    report_at: [6000]
"""


@pytest.fixture
def grid_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yml").write_text(BASE)
    (tmp_path / "grid.yml").write_text(GRID)
    return tmp_path / "grid.yml"


def start(*args):
    """The grid in a process group of its own, two runs at a time."""
    command = [sys.executable, "-m", "sb3_multitask.cli", "grid", "grid.yml", "--processes", "2", *args]
    with open("output.txt", "ab") as output:
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)


def process_table():
    """pid -> (parent, state) of all processes."""
    table = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            state, parent = path.read_text().rpartition(")")[2].split()[:2]
        except OSError:
            continue  # it has ended
        table[int(path.parent.name)] = (int(parent), state)
    return table


def descendants(pid):
    parents = {child: parent for child, (parent, _) in process_table().items()}
    found, todo = [], [pid]
    while todo:
        parent = todo.pop()
        children = [child for child, its in parents.items() if its == parent]
        found += children
        todo += children
    return found


def kill(grid, with_its_runs):
    """SIGKILL for the grid's process group, and for the groups of its runs, which are others."""
    runs = descendants(grid.pid) if with_its_runs else []
    for pid in [grid.pid, *runs]:
        try:
            os.killpg(os.getpgid(pid), signal.SIGKILL)
        except ProcessLookupError:
            continue
    grid.wait()
    deadline = time.monotonic() + 20
    while any(process_table().get(pid, (0, "Z"))[1] != "Z" for pid in runs):
        assert time.monotonic() < deadline, "a run is left behind"
        time.sleep(0.02)


def progress(root):
    return sum(steps_so_far(path) for path in root.glob("*/*/seed_*"))


def what_came_out(root):
    """Everything that a run's folder holds of its results, but for dates and durations."""
    found = {}
    for folder in sorted(root.glob("a/*/seed_*")):
        run = RunFolder(folder)
        key = str(folder.relative_to(root))
        assert run.read_status()["status"] == "finished"
        found[key, "results"] = run.results.read_text()
        for agent in sorted(run.agents.glob("*")):
            found[key, agent.name] = agent.read_bytes()
        for path in sorted(run.monitor.glob("*.csv")):
            rows = [line.split(",") for line in path.read_text().splitlines()[1:]]
            found[key, path.name] = [(row[0], row[1], row[3]) for row in rows]
        with np.load(run.evaluations) as file:
            found.update({(key, name): file[name].tolist() for name in file})
        found[key, "checkpoints"] = [path.name for path in list_checkpoints(run.checkpoints)]
    return found


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
def test_a_grid_killed_at_random_moments_ends_with_the_same_bits(grid_file):
    root = grid_file.parent
    began = time.monotonic()
    assert start("--folder", "whole").wait(timeout=400) == 0, (root / "output.txt").read_text()[-2000:]
    seconds = time.monotonic() - began

    rng = np.random.default_rng(0)
    kills = []
    for number in range(N_KILLS):
        grid, before = start(), progress(root / "killed")
        if number % 2:  # at any moment, loading and evaluating included
            moment = time.monotonic() + rng.uniform(0, 0.5 * seconds)
        else:  # while it trains
            while progress(root / "killed") == before and grid.poll() is None:
                time.sleep(0.01)
            moment = time.monotonic() + rng.uniform(0, 0.1 * seconds)
        while time.monotonic() < moment and grid.poll() is None:
            time.sleep(0.01)
        if grid.poll() is not None:
            break  # it has finished before
        kill(grid, with_its_runs=bool(number % 3))  # at times its runs outlive it
        kills.append(progress(root / "killed"))
    assert len(kills) >= 3
    assert max(kills) > 0

    assert start().wait(timeout=400) == 0, (root / "output.txt").read_text()[-2000:]
    whole, killed = what_came_out(root / "whole"), what_came_out(root / "killed")
    assert len(whole) > 40
    assert whole.keys() == killed.keys()
    different = [key for key in whole if str(whole[key]).replace("whole", "killed") != str(killed[key])]
    assert different == []


# What a grid does with runs that cannot start, or that end without a word


class Ended:
    """A job that has ended in some way."""

    def __init__(self, failure):
        self.failure = failure

    def poll(self):
        return self.failure

    def stop(self):
        pass

    def wait(self):
        pass


@pytest.fixture
def quick(monkeypatch):
    monkeypatch.setattr(scheduler, "_POLL_SECONDS", 0)


def finished(run):
    RunFolder(run.folder).write_status("finished")
    return Ended("")


def console():
    from rich.console import Console

    return Console(quiet=True)


def test_a_run_that_was_killed_is_failed_in_its_folder_and_the_others_go_on(grid_file, quick):
    runs = load_grid(grid_file)

    def launch(run):
        if run.key != "a/first/seed_0":
            return finished(run)
        RunFolder(run.folder).write_status("running", seed=0)
        return Ended("exit code -9")

    outcome = run_grid(runs, launch, 2, console())
    assert outcome.finished == ["a/first/seed_1", "a/second/seed_1"]
    assert outcome.left_out == ["a/second/seed_0"]
    status = RunFolder(runs[0].folder).read_status()
    assert (status["status"], status["reason"], status["seed"]) == ("failed", "exit code -9", 0)


def test_a_run_that_cannot_be_started_does_not_stop_the_others(grid_file, quick):
    runs = load_grid(grid_file)
    in_the_way = runs[0].folder
    in_the_way.parent.mkdir(parents=True)
    in_the_way.write_text("a file where the folder should be")

    def launch(run):
        if run.key == "a/second/seed_1":
            raise PermissionError("log.txt may not be written to")
        return finished(run)

    outcome = run_grid(runs, launch, 1, console())
    assert outcome.finished == ["a/first/seed_1"]
    assert outcome.failed["a/second/seed_1"] == "log.txt may not be written to"
    assert "Cannot write" in outcome.failed["a/first/seed_0"] or "exists" in outcome.failed["a/first/seed_0"]
    assert outcome.left_out == ["a/second/seed_0"]


def test_a_run_that_another_process_finished_is_finished(grid_file, quick):
    def launch(run):
        finished(run)
        return Ended("exit code 2")  # the folder was in use

    assert run_grid(load_grid(grid_file), launch, 2, console()).is_complete


def test_a_run_that_does_not_end_when_it_is_told_to_is_killed(monkeypatch):
    monkeypatch.setattr(local_runner, "_PATIENCE", ((0.5, signal.SIGTERM), (0.5, signal.SIGKILL)))
    deaf = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(flush=True); time.sleep(60)"
    job = object.__new__(local_runner.LocalJob)
    job._process = subprocess.Popen([sys.executable, "-c", deaf], stdout=subprocess.PIPE)
    job._process.stdout.readline()
    job.stop()
    job.wait()
    assert job.poll() == "exit code -9"
    job._process.stdout.close()


def test_a_rerun_takes_what_is_missing_only(grid_file, quick):
    runs, launched = load_grid(grid_file), []

    def launch(run):
        launched.append(run.key)
        return Ended("exit code 1") if run.key == "a/first/seed_1" and len(launched) < 5 else finished(run)

    assert not run_grid(runs, launch, 2, console()).is_complete
    assert sorted(launched) == ["a/first/seed_0", "a/first/seed_1", "a/second/seed_0"]
    del launched[:]
    launched += [""] * 5
    assert run_grid(runs, launch, 2, console()).is_complete
    assert launched[5:] == ["a/first/seed_1", "a/second/seed_1"]
