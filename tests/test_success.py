"""Success of episodes, as their steps say it, from the VecEnv to the files."""

from functools import partial

import numpy as np
import pytest
from helpers.drift import DriftEnv, ReachingEnv
from helpers.faulty import FaultyEnv
from stable_baselines3 import PPO
from stable_baselines3.common.monitor import Monitor, load_results

import sb3_multitask as mt
from sb3_multitask.vec_env.success import FAILED, NOT_SAID, SUCCEEDED, success_in, success_of

FIRST_STEP, GOES_BACK, NEVER = ((1,),), ((2, 3),), ((),)
"""Episodes of four steps that are successful in their first step; in their middle, and no longer at the end; never."""


def reaching(name="A", at=FIRST_STEP, **kwargs):
    return mt.Task(name, ReachingEnv, {"at": at, "horizon": 4, **kwargs})


def silent(name="B"):
    return mt.Task(name, DriftEnv, {"horizon": 4})


def ends(env, n_steps):
    """What the infos of ended episodes say of success, by task, over some steps."""
    said = {name: [] for name in env.unwrapped.task_names}
    for _ in range(n_steps):
        *_, infos = env.step(np.zeros((env.num_envs, 2)))
        for i in infos.ended:
            said[infos[i].get("task", "?")].append(infos[i].get("is_success"))
    return said


# What a step says


@pytest.mark.parametrize("key", ["is_success", "success"])
@pytest.mark.parametrize(
    ("yes", "no"),
    [
        (True, False),
        (np.True_, np.False_),
        (1, 0),
        (1.0, 0.0),
        (np.float32(1), np.float32(0)),
        (np.array(1.0), np.array(0.0)),
        (np.array([True]), np.array([False])),
        ([[1]], [[0]]),
    ],
)
def test_bools_zeros_and_ones_say_it(key, yes, no):
    assert (success_of({key: yes}), success_of({key: no})) == (SUCCEEDED, FAILED)


@pytest.mark.parametrize("value", ["yes", 0.3, 2, -1, np.nan, np.zeros(2), [[1], [1, 2]], {}, object(), 1j])
def test_other_values_of_sb3s_key_are_refused_and_of_the_common_word_ignored(value):
    assert success_of({"success": value}) == NOT_SAID
    with pytest.raises(ValueError, match="info.'is_success'. must be a bool, 0 or 1"):
        success_of({"is_success": value})


def test_none_says_nothing_and_sb3s_key_comes_first():
    assert success_of({}) == success_of({"is_success": None, "success": None}) == NOT_SAID
    assert success_of({"is_success": None, "success": True}) == SUCCEEDED
    assert success_of({"is_success": False, "success": True}) == FAILED
    columns = {"is_success": np.array([0, 1]), "success": np.array([1, 0])}
    assert success_in(columns).tolist() == [0, 1]
    assert success_in({"speed": np.zeros(2)}) is None
    assert success_in({"success": np.array([[1.0], [0.0]])}).tolist() == [1, 0]
    assert success_in({"success": np.array([0.5, 1.0])}).tolist() == [-1, 1]


@pytest.mark.parametrize("backend", ["dummy", "subproc"])
def test_an_error_names_the_task(backend):
    env = mt.MultiTaskVecEnv([silent("A"), reaching("B", NEVER, key="is_success", no=0.5)], 1, backend=backend)
    env.reset()
    with pytest.raises((ValueError, RuntimeError), match="must be a bool") as raised:
        env.step(np.zeros((2, 2)))
    assert "'B'" in str(raised.value) + str(getattr(raised.value, "__notes__", ""))
    env.close()


# Episodes


@pytest.mark.parametrize("key", ["is_success", "success"])
@pytest.mark.parametrize("terminate", [True, False])
@pytest.mark.parametrize("kwargs", [{"backend": "dummy"}, {"backend": "subproc", "start_method": "fork"}])
def test_an_episode_is_successful_if_any_step_is(kwargs, terminate, key):
    several = ((1,), (), (4,), ())
    tasks = [
        reaching(name, at, key=key, terminate=terminate)
        for name, at in (("first", FIRST_STEP), ("back", GOES_BACK), ("never", NEVER), ("a, b", several))
    ]
    env = mt.MultiTaskVecEnv([*tasks, silent()], 2, seed=0, **kwargs)
    env.reset()
    assert ends(env, 16) == {
        "first": [True] * 8,
        "back": [True] * 8,
        "never": [False] * 8,
        "a, b": [True, True, False, False, True, True, False, False],
        "B": [None] * 8,
    }
    env.close()


def test_infos_before_an_episodes_end_stay_as_the_environment_gave_them():
    env = mt.MultiTaskVecEnv([reaching(at=GOES_BACK, key="is_success"), reaching("B", key="success")], 1)
    env.reset()
    said = [env.step(np.zeros((2, 2)))[3] for _ in range(4)]
    assert [info["is_success"] for info, _ in said] == [False, True, True, True]
    assert ["is_success" in info for _, info in said] == [False, False, False, True]
    assert [info["success"] for _, info in said] == [True, False, False, False]


def test_a_reset_forgets_the_running_episode_and_a_task_view_counts_its_own():
    env = mt.MultiTaskVecEnv([reaching("A", ((1,), ())), reaching("B")], 1)
    env.reset()
    env.step(np.zeros((2, 2)))
    env.reset()
    assert ends(env, 4) == {"A": [False], "B": [True]}
    view = env.task_view(1)
    assert ends(view, 4) == {"A": [], "B": [True]}


def test_an_environment_that_says_success_alone_has_none_where_it_says_nothing():
    """Before it has ever said it, nobody knows that it could."""
    env = mt.MultiTaskVecEnv([reaching(at=((), (2,), ()), no="nothing")], 1)
    env.reset()
    assert ends(env, 12) == {"A": [None, True, False]}


