"""Success of episodes, as their steps say it, from the VecEnv to the files."""

import csv
import json
import re
import warnings
from functools import partial

import numpy as np
import own_envs  # noqa: F401 (registers environments)
import pytest
from helpers.drift import DriftEnv, ReachingEnv
from helpers.faulty import FaultyEnv
from helpers.killed_runs import monitor_rows, run
from helpers.models import weights_equal
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import Monitor, load_results
from typer.testing import CliRunner

import sb3_multitask as mt
from sb3_multitask.cli import app
from sb3_multitask.cli.output import console, results_table
from sb3_multitask.evaluation.episodes import TaskEpisodesCallback
from sb3_multitask.evaluation.results import TaskResult, TaskResults
from sb3_multitask.experiments import card, plot
from sb3_multitask.experiments.config import ConfigError, TrainConfig, make_config
from sb3_multitask.experiments.curves import read_success_rates
from sb3_multitask.experiments.report import write_report
from sb3_multitask.experiments.run_folder import RunFolder
from sb3_multitask.experiments.train import train_run
from sb3_multitask.vec_env.success import FAILED, NOT_SAID, SUCCEEDED, success_in, success_of

FIRST_STEP, GOES_BACK, NEVER = ((1,),), ((2, 3),), ((),)
"""Episodes of four steps that are successful in their first step; in their middle, and no longer at the end; never."""


def reaching(name="A", at=FIRST_STEP, **kwargs):
    return mt.Task(name, ReachingEnv, {"at": at, "horizon": 4, **kwargs})


def silent(name="B"):
    return mt.Task(name, DriftEnv, {"horizon": 4})


def ends(env, n_steps):
    """What the infos of ended episodes say of success, by task, over some steps."""
    said = {name: [] for name in env.unwrapped.task_names}
    for _ in range(n_steps):
        *_, infos = env.step(np.zeros((env.num_envs, 2)))
        for i in infos.ended:
            said[infos[i].get("task", "?")].append(infos[i].get("is_success"))
    return said


# What a step says


@pytest.mark.parametrize("key", ["is_success", "success"])
@pytest.mark.parametrize(
    ("yes", "no"),
    [
        (True, False),
        (np.True_, np.False_),
        (1, 0),
        (1.0, 0.0),
        (np.float32(1), np.float32(0)),
        (np.array(1.0), np.array(0.0)),
        (np.array([True]), np.array([False])),
        ([[1]], [[0]]),
    ],
)
def test_bools_zeros_and_ones_say_it(key, yes, no):
    assert (success_of({key: yes}), success_of({key: no})) == (SUCCEEDED, FAILED)


@pytest.mark.parametrize("value", ["yes", 0.3, 2, -1, np.nan, np.zeros(2), [[1], [1, 2]], {}, object(), 1j])
def test_other_values_of_sb3s_key_are_refused_and_of_the_common_word_ignored(value):
    assert success_of({"success": value}) == NOT_SAID
    with pytest.raises(ValueError, match="info.'is_success'. must be a bool, 0 or 1"):
        success_of({"is_success": value})


def test_none_says_nothing_and_sb3s_key_comes_first():
    assert success_of({}) == success_of({"is_success": None, "success": None}) == NOT_SAID
    assert success_of({"is_success": None, "success": True}) == SUCCEEDED
    assert success_of({"is_success": False, "success": True}) == FAILED
    columns = {"is_success": np.array([0, 1]), "success": np.array([1, 0])}
    assert success_in(columns).tolist() == [0, 1]
    assert success_in({"speed": np.zeros(2)}) is None
    assert success_in({"success": np.array([[1.0], [0.0]])}).tolist() == [1, 0]
    assert success_in({"success": np.array([0.5, 1.0])}).tolist() == [-1, 1]


@pytest.mark.parametrize("backend", ["dummy", "subproc"])
def test_an_error_names_the_task(backend):
    env = mt.MultiTaskVecEnv([silent("A"), reaching("B", NEVER, key="is_success", no=0.5)], 1, backend=backend)
    env.reset()
    with pytest.raises((ValueError, RuntimeError), match="must be a bool") as raised:
        env.step(np.zeros((2, 2)))
    assert "'B'" in str(raised.value) + str(getattr(raised.value, "__notes__", ""))
    env.close()


