"""Observations of several parts are flattened: their order, their digits, and what is refused."""

import json
from collections import OrderedDict

import gymnasium as gym
import numpy as np
import own_envs  # noqa: F401 (registers environments)
import pytest
from gymnasium import spaces
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
from helpers.drift import DriftEnv, drift_tasks
from helpers.reach import ReachEnv, reach_tasks
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.logger import configure
from stable_baselines3.common.monitor import load_results
from typer.testing import CliRunner

import sb3_multitask as mt
from sb3_multitask.agents import agent_of
from sb3_multitask.cli import app
from sb3_multitask.envs import flattening
from sb3_multitask.envs.flat_layout import FlatLayout, why_not_flattened
from sb3_multitask.evaluation.films.playing import Scene, play_episodes
from sb3_multitask.vec_env.batch import why_not_batch

BOX = spaces.Box(-1, 1, (2,))
BACKENDS = pytest.mark.parametrize("backend", ["dummy", "subproc"])


class SampledEnv(gym.Env):
    """Observations are samples of its space, drawn by the space's own generators.

    :param wrong: what it observes instead, in the step of this number (0: the reset)
    """

    action_space = spaces.Box(-1, 1, (2,))

    def __init__(self, space, wrong=None, wrong_at=1):
        self.observation_space, self.wrong, self.wrong_at, self.time = space, wrong, wrong_at, 0

    def _obs(self):
        return self.observation_space.sample() if self.wrong is None or self.time != self.wrong_at else self.wrong

    def reset(self, *, seed=None):  # no options
        super().reset(seed=seed)
        if seed is not None:
            self.observation_space.seed(seed)
        self.time = 0
        return self._obs(), {}

    def step(self, action):
        self.time += 1
        return self._obs(), 0.0, False, self.time >= 5, {}

    def get_state(self):
        return {"time": self.time}

    def set_state(self, state):
        self.time = state["time"]


def sampled_task(space, **kwargs):
    return mt.Task("x", SampledEnv, {"space": space, **kwargs})


def flat(space, value):
    return FlatLayout(space).flatten(value).tolist()


# The order


leaves = st.one_of(
    st.lists(st.integers(1, 3), max_size=3).map(lambda shape: spaces.Box(-1, 1, tuple(shape))),
    st.builds(lambda n, start: spaces.Discrete(n, start=start), st.integers(1, 4), st.integers(-3, 3)),
    st.lists(st.integers(1, 3), min_size=1, max_size=2).map(spaces.MultiBinary),
    st.lists(st.integers(1, 4), min_size=1, max_size=3).map(spaces.MultiDiscrete),
)
nested = st.recursive(
    leaves,
    lambda parts: st.one_of(
        st.dictionaries(st.sampled_from("abcdef"), parts, min_size=1, max_size=3).map(spaces.Dict),
        st.lists(st.tuples(st.sampled_from("abcdef"), parts), min_size=1, max_size=3).map(spaces.Dict),
        st.lists(parts, min_size=1, max_size=3).map(spaces.Tuple),
    ),
    max_leaves=6,
)


@settings(deadline=None, max_examples=60)
@given(nested, st.integers(0, 2**31))
def test_the_order_is_that_of_gymnasium(space, seed):
    space.seed(seed)
    layout, value = FlatLayout(space), space.sample()
    np.testing.assert_array_equal(layout.flatten(value), spaces.flatten(space, value).astype(np.float32))
    assert layout.dtype == np.float32
    assert layout.box().contains(layout.flatten(value))
    theirs = spaces.flatten_space(space)
    np.testing.assert_array_equal(layout.box().low, theirs.low)
    np.testing.assert_array_equal(layout.box().high, theirs.high)


def test_a_goal_observation_by_hand():
    """Gymnasium sorts the keys of a dictionary that a space is made from."""
    env = mt.FlatObservation(ReachEnv())
    assert env.flat_parts == {"achieved_goal": slice(0, 2), "desired_goal": slice(2, 4), "observation": slice(4, 10)}
    obs, _ = env.reset(seed=0)
    raw = env.unwrapped._obs()
    assert obs.tolist() == [*raw["achieved_goal"], *raw["desired_goal"], *raw["observation"]]
    assert obs.dtype == np.float64


