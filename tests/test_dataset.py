import json

import numpy as np
import pytest
import safetensors.numpy
from helpers.drift import DriftEnv, drift_tasks, sized_tasks
from helpers.recordings import recorded, teacher_of
from hypothesis import given, settings
from hypothesis import strategies as st

import sb3_multitask as mt
from sb3_multitask.distillation import recording
from sb3_multitask.distillation.dataset import _checksum
from sb3_multitask.readers import UnreadableFileError
from sb3_multitask.storage.files import SaveError

# Recording


def test_rows_are_what_happened():
    """Each next observation, reward and end is the environment's for the action before."""
    recording = recorded(n_steps=40).recordings["B"]
    assert recording.n_rows == 40
    assert recording.observations.dtype == np.float32
    for episode, rows in enumerate(recording.slices()):
        obs = np.vstack((recording.observations[rows], recording.last_observations[episode]))
        actions = recording.actions[rows].clip(-1, 1)
        np.testing.assert_allclose(obs[1:, 0], obs[:-1, 0] + obs[1:, 1], atol=1e-6)  # the position by the speed
        np.testing.assert_allclose(obs[1:, 1], 0.9 * obs[:-1, 1] + 0.1 * actions.sum(axis=1), atol=0.06)
        np.testing.assert_allclose(obs[:, 2], 0.1 * np.arange(len(obs)), atol=1e-6)
        rewards = obs[1:, 1] - np.abs(actions - 0.5).sum(axis=1)  # the target of B is 1/2
        np.testing.assert_allclose(recording.rewards[rows], rewards, atol=1e-5)


def test_labels_are_the_teachers_and_actions_are_drawn_from_them():
    recording = recorded(n_steps=2000).recordings["A"]
    np.testing.assert_allclose(recording.teacher_mean, 0.5 * recording.observations[:, :2], rtol=1e-6)
    np.testing.assert_allclose(np.exp(recording.teacher_log_std), 0.3, rtol=1e-6)
    z = (recording.actions - recording.teacher_mean) / 0.3
    assert abs(z.mean()) < 5 / np.sqrt(z.size)
    assert abs(z.var() - 1) < 5 * np.sqrt(2 / z.size)


def test_deterministic_actions_are_the_means():
    recording = recorded(n_steps=20, deterministic=True).recordings["A"]
    np.testing.assert_array_equal(recording.actions, recording.teacher_mean)


def test_steps_are_a_lower_bound_and_cut_episodes_are_truncated():
    recording = recorded(n_steps=13).recordings["B"]  # of two copies with episodes of 7 steps
    lengths = np.bincount(recording.episodes).tolist()
    assert lengths == [7, 7]
    recording = recorded(n_steps=15).recordings["B"]
    assert np.bincount(recording.episodes).tolist() == [7, 1, 7, 1]
    assert recording.truncations.nonzero()[0].tolist() == [6, 7, 14, 15]


def test_episodes_are_whole_and_as_many_as_asked_for():
    dataset = recorded(n_episodes=5)
    for name, length in (("A", 5), ("B", 7)):
        recording = dataset.recordings[name]
        assert np.bincount(recording.episodes).tolist() == [length] * 5
        assert recording.truncations.sum() == 5
    assert recorded(n_episodes=1).recordings["A"].n_episodes == 1  # one copy stands by


def test_terminations_are_told_from_truncations():
    tasks = [mt.Task("A", DriftEnv, {"horizon": 4, "terminate": True})]
    recording = mt.record({"A": teacher_of("A")}, tasks, n_steps=10, n_envs_per_task=1).recordings["A"]
    assert recording.terminations.nonzero()[0].tolist() == [3, 7]
    assert recording.truncations.nonzero()[0].tolist() == [9]


def test_tasks_of_different_sizes_keep_their_own():
    teachers = {name: (lambda obs, n=n: np.tile(obs[:, :1], n)) for name, n in (("A", 2), ("B", 3), ("C", 1))}
    dataset = mt.record(teachers, sized_tasks(), n_steps=6, n_envs_per_task=2)
    sizes = {name: (r.obs_dim, r.action_dim) for name, r in dataset.recordings.items()}
    assert sizes == {"A": (5, 2), "B": (3, 3), "C": (4, 1)}
    assert dataset.facts["action_bounds"]["B"] == [[-0.5] * 3, [0.5] * 3]


def test_a_seed_decides_everything_and_nothing_outside_changes():
    state = np.random.get_state()[1].copy()  # noqa: NPY002
    first, again, other = (recorded(n_steps=12, seed=seed) for seed in (1, 1, 2))
    assert first.digest == again.digest != other.digest
    np.testing.assert_array_equal(np.random.get_state()[1], state)  # noqa: NPY002