# Episodes


@pytest.mark.parametrize("key", ["is_success", "success"])
@pytest.mark.parametrize("terminate", [True, False])
@pytest.mark.parametrize("kwargs", [{"backend": "dummy"}, {"backend": "subproc", "start_method": "fork"}])
def test_an_episode_is_successful_if_any_step_is(kwargs, terminate, key):
    several = ((1,), (), (4,), ())
    tasks = [
        reaching(name, at, key=key, terminate=terminate)
        for name, at in (("first", FIRST_STEP), ("back", GOES_BACK), ("never", NEVER), ("a, b", several))
    ]
    env = mt.MultiTaskVecEnv([*tasks, silent()], 2, seed=0, **kwargs)
    env.reset()
    assert ends(env, 16) == {
        "first": [True] * 8,
        "back": [True] * 8,
        "never": [False] * 8,
        "a, b": [True, True, False, False, True, True, False, False],
        "B": [None] * 8,
    }
    env.close()


def test_infos_before_an_episodes_end_stay_as_the_environment_gave_them():
    env = mt.MultiTaskVecEnv([reaching(at=GOES_BACK, key="is_success"), reaching("B", key="success")], 1)
    env.reset()
    said = [env.step(np.zeros((2, 2)))[3] for _ in range(4)]
    assert [info["is_success"] for info, _ in said] == [False, True, True, True]
    assert ["is_success" in info for _, info in said] == [False, False, False, True]
    assert [info["success"] for _, info in said] == [True, False, False, False]


def test_a_reset_forgets_the_running_episode_and_a_task_view_counts_its_own():
    env = mt.MultiTaskVecEnv([reaching("A", ((1,), ())), reaching("B")], 1)
    env.reset()
    env.step(np.zeros((2, 2)))
    env.reset()
    assert ends(env, 4) == {"A": [False], "B": [True]}
    view = env.task_view(1)
    assert ends(view, 4) == {"A": [], "B": [True]}


def test_an_environment_that_says_success_alone_has_none_where_it_says_nothing():
    """Before it has ever said it, nobody knows that it could."""
    env = mt.MultiTaskVecEnv([reaching(at=((), (2,), ()), no="nothing")], 1)
    env.reset()
    assert ends(env, 12) == {"A": [None, True, False]}


class SuccessfulFault(FaultyEnv):
    def step(self, action):
        *step, info = super().step(action)
        return *step, {**info, "is_success": not np.isfinite(step[0]).all()}


def test_the_success_of_a_quarantined_step_does_not_count():
    env = mt.MultiTaskVecEnv([mt.Task("A", SuccessfulFault, {"kind": "nan_obs"})], 1, on_fault="quarantine", seed=0)
    env.reset()
    said = [step for _ in range(60) for step in env.step(np.zeros((1, 2)))[3]]
    assert any("fault" in info for info in said)
    assert not any("is_success" in info for info in said if "fault" in info)
    assert {info["is_success"] for info in said if "episode" in info} == {False}


# Monitor files


def rows_of(path):
    return [line.split(",") for line in path.read_text().splitlines()[1:]]


def test_monitor_files_have_a_column_where_the_environment_says_it(tmp_path):
    tasks = [reaching("a, b", ((1,), ())), silent()]
    env = mt.MultiTaskVecEnv(tasks, 1, monitor_dir=tmp_path)
    env.reset()
    ends(env, 12)
    frame = load_results(str(tmp_path))
    said = {task: rows.is_success.tolist() for task, rows in frame.groupby("task")}
    assert said["a, b"] == [1, 0, 1]
    assert np.isnan(said["B"]).all()
    assert rows_of(tmp_path / "1.monitor.csv")[0] == ["r", "l", "t", "task"]


