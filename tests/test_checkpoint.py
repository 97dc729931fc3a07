"""The files of a checkpoint: whole or not there, and refused if they are not what was written."""

import json

import numpy as np
import pytest
from helpers.killing import in_child, killed_at, with_file_size_limit

import sb3_multitask as mt
from sb3_multitask.checkpoint.format import CheckpointError, list_checkpoints, read_checkpoint, read_latest, save_step
from sb3_multitask.storage.files import SaveError, replacing, write_text

STATE = {
    "numbers": np.arange(6.0).reshape(2, 3),
    "flags": [np.array([True, False]), None, {"nested": np.float64(0.1), "big": 2**100}],
    "empty": np.empty((0, 3), dtype=np.float32),
    "scalar": np.array(3, dtype=np.int64),
    "worst": -np.inf,
    "words": ["a", ("b", 1)],
}


def test_a_checkpoint_is_read_back_as_it_was_written(tmp_path):
    save_step(tmp_path, 7, STATE, keep=1)
    path, state = read_latest(tmp_path)
    assert path.name == "000000000007"
    for name in ("numbers", "empty", "scalar"):
        assert state[name].dtype == STATE[name].dtype
        np.testing.assert_array_equal(state[name], STATE[name])
    assert state["flags"][0].tolist() == [True, False]
    assert state["flags"][2] == {"nested": 0.1, "big": 2**100}
    assert state["worst"] == -np.inf
    assert state["words"] == ["a", ("b", 1)]


def test_numbers_of_numpy_go_on_with_their_own_arithmetic(tmp_path):
    """What an environment keeps, such as ``self.speed = np.float32(0.1)``."""
    numbers = [np.float32(0.1), np.float16(0.1), np.uint8(250)]
    save_step(tmp_path, 1, {"numbers": numbers}, keep=1)
    restored = read_latest(tmp_path)[1]["numbers"]
    assert [type(number) for number in restored] == [type(number) for number in numbers]
    assert restored == numbers


def test_equal_arrays_are_stored_once_and_come_back_apart(tmp_path):
    save_step(tmp_path, 1, {"a": [np.ones(100), np.ones(100)], "b": np.ones(100, dtype=np.float32)}, keep=1)
    path, state = read_latest(tmp_path)
    assert (path / "arrays.safetensors").stat().st_size < 1200 + 300
    state["a"][0][:] = 2.0
    np.testing.assert_array_equal(state["a"][1], 1.0)


@pytest.mark.parametrize("value", [object(), {1: 2}, {"number:": 2}, np.array([None]), "array:x", {"deep": [object()]}])
def test_what_cannot_be_stored_is_named(tmp_path, value):
    with pytest.raises(TypeError, match="^/here"):
        save_step(tmp_path, 1, {"here": value}, keep=1)
    assert list_checkpoints(tmp_path) == []


def test_the_newest_are_kept(tmp_path):
    for step in (10, 20, 30):
        save_step(tmp_path, step, STATE, keep=2)
    assert [int(path.name) for path in list_checkpoints(tmp_path)] == [30, 20]


def test_damaged_ones_do_not_count_among_those_kept(tmp_path):
    save_step(tmp_path, 100, STATE, keep=1)
    save_step(tmp_path, 200, STATE, keep=2)
    (tmp_path / "000000000200" / "state.json").write_text("damaged")
    save_step(tmp_path, 130, STATE, keep=1)
    with pytest.warns(UserWarning, match="Skipping"):
        assert read_latest(tmp_path)[0].name == "000000000130"


def test_only_our_own_leftovers_are_removed(tmp_path):
    names = [".vimrc.tmp", ".project.tmpl", "a.123.tmp", ".000000000007.99.tmp", ".model.99.tmp.zip"]
    for name in names:
        (tmp_path / name).write_text("")
    save_step(tmp_path, 1, STATE, keep=1)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted([*names[:3], "000000000001"])


def test_two_arrays_with_one_path_stay_two(tmp_path):
    state = {"a/b": np.zeros(1), "a": {"b": np.ones(1)}}
    save_step(tmp_path, 1, state, keep=1)
    assert read_latest(tmp_path)[1] == state


def test_truncated_at_any_64_bytes_it_is_refused_and_the_one_before_is_used(tmp_path):
    save_step(tmp_path, 1, STATE, keep=2)
    save_step(tmp_path, 2, STATE, keep=2)
    newest = list_checkpoints(tmp_path)[0]
    for file in sorted(newest.iterdir()):
        content = file.read_bytes()
        for n_bytes in range(0, len(content), 64):
            file.write_bytes(content[:n_bytes])
            with pytest.raises(CheckpointError, match=newest.name):
                read_checkpoint(newest)
        with pytest.warns(UserWarning, match=newest.name):
            path, _ = read_latest(tmp_path)
        assert path.name == "000000000001"
        file.unlink()
        with pytest.raises(CheckpointError, match=f"{newest.name}/{file.name}"):
            read_checkpoint(newest)
        file.write_bytes(content)
    assert read_latest(tmp_path)[0] == newest