def test_an_order_that_the_space_keeps_is_kept():
    parts = {"z": spaces.Discrete(2), "a": spaces.Box(0, 9, (1,))}
    value = {"a": np.array([7.0]), "z": 1}
    assert flat(spaces.Dict(parts), value) == [7, 0, 1]
    for space in (spaces.Dict(OrderedDict(parts)), spaces.Dict([*parts.items()]), spaces.Dict(**parts)):
        assert flat(space, value) == [0, 1, 7]


@pytest.mark.parametrize(
    ("space", "value", "expected"),
    [
        (spaces.Discrete(3), 2, [0, 0, 1]),
        (spaces.Discrete(3, start=-1), np.int64(-1), [1, 0, 0]),
        (spaces.MultiDiscrete([2, 3]), np.array([1, 0]), [0, 1, 1, 0, 0]),
        (spaces.MultiDiscrete([2, 2], start=[5, 7]), [6, 7], [0, 1, 1, 0]),
        (spaces.MultiBinary([2, 2]), [[1, 0], [0, 1]], [1, 0, 0, 1]),
        (spaces.Box(0, 9, (2, 2)), [[1, 2], [3, 4]], [1, 2, 3, 4]),
        (spaces.Box(0, 9, ()), 3.0, [3]),
        (spaces.Tuple((spaces.Discrete(2), spaces.Dict(x=spaces.Box(0, 9, (1,))))), (0, {"x": [5]}), [1, 0, 5]),
    ],
    ids=str,
)
def test_parts_by_hand(space, value, expected):
    assert flat(space, value) == expected


def test_names_of_nested_parts():
    space = spaces.Dict(arm=spaces.Dict(joints=BOX), modes=spaces.Tuple((spaces.Discrete(2), spaces.Discrete(3))))
    assert str(FlatLayout(space)) == "arm.joints [0:2], modes.0 [2:4] one-hot, modes.1 [4:7] one-hot"
    assert str(FlatLayout(spaces.Discrete(4))) == "observation [0:4] one-hot"


# Digits and bounds


def box(dtype, high=100):
    return spaces.Box(0, high, (1,), dtype=dtype)


@pytest.mark.parametrize(
    ("parts", "dtype"),
    [
        ({"a": box(np.float32), "b": box(np.uint8), "c": spaces.Discrete(3), "d": spaces.MultiBinary(2)}, np.float32),
        ({"a": box(np.float32), "b": box(np.int16)}, np.float32),
        ({"a": box(np.float32), "b": box(np.float64)}, np.float64),
        ({"a": box(np.float32), "b": box(np.int32)}, np.float64),
        ({"c": spaces.Discrete(3)}, np.float32),
    ],
)
def test_the_type_holds_the_digits_of_all_parts(parts, dtype):
    assert FlatLayout(spaces.Dict(parts)).box().dtype == dtype


def test_integers_and_doubles_keep_their_digits_beside_other_types():
    space = spaces.Dict(
        count=spaces.Box(0, 2**60, (1,), dtype=np.int64),
        north=box(np.float64, 1e7),
        pixel=box(np.uint8),
        speed=box(np.float32),
    )
    value = {
        "count": np.array([2**40 + 1]),
        "north": np.array([5_400_000.2]),
        "pixel": np.array([200], np.uint8),
        "speed": np.array([0.1], np.float32),
    }
    expected = [2**40 + 1, 5_400_000.2, 200, float(np.float32(0.1))]
    assert flat(space, value) == expected

    class Exact(SampledEnv):
        def _obs(self):
            return value

    env = mt.MultiTaskVecEnv([mt.Task("x", Exact, {"space": space})], seed=0)
    assert env.reset()["obs"][0].tolist() == expected
    assert mt.TaskEnv(Exact(space), "x", ["x"]).reset()[0]["obs"].tolist() == expected


def test_bounds_are_those_of_the_parts():
    space = spaces.Dict(
        a=spaces.Box(-3, np.inf, (1,)), b=spaces.Discrete(2), c=box(np.uint8, 7), d=spaces.MultiBinary(1)
    )
    flat_space = FlatLayout(space).box()
    assert flat_space.low.tolist() == [-3, 0, 0, 0, 0]
    assert flat_space.high.tolist() == [np.inf, 1, 1, 7, 1]