def test_one_agent_teaches_all_its_tasks():
    agent = mt.load_pretrained("HalfCheetahBody6-vanilla")
    dataset = mt.record(agent, n_steps=2, n_envs_per_task=1)
    assert dataset.task_names == agent.task_names
    assert dataset.tasks == agent.tasks
    recording = dataset.recordings["BigTorso"]
    mean, log_std = agent.distribution(recording.observations, agent.head_of("BigTorso"))
    np.testing.assert_allclose(recording.teacher_mean, mean, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(recording.teacher_log_std, log_std)
    assert dataset.facts["teachers"]["BigTorso"] == agent.digest


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({}, ValueError, "one of `n_steps` and `n_episodes` .got None and None"),
        ({"n_steps": 1, "n_episodes": 1}, ValueError, "one of `n_steps` and `n_episodes` .got 1 and 1"),
        ({"n_steps": 0}, ValueError, "`n_steps` must be at least 1 .got 0"),
        ({"n_episodes": 2.0}, TypeError, "`n_episodes` must be a whole number .got 2.0"),
        ({"n_steps": 1, "seed": -1}, ValueError, "`seed` must be at least 0"),
        ({"n_steps": 1, "seed": 2**63}, ValueError, r"`seed` must be below 2\*\*63"),
        ({"n_steps": 1, "n_envs_per_task": True}, TypeError, "`n_envs_per_task` must be a whole number"),
        ({"n_steps": 1, "tasks": None}, ValueError, "`tasks` must be given"),
    ],
)
def test_other_arguments_are_refused(arguments, error, message):
    with pytest.raises(error, match=message):
        mt.record({"A": teacher_of("A")}, **{"tasks": drift_tasks(1), **arguments})


def test_a_folder_is_not_overwritten_nor_anything_played_for_nothing(tmp_path):
    (tmp_path / "data").mkdir()

    def never(obs):
        raise AssertionError

    with pytest.raises(FileExistsError, match="data exists, and a dataset is not overwritten"):
        mt.record({"A": never}, drift_tasks(1), tmp_path / "data", n_steps=1)


def test_a_folder_that_cannot_be_made_is_named_before_anything_is_played(tmp_path):
    def never(obs):
        raise AssertionError

    (tmp_path / "file").write_text("")
    with pytest.raises(SaveError, match="file is no folder that may be written to"):
        mt.record({"A": never}, drift_tasks(1), tmp_path / "file" / "data", n_steps=1)
    with pytest.raises(TypeError, match="`path` must be the path of a folder .got 3"):
        mt.record({"A": never}, drift_tasks(1), 3, n_steps=1)


class FaultyEnv(DriftEnv):
    """NaN in the third step of every second episode."""

    n = 0

    def reset(self, **kwargs):
        self.n += 1
        return super().reset(**kwargs)

    def step(self, action):
        obs, *others = super().step(action)
        return (np.full(3, np.nan) if self.n % 2 and self.time == 3 else obs), *others


class AlwaysFaultyEnv(DriftEnv):
    """NaN in the third step of every episode."""

    def step(self, action):
        obs, *others = super().step(action)
        return (np.full(3, np.nan) if self.time == 3 else obs), *others


def test_episodes_that_never_end_without_a_fault_are_not_waited_for(monkeypatch):
    monkeypatch.setattr(recording, "_LONGEST_EPISODE", 50)
    tasks = [mt.Task("A", AlwaysFaultyEnv, {"horizon": 5})]
    with pytest.raises(RuntimeError, match="No episode of task 'A' ended without a fault within 50 steps of a copy"):
        mt.record({"A": teacher_of("A")}, tasks, n_episodes=2, n_envs_per_task=2, on_fault="quarantine")


@pytest.mark.parametrize("asked", [{"n_steps": 60}, {"n_episodes": 4}])
def test_quarantined_episodes_are_left_out(asked):
    tasks = [mt.Task("A", FaultyEnv, {"horizon": 5})]
    dataset = mt.record({"A": teacher_of("A")}, tasks, n_envs_per_task=2, on_fault="quarantine", **asked)
    lengths = np.bincount(dataset.recordings["A"].episodes).tolist()
    assert lengths == ([5, 5, 5, 3] * 2 if "n_steps" in asked else [5] * 4)  # 30 = 3 * (3 + 5) + 3 + 3, the last cut
    assert np.isfinite(dataset.recordings["A"].observations).all()


# Files


def test_a_dataset_is_read_as_it_was_written(tmp_path):
    dataset = recorded(n_steps=14)
    dataset.save(tmp_path / "data")
    read = mt.TeacherDataset.load(tmp_path / "data")
    assert read.digest == dataset.digest
    assert (read.facts, read.tasks) == (dataset.facts, None)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_ids_and_arguments_of_environments_are_in_the_file(tmp_path):
    tasks = (mt.Task("Cheap", "Swimmer-v5", {"ctrl_cost_weight": 0.5}),)
    mt.record({"Cheap": lambda obs: 0 * obs[:, :2]}, tasks, tmp_path / "data", n_steps=2)
    assert mt.TeacherDataset.load(tmp_path / "data").tasks == tasks


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "data"
    recorded(n_steps=14).save(folder)
    return folder


