"""A hundred tasks: what people read shows the ten lowest and the ten highest, and files hold all."""

import csv
import io
import json
import math
import re

import numpy as np
import pytest
from helpers.drift import DriftEnv
from rich.console import Console
from stable_baselines3 import PPO
from stable_baselines3.common.logger import HumanOutputFormat, Logger, configure

import sb3_multitask as mt
from sb3_multitask.algorithms.task_table import TaskTableFormat
from sb3_multitask.cli import output
from sb3_multitask.evaluation.results import TaskResult, TaskResults
from sb3_multitask.evaluation.tensorboard import chart_layout, hyper_parameters
from sb3_multitask.experiments import curves as curves_module
from sb3_multitask.experiments.curves import RunCurves, draw_learning_curves
from sb3_multitask.experiments.progress import make_logger
from sb3_multitask.experiments.report.any_grid import all_runs, gains
from sb3_multitask.experiments.report.tables import Table, brief_rows
from sb3_multitask.many_tasks import gap, listed, shown_tasks, shown_words
from sb3_multitask.storage.csv_log import QuotedCSVOutputFormat

N = 100
NAMES = [f"T{i:03d}" for i in range(N)]
RANKED = [f"T{37 * i % N:03d}" for i in range(N)]
"""All names in another order, from the lowest return to the highest."""
RETURNS = {name: float(RANKED.index(name)) for name in NAMES}
SHOWN = [*RANKED[:10], *RANKED[-10:]]


def many_tasks(n=N, horizon=5):
    return [mt.Task(f"T{i:03d}", DriftEnv, {"target": i / n, "horizon": horizon}) for i in range(n)]


def model_of(tasks, algorithm=mt.A2CMultiTask, **kwargs):
    env = mt.make_multitask_vec_env(tasks, 1, seed=0)
    kwargs = {"n_steps": 5, "seed": 0, "device": "cpu", **kwargs}
    kwargs |= {} if algorithm is mt.A2CMultiTask else {"batch_size": 100}
    return algorithm("MultiTaskMlpPolicy" if algorithm is not PPO else mt.MultiTaskActorCriticPolicy, env, **kwargs)


def tables_in(text):
    """Each table of a log as group -> names of tasks in it."""
    tables = []
    for table in re.split(r"\n(?=-+\n\| \w)", text):
        group, found = "", {}
        for line in table.splitlines():
            if heading := re.match(r"\| (\w+)/ ", line):
                group = heading[1]
                found[group] = set()
            elif row := re.match(r"\|    (T\d{3})/", line):
                found[group].add(row[1])
        tables.append(found)
    return [table for table in tables if table]


# Which tasks


def test_up_to_twenty_are_all_shown_in_their_order():
    few = {name: RETURNS[name] for name in NAMES[:20]}
    assert shown_tasks(few) == NAMES[:20]
    assert shown_words(20) == ""


def test_of_more_the_ten_lowest_and_the_ten_highest_are_shown():
    assert shown_tasks(RETURNS) == SHOWN
    twenty_one = {name: RETURNS[name] for name in NAMES[:21]}
    assert len(set(shown_tasks(twenty_one))) == 20
    assert gap(21) == "... 1 tasks between ..."
    assert shown_words(N) == "the 10 tasks with the lowest and the 10 with the highest return, of 100"
    assert listed(NAMES) == f"{', '.join(NAMES[:10])} and 90 more"


def test_a_return_that_is_not_a_number_is_the_lowest():
    assert shown_tasks({**RETURNS, RANKED[50]: math.nan})[0] == RANKED[50]


# The log


def write(values, tasks=NAMES, others=()):
    file = io.StringIO()
    table = TaskTableFormat(file)
    logger = configure(None, [])
    logger.output_formats = [table, *others]
    table.know_tasks(tasks, logger)
    table.write(values, dict.fromkeys(values, ("",)))
    return file.getvalue()


