"""Grids: what they are made of, in which order they run, and that nothing is lost or done twice."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest

from sb3_multitask.checkpoint.format import list_checkpoints
from sb3_multitask.experiments.grid import load_grid, prepare, select, statuses
from sb3_multitask.storage.yaml_files import ConfigError

BASE = "eval_freq: 0\nn_eval_episodes: 1\nn_envs_per_task: 1\ncheckpoint_freq: 1000\n"
GRID = """
folder: grid
presets:
  a: {config: base.yml, seeds: [0, 1]}
  b: {config: base.yml, seeds: [0], runs: [first], set: {ent_coef: 0.01}}
runs:
  student:
    tasks: {SmallFoot: HalfCheetahSmallFoot-v0}
    n_timesteps: 4000
    teachers: {SmallFoot: "run:first@2000"}
  first: {tasks: {SmallFoot: HalfCheetahSmallFoot-v0}, n_timesteps: 4000, report_at: [2000]}
  tuned:
    tasks: {SmallLeg: HalfCheetahSmallLeg-v0}
    n_timesteps: 4000
    init_from: run:first
    init_tasks: {SmallLeg: SmallFoot}
    freeze: all_but_last
    also_on: {SmallFoot: HalfCheetahSmallFoot-v0}
    report_at: [2000]
