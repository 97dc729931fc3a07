"""What SB3's tests ask of its algorithms, asked of ours: nothing that an SB3 user knows is lost with several tasks."""

import io
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from gymnasium.utils.env_checker import check_env as check_for_gymnasium
from helpers.drift import DriftEnv, drift_tasks
from helpers.models import model_on, weights_equal
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    CheckpointCallback,
    ConvertCallback,
    EvalCallback,
    EveryNTimesteps,
    LogEveryNTimesteps,
    ProgressBarCallback,
    StopTrainingOnMaxEpisodes,
    StopTrainingOnNoModelImprovement,
    StopTrainingOnRewardThreshold,
)
from stable_baselines3.common.env_checker import check_env as check_for_sb3
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

import sb3_multitask as mt

MODES = ("per_task", "shared", "state_dependent")
WAYS = [(schedule, engine) for schedule in ("joint", "cycle") for engine in ("fast", "torch")]


def make_env(seed=0, **kwargs):
    return mt.make_multitask_vec_env(drift_tasks(3, high=0.5), 2, seed=seed, **kwargs)


def small_model(**kwargs):
    return model_on(make_env(), **kwargs)


def observations(n_rows=6):
    rng = np.random.default_rng(0)
    return {"obs": rng.normal(size=(n_rows, 3)).astype(np.float32), "task": np.arange(n_rows) % 3}


def actions_of(model, **kwargs):
    return model.predict(observations(), deterministic=True, **kwargs)[0]


# It learns what is known


class IdentityEnv(gym.Env):
    """The action should repeat a number that is shown, times ``sign``; the reward of a step is 0 at best."""

    observation_space = spaces.Box(-1, 1, (1,), dtype=np.float32)
    action_space = spaces.Box(-1, 1, (1,), dtype=np.float32)

    def __init__(self, sign=1.0):
        self.sign = sign

    def _shown(self):
        self.number = self.np_random.uniform(-0.8, 0.8, size=1).astype(np.float32)
        return self.number

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.time = 0
        return self._shown(), {}

    def step(self, action):
        self.time += 1
        reward = -abs(float(action[0]) - self.sign * float(self.number[0]))
        return self._shown(), reward, False, self.time >= 10, {}


@pytest.mark.slow
@pytest.mark.parametrize(("schedule", "engine"), WAYS)
def test_opposite_tasks_are_both_solved(schedule, engine):
    """One trunk, two heads, and what is right for one is wrong for the other."""
    tasks = [mt.Task("same", IdentityEnv), mt.Task("opposite", IdentityEnv, {"sign": -1.0})]
    env = mt.make_multitask_vec_env(tasks, 8, seed=0, normalize={"gamma": 0.0})
    kwargs = {"gamma": 0.0, "learning_rate": lambda progress: 3e-3 * progress, "policy_kwargs": {"log_std_init": -1.0}}
    model = mt.A2CMultiTask(
        "MultiTaskMlpPolicy", env, seed=0, device="cpu", task_schedule=schedule, engine=engine, **kwargs
    )
    before = mt.evaluate_tasks(model, n_eval_episodes=10)
    assert all(result.mean_reward < -3 for result in before.values())  # 10 steps, off by 0.4 on average
    model.learn(60_000)
    for task, result in mt.evaluate_tasks(model, n_eval_episodes=10).items():
        assert result.mean_reward > -1, f"{task}: {result.mean_reward}"  # off by less than 0.1


# Files


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(("schedule", "engine"), WAYS)
def test_what_is_saved_is_what_is_loaded(mode, schedule, engine, tmp_path):
    engine = "torch" if mode == "state_dependent" else engine
    kwargs = {
        "policy_kwargs": {"log_std_mode": mode, "head_arch": {"pi": [8]}},
        "learning_rate": lambda left: 1e-3 * left,
    }
    model = small_model(task_schedule=schedule, engine=engine, **kwargs).learn(120)
    assert model.last_engine == engine
    model.save(tmp_path / "model")
    for env in (None, make_env(seed=3)):
        loaded = mt.A2CMultiTask.load(tmp_path / "model", env=env, device="cpu")
        assert weights_equal(model, loaded)
        np.testing.assert_array_equal(actions_of(loaded), actions_of(model))
        assert (loaded.task_schedule, loaded.engine, loaded.num_timesteps) == (schedule, engine, model.num_timesteps)
        assert loaded.lr_schedule(0.5) == 5e-4
        mine, theirs = (one.policy.optimizer.state_dict()["state"] for one in (model, loaded))
        assert all(th.equal(mine[i]["square_avg"], theirs[i]["square_avg"]) for i in mine)
    loaded.learn(60, reset_num_timesteps=False)
    assert not weights_equal(model, loaded)