def test_each_group_of_the_table_is_ranked_by_its_own_returns():
    values = {f"rollout/{name}/ep_rew_mean": value for name, value in RETURNS.items()}
    values |= {f"rollout/{name}/ep_len_mean": 5.0 for name in NAMES}
    values |= {f"eval/{name}/mean_reward": -abs(value - 50.2) for name, value in RETURNS.items()}
    values |= {f"train/{name}/std": 1.0 for name in NAMES}
    values |= {"rollout/ep_rew_mean": 49.5, "train/std": 1.0, f"faults/{RANKED[50]}": 3}
    text = write(values)
    (shown,) = tables_in(text)
    assert shown["rollout"] == set(SHOWN)
    assert shown["eval"] == {*RANKED[:6], *RANKED[-4:], *RANKED[46:56]}
    assert shown["eval"] != shown["rollout"]
    assert shown["train"] == set()
    assert re.search(r"\|    ep_rew_mean +\| 49.5", text)
    assert re.search(rf"\|    {RANKED[50]} +\| 3", text)  # a fault is never left out
    assert text.count("ep_len_mean") == 20


def test_the_line_below_says_how_many_are_left_out_and_where_all_are(tmp_path):
    values = {f"rollout/{name}/ep_rew_mean": value for name, value in RETURNS.items()}
    for formats, where in ([], "in no file; pass `tensorboard_log`"), (["csv", "log"], "progress.csv"):
        logger = configure(str(tmp_path), formats)
        last = write(values, others=logger.output_formats).splitlines()[-1]
        assert last.startswith(f"The table leaves out all but {shown_words(N)}; all are ")
        assert where in last
        logger.close()
    assert "log.txt" in last


def test_before_the_first_episode_the_line_says_that_there_are_no_returns():
    text = write({"train/std": 1.0, **{f"train/{name}/std": 1.0 for name in NAMES}})
    assert "T000" not in text
    assert text.splitlines()[-1].startswith(
        "The table leaves out its 100 tasks, which have no return yet; all are in no "
    )


def test_few_tasks_have_sb3s_own_table():
    values = {f"rollout/{name}/ep_rew_mean": RETURNS[name] for name in NAMES[:20]}
    values |= {f"train/{name}/std": 1.0 for name in NAMES[:20]}
    theirs = io.StringIO()
    HumanOutputFormat(theirs).write(values, dict.fromkeys(values, ("",)))
    assert write(values) == theirs.getvalue()


def test_names_with_slashes_are_found():
    names = [f"My/{name}-v0" for name in NAMES]
    values = {f"rollout/{name}/ep_rew_mean": float(i) for i, name in enumerate(names)}
    values |= {f"eval/on_other/{name}/mean_reward": float(i) for i, name in enumerate(names)}
    text = write(values, names)
    assert text.count("My/T000-v0/ep_rew_mean") == text.count("My/T000-v0/mean_reward") == 1
    assert "My/T050" not in text


@pytest.mark.parametrize("algorithm", [mt.A2CMultiTask, mt.PPOMultiTask, PPO])
def test_stdout_is_short_and_the_values_are_all_there(capsys, algorithm):
    tasks = many_tasks()
    model = model_of(tasks, algorithm, verbose=1)
    evaluation = mt.MultiTaskEvalCallback(mt.MultiTaskVecEnv(tasks, 1), n_eval_episodes=1, eval_freq=500, verbose=0)
    capsys.readouterr()
    model.learn(1000, [evaluation, *([mt.TaskEpisodesCallback()] if algorithm is PPO else [])], log_interval=1)
    printed = capsys.readouterr().out
    tables = tables_in(printed)
    assert len(tables) >= 3
    assert all(len(names) in (0, 20) for table in tables for names in table.values())
    assert {"rollout", "eval"} == {group for table in tables for group, names in table.items() if names}
    assert printed.count("The table leaves out") == len(tables)
    assert set(evaluation.evaluations_tasks[-1]) == set(NAMES)
    if algorithm is not PPO:
        assert len([key for key in model.logger.name_to_value if key.endswith("/value_loss")]) == N + 1
    model.env.close()


