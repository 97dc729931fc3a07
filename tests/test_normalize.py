import pickle

import numpy as np
import pytest
from helpers.drift import DriftEnv, drift_tasks
from stable_baselines3.common.callbacks import EvalCallback
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv, VecCheckNan, VecNormalize, sync_envs_normalization

import sb3_multitask as mt
from sb3_multitask.process.seeding import env_seeds


def step_all(env, n_steps, seed=0):
    rng = np.random.default_rng(seed)
    first = (env.reset(), None, None, None)
    draw = lambda: rng.uniform(-1, 1, (env.num_envs, 2)).astype(np.float32)  # noqa: E731
    return [first, *(env.step(draw()) for _ in range(n_steps))]


def test_one_task_is_sb3s_vec_normalize():
    ours = mt.make_multitask_vec_env(drift_tasks(1), 3, seed=0)
    theirs = VecNormalize(DummyVecEnv([drift_tasks(1)[0].make for _ in range(3)]))
    theirs.venv._seeds = env_seeds(0, 1, 3)
    for (obs, *rest), (their_obs, *their_rest) in zip(step_all(ours, 30), step_all(theirs, 30), strict=True):
        np.testing.assert_allclose(obs["obs"], their_obs, atol=1e-6)  # the same formula, rounded elsewhere
        for mine, other in zip(rest[:2], their_rest[:2], strict=True):
            assert mine is other is None or np.allclose(mine, other, atol=1e-6)
        for info, their_info in zip(rest[2] or [], their_rest[2] or [], strict=True):
            if "terminal_observation" in info:
                last = their_info["terminal_observation"]  # normalised from float64, ours from float32
                np.testing.assert_allclose(info["terminal_observation"]["obs"], last, atol=1e-6)


@pytest.mark.parametrize("change", [{"scale": 1e12}, {"scale": -3.0}])
def test_one_tasks_scale_leaves_the_others_bit_identical(change):
    usual = mt.make_multitask_vec_env(drift_tasks(3), 2, seed=0)
    tasks = list(drift_tasks(3))
    tasks[1] = mt.Task("B", DriftEnv, {**tasks[1].env_kwargs, **change})
    loud = mt.make_multitask_vec_env(tasks, 2, seed=0)
    others = [0, 1, 4, 5]
    for (obs, rewards, *_), (loud_obs, loud_rewards, *_) in zip(step_all(usual, 30), step_all(loud, 30), strict=True):
        np.testing.assert_array_equal(obs["obs"][others], loud_obs["obs"][others])
        if rewards is not None:
            np.testing.assert_array_equal(rewards[others], loud_rewards[others])
            assert np.isfinite(loud_rewards).all()
    for name in ("mean", "var", "count"):
        for mine, theirs in ((usual.obs_rms["obs"], loud.obs_rms["obs"]), (usual.ret_rms, loud.ret_rms)):
            np.testing.assert_array_equal(getattr(mine, name)[[0, 2]], getattr(theirs, name)[[0, 2]])
    assert not np.array_equal(usual.ret_rms.var[1], loud.ret_rms.var[1])


def test_statistics_are_those_of_each_tasks_observations():
    env = mt.make_multitask_vec_env(drift_tasks(2), 4, seed=0, normalize={"clip_obs": 1e6})
    raw = []
    rng = np.random.default_rng(0)
    env.reset()
    raw.append(env.get_original_obs()["obs"])
    for _ in range(40):
        env.step(rng.uniform(-1, 1, (8, 2)).astype(np.float32))
        raw.append(env.get_original_obs()["obs"])
    samples = np.array(raw)  # (steps, rows, obs_dim)
    for task, rows in enumerate((slice(0, 4), slice(4, 8))):
        np.testing.assert_allclose(env.obs_rms["obs"].mean[task], samples[:, rows].mean((0, 1)), atol=1e-4)
        np.testing.assert_allclose(env.obs_rms["obs"].var[task], samples[:, rows].var((0, 1)), rtol=1e-3)


def test_terminal_observations_are_normalised_with_their_tasks_statistics():
    env = mt.make_multitask_vec_env(drift_tasks(2), 1, seed=0)
    seen = 0
    for _, _, _, infos in step_all(env, 40)[1:]:
        for info in infos:
            if "terminal_observation" in info:
                seen += 1
    assert seen > 5
    terminal = {"obs": np.array([1.0, 2.0, 3.0], dtype=np.float32), "task": np.int64(1)}
    rms = env.obs_rms["obs"]
    expected = (terminal["obs"] - rms.mean[1]) / np.sqrt(rms.var[1] + 1e-8)
    np.testing.assert_allclose(env.normalize_obs(terminal)["obs"], np.clip(expected, -10, 10), rtol=1e-6)
    assert env.normalize_obs(terminal)["task"] == 1


