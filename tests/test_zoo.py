"""rl_zoo3's own programs with multi-task agents.

rl_zoo3 replaces a wrapper of Gymnasium's for the whole process when it is imported: whatever needs it runs in a process
of its own.
"""

import argparse
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import numpy as np
import optuna
import pytest
import stand_in
import yaml
from helpers.drift import drift_tasks
from helpers.programs import ended, killed_at_its_first_checkpoint, output_of
from matplotlib import pyplot as plt
from stable_baselines3.common.monitor import load_results

import sb3_multitask as mt
from sb3_multitask.experiments.config import TrainConfig, load_config
from sb3_multitask.readers.zoo_folder import ZooFolder
from sb3_multitask.storage.yaml_files import ConfigError
from sb3_multitask.zoo.__main__ import _evaluation_defaults
from sb3_multitask.zoo.figures import plot_train, saved_figures
from sb3_multitask.zoo.playing import translated
from sb3_multitask.zoo.settings import (
    ALGORITHMS,
    StorePlainDict,
    check_env_id,
    check_hyperparameters,
    constructor_arguments,
    default_config,
    merged,
    read_hyperparameters,
)
from sb3_multitask.zoo.study import check_study

CONFIGS = Path(__file__).parents[1] / "zoo_configs"
SET = "MultiTask/HalfCheetahBody6-v0"
NAME = SET.replace("/", "-")
GOOD = {"n_timesteps": 1000, "policy": "MultiTaskMlpPolicy"}


def zoo(*args, cwd=None):
    """Run a command; its output. Fails if it does."""
    return output_of(zoo_command(*args), cwd, environment())


def zoo_process(*args, cwd=None):
    return ended(zoo_command(*args), cwd, environment())


def zoo_command(*args):
    return [sys.executable, "-m", "sb3_multitask.zoo", *args]


def python(*args, cwd=None):
    return ended([sys.executable, *args], cwd, environment())


def environment():
    return {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(CONFIGS.parent), os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
        "MPLBACKEND": "agg",
    }


def parse_params(*values):
    parser = argparse.ArgumentParser()
    parser.add_argument("-params", nargs="+", action=StorePlainDict)
    return parser.parse_args(["-params", *values]).params


# Settings


@pytest.mark.parametrize("algo", ALGORITHMS)
def test_the_configs_make_their_algorithms(algo):
    values = read_hyperparameters(default_config(algo), SET)
    assert values == read_hyperparameters(default_config(algo), "MultiTask/HopperBody8-v0")  # the default
    check_hyperparameters(values, algo)
    arguments = constructor_arguments(values)
    for name in ("n_timesteps", "n_envs", "normalize"):
        del arguments[name]
    normalize = {"gamma": values.get("gamma", 0.99)}
    env = mt.make_multitask_vec_env(drift_tasks(2), values["n_envs"], normalize=normalize)
    model = ALGORITHMS[algo](env=env, device="cpu", **arguments)
    assert isinstance(model.policy, mt.MultiTaskActorCriticPolicy)


@pytest.mark.parametrize(("zoo_file", "run_file"), [("a2c_mt", "tuned"), ("ppo_mt", "ppo"), ("trpo_mt", "trpo")])
def test_the_zoos_settings_are_those_of_a_run(zoo_file, run_file):
    config = load_config(TrainConfig, CONFIGS / f"{run_file}.yml")
    values = read_hyperparameters(CONFIGS / f"{zoo_file}.yml", SET)
    fields = config.model_fields_set - {"algo", "algo_kwargs", "distill_loss", "student_rollout_prob"}  # no teachers
    settings = {name: getattr(config, name) for name in fields} | config.algo_kwargs
    settings["n_envs"] = settings.pop("n_envs_per_task")
    of_the_set = {"n_timesteps": 6_000_000, "normalize": True, "policy": "MultiTaskMlpPolicy"}
    assert values == settings | of_the_set


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"lerning_rate": 1e-3}, "Unknown hyper-parameter of a2c_mt: 'lerning_rate'. Did you mean 'learning_rate'"),
        ({"frame_stack": 4}, "Unknown hyper-parameter of a2c_mt: 'frame_stack'"),
        ({"policy_kwargs": "dict(net_arch=[64])"}, "`policy_kwargs` must be a mapping.*execute"),
        ({"normalize": "dict(norm_obs=False)"}, "`normalize` must be true, false or a mapping.*execute"),
        ({"normalize": {"gama": 1}}, "MultiTaskVecNormalize in `normalize`: 'gama'. Did you mean 'gamma'"),
        ({"policy": "stand_in.EmptyDict"}, "`policy` of a2c_mt must be MultiTaskMlpPolicy"),
        ({"callback": "stand_in.EmptyDict"}, "`callback` must be a callback of stable_baselines3"),
        ({"callback": [{"sb3_multitask.stand_in.EmptyDict": {}}]}, "`callback` must be a callback of"),
        ({"callback": "stable_baselines3.common.callbacks.warnings"}, "`callback` must be a callback of"),
        ({"callback": "stable_baselines3.common.callbacks.NoCallback"}, "`callback` must be a callback of"),
        ({"callback": "stable_baselines3.PPO"}, "`callback` must be a callback of"),
        ({"n_timesteps": None, "learning_rate": "fast"}, "`learning_rate` must be a number, or lin_"),
        (
            {"policy_kwargs": {"activation_fn": "nn.RelLU"}},
            "`activation_fn` must be one of tanh, relu.*Did you mean 'relu'",
        ),
    ],
)
def test_bad_hyperparameters_are_refused(values, message):
    def read():
        check_hyperparameters({**GOOD, **values}, "a2c_mt")
        return constructor_arguments({**GOOD, **values})

    with pytest.raises(ConfigError, match=message):
        read()


