"""Curves of run folders, ours and rl_zoo3's."""

import numpy as np
import pytest
from helpers.drift import ReachingEnv, drift_tasks
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.env_util import make_vec_env

import sb3_multitask as mt
from sb3_multitask.experiments import plot
from sb3_multitask.experiments.curves import ALL_TASKS, read_evaluations, read_training_returns
from sb3_multitask.experiments.plot import plot_runs, read_run


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """A run of three tasks with two copies each, as `train` leaves it."""
    folder = tmp_path_factory.mktemp("runs") / "ours"
    env = mt.make_multitask_vec_env(drift_tasks(), 2, seed=0, monitor_dir=folder / "monitor")
    eval_env = mt.MultiTaskVecEnv(drift_tasks(), 1, seed=1)
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=0, device="cpu")
    callback = mt.MultiTaskEvalCallback(eval_env, n_eval_episodes=2, eval_freq=90, log_path=folder, verbose=0)
    model.learn(300, callback)
    env.close()
    return folder


@pytest.fixture(scope="module")
def zoo(tmp_path_factory):
    """A run of SB3's own tools: monitor files in the folder itself, without tasks."""
    folder = tmp_path_factory.mktemp("logs") / "zoo"
    env = make_vec_env("Pendulum-v1", 2, seed=0, monitor_dir=str(folder))
    eval_env = make_vec_env("Pendulum-v1", 1, seed=1)
    callback = EvalCallback(eval_env, n_eval_episodes=2, eval_freq=200, log_path=str(folder), verbose=0)
    A2C("MlpPolicy", env, seed=0, device="cpu").learn(900, callback)
    env.close()
    return folder


def test_ours_have_training_and_evaluations_of_each_task(ours):
    curves = read_run(ours)
    assert list(curves.training) == list(curves.evaluations) == ["A", "B", "C"]
    stored = np.load(ours / "evaluations.npz")
    steps, returns = curves.evaluations["B"]
    assert steps.tolist() == [30, 60, 90]  # of each task; 90, 180 and 270 of all
    np.testing.assert_allclose(returns, stored["task_results"][:, 1].mean(axis=1))


def test_a_run_of_the_zoo_has_one_task_by_the_name_of_its_environment(zoo):
    curves = read_run(zoo)
    assert list(curves.training) == list(curves.evaluations) == ["Pendulum-v1"]
    assert curves.training["Pendulum-v1"][0].tolist() == [400, 400, 800, 800]  # two copies, 200 steps an episode
    assert curves.evaluations["Pendulum-v1"][0].tolist() == [400, 800]


def test_evaluations_without_tasks_are_of_all(tmp_path, ours, zoo):
    (tmp_path / "monitor").symlink_to(ours / "monitor")
    (tmp_path / "evaluations.npz").symlink_to(zoo / "evaluations.npz")
    assert list(read_run(tmp_path).evaluations) == [ALL_TASKS]


@pytest.mark.parametrize("which", ["both", "training", "evaluations"])
def test_what_is_asked_for_is_drawn(ours, tmp_path, monkeypatch, which):
    drawn = {}
    monkeypatch.setattr(plot, "draw_learning_curves", lambda runs, tasks, *_: drawn.update(runs=runs, tasks=tasks))
    plot_runs([ours], tmp_path / "c.png", which)
    curves = drawn["runs"]["ours"]
    assert (bool(curves.training), bool(curves.evaluations)) == (which != "evaluations", which != "training")


def test_several_runs_share_a_picture_with_a_panel_for_each_task(ours, zoo, tmp_path):
    path = plot_runs([ours, zoo], tmp_path / "c.svg")
    svg = path.read_text()
    for text in ("A", "B", "C", "Pendulum-v1", "ours training", "zoo training", "ours evaluations", "2 runs"):
        assert f"<!-- {text} -->" in svg  # matplotlib writes each text as a comment beside its glyphs
    alone = plot_runs([ours], tmp_path / "alone.svg", "training").read_text()
    assert "<!-- ours training -->" not in alone  # one line needs no legend
    assert "<!-- Pendulum-v1 -->" not in alone


