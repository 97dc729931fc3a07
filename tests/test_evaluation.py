import pickle
import random

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from helpers.drift import DriftEnv, drift_tasks
from helpers.models import make_model
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import StopTrainingOnRewardThreshold
from stable_baselines3.common.vec_env import VecEnvWrapper, VecNormalize

import sb3_multitask as mt
from sb3_multitask.agents import agent_of
from sb3_multitask.evaluation.films import real_time_fps
from sb3_multitask.experiments.milestones import evaluate_fully, other_env
from sb3_multitask.process.seeding import env_seed


@pytest.fixture
def model():
    return make_model().learn(120)


@pytest.mark.parametrize("n_eval_episodes", [1, 3, 7])
def test_every_task_gets_the_same_number_of_episodes(model, n_eval_episodes):
    results = mt.evaluate_tasks(model, n_eval_episodes=n_eval_episodes)
    assert list(results) == ["A", "B", "C"]
    for task, horizon in zip("ABC", (5, 7, 9), strict=True):
        assert results[task].episode_lengths == (horizon,) * n_eval_episodes
        assert len(results[task].episode_rewards) == n_eval_episodes
        assert results[task].mean_reward == pytest.approx(np.mean(results[task].episode_rewards))


@pytest.mark.parametrize("n_eval_episodes", [1, 3, 7])
@pytest.mark.parametrize("copies", [{"A": 3, "B": 1, "C": 2}, {"A": 1, "B": 3, "C": 2}])
def test_tasks_with_different_numbers_of_copies_get_the_same_number_of_episodes(model, copies, n_eval_episodes):
    env = mt.MultiTaskVecEnv(drift_tasks(3), copies, seed=0, training=False)
    results = mt.evaluate_tasks(model, env, n_eval_episodes=n_eval_episodes)
    assert {task: result.episode_lengths for task, result in results.items()} == {
        task: (horizon,) * n_eval_episodes for task, horizon in zip("ABC", (5, 7, 9), strict=True)
    }


def test_returns_are_raw_and_those_of_the_policy(model):
    """One task by hand: Gymnasium's loop, the model's statistics, its mean action."""
    task = drift_tasks(3)[1]
    env = task.make()
    normalizer = model.get_vec_normalize_env()
    obs, _ = env.reset(seed=env_seed(0, task=1, training=False))
    total, done = 0.0, False
    while not done:
        seen = normalizer.normalize_obs({"obs": obs.astype(np.float32), "task": np.int64(1)})
        action, _ = model.predict(seen, deterministic=True)
        obs, reward, terminated, truncated, _ = env.step(action)
        total, done = total + reward, terminated or truncated
    assert mt.evaluate_tasks(model, n_eval_episodes=1)["B"].episode_rewards[0] == pytest.approx(total, abs=1e-5)


@pytest.mark.parametrize("deterministic", [True, False])
def test_nothing_of_the_training_is_touched(model, deterministic):
    def state():
        normalizer = model.get_vec_normalize_env()
        return [
            th.get_rng_state().numpy(),
            np.random.get_state()[1],  # noqa: NPY002
            normalizer.obs_rms["obs"].mean,
            normalizer.obs_rms["obs"].count,
            normalizer.ret_rms.var,
            model._last_obs["obs"],
            model.get_env().monitor.returns,
            np.array(model.policy.training),
        ]

    before = [np.copy(value) for value in state()]
    first = mt.evaluate_tasks(model, n_eval_episodes=3, deterministic=deterministic)
    for old, new in zip(before, state(), strict=True):
        np.testing.assert_array_equal(old, new)
    assert mt.evaluate_tasks(model, n_eval_episodes=3, deterministic=deterministic) == first


@pytest.mark.parametrize("normalize", [True, False])
def test_a_given_env_is_evaluated_with_the_models_statistics(model, normalize):
    env = mt.make_multitask_vec_env(drift_tasks(3), 3, seed=0, normalize=normalize)
    expected = mt.evaluate_tasks(model, mt.make_multitask_vec_env(drift_tasks(3), 3, seed=0), n_eval_episodes=3)
    assert mt.evaluate_tasks(model, env, n_eval_episodes=3) == expected
    env.close()


