"""Exported policies: what an agent predicts, in files that need neither it nor its package."""

import dataclasses
import io
import json
import logging
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import onnx
import onnxruntime
import pytest
import torch as th
from helpers.drift import DriftEnv, drift_tasks
from helpers.models import make_model
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from typer.testing import CliRunner

import sb3_multitask as mt
from sb3_multitask import cli
from sb3_multitask.agents import Agent, agent_of
from sb3_multitask.readers import ObsStatistics

EXAMPLE = Path(__file__).parents[1] / "examples" / "run_onnx.py"
TOLERANCE = 1e-5


def trained(normalize=True, tasks=None, **policy_kwargs):
    tasks = tasks or drift_tasks(3, high=0.5)
    return make_model(tasks, normalize=normalize, policy_kwargs=policy_kwargs).learn(300)


def runner_of(path):
    """The file as a function of numpy arrays."""
    if path.suffix == ".onnx":
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return lambda obs, task: session.run(["action"], {"obs": obs, "task": task})[0]
    program = th.export.load(path).module()
    return lambda obs, task: program(th.from_numpy(obs), th.from_numpy(task)).numpy()


def export(agent, folder, kind):
    path = folder / ("agent.onnx" if kind == "onnx" else "agent.pt2")
    (mt.export_onnx if kind == "onnx" else mt.export_torch)(agent, path)
    return path


def assert_predicts_as(agent, path, scale=3.0, offset=0.0):
    """All tasks, shuffled rows, batches of one and of many, from plain to far out."""
    run, rng = runner_of(path), np.random.default_rng(0)
    for n_rows in (1, 2, 9, 257):
        obs = (offset + scale * rng.normal(size=(n_rows, agent.obs_dim))).astype(agent.obs_dtype)
        task = rng.permutation(np.arange(n_rows) % agent.n_tasks)
        expected, _ = agent.predict({"obs": obs, "task": task}, deterministic=True)
        actions = run(obs, task)
        assert actions.dtype == np.float32
        np.testing.assert_allclose(actions, expected, atol=TOLERANCE, rtol=0)
    assert len(np.unique(np.round(expected, 4))) > agent.action_dim  # not all of them clipped


def opinionated(agent, seed=0):
    """The agent with larger weights in its heads, so that tasks differ and some actions are clipped."""
    rng = np.random.default_rng(seed)
    weights = {
        name: (array + 0.3 * rng.normal(size=array.shape)).astype(np.float32)
        if name.startswith("action_net")
        else array
        for name, array in agent.weights.items()
    }
    statistics, bounds = agent.statistics, agent.log_std_bounds
    return Agent(weights, agent.task_names, statistics, agent.activation, agent.action_low, agent.action_high, bounds)


def saved_and_loaded(model, folder):
    mt.save_agent(model, folder / "loaded")
    return mt.load_agent(folder / "loaded")


CASES = {
    "per_task": {},
    "shared": {"log_std_mode": "shared", "activation_fn": th.nn.ReLU},
    "state_dependent": {"log_std_mode": "state_dependent", "log_std_init": -1.0, "activation_fn": th.nn.ELU},
    "deep_heads": {"net_arch": {"pi": [], "vf": []}, "head_arch": {"pi": [5, 4], "vf": []}},
    "leaky_relu": {"activation_fn": th.nn.LeakyReLU},
    "layer_norm": {"layer_norm": True, "head_arch": {"pi": [6, 5], "vf": [4]}},
    "onehot": {"task_embedding": "onehot"},
    "learned_vectors": {"task_embedding": 2, "net_arch": [], "head_arch": [6]},
    "one_head": {"share": "all", "head_arch": [5], "layer_norm": True, "log_std_mode": "state_dependent"},
    "raw": {"normalize": False},
    "one_task": {"tasks": drift_tasks(1, high=0.5)},
}


@pytest.mark.filterwarnings("ignore:The given buffer is not writable")  # torch 2.10, in its own load
@pytest.mark.parametrize("kind", ["torch", pytest.param("onnx", marks=pytest.mark.slow)])
@pytest.mark.parametrize("kwargs", CASES.values(), ids=CASES)
def test_the_file_predicts_what_the_loaded_agent_does(tmp_path, kwargs, kind):
    agent = opinionated(saved_and_loaded(trained(**kwargs), tmp_path))
    assert_predicts_as(agent, export(agent, tmp_path, kind))