def test_a_number_that_is_too_large_for_the_type_is_a_fault():
    env = mt.MultiTaskVecEnv([sampled_task(spaces.Dict(a=BOX), wrong={"a": np.array([1e300, 0])})], seed=0)
    env.reset()
    with pytest.raises(mt.TaskFault, match="observation"):
        env.step(np.zeros((1, 2)))


# In a VecEnv


MODES = spaces.Dict(arm=spaces.Box(-1, 1, (2, 2)), goal=BOX, mode=spaces.Discrete(3), bits=spaces.MultiBinary(2))


def rollout(env, n_steps=12):
    steps = [env.reset()["obs"]]
    terminal = []
    for _ in range(n_steps):
        obs, _, dones, infos = env.step(np.zeros((env.num_envs, 2)))
        steps.append(obs["obs"])
        terminal += [infos[i]["terminal_observation"]["obs"] for i in np.flatnonzero(dones)]
    return np.array(steps), np.array(terminal)


def test_backends_give_the_same_flat_rows():
    results = []
    for backend in ("dummy", "subproc"):
        env = mt.MultiTaskVecEnv([sampled_task(MODES)], 1, seed=3, backend=backend, start_method="fork")
        assert env.observation_space["obs"].shape == (11,)
        results.append(rollout(env))
        env.close()
    for mine, other in zip(*results, strict=True):
        np.testing.assert_array_equal(mine, other)
    assert results[0][1].shape == (2, 11)  # of 12 steps in episodes of 5


@BACKENDS
def test_the_environment_stays_reachable(backend):
    env = mt.MultiTaskVecEnv(reach_tasks(sparse=True), 1, seed=0, backend=backend, start_method="fork")
    env.reset()
    goals = np.array([[0.1, 0.1], [0.1, 0.1]])
    (rewards,) = env.env_method("compute_reward", goals, goals + np.array([[0], [0.03]]), None, indices=[1])
    assert rewards.tolist() == [0, -1]
    assert env.get_attr("tolerance") == [0.02, 0.02]
    env.set_attr("tolerance", 0.04, indices=[1])
    assert env.env_method("compute_reward", goals[1], goals[1] + [0.03, 0], None) == [-1, 0]
    assert env.env_is_wrapped(mt.FlatObservation) == [True, True]
    assert env.step(np.zeros((2, 2)))[3][0]["is_success"] in (True, False)
    env.close()


@BACKENDS
def test_flat_environments_are_left_alone(backend):
    env = mt.MultiTaskVecEnv(drift_tasks(1), 1, seed=0, backend=backend, start_method="fork", flatten=False)
    assert env.env_is_wrapped(mt.FlatObservation) == [False]
    assert env.layouts == {}
    env.close()


@pytest.mark.native
def test_flat_environments_run_in_the_batch():
    assert mt.MultiTaskVecEnv(["Hopper-v5"], 1, flatten=False).backend == "batch"


def test_the_batch_does_not_leave_out_the_wrapper():
    task = mt.Task("x", "Hopper-v5")
    space = spaces.Dict(all=spaces.Box(-np.inf, np.inf, (11,)))
    dictated = gym.wrappers.TransformObservation(task.make(), lambda obs: {"all": obs}, space)
    env = flattening.flat_env(dictated, "x")
    reason = why_not_batch([(task, [env])], None)
    assert "FlatObservation" in reason or "mujoco.batch" in reason
    env.close()


@BACKENDS
def test_goal_tasks_resume_to_the_same_bits(backend):
    env, other = (
        mt.MultiTaskVecEnv(reach_tasks(), 1, seed=seed, backend=backend, start_method="fork") for seed in (0, 1)
    )
    actions = np.random.default_rng(0).uniform(-1, 1, (70, 2, 2))
    env.reset()
    for action in actions[:20]:
        env.step(action)
    assert env.why_inexact() is None
    other.reset()
    other.set_state(env.get_state())
    for action in actions[20:]:
        for mine, theirs in zip(env.step(action)[:3], other.step(action)[:3], strict=True):
            np.testing.assert_equal(mine, theirs)
    env.close()
    other.close()