@pytest.mark.parametrize("kind", [str, Path])
@pytest.mark.parametrize("name", ["model", "model.zip", "deep/er/model", "model_v1.5"])
def test_paths_are_texts_or_paths_with_or_without_zip(kind, name, tmp_path):
    model = small_model()
    model.save(kind(tmp_path / name))
    written = [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()]
    assert written == [name if "." in name else f"{name}.zip"]
    assert weights_equal(model, mt.A2CMultiTask.load(kind(tmp_path / name)))
    assert weights_equal(model, mt.A2CMultiTask.load(kind(tmp_path / written[0]), env=make_env()))


def test_files_that_are_open_are_written_and_read(tmp_path):
    model = small_model().learn(60)
    memory = io.BytesIO()
    model.save(memory)
    with (tmp_path / "model.zip").open("wb") as file:
        model.save(file)
    for env in (None, make_env()):
        memory.seek(0)
        assert weights_equal(model, mt.A2CMultiTask.load(memory, env=env))
        with (tmp_path / "model.zip").open("rb") as file:
            assert weights_equal(model, mt.A2CMultiTask.load(file, env=env))


def test_what_is_excluded_is_not_in_the_file_unless_it_is_included(tmp_path):
    model = small_model(verbose=0)
    model.note = "kept"
    model.save(tmp_path / "all")
    model.save(tmp_path / "less", exclude=["note"])
    model.save(tmp_path / "more", exclude=["note"], include=["note"])
    found = [hasattr(mt.A2CMultiTask.load(tmp_path / name), "note") for name in ("all", "less", "more")]
    assert found == [True, False, True]


def test_custom_objects_replace_what_the_file_holds(tmp_path):
    small_model(learning_rate=lambda left: 1e-3 * left).save(tmp_path / "model")
    for env in (None, make_env()):
        loaded = mt.A2CMultiTask.load(tmp_path / "model", env=env, custom_objects={"learning_rate": 0.25, "n_steps": 3})
        assert loaded.lr_schedule(1) == 0.25
        assert loaded.n_steps == 3
    loaded.learn(2 * 3 * 6)
    assert loaded._n_updates == 2


def test_parameters_have_sb3s_names_and_others_are_refused():
    model = small_model()
    parameters = model.get_parameters()
    assert set(parameters) == {"policy", "policy.optimizer"}
    before = actions_of(model)
    model.learn(120)
    assert not np.array_equal(actions_of(model), before)
    changed = {name: th.zeros_like(value) for name, value in parameters["policy"].items()}
    model.set_parameters({"policy": changed}, exact_match=False)
    assert not actions_of(model).any()
    with pytest.raises(ValueError, match="policy.optimizer"):
        model.set_parameters({"policy": changed})
    with pytest.raises(ValueError, match="critic"):
        model.set_parameters({"critic": changed}, exact_match=False)


def test_loading_can_tell_the_systems_it_was_saved_and_loaded_on(tmp_path, capsys):
    small_model().save(tmp_path / "model")
    mt.A2CMultiTask.load(tmp_path / "model", print_system_info=True)
    assert "SAVED MODEL SYSTEM INFO" in capsys.readouterr().out


# Predictions


def test_predictions_have_the_shape_of_what_is_asked():
    model = small_model()
    obs = observations()
    assert model.predict(obs)[0].shape == (6, 2)
    assert model.predict({key: value[:1] for key, value in obs.items()})[0].shape == (1, 2)
    together, _ = model.predict(obs, deterministic=True)
    for row in range(6):
        for task in (obs["task"][row], int(obs["task"][row]), np.array(obs["task"][row])):
            action, state = model.predict({"obs": obs["obs"][row], "task": task}, deterministic=True)
            assert action.shape == (2,)
            assert state is None
            np.testing.assert_allclose(action, together[row], atol=1e-6)


@pytest.mark.parametrize(
    ("observation", "message"),
    [
        (np.zeros(3), r"must be \{'obs': .*, 'task': .*TaskEnv"),
        ({"obs": np.zeros(3)}, r"must be \{'obs': .*got the keys obs\)"),
        ({"obs": np.zeros(3), "task": 0, "goal": 1}, r"got the keys goal, obs, task\)"),
        ({"obs": np.zeros((2, 2)), "task": np.zeros(2)}, "observation shape"),
        ({"obs": np.zeros(3), "task": 3}, "task ids from 0 to 2"),
        ({"obs": np.zeros((2, 3)), "task": np.array([0, -1])}, "task ids from 0 to 2"),
        (({"obs": np.zeros(3), "task": 0}, {}), "tuple"),  # what Gymnasium's reset returns; SB3 says it
    ],
)
def test_what_a_model_cannot_act_on_is_refused_with_the_reason(observation, message):
    with pytest.raises(ValueError, match=message):
        small_model().predict(observation)