def test_a_model_is_exported_as_its_agent_and_nothing_is_said(tmp_path, capfd, recwarn):
    level = logging.getLogger("torch").level
    model = trained()
    assert_predicts_as(agent_of(model), export(model, tmp_path, "onnx"))
    assert_predicts_as(agent_of(model), export(model, tmp_path, "torch"))
    assert capfd.readouterr() == ("", "")
    assert not recwarn.list
    assert logging.getLogger("torch").level == level
    assert sorted(path.name for path in tmp_path.iterdir()) == ["agent.onnx", "agent.pt2"]


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_large_observations_keep_their_small_digits(tmp_path, kind):
    """A mean of a million with a spread of one: in float32 throughout, errors would be near 0.03."""
    agent = opinionated(agent_of(trained()))
    rng = np.random.default_rng(1)
    mean, var = 1e6 + rng.normal(size=(3, 3)) / 3, rng.uniform(0.5, 1.5, size=(3, 3)) / 7
    statistics = ObsStatistics(mean, var, 1e-8, 10.0, agent.task_names)
    agent = Agent(agent.weights, agent.task_names, statistics, action_low=-0.5, action_high=0.5)
    assert_predicts_as(agent, export(agent, tmp_path, kind), scale=1.0, offset=1e6)


@pytest.mark.parametrize("algorithm", [A2C, PPO])
def test_zips_of_sb3_with_their_normaliser(tmp_path, algorithm):
    env = VecNormalize(DummyVecEnv([drift_tasks(1, high=0.5)[0].make]))
    model = algorithm(
        "MlpPolicy", env, n_steps=8, seed=0, device="cpu", **({"batch_size": 8} if algorithm is PPO else {})
    )
    model.learn(64).save(tmp_path / "model.zip")
    env.save(str(tmp_path / "vn.pkl"))
    agent = mt.load_agent(tmp_path / "model.zip", normalizer=tmp_path / "vn.pkl")
    path = export(agent, tmp_path, "torch")
    assert_predicts_as(agent, path)
    raw = 3 * np.random.default_rng(0).normal(size=(20, 3)).astype(np.float32)
    theirs, _ = model.predict(env.normalize_obs(raw), deterministic=True)
    np.testing.assert_allclose(runner_of(path)(raw, np.zeros(20, dtype=np.int64)), theirs, atol=TOLERANCE)


@pytest.mark.parametrize("kind", ["onnx", "torch"])
def test_task_ids_that_do_not_exist_are_errors(tmp_path, kind, capfd):
    run = runner_of(export(trained(), tmp_path, kind))
    for task in (-1, 3):
        with pytest.raises(Exception, match=r"(?i)index"):  # onnxruntime's own kind, and torch's
            run(np.zeros((1, 3), np.float32), np.array([task]))


def test_files_say_what_they_are(tmp_path):
    agent = mt.load_pretrained("HalfCheetahBody6-vanilla")
    model = onnx.load(export(agent, tmp_path, "onnx"))
    onnx.checker.check_model(model, full_check=True)
    facts = {prop.key: prop.value for prop in model.metadata_props}
    assert json.loads(facts["task_names"]) == list(agent.task_names)
    assert json.loads(facts["tasks"])[0]["env_id"] == "HalfCheetahSmallFoot-v0"
    assert (facts["obs_dim"], facts["action_dim"], facts["digest"]) == ("17", "6", agent.digest)
    assert facts["sb3_multitask_version"] == mt.__version__
    values = {value.name: value.type.tensor_type for value in [*model.graph.input, *model.graph.output]}
    shapes = {name: [d.dim_param or d.dim_value for d in value.shape.dim] for name, value in values.items()}
    assert shapes == {"obs": ["batch", 17], "task": ["batch"], "action": ["batch", 6]}
    extra = {"sb3_multitask.json": ""}
    th.export.load(export(agent, tmp_path, "torch"), extra_files=extra)
    assert json.loads(extra["sb3_multitask.json"]) == facts


def test_what_cannot_be_exported_says_so(tmp_path, monkeypatch):
    agent = mt.load_pretrained("HalfCheetahBody6-vanilla")
    for write, ending in ((mt.export_onnx, ".onnx"), (mt.export_torch, ".pt2")):
        with pytest.raises(ValueError, match=f"`path` must end in {ending} .*policy.bin"):
            write(agent, tmp_path / "policy.bin")
    with pytest.raises(ValueError, match=r"load_agent"):
        mt.export_torch(A2C("MlpPolicy", "Pendulum-v1", device="cpu"), tmp_path / "a.pt2")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name == "onnxscript" else object())
    with pytest.raises(ImportError, match=r'needs onnxscript: pip install "sb3-multitask\[export\]"'):
        mt.export_onnx(agent, tmp_path / "a.onnx")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("mode", ["per_task", "state_dependent"])
