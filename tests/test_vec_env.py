import re

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from helpers.drift import DriftEnv, drift_tasks
from stable_baselines3.common.monitor import Monitor, load_results

import sb3_multitask as mt
from sb3_multitask.process.seeding import env_seeds


def actions_for(env, seed=0):
    rng = np.random.default_rng(seed)
    return lambda: rng.uniform(-1, 1, (env.num_envs, 2)).astype(np.float32)


def test_rows_are_grouped_by_task_and_carry_it():
    env = mt.MultiTaskVecEnv(drift_tasks(3), n_envs_per_task=2, seed=0)
    obs = env.reset()
    assert env.num_envs == 6
    assert env.task_names == ("A", "B", "C")
    np.testing.assert_array_equal(env.task_ids, [0, 0, 1, 1, 2, 2])
    np.testing.assert_array_equal(obs["task"], env.task_ids)
    assert obs["obs"].shape == (6, 3)
    assert obs["obs"].dtype == np.float32
    assert env.observation_space["task"] == spaces.Discrete(3)


def test_each_row_is_the_gymnasium_env_of_its_task():
    tasks = drift_tasks(2)
    env = mt.MultiTaskVecEnv(tasks, n_envs_per_task=2, seed=5)
    single = [task.make() for task in tasks for _ in range(2)]
    obs = env.reset()["obs"]
    for i, (one, seed) in enumerate(zip(single, env_seeds(5, 2, 2), strict=True)):
        np.testing.assert_array_equal(obs[i], one.reset(seed=seed)[0].astype(np.float32))
    draw = actions_for(env)
    for _ in range(20):
        action = draw()
        obs, rewards, dones, infos = env.step(action)
        for i, one in enumerate(single):
            their_obs, reward, terminated, truncated, info = one.step(action[i])
            assert rewards[i] == np.float32(reward)
            assert infos[i]["speed"] == info["speed"]
            assert dones[i] == (terminated or truncated)
            assert infos[i]["TimeLimit.truncated"] == (truncated and not terminated)
            if dones[i]:
                np.testing.assert_array_equal(infos[i]["terminal_observation"]["obs"], their_obs.astype(np.float32))
                assert infos[i]["terminal_observation"]["task"] == env.task_ids[i]
                their_obs, _ = one.reset()
            np.testing.assert_array_equal(obs["obs"][i], their_obs.astype(np.float32))


def test_backends_give_the_same():
    envs = [mt.MultiTaskVecEnv(drift_tasks(2), 2, backend=backend, seed=3) for backend in ("dummy", "subproc")]
    draw = actions_for(envs[0])
    first, second = (env.reset() for env in envs)
    for _ in range(15):
        np.testing.assert_array_equal(first["obs"], second["obs"])
        action = draw()
        (first, *rest, infos), (second, *their_rest, their_infos) = (env.step(action) for env in envs)
        for mine, theirs in zip(rest, their_rest, strict=True):
            np.testing.assert_array_equal(mine, theirs)
        for info, their_info in zip(infos, their_infos, strict=True):
            assert info.keys() == their_info.keys()
            assert {**info.get("episode", {}), "t": 0} == {**their_info.get("episode", {}), "t": 0}
    assert envs[1].get_attr("target") == envs[0].get_attr("target")
    assert envs[1].env_method("get_wrapper_attr", "scale", indices=1) == [1.0]
    envs[1].set_attr("scale", 3.0, indices=[2])
    assert envs[1].get_attr("scale") == [1.0, 1.0, 3.0, 1.0]
    assert envs[1].env_is_wrapped(Monitor) == [True] * 4
    for env in envs:
        env.close()


def test_same_seed_same_rollout_and_another_differs():
    def rollout(seed):
        env = mt.MultiTaskVecEnv(drift_tasks(2), 2, seed=seed)
        env.reset()
        draw = actions_for(env)
        return np.array([env.step(draw())[0]["obs"] for _ in range(10)])

    np.testing.assert_array_equal(rollout(1), rollout(1))
    assert not np.array_equal(rollout(1), rollout(2))


def test_a_task_view_steps_its_task_only_and_the_others_keep_their_state():
    env, reference = (mt.MultiTaskVecEnv(drift_tasks(3), 2, seed=0) for _ in range(2))
    env.reset()
    reference.reset()
    draw = actions_for(env)
    action = draw()
    for env_ in (env, reference):
        env_.step(action)
    view = env.task_view(1)
    for _ in range(4):
        obs, *_ = view.step(np.zeros((2, 2), dtype=np.float32))
        np.testing.assert_array_equal(obs["task"], [1, 1])
    action = draw()
    obs, rewards, *_ = env.step(action)
    their_obs, their_rewards, *_ = reference.step(action)
    others = [0, 1, 4, 5]
    np.testing.assert_array_equal(obs["obs"][others], their_obs["obs"][others])
    np.testing.assert_array_equal(rewards[others], their_rewards[others])
    assert not np.array_equal(obs["obs"][2:4], their_obs["obs"][2:4])
    assert view.get_attr("target") == env.get_attr("target", [2, 3])
    with pytest.raises(IndexError, match="between 0 and 2 .got 3"):
        env.task_view(3)


