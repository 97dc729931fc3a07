"""Whole modules of torch are read as arrays, nothing in their files is run, and they become agents."""

import contextlib
import io
import pickle
import re
import struct

import numpy as np
import pytest
import stand_in
import torch as th
from stand_in import Payload
from torch import nn

import sb3_multitask as mt
from sb3_multitask.agents.torch_modules import AUTHORS_A2C, ModuleLayout
from sb3_multitask.readers import UnreadableFileError, read_torch_module

pytestmark = pytest.mark.filterwarnings("ignore:Couldn't retrieve source code")  # torch writes it into old files


class Filter(nn.Module):
    """Normalises observations as the authors' ObsNorm."""

    def __init__(self, obs_dim):
        super().__init__()
        self.clip = 5
        self.register_buffer("count", th.full((1,), 72080.01, dtype=th.float64))
        self.register_buffer("mean", th.randn(1, obs_dim))
        self.register_buffer("std", th.rand(1, obs_dim) + 0.1)

    def forward(self, x):
        return ((x - self.mean) / self.std).clamp(-self.clip, self.clip)


class AddBias(nn.Module):
    def __init__(self, action_dim):
        super().__init__()
        self._bias = nn.Parameter(th.randn(action_dim, 1) * 0.1)


class Gaussian(nn.Module):
    def __init__(self, action_dim):
        super().__init__()
        self.fc_mean = nn.Linear(64, action_dim)
        self.logstd = AddBias(action_dim)


class MLPPolicy(nn.Module):
    """Of the shape of the authors' agent."""

    def __init__(self, obs_dim=11, action_dim=3):
        super().__init__()
        self.obs_filter = Filter(obs_dim)
        self.action_space = np.ones(action_dim)  # an object that is no module
        self.a_fc1, self.a_fc2 = nn.Linear(obs_dim, 64), nn.Linear(64, 64)
        self.v_fc3 = nn.Linear(64, 1, bias=False)
        self.dist = Gaussian(action_dim)

    def forward(self, x):
        x = self.obs_filter(x)
        return self.dist.fc_mean(th.tanh(self.a_fc2(th.tanh(self.a_fc1(x)))))


def save(module, path):
    th.save(module, path, _use_new_zipfile_serialization=False)
    return path


@pytest.fixture(scope="module")
def module():
    th.manual_seed(3)
    return MLPPolicy()


@pytest.fixture
def path(module, tmp_path):
    return save(module, tmp_path / "policy.pt")


# What is read


def test_arrays_are_those_of_the_state_dict(module, path):
    arrays = read_torch_module(path)
    expected = module.state_dict()
    assert list(arrays) == list(expected)
    for name, tensor in expected.items():
        np.testing.assert_array_equal(arrays[name], tensor.numpy())
        assert arrays[name].dtype == tensor.numpy().dtype, name


def test_views_of_one_storage_are_read_as_they_are(tmp_path):
    module, numbers = nn.Module(), th.arange(24.0).reshape(4, 6)
    for name, tensor in {"all": numbers, "turned": numbers.T, "part": numbers[1:3, ::2], "empty": numbers[:0]}.items():
        module.register_buffer(name, tensor)
    for name, dtype in {"integers": th.int64, "halves": th.float16, "flags": th.bool}.items():
        module.register_buffer(name, th.tensor([1, 0, 1]).to(dtype))
    arrays = read_torch_module(save(module, tmp_path / "views.pt"))
    for name, tensor in module.named_buffers():
        np.testing.assert_array_equal(arrays[name], tensor.numpy())


def test_an_agent_acts_as_the_module(module, path):
    agent = mt.load_agent(path, layout=AUTHORS_A2C)
    assert (agent.obs_dim, agent.action_dim, agent.task_names) == (11, 3, ("task",))
    rows = np.random.default_rng(0).normal(size=(200, 11)) * 4
    mean, log_std = agent.distribution(rows, 0)
    with th.no_grad():
        expected = module(th.tensor(rows, dtype=th.float32)).numpy()
    np.testing.assert_allclose(mean, expected, atol=1e-5)
    np.testing.assert_array_equal(log_std[0], module.dist.logstd._bias.detach().numpy()[:, 0])
    assert (np.abs(agent.statistics.normalize(rows)) == 5).any()  # its clip matters
    low = agent.predict({"obs": np.full((1, 11), 1e6), "task": [0]}, deterministic=True)[0]
    assert (np.abs(low) <= 1).all()


