import csv
import re
import threading

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from helpers.drift import DriftEnv, drift_tasks
from helpers.models import make_model, weights_equal
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecCheckNan, VecNormalize

import sb3_multitask as mt
from sb3_multitask.algorithms.engine import why_torch

HALF_CHEETAHS = "HalfCheetahBody6"


# The same mathematics as SB3


@pytest.mark.parametrize("kwargs", [{}, {"gae_lambda": 0.9, "ent_coef": 0.01, "normalize_advantage": True}])
def test_joint_is_sb3s_a2c_bit_for_bit(kwargs):
    """Six tasks, 200 updates, every weight and every optimizer state."""
    ours = make_model(HALF_CHEETAHS, engine="torch", **kwargs)
    env = mt.make_multitask_vec_env(HALF_CHEETAHS, 2, seed=0)
    theirs = A2C(mt.MultiTaskActorCriticPolicy, env, seed=0, device="cpu", **kwargs)
    n_steps = 200 * 5 * 12
    # one after the other: both draw from torch's and numpy's global generators
    assert_same_training(ours, theirs, n_steps)


@pytest.mark.parametrize("normalize", [True, False])
def test_cycle_with_one_task_is_sb3s_a2c_bit_for_bit(normalize):
    def env():
        return mt.make_multitask_vec_env("HalfCheetahSmallFoot-v0", 3, seed=0, normalize=normalize)

    ours = mt.A2CMultiTask("MultiTaskMlpPolicy", env(), seed=0, device="cpu", task_schedule="cycle", engine="torch")
    theirs = A2C(mt.MultiTaskActorCriticPolicy, env(), seed=0, device="cpu")
    assert_same_training(ours, theirs, 200 * 5 * 3)


def assert_same_training(ours, theirs, n_steps):
    for model in (ours, theirs):
        model.set_random_seed(0)
        model.learn(n_steps)
    assert ours.num_timesteps == theirs.num_timesteps == n_steps
    assert ours._n_updates == theirs._n_updates == 200
    assert weights_equal(ours, theirs)
    for mine, other in zip(ours.policy.optimizer.state.values(), theirs.policy.optimizer.state.values(), strict=True):
        assert th.equal(mine["square_avg"], other["square_avg"])


@pytest.mark.parametrize("schedule", ["joint", "cycle"])
def test_same_seed_same_bits_and_another_seed_differs(schedule):
    models = [make_model(seed=seed, task_schedule=schedule).learn(300) for seed in (0, 0, 1)]
    assert weights_equal(models[0], models[1])
    assert not weights_equal(models[0], models[2])


def test_a_cycle_updates_one_task_after_the_other():
    model = make_model(task_schedule="cycle")
    tasks_seen, heads = [], []

    class Watch(BaseCallback):
        def _on_rollout_start(self):
            heads.append(self.model.policy.action_net.layers[0].weight.detach().clone())

        def _on_step(self):
            tasks_seen.append(self.locals["new_obs"]["task"].tolist())
            assert self.training_env.num_envs == self.model.n_envs == 2
            return True

    model.learn(4 * 5 * 2, Watch())  # 4 rollouts asked for, two cycles made
    assert tasks_seen[::5] == [[0, 0], [1, 1], [2, 2], [0, 0], [1, 1], [2, 2]]
    assert model.num_timesteps == 6 * 5 * 2
    for update in range(5):
        changed = (heads[update + 1] != heads[update]).flatten(1).any(1).tolist()
        assert changed[update % 3]
        # RMSprop moves no weight whose gradient is and was 0; others may still be moved by nothing
        assert changed.count(True) == 1


def test_learning_goes_on_where_a_cycle_stopped():
    model = make_model(task_schedule="cycle")
    stop = StopAfter(7)  # in the middle of the second task's rollout
    model.learn(300, stop)
    assert model.get_env().active_task == 1
    model.learn(10, reset_num_timesteps=False)
    assert model.get_env().active_task == 0
    model.learn(1)
    assert (model.num_timesteps, model.get_env().active_task) == (30, 0)