def test_monitoring_is_built_in(tmp_path):
    env = mt.MultiTaskVecEnv(drift_tasks(2), 2, seed=0, monitor_dir=tmp_path)
    assert env.env_is_wrapped(Monitor) == [True] * 4
    env.reset()
    draw = actions_for(env)
    totals = np.zeros(4)
    for _ in range(5):
        _, rewards, dones, infos = env.step(draw())
        totals += rewards
    assert dones.tolist() == [True, True, False, False]
    for i in (0, 1):
        assert infos[i]["episode"]["l"] == 5
        assert infos[i]["episode"]["r"] == pytest.approx(totals[i], abs=1e-5)
        assert infos[i]["episode"]["task"] == infos[i]["task"] == "A"
    assert "episode" not in infos[2]
    for _ in range(5):
        env.step(draw())
    env.close()
    frame = load_results(str(tmp_path))
    assert sorted(frame["task"]) == ["A"] * 4 + ["B"] * 2
    assert sorted(path.name for path in tmp_path.iterdir()) == [f"{i}.monitor.csv" for i in range(4)]


def test_a_reset_starts_the_episode_anew():
    env = mt.MultiTaskVecEnv(drift_tasks(1), 1, seed=0)
    for steps in (3, 5):
        env.reset()
        for _ in range(steps):
            *_, infos = env.step(np.zeros((1, 2), dtype=np.float32))
    assert infos[0]["episode"]["l"] == 5


def test_arrays_handed_out_belong_to_the_receiver():
    env = mt.MultiTaskVecEnv(drift_tasks(2), 1, seed=0)
    first = env.reset()
    kept = {key: value.copy() for key, value in first.items()}
    _, rewards, *_ = env.step(np.zeros((2, 2), dtype=np.float32))
    rewards += 100
    first["task"][:] = 7
    obs, again, *_ = env.step(np.zeros((2, 2), dtype=np.float32))
    assert (again < 50).all()
    np.testing.assert_array_equal(obs["task"], kept["task"])
    np.testing.assert_array_equal(first["obs"], kept["obs"])


@pytest.mark.parametrize(
    ("other", "message"),
    [
        ({"obs_dim": 4}, r"observation spaces of the same shape: task 'odd' has Box.*\(3,\).* and Box.*\(4,\)"),
        ({"high": 2.0}, r"action spaces of the same shape and bounds: task 'odd' has Box\(-1.* and Box\(-2"),
    ],
)
def test_copies_with_other_spaces_are_refused_with_both(other, message):
    with pytest.raises(ValueError, match=message):
        mt.MultiTaskVecEnv([*drift_tasks(1), mt.Task("odd", DriftEnv, [{}, other])], 2)


def test_tasks_may_differ_in_the_bounds_of_observations():
    class Bounded(DriftEnv):
        def __init__(self):
            super().__init__()
            self.observation_space = spaces.Box(-1, 2, (3,))

    env = mt.MultiTaskVecEnv([mt.Task("bounded", Bounded), *drift_tasks(1)])
    assert env.observation_space["obs"].low[0] == -np.inf


def test_unfit_spaces_are_refused_with_the_remedy():
    class Written(DriftEnv):
        def __init__(self):
            super().__init__()
            self.observation_space = spaces.Text(5)

    with pytest.raises(ValueError, match=r"'x'.*observation space.*Text space.*TransformObservation"):
        mt.MultiTaskVecEnv([mt.Task("x", Written)])


@pytest.mark.parametrize(
    ("space", "instead"),
    [
        (spaces.Discrete(2), r"stable_baselines3.PPO, A2C or DQN, a model for each task\."),
        (spaces.MultiDiscrete([2, 3]), r"stable_baselines3.PPO or A2C, a model for each task\."),
        (spaces.MultiBinary(3), r"stable_baselines3.PPO or A2C, a model for each task\."),
        (spaces.Box(-1, 1, (2, 3)), "TransformAction"),
        (spaces.Tuple([spaces.Discrete(2)]), r"continuous control\.$"),
    ],
)
def test_other_actions_than_vectors_are_refused_with_what_trains_on_them(space, instead):
    class Acts(DriftEnv):
        def __init__(self):
            super().__init__()
            self.action_space = space

    with pytest.raises(ValueError, match=f"(?s)Task 'x': its action space must be a Box.*{instead}"):
        mt.MultiTaskVecEnv([mt.Task("x", Acts)])
    with pytest.raises(ValueError, match=f"(?s)Task 'x': its action space must be a Box.*{instead}"):
        mt.TaskEnv(Acts(), "x", ["x"])


