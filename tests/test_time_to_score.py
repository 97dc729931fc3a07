"""`benchmarks/time_to_score.py`: what contenders print, the results file, the tables, and one contender for real."""

import json
import math
import sys

import pytest

from benchmarks import time_to_score
from benchmarks.contenders import process, results, zoo_settings
from benchmarks.contenders.entries import CONTENDERS, ONE_THREAD, OURS, SINGLE, SIX, Contender
from benchmarks.contenders.multitask_vec_env import ppo_config, sb3_arguments
from benchmarks.contenders.progress import PREFIX, Progress
from sb3_multitask.experiments.config import TrainConfig, load_config, make_config

SETTINGS = {"scores": [1000.0, 3000.0], "window": 2, "cap": 300.0}


class Clock:
    now = 100.0

    def monotonic(self):
        return self.now


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr("benchmarks.contenders.progress.time", clock)
    return clock


def progress_and_lines(tasks=("a", "b"), scores=(3000.0, 1000.0), cap=300.0):
    lines = []
    return Progress(tasks, scores, window=2, cap=cap, start=90.0, write=lines.append), lines


def parsed(lines):
    return [json.loads(line.removeprefix(PREFIX)) for line in lines]


def make_run(contender, seed, passed, **facts):
    return {
        "contender": contender,
        "task": SIX,
        "seed": seed,
        "settings": SETTINGS,
        "start_up": 5.0,
        "compiling": None,
        "passed": passed,
        "end": {"reason": "cap", "seconds": 300.0, "n_steps": 29_500, "mean_return": 3100.0},
        "cpu_seconds_of_others": 0.0,
        **facts,
    }


def test_the_mean_return_is_of_each_tasks_latest_episodes_with_equal_weight(clock):
    progress, _ = progress_and_lines()
    for value in (900.0, 0.0, 1000.0):  # the first one is out of the window of two
        progress.episode("a", value)
    progress.episode("b", 2000.0)
    assert progress.mean_return is None  # b has one episode too few
    progress.episode("b", 4000.0)
    assert progress.mean_return == (500 + 3000) / 2


def test_a_score_is_passed_once_at_its_time_and_a_jump_passes_several(clock):
    progress, lines = progress_and_lines(tasks=("a",), scores=(3000.0, 1000.0, 5000.0))
    clock.now = 95.5
    progress.step(4)
    for now, value in ((101, 1000.0), (102, 1000.0), (103, 1001.0), (104, 20_000.0)):
        clock.now = now
        progress.step(int(now) * 10)
        progress.episode("a", value)
        progress.check()
    assert progress.is_over
    progress.end()
    kinds = parsed(lines)
    assert kinds[0] == {"kind": "first step", "seconds": 5.5}
    assert [line for line in kinds if line["kind"] == "passed"] == [
        {"kind": "passed", "score": 1000.0, "seconds": 13, "n_steps": 1030},
        {"kind": "passed", "score": 3000.0, "seconds": 14, "n_steps": 1040},
        {"kind": "passed", "score": 5000.0, "seconds": 14, "n_steps": 1040},
    ]
    assert [line["seconds"] for line in kinds if line["kind"] == "return"] == [12, 14]  # two seconds apart
    assert kinds[-1]["reason"] == "passed"


@pytest.mark.parametrize(("now", "reason"), [(389.9, "budget"), (390.0, "cap")])
def test_a_run_that_passed_nothing_ends_by_its_cap_or_its_budget(clock, now, reason):
    progress, lines = progress_and_lines()
    clock.now = now
    assert progress.is_over == (reason == "cap")
    progress.end()
    assert parsed(lines)[0]["reason"] == reason


def test_compiling_is_the_first_update_less_the_second(clock):
    progress, lines = progress_and_lines()
    durations = iter((7.0, 2.5, 1.0))

    def train():
        clock.now += next(durations)
        return "trained"

    update = progress.timed_update(train)
    assert [update(), update(), update()] == ["trained"] * 3
    progress.step(1)
    progress.end()
    assert process.summary_of(parsed(lines))["compiling"] == 4.5


def test_a_contender_without_an_end_is_refused(clock):
    progress, lines = progress_and_lines()
    progress.step(1)
    with pytest.raises(RuntimeError, match="end"):
        process.summary_of(parsed(lines))


def test_a_truncated_last_line_is_removed_and_the_runs_before_it_are_kept(tmp_path):
    path = tmp_path / "new" / "runs.jsonl"
    assert results.read_runs(path) == []
    runs = [make_run(OURS, seed, []) for seed in (0, 1)]
    results.append_run(path, runs[0])
    whole = path.read_text()
    path.write_text(whole + whole[:20])
    assert results.read_runs(path) == runs[:1]
    results.append_run(path, runs[1])
    assert results.read_runs(path) == runs