class GoalHopper(HopperEnv):
    """A MuJoCo environment of Gymnasium that tells no state of its own."""

    def __init__(self):
        super().__init__()
        self.goal = np.zeros(1)
        self.observation_space = spaces.Dict(body=self.observation_space, goal=spaces.Box(-9, 9, (1,)))

    def _get_obs(self):
        return {"body": super()._get_obs(), "goal": self.goal}

    def reset_model(self):
        self.goal = self.np_random.uniform(-1, 1, 1)
        return super().reset_model()


def test_a_mujoco_environment_with_a_dictionary_resumes_to_the_same_bits():
    env, other = (mt.MultiTaskVecEnv([mt.Task("x", GoalHopper)], seed=seed) for seed in (0, 1))
    actions = np.random.default_rng(0).uniform(-1, 1, (60, 1, 3))
    env.reset()
    for action in actions[:5]:
        env.step(action)
    assert env.why_inexact() is None
    other.set_state(env.get_state())
    for action in actions[5:]:
        for mine, theirs in zip(env.step(action)[:3], other.step(action)[:3], strict=True):
            np.testing.assert_equal(mine, theirs)


def test_the_generators_of_a_spaces_parts_resume_too():
    def made():
        return spaces.Dict(a=spaces.Tuple((BOX, spaces.Discrete(5))), goal=spaces.Box(-1, 1, (2,)))

    env, other = (mt.MultiTaskVecEnv([sampled_task(made())], seed=seed, backend="dummy") for seed in (0, 1))
    other_space = other.envs[0].unwrapped.observation_space
    other_space["a"].spaces = (spaces.Box(-1, 1, (2,)), spaces.Discrete(5))  # BOX is one object
    rollout(env, 3)
    rollout(other, 4)
    state = env.get_state()
    expected = [env.step(np.zeros((1, 2)))[0]["obs"] for _ in range(6)]
    other.set_state(state)
    np.testing.assert_array_equal([other.step(np.zeros((1, 2)))[0]["obs"] for _ in range(6)], expected)


@pytest.mark.parametrize("goal", [False, True])
def test_a_single_environment_is_flattened_as_in_the_vec_env(goal):
    tasks = reach_tasks() if goal else [sampled_task(MODES), mt.Task("y", SampledEnv, {"space": MODES})]
    firsts = mt.MultiTaskVecEnv(tasks, 1, seed=7).reset()["obs"]
    tour = mt.TaskSetEnv(tasks)
    assert tour.reset(seed=7)[0]["obs"].tolist() == firsts[0].tolist()
    tour.step(np.zeros(2, np.float32))
    assert tour.observation_space.contains(tour.reset()[0])
    if goal:
        env = mt.TaskEnv(tasks[1].make(), "Heavy", tasks)
        assert env.observation_space == tour.observation_space
        obs = env.step(np.zeros(2))[0] if env.reset() else None
        assert env.observation_space.contains(obs)
        assert env.get_wrapper_attr("compute_reward")(np.zeros(2), np.zeros(2), None) == 0


def test_flattened_tasks_may_differ_in_size():
    tasks = [*reach_tasks(), *drift_tasks(1)]
    env = mt.MultiTaskVecEnv(tasks, 1, seed=0)
    obs = env.reset()["obs"]
    assert env.observation_space["task"].obs_dims == (10, 10, 3)
    assert (obs[0] != 0).sum() > 3
    assert not obs[2, 3:].any()
    assert set(env.layouts) == {"Light", "Heavy"}
    tour = mt.TaskSetEnv(tasks, task="A")
    assert tour.observation_space == env.observation_space
    assert tour.reset(seed=0)[0]["obs"].shape == (10,)


# What is refused


class OddSpace(spaces.Space):
    pass


IMAGE = spaces.Box(0, 255, (8, 8, 3), dtype=np.uint8)
REFUSED = {
    "image": (IMAGE, "CnnPolicy"),
    "text": (spaces.Text(5), "Text space"),
    "graph": (spaces.Graph(BOX, None), "Graph space"),
    "sequence": (spaces.Sequence(BOX), "Sequence space"),
    "one_of": (spaces.OneOf([BOX, BOX]), "OneOf space"),
    "own": (OddSpace((2,), np.float32), "OddSpace space"),
}


