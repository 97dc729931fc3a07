"""Weights and statistics are read from other people's files, and nothing in these is run."""

import base64
import io
import json
import pickle
import zipfile

import numpy as np
import pytest
import stand_in
import torch as th
from helpers.drift import drift_tasks
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize
from stand_in import Payload

import sb3_multitask as mt
from sb3_multitask.experiments.config import TrainConfig, load_config
from sb3_multitask.experiments.curves import read_evaluations
from sb3_multitask.readers import UnreadableFileError, read_npz, read_sb3_zip, read_vec_normalize
from sb3_multitask.storage.yaml_files import ConfigError

ENV_ID = "HalfCheetahSmallFoot-v0"


@pytest.fixture(scope="module")
def env():
    env = VecNormalize(make_vec_env(ENV_ID, 2, seed=0))
    env.reset()
    for _ in range(20):
        env.step(np.stack([env.action_space.sample() for _ in range(2)]))
    return env


@pytest.fixture(scope="module")
def saved(tmp_path_factory, env):
    path = tmp_path_factory.mktemp("saved") / "a2c.zip"
    A2C("MlpPolicy", env, seed=0, device="cpu").save(path)
    return path


def rewrite(path, target, **members):
    """A copy of a zip with some members replaced, or left out if None."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            content = members.get(name.replace(".", "_"), old.read(name))
            if content is not None:
                new.writestr(name, content)
    return target


def tensors(path):
    return th.load(io.BytesIO(zipfile.ZipFile(path).read("policy.pth")), weights_only=True)


def torch_bytes(content):
    file = io.BytesIO()
    th.save(content, file)
    return file.getvalue()


# What is read


@pytest.mark.parametrize("algorithm", [A2C, PPO])
def test_weights_are_those_that_sb3_loads(tmp_path, env, algorithm):
    kwargs = {"policy_kwargs": {"activation_fn": th.nn.ReLU}} if algorithm is PPO else {}
    model = algorithm("MlpPolicy", env, seed=1, device="cpu", **kwargs)
    model.save(tmp_path / "model")
    policy = read_sb3_zip(tmp_path / "model.zip")
    assert (policy.algorithm, policy.obs_dim, policy.action_dim) == (algorithm.__name__, 17, 6)
    assert policy.activation == ("ReLU" if algorithm is PPO else "Tanh")
    assert policy.task_names is policy.statistics is None
    for name, tensor in model.policy.state_dict().items():
        np.testing.assert_array_equal(policy.weights[name], tensor.numpy())


def test_a_multitask_model_comes_with_its_tasks_and_statistics(tmp_path):
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", drift_tasks(3), seed=0, device="cpu").learn(200)
    model.save(tmp_path / "model")
    policy = read_sb3_zip(tmp_path / "model.zip")
    assert policy.algorithm == "A2CMultiTask"
    assert policy.task_names == ("A", "B", "C")
    expected = model.get_vec_normalize_env().obs_rms["obs"]
    np.testing.assert_array_equal(policy.statistics.mean, expected.mean)
    np.testing.assert_array_equal(policy.statistics.var, expected.var)


def test_a_state_dependent_log_std_is_read_with_its_bounds(tmp_path):
    kwargs = {"log_std_mode": "state_dependent", "log_std_init": -1.0, "head_arch": {"pi": [7]}}
    mt.A2CMultiTask("MultiTaskMlpPolicy", drift_tasks(2), device="cpu", policy_kwargs=kwargs).save(tmp_path / "model")
    policy = read_sb3_zip(tmp_path / "model.zip")
    assert (policy.obs_dim, policy.action_dim, policy.log_std_bounds) == (3, 2, (-5.0, 1.0, -1.0))
    data = json.loads(zipfile.ZipFile(tmp_path / "model.zip").read("data"))
    for bounds in ("no", [1], [None, 2], {"a": 1}):
        data["policy_kwargs"]["log_std_bounds"] = bounds
        rewrite(tmp_path / "model.zip", tmp_path / "other.zip", data=json.dumps(data))
        with pytest.raises(UnreadableFileError, match="bounds of the log-std are no numbers"):
            read_sb3_zip(tmp_path / "other.zip")
    data["policy_kwargs"]["log_std_bounds"] = [2, -2]
    rewrite(tmp_path / "model.zip", tmp_path / "other.zip", data=json.dumps(data))
    with pytest.raises(UnreadableFileError, match="`log_std_bounds` must be low, high and a start between"):
        mt.load_agent(tmp_path / "other.zip")


def test_statistics_are_those_of_vec_normalize(tmp_path, env):
    env.save(tmp_path / "vn.pkl")
    statistics = read_vec_normalize(tmp_path / "vn.pkl")
    np.testing.assert_array_equal(statistics.mean, env.obs_rms.mean[None])
    raw = env.get_original_obs()
    np.testing.assert_array_equal(statistics.normalize(raw), env.normalize_obs(raw))


def test_statistics_per_task_are_read_too(tmp_path, venv):
    venv.reset()
    venv.save(tmp_path / "vn.pkl")
    statistics = read_vec_normalize(tmp_path / "vn.pkl")
    assert statistics.task_names == ("A", "B", "C")
    np.testing.assert_array_equal(statistics.mean, venv.obs_rms["obs"].mean)


# What is refused


def test_truncated_at_any_64_bytes_a_zip_is_refused_with_its_name(tmp_path, saved):
    content = saved.read_bytes()
    cut = tmp_path / "cut.zip"
    for n_bytes in range(0, len(content), 64):
        cut.write_bytes(content[:n_bytes])
        with pytest.raises(UnreadableFileError, match=r"cut\.zip: "):
            read_sb3_zip(cut)


def test_flipped_bits_of_the_weights_are_noticed(tmp_path, saved):
    with zipfile.ZipFile(saved) as archive:
        info = archive.getinfo("policy.pth")
    content, rng = saved.read_bytes(), np.random.default_rng(0)
    for place in rng.integers((info.header_offset + 100) * 8, (info.header_offset + info.compress_size) * 8, 100):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << (place % 8)
        (tmp_path / "flipped.zip").write_bytes(flipped)
        with pytest.raises(UnreadableFileError, match=r"flipped\.zip"):
            read_sb3_zip(tmp_path / "flipped.zip")


def test_other_algorithms_and_files_are_refused(tmp_path, saved):
    SAC("MlpPolicy", "Pendulum-v1", buffer_size=10, device="cpu").save(tmp_path / "sac")
    with pytest.raises(UnreadableFileError, match="SAC.*A2C, PPO, TRPO"):
        read_sb3_zip(tmp_path / "sac.zip")
    A2C("MlpPolicy", "CartPole-v1", device="cpu").save(tmp_path / "discrete")
    with pytest.raises(UnreadableFileError, match="action_space is a Discrete"):
        read_sb3_zip(tmp_path / "discrete.zip")
    with pytest.raises(UnreadableFileError, match=r"is no model of SB3 .*\(no policy\.pth in it\)"):
        read_sb3_zip(rewrite(saved, tmp_path / "empty.zip", policy_pth=None))
    with pytest.raises(UnreadableFileError, match="cannot be read"):
        read_sb3_zip(tmp_path / "missing.zip")


def test_weights_that_are_not_finite_or_do_not_fit_the_spaces_are_refused(tmp_path, saved):
    weights = tensors(saved)
    weights["action_net.bias"][0] = float("nan")
    with pytest.raises(UnreadableFileError, match=r"not finite: action_net\.bias"):
        read_sb3_zip(rewrite(saved, tmp_path / "nan.zip", policy_pth=torch_bytes(weights)))
    weights = tensors(saved)
    weights["log_std"] = th.zeros(4)
    with pytest.raises(UnreadableFileError, match=r"action_space.*\[6\].*\[4\]"):
        read_sb3_zip(rewrite(saved, tmp_path / "sizes.zip", policy_pth=torch_bytes(weights)))
    with pytest.raises(UnreadableFileError, match="no dict of tensors"):
        read_sb3_zip(rewrite(saved, tmp_path / "list.zip", policy_pth=torch_bytes([1, 2])))
    with pytest.raises(UnreadableFileError, match="is no JSON"):
        read_sb3_zip(rewrite(saved, tmp_path / "json.zip", data=b"{"))


def test_a_zip_bomb_is_not_unpacked(tmp_path, saved):
    small = rewrite(saved, tmp_path / "small.zip", data=b" " * (200 * 2**20))
    with pytest.raises(UnreadableFileError, match=r"unpacks \d+ bytes to \d+, which no such file does"):
        read_sb3_zip(small)
    bomb = rewrite(saved, tmp_path / "bomb.zip", data=b" " * (300 * 2**20))
    assert bomb.stat().st_size < 2**20
    with pytest.raises(UnreadableFileError, match="larger than 256 MB unpacked"):
        read_sb3_zip(bomb)
    inner = io.BytesIO()
    with zipfile.ZipFile(inner, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("archive/data.pkl", b" " * (300 * 2**20))
    with pytest.raises(UnreadableFileError, match="larger than 256 MB unpacked"):
        read_sb3_zip(rewrite(saved, tmp_path / "inner.zip", policy_pth=inner.getvalue()))


# What must not run


@pytest.fixture(autouse=True)
def no_marks(monkeypatch):
    monkeypatch.setattr(stand_in, "BUILT", [])


def test_the_payload_of_these_tests_works():
    assert pickle.loads(pickle.dumps(Payload())) == {}
    assert stand_in.BUILT == ["EmptyDict"]


def test_a_hostile_pickle_does_not_run(tmp_path, env):
    (tmp_path / "vn.pkl").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(UnreadableFileError, match=r"vn\.pkl: is no VecNormalize"):
        read_vec_normalize(tmp_path / "vn.pkl")
    env.payload = Payload()  # hidden in a real one: it is read, and the payload stays inert
    try:
        env.save(tmp_path / "vn.pkl")
    finally:
        del env.payload
    np.testing.assert_array_equal(read_vec_normalize(tmp_path / "vn.pkl").mean, env.obs_rms.mean[None])
    assert not stand_in.BUILT


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"no pickle",
        pickle.dumps([1, 2]),
        pickle.dumps(np.array([Payload()], dtype=object)),
        b"\x80\x04\x82\x01.",  # an extension code
        b"cnumpy._core.multiarray\nscalar\n(I1\nI2\ntR.",
        b"\x80\x04Pname\n.",  # a persistent id
    ],
)
def test_a_broken_pickle_is_refused(tmp_path, content):
    (tmp_path / "vn.pkl").write_bytes(content)
    with pytest.raises(UnreadableFileError, match=r"vn\.pkl: "):
        read_vec_normalize(tmp_path / "vn.pkl")


def nested(n):
    return b"\x80\x04}" + b"N" + b"\x85" * n + b"Ns."


@pytest.mark.parametrize(
    "content",
    [
        nested(10**6),  # a key whose hash would overflow the stack
        b"\x80\x04Nr\xff\xff\xff\x0f.",  # a memo index of 268 million
        b"\x80\x04cnumpy\ndtype\n(]"[:-1] + b"N" + b"\x85\x94" + b"(h\x00" + b"h\x00" * 9 + b"t\x85R.",
        b"\x80\x04(cbuiltins\nlist\n" + b"cx\ny\n)R" * 500_000 + b"t.",
        b"\x80\x04\x8b" + (2000).to_bytes(4, "little") + b"\xff" * 1999 + b"\x7f.",  # a number of 16,000 bits
        b"\x80\x04cnumpy._core.multiarray\nscalar\n}\x8c\x01aK\x01sb.",  # changes a function
    ],
    ids=["nesting", "memo", "text", "objects", "number", "function"],
)
def test_a_pickle_that_would_take_the_machine_down_is_refused(tmp_path, content):
    (tmp_path / "vn.pkl").write_bytes(content)
    with pytest.raises(UnreadableFileError, match=r"vn\.pkl: "):
        read_vec_normalize(tmp_path / "vn.pkl")


@pytest.mark.parametrize(
    "key",
    [
        b"N" + b"2\x86" * 16,
        b"N\x94" + b"".join(b"h%c\x86\x94" % i for i in range(16)),
        b"(" + b"(Nt" * 9 + b"N2t2\x86" * 16 + b"t",
    ],
    ids=["copied", "of the memo", "after marks"],
)
def test_a_key_of_tuples_that_are_twice_in_the_next_is_refused(tmp_path, key):
    """2**16 values by 16 opcodes; with 60 its hash would have no end."""
    (tmp_path / "vn.pkl").write_bytes(b"\x80\x04}" + key + b"Ns.")
    with pytest.raises(UnreadableFileError, match=r"vn\.pkl: holds tuples within tuples"):
        read_vec_normalize(tmp_path / "vn.pkl")


@pytest.mark.parametrize(
    "tensor",
    [
        th.zeros(1).expand(300_000_000),
        th.zeros(3, dtype=th.int64),
        th.zeros(3, dtype=th.bfloat16),
        th.zeros(3, dtype=th.complex64),
        th.zeros(3).to_sparse(),
        th.zeros(3, device="meta"),
    ],
    ids=["expanded", "int", "bfloat16", "complex", "sparse", "meta"],
)
def test_tensors_that_are_no_weights_are_refused(tmp_path, saved, tensor):
    strange = rewrite(saved, tmp_path / "strange.zip", policy_pth=torch_bytes({**tensors(saved), "extra": tensor}))
    with pytest.raises(UnreadableFileError, match=r"strange\.zip: (weights that are no arrays|its weights cannot)"):
        read_sb3_zip(strange)


def test_other_compressions_are_refused(tmp_path, saved):
    with zipfile.ZipFile(saved) as old, zipfile.ZipFile(tmp_path / "lzma.zip", "w", zipfile.ZIP_LZMA) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(UnreadableFileError, match="compressed in a way"):
        read_sb3_zip(tmp_path / "lzma.zip")


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(path, **members):
    """An ``.npz`` of arrays, or of members as they are."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", npy(content) if isinstance(content, np.ndarray) else content)
    return path


