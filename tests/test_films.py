"""Films of agents: what is played, how it is rendered, and the files."""

import importlib.util

import numpy as np
import pytest
from helpers.drift import DrawnEnv, drawn_tasks, drift_tasks
from PIL import Image

import sb3_multitask as mt
from sb3_multitask.agents import agent_of
from sb3_multitask.evaluation.films import (
    NoRendererError,
    Scene,
    Shot,
    check_film_path,
    film,
    filming,
    find_renderer,
    gif_bytes,
    grid_of,
    real_time_fps,
    write_film,
)
from sb3_multitask.evaluation.films.playing import longest_episode, play, play_episodes
from sb3_multitask.evaluation.films.window import has_display, show

needs_renderer = pytest.mark.skipif(find_renderer() is None, reason="nothing can render here")


@pytest.fixture(scope="module")
def agent():
    return agent_of(mt.A2CMultiTask("MultiTaskMlpPolicy", drawn_tasks(), seed=0, device="cpu"))


@pytest.mark.parametrize("deterministic", [True, False])
def test_what_is_played_is_what_is_evaluated(agent, deterministic):
    """Episodes of 5 steps and 7; with samples, one task at a time draws them in the same order."""
    for task in agent.tasks:
        (expected,) = mt.evaluate_tasks(agent, task, n_eval_episodes=1, deterministic=True, seed=3).values()
        shots = [shots[0] for shots in play(Scene(agent, (task,), 7, seed=3, deterministic=deterministic))]
        (end,) = [shot for shot in shots if shot.episode == 1 and shot.length == expected.episode_lengths[0]]
        equal = end.total_reward == pytest.approx(expected.episode_rewards[0], abs=1e-4)
        assert equal is deterministic


def test_pictures_are_of_the_steps_that_were_asked_for(agent):
    shots = list(play(Scene(agent, agent.tasks, 6, skip=3, every=2)))
    assert [[shot.length for shot in row] for row in shots] == [[4, 4], [1, 6], [3, 1]]  # episodes of 5 steps and 7
    assert [[shot.episode for shot in row] for row in shots] == [[1, 1], [2, 1], [2, 2]]
    assert all((shot.image == 10 * shot.length).all() for row in shots for shot in row)


def test_every_ended_episode_is_told_once_with_pictures_or_without(agent):
    scene = Scene(agent, agent.tasks, 15, every=4)  # episodes of 5 steps and 7
    with_pictures = [ended for row in play(scene) for shot in row for ended in shot.ended]
    without = list(play_episodes(scene))
    assert sorted(with_pictures) == sorted(without)
    assert [(ended.task, ended.length) for ended in without] == [("A", 5), ("B", 7), ("A", 5), ("B", 7), ("A", 5)]


def test_the_longest_episode_is_the_largest_time_limit():
    limited = [mt.Task(f"P{n}", "Pendulum-v1", {"max_episode_steps": n}) for n in (3, 8)]
    assert longest_episode(limited) == 8
    assert longest_episode(drawn_tasks()) == 1000  # without a limit


def test_the_seed_decides(agent):
    def totals(seed, deterministic):
        return [
            shot.total_reward for row in play(Scene(agent, agent.tasks, 4, 0, 1, seed, deterministic)) for shot in row
        ]

    for deterministic in (True, False):
        assert totals(1, deterministic) == totals(1, deterministic) != totals(2, deterministic)
    assert totals(1, deterministic=True) != totals(1, deterministic=False)


@pytest.mark.parametrize(("kwargs", "message"), [({"n_steps": 0}, "`n_steps`"), ({"every": 0}, "`every`")])
def test_scenes_that_cannot_be_are_refused(agent, kwargs, message):
    with pytest.raises(ValueError, match=f"{message} must be at least 1 .got 0."):
        Scene(agent, agent.tasks, **{"n_steps": 1, **kwargs})
    with pytest.raises(ValueError, match="No head for task 'Z'"):
        Scene(agent, [mt.Task("Z", DrawnEnv)], 1)
    with pytest.raises(ValueError, match="at least one task"):
        Scene(agent, (), 1)


@pytest.mark.slow
def test_another_process_films_the_same(agent):
    """Without MuJoCo no renderer is needed; the tasks are functions of this file."""
    scene = Scene(agent, agent.tasks, 4)
    there, here = list(film(scene)), list(play(scene))
    assert len(there) == len(here) == 4
    for shots, expected in zip(there, here, strict=True):
        for shot, other in zip(shots, expected, strict=True):
            assert (shot.total_reward, shot.length, shot.episode) == (other.total_reward, other.length, other.episode)
            np.testing.assert_array_equal(shot.image, other.image)


def test_an_environment_that_cannot_be_drawn_is_named(agent):
    with pytest.raises(RuntimeError, match="RuntimeError: the pencil broke"):
        next(film(Scene(agent, tuple(drawn_tasks(fail_at=99)), 4)))


