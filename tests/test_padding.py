"""Tasks of different sizes, and different numbers of copies, in one VecEnv."""

import pickle

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from helpers.drift import DriftEnv, drift_tasks

import sb3_multitask as mt
from sb3_multitask.checkpoint import CheckpointError
from sb3_multitask.envs.task_space import TaskSizes, TaskSpace

ROBOTS = {name: f"{name}-v5" for name in ("HalfCheetah", "Hopper", "Walker2d", "Swimmer", "Ant")}
SIZES = {"wide": (5, 1), "narrow": (2, 3), "middle": (4, 2)}


def sized_tasks(**kwargs):
    """Three tasks; none is the widest in both observations and actions."""
    return [
        mt.Task(name, DriftEnv, {"obs_dim": obs, "action_dim": act, "horizon": 4 + obs, **kwargs})
        for name, (obs, act) in SIZES.items()
    ]


def play(env, n_steps=12, seed=0):
    """Everything that an env gives, for actions of the full width."""
    rng, obs = np.random.default_rng(seed), env.reset()
    seen = [obs["obs"]]
    for _ in range(n_steps):
        obs, rewards, dones, infos = env.step(rng.uniform(-1, 1, (env.num_envs, *env.action_space.shape)))
        seen += [
            obs["obs"],
            rewards,
            dones,
            *(info["terminal_observation"]["obs"] for info in infos if "terminal_observation" in info),
        ]
    return seen


def same(first, second):
    return len(first) == len(second) and all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))


def test_spaces_are_as_wide_as_the_widest_and_say_the_sizes():
    env = mt.MultiTaskVecEnv(sized_tasks())
    assert env.observation_space["obs"].shape == (5,)
    assert env.action_space.shape == (3,)
    sizes = TaskSizes.of(env.observation_space, env.action_space)
    assert sizes.obs_dims.tolist() == [5, 2, 4]
    assert sizes.action_dims.tolist() == [1, 3, 2]
    assert sizes.obs_mask.sum(axis=1).tolist() == [5, 2, 4]
    assert sizes.has_padding
    assert not sizes.bounds_differ


def test_tasks_of_one_size_have_a_plain_space():
    env = mt.MultiTaskVecEnv(drift_tasks(2))
    assert type(env.observation_space["task"]) is spaces.Discrete
    sizes = TaskSizes.of(env.observation_space, env.action_space)
    assert not sizes.has_padding
    assert sizes.action_mask.all()


def test_task_spaces_are_equal_by_their_sizes():
    bounds = [([-1.0], [1.0]), ([-1.0, -2.0], [1.0, 2.0])]
    space = TaskSpace([3, 2], bounds)
    assert space == TaskSpace((3, 2), bounds) == pickle.loads(pickle.dumps(space))
    assert space != TaskSpace([3, 3], bounds)
    assert space != TaskSpace([3, 2], bounds[::-1])
    assert space != spaces.Discrete(2)
    assert spaces.Discrete(2) != space
    assert repr(space) == "TaskSpace(obs_dims=[3, 2], action_dims=[1, 2], action_bounds=[{}])".format(
        "-1.0 to 1.0, (-1.0, -2.0) to (1.0, 2.0)"
    )


@pytest.mark.parametrize("n_envs", [2, {"wide": 1, "narrow": 3, "middle": 2}])
def test_each_task_plays_as_in_a_vec_env_of_its_own(n_envs):
    env = mt.MultiTaskVecEnv(sized_tasks(), n_envs, seed=3)
    obs, rng = env.reset(), np.random.default_rng(0)
    alone = []
    for i, (task, (obs_dim, _)) in enumerate(zip(sized_tasks(), SIZES.values(), strict=True)):
        single = mt.MultiTaskVecEnv(task, env.copies.of_tasks[i], seed=0)
        single._seeds = env.sub_envs.seeds_for(3)[env.rows(i)]
        np.testing.assert_array_equal(single.reset()["obs"], obs["obs"][env.rows(i), :obs_dim])
        alone.append(single)
    for _ in range(20):
        actions = rng.uniform(-1, 1, (env.num_envs, 3)).astype(np.float32)
        obs, rewards, dones, infos = env.step(actions)
        for i, (single, (obs_dim, action_dim)) in enumerate(zip(alone, SIZES.values(), strict=True)):
            rows = env.rows(i)
            theirs, their_rewards, their_dones, their_infos = single.step(actions[rows, :action_dim])
            np.testing.assert_array_equal(obs["obs"][rows, :obs_dim], theirs["obs"])
            assert not obs["obs"][rows, obs_dim:].any()
            np.testing.assert_array_equal(rewards[rows], their_rewards)
            np.testing.assert_array_equal(dones[rows], their_dones)
            for info, their_info in zip(infos[rows], their_infos, strict=True):
                assert info["action"].shape == (action_dim,)
                assert ("terminal_observation" in info) == ("terminal_observation" in their_info)
                if "terminal_observation" in info:
                    last = info["terminal_observation"]["obs"]
                    np.testing.assert_array_equal(last[:obs_dim], their_info["terminal_observation"]["obs"])
                    assert last.shape == (5,)
                    assert not last[obs_dim:].any()