def header(shape, kind="<f8"):
    file = io.BytesIO()
    np.lib.format.write_array_header_1_0(file, {"descr": kind, "fortran_order": False, "shape": shape})
    return file.getvalue()


def test_arrays_are_those_of_numpy(tmp_path):
    arrays = {
        "a": np.arange(6.0).reshape(2, 3),
        "b": np.asfortranarray(np.ones((2, 2), dtype=np.int8)),
        "c": np.array(["x", "yy"]),
    }
    np.savez(tmp_path / "plain.npz", **arrays)
    np.savez_compressed(tmp_path / "compressed.npz", **arrays)
    for name in ("plain", "compressed"):
        found = read_npz(tmp_path / f"{name}.npz")
        assert found.keys() == arrays.keys()
        for key, array in arrays.items():
            np.testing.assert_array_equal(found[key], array)
            assert found[key].dtype == array.dtype


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (header((10**12,)) + bytes(8), "shape .1000000000000,. does not fit its 8 bytes"),  # numpy would reserve 8 TB
        (header((2,)) + bytes(8), "does not fit its 8 bytes"),
        (header((1,), "|O") + b"x", "neither numbers nor texts"),
        (header((1,), "<U1") + b"\xff" * 4, "no text"),
        (header((1,))[:20], "no whole file of arrays"),
        (b"\x93NUMPY\x01\x00\x04\x00(((\n", "no whole file of arrays"),
        (b"text", "no whole file of arrays"),
        (bytes(40 * 2**20), "unpacks .* bytes to"),
    ],
    ids=["huge", "short", "objects", "text", "cut", "header", "no array", "bomb"],
)
def test_arrays_that_claim_what_is_not_there_are_refused(tmp_path, content, message):
    with pytest.raises(UnreadableFileError, match=rf"a\.npz: .*{message}"):
        read_npz(npz(tmp_path / "a.npz", a=content))


