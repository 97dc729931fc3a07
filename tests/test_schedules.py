"""Settings that change with the training: what they are worth when, in configs, on command lines and in files."""

import pickle

import pytest
import typer
from helpers.drift import drift_tasks
from typer.testing import CliRunner

import sb3_multitask as mt
from sb3_multitask.cli import app
from sb3_multitask.experiments.config import ConfigError, TrainConfig, dump_config, load_config, make_config
from sb3_multitask.experiments.schedules import SCHEDULES, as_schedule
from sb3_multitask.zoo.settings import constructor_arguments

PPO = {"algo": "ppo", "tasks": "HalfCheetahBody6"}


def test_a_value_holds_from_its_share_of_the_training_on():
    schedule = mt.PiecewiseConstant({0: 3.0, 0.25: 1.0, 0.5: 2.0})
    shares = (-0.1, 0.0, 0.2, 0.25, 0.4, 0.5, 0.9, 1.0, 1.3)
    assert [schedule(1 - share) for share in shares] == [3.0, 3.0, 3.0, 1.0, 1.0, 2.0, 2.0, 2.0, 2.0]


def test_a_step_comes_at_its_very_rollout():
    """SB3's remaining progress is rounded: 1 - 0.9 is less than 0.1."""
    for i in range(1, 1000):
        schedule = mt.PiecewiseConstant({0: 0.0, i / 1000: 1.0})
        before, at = (schedule(1.0 - done / 7000) for done in (7 * i - 1, 7 * i))
        assert (before, at) == (0.0, 1.0)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({}, "mapping from shares"),
        ([0.1, 0.2], "mapping from shares"),
        ({0.1: 1.0}, "share 0 .* not from 0.1"),
        ({0: 1.0, 0.5: 2.0, 0.2: 1.0}, "0.2 stands after 0.5"),
        ({"0": 1.0, "0.0": 2.0}, "0 stands after 0"),
        ({0: 1.0, 1: 2.0}, "below 1: 1 stands"),
        ({0: 1.0, 30: 2.0}, "below 1: 30 stands"),
        ({0: 1.0, 0.5: -1.0}, "not negative, also from 0.5 on: -1"),
        ({0: float("nan")}, "finite .* from 0 on: nan"),
        ({0: "much"}, "mapping from shares.*'much'"),
        ({0: True}, "mapping from shares.*True"),
        ({0: 1.0, "later": 2.0}, "mapping from shares.*'later'"),
    ],
)
def test_steps_that_are_none_are_refused(values, message):
    with pytest.raises(ValueError, match=f"`values` must .*{message}"):
        mt.PiecewiseConstant(values)
    for settings in ({**PPO, "rl_coef": values}, {**PPO, "algo_kwargs": {"clip_range": values}}):
        accepted = message if isinstance(values, dict) else "a number, or lin_"
        with pytest.raises(ConfigError, match=rf"`(rl_coef|algo_kwargs)`: .*must .*{accepted}"):
            make_config(TrainConfig, settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"student_rollout_prob": {0: 1.0, 0.5: 1.5}}, "`student_rollout_prob`: must be at most 1"),
        ({"gamma": {0: 0.9}}, "`gamma`"),
        ({"algo_kwargs": {"target_kl": {0: 0.1, 0.5: 0.2}}}, "target_kl takes no schedule .*clip_range"),
        ({"sequential": True, "learning_rate": {0: 0.1, 0.5: 0.2}}, "constant learning_rate"),
    ],
)
def test_where_no_schedule_is_taken_it_is_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        make_config(TrainConfig, {**PPO, **settings})


def test_every_schedulable_setting_takes_steps_and_a_file_keeps_them(tmp_path):
    own = {name: {0: 0.2, 0.5: 0.1} for name in ("clip_range", "clip_range_vf")}
    others = {name: {0: 0.5, 0.3: 1} for name in SCHEDULES if name not in own}
    config = make_config(TrainConfig, {**PPO, **others, "algo_kwargs": own})
    arguments = config.algorithm_kwargs()
    for name in SCHEDULES:
        assert arguments[name](1.0) == (0.2 if name in own else 0.5)
        assert arguments[name](0.2) == (0.1 if name in own else 1.0)
    dump_config(config, tmp_path / "run.yml")
    assert load_config(TrainConfig, tmp_path / "run.yml") == config


