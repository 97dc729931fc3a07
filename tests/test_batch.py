"""The native backend against Gymnasium's own environments: bit for bit, in float64."""

import copy

import gymnasium as gym
import numpy as np
import pytest
from helpers.drift import drift_tasks
from helpers.steps import raw_steps

import sb3_multitask as mt

pytestmark = pytest.mark.native

FAMILIES = {
    "HalfCheetah": ["HalfCheetahSmallFoot-v0", "HalfCheetahBigTorso-v0", "HalfCheetah-v5"],
    "Hopper": ["Hopper-v5", mt.Task("tall", "Hopper-v5", {"healthy_z_range": (0.5, 2.0), "ctrl_cost_weight": 0.1})],
    "Walker2d": ["Walker2d-v5", mt.Task("stubborn", "Walker2d-v5", {"terminate_when_unhealthy": False})],
    "Swimmer": ["Swimmer-v5", mt.Task("eager", "Swimmer-v5", {"forward_reward_weight": 2.0})],
    "positions": [mt.Task("p", "Hopper-v5", {"exclude_current_positions_from_observation": False})],
}


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("n_threads", [1, 2])
def test_it_is_gymnasium_bit_for_bit(family, n_threads):
    """1,200 steps with time limits and early ends: observations, rewards, ends, every info, every reset."""
    native, reference = (
        mt.MultiTaskVecEnv(FAMILIES[family], 2, backend=backend, n_threads=n_threads) for backend in ("batch", "dummy")
    )
    assert (native.backend, native.n_threads) == ("batch", n_threads)
    steps = zip(raw_steps(native, 1200), raw_steps(reference, 1200), strict=True)
    (obs, infos), (their_obs, their_infos) = next(steps)
    np.testing.assert_array_equal(obs, their_obs)
    assert infos == their_infos
    n_ends = 0
    for mine, theirs in steps:
        np.testing.assert_array_equal(mine.obs, theirs.obs)
        np.testing.assert_array_equal(mine.rewards, theirs.rewards)
        np.testing.assert_array_equal(mine.dones, theirs.dones)
        n_ends += mine.dones.sum()
        for info, their_info in zip(mine.infos, theirs.infos, strict=True):
            assert info.keys() == their_info.keys()
            for key, value in info.items():
                np.testing.assert_array_equal(value, their_info[key], err_msg=key)
    assert n_ends >= native.num_envs
    native.close()


def test_training_does_not_depend_on_backend_or_physics_threads():
    def weights(**kwargs):
        env = mt.make_multitask_vec_env(["Hopper-v5"], 4, seed=0, **kwargs)
        model = mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=0, device="cpu")
        return model.learn(2000).policy.parameters_to_vector()

    reference = weights(backend="dummy")
    for n_threads in (1, 2):
        np.testing.assert_array_equal(weights(backend="batch", n_threads=n_threads), reference)


def test_one_task_is_stepped_and_the_others_keep_their_state():
    tasks = ["HalfCheetahSmallFoot-v0", "HalfCheetahBigFoot-v0", "HalfCheetahBigLeg-v0"]
    env, reference = (mt.MultiTaskVecEnv(tasks, 2, backend=backend, seed=1) for backend in ("batch", "dummy"))
    rng = np.random.default_rng(0)
    for one in (env, reference):
        one.reset()
    for task in (1, 0, 2, 1, 1):
        action = rng.uniform(-1, 1, (2, 6)).astype(np.float32)
        (obs, rewards, *_), (their_obs, their_rewards, *_) = (
            one.task_view(task).step(action) for one in (env, reference)
        )
        np.testing.assert_array_equal(obs["obs"], their_obs["obs"])
        np.testing.assert_array_equal(rewards, their_rewards)
    action = rng.uniform(-1, 1, (6, 6)).astype(np.float32)
    np.testing.assert_array_equal(env.step(action)[0]["obs"], reference.step(action)[0]["obs"])


def test_tasks_of_other_layouts_share_a_vec_env():
    """Walker2d with and without a rendering-only change is one batch; another frame_skip needs its own."""
    tasks = ["Walker2d-v5", mt.Task("slow", "Walker2d-v5", {"frame_skip": 8}), mt.Task("again", "Walker2d-v5")]
    env, reference = (mt.MultiTaskVecEnv(tasks, 2, backend=backend, seed=1) for backend in ("batch", "dummy"))
    assert [(group.start, group.stop) for group in env.sub_envs.backend.groups] == [(0, 2), (2, 4), (4, 6)]
    for mine, theirs in zip(raw_steps(env, 200), raw_steps(reference, 200), strict=True):
        if not isinstance(mine, tuple):
            np.testing.assert_array_equal(mine.obs, theirs.obs)
            np.testing.assert_array_equal(mine.rewards, theirs.rewards)