class StopAfter(BaseCallback):
    def __init__(self, n_calls):
        super().__init__()
        self.stop_at = n_calls

    def _on_step(self):
        return self.n_calls < self.stop_at


# What SB3 users expect of learn


def test_callbacks_see_sb3s_locals_and_the_models_env():
    seen = set()

    class Watch(BaseCallback):
        def _on_step(self):
            seen.update(self.locals)
            return True

    make_model().learn(30, Watch())
    assert {"actions", "rewards", "dones", "infos", "new_obs", "clipped_actions", "n_steps"} <= seen


def test_logs_have_sb3s_keys_and_each_tasks(tmp_path):
    from stable_baselines3.common.logger import configure

    model = make_model()
    logger = configure(str(tmp_path), ["csv", "json", "tensorboard"])
    model.set_logger(logger)
    model.learn(400, log_interval=10)
    header = (tmp_path / "progress.csv").read_text().splitlines()[0].split(",")
    expected = [
        "rollout/ep_rew_mean",
        "time/fps",
        "train/policy_loss",
        "train/std",
        "train/explained_variance",
    ]
    expected += [f"rollout/{task}/ep_rew_mean" for task in "ABC"]
    expected += [
        f"train/{task}/{term}" for task in "ABC" for term in ("policy_loss", "value_loss", "entropy_loss", "std")
    ]
    assert set(expected) <= set(header)
    logger.close()


def test_tensorboard_log_folder_is_named_like_sb3s(tmp_path):
    make_model(tensorboard_log=str(tmp_path)).learn(30)
    assert [path.name for path in tmp_path.iterdir()] == ["A2CMultiTask_1"]


def test_long_task_names_do_not_crash_the_table(capsys):
    names = [f"HalfCheetahWithAVeryLongNameIndeedAndMore{i}-v0" for i in range(2)]
    tasks = [mt.Task(name, DriftEnv) for name in names]
    make_model(tasks, verbose=1).learn(200, log_interval=1)
    out = capsys.readouterr().out
    assert all(f"{name}/ep_rew_mean" in out for name in names)


@pytest.mark.filterwarnings("ignore::tqdm.TqdmExperimentalWarning")  # SB3 ignores it at import; pytest undoes that
def test_progress_bar(capsys):
    make_model().learn(60, progress_bar=True)
    assert "60/60" in capsys.readouterr().out


def test_training_stops_early_and_goes_on():
    model = make_model()
    model.learn(1000, StopTrainingOnMaxEpisodes(2))
    stopped = model.num_timesteps
    assert stopped < 1000
    model.learn(60, reset_num_timesteps=False)
    assert model.num_timesteps == stopped + 60
    model.learn(30)
    assert model.num_timesteps == 30


def test_ctrl_c_leaves_a_usable_model(tmp_path):
    class Interrupt(BaseCallback):
        def _on_step(self):
            if self.n_calls == 7:
                raise KeyboardInterrupt
            return True

    model = make_model()
    with pytest.raises(KeyboardInterrupt):
        model.learn(1000, Interrupt())
    model.save(tmp_path / "model")
    model.learn(30, reset_num_timesteps=False)
    assert mt.evaluate_tasks(model, n_eval_episodes=1)


def test_checkpoint_callback_saves_the_statistics_with_the_model(tmp_path):
    model = make_model()
    model.learn(120, CheckpointCallback(10, str(tmp_path), save_vecnormalize=True))
    loaded = mt.A2CMultiTask.load(tmp_path / "rl_model_60_steps.zip")
    assert loaded.num_timesteps == 60
    assert loaded.normalizer_state["obs_rms"]["mean"].shape == (3, 3)
    assert (tmp_path / "rl_model_vecnormalize_60_steps.pkl").exists()


# Envs and arguments


def test_tasks_as_strings_and_lists_become_a_normalised_env():
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", HALF_CHEETAHS, gamma=0.9, device="cpu")
    assert model.task_names == tuple(task.name for task in mt.TASK_SETS[HALF_CHEETAHS])
    assert model.get_vec_normalize_env().gamma == 0.9
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", ["HalfCheetahBigLeg-v0", *drift_tasks(0)], device="cpu")
    assert model.task_names == ("HalfCheetahBigLeg-v0",)