@pytest.mark.parametrize("name", REFUSED)
@pytest.mark.parametrize("inside", [False, True])
def test_what_has_no_flat_form_is_refused_by_name(name, inside):
    space, what = REFUSED[name]
    part = "observation"
    if inside:
        space, part = spaces.Dict(a=BOX, b=spaces.Tuple((BOX, space))), "b.1"
    for make in (
        lambda: mt.MultiTaskVecEnv([sampled_task(space)]),
        lambda: mt.TaskEnv(SampledEnv(space), "x", ["x"]),
        lambda: mt.FlatObservation(SampledEnv(space), "x"),
    ):
        with pytest.raises(ValueError, match=f"Task 'x'.*{part!r} is an? .*{what.split()[0]}") as error:
            make()
        assert "TransformObservation" in str(error.value)


def test_an_image_is_refused_from_another_process_too():
    with pytest.raises(ValueError, match="Task 'x'.*an image"):
        mt.MultiTaskVecEnv([sampled_task(spaces.Dict(camera=IMAGE))], backend="subproc", start_method="fork")


def test_matrices_that_are_no_images_are_flattened():
    for space in (spaces.Box(0, 255, (4, 3), dtype=np.uint8), spaces.Box(0, 1, (8, 8, 3))):
        assert why_not_flattened(space) is None


def test_nothing_to_observe_is_refused():
    with pytest.raises(ValueError, match="empty"):
        mt.FlatObservation(SampledEnv(spaces.Dict({})))


def test_a_task_that_has_its_task_already_is_refused():
    def make():
        return mt.TaskEnv(DriftEnv(), "x", ["x", "y"])

    with pytest.raises(ValueError, match="without TaskEnv"):
        mt.MultiTaskVecEnv([mt.Task("x", make)])


def test_flatten_false_refuses():
    with pytest.raises(ValueError, match=r"`flatten` is False.*'Light'.*10 numbers: achieved_goal \[0:2\]"):
        mt.MultiTaskVecEnv(reach_tasks(), flatten=False)
    with pytest.raises(ValueError, match="`flatten` is False"):
        mt.MultiTaskVecEnv(reach_tasks()[0], flatten=False, backend="subproc", start_method="fork")
    with pytest.raises(ValueError, match="'Light'.*flatten=True"):
        mt.TaskEnv(ReachEnv(), "Light", ["Light"], flatten=False)
    with pytest.raises(ValueError, match="'Light'.*flatten=True"):
        mt.TaskSetEnv(reach_tasks(), flatten=False)


def test_flatten_false_takes_what_the_user_has_flattened():
    env = mt.MultiTaskVecEnv([mt.Task("x", lambda: mt.FlatObservation(ReachEnv()))], flatten=False)
    assert env.observation_space["obs"].shape == (10,)
    assert env.layouts == {}


GOOD = {"a": np.zeros(2), "mode": 1}
MISFITS = [
    ({"a": np.zeros(2)}, "observation must be a dictionary with the keys 'a', 'mode' .*missing: 'mode'"),
    ({**GOOD, "b": 1}, "unknown: 'b'"),
    (np.zeros(3), "observation must be a dictionary"),
    ({**GOOD, "a": np.zeros(3)}, r"a must be Box\(-1.0, 1.0, \(2,\), float32\) \(got float64 of shape \(3,\)"),
    ({**GOOD, "a": np.zeros(1)}, r"a must be .*\(1,\)"),  # which could be broadcast
    ({**GOOD, "a": [[1, 2], [3]]}, "a must be"),
    ({**GOOD, "a": ["x", "y"]}, "a must be"),
    ({**GOOD, "mode": 3}, r"mode must be Discrete\(3\) \(got 3"),
    ({**GOOD, "mode": -1}, "mode must be"),
    ({**GOOD, "mode": 1.0}, "mode must be"),
    ({**GOOD, "mode": None}, "mode must be"),
]