"""


@pytest.fixture
def grid_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.yml").write_text(BASE)
    (tmp_path / "grid.yml").write_text(GRID)
    return tmp_path / "grid.yml"


def start(*args):
    command = [sys.executable, "-m", "sb3_multitask.cli", "grid", "grid.yml", *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def finish(process):
    out, _ = process.communicate(timeout=240)
    return process.returncode, out


def test_runs_come_by_preset_and_seed_and_after_what_they_need(grid_file):
    runs = load_grid(grid_file)
    assert [run.key for run in runs] == [
        *(f"a/{name}/seed_{seed}" for seed in (0, 1) for name in ("first", "student", "tuned")),
        "b/first/seed_0",
    ]
    student = runs[1]
    assert student.needs == ("a/first/seed_0",)
    assert student.config.teachers == {"SmallFoot": "grid/a/first/seed_0/agents/2000"}
    assert (runs[3].config.seed, runs[-1].config.ent_coef) == (1, 0.01)


def test_a_run_may_have_a_config_of_its_own(grid_file):
    grid_file.with_name("other.yml").write_text(BASE + "gamma: 0.5\n")
    grid_file.write_text(GRID.replace("seeds: [0, 1]}", "seeds: [0, 1], configs: {first: other.yml}}"))
    gammas = {run.key: run.config.gamma for run in load_grid(grid_file)}
    assert (gammas["a/first/seed_1"], gammas["a/student/seed_1"], gammas["b/first/seed_0"]) == (0.5, 0.99, 0.99)
    shipped = "seeds: [0, 1], configs: {first: zoo_configs/tuned_single.yml}}"  # comes with the package
    grid_file.write_text(GRID.replace("seeds: [0, 1]}", shipped))
    assert {run.key: run.config.gamma for run in load_grid(grid_file)}["a/first/seed_1"] == 0.98
    grid_file.write_text(GRID.replace("seeds: [0, 1]}", "seeds: [0, 1], configs: {fist: other.yml}}"))
    with pytest.raises(ConfigError, match="unknown run 'fist'. Did you mean 'first'"):
        load_grid(grid_file)


def test_runs_may_need_those_of_another_preset(grid_file):
    grid_file.write_text(GRID.replace("runs: [first]", "runs: [student]").replace("run:first@", "run:a/first@"))
    student = load_grid(grid_file)[-1]
    assert (student.key, student.needs) == ("b/student/seed_0", ("a/first/seed_0",))
    assert student.config.teachers == {"SmallFoot": "grid/a/first/seed_0/agents/2000"}


def test_selected_runs_bring_what_they_need(grid_file):
    keys = [run.key for run in select(load_grid(grid_file), ["a/tuned/seed_1"])]
    assert keys == ["a/first/seed_1", "a/tuned/seed_1"]
    with pytest.raises(ConfigError, match=r"'a/tunde'.*'a/tuned"):
        select(load_grid(grid_file), ["a/tunde"])


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("run:first@2000", "run:frist@2000", "unknown run 'frist'. Did you mean 'first'"),
        (
            "runs: [first]",
            "runs: [student]",
            "b/student/seed_0 needs b/first/seed_0, which is not among the grid's runs",
        ),
        ("n_timesteps: 4000\n", "n_timestep: 4000\n", "run 'student' of preset 'a': .*n_timestep"),
        ("seeds: [0]", "seeds: []", "presets.b.seeds"),
        ("set: {ent_coef: 0.01}", "set: {seed: 3}", "preset 'b' sets a seed"),
        ("  student:\n", "  student:\n    seed: 3\n", "run 'student' sets a seed"),
        ("run:first@2000", "run:first@3000", "a/student/seed_0 needs a/first/seed_0's agent at 3000 steps.*: 2000"),
        ("run:first@2000", "run:first@end", "'run:first@end' must end in @<steps>"),
        ("set: {ent_coef: 0.01}", "configs: {student: base.yml}", "unknown run 'student'.*Runs: first"),
        ("  student:", "  ../student:", r"runs.*student"),
        ("folder: grid", "fodler: grid", "unknown key 'fodler'. Did you mean 'folder'"),
        ("config: base.yml, seeds: [0]", "config: nowhere.yml, seeds: [0]", "nowhere.yml: cannot read"),
    ],
)
def test_bad_grids_are_refused(grid_file, old, new, message):
    grid_file.write_text(GRID.replace(old, new))
    with pytest.raises(ConfigError, match=f"(?s){message}"):
        load_grid(grid_file)


def test_runs_that_need_each_other_are_refused(grid_file):
    grid_file.write_text(
        GRID.replace("first: {", "first: {init_from: run:tuned, ").replace("[first]", "[first, tuned]")
    )
    with pytest.raises(ConfigError, match="these runs need each other"):
        load_grid(grid_file)


def test_a_folder_with_other_settings_is_refused(grid_file):
    prepare(load_grid(grid_file)[0])
    grid_file.write_text(GRID.replace("4000, report_at", "5000, report_at"))
    with pytest.raises(ConfigError, match=r"n_timesteps \(4000 there, 5000 now\)"):
        prepare(load_grid(grid_file)[0])


def results_of(folder):
    return {path.parent: json.loads(path.read_text()) for path in sorted(folder.glob("a/*/seed_0/results.json"))}


@pytest.mark.slow
def test_a_grid_killed_at_any_moment_ends_the_same(grid_file):
    only = ["--only", "a/student/seed_0", "--only", "a/tuned/seed_0", "--processes", "2"]
    code, out = finish(start(*only, "--folder", "whole"))
    assert code == 0, out
    assert "3 of 3 runs finished" in out
    whole = results_of(grid_file.parent / "whole")
    assert [list(results) for results in whole.values()] == [
        ["before", "2000", "after"], ["before", "after"], ["before", "2000", "after"]
    ]  # fmt: skip
    (tuned,) = [results for path, results in whole.items() if "tuned" in str(path)]
    assert set(tuned["2000"]) == {"SmallLeg", "SmallFoot"}

    for seconds, number in ((4, signal.SIGKILL), (6, signal.SIGTERM)):
        process = start(*only)
        time.sleep(seconds)
        os.kill(process.pid, number)
        process.communicate()
    code, out = finish(start(*only))
    assert code == 0, out
    killed = results_of(grid_file.parent / "grid")
    assert list(killed.values()) == list(whole.values())


@pytest.mark.slow
def test_a_run_on_ray_whose_worker_is_killed_goes_on_and_counts_once(grid_file):
    only = ["--only", "a/student/seed_0"]
    code, out = finish(start(*only, "--folder", "whole", "--processes", "2"))
    assert code == 0, out
    whole = results_of(grid_file.parent / "whole")

    process = start(*only, "--engine", "ray")
    folder = grid_file.parent / "grid/a/first/seed_0"
    deadline = time.time() + 120
    while not list_checkpoints(folder / "checkpoints"):
        assert time.time() < deadline
        assert process.poll() is None
        time.sleep(0.02)
    worker = json.loads((folder / "run.json").read_text())["pid"]
    assert worker != process.pid
    os.kill(worker, signal.SIGKILL)
    code, out = finish(process)
    assert code == 0, out
    assert "2 of 2 runs finished" in out
    assert list(results_of(grid_file.parent / "grid").values()) == list(whole.values())
    assert json.loads((folder / "run.json").read_text())["pid"] != worker
    log = (folder / "log.txt").read_text()
    assert log.count("Training for 4,000 steps") == 1
    assert log.count("Going on from") == 1


@pytest.mark.slow
def test_a_grid_on_ray_that_is_stopped_leaves_checkpoints(grid_file):
    grid_file.write_text(GRID.replace("4000, report_at", "4000000, report_at"))
    process = start("--only", "a/first/seed_0", "--engine", "ray")
    folder = grid_file.parent / "grid/a/first/seed_0"
    deadline = time.time() + 120
    while not list_checkpoints(folder / "checkpoints"):
        assert time.time() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    code, out = finish(process)
    assert code == 128 + signal.SIGINT, out
    assert "Go on with the same command" in out
    assert json.loads((folder / "run.json").read_text())["status"] == "interrupted"


@pytest.mark.slow
def test_a_run_that_fails_does_not_stop_the_others(grid_file):
    grid_file.write_text(
        GRID.replace("n_timesteps: 4000, report_at", "n_timesteps: 4000, algo_kwargs: {x: 1}, report_at")
    )
    other = "  other: {tasks: {SmallFoot: HalfCheetahSmallFoot-v0}, n_timesteps: 1000}\n"
    grid_file.write_text(grid_file.read_text() + other)
    code, out = finish(start("--only", "a/tuned/seed_0", "--only", "a/other/seed_0"))
    assert code == 1
    assert "1 of 3 runs finished" in out
    assert "failed a/first/seed_0: ConfigError" in out.replace("\n", " ")
    assert "left out, since a run it needs failed: a/tuned/seed_0" in out
    status = json.loads((grid_file.parent / "grid/a/first/seed_0/run.json").read_text())
    assert status["status"] == "failed"
    assert "unexpected keyword argument 'x'" in status["reason"]


def test_a_dry_run_starts_nothing(grid_file):
    code, out = finish(start("--dry-run"))
    assert code == 0
    assert "waiting" in out
    assert not (grid_file.parent / "grid").exists()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("teachers: {SmallFoot:", "teachers: {BigFoot:", "teachers must be one for every task"),
        (
            "init_tasks: {SmallLeg: SmallFoot}",
            "init_tasks: {SmallLeg: Foot}",
            "init_tasks takes task 'Foot' from grid/a/first",
        ),
        (
            "init_tasks: {SmallLeg: SmallFoot}",
            "init_tasks: {BigLeg: SmallFoot}",
            "init_tasks must name tasks of the run",
        ),
        ("    init_tasks: {SmallLeg: SmallFoot}\n", "", "init_from takes task 'SmallLeg' from grid/a/first"),
        (
            "SmallFoot: HalfCheetahSmallFoot-v0}\n    report_at",
            "Foot: Hoper-v5}\n    report_at",
            "`also_on`.*Did you mean",
        ),
        ("freeze:", "freez:", "unknown key 'freez'. Did you mean 'freeze'"),
        ("seeds: [0, 1]", "seeds: 2", r"must be a list, such as \[a, b\]"),
        ("seeds: [0, 1]", "seeds: [0, -1]", "greater than or equal to 0"),
    ],
)
def test_what_cannot_work_is_refused_before_anything_runs(grid_file, old, new, message):
    assert GRID.count(old) == 1
    grid_file.write_text(GRID.replace(old, new))
    with pytest.raises(ConfigError, match=message) as caught:
        load_grid(grid_file)
    assert "pydantic" not in str(caught.value)


def test_a_run_begins_with_the_shared_policy_of_one_that_has_it(grid_file):
    text = GRID.replace("init_tasks: {SmallLeg: SmallFoot}", "init_tasks: {SmallLeg: shared}")
    grid_file.write_text(text)
    with pytest.raises(
        ConfigError, match="init_tasks takes task 'shared' from grid/a/first/seed_0, which has: SmallFoot"
    ):
        load_grid(grid_file)
    distral = "first: {algo_kwargs: {distral: {c_kl: 0.1, c_ent: 0.0}}, "
    grid_file.write_text(text.replace("first: {", distral, 1))
    assert load_grid(grid_file)


def test_a_dry_run_names_folders_with_other_settings(grid_file):
    prepare(load_grid(grid_file)[0])
    grid_file.write_text(GRID.replace("n_timesteps: 4000, report_at", "n_timesteps: 5000, report_at"))
    first, *others = statuses(load_grid(grid_file))
    assert (first[0].key, first[1]) == ("a/first/seed_0", "other settings")
    assert {status for _, status in others} == {"waiting"}