def test_any_flipped_bit_is_noticed(tmp_path):
    save_step(tmp_path, 1, STATE, keep=1)
    (checkpoint,) = list_checkpoints(tmp_path)
    rng = np.random.default_rng(0)
    for file in sorted(checkpoint.iterdir()):
        content = file.read_bytes()
        for place in rng.integers(0, len(content) * 8, size=200):
            flipped = bytearray(content)
            flipped[place // 8] ^= 1 << (place % 8)
            file.write_bytes(flipped)
            with pytest.raises(CheckpointError, match=checkpoint.name):
                read_checkpoint(checkpoint)
        file.write_bytes(content)


def test_a_manifest_that_nests_without_end_is_none(tmp_path):
    save_step(tmp_path, 1, {"a": 1}, keep=1)
    (path,) = list_checkpoints(tmp_path)
    (path / "manifest.json").write_text("[" * 100_000)
    with pytest.raises(CheckpointError, match=r"manifest\.json: is no manifest"):
        read_checkpoint(path)


def test_a_later_schema_is_refused(tmp_path):
    save_step(tmp_path, 1, STATE, keep=1)
    (checkpoint,) = list_checkpoints(tmp_path)
    manifest = checkpoint / "manifest.json"
    manifest.write_text(json.dumps({**json.loads(manifest.read_text()), "schema": 99}))
    with pytest.raises(CheckpointError, match="version 99;.* 1 and 2"):
        read_checkpoint(checkpoint)


def test_killed_at_any_moment_of_a_save_the_newest_whole_checkpoint_is_used(tmp_path):
    save_step(tmp_path, 1, {"step": 1}, keep=1)
    boundary, code = 0, -9
    while code == -9:
        boundary += 1
        code = in_child(killed_at(boundary, lambda: save_step(tmp_path, 2, {"step": 2}, keep=1)))
        path, state = read_latest(tmp_path)
        assert state["step"] == int(path.name)
        if state["step"] == 2 and code == -9:  # begin again from the state before
            save_step(tmp_path, 1, {"step": 1}, keep=2)
            for file in sorted(path.iterdir()):
                file.unlink()
            path.rmdir()
    assert code == 0
    assert boundary > 12  # it was killed at every one before
    assert [child.name for child in tmp_path.iterdir()] == ["000000000002"]  # nothing is left behind


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path):
    save_step(tmp_path, 1, {"step": 1}, keep=1)
    large = {"step": 2, "array": np.zeros(100_000)}
    errors = tmp_path / "error"

    def save():
        try:
            save_step(tmp_path / "", 2, large, keep=1)
        except SaveError as e:
            errors.write_text(str(e))
            raise

    assert in_child(with_file_size_limit(10_000, save)) == 1
    assert "Check that the folder may be written to and that the disk has space" in errors.read_text()
    assert read_latest(tmp_path)[1] == {"step": 1}
    assert {child.name for child in tmp_path.iterdir()} == {"000000000001", "error"}


def test_a_folder_that_cannot_be_made_is_an_error_that_says_what_to_do(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(SaveError, match=r"file/000000000001"):
        save_step(tmp_path / "file", 1, STATE, keep=1)


def test_an_error_while_writing_leaves_the_file_before(tmp_path):
    write_text(tmp_path / "file.txt", "before")

    def fail():
        with replacing(tmp_path / "file.txt") as beside:
            beside.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert [(path.name, path.read_text()) for path in tmp_path.iterdir()] == [("file.txt", "before")]


# model.save


@pytest.fixture(scope="module")
def model():
    return mt.A2CMultiTask("MultiTaskMlpPolicy", "HalfCheetahSmallFoot-v0", seed=0, device="cpu")


def test_a_model_that_cannot_be_stored_leaves_the_file_and_names_the_attribute(tmp_path, model):
    model.save(tmp_path / "model")
    before = (tmp_path / "model.zip").read_bytes()
    model.reader = (line for line in ["a generator"])
    try:
        with pytest.raises(TypeError, match=r"'reader'.*exclude=\['reader'\]"):
            model.save(tmp_path / "model")
    finally:
        del model.reader
    assert (tmp_path / "model.zip").read_bytes() == before
    assert len(list(tmp_path.iterdir())) == 1


def test_a_model_saved_on_a_full_disk_or_killed_leaves_the_file(tmp_path, model):
    path = tmp_path / "model.zip"
    model.save(path)
    before = path.read_bytes()
    assert in_child(with_file_size_limit(10_000, lambda: model.save(path))) == 1
    assert path.read_bytes() == before
    boundary = 1
    while in_child(killed_at(boundary, lambda: model.save(path))) == -9:
        boundary += 1
        mt.A2CMultiTask.load(path, device="cpu")
    assert boundary > 3


@pytest.mark.parametrize("name", ["model", "model.zip", "model.v2"])
def test_a_model_is_saved_where_sb3_saves_it(tmp_path, model, name):
    model.save(str(tmp_path / name))
    assert [path.name for path in tmp_path.iterdir()] == ["model.zip" if name == "model" else name]
    mt.A2CMultiTask.load(str(tmp_path / name), device="cpu")