def test_a_single_task_env_is_enough():
    env = mt.TaskEnv(DriftEnv(), "A", ["A", "B"])
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=0, device="cpu").learn(50)
    assert model.task_names == ("A", "B")
    assert model.get_env().env_is_wrapped(Monitor) == [True]
    with pytest.raises(ValueError, match=r"`env=make_multitask_vec_env"):
        mt.evaluate_tasks(model)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"task_schedule": "round"}, "`task_schedule` must be one of joint, cycle .*'round'"),
        ({"engine": "jax"}, "`engine` must be one of auto, .*'jax'"),
        ({"policy": "MlpPolicy"}, "Unknown policy 'MlpPolicy'. Did you mean 'MultiTaskMlpPolicy'"),
        ({"env": "Pendulum-v1-x"}, "Unknown task set or environment id"),
        ({"env": DriftEnv()}, r"observations carry their task.*make_multitask_vec_env\(tasks\)"),
        ({"use_sde": True}, "gSDE"),
    ],
)
def test_bad_arguments_are_refused_with_the_remedy(kwargs, message):
    arguments = {"policy": "MultiTaskMlpPolicy", "env": list(drift_tasks(1)), "device": "cpu", **kwargs}
    with pytest.raises(ValueError, match=message):
        mt.A2CMultiTask(**arguments)


def test_cycling_envs_and_schedules_that_do_not_fit_are_refused():
    cycling = mt.TaskCyclingVecEnv(mt.make_multitask_vec_env(drift_tasks(2), 1))
    with pytest.raises(ValueError, match='task_schedule="joint" needs all tasks'):
        mt.A2CMultiTask("MultiTaskMlpPolicy", cycling)
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", cycling, task_schedule="cycle", device="cpu").learn(10)
    assert model.get_vec_normalize_env() is model.get_env()
    with pytest.raises(ValueError, match='task_schedule="cycle" needs a MultiTaskVecEnv'):
        mt.A2CMultiTask("MultiTaskMlpPolicy", mt.TaskEnv(DriftEnv(), "A", ["A"]), task_schedule="cycle")


# Saving and loading


@pytest.mark.parametrize("schedule", ["joint", "cycle"])
def test_save_and_load_keep_every_tasks_actions(schedule, tmp_path):
    model = make_model(task_schedule=schedule).learn(300)
    model.save(tmp_path / "model")
    env = mt.make_multitask_vec_env(drift_tasks(3), 4, seed=9)
    loaded = mt.A2CMultiTask.load(tmp_path / "model", env=env)
    obs = {"obs": np.random.default_rng(0).normal(size=(9, 3)).astype(np.float32), "task": np.arange(9) % 3}
    mine, theirs = (
        one.predict(one.get_vec_normalize_env().normalize_obs(obs), deterministic=True)[0] for one in (model, loaded)
    )
    np.testing.assert_array_equal(mine, theirs)
    assert (loaded.task_names, loaded.task_schedule, loaded.num_timesteps) == (("A", "B", "C"), schedule, 300)
    assert loaded.get_env().num_envs == loaded.n_envs == (12 if schedule == "joint" else 4)
    loaded.learn(60, reset_num_timesteps=False)
    assert loaded.num_timesteps == 360
    before = mt.evaluate_tasks(model, n_eval_episodes=3)
    assert mt.evaluate_tasks(mt.A2CMultiTask.load(tmp_path / "model"), n_eval_episodes=3) == before


@pytest.mark.parametrize("tasks", [drift_tasks(2), drift_tasks(3)[::-1]])
def test_loading_with_other_tasks_is_refused_and_shows_both(tasks, tmp_path):
    make_model().save(tmp_path / "model")
    env = mt.make_multitask_vec_env(tasks, 2)
    names = ", ".join(task.name for task in tasks)
    with pytest.raises(ValueError, match=f"(?s)model: A, B, C.*env:   {names}"):
        mt.A2CMultiTask.load(tmp_path / "model", env=env)
    model = make_model()
    with pytest.raises(ValueError, match=f"(?s)model: A, B, C.*env:   {names}"):
        model.set_env(env)