def test_a_logger_of_ones_own_keeps_everything(capsys, tmp_path):
    model = model_of(many_tasks())
    model.set_logger(configure(str(tmp_path), ["stdout"]))
    capsys.readouterr()
    model.learn(500, log_interval=1)
    printed = capsys.readouterr().out
    assert all(f"{name}/ep_rew_mean" in printed for name in NAMES)
    assert "leaves out" not in printed
    model.env.close()


def test_files_keep_all(capsys, tmp_path):
    tasks = many_tasks()
    model = model_of(tasks)
    model.set_logger(make_logger(tmp_path / "progress.csv", ["stdout", "json", "log"], 0))
    evaluation = mt.MultiTaskEvalCallback(
        mt.MultiTaskVecEnv(tasks, 1), n_eval_episodes=1, eval_freq=500, verbose=0, log_path=tmp_path
    )
    model.learn(1000, evaluation, log_interval=1)
    model.logger.close()
    assert f"leaves out all but {shown_words(N)}; all are in {tmp_path / 'progress.csv'}" in capsys.readouterr().out
    expected = {f"{group}/{name}" for group in ("rollout", "eval", "train") for name in NAMES}
    header = next(csv.reader(io.StringIO((tmp_path / "progress.csv").read_text())))
    json_keys = {key for line in (tmp_path / "progress.json").read_text().splitlines() for key in json.loads(line)}
    for keys in (header, json_keys):
        assert expected <= {key.rpartition("/")[0] for key in keys}
    assert all(f"   {name}/ep_rew_mean" in (tmp_path / "log.txt").read_text() for name in NAMES)
    with np.load(tmp_path / "evaluations.npz") as arrays:
        assert arrays["task_names"].tolist() == NAMES
        assert arrays["task_results"].shape == (2, N, 1)
    model.env.close()


def test_the_csv_finds_a_new_column_among_many(tmp_path):
    with (tmp_path / "a.csv").open("w+") as file:
        log = QuotedCSVOutputFormat(file)
        log.write(dict.fromkeys(NAMES, 1.0), dict.fromkeys(NAMES, ()))
        log.write({"new": 2.0, NAMES[3]: 3.0}, {"new": (), NAMES[3]: ()})
    (*_, last) = csv.DictReader(io.StringIO((tmp_path / "a.csv").read_text()))
    assert {key: value for key, value in last.items() if value} == {"new": "2.0", NAMES[3]: "3.0"}


def test_an_update_calls_the_logger_as_often_with_many_tasks_as_with_few(monkeypatch):
    recorded, record = [], Logger.record

    def counted(self, key, *rest, **kwargs):
        recorded.append(key)
        record(self, key, *rest, **kwargs)

    monkeypatch.setattr(Logger, "record", counted)
    calls = []
    for n in (2, N):
        model = model_of(many_tasks(n))
        recorded.clear()
        model.learn(10 * n, log_interval=None)
        calls.append(len(recorded))
        model.env.close()
    assert calls[0] == calls[1] > 0


# TensorBoard


def test_charts_have_at_most_twenty_lines_and_every_task_is_in_one():
    model = model_of(many_tasks())
    layout = chart_layout(model, NAMES, ["eval"])
    for group, key in [("rollout", "ep_rew_mean"), ("train", "value_loss"), ("eval", "mean_reward")]:
        charts = {title: tags for title, (_, tags) in layout[group].items() if title.startswith(f"{key}, tasks")}
        assert next(iter(charts)) == f"{key}, tasks 1 to 20"
        assert all(len(tags) <= 20 for tags in charts.values())
        assert [tag for tags in charts.values() for tag in tags] == [f"{group}/{name}/{key}" for name in NAMES]
    assert layout["rollout"]["ep_rew_mean, of all tasks"][1] == ["rollout/ep_rew_mean"]
    assert layout["eval"]["mean_reward, of all tasks"][1] == ["eval/mean_reward", "eval/worst_task_reward"]
    assert hyper_parameters(model, NAMES)["tasks"] == f"{', '.join(NAMES[:10])} and 90 more"
    model.env.close()