def test_the_picture_is_beside_the_run_by_default(ours, zoo):
    assert plot_runs([ours]) == ours.with_name("ours_curves.png")
    assert ours.with_name("ours_curves.png").read_bytes().startswith(b"\x89PNG")
    assert plot_runs([zoo, ours]).name == "zoo_and_1_more_curves.png"


def test_runs_of_one_name_are_told_apart_by_their_paths(tmp_path, ours, monkeypatch):
    drawn = {}
    monkeypatch.setattr(plot, "draw_learning_curves", lambda runs, *_: drawn.update(runs))
    folders = [tmp_path / "x" / "run", tmp_path / "y" / "run"]
    for folder in folders:
        folder.mkdir(parents=True)
        (folder / "monitor").symlink_to(ours / "monitor")
    plot_runs(folders, tmp_path / "c.png")
    assert list(drawn) == [str(folder) for folder in folders]
    with pytest.raises(ValueError, match="must be different runs"):
        plot_runs([ours, ours], tmp_path / "c.png")


def test_a_folder_with_nothing_to_plot_is_an_error(tmp_path, zoo):
    with pytest.raises(FileNotFoundError, match=r"monitor files .*evaluations"):
        plot_runs([tmp_path])
    (tmp_path / "0.monitor.csv").write_text("#{}\nr,l,t\n")
    with pytest.raises(FileNotFoundError, match="nothing to plot: no episode in monitor files"):
        plot_runs([zoo, tmp_path], which="training")
    with pytest.raises(FileNotFoundError, match="nothing to plot: no evaluations.npz"):
        plot_runs([tmp_path], which="evaluations")
    with pytest.raises(FileNotFoundError, match="nowhere is no folder"):
        plot_runs([tmp_path / "nowhere"])
    assert [path.name for path in tmp_path.iterdir()] == ["0.monitor.csv"]


def test_arguments_that_cannot_be_are_refused(zoo, tmp_path):
    with pytest.raises(ValueError, match=r"must end in \.png, \.svg, \.pdf \(got '.*c\.jpeg'\)"):
        plot_runs([zoo], tmp_path / "c.jpeg")
    with pytest.raises(ValueError, match="`window` must be at least 1"):
        plot_runs([zoo], window=0)
    with pytest.raises(ValueError, match="at least one run"):
        plot_runs([])


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 torn", b"no archive"])
def test_damaged_evaluations_are_named(tmp_path, content):
    (tmp_path / "evaluations.npz").write_bytes(content)
    with pytest.raises(ValueError, match=r"evaluations\.npz: is no whole file of arrays"):
        read_evaluations(tmp_path / "evaluations.npz")


def test_monitor_files_without_a_task_or_an_id(tmp_path):
    (tmp_path / "0.monitor.csv").write_text('#{"t_start": 0.0}\nr,l,t\n1.0,5,0.1\n')
    assert list(read_training_returns(tmp_path)) == ["task"]


def write_evaluations(folder, returns, steps=(100, 200)):
    """Two tasks, the second with ten times the return."""
    folder.mkdir(parents=True)
    results = np.array(returns)[:, None, None] * np.array([[1.0], [10.0]])
    np.savez(folder / "evaluations.npz", timesteps=steps, task_names=["A", "B"], task_results=results)


@pytest.fixture
def drawn(monkeypatch):
    arguments = {}
    monkeypatch.setattr(plot, "draw_learning_curves", lambda runs, tasks, *_: arguments.update(runs=runs, tasks=tasks))
    return arguments