def test_a_normalised_model_refuses_an_env_that_does_not_normalise(tmp_path):
    make_model().save(tmp_path / "model")
    with pytest.raises(ValueError, match="trained on normalised observations"):
        mt.A2CMultiTask.load(tmp_path / "model", env=mt.MultiTaskVecEnv(drift_tasks(3)))


def test_a_vec_env_made_of_task_names_has_the_models_gamma_and_normalises_as_it_did(tmp_path):
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", HALF_CHEETAHS, gamma=0.9, device="cpu")
    model.save(tmp_path / "model")
    loaded = mt.A2CMultiTask.load(tmp_path / "model", env=HALF_CHEETAHS, device="cpu")
    assert loaded.get_vec_normalize_env().gamma == 0.9
    loaded = mt.A2CMultiTask.load(tmp_path / "model", env=HALF_CHEETAHS, gamma=0.8, device="cpu")
    assert loaded.get_vec_normalize_env().gamma == 0.8
    model.set_env(HALF_CHEETAHS)
    assert model.get_vec_normalize_env().gamma == 0.9
    raw = mt.A2CMultiTask(
        "MultiTaskMlpPolicy", mt.make_multitask_vec_env(HALF_CHEETAHS, 4, normalize=False), device="cpu"
    )
    raw.learn(10)
    raw.set_env(HALF_CHEETAHS)
    assert raw.get_vec_normalize_env() is None


def test_set_env_hands_the_statistics_over():
    model = make_model().learn(60)
    mean = model.get_vec_normalize_env().obs_rms["obs"].mean.copy()
    env = mt.make_multitask_vec_env(drift_tasks(3), 2, seed=5)
    model.set_env(env)
    np.testing.assert_array_equal(env.obs_rms["obs"].mean, mean)
    model.learn(60, reset_num_timesteps=False)
    assert not np.array_equal(env.obs_rms["obs"].mean, mean)


def test_parameters_travel_between_models(tmp_path):
    first, second = make_model(seed=0), make_model(seed=1)
    second.set_parameters(first.get_parameters())
    assert weights_equal(first, second)
    first.learn(60).save(tmp_path / "model")
    second.set_parameters(tmp_path / "model")
    assert weights_equal(first, second)


def test_learning_without_an_env_is_an_error(tmp_path):
    make_model().save(tmp_path / "model")
    with pytest.raises(ValueError, match=re.escape("A2CMultiTask.load(path, env=env)")):
        mt.A2CMultiTask.load(tmp_path / "model").learn(10)


def test_wrappers_around_the_normaliser_do_not_hide_it(tmp_path):
    def make():
        return VecCheckNan(mt.make_multitask_vec_env(drift_tasks(2), 1, seed=0))

    model = mt.A2CMultiTask("MultiTaskMlpPolicy", make(), device="cpu").learn(60)
    model.save(tmp_path / "model")
    env = make()
    mt.A2CMultiTask.load(tmp_path / "model", env=env)
    np.testing.assert_array_equal(env.venv.obs_rms["obs"].mean, model.get_vec_normalize_env().obs_rms["obs"].mean)
    with pytest.raises(ValueError, match="without other wrappers"):
        mt.A2CMultiTask("MultiTaskMlpPolicy", make(), task_schedule="cycle")
    nested = mt.make_multitask_vec_env(drift_tasks(2), 1).cycling()
    with pytest.raises(ValueError, match='task_schedule="joint" needs all tasks'):
        mt.A2CMultiTask("MultiTaskMlpPolicy", nested)
    stock = VecNormalize(mt.MultiTaskVecEnv(drift_tasks(2)), norm_obs_keys=["obs"])
    with pytest.raises(ValueError, match="A stock VecNormalize mixes the tasks' statistics"):
        mt.A2CMultiTask("MultiTaskMlpPolicy", stock)


