import os
from contextlib import nullcontext

import gymnasium as gym
import numpy as np
import pytest
from helpers.drift import DriftEnv, drift_tasks
from stable_baselines3.common.monitor import Monitor, load_results

import sb3_multitask as mt
from sb3_multitask.experiments.curves import read_training_returns
from sb3_multitask.experiments.monitor_files import read_monitor_files
from sb3_multitask.experiments.progress import make_logger
from sb3_multitask.experiments.scheduler import steps_so_far
from sb3_multitask.storage.files import SaveError

HEAD = '#{"t_start": 0.0, "env_id": "X"}\nr,l,t,task\n'


def test_rows_come_in_the_order_of_the_envs(tmp_path):
    for row in (10, 9):
        (tmp_path / f"{row}.monitor.csv").write_text(f"{HEAD}{row}.5,7,0.1,A\n")
    first, second = read_monitor_files(tmp_path)
    assert (first[0].total_reward, second[0].total_reward) == (9.5, 10.5)
    assert (first[0].length, first[0].seconds, first[0].task) == (7, 0.1, "A")


@pytest.mark.parametrize(
    "row", ["-12", "-1234.5,10", "-1234.5,10,0.", "-1234.5,10,0.3,Sm", "-1234.5,10,0.3,A", "x,1,2,A\n"]
)
def test_a_truncated_row_is_left_out_and_counted(tmp_path, row):
    (tmp_path / "0.monitor.csv").write_text(f"{HEAD}1.5,7,0.1,A\n{row}")
    (tmp_path / "1.monitor.csv").write_text(f"{HEAD}2.5,7,0.1,A\nnan,7,0.1,A\n")
    with pytest.warns(UserWarning, match="^2 damaged rows"):
        episodes = read_monitor_files(tmp_path)
    assert [[episode.total_reward for episode in rows] for rows in episodes] == [[1.5], [2.5]]


@pytest.mark.parametrize(
    "row",
    ["-3.5,1" + "0" * 400 + ",0.3,A\n", f'1.0,7,0.1,"{"x" * 200_000}"\n', "1.0,-7,0.1,A\n"],
    ids=["long", "wide", "negative"],
)
def test_a_row_of_wrong_fields_is_left_out_and_counted(tmp_path, row):
    (tmp_path / "0.monitor.csv").write_text(f"{HEAD}1.5,7,0.1,A\n{row}")
    with pytest.warns(UserWarning, match="^1 damaged row "):
        assert read_training_returns(tmp_path)["A"][1].tolist() == [1.5]


@pytest.mark.parametrize("first", ["#" + "[" * 100_000, '#{"env_id": 1'])
def test_a_damaged_first_line_leaves_the_rows(tmp_path, first):
    (tmp_path / "0.monitor.csv").write_text(f"{first}\nr,l,t\n1.5,7,0.1\n")
    assert read_monitor_files(tmp_path)[0][0].task == "task"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("time/total_timesteps\n" + "1" * 5000 + "\n", None),
        (b"time/total_timesteps\n\xff\n100\n", None),
        ("time/total_timesteps,x\n100," + "x" * 200_000 + "\n", "is no CSV"),
    ],
    ids=["digits", "bytes", "wide"],
)
def test_a_damaged_log_stops_neither_a_resume_nor_a_grid(tmp_path, content, told):
    path = tmp_path / "progress.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert steps_so_far(tmp_path) in (0, 100)
    with pytest.warns(UserWarning, match=told) if told else nullcontext():
        make_logger(path, [], 10**9).close()


@pytest.mark.parametrize("content", ["", "#{}", HEAD])
def test_a_file_without_episodes_is_no_error(tmp_path, content):
    (tmp_path / "0.monitor.csv").write_text(content)
    assert read_monitor_files(tmp_path) == [[]]


def test_the_log_goes_on_after_the_checkpoints_step(tmp_path):
    path = tmp_path / "progress.csv"
    for up_to, steps in ((0, (100, 200, 300)), (200, (300, 400))):
        logger = make_logger(path, [], up_to)
        for step in steps:
            logger.record("time/total_timesteps", step)
            logger.record("train/loss", step + up_to)
            logger.dump(step)
        logger.close()
    header, *rows = [line.split(",") for line in path.read_text().splitlines()]
    columns = [header.index(name) for name in ("time/total_timesteps", "train/loss")]
    assert [[int(row[column]) for column in columns] for row in rows] == [
        [100, 100],
        [200, 200],
        [300, 500],
        [400, 600],
    ]