def test_runs_that_differ_in_their_number_are_one_curve_of_means(tmp_path, drawn):
    for name, returns in {"x_1": [1.0, 3.0], "x_2": [3.0, 5.0], "y_1": [0.0, 0.0]}.items():
        write_evaluations(tmp_path / name, returns)
    write_evaluations(tmp_path / "x_3", [2.0, 4.0, 6.0], steps=(100, 200, 300))
    folders = [tmp_path / name for name in ("x_1", "x_2", "x_3", "y_1")]
    plot_runs(folders, tmp_path / "c.png", "evaluations", group=True)
    assert list(drawn["runs"]) == ["x (mean of 3)", "y (mean of 1)"]
    steps, returns = drawn["runs"]["x (mean of 3)"].evaluations["B"]
    assert (steps.tolist(), returns.tolist()) == ([50, 100], [20, 40])  # what all three have evaluated
    error = drawn["runs"]["x (mean of 3)"].standard_errors["B"]
    np.testing.assert_allclose(error, np.std([10, 20, 30]) / np.sqrt(3))
    plot_runs(folders, tmp_path / "c.png", "evaluations")
    assert len(drawn["runs"]) == 4


def test_groups_of_several_parents_stay_apart(tmp_path, drawn):
    for number, algo in enumerate(("a2c", "ppo")):
        write_evaluations(tmp_path / algo / f"x_{number}", [1.0, 2.0])
    plot_runs([tmp_path / "a2c" / "x_0", tmp_path / "ppo" / "x_1"], tmp_path / "c.png", "evaluations", group=True)
    assert [name.split("/")[-2:] for name in drawn["runs"]] == [["a2c", "x (mean of 1)"], ["ppo", "x (mean of 1)"]]


def test_a_groups_picture_has_its_band(tmp_path):
    for number in (1, 2):
        write_evaluations(tmp_path / f"x_{number}", [number, 3.0])
    path = plot_runs([tmp_path / "x_1", tmp_path / "x_2"], tmp_path / "c.svg", "evaluations", group=True)
    assert "<!-- x (mean of 2) -->" in path.read_text()
    assert "FillBetweenPolyCollection" in path.read_text() or "PolyCollection" in path.read_text()


def test_curves_end_where_they_should(ours, tmp_path, drawn):
    plot_runs([ours], tmp_path / "c.png", max_timesteps=180)  # of three tasks
    assert drawn["runs"]["ours"].evaluations["B"][0].tolist() == [30, 60]
    assert max(steps.max() for steps, _ in drawn["runs"]["ours"].training.values()) <= 60
    with pytest.raises(FileNotFoundError, match="nothing to plot in the steps"):
        plot_runs([ours], tmp_path / "c.png", max_timesteps=1)


def test_steps_of_tasks_with_different_numbers_of_copies_are_their_own(tmp_path, drawn):
    tasks = [*drift_tasks(2), mt.Task("C", ReachingEnv, {"at": ((1,),)})]  # alone in saying success
    env = mt.make_multitask_vec_env(tasks, {"A": 3, "B": 1, "C": 2}, seed=0, monitor_dir=tmp_path / "monitor")
    callback = mt.MultiTaskEvalCallback(mt.MultiTaskVecEnv(tasks, 1), eval_freq=90, log_path=tmp_path, verbose=0)
    mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=0, device="cpu").learn(180, callback)
    curves = read_run(tmp_path)
    for task, share in {"A": 1 / 2, "B": 1 / 6, "C": 1 / 3}.items():
        np.testing.assert_allclose(curves.evaluations[task][0], [90 * share, 180 * share])
        assert curves.training[task][0][-1] <= 180 * share
    for which in ("both", "success"):
        plot_runs([tmp_path], tmp_path / "c.png", which, max_timesteps=90)
        cut = drawn["runs"][tmp_path.name].evaluations
        assert {task: steps.tolist() for task, (steps, _) in cut.items()} == {
            task: [steps] for task, steps in {"A": 45, "B": 15, "C": 30}.items() if task == "C" or which == "both"
        }


def test_training_returns_have_no_groups(ours, tmp_path):
    with pytest.raises(ValueError, match="`group` is for `which='evaluations'`"):
        plot_runs([ours], tmp_path / "c.png", group=True)