def test_a_raw_model_refuses_an_env_that_normalises_and_makes_raw_ones_of_tasks(tmp_path):
    env = mt.make_multitask_vec_env(drift_tasks(2), 1, normalize=False)
    mt.A2CMultiTask("MultiTaskMlpPolicy", env, device="cpu").learn(20).save(tmp_path / "model")
    with pytest.raises(ValueError, match="trained on raw observations"):
        mt.A2CMultiTask.load(tmp_path / "model", env=mt.make_multitask_vec_env(drift_tasks(2), 1))
    loaded = mt.A2CMultiTask.load(tmp_path / "model", env=list(drift_tasks(2)))
    assert loaded.get_vec_normalize_env() is None


def test_how_rewards_are_treated_does_not_travel_with_the_model(tmp_path):
    make_model().learn(60).save(tmp_path / "model")
    env = mt.make_multitask_vec_env(drift_tasks(3), 1, training=False)
    mt.A2CMultiTask.load(tmp_path / "model", env=env)
    assert not env.norm_reward
    assert not env.training


def test_a_refused_env_leaves_the_model_as_it_was():
    model = make_model().learn(60)
    env = model.get_env()
    with pytest.raises(AssertionError, match="number of environments"):
        model.set_env(mt.make_multitask_vec_env(drift_tasks(3), 3))
    assert model.get_env() is env is model.get_vec_normalize_env()
    model.learn(60, reset_num_timesteps=False)


@pytest.mark.parametrize(("name", "value"), [("engine", "fats"), ("task_schedule", "cylce")])
def test_load_checks_what_it_is_told(name, value, tmp_path):
    make_model().save(tmp_path / "model")
    with pytest.raises(ValueError, match=f"`{name}` must be one of"):
        mt.A2CMultiTask.load(tmp_path / "model", **{name: value})


def test_a_factory_that_does_not_pickle_can_be_trained_and_saved(tmp_path):
    lock = threading.Lock()

    def factory():
        with lock:
            return DriftEnv()

    model = mt.A2CMultiTask("MultiTaskMlpPolicy", [mt.Task("locked", factory)], device="cpu").learn(20)
    model.save(tmp_path / "model")
    loaded = mt.A2CMultiTask.load(tmp_path / "model")
    assert loaded.task_names == ("locked",)
    with pytest.raises(ValueError, match="tasks are not known"):
        mt.evaluate_tasks(loaded)


@pytest.mark.parametrize("engine", ["torch", "fast"])
@pytest.mark.parametrize("schedule", ["joint", "cycle"])
def test_a_nan_reward_makes_no_update_and_names_its_task(engine, schedule):
    class Broken(DriftEnv):
        def step(self, action):
            obs, _, *rest = super().step(action)
            return obs, float("nan"), *rest

    tasks = [*drift_tasks(2), mt.Task("broken", Broken)]
    env = mt.make_multitask_vec_env(tasks, 1, seed=0)
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=0, device="cpu", engine=engine, task_schedule=schedule)
    found = r"Task 'broken' \(sub-environment 2\) at step 1 of its episode: a NaN reward"
    with pytest.raises(mt.TaskFault, match=found):
        model.learn(300)
    assert all(th.isfinite(parameter).all() for parameter in model.policy.parameters())


def test_function_callbacks_find_the_model_as_self():
    seen = []
    make_model().learn(30, lambda locals_, _globals: seen.append(locals_["self"].num_timesteps) or True)
    assert seen == [6, 12, 18, 24, 30]


# Settings and statistics that must not get lost


def test_coefficients_may_be_set_on_the_model():
    model = make_model()
    model.rl_coef = model.critic_coef = 0.0
    before = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    model.learn(100)
    assert all(th.equal(tensor, before[name]) for name, tensor in model.policy.state_dict().items())
    model.critic_coef = -1.0
    with pytest.raises(ValueError, match="`critic_coef` must be at least 0"):
        model.learn(100)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"distill_loss": "mse"}, "`distill_loss`='mse' is for distillation"),
        ({"student_rollout_prob": 0.5}, "`student_rollout_prob`=0.5 is for distillation"),
        ({"rl_coef": 0.0, "critic_coef": 0}, "leave nothing to learn from"),
        ({"n_steps": 0}, "`n_steps` must be at least 1"),
    ],
)
def test_settings_that_would_be_ignored_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make_model(**kwargs)


