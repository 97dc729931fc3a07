from contextlib import nullcontext

import pytest

from sb3_multitask.experiments.curves import read_training_returns
from sb3_multitask.experiments.monitor_files import read_monitor_files
from sb3_multitask.experiments.progress import make_logger
from sb3_multitask.experiments.scheduler import steps_so_far

HEAD = '#{"t_start": 0.0, "env_id": "X"}\nr,l,t,task\n'


def test_rows_come_in_the_order_of_the_envs(tmp_path):
    for row in (10, 9):
        (tmp_path / f"{row}.monitor.csv").write_text(f"{HEAD}{row}.5,7,0.1,A\n")
    first, second = read_monitor_files(tmp_path)
    assert (first[0].total_reward, second[0].total_reward) == (9.5, 10.5)
    assert (first[0].length, first[0].seconds, first[0].task) == (7, 0.1, "A")


@pytest.mark.parametrize(
    "torn", ["-12", "-1234.5,10", "-1234.5,10,0.", "-1234.5,10,0.3,Sm", "-1234.5,10,0.3,A", "x,1,2,A\n"]
)
def test_a_torn_row_is_left_out_and_counted(tmp_path, torn):
    (tmp_path / "0.monitor.csv").write_text(f"{HEAD}1.5,7,0.1,A\n{torn}")
    (tmp_path / "1.monitor.csv").write_text(f"{HEAD}2.5,7,0.1,A\nnan,7,0.1,A\n")
    with pytest.warns(UserWarning, match="2 torn rows left out of the monitor files in"):
        episodes = read_monitor_files(tmp_path)
    assert [[episode.total_reward for episode in rows] for rows in episodes] == [[1.5], [2.5]]


@pytest.mark.parametrize(
    "torn",
    ["-3.5,1" + "0" * 400 + ",0.3,A\n", f'1.0,7,0.1,"{"x" * 200_000}"\n', "1.0,-7,0.1,A\n"],
    ids=["long", "wide", "negative"],
)
def test_a_row_of_absurd_fields_is_left_out_and_counted(tmp_path, torn):
    (tmp_path / "0.monitor.csv").write_text(f"{HEAD}1.5,7,0.1,A\n{torn}")
    with pytest.warns(UserWarning, match="1 torn row left out"):
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