@pytest.mark.parametrize(("wrong", "message"), MISFITS)
@pytest.mark.parametrize("at", [0, 2])
def test_an_observation_that_does_not_fit_its_space_is_refused(wrong, message, at):
    space = spaces.Dict(a=BOX, mode=spaces.Discrete(3))
    env = mt.MultiTaskVecEnv([sampled_task(space, wrong=wrong, wrong_at=at)], seed=0)

    def play():
        env.reset()
        for _ in range(2):
            env.step(np.zeros((1, 2)))

    with pytest.raises(ValueError, match=f"Task 'x': the observation does not fit its space: .*{message}"):
        play()


@pytest.mark.parametrize(
    ("space", "wrong"),
    [
        (spaces.Tuple((BOX, BOX)), (np.zeros(2),)),
        (spaces.Tuple((BOX, BOX)), {"a": 1}),
        (spaces.MultiBinary(2), [0, 2]),
        (spaces.MultiDiscrete([2, 2]), [0, 2]),
        (spaces.MultiDiscrete([2, 2]), 0),
        (spaces.Discrete(2), np.array([1])),
    ],
)
def test_other_parts_that_do_not_fit_are_refused(space, wrong):
    with pytest.raises(ValueError, match="observation must be"):
        FlatLayout(space).flatten(wrong)


def test_a_worker_names_the_task_and_the_key():
    space = spaces.Dict(a=BOX, mode=spaces.Discrete(3))
    env = mt.MultiTaskVecEnv(
        [sampled_task(space, wrong={"a": np.zeros(2)})], seed=0, backend="subproc", start_method="fork"
    )
    env.reset()
    with pytest.raises(mt.WorkerError, match=r"(?s)Task 'x'.*missing: 'mode'"):
        env.step(np.zeros((1, 2)))


# What is said of it


LINE = "Observations of Light, Heavy are flattened to 10 numbers: "
LINE += "achieved_goal [0:2], desired_goal [2:4], observation [4:10]"


def test_one_line_says_so_once(caplog, capsys):
    flattening._say_once.cache_clear()
    caplog.set_level("INFO", "sb3_multitask")
    for backend in ("dummy", "subproc"):
        mt.MultiTaskVecEnv(reach_tasks(), 1, backend=backend, start_method="fork").close()
    assert [record.message for record in caplog.records if "flattened" in record.message] == [LINE]
    assert not capsys.readouterr().out


def test_many_tasks_are_one_line():
    names = [f"T{i}" for i in range(100)]
    (line,) = flattening.layout_lines(dict.fromkeys(names, "2 numbers: a [0:2]"))
    assert line == f"Observations of {', '.join(names[:10])} and 90 more are flattened to 2 numbers: a [0:2]"


@pytest.mark.parametrize("algorithm", [mt.A2CMultiTask, mt.PPOMultiTask, mt.TRPOMultiTask])
@pytest.mark.parametrize("verbose", [0, 1])
def test_a_model_prints_it_with_verbose(algorithm, verbose, capsys):
    env = mt.make_multitask_vec_env(reach_tasks(), 1, seed=0)
    algorithm("MultiTaskMlpPolicy", env, verbose=verbose, device="cpu")
    assert capsys.readouterr().out.splitlines().count(LINE) == verbose


@pytest.mark.parametrize("flags", [["--verbose"], [], ["--sequential"]])
def test_a_training_from_the_command_line_announces_it(flags, tmp_path):
    names = ["Own/Goal-v0", "Own/OtherGoal-v0"]
    line = ["train", "--tasks", ",".join(names), "--n-timesteps", 20, "--n-envs-per-task", 1, "--no-progress", *flags]
    line += ["--set", "n_eval_episodes=1", "--set", "eval_freq=0", "--run-dir", tmp_path / "run"]
    done = CliRunner().invoke(app, [*map(str, line)], env={"COLUMNS": "200"})
    assert done.exit_code == 0, done.output
    said = [line for line in done.output.splitlines() if "flattened" in line]
    expected = names if "--sequential" in flags else [", ".join(names)]
    assert said == [LINE.replace("Light, Heavy", each) for each in expected]


# Everything else takes it as any task