def test_actions_are_clipped_to_the_bounds_of_the_layout(tmp_path, module):
    wide = MLPPolicy()
    with th.no_grad():
        wide.dist.fc_mean.bias[:] = th.tensor([7.0, -7.0, 0.0])
    agent = mt.load_agent(save(wide, tmp_path / "wide.pt"), layout=AUTHORS_A2C)
    actions, _ = agent.predict({"obs": np.zeros(11), "task": 0}, deterministic=True)
    assert actions[:2].tolist() == [1, -1]


def test_a_module_without_a_filter_takes_observations_as_they_are(module, path):
    layout = ModuleLayout(("a_fc1", "a_fc2"), "dist.fc_mean", "dist.logstd._bias", activation="ReLU")
    agent = mt.load_agent(path, layout=layout)
    assert agent.statistics is None
    obs = th.randn(5, 11)
    with th.no_grad():
        expected = module.dist.fc_mean(th.relu(module.a_fc2(th.relu(module.a_fc1(obs)))))
    np.testing.assert_allclose(agent.distribution(obs.numpy(), 0)[0], expected.numpy(), atol=1e-5)


def test_numbers_beyond_float32_are_refused(tmp_path):
    wide = MLPPolicy()
    wide.obs_filter.mean = wide.obs_filter.mean.double() * 1e200
    with pytest.raises(UnreadableFileError, match=r"wide\.pt: its obs_filter\.mean holds numbers that are too large"):
        mt.load_agent(save(wide, tmp_path / "wide.pt"), layout=AUTHORS_A2C)


def test_such_an_agent_is_saved_and_teaches_as_any_other(tmp_path, path):
    agent = mt.load_agent(path, layout=AUTHORS_A2C)
    mt.save_agent(agent, tmp_path / "agent")
    assert mt.load_agent(tmp_path / "agent").digest == agent.digest
    tasks = [mt.Task("SmallFoot", "HopperSmallFoot-v0")]
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", tasks, teachers={"SmallFoot": agent}, seed=0).learn(20)
    assert model.logger.name_to_value["distill/SmallFoot/kl"] > 0


# Nothing is run


def test_nothing_in_a_file_is_run(tmp_path, module):
    hostile = MLPPolicy()
    hostile.payload = Payload()
    arrays = read_torch_module(save(hostile, tmp_path / "hostile.pt"))
    assert stand_in.BUILT == []
    assert "a_fc1.weight" in arrays
    th.load(tmp_path / "hostile.pt", weights_only=False)  # which does run it
    assert stand_in.BUILT == ["EmptyDict"]
    stand_in.BUILT.clear()


def test_the_modules_class_need_not_exist(tmp_path, path):
    content = path.read_bytes().replace(b"MLPPolicy", b"NoSuchOne")
    path.write_bytes(content)
    assert read_torch_module(path)["a_fc1.bias"].shape == (64,)


# What is refused


def test_truncated_at_any_600_bytes_a_file_is_refused_with_its_name(tmp_path, path):
    content = path.read_bytes()
    for n_bytes in (*range(0, len(content), 600), len(content) - 1):
        path.write_bytes(content[:n_bytes])
        with pytest.raises(UnreadableFileError, match=r"policy\.pt: "):
            read_torch_module(path)
    path.write_bytes(content + b"x")
    with pytest.raises(UnreadableFileError, match="bytes after its last storage"):
        read_torch_module(path)