@pytest.mark.parametrize(
    "callback",
    [
        "sb3_multitask.MultiTaskTensorBoardCallback",
        {"stable_baselines3.common.callbacks.LogEveryNTimesteps": {"n_steps": 1000}},
        ["stable_baselines3.common.callbacks.StopTrainingOnRewardThreshold"],
    ],
)
def test_callbacks_of_known_packages_are_taken(callback):
    check_hyperparameters({**GOOD, "callback": callback}, "a2c_mt")


def test_algorithms_have_their_own_hyperparameters():
    check_hyperparameters({**GOOD, "clip_range": 0.2, "batch_size": 64}, "ppo_mt")
    with pytest.raises(ConfigError, match="Unknown hyper-parameter of trpo_mt: 'clip_range'"):
        check_hyperparameters({**GOOD, "clip_range": 0.2}, "trpo_mt")


def test_schedules_fall_to_zero():
    arguments = constructor_arguments({**GOOD, "learning_rate": "lin_8e-4", "clip_range": 0.2})
    assert [arguments["learning_rate"](left) for left in (1.0, 0.5, 0.0)] == [8e-4, 4e-4, 0.0]
    assert arguments["clip_range"] == 0.2


def test_flags_and_trials_replace_single_arguments_of_the_policy():
    config = {"n_steps": 5, "gamma": 0.98, "policy_kwargs": {"log_std_init": -2.0, "activation_fn": "tanh"}}
    assert merged(config, {"n_steps": 8, "policy_kwargs": {"log_std_init": 0.0}}) == {
        "n_steps": 8,
        "gamma": 0.98,
        "policy_kwargs": {"log_std_init": 0.0, "activation_fn": "tanh"},
    }
    assert merged(config, {}) == config
    assert merged({}, config) == config
    for none in ("dict()", None):
        assert merged(config, {"policy_kwargs": none})["policy_kwargs"] == none  # to be refused by its value, or none


def test_configs_are_not_executed(tmp_path, monkeypatch):
    monkeypatch.setattr(stand_in, "BUILT", [])
    (tmp_path / "x.py").write_text("hyperparams = {}")
    (tmp_path / "x.yml").write_text(f"a: {stand_in.TAGS[0]}")
    (tmp_path / "y.yml").write_text("a: {n_timesteps: 1e6}\nb: 3")
    with pytest.raises(ConfigError, match="must be a YAML file"):
        read_hyperparameters(tmp_path / "x.py", "a")
    assert not isinstance(read_or_none(tmp_path / "x.yml"), dict)
    assert not stand_in.BUILT
    assert read_hyperparameters(tmp_path / "y.yml", "a") == {"n_timesteps": 1e6}
    with pytest.raises(ConfigError, match="must be a mapping"):
        read_hyperparameters(tmp_path / "y.yml", "b")
    with pytest.raises(ConfigError, match="no hyper-parameters for 'c'.*It has: a, b"):
        read_hyperparameters(tmp_path / "y.yml", "c")


def read_or_none(path):
    try:
        return read_hyperparameters(path, "a")
    except ConfigError:
        return None


def test_values_on_the_command_line_are_plain(monkeypatch):
    values = parse_params("n_envs:2", "learning_rate:lin_1e-3", "policy_kwargs:{log_std_mode: shared}", "x:None", "t:A")
    assert values == {
        "n_envs": 2,
        "learning_rate": "lin_1e-3",
        "policy_kwargs": {"log_std_mode": "shared"},
        "x": None,
        "t": "A",
    }
    monkeypatch.setattr(stand_in, "BUILT", [])
    assert parse_params(f"x:{stand_in.EXPRESSION}") == {"x": stand_in.EXPRESSION}
    assert not stand_in.BUILT
    with pytest.raises(SystemExit):
        parse_params("n_envs=2")


def test_unknown_ids_name_the_closest():
    with pytest.raises(ConfigError, match=f"task set HalfCheetahBody6 is {SET}"):
        check_env_id("HalfCheetahBody6", [SET])
    with pytest.raises(ConfigError, match=f"Did you mean '{SET}'"):
        check_env_id("MultiTask/HalfCheetaBody6-v0", [SET])


def test_without_the_extra_it_says_what_to_install():
    code = (
        "import sys, runpy; sys.modules['rl_zoo3'] = None; sys.argv = ['zoo', 'train', '--algo', 'a2c_mt'];"
        "runpy.run_module('sb3_multitask.zoo', run_name='__main__')"
    )
    done = python("-c", code)
    assert done.returncode == 1
    assert done.stderr == 'Error: rl_zoo3 is missing: pip install "sb3-multitask[zoo]"\n'