def test_agents_play_single_environments():
    env = mt.make_multitask_vec_env(reach_tasks(), 1, seed=0)
    model = mt.PPOMultiTask("MultiTaskMlpPolicy", env, n_steps=64, seed=0, device="cpu").learn(128)
    agent = agent_of(model)
    single = mt.TaskEnv(ReachEnv(), "Light", agent.task_names)
    obs, _ = single.reset(seed=0)
    action, _ = agent.predict(obs, deterministic=True)
    assert single.observation_space.contains(single.step(action)[0])
    results = mt.evaluate_tasks(agent, n_eval_episodes=2)
    assert results["Heavy"].success_rate is not None
    ended = [*play_episodes(Scene(agent, tuple(reach_tasks()), n_steps=50))]
    assert [(episode.task, episode.length) for episode in ended] == [("Light", 50), ("Heavy", 50)]


@pytest.mark.slow
def test_a_goal_task_is_learned_to_success(tmp_path):
    """An arm reaches for a point, as in FetchReach: the success rate of each task rises, and the best model is kept."""
    env = mt.make_multitask_vec_env(
        reach_tasks(), 8, seed=0, normalize={"gamma": 0.95}, monitor_dir=tmp_path / "monitor"
    )
    eval_env = mt.MultiTaskVecEnv(reach_tasks(), 10, seed=1, training=False)
    model = mt.PPOMultiTask(
        *("MultiTaskMlpPolicy", env),
        n_steps=128,
        batch_size=512,
        gamma=0.95,
        gae_lambda=0.9,
        learning_rate=1e-3,
        seed=0,
    )
    model.set_logger(configure(str(tmp_path), ["json"]))
    before = mt.evaluate_tasks(model, n_eval_episodes=20)
    callback = mt.MultiTaskEvalCallback(
        eval_env,
        n_eval_episodes=20,
        eval_freq=20_000,
        score="success",
        best_model_save_path=tmp_path,
        log_path=tmp_path,
        verbose=0,
    )
    model.learn(120_000, callback, log_interval=10)
    model.logger.close()
    episodes = load_results(str(tmp_path / "monitor"))
    env.close()
    best = mt.PPOMultiTask.load(tmp_path / "best_model", device="cpu")
    after = mt.evaluate_tasks(best, n_eval_episodes=20, env=reach_tasks())
    rows = [json.loads(line) for line in (tmp_path / "progress.json").read_text().splitlines()]
    for task in ("Light", "Heavy"):
        assert before[task].success_rate <= 0.2
        assert after[task].success_rate >= 0.6
        curve = [row[f"rollout/{task}/success_rate"] for row in rows if f"rollout/{task}/success_rate" in row]
        assert curve[-1] > curve[0] + 0.3
        successes = episodes[episodes["task"] == task]["is_success"]
        assert successes.tail(100).mean() > successes.head(100).mean() + 0.3
    assert (tmp_path / "evaluations.npz").exists()


class Keyed(SampledEnv):
    """Gymnasium sorts the keys of a dictionary's space that is given as one, and not those given by name."""

    def __init__(self, *, is_sorted=True):
        parts = {"velocity": spaces.Box(-1, 1, (1,)), "angle": spaces.Box(-1, 1, (2,))}
        super().__init__(spaces.Dict(parts) if is_sorted else spaces.Dict(**parts))


def test_a_model_refuses_equal_spaces_that_are_flattened_in_another_order(tmp_path):
    def env_of(*, is_sorted):
        return mt.make_multitask_vec_env([mt.Task("keyed", Keyed, {"is_sorted": is_sorted})], 1, seed=0)

    first, second = Keyed().observation_space, Keyed(is_sorted=False).observation_space
    assert first == second
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", env_of(is_sorted=True), seed=0)
    model.learn(5)
    model.save(tmp_path / "model")
    message = (
        r"'keyed' are flattened in another way.*\n  model: 3 numbers: angle \[0:2\].*\n  env:   3 .*velocity \[0:1\]"
    )
    with pytest.raises(ValueError, match=message):
        model.set_env(env_of(is_sorted=False))
    with pytest.raises(ValueError, match=message):
        mt.A2CMultiTask.load(tmp_path / "model", env=env_of(is_sorted=False))
    assert mt.A2CMultiTask.load(tmp_path / "model", env=env_of(is_sorted=True)).layouts == model.layouts