@pytest.mark.slow
@pytest.mark.parametrize("n_envs", [2, {"wide": 1, "narrow": 2, "middle": 1}])
def test_processes_give_the_same(n_envs):
    here = play(mt.MultiTaskVecEnv(sized_tasks(), n_envs, seed=1))
    others = mt.MultiTaskVecEnv(sized_tasks(), n_envs, seed=1, backend="subproc")
    assert same(here, play(others))
    others.close()


@pytest.mark.native
@pytest.mark.parametrize("n_envs", [2, dict(zip(ROBOTS, (2, 1, 3, 1, 2), strict=True))])
def test_five_robots_give_the_same_on_the_native_backend(n_envs):
    native, single = (mt.make_multitask_vec_env(ROBOTS, n_envs, seed=1, backend=name) for name in ("batch", "dummy"))
    assert native.unwrapped.backend == "batch"
    assert same(play(native, 80), play(single, 80))


@pytest.mark.parametrize(
    ("robots", "backend"),
    [
        (("Reacher", "Pusher", "InvertedPendulum", "Humanoid"), "dummy"),  # bounds of 1, 2, 3 and 0.4
        pytest.param(("Ant", "Hopper", "HalfCheetah"), "batch", marks=pytest.mark.native),
    ],
)
def test_robots_play_as_gymnasiums_own(robots, backend):
    ids = {name: f"{name}-v5" for name in robots}
    env = mt.make_multitask_vec_env(ids, 1, seed=1, backend=backend, normalize=False)
    seeds, rng = env.unwrapped.sub_envs.seeds_for(1), np.random.default_rng(0)
    alone = [gym.make(env_id) for env_id in ids.values()]
    obs = env.reset()["obs"]
    for i, (single, seed) in enumerate(zip(alone, seeds, strict=True)):
        first, _ = single.reset(seed=seed)
        np.testing.assert_array_equal(obs[i, : len(first)], first.astype(obs.dtype))
    n_ended = 0
    for _ in range(50):
        actions = rng.uniform(env.action_space.low, env.action_space.high, (len(robots), *env.action_space.shape))
        obs, rewards, dones, infos = env.step(actions)
        for i, single in enumerate(alone):
            space = single.action_space
            action = np.clip(actions[i, : len(space.low)].astype(np.float32), space.low, space.high)
            own, reward, terminated, truncated, _ = single.step(action)
            last = infos[i]["terminal_observation"]["obs"] if dones[i] else obs["obs"][i]
            np.testing.assert_array_equal(last[: len(own)], own.astype(last.dtype))
            assert not last[len(own) :].any()
            assert (rewards[i], dones[i]) == (np.float32(reward), terminated or truncated)
            if dones[i]:
                n_ended += 1
                single.reset()
    assert n_ended
    env.close()


@pytest.mark.parametrize("n_envs", [3, {"wide": 1, "narrow": 4, "middle": 2}])
@pytest.mark.parametrize("kernels", ["1", "0"])
def test_a_normaliser_never_sees_padding(n_envs, kernels, monkeypatch):
    monkeypatch.setenv("SB3_MULTITASK_KERNELS", kernels)
    env = mt.make_multitask_vec_env(sized_tasks(), n_envs, seed=2)
    seen = play(env, 30)
    rms, sizes = env.obs_rms["obs"], env.venv.sub_envs.sizes
    assert (rms.mean[~sizes.obs_mask] == 0).all()
    assert (rms.var[~sizes.obs_mask] == 1).all()
    assert (rms.count[~sizes.obs_mask] == 1e-4).all()
    assert (rms.count[sizes.obs_mask] > 30).all()
    copies = env.venv.copies
    for obs in (array for array in seen if array.ndim == 2):
        assert not obs[~sizes.obs_mask[copies.task_ids]].any()
    for i, task in enumerate(sized_tasks()):  # alone, a task has the same moments
        alone = mt.make_multitask_vec_env(task, copies.of_tasks[i], seed=0)
        alone.venv._seeds = env.venv.sub_envs.seeds_for(2)[copies.rows(i)]
        rng = np.random.default_rng(0)
        alone.reset()
        for _ in range(30):
            actions = rng.uniform(-1, 1, (env.num_envs, 3))[copies.rows(i), : SIZES[task.name][1]]
            alone.step(actions)
        for part in ("mean", "var", "count"):
            own = getattr(rms, part)[i, : SIZES[task.name][0]]
            np.testing.assert_allclose(own, getattr(alone.obs_rms["obs"], part)[0], rtol=1e-9)
            np.testing.assert_allclose(getattr(env.ret_rms, part)[i], getattr(alone.ret_rms, part)[0], rtol=1e-9)