def test_charts_of_twenty_tasks_are_as_they_were():
    layout = chart_layout(model_of(many_tasks(20)), NAMES[:20], ["eval"])
    assert list(layout["eval"]) == ["mean_reward", "mean_ep_length"]
    assert len(layout["rollout"]["ep_rew_mean"][1]) == 20


# Tables and figures


def results_of(returns=RETURNS):
    return TaskResults({name: TaskResult.of([(value, 5), (value + 2, 5)]) for name, value in returns.items()})


def test_printed_results_show_the_extremes_and_the_mean_of_all():
    lines = str(results_of()).splitlines()
    assert [line.split()[0] for line in lines[1:11]] == RANKED[:10]
    assert lines[11] == "... 80 tasks between ..."
    assert [line.split()[0] for line in lines[12:22]] == RANKED[-10:]
    assert lines[22].split() == ["mean", "over", "tasks", "50.5"]
    assert len(lines) == 23


def test_the_command_lines_table_is_ranked_by_the_last_moment():
    before = results_of({name: -value for name, value in RETURNS.items()})
    console = Console(width=200, file=io.StringIO())
    console.print(output.results_table({"before": before, "after": results_of()}, "title", "all are in results.json"))
    text = console.file.getvalue()
    found = re.findall(r"T\d{3}", text)
    assert found == SHOWN
    assert "80 tasks between" in text
    assert f"{shown_words(N)}; all are in results.json" in " ".join(text.split())
    assert re.search(r"mean over tasks.*-48\.5.*50\.5", text)


def test_a_report_table_shows_the_extremes_and_its_csv_has_all(tmp_path):
    rows = {name: ["run", name, f"{value:.0f}"] for name, value in RETURNS.items()}
    table = Table("t", "T", "note", ["run", "task", "r"], list(rows.values()), brief_rows(rows, RETURNS, column=1))
    table.write(tmp_path)
    with (tmp_path / "t.csv").open() as file:
        assert [row["task"] for row in csv.DictReader(file)] == NAMES
    for text in ((tmp_path / "t.md").read_text(), table.html()):
        assert re.findall(r"T\d{3}", text) == SHOWN
        assert text.count("... 80 tasks between ...") == 1
    assert "| run | ... 80 tasks between ... |  |" in (tmp_path / "t.md").read_text()


class FinishedRun:
    """What the tables of a grid read of a run."""

    preset, name, seed, status = "p", "many", 0, {}

    def __init__(self):
        self.results = {"before": results_of(dict.fromkeys(NAMES, 0.0)), "after": results_of()}
        self.config = type("Config", (), {"task_names": tuple(NAMES), "sequential": False})()


def test_tables_of_a_grid_show_the_extremes():
    run = FinishedRun()
    table = gains([run], "p")
    assert [row[1] for row in table.rows] == NAMES
    assert [row[1] for row in table.shown] == [*SHOWN[:10], "... 80 tasks between ...", *SHOWN[10:]]
    assert table.note.endswith("gains_p.csv has all.")
    each = all_runs([run])
    column = list(each.header).index("each task")
    assert re.findall(r"T\d{3}", each.rows[0][column]) == NAMES
    assert re.findall(r"T\d{3}", each.shown[0][column]) == SHOWN


def test_learning_curves_have_twenty_panels_and_the_title_says_so(tmp_path, monkeypatch):
    drawn, titles = [], []
    monkeypatch.setattr("matplotlib.figure.Figure.suptitle", lambda _self, title, **_: titles.append(title))
    monkeypatch.setattr(curves_module, "_draw_run", lambda axis, curves, task, *_, **__: drawn.append(task))
    steps = np.arange(3.0)
    curves = RunCurves(training={name: (steps, np.full(3, value)) for name, value in RETURNS.items()})
    draw_learning_curves({"run": curves}, NAMES, tmp_path / "curves.svg", "A run")
    assert drawn == SHOWN
    assert "A run: the 10 tasks with the lowest and the 10 with the highest return per episode, of 100" in titles