def test_teachers_must_be_a_mapping():
    with pytest.raises(TypeError, match="`teachers` must map tasks to teachers"):
        make_model(teachers=[make_model()] * 3)


def test_tasks_may_be_names_with_ids():
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", {"a": "Hopper-v5", "b": "Hopper-v5"}, seed=0)
    assert model.task_names == ("a", "b")


def test_parameters_from_a_file_come_with_its_statistics(tmp_path):
    model = make_model().learn(60)
    model.save(tmp_path / "model")
    other = make_model(seed=1)
    other.set_parameters(str(tmp_path / "model"))
    assert weights_equal(other, model)
    ours, theirs = (m.get_normalizer_state()["obs_rms"] for m in (other, model))
    np.testing.assert_array_equal(ours["mean"], theirs["mean"])
    with pytest.raises(ValueError, match="tasks"):
        make_model(drift_tasks(3)[::-1]).set_parameters(str(tmp_path / "model"))


def test_an_env_made_from_tasks_treats_rewards_as_the_models(tmp_path):
    env = mt.make_multitask_vec_env("Hopper-v5", 4, normalize={"norm_reward": False, "clip_reward": 3.0, "gamma": 0.9})
    mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=0).learn(20).save(tmp_path / "model")
    for loaded in (
        mt.A2CMultiTask.load(tmp_path / "model", env="Hopper-v5"),
        mt.A2CMultiTask.load(tmp_path / "model"),
    ):
        loaded.set_env("Hopper-v5")
        normalizer = loaded.get_vec_normalize_env()
        assert (normalizer.norm_reward, normalizer.clip_reward, normalizer.gamma) == (False, 3.0, 0.9)


def test_an_untrained_model_leaves_an_env_its_statistics():
    prepared = mt.make_multitask_vec_env(drift_tasks(3), 2, seed=0)
    mt.A2CMultiTask("MultiTaskMlpPolicy", prepared, seed=0).learn(60)
    count = prepared.obs_rms["obs"].count.copy()
    model = make_model()
    model.set_env(prepared)
    np.testing.assert_array_equal(prepared.obs_rms["obs"].count, count)
    assert count.min() > 1


@pytest.mark.parametrize("settings", [{"weight_decay": 0.1}, {"momentum": 0.5, "eps": 1e-3}])
def test_optimizer_kwargs_are_those_of_a2cs_rmsprop(settings):
    """SB3 drops them without an ``optimizer_class``."""
    given = {"optimizer_kwargs": dict(settings), "net_arch": {"pi": [8]}}
    model = make_model(policy_kwargs=given)
    (group,) = model.policy.optimizer.param_groups
    assert type(model.policy.optimizer) is th.optim.RMSprop
    assert {name: group[name] for name in settings} == settings
    assert group["alpha"] == 0.99
    assert given == {"optimizer_kwargs": settings, "net_arch": {"pi": [8]}}  # the caller's


def test_what_the_caller_hands_over_is_never_changed():
    kwargs = {"policy_kwargs": {}, "rollout_buffer_kwargs": {}}
    model = make_model(**kwargs)
    model.policy_kwargs["x"] = model.rollout_buffer_kwargs["x"] = 1
    assert kwargs == {"policy_kwargs": {}, "rollout_buffer_kwargs": {}}


def test_optimizer_settings_are_kept_in_the_file(tmp_path):
    make_model(policy_kwargs={"optimizer_kwargs": {"weight_decay": 0.1}, "activation_fn": "relu"}).save(tmp_path / "m")
    loaded = mt.A2CMultiTask.load(tmp_path / "m")
    assert loaded.policy.optimizer.param_groups[0]["weight_decay"] == 0.1
    assert loaded.policy.activation_fn is th.nn.ReLU
    assert mt.load_agent(tmp_path / "m.zip").activation == "ReLU"


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"policy_kwargs": {"optimizer_kwargs": {"nonsense": 1}}}, "`optimizer_kwargs` .*RMSprop .*'nonsense'"),
        ({"policy_kwargs": {"optimizer_kwargs": 0.1}}, "`optimizer_kwargs` must be a dict.*0.1"),
        ({"use_rms_prop": False, "rms_prop_eps": 1e-3}, "`rms_prop_eps=0.001` .*`use_rms_prop` is False"),
        (
            {"rms_prop_eps": 1e-3, "policy_kwargs": {"optimizer_class": th.optim.RMSprop}},
            "`rms_prop_eps=0.001` .*`optimizer_class` is given",
        ),
        ({"rms_prop_eps": 1e-3, "policy_kwargs": {"optimizer_kwargs": {"eps": 1e-4}}}, "eps=0.0001 differ"),
    ],
)
def test_settings_of_the_optimizer_that_would_be_dropped_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make_model(**kwargs)