def test_a_new_run_begins_a_new_log(tmp_path):
    path = tmp_path / "progress.csv"
    path.write_text("time/total_timesteps\n100\n")
    make_logger(path, [], 0).close()
    assert path.read_text() == ""


def monitored(folder, n_envs=2, **kwargs):
    env = mt.MultiTaskVecEnv(drift_tasks(2), n_envs, seed=0, monitor_dir=folder, **kwargs)
    env.reset()
    return env


def play(env, n_steps):
    for _ in range(n_steps):
        env.step(np.zeros((env.num_envs, 2)))
    env.close()


def test_sb3_reads_the_files_before_the_first_episode_has_ended(tmp_path):
    monitored(tmp_path)
    assert len(load_results(str(tmp_path))) == 0


def test_a_second_run_replaces_the_first_and_says_so(tmp_path):
    play(monitored(tmp_path), 30)
    assert len(load_results(str(tmp_path))) > 0
    with pytest.warns(UserWarning, match="`override_existing=False`"):
        play(monitored(tmp_path), 3)
    assert len(load_results(str(tmp_path))) == 0  # no row of the first run is taken for the second's
    assert {path.name for path in tmp_path.iterdir()} == {f"{row}.monitor.csv" for row in range(4)}


def test_a_run_without_an_episode_is_replaced_in_silence(tmp_path):
    play(monitored(tmp_path), 2)
    play(monitored(tmp_path), 2)


def test_rows_of_earlier_runs_may_be_kept(tmp_path):
    play(monitored(tmp_path), 30)
    n_rows = len(load_results(str(tmp_path)))
    play(monitored(tmp_path, override_existing=False), 30)
    together = load_results(str(tmp_path))
    assert len(together) == 2 * n_rows
    for path in tmp_path.iterdir():
        seconds = [float(line.split(",")[2]) for line in path.read_text().splitlines()[2:]]
        assert seconds == sorted(seconds)  # by one clock, since load_results sorts by it


def test_a_resumed_run_takes_its_rows_back_even_after_a_kill_at_its_start(tmp_path):
    env = monitored(tmp_path)
    play(env, 30)
    state = env.monitor.get_state()
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    monitored(tmp_path)  # killed between its reset and its first step
    env = monitored(tmp_path)
    env.monitor.set_state(state)
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before
    play(env, 10)
    after = {path.name: path.read_text() for path in tmp_path.iterdir()}
    assert all(after[name].startswith(before[name]) for name in before)


def test_rows_of_earlier_runs_are_kept_even_after_a_kill_at_the_start_of_another(tmp_path):
    play(monitored(tmp_path), 30)
    n_rows = len(load_results(str(tmp_path)))
    monitored(tmp_path)  # killed between its reset and its first step
    play(monitored(tmp_path, override_existing=False), 3)
    assert len(load_results(str(tmp_path))) == n_rows


def test_a_run_that_never_steps_leaves_the_rows_of_a_run_in_progress(tmp_path):
    """For instance one that is refused a folder of checkpoints which is in use."""
    first = monitored(tmp_path)
    play(first, 30)
    before = {path.name: path.read_text() for path in tmp_path.iterdir()}
    monitored(tmp_path).close()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == before


def test_a_second_run_with_fewer_environments_replaces_all_of_the_first(tmp_path):
    play(monitored(tmp_path, n_envs=3), 30)
    (tmp_path / "9.monitor.csv").write_text('#{"t_start": 0.0, "env_id": "x"}\nr,l,t\n1.0,2,3.0\n')  # another's
    with pytest.warns(UserWarning, match="replaced"):
        play(monitored(tmp_path, n_envs=1), 1)
    assert {path.name for path in tmp_path.iterdir()} == {f"{row}.monitor.csv" for row in (0, 1, 9)}