def test_the_column_comes_with_the_first_episode_that_says_it(tmp_path):
    env = mt.MultiTaskVecEnv([reaching(at=((), (2,), ()), no="nothing")], 1, monitor_dir=tmp_path)
    env.reset()
    ends(env, 4)
    header, row = rows_of(tmp_path / "0.monitor.csv")
    assert header == ["r", "l", "t", "task"]
    ends(env, 8)
    wide_header, *rows = rows_of(tmp_path / "0.monitor.csv")
    assert wide_header == [*header, "is_success"]
    assert rows[0] == [*row, ""]
    assert [cells[-1] for cells in rows[1:]] == ["1", "0"]
    assert not list(tmp_path.glob(".*"))


def test_a_file_that_was_removed_begins_with_the_column(tmp_path):
    env = mt.MultiTaskVecEnv([reaching()], 1, monitor_dir=tmp_path)
    env.reset()
    (tmp_path / "0.monitor.csv").unlink()
    ends(env, 4)
    assert load_results(str(tmp_path)).is_success.tolist() == [1]


@pytest.mark.parametrize("second", [reaching(), silent("A")], ids=["says", "silent"])
@pytest.mark.parametrize("first", [reaching(), silent("A")], ids=["said", "was silent"])
def test_rows_are_appended_to_files_of_either_kind(tmp_path, first, second):
    for task in (first, second):
        env = mt.MultiTaskVecEnv([task], 1, monitor_dir=tmp_path, override_existing=False)
        env.reset()
        ends(env, 8)
    _, *rows = rows_of(tmp_path / "0.monitor.csv")
    saying = [task.env_id is ReachingEnv for task in (first, second) for _ in range(2)]
    assert [len(row) for row in rows] == [4 + any(saying)] * 4
    if any(saying):
        assert [row[4] for row in rows] == ["1" if says else "" for says in saying]


def test_files_of_an_earlier_run_with_the_column_are_replaced(tmp_path):
    for n_envs, task in ((2, reaching()), (1, silent("A"))):
        env = mt.MultiTaskVecEnv([task], n_envs, monitor_dir=tmp_path)
        env.reset()
        if n_envs == 1:
            with pytest.warns(UserWarning, match="earlier run"):
                ends(env, 1)
        ends(env, 7)
    assert [path.name for path in tmp_path.iterdir()] == ["0.monitor.csv"]
    assert rows_of(tmp_path / "0.monitor.csv")[0] == ["r", "l", "t", "task"]


# State


@pytest.mark.parametrize("n_before", [2, 5, 6])
@pytest.mark.parametrize("no", [False, "nothing"])
def test_the_success_of_the_running_episode_is_part_of_the_state(tmp_path, no, n_before):
    """Successful in the first step, stopped after it: the resumed episode is as successful as the uninterrupted one.

    The file has no column yet at the checkpoint if no episode has ended, or none that said anything.
    """
    make = partial(mt.MultiTaskVecEnv, [reaching(at=((), (1,), ()), no=no)], 1, seed=0, monitor_dir=tmp_path)
    env = make()
    env.reset()
    ends(env, n_before)
    state = env.get_state()
    expected = ends(env, 11)
    files = without_time(tmp_path / "0.monitor.csv")
    resumed = make()
    resumed.set_state(state)
    assert ends(resumed, 11) == expected
    assert without_time(tmp_path / "0.monitor.csv") == files


def without_time(path):
    return [row[:2] + row[3:] for row in rows_of(path)]


def test_a_state_of_an_earlier_version_counts_from_there():
    make = partial(mt.MultiTaskVecEnv, [reaching(), reaching("B", GOES_BACK)], 1, seed=0)
    env = make()
    env.reset()
    ends(env, 1)
    state = env.get_state()
    for name in ("successes", "with_success"):
        del state["monitor"][name]
    env = make()
    env.set_state(state)
    assert ends(env, 3) == {"A": [False], "B": [True]}


# What SB3 makes of it