def test_without_a_renderer_the_message_says_what_to_install(monkeypatch):
    monkeypatch.setattr(filming, "find_renderer", lambda: None)
    monkeypatch.setenv("MUJOCO_GL", "off")
    agent = mt.load_pretrained("HalfCheetahBody6-vanilla")
    with pytest.raises(NoRendererError, match="apt install libegl1") as raised:
        next(film(Scene(agent, agent.tasks[:1], 4)))
    assert "\n" not in str(raised.value)


@pytest.mark.slow
@needs_renderer
def test_the_camera_goes_with_the_robot():
    """It runs six metres; a robot that is out of sight would leave the floor alone."""
    agent = mt.load_pretrained("HalfCheetahBody6-vanilla")
    scene = Scene(agent, (agent.tasks[3],), 1, skip=60, size=(96, 64))
    ((shot,),) = film(scene)
    assert shot.image.shape == (64, 96, 3)
    body = shot.image.astype(int)[:, 24:72]
    assert ((body[..., 0] - body[..., 2]) > 40).sum() > 30  # its skin; the floor is grey and green


def test_real_time_is_what_the_environment_says():
    assert real_time_fps(mt.TASK_SETS["HalfCheetahBody6"]) == 20
    assert real_time_fps(drawn_tasks()) == 7
    with pytest.raises(ValueError, match=r"'A'.*'rgb_array'"):
        real_time_fps(drift_tasks())


@pytest.mark.parametrize(("n", "columns", "rows"), [(1, 1, 1), (2, 2, 1), (4, 2, 2), (6, 3, 2), (8, 3, 3)])
def test_panels_are_side_by_side(n, columns, rows):
    shots = [Shot(np.full((12, 20, 3), 20 * i, dtype=np.uint8), 0.0, 1, 1) for i in range(n)]
    picture = np.asarray(grid_of(shots, ["x"] * n, size=(200, 120)))
    assert picture.shape == (rows * 120, columns * 200, 3)
    for i in range(n):
        row, column = divmod(i, columns)
        assert (picture[row * 120 + 110, column * 200 + 100] == 20 * i).all()


def test_a_panel_says_name_and_return_however_long():
    def drawn(name, total):
        shot = Shot(np.zeros((240, 320, 3), dtype=np.uint8), total, 5, 1)
        return np.asarray(grid_of([shot], [name]))

    assert not np.array_equal(drawn("A", 1.0), drawn("B", 1.0))
    assert not np.array_equal(drawn("A", 1.0), drawn("A", 2.0))
    np.testing.assert_array_equal(drawn("W" * 100, 1.0), drawn("W" * 200, 1.0))  # both are cut
    assert (drawn("W" * 100, 1.0)[:, -4:] == 0).all()


PICTURES = [Image.new("RGB", (64, 48), (i, 255 - i, 7 * i % 256)) for i in range(0, 200, 10)]


@pytest.mark.parametrize("fps", [20, 125 / 3, 7])
def test_a_gif_lasts_as_long_as_it_should(tmp_path, fps):
    write_film(tmp_path / "f.gif", PICTURES, fps)
    with Image.open(tmp_path / "f.gif") as gif:
        assert gif.n_frames == len(PICTURES)
        milliseconds = 0
        for i in range(gif.n_frames):
            gif.seek(i)
            milliseconds += gif.info["duration"]
    assert milliseconds == pytest.approx(1000 * len(PICTURES) / fps, abs=10)
    assert gif_bytes(PICTURES, fps) == (tmp_path / "f.gif").read_bytes()


def test_an_mp4_has_its_speed_and_size(tmp_path):
    pytest.importorskip("imageio_ffmpeg")
    import imageio.v2 as imageio

    write_film(tmp_path / "f.mp4", PICTURES, 20)
    with imageio.get_reader(tmp_path / "f.mp4") as reader:
        meta = reader.get_meta_data()
        assert (meta["fps"], meta["size"]) == (20, (64, 48))
        assert reader.count_frames() == len(PICTURES)


def test_other_films_are_refused(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"must end in \.mp4 or \.gif"):
        check_film_path(tmp_path / "f.avi")
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "imageio_ffmpeg" else find_spec(name))
    with pytest.raises(ImportError, match=r'pip install "sb3-multitask\[video\]"'):
        check_film_path(tmp_path / "f.mp4")
    check_film_path(tmp_path / "f.gif")


def test_a_film_that_fails_leaves_nothing(tmp_path):
    def pictures():
        yield PICTURES[0]
        raise RuntimeError("no more")

    for name in ("f.gif", *(["f.mp4"] if importlib.util.find_spec("imageio_ffmpeg") else [])):
        with pytest.raises(RuntimeError, match="no more"):
            write_film(tmp_path / name, pictures(), 20)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not has_display(), reason="there is no screen")
def test_a_window_shows_every_picture():
    seen = []
    show((seen.append(i) or picture for i, picture in enumerate(PICTURES)), 100, "test")
    assert len(seen) == len(PICTURES)
