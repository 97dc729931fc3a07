"""Runs with other algorithms, and runs that learn the tasks of a group in turn."""

import shutil

import numpy as np
import pytest
from typer.testing import CliRunner

import sb3_multitask as mt
from sb3_multitask.cli import app
from sb3_multitask.cli.output import console
from sb3_multitask.cli.trained import load_trained
from sb3_multitask.experiments.algorithms import make_algorithm
from sb3_multitask.experiments.config import TrainConfig, dump_config, load_config, make_config
from sb3_multitask.experiments.grid import GridRun
from sb3_multitask.experiments.local_runner import LocalJob
from sb3_multitask.experiments.report.collect import read_runs
from sb3_multitask.experiments.run_folder import RunFolder
from sb3_multitask.experiments.train import train_run
from sb3_multitask.storage.yaml_files import ConfigError
from sb3_multitask.zoo.settings import check_hyperparameters

SMALL = {"n_envs_per_task": 2, "n_eval_episodes": 1, "eval_episodes": 1, "eval_freq": 0}
GROUP = {"tasks": ("Hopper-v5", "HopperBigFoot-v0", "HopperSmallLeg-v0"), "n_timesteps": 3000, **SMALL}


def run(path, **settings):
    folder = RunFolder.create(path, "run")
    return train_run(TrainConfig(**{**GROUP, **settings}), folder), folder


@pytest.mark.slow
@pytest.mark.parametrize(
    "settings", [{}, {"algo": "trpo", "n_steps": 100, "algo_kwargs": {"batch_size": 50}}], ids=["a2c_mt", "trpo"]
)
def test_one_head_learns_the_tasks_in_turn(tmp_path, settings):
    results, folder = run(tmp_path / "run", sequential=True, **settings)
    assert list(results) == ["before", "after_1", "after_2", "after_3", "after"]
    assert all(list(by_task) == list(GROUP["tasks"]) for by_task in results.values())
    assert results["after"] == results["after_3"]
    agents = [mt.load_agent(folder.agents / f"after_{i}") for i in (1, 2, 3)]
    assert all(agent.task_names == ("all",) for agent in agents)
    digests = {agent.digest for agent in agents}
    assert len(digests) == 3
    counts = [np.abs(agent.statistics.mean).sum() for agent in agents]
    assert len(set(counts)) == 3  # statistics go on from task to task
    rows = [len(list((folder.monitor / task).glob("*.csv"))) for task in GROUP["tasks"]]
    assert rows == [2, 2, 2]
    again, _ = run(tmp_path / "again", sequential=True, **settings)
    assert again == results


def test_tasks_of_different_sizes_have_no_head_in_common(tmp_path):
    with pytest.raises(ConfigError, match=r"one size: 'Swimmer-v5' has 8 numbers .* 2 in .*'Hopper-v5' has 11 and 3"):
        run(tmp_path / "run", tasks=("Hopper-v5", "Swimmer-v5"), sequential=True)


def test_phases_go_on_with_the_weights_and_the_statistics(tmp_path):
    """Two phases of one task are more steps of it, but for new episodes at the border."""
    _, folder = run(tmp_path / "run", tasks={"first": "Hopper-v5", "second": "Hopper-v5"}, sequential=True)
    first, second = (mt.load_agent(folder.agents / f"after_{i}") for i in (1, 2))
    facts = [agent.facts["num_timesteps"] for agent in (first, second)]
    assert facts == [1500, 3000]
    weights = [
        np.concatenate([agent.weights[name].ravel() for name in sorted(agent.weights)]) for agent in (first, second)
    ]
    assert 0.7 < np.corrcoef(weights)[0, 1] < 1  # new weights would have nothing in common with the old ones


@pytest.mark.parametrize("algo", ["ppo", "trpo"])
def test_other_algorithms_learn_several_tasks_at_once(tmp_path, algo):
    settings = {"algo": algo, "n_steps": 50, "algo_kwargs": {"batch_size": 50}, "eval_freq": 1000}
    results, folder = run(tmp_path / "run", **settings, report_at=(1000,))
    assert list(results) == ["before", "1000", "after"]
    agent = mt.load_agent(folder.agents / "final")
    again = mt.evaluate_tasks(agent, n_eval_episodes=1)
    for task, result in results["after"].items():
        np.testing.assert_allclose(again[task].mean_reward, result.mean_reward, rtol=0.05)
    algorithm = {"ppo": mt.PPOMultiTask, "trpo": mt.TRPOMultiTask}[algo]
    assert algorithm.load(folder.model).num_timesteps == 3000
    assert not folder.vec_normalize.exists()  # the model's file holds its statistics
    evaluations = np.load(folder.path / "evaluations.npz")
    best = mt.load_agent(folder.agents / "best")
    assert best.facts["num_timesteps"] == evaluations["timesteps"][np.argmax(evaluations["results"].mean(axis=1))]
    policy = algorithm.load(folder.path / "best_model.zip").policy
    assert np.array_equal(best.weights["log_std"], policy.log_std.detach().numpy())
    same_moment = best.facts["num_timesteps"] == agent.facts["num_timesteps"]
    assert np.array_equal(best.statistics.mean, agent.statistics.mean) == same_moment
    for name, of_the_run in {"model.zip": agent, "best_model.zip": best}.items():
        assert mt.load_agent(folder.path / name).digest == of_the_run.digest
        assert load_trained(str(folder.path / name)).task_names == of_the_run.task_names


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"algo": "trpo", "ent_coef": 0.1}, "algo 'trpo' has no ent_coef"),
        ({"algo": "trpo", "distill_coef": 0.5, "engine": "fast"}, "algo 'trpo' has no engine, distill_coef"),
        ({"algo": "dqn"}, "algo"),
        ({"sequential": True, "task_schedule": "cycle"}, "sequential training has no task_schedule"),
        ({"sequential": True, "report_at": (1000,)}, "sequential training has no report_at"),
    ],
)
def test_what_an_algorithm_does_not_have_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        make_config(TrainConfig, {**GROUP, **settings})