@pytest.mark.slow
def test_usage_lists_the_commands():
    usage = zoo()
    assert all(f"  {command} " in usage for command in ("train", "enjoy", "record_video", "plot_train", "all_plots"))
    done = zoo_process("trian")
    assert done.returncode == 1
    assert "Did you mean 'train'" in done.stderr


def test_an_empty_figure_is_not_saved(tmp_path):
    with pytest.raises(ValueError, match="Nothing to draw in 'Nope'"), saved_figures(tmp_path / "n.png"):
        plt.figure("Nope").gca().set_title("Nope")
    assert not (tmp_path / "n.png").exists()
    plt.plot([1, 2], [3, 4])
    with saved_figures(tmp_path / "n.png"):
        pass
    assert (tmp_path / "n.png").exists()
    plt.close("all")


# The zoo's flags as commands of ours


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Folders of two runs, as `train` names them; the second has three models."""
    monkeypatch.chdir(tmp_path)
    for number in (2, 10):
        folder = Path("logs", "a2c_mt", f"{NAME}_{number}")
        (folder / NAME).mkdir(parents=True)
        (folder / NAME / "args.yml").write_text(f"env: {SET}\nenv_kwargs: null")
        (folder / NAME / "config.yml").write_text("env_kwargs: {max_episode_steps: 30}")
    for name in ("best_model", "rl_model_90_steps", "rl_model_1000_steps"):
        (folder / f"{name}.zip").touch()
    return folder


OF_THE_SET = ["--algo", "a2c_mt", "--env", SET]


@pytest.mark.parametrize(
    ("flags", "model", "more"),
    [
        ([], "", ["--seed", "0"]),
        (["--load-best", "--stochastic"], "best_model.zip", ["--stochastic", "--seed", "0"]),
        (["--load-checkpoint", "90", "--seed", "3"], "rl_model_90_steps.zip", ["--seed", "3"]),
        (["--load-last-checkpoint", "-n", "13"], "rl_model_1000_steps.zip", ["--n-steps", "3", "--seed", "0"]),
        (
            ["--env-kwargs", "task:BigFoot", "max_episode_steps:9", "-n", "13"],
            "",
            ["--task", "BigFoot", "--n-steps", "13", "--seed", "0", "--env-kwargs", "max_episode_steps=9"],
        ),
    ],
)
def test_enjoy_becomes_a_command_of_ours(runs, flags, model, more):
    task, rest = (more[:2], more[2:]) if more[0] == "--task" else ([], more)
    expected = ["enjoy", str(runs / model), *task, "--no-render", *rest]
    assert translated("enjoy", [*OF_THE_SET, "--no-render", *flags]) == expected


@pytest.mark.parametrize(
    ("flags", "film"),
    [
        ([], f"logs/a2c_mt/{NAME}_10/videos/final-model-a2c_mt-{NAME}-step-0-to-step-1000.mp4"),
        (["--load-best", "-o", "v", "-n", "12"], f"v/best-model-a2c_mt-{NAME}-step-0-to-step-12.mp4"),
        (["--load-last-checkpoint", "-o", "v"], f"v/checkpoint-1000-a2c_mt-{NAME}-step-0-to-step-1000.mp4"),
    ],
)
def test_record_video_becomes_a_film(runs, flags, film):
    command = translated("record_video", [*OF_THE_SET, *flags])
    assert command[:2] == ["enjoy", str(runs / "best_model.zip" if "--load-best" in flags else command[1])]
    assert command[command.index("--output") + 1] == str(Path(film))
    assert command[command.index("--n-steps") + 1] == ("2" if "-n" in flags else "167")  # of each of six tasks


def test_a_window_shows_full_episodes_as_they_were_evaluated(runs, monkeypatch):
    monkeypatch.setenv("DISPLAY", ":0")
    command = translated("enjoy", [*OF_THE_SET, "--exp-id", "2"])
    assert command == ["enjoy", str(runs.with_name(f"{NAME}_2")), "--n-steps", "30", "--seed", "0"]


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--n-envs", "2"], "--n-envs has no translation.*sb3-multitask evaluate RUN --n-eval-episodes"),
        (["--reward-log", "x"], "--reward-log has no translation.*sb3-multitask evaluate"),
        (["--verbose", "0"], "--verbose has no translation"),
        (["--num-threads", "1"], "--num-threads has no translation.*OMP_NUM_THREADS"),
        (["-P"], "--progress has no translation.*--output"),
        (["--exp-id", "3"], f"has no run {NAME}_3. Runs there: {NAME}_10, {NAME}_2"),
        (["-f", "elsewhere"], "has no run of"),
        (["--load-checkpoint", "5"], r"rl_model_5_steps.zip does not exist. Models there: best_model.zip, rl_model_"),
    ],
)
def test_what_enjoy_cannot_translate_is_refused(runs, flags, message):
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        translated("enjoy", [*OF_THE_SET, "--no-render", *flags])


def test_what_plot_train_cannot_translate_is_refused():
    for flag in (["-x", "time"], ["-y", "length"], ["--figsize", "3", "4"], ["--fontsize", "9"]):
        with pytest.raises(ValueError, match="has no translation.*python -m rl_zoo3.plots.plot_train"):
            plot_train(["-a", "a2c_mt", "-e", SET, "-f", "logs", *flag])


# The commands, on the real tasks


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """Folder with two short runs of a2c_mt; the first was killed, the second went on from its newest checkpoint."""
    cwd = tmp_path_factory.mktemp("zoo")
    train = [
        "train",
        "--algo",
        "a2c_mt",
        "--env",
        SET,
        "-conf",
        CONFIGS / "a2c_mt.yml",
        "-params",
        "n_envs:1",
        "--seed",
        3,
    ]
    endless = zoo_command(*train, "-n", 10**8, "--save-freq", 6000, "--eval-freq", -1)
    first = cwd / "logs" / "a2c_mt" / f"{NAME}_1"
    newest = killed_at_its_first_checkpoint(endless, cwd, environment(), first)
    flags = ["-n", 12_000, "--eval-freq", 6000, "--eval-episodes", 2, "--n-eval-envs", 2, "--progress"]
    callback = ["-params", "n_envs:1", "callback:sb3_multitask.MultiTaskTensorBoardCallback"]
    output = zoo(*train, *callback, *flags, "-i", newest, "--tensorboard-log", "tb", "-f", "logs", cwd=cwd)
    return cwd, output


@pytest.mark.slow
def test_train_leaves_the_zoos_layout(trained):
    cwd, output = trained
    folder = cwd / "logs" / "a2c_mt" / f"{NAME}_2"
    monitors = {f"{i}.monitor.csv" for i in range(6)}
    assert {path.name for path in folder.iterdir()} == {
        *("best_model.zip", "evaluations.npz", NAME, f"{NAME}.zip"),
        *monitors,
    }
    assert {path.name for path in (folder / NAME).iterdir()} == {
        *("args.yml", "config.yml", "command.txt", "vecnormalize.pkl", "best_model_vecnormalize.pkl"),
    }
    assert yaml.safe_load((folder / NAME / "config.yml").read_text())["n_envs"] == 1
    assert yaml.safe_load((folder / NAME / "args.yml").read_text())["seed"] == 3
    assert "-m sb3_multitask.zoo train --algo a2c_mt" in (folder / NAME / "command.txt").read_text()
    assert "6 tasks x 1 environments, backend 'batch'" in output
    assert "Loading pretrained agent" in output
    assert "100%" in output
    (events,) = (cwd / "tb" / NAME).rglob("events.out*")
    assert b"custom_scalars" in events.read_bytes()


@pytest.mark.slow
def test_evaluations_are_of_every_task(trained):
    cwd, _ = trained
    folder = cwd / "logs" / "a2c_mt" / f"{NAME}_2"
    evaluations = np.load(folder / "evaluations.npz")
    assert evaluations["timesteps"].tolist() == [6000, 12_000]
    assert evaluations["task_results"].shape == (2, 6, 2)
    assert set(load_results(str(folder))["task"]) == {task.name for task in mt.TASK_SETS["HalfCheetahBody6"]}


@pytest.mark.slow
def test_continued_training_keeps_the_statistics(trained):
    cwd, _ = trained
    second = mt.A2CMultiTask.load(cwd / "logs" / "a2c_mt" / f"{NAME}_2" / f"{NAME}.zip")
    # 6000 steps of the checkpoint and 12,000 of its own, a sixth each; and the first observations
    assert second.normalizer_state["obs_rms"]["count"].min() > (6000 + 12_000) / 6


@pytest.mark.slow
@pytest.mark.parametrize("which", [[], ["--load-best"]])
def test_enjoy_runs_every_task_with_the_models_statistics(trained, which):
    cwd, _ = trained
    folder = cwd / "logs" / "a2c_mt" / f"{NAME}_2"
    short = {"max_episode_steps": 20}  # longer, and rounding of the nets in batches of other sizes shows
    common = ["--algo", "a2c_mt", "--env", SET, "-f", "logs", "--no-render", "--seed", 4, *which]
    output = zoo("enjoy", *common, "--env-kwargs", "max_episode_steps:20", cwd=cwd)
    shown = {task: float(value) for task, value in re.findall(r"Task (\w+): return (-?[\d.]+) in 20 steps", output)}
    model = mt.A2CMultiTask.load(folder / ("best_model.zip" if which else f"{NAME}.zip"))
    tasks = [mt.Task(task.name, task.env_id, short) for task in mt.TASK_SETS["HalfCheetahBody6"]]
    env = mt.make_multitask_vec_env(tasks, 1, seed=4, training=False)
    results = mt.evaluate_tasks(model, env, n_eval_episodes=1)
    assert shown == {task: pytest.approx(result.mean_reward, abs=0.06) for task, result in results.items()}


@pytest.mark.slow
def test_enjoy_and_video_of_one_task(trained):
    cwd, _ = trained
    common = ["--algo", "a2c_mt", "--env", SET, "-f", "logs", "--env-kwargs", "task:SmallLeg"]
    output = zoo("enjoy", *common, "--no-render", cwd=cwd)
    assert re.findall(r"Task (\w+):", output) == ["SmallLeg"]
    done = zoo_process("enjoy", *common[:-1], "task:SmallLg", "--no-render", cwd=cwd)
    assert "Did you mean 'SmallLeg'" in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("MUJOCO_GL") is None and sys.platform != "linux", reason="needs a renderer")
def test_record_video_goes_through_the_tasks(trained, monkeypatch):
    cwd, _ = trained
    monkeypatch.setenv("MUJOCO_GL", os.environ.get("MUJOCO_GL", "egl"))
    length = ["-n", 12, "--env-kwargs", "max_episode_steps:2"]
    output = zoo("record_video", "--algo", "a2c_mt", "--env", SET, "-f", "logs", *length, "-o", "video", cwd=cwd)
    assert len(re.findall(r"Task (\w+):", output)) == 6
    (video,) = (cwd / "video").iterdir()
    assert video.stat().st_size > 1000


@pytest.mark.slow
@pytest.mark.skipif(os.environ.get("MUJOCO_GL") is None and sys.platform != "linux", reason="needs a renderer")
def test_episodes_are_shown_as_they_were_evaluated(tmp_path, monkeypatch):
    monkeypatch.setenv("MUJOCO_GL", os.environ.get("MUJOCO_GL", "egl"))
    values = read_hyperparameters(CONFIGS / "a2c_mt.yml", SET) | {"env_kwargs": {"max_episode_steps": 3}}
    (tmp_path / "short.yml").write_text(yaml.safe_dump({"default": values}))
    common = ["--algo", "a2c_mt", "--env", "MultiTask/Pusher2-v0"]
    zoo("train", *common, "-conf", "short.yml", "-n", 40, "--eval-freq", -1, cwd=tmp_path)
    tour = [("Pusher", "3"), ("MovingGoal", "3")]
    for command in (["enjoy", "--no-render"], ["record_video", "-n", 6]):
        output = zoo(*command, *common, "-f", "logs", cwd=tmp_path)
        assert re.findall(r"Task (\w+): return \S+ in (\d+) steps", output) == tour, command


@pytest.mark.slow
def test_the_zoos_plots_read_the_folders(trained):
    cwd, _ = trained
    zoo("plot_train", "-a", "a2c_mt", "-e", SET, "-f", "logs", "-w", 2, "--save-figure", "train.png", cwd=cwd)
    table = zoo("all_plots", "-a", "a2c_mt", "-e", SET, "-f", "logs", "--save-figure", "all.png", "-o", "all", cwd=cwd)
    last = np.load(cwd / "logs" / "a2c_mt" / f"{NAME}_2" / "evaluations.npz")["results"][-1]
    assert f"{NAME}|{last.mean():.0f} +/- 0" in table
    for name in ("train.png", "all.png"):
        assert (cwd / name).read_bytes().startswith(b"\x89PNG")
    done = zoo_process("plot_train", "-a", "a2c_mt", "-e", "Nope-v0", "-f", "logs", "--save-figure", "n.png", cwd=cwd)
    assert "Error: Nothing to draw in 'Training Episodic Reward'" in done.stderr


@pytest.mark.slow
def test_all_plots_go_to_the_end_of_a_training(tmp_path):
    folder = tmp_path / "logs" / "a2c_mt" / f"{NAME}_1"
    folder.mkdir(parents=True)
    np.savez(folder / "evaluations.npz", timesteps=[10**6, 6 * 10**6], results=[[10.0] * 6, [500.0] * 6])
    plots = ["all_plots", "-a", "a2c_mt", "-e", SET, "-f", "logs", "--no-display"]
    assert f"{NAME}|500 +/- 0" in zoo(*plots, cwd=tmp_path)
    assert f"{NAME}|10 +/- 0" in zoo(*plots, "-max", 2 * 10**6, cwd=tmp_path)


@pytest.mark.slow
def test_plot_train_reads_our_run_folders(tmp_path):
    monitor = mt.make_multitask_vec_env(
        drift_tasks(2), 1, seed=0, monitor_dir=tmp_path / "runs" / "Drift_1" / "monitor"
    )
    monitor.reset()
    for _ in range(30):
        monitor.step(np.zeros((2, 2)))
    monitor.close()
    zoo("plot_train", "-a", ".", "-e", "Drift", "-f", "runs", "-w", 1, "--save-figure", "x/train.png", cwd=tmp_path)
    assert (tmp_path / "x" / "train.png").exists()


@pytest.mark.slow
def test_what_the_flags_leave_open(tmp_path):
    common = ["--algo", "a2c_mt", "--env", SET, "-n", 120, "--env-kwargs", "max_episode_steps:10"]
    zoo("train", *common, "--eval-episodes", 3, "-params", "policy_kwargs:{log_std_mode: shared}", cwd=tmp_path)
    settings = tmp_path / "logs" / "a2c_mt" / f"{NAME}_1" / NAME
    tuned = read_hyperparameters(CONFIGS / "a2c_mt.yml", SET)["policy_kwargs"]
    saved = yaml.safe_load((settings / "config.yml").read_text())["policy_kwargs"]
    assert saved == {**tuned, "log_std_mode": "shared"}
    flags = yaml.safe_load((settings / "args.yml").read_text())
    assert (flags["eval_freq"], flags["n_eval_envs"]) == (120, 3)  # at the end; three episodes of each task at once
    assert (settings.parent / "best_model.zip").exists()


def test_evaluations_are_as_rare_for_every_task_as_the_zoos_and_one_at_least():
    flags = argparse.Namespace(env=SET, eval_episodes=5, vec_env="dummy", n_timesteps=-1)
    assert _evaluation_defaults(flags) == ["--eval-freq", "150000", "--n-eval-envs", "5"]
    flags.n_timesteps, flags.vec_env = 60_000, "subproc"
    assert _evaluation_defaults(flags) == ["--eval-freq", "60000", "--n-eval-envs", "1"]


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["ppo_mt", "trpo_mt"])
def test_other_algorithms_train_go_on_and_are_enjoyed(algo, tmp_path):
    common = ["train", "--algo", algo, "--env", SET, "-params", "n_steps:64", "n_envs:1", "batch_size:64"]
    short = ["--env-kwargs", "max_episode_steps:50", "--eval-episodes", 1]
    zoo(*common, "-n", 384, "--eval-freq", 384, "--save-freq", 384, *short, cwd=tmp_path)
    first = tmp_path / "logs" / algo / f"{NAME}_1"
    zoo(*common, "-n", 384, "--eval-freq", -1, *short, "-i", first / "rl_model_384_steps.zip", cwd=tmp_path)
    output = zoo("enjoy", "--algo", algo, "--env", SET, "-f", "logs", "--no-render", "-n", 300, cwd=tmp_path)
    assert len(re.findall(r"Task (\w+): return", output)) == 6


@pytest.mark.slow
def test_two_workers_tune_in_one_study(tmp_path):
    common = ["train", "--algo", "a2c_mt", "--env", SET, "-params", "n_envs:1", "--env-kwargs", "max_episode_steps:20"]
    study = ["--storage", "logs/study.log", "--study-name", "s"]
    flags = ["--optimize", "--n-trials", "2", "-n", "120", "--n-evaluations", "2", "--eval-episodes", "1"]
    command = [sys.executable, "-m", "sb3_multitask.zoo", *common, *study, *flags, "--score", "worst"]
    workers = [
        subprocess.Popen(
            command, cwd=tmp_path, env=environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    outputs = [worker.communicate() for worker in workers]
    assert [worker.returncode for worker in workers] == [0, 0], outputs
    output = next(out for out, _ in outputs if "Number of finished trials:  4" in out)
    rewards = re.search(r"task_rewards: \{(.*)\}", output)[1]
    value = float(re.search(r"Value:  (\S+)", output)[1])
    assert value == pytest.approx(min(float(pair.split(": ")[1]) for pair in rewards.split(", ")))
    assert not (tmp_path / "logs" / "a2c_mt" / f"{NAME}_1").exists()  # a search leaves no run
    for flags, message in [
        (study, "--trial-id must be the number of a trial of the study 's' in logs/study.log, from 0 on (got 4)"),
        (
            [*study[:-1], "t"],
            "--storage, --study-name: there is no study 't' in logs/study.log, or it is not of a2c_mt",
        ),
        ([], "--trial-id needs --storage and --study-name, which say where the trial is"),
    ]:
        assert zoo_process(*common, *flags, "--trial-id", 4, cwd=tmp_path).stderr.endswith(f"Error: {message}\n")
    zoo(*common, *study, "--trial-id", 0, "-n", 12, "--eval-freq", -1, cwd=tmp_path)
    saved = yaml.safe_load((tmp_path / "logs" / "a2c_mt" / f"{NAME}_1" / NAME / "config.yml").read_text())
    assert saved["policy_kwargs"].keys() >= {"log_std_mode", "log_std_init"}  # the config's and the trial's


@pytest.mark.slow
def test_the_best_model_of_a_trial_has_its_statistics(tmp_path):
    common = ["train", "--algo", "ppo_mt", "--env", SET, "--env-kwargs", "max_episode_steps:5", "-params", "n_envs:1"]
    search = ["--optimize", "--n-trials", 1, "-n", 60, "--n-evaluations", 1, "--eval-episodes", 1]
    zoo(*common, *search, "--optimization-log-path", "trials", cwd=tmp_path)
    best = tmp_path / "trials" / "trial_0" / "best_model.zip"
    assert mt.load_agent(best, best.with_name(NAME) / "best_model_vecnormalize.pkl").n_tasks == 6
    kwargs = "policy_kwargs:{log_std_mode: per_task}"
    zoo(*common, "n_steps:10", "batch_size:60", kwargs, "-n", 60, "--eval-freq", -1, "-i", best, cwd=tmp_path)
    command = ZooFolder.at(tmp_path / "logs" / "ppo_mt" / f"{NAME}_1").command
    assert {kwargs, "--seed"} < set(shlex.split(command))  # for a card: one argument, and the seed that was drawn


@pytest.mark.slow
def test_a_search_prunes_what_breaks_down_and_ends_on_a_mistake(tmp_path):
    search = ["--env", SET, "--optimize", "--n-trials", 2, "-n", 120, "--n-evaluations", 1, "--eval-episodes", 1]
    diverges = "vf_coef:.nan"  # which the space leaves as it is
    done = zoo_process("train", "--algo", "ppo_mt", *search, "-params", diverges, cwd=tmp_path)
    assert "not finite" in done.stdout
    assert ["Trial 0 pruned" in done.stderr, "Trial 1 pruned" in done.stderr] == [True, True]
    mistake = "callback:sb3_multitask.MultiTaskTensorBoardCallback"  # a search does not log to TensorBoard
    done = zoo_process("train", "--algo", "a2c_mt", *search, "-params", mistake, cwd=tmp_path)
    assert done.returncode == 1
    assert "\nError: MultiTaskTensorBoardCallback needs a model that logs to TensorBoard" in done.stderr
    assert "Trial 1" not in done.stderr


@pytest.mark.slow
def test_searches_give_hyperparameters_that_configs_can_hold(tmp_path):
    code = """