@pytest.mark.parametrize(("value", "error"), [(0, ValueError), (-1, ValueError), (2.5, TypeError), (True, TypeError)])
def test_too_few_copies_are_refused(value, error):
    with pytest.raises(
        error, match=re.escape(f"`n_envs_per_task` must be {'at least 1' if error is ValueError else 'an'}")
    ):
        mt.MultiTaskVecEnv(drift_tasks(1), n_envs_per_task=value)


def test_an_unknown_backend_is_refused():
    with pytest.raises(ValueError, match="`backend` must be one of auto, .*got 'thread'"):
        mt.MultiTaskVecEnv(drift_tasks(1), backend="thread")


@pytest.mark.parametrize("backend", ["dummy", "subproc"])
def test_a_factory_that_raises_names_its_task(backend):
    def broken():
        raise OSError("no such robot")

    with pytest.raises(RuntimeError, match="Task 'broken'.*no such robot"):
        mt.MultiTaskVecEnv([*drift_tasks(1), mt.Task("broken", broken)], backend=backend)


def test_a_factory_that_hands_out_one_env_twice_is_refused():
    env = DriftEnv()
    with pytest.raises(ValueError, match="Task 'one'.*must make a new one"):
        mt.MultiTaskVecEnv([mt.Task("one", lambda: env)], n_envs_per_task=2)


def test_a_step_that_raises_names_its_task():
    env = mt.MultiTaskVecEnv([*drift_tasks(1), mt.Task("hot", DriftEnv, {"fail_at": 2})], 2, seed=0)
    env.reset()
    env.step(np.zeros((4, 2), dtype=np.float32))
    with pytest.raises(RuntimeError, match="burnt out") as error:
        env.step(np.zeros((4, 2), dtype=np.float32))
    assert "task 'hot' (sub-environment 2)" in error.value.__notes__[0]


def test_rendering_tiles_all_tasks():
    class Picture(DriftEnv):
        metadata = {"render_modes": ["rgb_array"]}

        def __init__(self, render_mode=None):
            super().__init__()
            self.render_mode = render_mode

        def render(self):
            return np.full((4, 5, 3), 7, dtype=np.uint8)

    env = mt.make_multitask_vec_env([mt.Task("p", Picture)], 4, render_mode="rgb_array")
    env.reset()
    assert env.render().shape == (8, 10, 3)


class Simple(DriftEnv):
    """Written as older environments are: a reset without options."""

    def reset(self, seed=None):
        return super().reset(seed=seed)


@pytest.mark.parametrize("backend", ["dummy", "subproc"])
def test_environments_without_reset_options_train_as_in_sb3(backend):
    kwargs = {"start_method": "fork"} if backend == "subproc" else {}
    env = mt.MultiTaskVecEnv([mt.Task("A", Simple)], 2, seed=0, backend=backend, **kwargs)
    env.reset()
    for _ in range(20):
        env.step(np.zeros((2, 2)))
    env.close()
    one = mt.TaskEnv(Simple(), "A", ["A"])
    one.reset(seed=0)


def test_reset_options_are_handed_over_once():
    seen = []

    class Listening(DriftEnv):
        def reset(self, **kwargs):
            seen.append(kwargs)
            return super().reset(**kwargs)

    env = mt.MultiTaskVecEnv([mt.Task("A", Listening)], backend="dummy")
    env.set_options({"goal": 3})
    env.reset()
    env.reset()
    assert seen == [{"seed": None, "options": {"goal": 3}}, {"seed": None}]


def test_the_native_backend_says_that_it_has_no_options():
    env = mt.MultiTaskVecEnv("HalfCheetahBigLeg-v0", seed=0)
    if env.backend != "batch":
        pytest.skip("no mujoco.batch")
    env.set_options({"goal": 3})
    with pytest.warns(UserWarning, match="'goal': 3"):
        env.reset()


@pytest.mark.parametrize(("backend", "n_made"), [("auto", 6), ("dummy", 6)])
@pytest.mark.parametrize("render_mode", [None, "rgb_array"])
def test_every_environment_is_made_once(backend, n_made, render_mode):
    made = []

    def make(**kwargs):
        made.append(kwargs)
        return DriftEnv()

    tasks = [mt.Task("A", make), mt.Task("B", make)]
    env = mt.MultiTaskVecEnv(tasks, 3, backend=backend, render_mode=render_mode)
    assert len(made) == n_made
    assert len(env.envs) == 6