@given(st.data())
@settings(max_examples=40, deadline=None)
def test_a_changed_byte_is_noticed(saved, data):
    name = data.draw(st.sampled_from(["dataset.json", "task_0.safetensors", "task_1.safetensors"]))
    content = (saved / name).read_bytes()
    place = data.draw(st.integers(0, len(content) - 1))
    changed = bytearray(content)
    changed[place] ^= data.draw(st.integers(1, 255))
    try:
        (saved / name).write_bytes(changed)
        with pytest.raises(UnreadableFileError, match=name.split(".")[0]):
            mt.TeacherDataset.load(saved)
    finally:
        (saved / name).write_bytes(content)


def test_a_file_outside_the_folder_is_not_read(saved, tmp_path):
    content = json.loads((saved / "dataset.json").read_text())
    content["recordings"][0]["file"] = "../data/task_0.safetensors"
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    with pytest.raises(UnreadableFileError, match="SHA-256"):
        mt.TeacherDataset.load(tmp_path)


def test_a_file_is_read_once(saved, tmp_path):
    """A description that names a file many times could take any memory."""
    content = json.loads((saved / "dataset.json").read_text())
    first = content["recordings"][0]
    content["recordings"] = [{**first, "name": str(i)} for i in range(3)]
    content.pop("description_sha256")
    content["description_sha256"] = _checksum(content)
    (tmp_path / "dataset.json").write_text(json.dumps(content))
    (tmp_path / first["file"]).write_bytes((saved / first["file"]).read_bytes())
    with pytest.raises(UnreadableFileError, match="two of its tasks have one file"):
        mt.TeacherDataset.load(tmp_path)


def test_a_folder_without_a_dataset_is_named(tmp_path):
    with pytest.raises(UnreadableFileError, match=r"holds no dataset \(no dataset.json\): give a folder"):
        mt.TeacherDataset.load(tmp_path)


def test_a_missing_file_is_named(saved, tmp_path):
    (tmp_path / "dataset.json").write_bytes((saved / "dataset.json").read_bytes())
    with pytest.raises(UnreadableFileError, match=r"task_0\.safetensors: holds no recording"):
        mt.TeacherDataset.load(tmp_path)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"actions": np.zeros((3, 2), np.float32)}, "`actions` must have the shape"),
        ({"rewards": np.full(14, np.nan)}, "`rewards` holds numbers that are not finite"),
        ({"observations": np.full((14, 3), 1e16)}, "`observations` holds numbers that are not finite, or beyond"),
        ({"observations": np.zeros((14, 3), int)}, "`observations` has the type int64"),
        ({"episodes": np.repeat(np.arange(2, dtype=np.int8), 7)}, "`episodes` has the type int8"),
        ({"episodes": np.arange(14) % 2}, "`episodes` must begin with 0 and rise by 1"),
        ({"episodes": np.zeros(14, int)}, "`last_observations` must have the shape"),
        ({"truncations": np.ones(14, bool)}, "the last row of an episode, and no other"),
        ({"teacher_mean": None}, "`teacher_mean` and `teacher_log_std` must be given both, or neither"),
        ({"observations": np.zeros((0, 3))}, "`observations` and `actions` must be"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(changed, message):
    arrays = recorded(n_steps=14).recordings["B"].arrays()
    with pytest.raises(ValueError, match=message):
        mt.TaskRecording(**{**arrays, **changed})


def test_tasks_are_selected_by_name():
    dataset = recorded(n_steps=4)
    assert dataset.select(["B", "A"]).task_names == ("B", "A")
    assert dataset.select(["B"]).n_rows == dataset.recordings["B"].n_rows
    with pytest.raises(ValueError, match=r"no task 'a'. Did you mean 'A'. Tasks: A, B"):
        dataset.select(["a"])


@pytest.mark.parametrize(
    ("names", "error"), [("AB", TypeError), ([], ValueError), (["A", "A"], ValueError), (["C"], ValueError)]
)
def test_other_selections_are_refused(names, error):
    with pytest.raises(error, match="`task_names` must|no task 'C'"):
        recorded(n_steps=4).select(names)


def test_what_is_no_recording_is_refused():
    recording = recorded(n_steps=4).recordings["A"]
    for recordings in (3, {"A": 3}, {1: recording}):
        with pytest.raises(TypeError, match="`recordings` must map names of tasks to TaskRecording"):
            mt.TeacherDataset(recordings)
    with pytest.raises(TypeError, match="`actions` must be an array"):
        mt.TaskRecording(**{**recording.arrays(), "actions": [[0.0, 0.0]] * 4})


def test_a_table_is_printed():
    lines = str(recorded(n_steps=14)).splitlines()
    assert lines[0].split() == ["task", "steps", "episodes", "mean", "return"]
    assert lines[1].split()[:3] == ["A", "14", "4"]


def test_files_hold_arrays_only(saved):
    assert set(safetensors.numpy.load_file(saved / "task_0.safetensors")) == {
        *("observations", "actions", "rewards", "terminations", "truncations", "episodes", "last_observations"),
        *("teacher_mean", "teacher_log_std"),
    }