# Messages


def test_messages_do_not_name_a_hundred_tasks():
    env = mt.MultiTaskVecEnv(many_tasks(), 1, seed=0)  # environments without get_state
    reason = env.why_inexact()
    assert reason.startswith("task 'T000': ")
    assert reason.endswith(" and 90 more")
    assert reason.count("task '") == 10
    env.close()
    few = mt.MultiTaskVecEnv(many_tasks(20), 1, seed=0)
    assert few.why_inexact().count("task '") == 20
    few.close()


# A task under two names


def twins(env_id=DriftEnv, kwargs=None):
    return [mt.Task(name, env_id, {} if kwargs is None else kwargs) for name in ("first", "second")]


@pytest.mark.parametrize(
    ("backend", "env_id"),
    [
        ("dummy", "Pendulum-v1"),
        pytest.param("subproc", "Pendulum-v1", marks=pytest.mark.slow),
        pytest.param("batch", "HalfCheetah-v5", marks=pytest.mark.native),
    ],
)
def test_a_task_may_be_listed_under_two_names(backend, env_id):
    env = mt.make_multitask_vec_env(twins(env_id), 2, seed=0, backend=backend)
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=0, device="cpu").learn(40)
    starts = env.unwrapped.reset()["obs"]
    assert len(np.unique(starts, axis=0)) == 4  # each has episodes of its own
    obs = {"obs": np.repeat(starts[:1], 2, axis=0).astype(np.float32), "task": np.array([0, 1])}
    first, second = model.predict(obs, deterministic=True)[0]
    assert not np.array_equal(first, second)  # two heads
    mt.transfer(model, model, {"second": "first"})
    first, second = model.predict(obs, deterministic=True)[0]
    np.testing.assert_allclose(first, second, rtol=1e-3, atol=1e-6)  # torch's products of rows differ in the last bit
    results = mt.evaluate_tasks(model, n_eval_episodes=1, max_episode_steps=1000)
    assert list(results) == ["first", "second"]
    assert results["first"].mean_reward != results["second"].mean_reward
    env.close()


def test_a_bare_id_with_two_heads_is_refused():
    model = model_of(twins("Pendulum-v1"))
    with pytest.raises(
        ValueError, match=r"several heads for Pendulum-v1: first, second.*Task\('first', 'Pendulum-v1'\)"
    ):
        mt.evaluate_tasks(model, "Pendulum-v1", n_eval_episodes=1)
    one = mt.evaluate_tasks(model, [mt.Task("second", "Pendulum-v1")], n_eval_episodes=1)
    assert list(one) == ["second"]
    model.env.close()


# Arguments of each copy


@pytest.mark.parametrize(
    ("backend", "env_id", "name", "values"),
    [
        ("dummy", "Pendulum-v1", "g", [9.0, 10.0, 11.0]),
        pytest.param("subproc", "Pendulum-v1", "g", [9.0, 10.0, 11.0], marks=pytest.mark.slow),
        pytest.param("batch", "HalfCheetah-v5", "forward_reward_weight", [1.0, 2.0, 3.0], marks=pytest.mark.native),
    ],
)
@pytest.mark.parametrize("kind", ["list", "function"])
@pytest.mark.parametrize("n", [2, 4])
def test_each_copy_has_its_own_arguments(backend, env_id, name, values, kind, n):
    own = [{name: value} for value in values]
    kwargs = own if kind == "list" else lambda copy: own[copy % len(own)]
    env = mt.MultiTaskVecEnv([mt.Task("own", env_id, kwargs), mt.Task("plain", env_id)], n, seed=0, backend=backend)
    attribute = name if env_id.startswith("Pendulum") else f"_{name}"
    default = 10.0 if name == "g" else 1.0
    expected = [values[copy % 3] for copy in range(n)]
    assert env.get_attr(attribute) == [*expected, *[default] * n]
    env.close()
