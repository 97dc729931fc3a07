"""Names of tasks that mean something to CSV, Markdown, HTML, terminals or file systems stay names everywhere."""

import csv
import io
import json

import numpy as np
import pytest
from helpers.drift import drift_tasks
from matplotlib.figure import Figure
from rich.console import Console
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import load_results

import sb3_multitask as mt
from sb3_multitask.cli.output import results_table
from sb3_multitask.evaluation.evaluate import TaskResult
from sb3_multitask.experiments import card
from sb3_multitask.experiments.config import TrainConfig
from sb3_multitask.experiments.curves import RunCurves, draw_learning_curves, read_evaluations, read_training_returns
from sb3_multitask.experiments.monitor_files import read_monitor_files
from sb3_multitask.experiments.progress import make_logger, read_progress
from sb3_multitask.experiments.report import clips
from sb3_multitask.experiments.report.tables import Table, markdown_text
from sb3_multitask.experiments.run_folder import RunFolder
from sb3_multitask.experiments.scheduler import steps_so_far
from sb3_multitask.experiments.train import train_run
from sb3_multitask.storage.files import file_name

NAMES = ("left, slow", 'a "b", c', "x|y", "$\\frac{1}$", "[bold]", "<b>&", "a/../b")


def read_csv(path):
    header, *rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))
    return [dict(zip(header, row, strict=True)) for row in rows]


@pytest.mark.parametrize("made_by", ["run", "SB3"])
def test_progress_csv_has_a_column_for_each_key(tmp_path, made_by):
    tasks = [mt.Task(name, task.env_id, task.env_kwargs) for name, task in zip(NAMES, drift_tasks(7), strict=True)]
    env = mt.make_multitask_vec_env(tasks, 1, seed=0)
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=0, device="cpu")
    path = tmp_path / "progress.csv"
    model.set_logger(make_logger(path, [], 0) if made_by == "run" else configure(str(tmp_path), ["csv"]))
    eval_env = mt.MultiTaskVecEnv(tasks, 1)
    model.learn(350, mt.MultiTaskEvalCallback(eval_env, eval_freq=70, n_eval_episodes=1, verbose=0), log_interval=2)
    model.logger.close()
    rows = read_csv(path)
    steps = [int(row["time/total_timesteps"]) for row in rows]
    assert steps[-1] == model.num_timesteps
    assert sorted(steps) == steps
    for name in NAMES:
        losses = [row[f"train/{name}/policy_loss"] for row in rows]
        assert all(map(float, filter(None, losses)))
        assert any(losses)


def test_a_resume_keeps_the_rows_before_its_checkpoint(tmp_path):
    path = RunFolder(tmp_path).progress
    logger = make_logger(path, [], 0)
    for steps in (100, 200, 300):
        for name in NAMES[: steps // 100]:  # new columns come later
            logger.record(f"rollout/{name}/ep_rew_mean", steps + 0.5)
        logger.record("time/total_timesteps", steps)
        logger.dump(steps)
    logger.close()
    assert steps_so_far(tmp_path) == 300
    with path.open("a", encoding="utf-8") as file:
        file.write("4")  # a row that was cut
    logger = make_logger(path, [], 200)
    logger.record("time/total_timesteps", 250)
    logger.dump(250)
    logger.close()
    rows = read_csv(path)
    assert [row["time/total_timesteps"] for row in rows] == ["100", "200", "250"]
    assert [row[f"rollout/{NAMES[1]}/ep_rew_mean"] for row in rows] == ["", "200.5", ""]
    assert read_progress(path)[0][0] == f"rollout/{NAMES[0]}/ep_rew_mean"


def test_monitor_files_and_evaluations_have_the_names(tmp_path):
    tasks = [mt.Task(name, task.env_id, task.env_kwargs) for name, task in zip(NAMES, drift_tasks(7), strict=True)]
    env = mt.make_multitask_vec_env(tasks, 1, seed=0, monitor_dir=tmp_path)
    callback = mt.MultiTaskEvalCallback(
        mt.MultiTaskVecEnv(tasks, 1), n_eval_episodes=1, eval_freq=70, verbose=0, log_path=tmp_path
    )
    mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=0, device="cpu").learn(210, callback)
    env.close()
    assert set(load_results(str(tmp_path))["task"]) == set(NAMES)
    assert [{episode.task for episode in file} for file in read_monitor_files(tmp_path)] == [{name} for name in NAMES]
    assert set(read_training_returns(tmp_path)) == set(read_evaluations(tmp_path / "evaluations.npz")) == set(NAMES)