def test_the_mean_is_the_same_every_time_and_samples_follow_the_seed():
    model = small_model()
    np.testing.assert_array_equal(actions_of(model), actions_of(model))
    draws = []
    for seed in (1, 1, 2):
        model.set_random_seed(seed)
        draws.append(model.predict(observations())[0])
    np.testing.assert_array_equal(draws[0], draws[1])
    assert not np.array_equal(draws[0], draws[2])
    assert all(np.abs(draw).max() <= 0.5 for draw in draws)


def test_a_model_lives_where_it_is_told(tmp_path):
    model = small_model()
    assert model.device == th.device("cpu") == model.policy.device
    model.save(tmp_path / "model")
    for device in ("cpu", th.device("cpu")):
        assert mt.A2CMultiTask.load(tmp_path / "model", device=device).device.type == "cpu"


# Callbacks


@pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")  # SB3 ignores it at import; pytest undoes that
@pytest.mark.parametrize(("schedule", "engine"), WAYS)
def test_all_of_sb3s_callbacks_together(schedule, engine, tmp_path, capsys):
    model = small_model(task_schedule=schedule, engine=engine)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    eval_env = make_env(seed=1, training=False)
    calls = []
    per_call = model.n_envs
    callbacks = CallbackList(
        [
            CheckpointCallback(30, str(tmp_path / "checkpoints"), save_vecnormalize=True),
            EvalCallback(
                eval_env, n_eval_episodes=6, eval_freq=60 // per_call, verbose=0, best_model_save_path=str(tmp_path)
            ),
            EveryNTimesteps(60, ConvertCallback(lambda *_: calls.append(model.num_timesteps) or True)),
            LogEveryNTimesteps(60),
            ProgressBarCallback(),
            StopTrainingOnMaxEpisodes(10_000),
        ]
    )
    try:
        model.learn(360, callbacks, log_interval=10_000)
    finally:
        model.logger.close()
    assert model.num_timesteps == 360
    assert calls == [60, 120, 180, 240, 300, 360]
    header, *lines = (line.split(",") for line in (tmp_path / "progress.csv").read_text().splitlines())
    logged = [int(line[header.index("time/total_timesteps")]) for line in lines]
    assert list(dict.fromkeys(logged)) == calls  # twice each: the evaluation writes a line too
    assert mt.A2CMultiTask.load(tmp_path / "best_model").task_names == ("A", "B", "C")
    n_saved = len(list((tmp_path / "checkpoints").glob("rl_model_*_steps.zip")))
    assert n_saved == 360 // (30 * per_call)
    assert "360/360" in capsys.readouterr().out


class Indifferent(DriftEnv):
    """All actions are worth the same, so no agent is better than another."""

    def step(self, action):
        obs, _, *rest = super().step(action)
        return obs, 1.0, *rest


@pytest.mark.parametrize("kind", [EvalCallback, mt.MultiTaskEvalCallback])
def test_evaluations_can_stop_training(kind):
    tasks = [mt.Task(name, Indifferent) for name in "AB"]

    def steps_with(**kwargs):
        model = mt.A2CMultiTask("MultiTaskMlpPolicy", mt.make_multitask_vec_env(tasks, 2, seed=0), device="cpu")
        eval_env = mt.make_multitask_vec_env(tasks, 1, seed=1, training=False)
        eval_freq = 40 if kind is mt.MultiTaskEvalCallback else 10  # ours counts steps, SB3's calls
        return model.learn(
            600, kind(eval_env, n_eval_episodes=2, eval_freq=eval_freq, verbose=0, **kwargs)
        ).num_timesteps

    assert steps_with(callback_on_new_best=StopTrainingOnRewardThreshold(7)) == 40  # 7 steps with reward 1
    assert steps_with(callback_on_new_best=StopTrainingOnRewardThreshold(7.1)) == 600
    assert steps_with(callback_after_eval=StopTrainingOnNoModelImprovement(2, min_evals=1)) == 4 * 40


@pytest.mark.parametrize(("schedule", "engine"), WAYS)
def test_callbacks_are_told_everything_in_order(schedule, engine):
    told = []

    class Watch(BaseCallback):
        def _init_callback(self):
            told.append("init")

        def _on_training_start(self):
            told.append("start")

        def _on_rollout_start(self):
            told.append("(")

        def _on_step(self):
            told.append(".")
            return True

        def _on_rollout_end(self):
            told.append(")")

        def _on_training_end(self):
            told.append("end")

    model = small_model(task_schedule=schedule, engine=engine, n_steps=2)
    model.learn(3 * 2 * model.n_envs, [Watch()])
    assert "".join(told) == "initstart" + "(..)" * 3 + "end"