def test_an_unknown_argument_of_an_algorithm_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"algo_kwargs of algo 'trpo': .*bach"):
        run(tmp_path / "run", algo="trpo", algo_kwargs={"bach": 3})


@pytest.mark.parametrize(
    "settings",
    [{"algo": "ppo", "n_steps": 50, "algo_kwargs": {"batch_size": 50}}, {"sequential": True}],
    ids=["ppo", "in turn"],
)
def test_a_run_is_read_back_as_it_was(tmp_path, settings):
    """Its settings, so that it can be started again; and what was left to the algorithm is still left to it."""
    config = TrainConfig(**{**GROUP, **settings})
    dump_config(config, tmp_path / "config.yml")
    again = load_config(TrainConfig, tmp_path / "config.yml")
    assert again == config
    assert again.algorithm_kwargs() == config.algorithm_kwargs()
    results, folder = run(tmp_path / "run", **settings)
    assert train_run(again, folder) == results  # finished: read from the folder
    folder.write_status("running")
    assert train_run(again, folder) == results  # killed: done again
    assert folder.read_status()["wall_seconds"] < 60
    runs, others = read_runs_of(tmp_path, folder)
    assert len(runs) == 1
    assert not others


def read_runs_of(tmp_path, folder):
    (tmp_path / "grid/p/name").mkdir(parents=True)
    folder.path.rename(tmp_path / "grid/p/name/seed_0")
    return read_runs(tmp_path / "grid")


def test_a_run_folder_of_another_algorithm_is_an_agent_that_normalises(tmp_path):
    settings = {
        "algo": "ppo",
        "n_steps": 50,
        "algo_kwargs": {"batch_size": 50},
        "tasks": {"only": "PusherMovingGoal-v0"},
    }
    _, folder = run(tmp_path / "run", **settings)
    agent = mt.load_agent(folder.path)
    assert agent.statistics is not None
    assert agent.digest == mt.load_agent(folder.agents / "final").digest
    assert agent.action_high.tolist() == [2.0] * 7
    from_zip = mt.load_agent(folder.model)
    assert from_zip.action_high.tolist() == [2.0] * 7
    np.testing.assert_array_equal(from_zip.statistics.mean, agent.statistics.mean)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"sequential": True, "learning_rate": "lin_1e-3"}, "constant learning_rate"),
        ({"sequential": True, "tasks": "Hopper-v5"}, "at least two tasks"),
        ({"sequential": True, "n_timesteps": 2}, "a step for each"),
    ],
)
def test_what_makes_no_sense_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        make_config(TrainConfig, {**GROUP, **settings})


# Runs that cannot be resumed: those of a version that wrote no checkpoints of tasks in turn, or of PPO

IN_TURN = {"sequential": True, "n_timesteps": 600}
PPO_IN_TURN = {**IN_TURN, "algo": "ppo", "n_steps": 50, "algo_kwargs": {"batch_size": 50}}
PPO = {key: value for key, value in PPO_IN_TURN.items() if key != "sequential"}
KINDS = pytest.mark.parametrize("settings", [PPO, IN_TURN], ids=["ppo", "in turn"])


def killed(path, with_checkpoints=False, **settings):
    """A run's folder as a kill of an earlier version left it, and its files' contents."""
    _, folder = run(path, **settings)
    folder.write_status("running")
    if not with_checkpoints:
        shutil.rmtree(folder.checkpoints)
    return folder, contents(folder.path)


def contents(path):
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def train(*args):
    done = CliRunner().invoke(app, ["train", "--no-progress", *map(str, args)])
    return done, str(done.exception or "")


@KINDS
def test_what_a_run_left_that_cannot_be_resumed_is_kept_until_it_is_asked_for(tmp_path, settings):
    folder, before = killed(tmp_path / "run", **settings)
    done, error = train("--resume", folder.path)
    assert done.exit_code != 0
    assert all(word in error for word in ("cannot be resumed", "kept", "agents", "--set-aside", "--overwrite"))
    assert contents(folder.path) == before