def test_other_algorithms_on_the_same_policy_are_evaluated_too():
    env = mt.make_multitask_vec_env(drift_tasks(2), 2, seed=0)
    ppo = PPO(mt.MultiTaskActorCriticPolicy, env, n_steps=10, batch_size=20, device="cpu").learn(40)
    assert list(mt.evaluate_tasks(ppo, n_eval_episodes=2)) == ["A", "B"]


def test_the_training_env_other_tasks_and_no_episodes_are_refused(model):
    with pytest.raises(ValueError, match="training env"):
        mt.evaluate_tasks(model, model.get_env())
    with pytest.raises(ValueError, match=r"(?s)model: A, B, C.*env:   A, B"):
        mt.evaluate_tasks(model, mt.make_multitask_vec_env(drift_tasks(2)))
    with pytest.raises(ValueError, match="`n_eval_episodes` must be at least 1"):
        mt.evaluate_tasks(model, n_eval_episodes=0)
    with pytest.raises(ValueError, match="must be a MultiTaskVecEnv"):
        mt.evaluate_tasks(model, mt.TaskCyclingVecEnv(mt.MultiTaskVecEnv(drift_tasks(3))).task_view(0))


def test_an_episode_that_never_ends_stops_at_the_cap_and_says_so(model):
    tasks = [*drift_tasks(2), mt.Task("C", DriftEnv, {"horizon": 10**9})]
    env = mt.make_multitask_vec_env(tasks, 1, seed=0)
    with pytest.warns(UserWarning, match=r"Episodes of C did not end within 20 steps"):
        results = mt.evaluate_tasks(model, env, n_eval_episodes=2, max_episode_steps=20)
    assert results["C"].episode_lengths == (20, 20)
    assert results["A"].episode_lengths == (5, 5)


def make_callback(folder=None, **kwargs):
    env = mt.make_multitask_vec_env(drift_tasks(3), 2, seed=7)
    arguments = {"n_eval_episodes": 2, "eval_freq": 60, "verbose": 0, **kwargs}
    return mt.MultiTaskEvalCallback(env, log_path=folder, best_model_save_path=folder, **arguments)


@pytest.mark.parametrize("schedule", ["joint", "cycle"])
def test_the_callback_writes_stock_and_per_task_arrays(schedule, tmp_path):
    env = mt.make_multitask_vec_env(drift_tasks(3), 2, seed=0)
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=0, device="cpu", task_schedule=schedule)
    model.learn(300, make_callback(tmp_path))
    data = np.load(tmp_path / "evaluations.npz")
    assert data["timesteps"].tolist() == [60, 120, 180, 240, 300]
    assert data["task_names"].tolist() == ["A", "B", "C"]
    assert data["task_results"].shape == data["task_ep_lengths"].shape == (5, 3, 2)
    np.testing.assert_array_equal(data["results"], data["task_results"].reshape(5, 6))
    np.testing.assert_array_equal(data["ep_lengths"][0], [5, 5, 7, 7, 9, 9])
    assert mt.A2CMultiTask.load(tmp_path / "best_model").task_names == ("A", "B", "C")


@pytest.mark.parametrize(("score", "pick"), [("mean", np.mean), ("worst", np.min)])
def test_the_best_model_is_the_best_by_the_chosen_score(score, pick, model, tmp_path):
    callback = make_callback(tmp_path, score=score)
    model.learn(400, callback)
    task_means = np.load(tmp_path / "evaluations.npz")["task_results"].mean(-1)
    assert callback.best_mean_reward == pytest.approx(pick(task_means, axis=1).max())


def test_per_task_keys_are_logged(model):
    recorded = {}

    class Recorder(mt.MultiTaskEvalCallback):
        def _log(self, results):
            super()._log(results)

    callback = make_callback()
    model.learn(60, callback)
    original = model.logger.record

    def record(key, value, exclude=None):
        recorded[key] = value
        original(key, value, exclude)

    model.logger.record = record
    callback._log(callback.evaluations_tasks[-1])
    means = [recorded[f"eval/{task}/mean_reward"] for task in "ABC"]
    assert recorded["eval/worst_task_reward"] == min(means)
    assert recorded["eval/mean_reward"] == pytest.approx(np.mean(means))
    assert recorded["eval/C/mean_ep_length"] == 9