def test_sb3s_own_algorithms_count_episodes_with_any_success():
    env = mt.MultiTaskVecEnv([reaching(at=GOES_BACK), reaching("B", NEVER), silent("C")], 1, seed=0)
    model = PPO("MultiInputPolicy", env, n_steps=8, batch_size=8, device="cpu").learn(24)
    assert list(model.ep_success_buffer) == [True, False] * 2


def test_a_monitor_inside_the_task_changes_nothing():
    env = mt.MultiTaskVecEnv([mt.Task("A", lambda: Monitor(reaching(at=GOES_BACK).make()))], 1)
    env.reset()
    assert ends(env, 8) == {"A": [True, True]}


# Training and evaluation


def tasks():
    """A is always successful, "b, c" in two of four episodes, and D says nothing.

    A round of an evaluation takes two episodes of a copy, the second of which it does not play to its end.
    """
    return [reaching(), reaching("b, c", ((2,), (2,), (), ())), silent("D")]


def make_model(algorithm=mt.A2CMultiTask, n_envs=2, **kwargs):
    env = mt.make_multitask_vec_env(tasks(), n_envs, seed=0)
    return algorithm("MultiTaskMlpPolicy", env, n_steps=8, seed=0, device="cpu", **kwargs)


def log_of(folder, model, callback=None, n_steps=480):
    model.set_logger(configure(str(folder), ["csv"]))
    model.learn(n_steps, callback, log_interval=1)
    model.logger.close()
    return list(csv.DictReader((folder / "progress.csv").read_text().splitlines()))


@pytest.mark.parametrize("schedule", ["joint", "cycle"])
@pytest.mark.parametrize("engine", ["fast", "torch"])
def test_the_log_has_a_rate_of_each_task_that_says_success(tmp_path, engine, schedule):
    model = make_model(engine=engine, task_schedule=schedule)
    *_, row = log_of(tmp_path, model)
    assert float(row["rollout/A/success_rate"]) == 1
    assert float(row["rollout/b, c/success_rate"]) == 0.5
    assert "rollout/D/success_rate" not in row
    assert float(row["rollout/success_rate"]) == 0.75
    assert set(model.ep_success_buffer) == {True, False}


def test_sb3s_own_algorithms_log_it_with_the_callback(tmp_path):
    env = mt.make_multitask_vec_env(tasks(), 2, seed=0)
    model = PPO(mt.MultiTaskActorCriticPolicy, env, n_steps=8, batch_size=48, device="cpu")
    *_, row = log_of(tmp_path, model, TaskEpisodesCallback())
    assert float(row["rollout/b, c/success_rate"]) == 0.5
    assert "rollout/D/success_rate" not in row


def test_an_evaluation_counts_successful_episodes():
    results = mt.evaluate_tasks(make_model(), n_eval_episodes=4)
    assert (results["A"].success_rate, results["A"].episode_successes) == (1, (True,) * 4)
    assert (results["D"].success_rate, results["D"].episode_successes) == (None, None)
    table = str(results).splitlines()
    assert table[0].endswith("  success")
    assert table[1].endswith("100%")
    assert table[3].split()[-1] == "4.0"
    results = mt.evaluate_tasks(make_model(), mt.MultiTaskVecEnv(tasks(), 1), n_eval_episodes=4)
    assert results["b, c"].episode_successes == (True, False, True, False)
    assert str(results).splitlines()[-1].endswith("75%")  # the mean of 100% and 50%
    assert "success" not in str(TaskResults(D=results["D"]))


def test_an_episode_that_is_cut_was_successful_if_it_has_been_so_far():
    endless = [reaching("A", ((2,),), horizon=10**9), reaching("B", ((9,),), horizon=10**9)]
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", mt.make_multitask_vec_env(endless, 1), device="cpu")
    with pytest.warns(UserWarning, match="did not end"):
        results = mt.evaluate_tasks(model, n_eval_episodes=1, max_episode_steps=5)
    assert [result.success_rate for result in results.values()] == [1, 0]