import optuna, yaml
from sb3_multitask.zoo.search import SPACES
from sb3_multitask.zoo.settings import check_hyperparameters, constructor_arguments
for algo, (sample, convert) in SPACES.items():
    study = optuna.create_study()
    for _ in range(20):
        trial = study.ask()
        sampled = sample(trial, 6, 4, {})
        assert sampled == convert(trial.params), algo
        assert yaml.safe_load(yaml.safe_dump(sampled)) == sampled
        check_hyperparameters({"n_timesteps": 1, **sampled}, algo)
        constructor_arguments(sampled)
"""
    done = python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_what_the_zoo_can_do_alone_is_left_to_it(tmp_path):
    zoo("train", "--algo", "a2c", "--env", "HalfCheetahBigLeg-v0", "-n", 50, "--eval-freq", -1, cwd=tmp_path)
    assert (tmp_path / "logs" / "a2c" / "HalfCheetahBigLeg-v0_1" / "HalfCheetahBigLeg-v0.zip").exists()
    done = zoo_process("train", "--algo", "a2c", "--env", SET, "-n", 50, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.endswith("One agent for all tasks of a set: --algo a2c_mt\n")


@pytest.mark.slow
def test_a_single_task(tmp_path):
    common = ["--algo", "a2c_mt", "--env", "HalfCheetahBigLeg-v0"]
    trained = zoo("train", *common, "-n", 100, "--eval-freq", -1, "--vec-env", "subproc", cwd=tmp_path)
    assert "1 tasks x 4 environments, backend 'subproc'" in trained
    output = zoo("enjoy", *common, "--no-render", cwd=tmp_path)  # in `logs`, where train leaves it
    assert "Task HalfCheetahBigLeg-v0: return" in output


@pytest.mark.slow
@pytest.mark.parametrize("algo", ["a2c_mt", "ppo_mt"])
def test_what_cannot_go_on_leaves_no_folder(algo, tmp_path):
    common = ["train", "--algo", algo, "-n", 8, "--eval-freq", -1]
    short, body = ["-params", "n_envs:1", "n_steps:8"], "HalfCheetahBigLeg-v0"
    zoo(*common, "--env", body, *short, "normalize:false", cwd=tmp_path)
    logs = tmp_path / "logs" / algo
    trained = ["-i", logs / f"{body}_1" / f"{body}.zip"]
    for env_id, flags, message in [
        (body, short, "if it was trained on raw observations, go on with -params normalize:false\n"),
        ("Hopper-v5", [*short, "normalize:false"], ""),  # other tasks, or other spaces
    ]:
        done = zoo_process(*common, "--env", env_id, *flags, *trained, cwd=tmp_path)
        assert done.returncode == 1
        assert done.stderr.endswith(message)
    done = zoo_process(*common, "--env", body, *short, "-i", logs / f"{body}_1" / "best_model.zip", cwd=tmp_path)
    assert done.stderr.endswith(f"best_model.zip does not exist; models there: {body}.zip\n")
    assert [folder.name for folder in logs.iterdir()] == [f"{body}_1"]


@pytest.mark.slow
def test_what_cannot_be_done_is_one_message(tmp_path):
    (tmp_path / "wandb.py").write_text("raise ImportError('broken')")  # as if it were missing
    for command, message in [
        (["enjoy", "--no-render", "--norm-reward"], "--norm-reward is not for several tasks"),
        (["train", "--track"], "please install W&B via `pip install wandb`"),
        (["train", "--gym-packages", "no_such_package"], "No module named 'no_such_package'"),
    ]:
        done = zoo_process(*command, "--algo", "a2c_mt", "--env", SET, cwd=tmp_path)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="other systems have no variable that says so")
def test_enjoy_without_a_screen_says_what_can_be_done(tmp_path, monkeypatch):
    for screen in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(screen, raising=False)
    done = zoo_process("enjoy", "--algo", "a2c_mt", "--env", SET, cwd=tmp_path)
    assert done.returncode == 1
    assert re.fullmatch("Error: There is no screen .*--no-render .*record_video .*--output film.mp4.*\n", done.stderr)


@pytest.mark.slow
def test_ids_of_other_packages(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import gymnasium as gym, sb3_multitask\n"
        "big = gym.spec('HalfCheetahBigLeg-v0')\n"
        "gym.register('Mine-v0', big.entry_point, max_episode_steps=5, kwargs=big.kwargs)\n"
    )
    common = ["--algo", "a2c_mt", "--env", "Mine-v0", "--gym-packages", "mine"]
    zoo("train", *common, "-n", 100, "--eval-freq", -1, cwd=tmp_path)
    output = zoo("enjoy", *common, "-f", "logs", "--no-render", cwd=tmp_path)
    assert re.findall(r"Task (\S+): return \S+ in (\d+) steps", output) == [("Mine-v0", "5")]


@pytest.mark.slow
def test_the_zoo_is_as_it_was_afterwards(tmp_path):
    code = """