def test_a_finished_run_is_skipped_and_other_settings_are_refused():
    runs = [make_run(OURS, 0, [])]
    assert results.is_finished(runs, OURS, SIX, 0, SETTINGS)
    for key in (("other", SIX, 0), (OURS, SINGLE, 0), (OURS, SIX, 1)):
        assert not results.is_finished(runs, *key, SETTINGS)
    with pytest.raises(ValueError, match=r"'PPOMultiTask' on 'six bodies' with seed 0.*\(cap\).*--output"):
        results.is_finished(runs, OURS, SIX, 0, {**SETTINGS, "cap": 10.0})


def test_a_ratio_is_a_bound_if_the_other_has_not_passed():
    ours = make_run(OURS, 0, [[1000.0, 30.0, 5]])
    assert results.ratio(ours, make_run("SB3", 0, [[1000.0, 120.0, 5]]), 1000.0) == (0.25, False)
    assert results.ratio(ours, make_run("SB3", 0, []), 1000.0) == (0.1, True)
    assert math.isinf(results.ratio(ours, make_run("SB3", 0, []), 3000.0)[0])


def test_the_table_has_medians_ranges_and_ratios_of_the_faster_variant():
    runs = [make_run(OURS, seed, [[1000.0, seconds, 1000]]) for seed, seconds in enumerate((20.0, 40.0, 30.0))]
    runs += [make_run("SB3", seed, [[1000.0, 200.0, 1000]]) for seed in range(3)]
    one_thread = [[[1000.0, 100.0, 1000]], [[1000.0, 80.0, 1000]], []]
    runs += [make_run("SB3" + ONE_THREAD, seed, passed) for seed, passed in enumerate(one_thread)]
    lines = results.report(runs).splitlines()
    assert "| PPOMultiTask | 1000 | 3 of 3 | 30.0 [20.0, 40.0] | 25.0 [15.0, 35.0] | 1,000 [1,000, 1,000] |" in lines
    assert "| SB3, 1 torch thread | 1000 | 2 of 3 | 100.0 [80.0, -] | 95.0 [75.0, -] | 1,000 [1,000, -] |" in lines
    assert "| PPOMultiTask | 3000 | 0 of 3 | - | - | - |" in lines
    assert "| SB3 | 5.0 [5.0, 5.0] | - | 100 [100, 100] | 3100 [3100, 3100] | 0 [0, 0] |" in lines
    assert "| SB3, 1 torch thread | 1000 | at most 0.20 [0.10, 0.50] |" in lines
    assert not any(line.startswith("| SB3 | 1000 | ") and "0." in line.split("|")[3] for line in lines)


def test_contenders_have_names_of_their_own_and_no_peer_has_our_config():
    names = [(contender.name, contender.task) for contender in CONTENDERS]
    assert len(set(names)) == len(names)
    assert {task for name, task in names if name == OURS} == {SIX, SINGLE}
    assert not any(contender.is_peer and "{config}" in contender.arguments for contender in CONTENDERS)


def test_zoo_settings_are_rl_zoo3s():
    import rl_zoo3
    import yaml
    from torch import nn

    path = process.Path(rl_zoo3.__file__).parent / "hyperparams" / "ppo.yml"
    loader = yaml.UnsafeLoader  # the file of an installed package; it has tuples
    zoo = yaml.load(path.read_text(), Loader=loader)["HalfCheetah-v4"]  # noqa: S506
    policy = eval(zoo.pop("policy_kwargs"), {"nn": nn})  # noqa: S307
    assert policy == {**zoo_settings.POLICY_SETTINGS, "activation_fn": nn.ReLU}
    assert zoo.pop("normalize") is True
    assert (zoo.pop("n_envs"), zoo.pop("policy")) == (1, "MlpPolicy")
    del zoo["n_timesteps"]
    assert zoo == zoo_settings.SETTINGS


def test_a_config_of_another_algorithm_is_refused(tmp_path):
    path = tmp_path / "a2c.yml"
    path.write_text("tasks: [HalfCheetah-v5]\n")
    with pytest.raises(ValueError, match=r"a2c\.yml.*ppo.*'a2c_mt'"):
        ppo_config(str(path), 0)


def test_sb3_gets_all_settings_that_it_has_and_the_others_are_refused():
    config = load_config(TrainConfig, process.ROOT / "benchmarks" / "six_bodies_ppo.yml")
    arguments = sb3_arguments(config)
    assert (arguments["batch_size"], arguments["n_steps"], arguments["gae_lambda"]) == (256, 512, 0.92)
    assert arguments["learning_rate"](0.5) == 5e-4
    assert "task_schedule" not in arguments
    with pytest.raises(ValueError, match="desired_kl"):  # of PPOMultiTask alone
        sb3_arguments(make_config(TrainConfig, {"algo": "ppo", "algo_kwargs": {"desired_kl": 0.01}}))