def test_flipped_bits_are_read_as_other_numbers_or_refused(path):
    content, rng = path.read_bytes(), np.random.default_rng(0)
    n_of_pickles = content.index(struct.pack("<q", 704))
    for place in rng.integers(0, n_of_pickles * 8, 100):
        flipped = bytearray(content)
        flipped[place // 8] ^= 1 << (place % 8)
        path.write_bytes(flipped)
        with contextlib.suppress(UnreadableFileError):
            assert all(isinstance(array, np.ndarray) for array in read_torch_module(path).values())
    assert stand_in.BUILT == []


def legacy(module_pickle, keys=(), storages=b""):
    """A file of torch's old format with any pickle in the place of the module."""
    machine = {"protocol_version": 1001, "little_endian": True, "type_sizes": {}}
    parts = [0x1950A86A20F9469CFC6C, 1001, machine]
    content = b"".join(pickle.dumps(part, protocol=2) for part in parts)
    return content + module_pickle + pickle.dumps(list(keys), protocol=2) + storages


class Pickler(pickle._Pickler):
    """Writes storages and tensors of any size, true or not."""

    def persistent_id(self, obj):
        return obj if isinstance(obj, tuple) and obj[:1] == ("storage",) else None


def file_of_tensor(offset, shape, strides, n=6, kind=th.FloatStorage, view=None, content=None):
    class Tensor:
        def __reduce__(self):
            return th._utils._rebuild_tensor, (("storage", kind, "k", "cpu", n, view), offset, shape, strides)

    module = nn.Module()
    module.__dict__["_buffers"]["x"] = Tensor()
    file = io.BytesIO()
    Pickler(file, 2).dump(module)
    numbers = np.arange(6, dtype="<f4").tobytes() if content is None else content
    return legacy(file.getvalue(), ["k"], struct.pack("<q", n) + numbers)


def test_a_tensor_must_lie_within_its_storage(tmp_path):
    path = tmp_path / "t.pt"
    path.write_bytes(file_of_tensor(1, (2, 2), (2, 1)))
    assert read_torch_module(path)["x"].tolist() == [[1, 2], [3, 4]]
    for offset, shape, strides in [
        (0, (7,), (1,)),
        (1, (2, 3), (3, 1)),
        (0, (2, 2), (5, 1)),
        (0, (1000, 1000), (0, 0)),
        (0, (2**30, 0, 2**30), (1, 1, 1)),
        (-1, (2,), (1,)),
        (0, (2,), (-1,)),
        (0, (2,), (1, 1)),
        (0, (True,), (1,)),
        (0, (1,) * 9, (1,) * 9),
        (0, [2], (1,)),
    ]:
        path.write_bytes(file_of_tensor(offset, shape, strides))
        if shape == (2**30, 0, 2**30):  # has no numbers
            assert read_torch_module(path)["x"].size == 0
            continue
        with pytest.raises(UnreadableFileError, match=r"t\.pt: a tensor"):
            read_torch_module(path)


def test_a_file_cannot_change_a_storage(tmp_path):
    """With a BUILD after a storage its length could be made to fit any tensor, whose memory would be someone else's."""
    path = tmp_path / "t.pt"
    content = file_of_tensor(0, (5,), (1,))
    place = content.index(b"Q", content.index(b"storage")) + 1
    path.write_bytes(content[:place] + b"}X\x01\x00\x00\x00nJ\x00\x00\x00\x40sb" + content[place:])
    with pytest.raises(UnreadableFileError, match="it changes a storage"):
        read_torch_module(path)


def nested(n):
    """A list that holds another one twice, and so on: few bytes in a file, and 2^n items to show."""
    items = []
    for _ in range(n):
        items = [items, items]
    return items


def test_errors_show_what_has_no_end_shortly(tmp_path):
    path = tmp_path / "t.pt"
    for content in (pickle.dumps(nested(60), protocol=2), file_of_tensor(0, nested(60), (1,))):
        path.write_bytes(content)
        with pytest.raises(UnreadableFileError, match=r"t\.pt: .*got \[") as error:
            read_torch_module(path)
        assert len(str(error.value)) < 500


def test_names_of_storages_are_texts(tmp_path):
    path = tmp_path / "t.pt"
    content = file_of_tensor(0, (5,), (1,))
    keys = pickle.dumps(["k"], protocol=2)
    path.write_bytes(content.replace(keys, pickle.dumps([nested(60)], protocol=2)))
    with pytest.raises(UnreadableFileError, match="names of its storages"):
        read_torch_module(path)


def test_modules_that_share_parts_without_end_are_refused(tmp_path):
    """Each holds another one twice, so that 40 of them have 2^40 names."""
    module = nn.Linear(1, 1)
    for _ in range(40):
        outer = nn.Module()
        outer.__dict__["_modules"] = {"a": module, "b": module}
        module = outer
    with pytest.raises(UnreadableFileError, match=r"t\.pt: holds more than 10000 modules and tensors"):
        read_torch_module(save(module, tmp_path / "t.pt"))


def test_tensors_of_one_storage_are_not_copied_without_end(tmp_path):
    module, numbers = nn.Module(), th.zeros(2**20)
    for i in range(17):
        module.register_buffer(f"x{i}", numbers)
    with pytest.raises(UnreadableFileError, match=r"t\.pt: holds tensors of more than 64 MB"):
        read_torch_module(save(module, tmp_path / "t.pt"))
    del module.x0
    assert len(read_torch_module(save(module, tmp_path / "t.pt"))) == 16


def test_parts_have_names(tmp_path):
    for name in (3, "a" * 201):
        module = nn.Module()
        module.__dict__["_buffers"] = {name: th.zeros(1)}
        with pytest.raises(UnreadableFileError, match=r"t\.pt: a part of it has no name"):
            read_torch_module(save(module, tmp_path / "t.pt"))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": th.ComplexFloatStorage}, "storage of type 'torch.ComplexFloatStorage' is none of Double"),
        ({"view": ("k", 0, 2)}, "part of another one"),
        ({"n": 2**50}, "has no length"),
        ({"n": 7}, "is truncated"),
        ({"n": 5}, "bytes after its last storage"),
        ({"content": np.array([1, 2, 3, 4, np.nan, 6], "<f4").tobytes()}, "not finite: x"),
    ],
)
def test_storages_are_checked(tmp_path, changes, message):
    path = tmp_path / "t.pt"
    path.write_bytes(file_of_tensor(0, (5,), (1,), **changes))
    with pytest.raises(UnreadableFileError, match=message):
        read_torch_module(path)