class SuccessfulFault(FaultyEnv):
    def step(self, action):
        *step, info = super().step(action)
        return *step, {**info, "is_success": not np.isfinite(step[0]).all()}


def test_the_success_of_a_quarantined_step_does_not_count():
    env = mt.MultiTaskVecEnv([mt.Task("A", SuccessfulFault, {"kind": "nan_obs"})], 1, on_fault="quarantine", seed=0)
    env.reset()
    said = [step for _ in range(60) for step in env.step(np.zeros((1, 2)))[3]]
    assert any("fault" in info for info in said)
    assert not any("is_success" in info for info in said if "fault" in info)
    assert {info["is_success"] for info in said if "episode" in info} == {False}


# Monitor files


def rows_of(path):
    return [line.split(",") for line in path.read_text().splitlines()[1:]]


def test_monitor_files_have_a_column_where_the_environment_says_it(tmp_path):
    tasks = [reaching("a, b", ((1,), ())), silent()]
    env = mt.MultiTaskVecEnv(tasks, 1, monitor_dir=tmp_path)
    env.reset()
    ends(env, 12)
    frame = load_results(str(tmp_path))
    said = {task: rows.is_success.tolist() for task, rows in frame.groupby("task")}
    assert said["a, b"] == [1, 0, 1]
    assert np.isnan(said["B"]).all()
    assert rows_of(tmp_path / "1.monitor.csv")[0] == ["r", "l", "t", "task"]


def test_the_column_comes_with_the_first_episode_that_says_it(tmp_path):
    env = mt.MultiTaskVecEnv([reaching(at=((), (2,), ()), no="nothing")], 1, monitor_dir=tmp_path)
    env.reset()
    ends(env, 4)
    header, row = rows_of(tmp_path / "0.monitor.csv")
    assert header == ["r", "l", "t", "task"]
    ends(env, 8)
    wide_header, *rows = rows_of(tmp_path / "0.monitor.csv")
    assert wide_header == [*header, "is_success"]
    assert rows[0] == [*row, ""]
    assert [cells[-1] for cells in rows[1:]] == ["1", "0"]
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("second", [reaching(), silent("A")], ids=["says", "silent"])
@pytest.mark.parametrize("first", [reaching(), silent("A")], ids=["said", "was silent"])
def test_rows_are_appended_to_files_of_either_kind(tmp_path, first, second):
    for task in (first, second):
        env = mt.MultiTaskVecEnv([task], 1, monitor_dir=tmp_path, override_existing=False)
        env.reset()
        ends(env, 8)
    _, *rows = rows_of(tmp_path / "0.monitor.csv")
    saying = [task.env_id is ReachingEnv for task in (first, second) for _ in range(2)]
    assert [len(row) for row in rows] == [4 + any(saying)] * 4
    if any(saying):
        assert [row[4] for row in rows] == ["1" if says else "" for says in saying]


def test_files_of_an_earlier_run_with_the_column_are_replaced(tmp_path):
    for n_envs, task in ((2, reaching()), (1, silent("A"))):
        env = mt.MultiTaskVecEnv([task], n_envs, monitor_dir=tmp_path)
        env.reset()
        if n_envs == 1:
            with pytest.warns(UserWarning, match="earlier run"):
                ends(env, 1)
        ends(env, 7)
    assert [path.name for path in tmp_path.iterdir()] == ["0.monitor.csv"]
    assert rows_of(tmp_path / "0.monitor.csv")[0] == ["r", "l", "t", "task"]


# State


@pytest.mark.parametrize("n_before", [2, 5, 6])
@pytest.mark.parametrize("no", [False, "nothing"])
def test_the_success_of_the_running_episode_is_part_of_the_state(tmp_path, no, n_before):
    """Successful in the first step, stopped after it: the resumed episode is as successful as the uninterrupted one.

    The file has no column yet at the checkpoint if no episode has ended, or none that said anything.
    """
    make = partial(mt.MultiTaskVecEnv, [reaching(at=((), (1,), ()), no=no)], 1, seed=0, monitor_dir=tmp_path)
    env = make()
    env.reset()
    ends(env, n_before)
    state = env.get_state()
    expected = ends(env, 11)
    files = without_time(tmp_path / "0.monitor.csv")
    resumed = make()
    resumed.set_state(state)
    assert ends(resumed, 11) == expected
    assert without_time(tmp_path / "0.monitor.csv") == files


def without_time(path):
    return [row[:2] + row[3:] for row in rows_of(path)]


def test_a_state_of_an_earlier_version_counts_from_there():
    make = partial(mt.MultiTaskVecEnv, [reaching(), reaching("B", GOES_BACK)], 1, seed=0)
    env = make()
    env.reset()
    ends(env, 1)
    state = env.get_state()
    for name in ("successes", "with_success"):
        del state["monitor"][name]
    env = make()
    env.set_state(state)
    assert ends(env, 3) == {"A": [False], "B": [True]}


# What SB3 makes of it


def test_sb3s_own_algorithms_count_episodes_with_any_success():
    env = mt.MultiTaskVecEnv([reaching(at=GOES_BACK), reaching("B", NEVER), silent("C")], 1, seed=0)
    model = PPO("MultiInputPolicy", env, n_steps=8, batch_size=8, device="cpu").learn(24)
    assert list(model.ep_success_buffer) == [True, False] * 2


def test_a_monitor_inside_the_task_changes_nothing():
    env = mt.MultiTaskVecEnv([mt.Task("A", lambda: Monitor(reaching(at=GOES_BACK).make()))], 1)
    env.reset()
    assert ends(env, 8) == {"A": [True, True]}