def test_of_an_environment_that_says_success_alone_all_episodes_count():
    alone = [reaching("A", ((), (), (2,), *[()] * 5), no="nothing")]
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", mt.make_multitask_vec_env(alone, 1), device="cpu")
    assert mt.evaluate_tasks(model, mt.MultiTaskVecEnv(alone, 1), 4)["A"].success_rate == 0.25


def test_results_go_through_json():
    for result in (TaskResult.of([(1.0, 2), (3.0, 4)], [True, None]), TaskResult.of([(1.0, 2)], [None])):
        assert TaskResult.from_json(json.loads(json.dumps(result.to_json()))) == result
    assert TaskResult.of([(1.0, 2)]).to_json().keys() == {
        *("mean_reward", "std_reward", "episode_rewards", "episode_lengths")
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"episode_successes": [1, 0]}, "not true or false"),
        ({"episode_successes": [True]}, "shorter"),
        ({"success_rate": 0.75}, "its success_rate of 0.75 is not that"),
        ({"episode_successes": None}, "its success_rate of 0.5 is not that"),
    ],
)
def test_damaged_successes_are_refused(change, message):
    fields = json.loads(json.dumps(TaskResult.of([(1.0, 2), (3.0, 4)], [True, False]).to_json()))
    with pytest.raises(ValueError, match=message):
        TaskResult.from_json(fields | change)


def make_callback(folder=None, these=None, **kwargs):
    env = mt.MultiTaskVecEnv(these or tasks(), 1, seed=7)
    arguments = {"n_eval_episodes": 2, "eval_freq": 48, "verbose": 0, **kwargs}
    return mt.MultiTaskEvalCallback(env, log_path=folder, best_model_save_path=folder, **arguments)


def test_the_callback_logs_and_writes_it(tmp_path, capsys):
    callback = make_callback(tmp_path, verbose=1)
    row = next(row for row in log_of(tmp_path, make_model(), callback, 96) if row["eval/mean_reward"])
    assert (float(row["eval/A/success_rate"]), float(row["eval/b, c/success_rate"])) == (1, 0.5)
    assert float(row["eval/success_rate"]) == 0.75
    assert "eval/D/success_rate" not in row
    assert "success rate=0.75" in capsys.readouterr().out
    with np.load(tmp_path / "evaluations.npz") as data:
        assert data["successes"].dtype == bool
        assert data["successes"].tolist() == [[True, True, True, False]] * 2  # two tasks of two episodes
        said = data["task_successes"]
        np.testing.assert_array_equal(said, [[[1, 1], [1, 0], [np.nan, np.nan]]] * 2)
    assert np.array_equal(callback.evaluations_successes, [[True, True, True, False]] * 2)
    rates = read_success_rates(tmp_path / "evaluations.npz")
    assert {task: values.tolist() for task, (_, values) in rates.items()} == {"A": [1, 1], "b, c": [0.5, 0.5]}
    assert rates["A"][0].tolist() == [16, 32]  # steps of this task


def test_without_success_files_and_log_are_as_before(tmp_path):
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", mt.make_multitask_vec_env([silent()], 1), device="cpu")
    *_, row = log_of(tmp_path, model, make_callback(tmp_path, [silent()], eval_freq=20), 40)
    assert not [key for key in row if "success" in key]
    with np.load(tmp_path / "evaluations.npz") as data:
        assert not [key for key in data if "success" in key]
    assert read_success_rates(tmp_path / "evaluations.npz") == {}


def test_a_task_that_says_it_in_some_evaluations_only(tmp_path):
    late = [reaching("A", (*[()] * 4, (2,), *[()] * 3), no="nothing")]
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", mt.make_multitask_vec_env(late, 1), n_steps=4, device="cpu")
    model.learn(8, make_callback(tmp_path, late, eval_freq=4))
    with np.load(tmp_path / "evaluations.npz") as data:
        np.testing.assert_array_equal(data["successes"], [[np.nan, np.nan], [1, 0]])
    (curve,) = read_success_rates(tmp_path / "evaluations.npz").values()
    assert [part.tolist() for part in curve] == [[8], [0.5]]