def test_a_file_says_it_plainly(tmp_path):
    (tmp_path / "run.yml").write_text("rl_coef: {0: 0.0, 0.3: 1.0}\nlearning_rate: {0: 7e-4, 0.5: 1e-4}\n")
    config = load_config(TrainConfig, tmp_path / "run.yml")
    assert config.rl_coef == {0.0: 0.0, 0.3: 1.0}
    assert config.learning_rate == {0.0: 7e-4, 0.5: 1e-4}
    (tmp_path / "run.yml").write_text("seed: 1\nrl_coef: {0.3: 1.0}\n")
    with pytest.raises(ConfigError, match=r"run\.yml:2: `rl_coef`: .*share 0"):
        load_config(TrainConfig, tmp_path / "run.yml")


def test_a_flag_takes_them(monkeypatch, tmp_path):
    seen = []
    monkeypatch.setattr("sb3_multitask.experiments.train.train_run", lambda config, *_: seen.append(config))
    monkeypatch.chdir(tmp_path)
    flags = ["--rl-coef", "{0: 0, 0.3: 1}", "--algo", "ppo", "--algo-kwargs", "{clip_range: {0: 0.2, 0.5: 0.1}}"]
    CliRunner().invoke(app, ["train", *flags])
    assert seen[0].rl_coef == {0.0: 0.0, 0.3: 1.0}
    assert seen[0].algorithm_kwargs()["clip_range"](0.4) == 0.1
    flags = {flag.name: flag for flag in typer.main.get_command(app).commands["train"].params}
    assert flags["critic_coef"].metavar == "NUMBER|lin_NUMBER|YAML"


def test_rl_zoos_configs_take_them():
    arguments = constructor_arguments(
        {"n_timesteps": 1, "learning_rate": {"0": 1e-3, "0.5": 1e-4}, "rl_coef": {0: 0.5}}
    )
    assert [arguments["learning_rate"](left) for left in (1.0, 0.5)] == [1e-3, 1e-4]
    assert arguments["rl_coef"] == 0.5
    with pytest.raises(ConfigError, match="`rl_coef` .*share 0"):
        constructor_arguments({"rl_coef": {0.5: 1.0}})


def test_one_step_is_a_number_and_is_checked_as_one():
    assert as_schedule({0: 0.3}) == 0.3
    make_config(TrainConfig, {"sequential": True, "learning_rate": {0: 1e-3}})


def test_it_is_a_value():
    schedule = mt.PiecewiseConstant({0: 0.0, 0.5: 1.0})
    assert pickle.loads(pickle.dumps(schedule)) == schedule
    assert schedule != mt.PiecewiseConstant({0: 0.0, 0.4: 1.0})
    assert len({schedule, mt.PiecewiseConstant({0.0: 0, 0.5: 1})}) == 1
    assert repr(schedule) == "PiecewiseConstant({0.0: 0.0, 0.5: 1.0})"


def test_a_model_that_is_saved_keeps_it(tmp_path):
    given = {"clip_range": mt.PiecewiseConstant({0: 0.2, 0.5: 0.1}), "learning_rate": mt.PiecewiseConstant({0: 1e-3})}
    env = mt.make_multitask_vec_env(drift_tasks(2), 1, seed=0)
    mt.PPOMultiTask("MultiTaskMlpPolicy", env, n_steps=8, batch_size=8, **given).learn(16).save(tmp_path / "model")
    loaded = mt.PPOMultiTask.load(tmp_path / "model")
    assert loaded.learning_rate == given["learning_rate"]
    assert [loaded.clip_range(left) for left in (0.6, 0.5)] == [0.2, 0.1]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.filterwarnings("ignore:A run that resumes")
def test_a_checkpoint_knows_another_schedule(tmp_path, name):
    def train(n_timesteps, share):
        env = mt.make_multitask_vec_env(drift_tasks(2), 1, seed=0)
        settings = {"n_steps": 8, "batch_size": 8, "seed": 0, "teachers": teachers}
        settings[name] = mt.PiecewiseConstant({0: 0.5, share: 0.2})
        callback = mt.ResumableCheckpointCallback(tmp_path, every=16, verbose=0)
        mt.PPOMultiTask("MultiTaskMlpPolicy", env, **settings).learn(n_timesteps, callback)

    env = mt.make_multitask_vec_env(drift_tasks(2), 1, seed=0)
    teachers = dict.fromkeys("AB", mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=0))
    train(32, 0.5)
    with pytest.raises(mt.CheckpointError, match=rf"{name}: .*0\.5: 0\.2.* then, .*0\.4: 0\.2.* now"):
        train(64, 0.4)
    train(64, 0.5)