def test_a_command_runs_what_is_missing_seed_by_seed_and_goes_on_after_a_failure(monkeypatch, tmp_path, capsys):
    calls, broken = [], {"SB3 PPO, same VecEnv and settings"}

    def run(contender, python, config, seed, settings):
        calls.append((seed, contender.name))
        assert (settings["window"], settings["cap"], config.name) == (20, 600.0, "six_bodies_ppo.yml")
        if contender.name in broken:
            raise RuntimeError("out of memory")
        return {name: fact for name, fact in make_run("", 0, []).items() if name in ("start_up", "passed", "end")}

    monkeypatch.setattr(time_to_score, "run", run)
    path = tmp_path / "runs.jsonl"
    command = ["--task", SIX, "--seeds", "4", "5", "--output", str(path)]
    names = [contender.name for contender in CONTENDERS if contender.task == SIX]
    with pytest.raises(SystemExit, match="2 of 6 runs failed"):
        time_to_score.main(command)
    assert calls == [(seed, name) for seed in (4, 5) for name in names]
    assert "out of memory" in capsys.readouterr().out
    broken.clear()
    calls.clear()
    with pytest.raises(SystemExit, match="^0$"):
        time_to_score.main(command)
    assert calls == [(seed, "SB3 PPO, same VecEnv and settings") for seed in (4, 5)]
    with pytest.raises(ValueError, match="window"):
        time_to_score.main([*command, "--window", "7"])


@pytest.mark.slow
@pytest.mark.parametrize("name", [OURS, "SB3 PPO, zoo settings, 8 envs"])
def test_a_contender_runs_and_stops_at_its_score(name):
    contender = next(c for c in CONTENDERS if (c.name, c.task) == (name, SINGLE))
    config = process.ROOT / "benchmarks" / "halfcheetah_ppo.yml"
    settings = {"scores": [-5000.0], "window": 1, "cap": 120.0}
    summary = process.run(contender, sys.executable, config, 3, settings)
    ((score, seconds, n_steps),) = summary["passed"]
    assert score == -5000
    assert 0 < summary["start_up"] < seconds <= summary["end"]["seconds"]
    assert 1000 <= n_steps <= 30_000
    assert summary["end"]["reason"] == "passed"


def test_a_contender_that_fails_is_reported_with_its_output():
    config = process.ROOT / "benchmarks" / "halfcheetah_ppo.yml"
    with pytest.raises(RuntimeError, match=r"(?s)it ended with exit code 1.*No module named .*nowhere"):
        process.run(Contender("it", SINGLE, "nowhere", ()), sys.executable, config, 0, SETTINGS)
    with pytest.raises(RuntimeError, match="first step"):  # a module without a program
        process.run(Contender("it", SINGLE, "progress", ()), sys.executable, config, 0, SETTINGS)


@pytest.mark.parametrize(
    ("printed", "expected"),
    [
        ([], {"start_up": 2.0, "passed": [], "n_steps": 0, "mean_return": None}),
        (
            [
                {"kind": "first step", "seconds": 0.2},
                {"kind": "passed", "score": 1000.0, "seconds": 0.3, "n_steps": 5},
                {"kind": "return", "seconds": 0.4, "n_steps": 6, "mean_return": 1500.0},
            ],
            {"start_up": 0.2, "passed": [[1000.0, 0.3, 5]], "n_steps": 6, "mean_return": 1500.0},
        ),
    ],
)
def test_a_contender_that_hangs_is_killed_and_what_it_printed_counts(monkeypatch, tmp_path, printed, expected):
    monkeypatch.setattr(process, "SECONDS_TO_STOP", 0.5)
    monkeypatch.setattr(process, "ROOT", tmp_path)
    folder = tmp_path / "benchmarks" / "contenders"
    folder.mkdir(parents=True)
    program = [f"print({PREFIX + json.dumps(line)!r}, flush=True)" for line in printed]
    (folder / "hangs.py").write_text("\n".join(["import time", *program, "time.sleep(600)"]))
    contender = Contender("it", SINGLE, "hangs", ())
    run = process.run(contender, sys.executable, tmp_path, 0, {**SETTINGS, "cap": 1.5})
    assert (run["end"]["reason"], run["end"]["seconds"]) == ("killed", 2.0)
    assert {**run, **run["end"]}.items() >= expected.items()
    assert results.report([{**make_run("it", 0, []), **run}])  # also without a step