@pytest.mark.parametrize(
    "arrays",
    [
        {"timesteps": np.arange(3)},
        {"timesteps": np.arange(3), "results": np.zeros((2, 4))},
        {"timesteps": np.arange(3), "results": np.zeros(3)},
        {"timesteps": np.arange(3), "results": np.zeros((3, 0))},
        {"timesteps": np.arange(3), "task_names": np.array(["A"]), "task_results": np.zeros((3, 2, 4))},
        {
            "timesteps": np.arange(3),
            "task_names": np.array(["A", "B"]),
            "task_results": np.zeros((3, 2, 4)),
            "task_n_envs": np.array([2, -1]),
        },
        {"timesteps": np.array(3), "results": np.zeros((3, 4))},
        {"timesteps": np.arange(3), "results": np.array([["a"], ["b"], ["c"]])},
    ],
)
def test_evaluations_whose_arrays_do_not_fit_are_one_error(tmp_path, arrays):
    with pytest.raises(UnreadableFileError, match=r"evaluations\.npz: holds no evaluations"):
        read_evaluations(npz(tmp_path / "evaluations.npz", **arrays))


def test_an_array_cannot_claim_more_than_its_bytes(tmp_path, env):
    env.save(tmp_path / "vn.pkl")
    content = (tmp_path / "vn.pkl").read_bytes()
    shape = b"K\x11\x85"  # the opcodes of (17,)
    assert shape in content
    (tmp_path / "vn.pkl").write_bytes(content.replace(shape, b"K\xff\x85"))
    with pytest.raises(UnreadableFileError, match="does not fit its"):
        read_vec_normalize(tmp_path / "vn.pkl")