def swapped_tasks():
    """The same names, of which the first two have each other's sizes."""
    wide, narrow, middle = sized_tasks()
    return [mt.Task("wide", narrow.env_id, narrow.env_kwargs), mt.Task("narrow", wide.env_id, wide.env_kwargs), middle]


@pytest.mark.parametrize("kernels", ["1", "0"])
@pytest.mark.parametrize("how", ["attributes", "dict"])
def test_statistics_of_other_sizes_leave_the_padding_as_it_is(how, kernels, monkeypatch):
    monkeypatch.setenv("SB3_MULTITASK_KERNELS", kernels)
    env, other = mt.make_multitask_vec_env(sized_tasks(), 2, seed=0), mt.make_multitask_vec_env(swapped_tasks(), 2)
    play(env)
    if how == "attributes":
        other.obs_rms = env.obs_rms
    else:
        other.set_statistics(env.get_statistics())
    other.training = False
    mask = other.venv.sub_envs.sizes.obs_mask
    np.testing.assert_array_equal(other.obs_rms["obs"].mean, np.where(mask, env.obs_rms["obs"].mean, 0))
    assert not other.reset()["obs"][~mask[other.venv.task_ids]].any()


@pytest.mark.parametrize("tasks", [swapped_tasks(), drift_tasks(3)], ids=["swapped", "narrower"])
def test_a_normalisers_file_is_for_tasks_of_its_sizes(tasks, tmp_path):
    env = mt.make_multitask_vec_env(sized_tasks(), 2, seed=0)
    play(env)
    env.save(tmp_path / "vecnormalize.pkl")
    tasks = [mt.Task(name, task.env_id, task.env_kwargs) for name, task in zip(SIZES, tasks, strict=True)]
    with pytest.raises(ValueError, match=r"of other sizes.\n  statistics: \[5, 2, 4\], 5 with .*\n  env:"):
        mt.MultiTaskVecNormalize.load(tmp_path / "vecnormalize.pkl", mt.MultiTaskVecEnv(tasks))
    loaded = mt.MultiTaskVecNormalize.load(tmp_path / "vecnormalize.pkl", mt.MultiTaskVecEnv(sized_tasks(), 3))
    np.testing.assert_array_equal(loaded.obs_rms["obs"].mean, env.obs_rms["obs"].mean)


def test_actions_are_clipped_to_the_bounds_of_their_task():
    tasks = [mt.Task("weak", DriftEnv, {"high": 0.5}), mt.Task("strong", DriftEnv, {"high": 3.0, "action_dim": 1})]
    env = mt.MultiTaskVecEnv(tasks, 2)
    assert env.action_space == spaces.Box(np.float32([-3, -0.5]), np.float32([3, 0.5]))
    env.reset()
    *_, infos = env.step(np.full((4, 2), 2, np.float32))
    assert [info["action"].tolist() for info in infos] == [[0.5, 0.5], [0.5, 0.5], [2.0], [2.0]]


def test_one_task_at_a_time_is_padded_too():
    env = mt.make_multitask_vec_env(sized_tasks(), 2, seed=0).cycling()
    obs = env.reset()
    for obs_dim, _ in SIZES.values():
        assert obs["obs"].shape == (2, 5)
        assert not obs["obs"][:, obs_dim:].any()
        obs, *_ = env.step(np.zeros((2, 3), np.float32))
        assert not obs["obs"][:, obs_dim:].any()
        obs = env.next_task()


@pytest.mark.parametrize("backend", ["dummy", pytest.param("batch", marks=pytest.mark.native)])
def test_states_of_unequal_copies_are_restored_to_the_bit(backend):
    robots, n_envs = {name: ROBOTS[name] for name in ("Hopper", "Swimmer")}, {"Hopper": 1, "Swimmer": 3}
    first = mt.make_multitask_vec_env(robots, n_envs, seed=4, backend=backend)
    play(first, 30)
    states, rng = (first.venv.get_state(), first.get_state()), np.random.default_rng(1)
    actions = rng.uniform(-1, 1, (10, 4, 3))
    expected = [first.step(one)[0]["obs"] for one in actions]
    second = mt.make_multitask_vec_env(robots, n_envs, seed=5, backend=backend)
    second.reset()
    second.venv.set_state(states[0])
    second.set_state(states[1])
    assert same(expected, [second.step(one)[0]["obs"] for one in actions])