def test_a_run_finishes_whatever_its_tasks_are_called(tmp_path):
    """Its learning curves have the names as titles, where dollar signs would be formulas."""
    ids = ("Hopper-v5", "HopperBigFoot-v0", "HopperSmallFoot-v0", "HopperBigLeg-v0")
    names = ("left, slow", "$\\frac$", "[bold]", "a/../../b")
    settings = {"n_envs_per_task": 1, "log_interval": 10, "eval_freq": 0, "n_eval_episodes": 1, "eval_episodes": 1}
    config = TrainConfig(tasks=dict(zip(names, ids, strict=True)), n_timesteps=1200, **settings)
    folder = RunFolder.create(tmp_path / "run", "run")
    assert set(train_run(config, folder)["after"]) == set(names)
    assert folder.curves.exists()
    assert int(read_csv(folder.progress)[-1]["time/total_timesteps"]) <= 1200


def test_names_in_pictures_are_no_formulas(tmp_path):
    curves = RunCurves({name: (np.arange(3), np.arange(3.0)) for name in NAMES})
    draw_learning_curves({"$\\a$": curves, "$\\b$": curves}, NAMES, tmp_path / "curves.svg", "$\\c$")
    assert (tmp_path / "curves.svg").stat().st_size > 1000
    titles = Figure().subplots().set_title("$\\frac{1}$", parse_math=False)
    assert not titles.get_parse_math()


def test_tables_have_the_names_in_one_cell(tmp_path):
    table = Table("t", "T", "note", ["task", *NAMES], [[name, *["[1, 2]"] * len(NAMES)] for name in NAMES])
    table.write(tmp_path)
    with (tmp_path / "t.csv").open(newline="") as file:
        assert [row[0] for row in csv.reader(file)] == ["task", *NAMES]
    lines = (tmp_path / "t.md").read_text().splitlines()[4:]
    assert {line.replace("\\|", "").count("|") for line in lines} == {len(NAMES) + 2}
    assert "[1, 2]" in lines[-1]
    assert "| <b>" not in "\n".join(lines)
    assert "<b>" not in table.html()


def test_terminals_show_the_names():
    results = {"return": {name: TaskResult.of([(1.0, 1)]) for name in NAMES}}
    console = Console(file=io.StringIO(), width=200)
    console.print(results_table(results, "title"))
    shown = console.file.getvalue()
    assert all(f"│ {name} " in shown for name in NAMES)


def test_names_become_names_of_files_that_stay_in_their_folder(tmp_path, monkeypatch):
    texts = (*NAMES, "..", ".", ".hidden", "a:b", "a_b", "a%2Fb", "a/b", "HalfCheetah-v5")
    names = [file_name(text) for text in texts]
    assert len(set(names)) == len(names)
    assert names[-1] == "HalfCheetah-v5"
    for name in names:
        assert (tmp_path / name).resolve().parent == tmp_path.resolve()
        (tmp_path / name).touch()
    made = tmp_path / "made"
    made.mkdir()
    monkeypatch.setattr(clips, "load_agent", lambda _path: None)
    monkeypatch.setattr(clips, "Scene", lambda *_args, **_kwargs: None)

    class Shot:
        image = np.zeros((4, 4, 3), dtype=np.uint8)

    monkeypatch.setattr(clips, "film", lambda _scene: [(Shot(),) * len(NAMES)] * 2)
    written = clips.render_clips(tmp_path, [mt.Task(name, "Hopper-v5") for name in NAMES], made)
    assert {path.parent for path in written.values()} == {made}
    assert all(path.read_bytes().startswith(b"GIF8") for path in written.values())


def test_a_cards_markdown_and_code_have_the_names(tmp_path):
    films = {name: tmp_path / f"{file_name(name)}.gif" for name in NAMES}
    lines = card._films(films, tmp_path).splitlines()[4:]
    assert {line.replace("\\|", "").count("|") for line in lines} == {len(NAMES) + 1}
    assert markdown_text("_a_b_ [x](y)") == "\\_a_b\\_ \\[x\\](y)"
    for name in (*NAMES, "🐆 fast"):
        assert eval(card._literal(name)) == name  # noqa: S307
        assert json.loads(card._literal(name)) == name