class Watch(BaseCallback):
    """The rate and the coefficients of every update."""

    def __init__(self):
        super().__init__()
        self.rates, self.progress = [], []

    def _on_rollout_start(self):
        self.rates.append(self.model.policy.optimizer.param_groups[0]["lr"])
        self.progress.append(self.model._current_progress_remaining)

    _on_training_end = _on_rollout_start

    def _on_step(self):
        return True


@pytest.mark.parametrize("schedule", ["joint", "cycle"])
@pytest.mark.parametrize("engine", ["fast", "torch"])
def test_progress_stays_in_range_where_a_rollout_does_not_divide_the_total(engine, schedule):
    """SB3's goes past the end: the last rate would be negative, and the step climb the loss."""
    asked = []

    def schedule_of_rate(progress_remaining):
        asked.append(progress_remaining)
        return 7e-4 * progress_remaining

    model = make_model(engine=engine, task_schedule=schedule, learning_rate=schedule_of_rate)
    watch = Watch()
    model.learn(100, watch)
    assert min(asked) == 0.0
    assert max(asked) == 1.0
    assert min(watch.rates) == watch.rates[-1] == 0.0
    assert min(watch.progress) == 0.0
    model.learn(70, watch, reset_num_timesteps=False)
    assert min(asked) == 0.0


@pytest.mark.parametrize("engine", ["fast", "torch"])
def test_the_last_update_is_in_the_log(engine, tmp_path):
    """SB3 writes its lines before updates, so what the last one came to would be lost."""
    from stable_baselines3.common.logger import configure

    model = make_model(engine=engine)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(300, log_interval=5)
    model.logger.close()
    rows = list(csv.DictReader((tmp_path / "progress.csv").read_text().splitlines()))
    assert [row["train/n_updates"] for row in rows] == ["4", "9", "10"]
    assert [row["time/iterations"] for row in rows] == ["5", "10", "10"]
    assert [row["time/total_timesteps"] for row in rows] == ["150", "300", "300"]
    assert model.logger.name_to_value["train/n_updates"] == 10  # as with SB3
    assert "time/fps" not in model.logger.name_to_value


def test_without_a_log_interval_there_are_no_lines(tmp_path):
    from stable_baselines3.common.logger import configure

    model = make_model()
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(90, log_interval=None)
    model.logger.close()
    assert (tmp_path / "progress.csv").read_text() == ""


class Returns(DriftEnv):
    """Episodes of two steps with a known return."""

    def step(self, action):
        obs, _, _, _, info = super().step(action)
        return obs, self.target / 2, self.time >= 2, False, {**info, "is_success": self.target > 60}


@pytest.mark.parametrize("engine", ["fast", "torch"])
def test_the_mean_return_is_of_all_tasks_whatever_the_number_of_environments(engine, tmp_path):
    """SB3's is of the last 100 episodes in the order of the environments: the last task's alone here."""
    from stable_baselines3.common.logger import configure

    tasks = [mt.Task(name, Returns, {"target": target}) for name, target in (("A", 0.0), ("B", 50.0), ("C", 100.0))]
    model = make_model(tasks, 40, engine=engine, n_steps=4)
    model.set_logger(configure(str(tmp_path), ["csv"]))
    model.learn(4 * 120)
    model.logger.close()
    (row,) = csv.DictReader((tmp_path / "progress.csv").read_text().splitlines())
    assert [float(row[f"rollout/{name}/ep_rew_mean"]) for name in "ABC"] == [0, 50, 100]
    assert float(row["rollout/ep_rew_mean"]) == pytest.approx(50)
    assert float(row["rollout/ep_len_mean"]) == 2
    assert float(row["rollout/success_rate"]) == pytest.approx(1 / 3)
    assert len(model.ep_info_buffer) == 100  # SB3's, for who reads it