def test_evaluations_resume_with_their_successes(tmp_path):
    first, second = make_callback(tmp_path), make_callback(tmp_path)
    model = make_model().learn(48, first)
    second.set_state(first.get_state())
    assert second.evaluations_tasks == first.evaluations_tasks
    assert second.evaluations_successes == first.evaluations_successes
    model.learn(48, second)
    with np.load(tmp_path / "evaluations.npz") as data:
        assert data["successes"].shape == (2, 4)


def test_the_best_model_by_success_is_the_first_of_the_most_successful():
    """Evaluations of two episodes: 0, 1/2, 1, 1/2, 1 for B, and A has none."""
    at = tuple((1,) if i in (4, 8, 10, 12, 16, 18) else () for i in range(20))
    these = [reaching("A", NEVER), reaching("B", at)]
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", mt.make_multitask_vec_env(these, 1), n_steps=4, device="cpu")
    found = []

    class Found(BaseCallback):
        def _on_step(self):
            found.append((self.num_timesteps, callback.best_mean_reward))
            return True

    callback = make_callback(None, these, score="success", eval_freq=8, callback_on_new_best=Found())
    model.learn(40, callback)
    assert found == [(8, 0), (16, 0.25), (24, 0.5)]


def test_a_score_of_success_needs_a_task_that_says_it():
    these = [silent()]
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", mt.make_multitask_vec_env(these, 1), device="cpu")
    with pytest.raises(ValueError, match="`score` is 'success', and no task says"):
        model.learn(20, make_callback(None, these, score="success", eval_freq=5))


@pytest.mark.parametrize("schedule", ["joint", "cycle"])
@pytest.mark.parametrize("engine", ["fast", "torch"])
@pytest.mark.parametrize("step", [250, 430])
def test_resume_is_exact_in_the_middle_of_a_successful_episode(tmp_path, step, engine, schedule):
    these = [reaching(name, at, horizon=40) for name, at in (("A", ((1,), ())), ("B", ((), (30,))))]
    kwargs = {"tasks": these, "total": 600, "engine": engine, "task_schedule": schedule}
    a, b = tmp_path / "a", tmp_path / "b"
    uninterrupted = run(a, **kwargs)
    run(b, step, **kwargs)
    resumed = run(b, **kwargs)
    assert weights_equal(uninterrupted, resumed)
    assert list(uninterrupted.ep_success_buffer) == list(resumed.ep_success_buffer)
    assert uninterrupted.task_ep_info_buffers["A"][-1]["success"] in (0, 1)
    assert monitor_rows(a) == monitor_rows(b)
    assert "is_success" in (b / "monitor/0.monitor.csv").read_text()


# Runs, reports and commands


def reaching_run(root, seed=0, **settings):
    """A finished run of a task that is always successful, of one that never is, and of one that says nothing."""
    folder = RunFolder(root / "p" / "reach" / f"seed_{seed}")
    folder.path.mkdir(parents=True)
    given = {
        "tasks": {"reach, here": "Own/Reach-v0", "miss": "Own/Miss-v0", "arm": "Own/Arm-v0"},
        "n_envs_per_task": 1,
        "eval_freq": 100,
    }
    given |= {"n_timesteps": 200, "n_eval_episodes": 4, "eval_episodes": 2, "backend": "dummy", "seed": seed}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "A run that resumes from a checkpoint")
        train_run(make_config(TrainConfig, {**given, **settings}), folder)
    return folder


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    root = tmp_path_factory.mktemp("runs")
    for seed in (0, 1):
        reaching_run(root, seed, score="success")
    return root


def test_a_run_keeps_its_best_model_by_success(runs):
    folder = RunFolder(runs / "p/reach/seed_0")
    assert (folder.path / "best_model.zip").exists()
    content = json.loads(folder.results.read_text())
    assert content["after"]["reach, here"]["success_rate"] == 1
    assert content["after"]["miss"]["success_rate"] == 0
    assert "success_rate" not in content["after"]["arm"]
    assert folder.read_results()["after"]["reach, here"].episode_successes is not None