def test_environment_objects_are_there_on_dummy_as_in_sb3():
    env = mt.MultiTaskVecEnv(drift_tasks(2), 2, backend="dummy")
    assert [one.target for one in env.envs] == env.get_attr("target")
    other = mt.MultiTaskVecEnv("HalfCheetahBigLeg-v0")
    if other.backend == "batch":
        assert not hasattr(other, "envs")
        with pytest.raises(AttributeError, match='`envs` needs backend="dummy"'):
            _ = other.envs


class Pool(gym.Env):
    """Steps several environments at once, as EnvPool's objects do, which are instances of gymnasium.Env."""

    observation_space = spaces.Box(-1, 1, (3,))
    action_space = spaces.Box(-1, 1, (2,))
    config = {"num_envs": 4}

    def send(self, action):
        """Start a step of all of them."""

    def recv(self):
        """Finish it."""


class WithConfig(DriftEnv):
    """Keeps the settings of its whole experiment."""

    config = {"num_envs": 4, "learning_rate": 1e-3}


def test_a_config_of_an_environments_own_says_nothing_of_how_many_it_is():
    env = mt.MultiTaskVecEnv([mt.Task("A", WithConfig)], seed=0)
    assert env.reset()["obs"].shape == (1, 3)


def vectorised():
    return gym.vector.SyncVectorEnv([DriftEnv, DriftEnv])


class TwoRewards(DriftEnv):
    """As of mo-gymnasium."""

    reward_space = spaces.Box(-np.inf, np.inf, (2,))


class Replaced(gym.wrappers.TimeLimit):
    """As rl_zoo3's, which replaces Gymnasium's when it is imported."""

    __module__ = "rl_zoo3.gym_patches"

    def step(self, action):
        return super().step(action)


@pytest.mark.parametrize("backend", ["auto", "dummy", "subproc"])
@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (Pool, ValueError, "'odd'.*num_envs=4.*`n_envs_per_task`"),
        (vectorised, RuntimeError, "'odd'.*SyncVectorEnv.*num_envs=2.*`n_envs_per_task`"),
        (TwoRewards, ValueError, r"'odd'.*reward.*\(2,\)"),
        (lambda: gym.wrappers.TimeLimit(TwoRewards(), 5), ValueError, r"'odd'.*reward.*\(2,\)"),
        (lambda: Replaced(TwoRewards(), 5), ValueError, r"'odd'.*reward.*\(2,\)"),
    ],
)
def test_what_is_no_single_task_is_refused_at_construction(make, error, message, backend):
    kwargs = {"start_method": "fork"} if backend == "subproc" else {}
    if backend == "subproc" and error is RuntimeError:
        message = "(?s)" + message  # with the worker's traceback
    with pytest.raises(error, match=message):
        mt.MultiTaskVecEnv([mt.Task("odd", make)], backend=backend, **kwargs)


class Weighed(gym.Wrapper):
    """As ``LinearReward`` of mo-gymnasium: one reward, and no reward space of its own."""

    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, float(np.dot(np.full(2, reward), [0.25, 0.75])), *rest


@pytest.mark.parametrize("backend", ["dummy", "subproc"])
@pytest.mark.parametrize(
    "make",
    [
        lambda: Weighed(TwoRewards()),
        lambda: gym.wrappers.TimeLimit(Weighed(TwoRewards()), 5),
        lambda: gym.wrappers.TransformReward(TwoRewards(), lambda reward: float(np.mean(reward))),
    ],
)
def test_several_rewards_may_be_weighed_by_a_wrapper(make, backend):
    kwargs = {"start_method": "fork"} if backend == "subproc" else {}
    env = mt.MultiTaskVecEnv([mt.Task("odd", make)], seed=0, backend=backend, **kwargs)
    env.reset()
    assert env.step(np.zeros((1, 2)))[1].shape == (1,)
    env.close()


def test_a_reward_that_is_no_number_names_its_task():
    class Undeclared(DriftEnv):
        def step(self, action):
            obs, reward, *rest = super().step(action)
            return obs, np.array([reward, reward]), *rest

    class OneElement(DriftEnv):
        def step(self, action):
            obs, reward, *rest = super().step(action)
            return obs, np.array([reward]), *rest

    env = mt.MultiTaskVecEnv([mt.Task("odd", Undeclared)], seed=0)
    env.reset()
    with pytest.raises(ValueError, match="reward must be one number") as caught:
        env.step(np.zeros((1, 2)))
    assert "'odd'" in caught.value.__notes__[0]
    env = mt.MultiTaskVecEnv([mt.Task("odd", OneElement)], seed=0)
    env.reset()
    assert env.step(np.zeros((1, 2)))[1].shape == (1,)