def test_auto_is_the_cpu_and_cuda_is_taken(monkeypatch, tmp_path):
    monkeypatch.setattr(th.cuda, "is_available", lambda: True)
    env = mt.make_multitask_vec_env(drift_tasks(2), 1)
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", env)
    assert model.device == th.device("cpu")
    assert why_torch(model, "auto") is None
    model.save(tmp_path / "model")
    loaded = mt.A2CMultiTask.load(tmp_path / "model", env=env)
    loaded.set_parameters(str(tmp_path / "model"))
    assert loaded.device == th.device("cpu")
    assert all(parameter.device.type == "cpu" for parameter in loaded.policy.parameters())

    monkeypatch.setattr(th.nn.Module, "to", lambda self, *_args, **_kwargs: self)
    with pytest.warns(UserWarning, match="'cuda'.*faster on the CPU") as said:
        model = mt.A2CMultiTask("MultiTaskMlpPolicy", env, device="cuda")
    assert model.device.type == "cuda"
    assert len(said) == 1


def test_another_gamma_than_the_normalisers_is_said():
    env = mt.make_multitask_vec_env(drift_tasks(2), 1, normalize={"gamma": 0.9})
    with pytest.warns(UserWarning, match=r"gamma=0.9, the model gamma=0.99.*'gamma': 0.99"):
        mt.A2CMultiTask("MultiTaskMlpPolicy", env)
    mt.A2CMultiTask("MultiTaskMlpPolicy", env, gamma=0.9)
    raw = mt.make_multitask_vec_env(drift_tasks(2), 1, normalize={"gamma": 0.9, "norm_reward": False})
    mt.A2CMultiTask("MultiTaskMlpPolicy", raw)


def test_actions_without_bounds_are_refused_with_the_remedy():
    tasks = [mt.Task("A", lambda: gym.wrappers.ClipAction(DriftEnv()))]
    with pytest.raises(ValueError, match=r"`env` has the action space Box\(-inf.*ClipAction.*leave it out"):
        mt.A2CMultiTask("MultiTaskMlpPolicy", tasks)


@pytest.mark.native
def test_verbose_says_which_backend_runs_and_why(capsys):
    for tasks, backend, expected in (
        (drift_tasks(2), "auto", r'and the "dummy" backend \(not "batch": it has no adapter for task .A.'),
        (drift_tasks(2), "dummy", r'and the "dummy" backend\n'),
        (["HalfCheetahBigLeg-v0"], "dummy", r'and the "dummy" backend\n'),
    ):
        env = mt.make_multitask_vec_env(tasks, 2, seed=0, backend=backend)
        model = mt.A2CMultiTask("MultiTaskMlpPolicy", env, verbose=1, seed=0)
        model.learn(20).learn(20)
        out = capsys.readouterr().out
        assert re.search(expected, out), out
        assert out.count("backend") == 1


@pytest.mark.native
def test_verbose_says_that_the_native_backend_runs(capsys):
    env = mt.make_multitask_vec_env("HalfCheetahBigLeg-v0", 4, seed=0, n_threads=1)
    mt.A2CMultiTask("MultiTaskMlpPolicy", env, verbose=1, seed=0).learn(20)
    assert 'and the "batch" backend, 1 physics thread\n' in capsys.readouterr().out


def test_sb3s_own_a2c_loads_a_models_file(tmp_path):
    model = make_model().learn(60)
    model.save(tmp_path / "model")
    loaded = A2C.load(tmp_path / "model", device="cpu")
    assert weights_equal(model, loaded)
    mean = model.get_normalizer_state()["obs_rms"]["mean"]
    np.testing.assert_array_equal(loaded.policy.statistics.obs_rms_mean, mean)