def test_evaluating_does_not_change_the_training(model):
    def train(callback):
        env = mt.make_multitask_vec_env(drift_tasks(3), 2, seed=0)
        return mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=0, device="cpu").learn(300, callback)

    with_callback, without = train(make_callback()), train(None)
    for mine, theirs in zip(with_callback.policy.parameters(), without.policy.parameters(), strict=True):
        assert th.equal(mine, theirs)


def test_training_stops_at_a_reward_threshold(model):
    stop = StopTrainingOnRewardThreshold(-1e9)
    model.learn(1000, make_callback(callback_on_new_best=stop))
    assert model.num_timesteps == 60


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"score": "median"}, "`score` must be one of mean, worst"),
        ({"eval_freq": 0}, "`eval_freq` must be at least 1"),
    ],
)
def test_bad_arguments_of_the_callback_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        make_callback(**kwargs)


def test_a_capped_episode_is_followed_by_a_fresh_one(model):
    env = mt.make_multitask_vec_env(drift_tasks(3), 2, seed=0)
    with pytest.warns(UserWarning, match="Episodes of B, C did not end within 6 steps"):
        results = mt.evaluate_tasks(model, env, n_eval_episodes=5, max_episode_steps=6)
    assert results["A"].episode_lengths == (5,) * 5
    assert results["B"].episode_lengths == results["C"].episode_lengths == (6,) * 5


def test_a_model_without_an_env_is_evaluated_with_the_statistics_of_the_env_it_came_with(tmp_path):
    env = mt.make_multitask_vec_env(drift_tasks(2), 2, seed=0)
    ppo = PPO(mt.MultiTaskActorCriticPolicy, env, n_steps=10, batch_size=20, device="cpu").learn(80)
    ppo.save(tmp_path / "ppo")
    env.save(str(tmp_path / "stats.pkl"))
    venv = mt.MultiTaskVecEnv(drift_tasks(2), 2, seed=0)
    loaded_env = mt.MultiTaskVecNormalize.load(str(tmp_path / "stats.pkl"), venv)
    expected = mt.evaluate_tasks(ppo, mt.make_multitask_vec_env(drift_tasks(2), 2, seed=0), n_eval_episodes=2)
    assert mt.evaluate_tasks(PPO.load(tmp_path / "ppo"), loaded_env, n_eval_episodes=2) == expected


def test_a_stock_normaliser_is_refused():
    env = VecNormalize(mt.MultiTaskVecEnv(drift_tasks(2), 2), norm_obs_keys=["obs"])
    stock = A2C(mt.MultiTaskActorCriticPolicy, env, device="cpu")
    with pytest.raises(ValueError, match="stock VecNormalize mixes"):
        mt.evaluate_tasks(stock)


class Still(VecEnvWrapper):
    """Whatever the policy does, nothing is done."""

    def reset(self):
        return self.venv.reset()

    def step_async(self, actions):
        self.venv.step_async(0 * actions)

    def step_wait(self):
        return self.venv.step_wait()


def test_episodes_go_through_the_wrappers_of_an_env(model):
    """What the policy does counts only without the wrapper; the statistics of the env stay its own."""
    returns = {"wrapped": [], "plain": []}
    for bias in (-5.0, 5.0):
        with th.no_grad():
            model.policy.action_net.layers[-1].bias.fill_(bias)
        for kind, found in returns.items():
            env = mt.make_multitask_vec_env(drift_tasks(3), 2, seed=0, training=False)
            results = mt.evaluate_tasks(model, Still(env) if kind == "wrapped" else env, 4)
            found.append([result.mean_reward for result in results.values()])
            assert env.obs_rms["obs"].count.max() < 1
    np.testing.assert_array_equal(*returns["wrapped"])
    assert np.abs(np.subtract(*returns["plain"])).min() > 1
    with pytest.raises(ValueError, match="under Still the env must have a MultiTaskVecNormalize"):
        mt.evaluate_tasks(model, Still(env.venv), 1)


def test_wrappers_that_are_left_out_are_named():
    env = Still(mt.make_multitask_vec_env(drift_tasks(3), 2, seed=0))
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=0)
    with pytest.warns(UserWarning, match="Still.*`env`"):
        mt.evaluate_tasks(model, n_eval_episodes=1)


def test_what_cannot_be_evaluated_is_said(model):
    with pytest.raises(TypeError, match="must be a model or an Agent"):
        mt.evaluate_tasks("model.zip")
    with pytest.raises(ValueError, match="`max_episode_steps` must be at least 1"):
        mt.evaluate_tasks(model, max_episode_steps=0)