def test_a_bad_action_is_an_error_that_names_task_and_env(capfd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    env = mt.MultiTaskVecEnv(["HalfCheetahSmallFoot-v0", "HalfCheetahBigFoot-v0"], 2, seed=0)
    env.reset()
    env.step(np.zeros((4, 6)))
    actions = np.zeros((4, 6))
    actions[3, 1] = np.nan
    with pytest.raises(RuntimeError, match=r"BigFoot-v0'.* 3\).* 2 .*NaN action"):
        env.step(actions)
    assert capfd.readouterr().err == ""
    assert list(tmp_path.iterdir()) == []


def test_a_diverged_simulation_is_an_error_and_never_a_silent_reset():
    env = mt.MultiTaskVecEnv(["HalfCheetahSmallFoot-v0", "HalfCheetahBigFoot-v0"], 2, seed=0)
    env.reset()
    env.sub_envs.backend.groups[0].qvel[1] = 1e12
    with pytest.raises(RuntimeError, match=r"'HalfCheetahSmallFoot-v0'.* 1\)"):
        env.step(np.zeros((4, 6)))


def test_infos_are_made_when_looked_at():
    env = mt.MultiTaskVecEnv(["HalfCheetahSmallFoot-v0"], 3, seed=0)
    env.reset()
    _, rewards, _, infos = env.step(np.ones((3, 6)))
    assert isinstance(infos, list)
    assert len(infos) == 3
    assert [info["reward_forward"] + info["reward_ctrl"] for info in infos] == pytest.approx(rewards.tolist())
    assert infos[1] is infos[1]
    assert [set(info) for info in infos[0:2]] == [set(infos[2])] * 2
    infos[0]["mine"] = 1
    assert infos[0]["mine"] == 1


@pytest.mark.parametrize(
    ("tasks", "kwargs", "reason"),
    [
        (drift_tasks(2), {}, "no adapter for task 'A' .DriftEnv"),
        (["HalfCheetah-v5"], {"render_mode": "rgb_array"}, "no environments to render"),
        ([mt.Task("w", lambda: mt.TASK_SETS["HalfCheetahBody6"][0].make(max_episode_steps=7))], {}, None),
    ],
)
def test_what_it_does_not_know_goes_to_dummy_or_is_refused_with_the_reason(tasks, kwargs, reason):
    assert mt.MultiTaskVecEnv(tasks, **kwargs).backend == ("dummy" if reason else "batch")
    if reason:
        with pytest.raises(ValueError, match=f'`backend="batch"` cannot run these tasks: .*{reason}'):
            mt.MultiTaskVecEnv(tasks, backend="batch", **kwargs)


def test_unknown_wrappers_are_not_left_out():
    def make():
        return gym.wrappers.ClipAction(gym.make("HalfCheetahBigLeg-v0"))

    assert mt.MultiTaskVecEnv([mt.Task("clipped", make)]).backend == "dummy"
    with pytest.raises(ValueError, match="'clipped' is wrapped with ClipAction"):
        mt.MultiTaskVecEnv([mt.Task("clipped", make)], backend="batch")


def test_what_needs_an_environment_object_is_refused():
    env = mt.MultiTaskVecEnv("HalfCheetahBigLeg-v0")
    assert env.get_attr("frame_skip") == [5]
    for call in (lambda: env.set_attr("frame_skip", 3), lambda: env.env_method("render")):
        with pytest.raises(NotImplementedError, match='make the VecEnv with backend="dummy"'):
            call()


def test_thread_counts_are_checked():
    with pytest.raises(ValueError, match="`n_threads` must be at least 1 .got 0"):
        mt.MultiTaskVecEnv("HalfCheetahBigLeg-v0", n_threads=0)
    assert mt.MultiTaskVecEnv("HalfCheetahBigLeg-v0", n_threads=64).n_threads == 1  # one simulation


@pytest.mark.parametrize("kind", ["velocity", "action"])
def test_a_fault_in_an_episodes_last_step_is_an_error_too(kind):
    short = mt.Task("short", "HalfCheetahBigLeg-v0", {"max_episode_steps": 3})
    env = mt.MultiTaskVecEnv([short], 2, seed=0)
    env.reset()
    actions = np.zeros((2, 6))
    for _ in range(2):
        env.step(actions)
    if kind == "velocity":
        env.sub_envs.backend.groups[0].qvel[1] = 1e12
    else:
        actions[1, 0] = np.nan
    with pytest.raises(RuntimeError, match=r"Task 'short' \(sub-environment 1\).*at step 3"):
        env.step(actions)


def test_copies_that_a_factory_makes_different_stay_different():
    def simulate(backend):
        gravities = iter([-9.81, -5.0, -2.0] * 2)

        def factory():
            env = gym.make("HalfCheetahBigLeg-v0")
            env.unwrapped.model.opt.gravity[2] = next(gravities)
            return env

        env = mt.MultiTaskVecEnv([mt.Task("moons", factory)], 3, backend=backend)
        env._seeds = [0, 0, 0]
        env.reset()
        return [env.step(np.zeros((3, 6)))[0]["obs"] for _ in range(10)][-1]

    native = simulate("batch")
    np.testing.assert_array_equal(native, simulate("dummy"))
    assert len(np.unique(native[:, 1])) == 3


def test_infos_are_a_list_in_every_way():
    env = mt.MultiTaskVecEnv(["HalfCheetahSmallFoot-v0"], 2, seed=0)
    env.reset()
    infos = env.step(np.ones((2, 6)))[3]
    for as_list in (
        infos.copy(),
        list(infos),
        [*infos],
        infos + infos[:0],
        list(reversed(infos))[::-1],
        copy.deepcopy(infos),
    ):
        assert as_list == [infos[0], infos[1]]
        assert "reward_ctrl" in as_list[0]


def test_calls_that_do_not_fit_are_refused():
    env = mt.MultiTaskVecEnv(["HalfCheetahSmallFoot-v0", "HalfCheetahBigFoot-v0"], 1, backend="batch")
    env.reset()
    for shape in ((1, 6), (2, 1), (4, 6), (12,), ()):
        with pytest.raises(ValueError, match=r"`actions` must be \(2, 6\)"):
            env.step(np.zeros(shape))
    assert not env.has_attr("data")
    for name in ("unwrapped", "_elapsed_steps"):
        with pytest.raises(NotImplementedError, match="cannot be read"):
            env.get_attr(name)
    env.close()
    with pytest.raises(RuntimeError, match="closed"):
        env.step(np.zeros((2, 6)))