import sys, runpy, rl_zoo3.train, rl_zoo3.enjoy, rl_zoo3.exp_manager, rl_zoo3.utils, rl_zoo3.hyperparams_opt as search
modules = [rl_zoo3.train, rl_zoo3.enjoy, rl_zoo3.exp_manager, rl_zoo3.utils, search]
before = [dict(vars(m)) for m in modules], dict(rl_zoo3.ALGOS), dict(search.HYPERPARAMS_SAMPLER), list(sys.argv)
from sb3_multitask.zoo.__main__ import enjoy, train
common = ["--algo", "a2c_mt", "--env", "HalfCheetahBigLeg-v0"]
train([*common, "-n", "20", "--eval-freq", "-1"])
enjoy([*common, "-f", "logs", "--no-render", "-n", "5"])
after = [dict(vars(m)) for m in modules], dict(rl_zoo3.ALGOS), dict(search.HYPERPARAMS_SAMPLER), list(sys.argv)
assert before == after
"""
    done = python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


@pytest.mark.slow
def test_every_command_has_help(tmp_path):
    code = """
import contextlib, io, sys
from sb3_multitask.zoo.__main__ import COMMANDS, main
for command in COMMANDS:
    sys.argv = ["zoo", command, "--help"]
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.suppress(SystemExit):
        main()
    assert "usage:" in out.getvalue(), command
    assert ("--score" in out.getvalue()) == (command == "train")
    assert ("--save-figure" in out.getvalue()) == ("plot" in command)