# Logs and counts


def test_logs_go_to_a_table_and_to_text(tmp_path, capsys):
    model = small_model()
    model.set_logger(configure(str(tmp_path), ["stdout", "log", "json"]))
    model.learn(60, log_interval=1)
    model.logger.close()
    for text in (capsys.readouterr().out, (tmp_path / "log.txt").read_text()):
        assert text.count("| time/ ") == 3  # a line before each of two updates, and what the last one came to
        assert "total_timesteps" in text
        assert "explained_variance" in text
    assert len((tmp_path / "progress.json").read_text().splitlines()) == 3


@pytest.mark.parametrize(("schedule", "engine"), WAYS)
def test_steps_go_on_or_begin_anew(schedule, engine):
    model = small_model(task_schedule=schedule, engine=engine)
    cycle = 5 * model.n_envs * (3 if schedule == "cycle" else 1)
    model.learn(2 * cycle)
    model.learn(cycle, reset_num_timesteps=False)
    assert model.num_timesteps == 3 * cycle
    model.learn(cycle)
    assert model.num_timesteps == cycle


# Environments


def single(task="A", **kwargs):
    return mt.TaskEnv(gym.wrappers.TimeLimit(DriftEnv(**kwargs), 50), task, ["A", "B", "C"])


@pytest.mark.parametrize("algorithm", [mt.A2CMultiTask, PPO])
def test_stock_vec_envs_of_single_task_envs_are_enough(algorithm):
    """SB3's tests with Dict observations: a DummyVecEnv, each of whose envs carries its own task."""
    venv = VecMonitor(DummyVecEnv([lambda name=name: single(name) for name in "ABCA"]), info_keywords=("task",))
    kwargs = {} if algorithm is mt.A2CMultiTask else {"n_steps": 8, "batch_size": 16}
    model = algorithm(mt.MultiTaskActorCriticPolicy, venv, seed=0, device="cpu", **kwargs)
    before = {name: value.clone() for name, value in model.policy.state_dict().items()}
    model.learn(200)
    assert {episode["task"] for episode in model.ep_info_buffer} == {"A", "B", "C"}
    assert all(not th.equal(before[name], value) for name, value in model.policy.state_dict().items())


def test_evaluate_policy_takes_single_envs_and_monitored_ones(venv):
    model = small_model()
    for env in (single(), DummyVecEnv([single]), VecMonitor(DummyVecEnv([single, single]))):
        stock = VecMonitor(DummyVecEnv([lambda one=env: one])) if isinstance(env, gym.Env) else env
        warns = isinstance(env, DummyVecEnv)
        returns, lengths = evaluate_policy(model, stock, 4, return_episode_rewards=True, warn=not warns)
        assert len(returns) == len(lengths) == 4
        assert set(lengths) == {7}
    mean, std = evaluate_policy(model, venv, 6)
    assert np.isfinite([mean, std]).all()


# Gymnasium and SB3 advise against unbounded observations, which every MuJoCo env of Gymnasium has.
@pytest.mark.filterwarnings("ignore:.*A Box observation space m..imum value is")
@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")  # TaskEnv is a wrapper
@pytest.mark.filterwarnings("ignore:.*For Box action spaces, we recommend")  # Pendulum's are beyond 1
@pytest.mark.parametrize(
    "env_id",
    [
        "Pendulum-v1",
        "HalfCheetahBigFoot-v0",
        "HopperSimpleWall-v0",
        "Walker2dGravityHalf-v0",
        "HalfCheetahWithSensor-v0",
    ],
)
def test_both_libraries_check_environments_with_a_task(env_id):
    env = mt.TaskEnv(gym.make(env_id), "second", ["first", "second"])
    check_for_sb3(env, warn=env_id != "Pendulum-v1")  # it has actions beyond 1
    check_for_gymnasium(env, skip_render_check=True)
    if env_id != "Pendulum-v1":
        check_for_sb3(gym.make(env_id))


def test_bounds_in_single_precision_are_no_reason_to_warn():
    """Gymnasium's Pendulum has them, as most environments without MuJoCo."""
    env = mt.make_multitask_vec_env([mt.Task("a", "Pendulum-v1"), mt.Task("b", "Pendulum-v1")], 1)
    assert env.observation_space["obs"].high.tolist() == [1.0, 1.0, 8.0]