def test_unnormalize_inverts_normalize():
    env = mt.make_multitask_vec_env(drift_tasks(2), 2, seed=0)
    *_, (obs, rewards, _, _) = step_all(env, 20)
    np.testing.assert_allclose(env.unnormalize_obs(obs)["obs"], env.get_original_obs()["obs"], atol=1e-5)
    np.testing.assert_allclose(env.unnormalize_reward(rewards), env.get_original_reward(), atol=1e-5)


def test_task_views_share_the_statistics():
    env = mt.make_multitask_vec_env(drift_tasks(2), 2, seed=0)
    env.reset()
    view = env.task_view(1)
    count = env.obs_rms["obs"].count.copy()
    view.step(np.zeros((2, 2), dtype=np.float32))
    np.testing.assert_allclose(env.obs_rms["obs"].count - count, [[0] * 3, [2] * 3], rtol=1e-12)
    env.obs_rms = mt.make_multitask_vec_env(drift_tasks(2), 2).obs_rms  # fresh ones
    assert (view.obs_rms["obs"].count < 1).all()
    env.ret_rms.var = np.array([2.0, 3.0])
    np.testing.assert_array_equal(view.ret_rms.var, [2, 3])
    view.training = False
    assert env.training


def test_evaluation_envs_are_frozen_and_give_raw_rewards():
    env = mt.make_multitask_vec_env(drift_tasks(2), 1, seed=0, training=False)
    assert isinstance(env, mt.MultiTaskVecNormalize)
    *_, (_, rewards, _, _) = step_all(env, 5)
    np.testing.assert_array_equal(rewards, env.get_original_reward())
    assert (env.obs_rms["obs"].count < 1).all()


def test_sync_and_stock_evaluation_report_raw_returns(tmp_path):
    env = mt.make_multitask_vec_env(drift_tasks(2), 2, seed=0)
    eval_env = mt.make_multitask_vec_env(drift_tasks(2), 2, seed=1, training=True)  # rewards normalised
    for schedule in ("joint", "cycle"):
        model = mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=0, task_schedule=schedule)
        callback = EvalCallback(eval_env, n_eval_episodes=4, eval_freq=50, log_path=str(tmp_path), verbose=0)
        model.learn(600, callback)
        trained = model.get_vec_normalize_env()
        sync_envs_normalization(model.get_env(), eval_env)
        np.testing.assert_array_equal(eval_env.obs_rms["obs"].mean, trained.obs_rms["obs"].mean)
        returns, lengths = evaluate_policy(model, eval_env, 4, return_episode_rewards=True)
        assert sorted(lengths) == [5, 5, 7, 7]
        reported = np.load(tmp_path / "evaluations.npz")["results"]
        for values in (returns, reported[-1]):
            assert np.abs(values).max() > 3  # normalised rewards of such short episodes would be smaller


def test_save_and_load_keep_statistics_and_settings(tmp_path):
    env = mt.make_multitask_vec_env(drift_tasks(2), 2, seed=0, normalize={"gamma": 0.9, "clip_obs": 5.0})
    step_all(env, 10)
    env.save(str(tmp_path / "stats.pkl"))
    other = mt.MultiTaskVecNormalize.load(str(tmp_path / "stats.pkl"), mt.MultiTaskVecEnv(drift_tasks(2), 3))
    np.testing.assert_array_equal(other.obs_rms["obs"].mean, env.obs_rms["obs"].mean)
    assert (other.gamma, other.clip_obs, other.num_envs) == (0.9, 5.0, 6)
    other.reset()
    other.step(np.zeros((6, 2), dtype=np.float32))
    assert pickle.loads(pickle.dumps(env)).venv is None


def test_state_of_another_shape_is_refused():
    env, other = (mt.make_multitask_vec_env(drift_tasks(n), 1) for n in (2, 3))
    with pytest.raises(ValueError, match=r"\(3, 3\) do not fit this normaliser's \(2, 3\)"):
        env.set_statistics(other.get_statistics())


def test_a_vec_env_without_tasks_is_refused_and_stock_vec_normalize_refuses_tasks():
    with pytest.raises(TypeError, match="needs a MultiTaskVecEnv"):
        mt.MultiTaskVecNormalize(DummyVecEnv([DriftEnv]))
    with pytest.raises(ValueError, match=r"only supports `gym.spaces.Box`"):
        VecNormalize(mt.MultiTaskVecEnv(drift_tasks(2)))