def test_the_command_takes_zips_and_agents_and_runs_nothing_of_them(tmp_path, mode, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli.output.console, "_file", io.StringIO())  # "file" would be left at the stream of this test
    model = trained(log_std_mode=mode)
    model.save("model.zip")
    mt.save_agent(model, "agent")
    for source in ("model.zip", "agent", "agent.safetensors", "agent.json"):
        result = CliRunner().invoke(cli.app, ["export", source, "--format", "torch"], catch_exceptions=False)
        assert result.exit_code == 0
        assert_predicts_as(agent_of(model), Path("agent.pt2"))
        Path("agent.pt2").unlink()
    for arguments in ([], ["agent", "--pretrained", "HalfCheetahBody6-vanilla"]):
        with pytest.raises(ValueError, match="--pretrained NAME, and not both"):
            CliRunner().invoke(cli.app, ["export", *arguments], catch_exceptions=False)


@pytest.mark.parametrize("command", ["export", "card"])
def test_help_has_an_example(command):
    result = CliRunner().invoke(cli.app, [command, "--help"])
    assert result.exit_code == 0
    assert f"sb3-multitask {command} runs/" in result.output


@pytest.mark.slow
def test_the_example_needs_neither_torch_nor_this_package(tmp_path):
    path = tmp_path / "cheetah.onnx"
    command = [sys.executable, "-m", "sb3_multitask.cli", "export", "--pretrained", "HalfCheetahBody6-vanilla"]
    done = subprocess.run([*command, "--output", path], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert "Exported, with the heads SmallFoot, BigFoot" in done.stdout
    script = (
        "import runpy, sys\n"
        f"sys.argv = ['run_onnx.py', {str(path)!r}, '--task', 'BigFoot', '--episodes', '1']\n"
        f"runpy.run_path({str(EXAMPLE)!r}, run_name='__main__')\n"
        "assert not {'torch', 'sb3_multitask', 'stable_baselines3'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout.rpartition(" ")[2]) > 100  # the agent runs on the standard body too


@pytest.mark.parametrize("kind", ["onnx", "torch"])
@pytest.mark.parametrize("normalize", [True, False])
def test_observations_that_need_float64_are_taken_in_float64(kind, normalize, tmp_path):
    """Positions on a map: 5,400,000.2 m have their centimetres in float64 only."""

    class Mapped(DriftEnv):
        def __init__(self):
            super().__init__()
            self.observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), dtype=np.float64)

        def _obs(self):
            return np.asarray(super()._obs(), dtype=np.float64) + (5.4e6 if normalize else 0)

    model = trained(normalize, [mt.Task("A", Mapped)])
    agent = agent_of(model)
    assert agent.obs_dtype == "float64"
    mt.save_agent(agent, tmp_path / "agent")
    model.save(tmp_path / "model")
    for read in (tmp_path / "agent", tmp_path / "model.zip"):
        assert mt.load_agent(read).obs_dtype == "float64"
    assert agent_of(mt.A2CMultiTask.load(tmp_path / "model")).obs_dtype == "float64"
    path = export(agent, tmp_path, kind)
    run = runner_of(path)
    obs = 0.01 * np.arange(30.0).reshape(10, 3) + (5.4e6 if normalize else 0)
    task = np.zeros(10, dtype=np.int64)
    expected, _ = agent.predict({"obs": obs, "task": task}, deterministic=True)
    np.testing.assert_allclose(run(obs, task), expected, atol=TOLERANCE)


def test_an_agents_type_of_observations_is_checked():
    agent = agent_of(trained())
    assert agent.obs_dtype == "float32"
    with pytest.raises(ValueError, match="obs_dtype must be one of float32, float64"):
        dataclasses.replace(agent, obs_dtype="float16")


def test_the_command_replaces_no_file_unless_asked(tmp_path):
    path = tmp_path / "agent.pt2"
    path.write_text("mine")
    line = ["export", "--pretrained", "HalfCheetahBody6-vanilla", "--format", "torch", "--output", str(path)]
    done = CliRunner().invoke(cli.app, line)
    assert done.exit_code != 0
    assert f"{path} exists" in str(done.exception)
    assert "--overwrite" in str(done.exception)
    assert path.read_text() == "mine"
    assert CliRunner().invoke(cli.app, [*line, "--overwrite"]).exit_code == 0
    assert th.export.load(path) is not None