@pytest.mark.parametrize("left", ["", "#{"])
def test_rows_are_not_appended_to_a_file_without_its_header(tmp_path, left):
    (tmp_path / "0.monitor.csv").write_text(left)
    play(monitored(tmp_path, n_envs=1, override_existing=False), 30)
    assert set(load_results(str(tmp_path))["task"]) == {"A", "B"}


def test_rows_are_not_appended_to_half_a_row(tmp_path):
    play(monitored(tmp_path), 30)
    n_rows, path = len(load_results(str(tmp_path))), tmp_path / "0.monitor.csv"
    path.write_text(path.read_text() + "1.0,1")
    play(monitored(tmp_path, override_existing=False), 30)
    assert len(load_results(str(tmp_path))) == 2 * n_rows


def test_rows_are_not_appended_to_a_file_of_other_columns(tmp_path):
    (tmp_path / "0.monitor.csv").write_text('#{"t_start": 0.0, "env_id": "x"}\nr,l,t\n1.0,2,3.0\n')
    with pytest.raises(SaveError, match="r,l,t.*r, l, t, task.*`override_existing=True`"):
        monitored(tmp_path, override_existing=False)


def test_a_task_that_had_not_begun_at_the_checkpoint_begins_again_in_silence(tmp_path):
    env = mt.MultiTaskVecEnv(drift_tasks(2), 1, seed=0, monitor_dir=tmp_path)
    env.task_view(0).reset()
    state = env.monitor.get_state()
    env.reset()
    play(env, 30)
    env = mt.MultiTaskVecEnv(drift_tasks(2), 1, seed=0, monitor_dir=tmp_path)
    env.task_view(0).reset()
    env.monitor.set_state(state)
    env.reset()
    play(env, 30)  # a warning would be an error
    assert set(load_results(str(tmp_path))["task"]) == {"A", "B"}


def test_files_are_not_kept_open(tmp_path):
    """A process may open about a thousand."""
    n_open = len(os.listdir("/proc/self/fd"))
    env = monitored(tmp_path, n_envs=100)
    for _ in range(10):
        env.step(np.zeros((200, 2)))
    assert len(os.listdir("/proc/self/fd")) < n_open + 10
    assert len(load_results(str(tmp_path))) >= 200


def test_a_folder_that_cannot_be_written_is_said_at_the_first_reset(tmp_path):
    (tmp_path / "file").write_text("")
    env = mt.MultiTaskVecEnv(drift_tasks(1), seed=0, monitor_dir=tmp_path / "file")
    with pytest.raises(SaveError, match="file"):
        env.reset()


def test_a_comma_in_a_tasks_name_is_part_of_the_name(tmp_path):
    env = mt.MultiTaskVecEnv([mt.Task('left, "slow"', DriftEnv)], seed=0, monitor_dir=tmp_path)
    env.reset()
    play(env, 20)
    assert set(load_results(str(tmp_path))["task"]) == {'left, "slow"'}
    assert {episode.task for episode in read_monitor_files(tmp_path)[0]} == {'left, "slow"'}


@pytest.mark.parametrize("backend", ["dummy", "subproc"])
def test_a_monitor_inside_the_task_says_what_an_episode_is(backend, tmp_path):
    """As SB3's make_vec_env reports it with a wrapper around its Monitor."""

    def make():
        return gym.wrappers.TransformReward(Monitor(DriftEnv()), lambda reward: 0.01 * reward)

    kwargs = {"start_method": "fork"} if backend == "subproc" else {}
    tasks = [mt.Task("inside", make), mt.Task("plain", DriftEnv)]
    env = mt.MultiTaskVecEnv(tasks, seed=0, backend=backend, monitor_dir=tmp_path, **kwargs)
    env.reset()
    total = np.zeros(2)
    while True:
        _, rewards, dones, infos = env.step(np.full((2, 2), 0.5))
        total += rewards
        if dones.any():
            break
    assert infos[0]["episode"]["r"] == pytest.approx(100 * total[0], rel=1e-4)
    assert infos[1]["episode"]["r"] == pytest.approx(total[1], rel=1e-4)
    env.close()
    rows = load_results(str(tmp_path)).set_index("task")["r"]
    assert rows["inside"] == pytest.approx(100 * total[0], rel=1e-4)