def test_a_run_by_success_is_refused_before_its_training_if_no_task_says_it(tmp_path):
    with pytest.raises(ConfigError, match="score: `score` is 'success', and no task says"):
        reaching_run(tmp_path, tasks=["Own/Arm-v0"], score="success")


def test_a_report_has_a_table_and_a_chart_of_success(runs, tmp_path):
    write_report(runs, tmp_path / "first", with_clips=False)
    _, header, *rows = csv.reader(["", *(tmp_path / "first" / "success_p.csv").read_text().splitlines()])
    assert header == ["run", "task", "before, %", "after, %", "seeds"]
    expected = {"reach, here": "100 [100, 100]", "miss": "0 [0, 0]", "mean": "50 [50, 50]"}
    assert rows == [["reach", task, cell, cell, "2"] for task, cell in expected.items()]
    page = (tmp_path / "first" / "report.html").read_text()
    assert "<section id='success_p'>" in page
    assert "<figure id='success_curves_reach'>" in page
    assert "success rate, deterministic episodes" in (tmp_path / "first" / "success_curves_reach.svg").read_text()
    write_report(tmp_path / "first" / "data", tmp_path / "second", with_clips=False)
    for name in ("success_p.csv", "success_curves_reach.svg"):
        assert (tmp_path / "first" / name).read_bytes() == (tmp_path / "second" / name).read_bytes()


def test_success_rates_are_plotted(runs, tmp_path, monkeypatch):
    drawn = {}
    monkeypatch.setattr(plot, "draw_learning_curves", lambda *arguments: drawn.update(arguments=arguments))
    plot.plot_runs([runs / "p/reach/seed_0"], tmp_path / "c.png", "success")
    (curves,), tasks, *_, y_label = drawn["arguments"][0].values(), *drawn["arguments"][1:]
    assert (tasks, y_label) == (["reach, here", "miss"], "success rate")
    assert set(curves.training["reach, here"][1]) == {1}
    assert [curve[1].tolist() for curve in curves.evaluations.values()] == [[1, 1], [0, 0]]
    (tmp_path / "nothing").mkdir()
    with pytest.raises(FileNotFoundError, match="no task says success"):
        plot.plot_runs([tmp_path / "nothing"], tmp_path / "c.png", "success")


def test_a_card_says_it(runs, tmp_path):
    card.write_card(runs / "p/reach/seed_0", tmp_path, clips=False)
    text = (tmp_path / "README.md").read_text()
    assert "| task | environment | return | untrained | success | episodes |" in text
    assert re.search(r"\| reach, here \|.*\| 100% \| 4 \|", text)
    assert re.search(r"\| arm \|.*\| - \| 4 \|", text)
    assert text.count("name: success_rate") == 2


def invoke(*arguments):
    done = CliRunner().invoke(app, [*map(str, arguments)], env={"COLUMNS": "120"})
    assert done.exit_code == 0, done.output
    return done.output


def test_commands_print_it(runs):
    folder = runs / "p/reach/seed_0"
    output = invoke("evaluate", folder, "--n-eval-episodes", 4)
    assert re.search(r"return.*success", output)
    assert re.search(r"reach, here.*±.* 100%", output)
    assert "%" not in next(line for line in output.splitlines() if "arm" in line)
    output = invoke("enjoy", folder, "--no-render", "--n-steps", 12)
    told = [line.rpartition("steps")[2] for line in output.splitlines() if line.startswith("Task reach, here")]
    assert told == [", success"] * 3
    assert output.count(", no success") == 3
    assert re.search(r"reach, here: .* \(3\), success 100%", output)
    assert re.search(r"miss: .* \(3\), success 0%", output)
    assert all("success" not in line for line in output.splitlines() if "arm" in line)


def test_a_table_of_two_stages_has_success_of_each(capsys):
    results = {stage: {"A": TaskResult.of([(1.0, 2)], [True])} for stage in ("before", "after")}
    console.print(results_table(results, "t"))
    assert re.search("before.*success before.*after.*success after", capsys.readouterr().out)