@KINDS
def test_a_run_that_starts_over_sets_the_earlier_attempt_aside(tmp_path, settings):
    folder, before = killed(tmp_path / "run", **settings)
    (folder.path / "notes.txt").write_text("mine")
    done, _ = train("--resume", folder.path, "--set-aside")
    assert done.exit_code == 0
    earlier = contents(folder.path / "earlier_1")
    assert earlier == {name: content for name, content in before.items() if name != ".lock"}
    assert (folder.path / "notes.txt").read_text() == "mine"
    assert folder.read_status()["status"] == "finished"
    assert folder.read_results() == RunFolder(folder.path / "earlier_1").read_results()
    folder.write_status("running")
    shutil.rmtree(folder.checkpoints)
    train_run(load_config(TrainConfig, folder.config), folder)  # as grids do
    assert contents(folder.path / "earlier_1") == earlier
    assert (folder.path / "earlier_2" / "results.json").exists()


def test_overwrite_leaves_nothing_of_the_earlier_attempt(tmp_path):
    folder, before = killed(tmp_path / "run", **PPO_IN_TURN)
    assert any(name.startswith("agents") for name in before)
    (folder.agents / "stale.json").touch()
    assert train("--resume", folder.path, "--overwrite")[0].exit_code == 0
    assert {name for name in contents(folder.path) if not name.startswith("checkpoints")} == before.keys()
    done, error = train("--resume", folder.path, "--overwrite")  # it is finished now
    assert done.exit_code != 0
    assert "--overwrite" in error


def test_overwrite_is_refused_where_a_run_resumes(tmp_path):
    folder, before = killed(tmp_path / "run", with_checkpoints=True, n_timesteps=600)
    done, error = train("--resume", folder.path, "--overwrite")
    assert done.exit_code != 0
    assert "--overwrite" in error
    assert contents(folder.path) == before
    assert "--set-aside goes with --resume" in train("--set-aside")[1]


@KINDS
def test_ctrl_c_names_no_command_that_loses_anything(tmp_path, settings, monkeypatch):
    def interrupted(*_args, **_kwargs):
        raise KeyboardInterrupt("SIGINT")

    folder, _ = killed(tmp_path / "run", **settings)
    monkeypatch.setattr("sb3_multitask.experiments.train.train_run", interrupted)
    with console.capture() as captured:
        done, _ = train("--resume", folder.path)
    assert done.exit_code == 130
    shown = captured.get()
    assert "overwrite" not in shown
    assert "--set-aside" in shown


@pytest.mark.slow
def test_a_grids_run_that_was_killed_is_done_again_and_loses_nothing(tmp_path):
    folder, before = killed(tmp_path / "run", **PPO_IN_TURN)
    job = LocalJob(GridRun("p/run/seed_0", load_config(TrainConfig, folder.config), folder.path))
    job.wait()
    assert job.poll() == ""
    assert folder.read_status()["status"] == "finished"
    assert contents(folder.path / "earlier_1").items() <= before.items()
    assert (folder.path / "earlier_1" / "agents" / "final.json").exists()


# Arguments of other algorithms


@pytest.mark.parametrize("name", ["clip_range", "clip_range_vf", "learning_rate"])
def test_schedules_of_an_algorithm_are_taken_under_their_own_names(name):
    config = TrainConfig(**{**GROUP, "algo": "ppo", "n_steps": 50, "algo_kwargs": {"batch_size": 50, name: "lin_0.2"}})
    schedule = config.algorithm_kwargs()[name]
    assert [schedule(left) for left in (1.0, 0.5, 0.0, -0.1)] == pytest.approx([0.2, 0.1, 0.0, 0.0])
    env = mt.make_multitask_vec_env("Hopper-v5", 2, seed=0)
    model = make_algorithm(config, env, 0)
    found = model.lr_schedule if name == "learning_rate" else getattr(model, name)
    assert found(0.5) == pytest.approx(0.1)
    env.close()


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"clip_range": "lin_x"}, r"`algo_kwargs`: clip_range must be a number, or lin_"),
        ({"clip_range_vf": -1}, r"`algo_kwargs`: clip_range_vf must be finite and not negative"),
        ({"learning_rate": "lin_-1"}, r"`algo_kwargs`: learning_rate must be finite and not negative"),
        ({"target_kl": "lin_0.1"}, r"`algo_kwargs`: target_kl takes no schedule .*clip_range"),
    ],
)
def test_what_is_wrong_with_a_schedule_is_said_of_its_own_key(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        make_config(TrainConfig, {**GROUP, "algo": "ppo", "algo_kwargs": kwargs})


def test_trpo_does_not_sub_sample():
    kwargs = {"batch_size": 50, "sub_sampling_factor": 4}
    with pytest.raises(ConfigError, match=r"sub_sampling_factor. must be 1 .got 4"):
        make_config(TrainConfig, {**GROUP, "algo": "trpo", "algo_kwargs": kwargs})
    with pytest.raises(ConfigError, match=r"sub_sampling_factor. must be 1 .got 4"):
        check_hyperparameters({"n_timesteps": 1, "sub_sampling_factor": 4}, "trpo_mt")
    assert make_config(TrainConfig, {**GROUP, "algo": "trpo", "algo_kwargs": {"sub_sampling_factor": 1}})