"""
    done = python("-c", code, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


SETTINGS = {"score": "mean", "n_timesteps": 100, "hyperparameters": {"gamma": 0.99, "policy_kwargs": {"a": [1, 2]}}}
ANOTHER = [
    ({"score": "worst"}, "score .'mean' there, 'worst' now"),
    ({"n_timesteps": 200}, "n_timesteps .100 there, 200 now"),
    ({"hyperparameters": {"gamma": 0.9, "policy_kwargs": {"a": [1, 2]}}}, "gamma .0.99 there, 0.9 now"),
    ({"hyperparameters": {"policy_kwargs": {"a": [1]}}}, r"gamma .0.99 there, None now., a .\[1, 2\] there, \[1\] now"),
]


@pytest.mark.parametrize("storage", ["study.log", "sqlite:///study.db"])
@pytest.mark.parametrize(("another", "message"), ANOTHER)
def test_a_study_holds_trials_of_one_score_budget_and_config(tmp_path, monkeypatch, another, message, storage):
    monkeypatch.chdir(tmp_path)
    check_study(storage, "s", SETTINGS)
    check_study(storage, "s", SETTINGS)  # continued, or another worker
    with pytest.raises(ConfigError, match=message):
        check_study(storage, "s", {**SETTINGS, **another})
    check_study(storage, "another", {**SETTINGS, **another})


def test_a_study_that_names_only_its_trials_scores_is_not_mixed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    study = optuna.create_study(storage="sqlite:///study.db", study_name="s", direction="maximize")
    trial = study.ask()
    trial.set_user_attr("score", "worst")
    study.tell(trial, 1.0)
    with pytest.raises(ConfigError, match=r"score .'worst' there, 'mean' now"):
        check_study("sqlite:///study.db", "s", SETTINGS)
    check_study("sqlite:///study.db", "s", {**SETTINGS, "score": "worst"})


@pytest.mark.slow
def test_a_search_does_not_go_on_with_another_score_or_budget(tmp_path):
    study = ["--storage", "logs/study.log", "--study-name", "s", "--optimize", "--n-trials", 1, "--n-evaluations", 1]
    short = ["--env-kwargs", "max_episode_steps:5", "--eval-episodes", 1, "-params", "n_envs:1"]
    common = ["train", "--algo", "a2c_mt", "--env", SET, *study, *short]
    zoo(*common, "-n", 60, cwd=tmp_path)
    for flags, named in (
        (["-n", 60, "--score", "worst"], "score ("),
        (["-n", 120], "n_timesteps (60 there, 120 now)"),
        (["-n", 60, "-params", "n_envs:1", "vf_coef:0.9"], "vf_coef ("),
    ):
        done = zoo_process(*common, *flags, cwd=tmp_path)
        assert done.returncode == 1
        assert named in done.stderr
    assert "Number of finished trials:  2" in zoo(*common, "-n", 60, cwd=tmp_path)