def test_a_hostile_zip_does_not_run(tmp_path, saved):
    hostile = rewrite(saved, tmp_path / "hostile.zip", policy_pth=torch_bytes({"a": Payload()}))
    with pytest.raises(UnreadableFileError, match="its weights cannot be read"):
        read_sb3_zip(hostile)
    data = json.loads(zipfile.ZipFile(saved).read("data"))
    data |= {"task_schedule": "joint", "task_names": ["A"]}
    data["normalizer_state"] = {":serialized:": base64.b64encode(pickle.dumps(Payload())).decode()}
    with pytest.raises(UnreadableFileError, match="statistics"):
        read_sb3_zip(rewrite(saved, tmp_path / "hostile.zip", data=json.dumps(data).encode()))
    assert not stand_in.BUILT


def test_a_hostile_config_does_not_run(tmp_path):
    for tag in stand_in.TAGS:
        (tmp_path / "config.yml").write_text(f"tasks: {tag}\n")
        with pytest.raises(ConfigError):
            load_config(TrainConfig, tmp_path / "config.yml")
    (tmp_path / "config.yml").write_text(f'policy_kwargs: "{stand_in.EXPRESSION}"\n')
    with pytest.raises(ConfigError):
        load_config(TrainConfig, tmp_path / "config.yml")
    assert not stand_in.BUILT


def test_a_runs_name_stays_in_its_folder():
    config = TrainConfig(tasks=("HalfCheetahSmallFoot-v0",))
    assert config.name == "1_tasks"
    assert TrainConfig.model_construct(tasks="../../etc/passwd").name == "_etc_passwd"
    with pytest.raises(ValueError, match="also_on"):
        TrainConfig(tasks=("HalfCheetahSmallFoot-v0",), also_on={"../../out": "HalfCheetahSmallLeg-v0"})