def test_sb3s_idioms_with_statistics_work():
    env, other = (mt.make_multitask_vec_env(drift_tasks(2), 2, seed=seed) for seed in (0, 1))
    step_all(env, 10)
    before = env.obs_rms["obs"].mean.copy()
    other.obs_rms["obs"] = env.obs_rms["obs"].copy()
    np.testing.assert_array_equal(other.obs_rms["obs"].mean, before)
    kept = env.obs_rms
    env.obs_rms = mt.make_multitask_vec_env(drift_tasks(2), 2).obs_rms
    assert not env.obs_rms["obs"].mean.any()
    env.obs_rms = kept  # what was read before is as it was
    np.testing.assert_array_equal(env.obs_rms["obs"].mean, before)
    with pytest.raises(TypeError, match="updated by MultiTaskVecNormalize"):
        env.obs_rms["obs"].update(np.zeros((4, 3)))
    with pytest.raises(ValueError, match=r"\(3, 3\) do not fit \(2, 3\)"):
        env.obs_rms = mt.make_multitask_vec_env(drift_tasks(3), 2).obs_rms
    with pytest.raises(KeyError, match="Only obs is normalised"):
        env.obs_rms["image"] = env.obs_rms["obs"]


def test_a_pickle_of_other_tasks_is_refused(tmp_path):
    mt.make_multitask_vec_env(drift_tasks(2), 2).save(str(tmp_path / "stats.pkl"))
    with pytest.raises(ValueError, match=r"(?s)statistics: A, B.*env:        B, A"):
        mt.MultiTaskVecNormalize.load(str(tmp_path / "stats.pkl"), mt.MultiTaskVecEnv(drift_tasks(2)[::-1]))


def test_what_is_normalised_already_is_not_normalised_again(tmp_path):
    env = mt.make_multitask_vec_env(drift_tasks(2), 2, seed=0)
    env.save(tmp_path / "vn.pkl")
    with pytest.raises(ValueError, match="normalize=False"):
        mt.MultiTaskVecNormalize(env)
    with pytest.raises(ValueError, match="normalize=False"):
        mt.MultiTaskVecNormalize.load(str(tmp_path / "vn.pkl"), mt.make_multitask_vec_env(drift_tasks(2), 2))
    with pytest.raises(ValueError, match="normalize=False"):
        mt.MultiTaskVecNormalize(VecCheckNan(env))
    with pytest.raises(ValueError, match="normalize=False"):
        mt.MultiTaskVecNormalize(mt.TaskCyclingVecEnv(env))
    for twice in (VecNormalize(env, norm_obs_keys=["obs"]), VecNormalize(VecCheckNan(env), norm_obs_keys=["obs"])):
        with pytest.raises(ValueError, match="normalised twice"):
            mt.A2CMultiTask("MultiTaskMlpPolicy", twice)
    loaded = mt.MultiTaskVecNormalize.load(
        str(tmp_path / "vn.pkl"), mt.make_multitask_vec_env(drift_tasks(2), 2, normalize=False)
    )
    assert loaded.observation_space == env.observation_space


@pytest.mark.parametrize("shape", [(4,), (4, 1), (2, 2), (2, 2, 1)])
def test_tasks_of_a_buffers_shape_are_those_of_the_rows(shape):
    env = mt.make_multitask_vec_env(drift_tasks(2), 2, seed=0)
    step_all(env, 20)
    obs, task = np.arange(12.0).reshape(4, 3), np.array([0, 0, 1, 1])
    expected = env.normalize_obs({"obs": obs, "task": task})["obs"]
    rows = shape[:-1] if shape[-1] == 1 else shape
    given = {"obs": obs.reshape(*rows, 3), "task": task.reshape(shape)}
    np.testing.assert_array_equal(env.normalize_obs(given)["obs"].reshape(4, 3), expected)
    back = env.unnormalize_obs({"obs": env.normalize_obs(given)["obs"], "task": given["task"]})["obs"]
    assert back.shape == (*rows, 3)
    with pytest.raises(ValueError, match="a task for each"):
        env.normalize_obs({"obs": obs, "task": np.zeros(3, dtype=int)})


@pytest.mark.parametrize("task", [-1, 6, 1.5, True, float("nan"), "1", np.array([True])])
@pytest.mark.parametrize("method", ["normalize_obs", "unnormalize_obs"])
def test_what_is_no_task_id_has_no_statistics(method, task):
    env = mt.make_multitask_vec_env("HalfCheetahBody6", 1)
    obs = np.zeros((1, 17)) if np.ndim(task) else np.zeros(17)
    with pytest.raises(ValueError, match=r"`obs\['task'\]` must be"):
        getattr(env, method)({"obs": obs, "task": task})