@pytest.mark.parametrize(
    ("n_envs", "error", "message"),
    [
        ({"wide": 2}, ValueError, r"none for narrow, middle"),
        ({"wide": 2, "narrow": 1, "middel": 1}, ValueError, r"'middel', which is no task. Did you mean 'middle'"),
        ({"wide": 2, "narrow": 0, "middle": 1}, ValueError, r"of 'narrow' must be at least 1 \(got 0\)"),
        ({"wide": 2, "narrow": 1.5, "middle": 1}, TypeError, r"of 'narrow' must be an integer \(got 1.5\)"),
        (True, TypeError, r"`n_envs_per_task` must be an integer \(got True\)"),
    ],
)
def test_bad_numbers_of_copies_are_refused(n_envs, error, message):
    with pytest.raises(error, match=message):
        mt.MultiTaskVecEnv(sized_tasks(), n_envs)


def test_one_task_at_a_time_needs_equal_copies():
    env = mt.make_multitask_vec_env(sized_tasks(), {"wide": 2, "narrow": 1, "middle": 1})
    with pytest.raises(ValueError, match=r"as many copies of every task.*'wide': 2"):
        env.cycling()


def test_kwargs_of_copies_count_within_their_task():
    task = mt.Task("own", DriftEnv, lambda copy: {"horizon": 3 + copy})
    env = mt.MultiTaskVecEnv([*drift_tasks(1), task], {"A": 2, "own": 3})
    assert env.get_attr("horizon") == [5, 5, 3, 4, 5]


def test_a_quarantined_step_of_a_narrow_task_is_padded():
    class Failing(DriftEnv):
        def step(self, action):
            obs, reward, *rest = super().step(action)
            return obs, np.nan if self.time == 3 else reward, *rest

    tasks = [mt.Task("wide", DriftEnv, {"obs_dim": 4}), mt.Task("narrow", Failing, {"obs_dim": 2})]
    env = mt.MultiTaskVecEnv(tasks, 2, on_fault="quarantine")
    env.reset()
    for _ in range(3):
        obs, _, dones, infos = env.step(np.zeros((4, 2), np.float32))
    assert dones.tolist() == [False, False, True, True]
    assert infos[2]["terminal_observation"]["obs"].shape == (4,)
    assert obs["obs"].shape == (4, 4)
    assert not obs["obs"][2:, 2:].any()


def test_a_single_env_of_all_tasks_is_padded():
    env = mt.TaskSetEnv(sized_tasks())
    shown = mt.TaskSetEnv(sized_tasks(), task="narrow")
    assert env.observation_space == shown.observation_space
    assert env.action_space == shown.action_space
    for obs_dim, _ in SIZES.values():
        obs, _ = env.reset()
        assert obs in env.observation_space
        assert not obs["obs"][obs_dim:].any()
        env.step(env.action_space.sample())
    assert shown.reset()[0]["task"] == 1


def test_a_task_env_may_be_padded_as_a_vec_env():
    venv = mt.MultiTaskVecEnv(sized_tasks())
    names, sizes_of = list(SIZES), (venv.observation_space, venv.action_space)
    env = mt.TaskEnv(gym.wrappers.TimeLimit(DriftEnv(obs_dim=2, action_dim=3), 5), "narrow", names, sizes_of)
    assert env.reset()[0]["obs"].shape == (5,)
    own = mt.TaskEnv(DriftEnv(obs_dim=2, action_dim=3), "narrow", names)
    assert own.reset()[0]["obs"].shape == (2,)
    with pytest.raises(ValueError, match=r"'narrow' has 2 numbers in an observation and 3 .* with 2 and 1"):
        mt.TaskEnv(DriftEnv(obs_dim=2, action_dim=1), "narrow", names, sizes_of)


@pytest.mark.filterwarnings("ignore:A run that resumes")
def test_a_run_with_other_copies_is_another_run(tmp_path):
    def learn(n_envs, n_steps):
        env = mt.make_multitask_vec_env(drift_tasks(2), n_envs, seed=0)
        model = mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=0)
        model.learn(n_steps, mt.ResumableCheckpointCallback(tmp_path, 20, verbose=0))
        return model

    learn({"A": 3, "B": 1}, 40)
    with pytest.raises(CheckpointError, match=r"n_envs_per_task: \{'A': 3, 'B': 1\} then, 2 now"):
        learn(2, 80)
    assert learn({"A": 3, "B": 1}, 80).num_timesteps == 80


def test_a_start_is_the_same_whatever_the_padding(monkeypatch):
    """No warning of an environment that does not obey its seed."""
    monkeypatch.setitem(
        gym.registry,
        "PaddedDrift-v0",
        gym.envs.registration.EnvSpec("PaddedDrift-v0", DriftEnv, disable_env_checker=True),
    )
    task = mt.Task("drift", "PaddedDrift-v0")
    for others in ([], [mt.Task("wide", DriftEnv, {"obs_dim": 5})]):
        mt.MultiTaskVecEnv([task, *others], 2, seed=3).reset()