def test_files_of_other_kinds_are_refused_for_their_reason(tmp_path, module):
    path = tmp_path / "other.pt"
    for content, message in [
        (b"", "is no whole module|is no readable pickle"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (pickle.dumps([1, 2]), "is no file of torch.save of version 1001"),
        (legacy(pickle.dumps({"a": 1}, protocol=2)), "holds a dict, which is no module, such as a state dict"),
        (legacy(pickle.dumps(Payload(), protocol=2)), "holds stand_in.EmptyDict|is no module"),
        (legacy(pickle.dumps(None, protocol=2), ["k"]), "holds a NoneType|names of its storages"),
    ]:
        path.write_bytes(content)
        with pytest.raises(UnreadableFileError, match=message):
            read_torch_module(path)
    th.save(module, path)
    with pytest.raises(UnreadableFileError, match="a zip: write the module with torch.save.*new_zipfile"):
        read_torch_module(path)
    with pytest.raises(UnreadableFileError, match=r"missing\.pt: is no file"):
        read_torch_module(tmp_path / "missing.pt")
    with pytest.raises(UnreadableFileError, match="layout=ModuleLayout"):
        mt.load_agent(path)
    assert stand_in.BUILT == []


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"hidden": ("a_fc1", "a_fc3")}, "has no a_fc3.weight, which `hidden`.*Did you mean 'v_fc3.weight'.*It has:"),
        ({"mean": "dist"}, "has no dist.weight, which `mean`"),
        ({"hidden": ("a_fc1",), "mean": "v_fc3"}, "has no v_fc3.bias, which `mean`"),
        ({"hidden": ("a_fc2", "a_fc1")}, "its a_fc1 takes 11 numbers, and the layer before gives 64"),
        ({"log_std": "a_fc1.bias"}, r"its a_fc1.bias has 64 numbers for 3 actions"),
        ({"obs_mean": "a_fc1.bias", "obs_std": "a_fc2.bias"}, "deviations that are not positive"),
        ({"obs_mean": "obs_filter.count", "obs_std": "obs_filter.count"}, "statistics of shape"),
        ({"activation": "GELU"}, "activation must be one of Tanh"),
        ({"action_low": 2.0}, "lowest actions"),
    ],
)
def test_a_layout_that_does_not_fit_is_refused(path, changes, message):
    layout = ModuleLayout(**{**vars(AUTHORS_A2C), **changes})
    with pytest.raises(UnreadableFileError, match=r"policy\.pt: .*" + message):
        mt.load_agent(path, layout=layout)


def test_arguments_are_checked(path):
    with pytest.raises(TypeError, match="`hidden`.*'a_fc1'"):
        ModuleLayout("a_fc1", "m", "s")
    with pytest.raises(ValueError, match="`obs_mean` and `obs_std` must be given together"):
        ModuleLayout(("a",), "m", "s", obs_mean="o")
    with pytest.raises(ValueError, match=re.escape("`obs_clip` must be positive (got 0)")):
        ModuleLayout(("a",), "m", "s", obs_clip=0)
    for changes, message in [
        ({"hidden": ("a_fc1", 2)}, r"`hidden` must name parts of the module \(got 2\)"),
        ({"mean": None}, r"`mean` must name parts of the module \(got None\)"),
        ({"obs_clip": None}, r"`obs_clip` must be a number \(got None\)"),
        ({"action_high": "1"}, r"`action_high` must be a number \(got '1'\)"),
    ]:
        with pytest.raises(TypeError, match=message):
            ModuleLayout(**{**vars(AUTHORS_A2C), **changes})
    with pytest.raises(TypeError, match=r"`layout` must be a ModuleLayout, such as AUTHORS_A2C \(got 'authors'\)"):
        mt.load_agent(path, layout="authors")
    with pytest.raises(ValueError, match="`normalizer` is for models of SB3"):
        mt.load_agent(path, normalizer="vecnormalize.pkl", layout=AUTHORS_A2C)