def test_numpys_generator_stays_where_it_is(model):
    class Draws(DriftEnv):
        def reset(self, **kwargs):
            np.random.random()  # noqa: NPY002
            return super().reset(**kwargs)

    tasks = [mt.Task(name, Draws) for name in "ABC"]
    np.random.seed(0)  # noqa: NPY002
    mt.evaluate_tasks(model, mt.make_multitask_vec_env(tasks, 1, training=False), 1)
    drawn = np.random.random()  # noqa: NPY002
    np.random.seed(0)  # noqa: NPY002
    assert drawn == np.random.random()  # noqa: NPY002


class GreedyEnv(DriftEnv):
    """Draws from the global generators when it is made, and plays accordingly, as other people's environments do."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.push = random.random() + np.random.random() + th.rand(()).item()  # noqa: S311, NPY002

    def step(self, action):
        np.random.random()  # noqa: NPY002
        obs, reward, *rest = super().step(action)
        return obs, reward + self.push, *rest


def greedy_model():
    tasks = [mt.Task(name, GreedyEnv) for name in "AB"]
    env = mt.make_multitask_vec_env(tasks, 2, seed=0, backend="dummy")
    return mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=0, device="cpu")


@pytest.mark.parametrize("as_agent", [True, False])
def test_evaluations_of_envs_that_draw_from_global_generators_are_equal_for_equal_seeds(as_agent):
    model = greedy_model()
    model = agent_of(model) if as_agent else model
    first = mt.evaluate_tasks(model, n_eval_episodes=2, seed=3)
    random.random(), np.random.random(), th.rand(3)  # noqa: S311, NPY002
    assert mt.evaluate_tasks(model, n_eval_episodes=2, seed=3) == first
    assert mt.evaluate_tasks(model, n_eval_episodes=2, seed=4) != first


def drawn():
    return random.getstate(), np.random.get_state()[1].tolist(), th.get_rng_state().tolist()  # noqa: NPY002


def test_whatever_makes_envs_beside_a_training_leaves_its_draws_as_they_are(monkeypatch):
    model = greedy_model().learn(20)
    before = drawn()
    mt.evaluate_tasks(model, n_eval_episodes=2)
    assert drawn() == before
    mt.evaluate_tasks(model, [mt.Task("A", GreedyEnv)], n_eval_episodes=1)
    assert drawn() == before
    with pytest.raises(ValueError, match="no head for task 'C'"):
        mt.evaluate_tasks(model, [mt.Task("C", GreedyEnv)])
    assert drawn() == before
    monkeypatch.setattr(GreedyEnv, "metadata", {"render_modes": ["rgb_array"], "render_fps": 30})
    real_time_fps(model.tasks)
    assert drawn() == before
    gym.register("Greedy-v0", GreedyEnv, disable_env_checker=True)
    try:
        single = mt.make_multitask_vec_env({"only": "Greedy-v0"}, 1, seed=0)
        model = mt.A2CMultiTask("MultiTaskMlpPolicy", single, seed=0, device="cpu")
        before = drawn()
        other_env(model, "Greedy-v0", 1).close()
        evaluate_fully(model, 1, {"other": "Greedy-v0"})
        assert drawn() == before
    finally:
        del gym.registry["Greedy-v0"]


# Tasks in the place of an env


def test_tasks_in_the_place_of_an_env_are_the_models_own(model):
    everything = mt.evaluate_tasks(model, n_eval_episodes=2)
    assert mt.evaluate_tasks(model, drift_tasks(3), n_eval_episodes=2) == everything
    assert mt.evaluate_tasks(model, list(drift_tasks(3)), 2) == everything


@pytest.mark.parametrize("as_agent", [True, False])
def test_tasks_are_played_by_the_heads_of_their_names(model, as_agent):
    """A task alone is played as in an env where other tasks stand beside it: same head, same statistics."""
    a, _, c = drift_tasks(3)
    alone = {}
    trained = agent_of(model) if as_agent else model
    turned = mt.evaluate_tasks(trained, [c, a], n_eval_episodes=2)
    assert list(turned) == ["C", "A"]
    for task in (a, c):
        alone |= mt.evaluate_tasks(trained, task, n_eval_episodes=2)
    state = model.get_vec_normalize_env().get_statistics()
    env = c.make()
    obs, _ = env.reset(seed=env_seed(0, task=0, training=False))
    total, done = 0.0, False
    while not done:
        mean, var = (state["obs_rms"][part][2] for part in ("mean", "var"))
        seen = np.clip((obs - mean) / np.sqrt(var + state["epsilon"]), -state["clip_obs"], state["clip_obs"])
        action, _ = model.predict({"obs": seen.astype(np.float32), "task": np.int64(2)}, deterministic=True)
        obs, reward, terminated, truncated, _ = env.step(action)
        total, done = total + reward, terminated or truncated
    assert alone["C"].episode_rewards[0] == pytest.approx(total, abs=1e-4)
    assert turned["C"].episode_rewards[0] == pytest.approx(total, abs=1e-4)


@pytest.mark.parametrize("as_agent", [True, False])
def test_one_head_plays_any_tasks_under_their_names(as_agent):
    env = mt.make_multitask_vec_env(drift_tasks(1), 2, seed=0)
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=0, device="cpu").learn(60)
    results = mt.evaluate_tasks(agent_of(model) if as_agent else model, drift_tasks(3), n_eval_episodes=2)
    assert [result.episode_lengths[0] for result in results.values()] == [5, 7, 9]
    assert list(results) == ["A", "B", "C"]
    ppo = PPO(mt.MultiTaskActorCriticPolicy, env, n_steps=10, batch_size=20, device="cpu")
    assert list(mt.evaluate_tasks(ppo, drift_tasks(2), n_eval_episodes=1)) == ["A", "B"]


def test_a_bare_id_is_the_task_of_this_environment():
    agent = mt.load_pretrained("HalfCheetahBody6-vanilla")
    results = mt.evaluate_tasks(agent, ["HalfCheetahBigFoot-v0"], n_eval_episodes=1, max_episode_steps=3000)
    own = mt.evaluate_tasks(agent, {"BigFoot": "HalfCheetahBigFoot-v0"}, n_eval_episodes=1)
    assert results["HalfCheetahBigFoot-v0"] == own["BigFoot"]


@pytest.mark.parametrize(
    ("env", "message"),
    [
        ([mt.Task("D", DriftEnv)], "no head for task 'D'.*Heads: A, B, C"),
        (["Hopper-v5"], "no head for task 'Hopper-v5'"),
        ("HalfCheetahBody5", "Unknown task set.*'HalfCheetahBody5'"),
        ([], "`tasks` must hold at least one task"),
        ([mt.Task("A", DriftEnv, {"obs_dim": 5})], r"'A' has 5 numbers .* 2 in an action; .* head has 3 and 2"),
        (DriftEnv, "`env` must be a MultiTaskVecEnv.*or tasks"),
        (3, r"`env` must be .*got 3"),
    ],
)
@pytest.mark.parametrize("as_agent", [True, False])
def test_tasks_that_do_not_fit_are_refused(model, env, message, as_agent):
    with pytest.raises(ValueError, match=message):
        mt.evaluate_tasks(agent_of(model) if as_agent else model, env)


def test_a_model_that_lost_its_statistics_says_so(tmp_path):
    env = mt.make_multitask_vec_env(drift_tasks(2), 2, seed=0)
    PPO(mt.MultiTaskActorCriticPolicy, env, n_steps=10, batch_size=20, device="cpu").save(tmp_path / "model")
    with pytest.raises(ValueError, match="PPO without an env does not know how .* pass `env`"):
        mt.evaluate_tasks(PPO.load(tmp_path / "model", device="cpu"), drift_tasks(2))


def test_results_print_as_a_table(model):
    results = mt.evaluate_tasks(model, n_eval_episodes=2)
    assert isinstance(results, dict)
    assert pickle.loads(pickle.dumps(results)) == results
    header, *rows, mean = str(results).splitlines()
    assert header.split() == ["task", "mean", "return", "std", "episodes", "mean", "length"]
    for (task, result), row in zip(results.items(), rows, strict=True):
        numbers = f"{result.mean_reward:.1f} {result.std_reward:.1f} 2 {np.mean(result.episode_lengths):.1f}"
        assert row.split() == [task, *numbers.split()]
    assert mean.split()[:3] == ["mean", "over", "tasks"]
    assert len({len(row) for row in (header, *rows)}) == 1  # aligned
    assert f"{results}" == str(results)
