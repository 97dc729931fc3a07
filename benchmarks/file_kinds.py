"""Small valid files of every kind that the package reads, the function that reads each, and our own errors."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

import sb3_multitask as mt
from sb3_multitask.agents.torch_modules import ModuleLayout
from sb3_multitask.checkpoint.format import CheckpointError, read_checkpoint, write_checkpoint
from sb3_multitask.evaluation.results import TaskResult
from sb3_multitask.experiments.card_sources import read_source
from sb3_multitask.experiments.config import TrainConfig, dump_config, load_config
from sb3_multitask.experiments.conflicts import read_conflicts
from sb3_multitask.experiments.curves import read_evaluations, read_training_returns
from sb3_multitask.experiments.progress import make_logger
from sb3_multitask.experiments.report.collect import read_runs, write_data
from sb3_multitask.experiments.run_folder import RunFolder
from sb3_multitask.experiments.scheduler import steps_so_far
from sb3_multitask.readers import UnreadableFileError, read_sb3_zip, read_vec_normalize
from sb3_multitask.readers.zoo_folder import ZooFolder
from sb3_multitask.storage.yaml_files import ConfigError

_OWN = (UnreadableFileError, CheckpointError, ConfigError)
_TAG = "!!python/object/apply:collections.OrderedDict"
_TEXT = (".json", ".yml", ".csv")
_ZOO_ENV = "Pendulum-v1"
_RUN = "default/A/seed_0"
_LAYOUT = ModuleLayout(("0",), "2", "3.log_std")


@dataclass(frozen=True)
class Kind:
    """A kind of file.

    :param name: name of the kind, and of the folder of a valid one
    :param files: the files that are damaged
    :param read: reads the folder and returns a value that can be compared
    :param has_checksum: every damage is detected
    :param is_zip: half of its mutants are resealed, with correct checksums
    """

    name: str
    files: tuple[str, ...]
    read: Callable[[Path], Any]
    has_checksum: bool = False
    is_zip: bool = False

    def is_text(self, path: Path) -> bool:
        return path.suffix in _TEXT

    def resealed(self) -> Kind:
        """The same kind, for a mutant whose checksums are correct again."""
        return replace(self, has_checksum=False)


def own_errors(error: BaseException, folder: Path) -> bool:
    """Return True if an error is one of ours: of a named class, or a ValueError that names the file."""
    return isinstance(error, _OWN) or (type(error) is ValueError and str(folder) in str(error))


def _digest(*parts: Any) -> str:
    """Return a value as one text, with all bits of its numbers."""
    sha = hashlib.sha256()
    for part in parts:
        sha.update(part.tobytes() + str(part.shape).encode() if isinstance(part, np.ndarray) else repr(part).encode())
    return sha.hexdigest()


def _of_agent(agent: mt.Agent) -> str:
    statistics = agent.statistics
    names = (agent.digest, agent.task_names, agent.tasks, sorted(agent.facts.items()))
    numbers = (agent.activation, agent.log_std_bounds, np.asarray(agent.action_low), np.asarray(agent.action_high))
    return _digest(*names, *numbers, *(() if statistics is None else (statistics.epsilon, statistics.clip)))


def _of_zip(folder: Path) -> str:
    policy = read_sb3_zip(folder / "model.zip")
    weights = [part for item in sorted(policy.weights.items()) for part in item]
    return _digest(*weights, policy.algorithm, policy.activation, policy.task_names, *policy.action_bounds)


def _of_statistics(folder: Path) -> str:
    statistics = read_vec_normalize(folder / "vecnormalize.pkl")
    return _digest(statistics.mean, statistics.var, statistics.epsilon, statistics.clip, statistics.task_names)


def _of_checkpoint(path: Path) -> str:
    state = read_checkpoint(path)
    return _digest(state["n"], state["weights"], sorted(state))


def _of_curves(curves: Any) -> str:
    return _digest(*(part for task in sorted(curves) for part in (task, *map(np.asarray, curves[task]))))


def _of_zoo(folder: Path) -> str:
    training = ZooFolder.at(folder)
    assert training is not None
    return _digest(training.hyperparameters, training.arguments, _of_agent(mt.load_agent(folder)))


def _of_log(folder: Path) -> str:
    """Read a log as a resumed run does."""
    make_logger(folder / "progress.csv", [], up_to=10**9).close()
    return _digest((folder / "progress.csv").read_text(encoding="utf-8"), steps_so_far(folder))


def _of_run(root: Path) -> str:
    """Read a finished run as a report and a card do."""
    runs, others = read_runs(root)
    source = read_source(root / _RUN)
    told = (source.algorithm, _of_agent(source.agent), source.results, source.training, source.seed, source.env_ids)
    return _digest(others, [(run.config, run.results, _of_curves(run.curves())) for run in runs], told)


def _of_data(root: Path) -> str:
    """Read a report's data as another report does."""
    runs, _ = read_runs(root)
    return _digest([(run.config, run.results, run.status, _of_curves(run.curves())) for run in runs])


def _of_conflicts(folder: Path) -> str:
    conflicts = read_conflicts(folder / "conflicts.npz")
    assert conflicts is not None
    return _digest(conflicts.to_json())


KINDS = (
    Kind(
        "agent",
        ("agent.safetensors", "agent.json"),
        lambda folder: _of_agent(mt.load_agent(folder / "agent")),
        has_checksum=True,
    ),
    Kind("checkpoint", ("manifest.json", "state.json", "arrays.safetensors"), _of_checkpoint, has_checksum=True),
    Kind("model_zip", ("model.zip",), _of_zip, has_checksum=True, is_zip=True),
    Kind("sb3_zip", ("model.zip",), _of_zip, has_checksum=True, is_zip=True),
    Kind("torch_module", ("policy.pt",), lambda folder: _of_agent(mt.load_agent(folder / "policy.pt", layout=_LAYOUT))),
    Kind("normalizer", ("vecnormalize.pkl",), _of_statistics),
    Kind("task_normalizer", ("vecnormalize.pkl",), _of_statistics),
    Kind("config", ("config.yml",), lambda folder: _digest(load_config(TrainConfig, folder / "config.yml"))),
    Kind("zoo_folder", (f"{_ZOO_ENV}/config.yml", f"{_ZOO_ENV}/args.yml"), _of_zoo),
    Kind("status", ("run.json",), lambda folder: _digest(RunFolder(folder).read_status())),
    Kind("results", ("results.json",), lambda folder: _digest(RunFolder(folder).read_results())),
    Kind("monitor", ("0.monitor.csv", "1.monitor.csv"), lambda folder: _of_curves(read_training_returns(folder))),
    Kind("progress", ("progress.csv",), _of_log),
    Kind(
        "run",
        tuple(f"{_RUN}/{name}" for name in ("config.yml", "run.json", "results.json", "agents/final.json")),
        _of_run,
    ),
    Kind("report_data", ("default/A_seed_0.json",), _of_data),
    Kind(
        "evaluations",
        ("evaluations.npz",),
        lambda folder: _of_curves(read_evaluations(folder / "evaluations.npz")),
        has_checksum=True,
        is_zip=True,
    ),
    Kind("conflicts", ("conflicts.npz",), _of_conflicts, has_checksum=True, is_zip=True),
)


class _Small(gym.Env[np.ndarray, np.ndarray]):
    """An environment without physics: three observed numbers, two actions."""

    observation_space = gym.spaces.Box(-np.inf, np.inf, (3,), np.float64)
    action_space = gym.spaces.Box(-0.5, 0.5, (2,), np.float32)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        return self.np_random.normal(size=3), {}

    def step(self, action: np.ndarray) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        return self.np_random.normal(size=3), float(-np.square(action).sum()), False, False, {}


def make_originals(folder: Path) -> None:
    """Write a valid file of every kind, each in a folder of its own."""
    for kind in KINDS:
        (folder / kind.name).mkdir(parents=True)
    tasks = [mt.Task(name, _Small) for name in ("A", "B")]
    small = {"net_arch": {"pi": [4], "vf": [4]}}
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", tasks, seed=0, device="cpu", policy_kwargs=small).learn(60)
    mt.save_agent(model, folder / "agent" / "agent")
    model.save(folder / "model_zip" / "model.zip")
    model.get_vec_normalize_env().save(str(folder / "task_normalizer" / "vecnormalize.pkl"))
    model.get_env().close()
    _write_sb3(folder / "sb3_zip" / "model.zip", folder / "normalizer" / "vecnormalize.pkl", small)
    of_torch = th.nn.Sequential(th.nn.Linear(3, 4), th.nn.Tanh(), th.nn.Linear(4, 2), th.nn.Module())
    of_torch[3].register_parameter("log_std", th.nn.Parameter(th.zeros(2)))
    th.save(of_torch, folder / "torch_module" / "policy.pt", _use_new_zipfile_serialization=False)
    state = {"n": 3, "weights": np.arange(40.0), "names": ["a", "b"], "nested": {"x": [1, 2.5, None, True]}}
    shutil.rmtree(folder / "checkpoint")
    write_checkpoint(folder / "checkpoint", state)
    dump_config(TrainConfig(tasks="HalfCheetahBody6"), folder / "config" / "config.yml")
    _write_zoo(folder / "zoo_folder", folder / "sb3_zip" / "model.zip")
    _write_run(folder)
    _write_finished(folder / "run", folder)
    write_data(read_runs(folder / "run")[0][0], folder / "report_data")


def _write_finished(root: Path, folder: Path) -> None:
    """Write a finished run of a grid, with a shipped agent."""
    agent = mt.load_pretrained("HalfCheetahBody6-vanilla")
    run = root / _RUN
    mt.save_agent(agent, run / "agents" / "final")
    results = {task: asdict(TaskResult.of([(1.5, 7), (2.5, 8)])) for task in agent.task_names}
    (run / "results.json").write_text(json.dumps({"before": results, "after": results}))
    for kind, name in (("config", "config.yml"), ("status", "run.json"), ("evaluations", "evaluations.npz")):
        shutil.copy(folder / kind / name, run / name)


def _write_sb3(zip_path: Path, statistics: Path, policy_kwargs: Any) -> None:
    env = VecNormalize(DummyVecEnv([_Small]))
    sb3 = PPO("MlpPolicy", env, n_steps=8, batch_size=8, device="cpu", seed=0, policy_kwargs=policy_kwargs).learn(16)
    sb3.save(zip_path)
    env.save(str(statistics))


def _write_zoo(folder: Path, model: Path) -> None:
    (folder / _ZOO_ENV).mkdir()
    shutil.copy(model, folder / f"{_ZOO_ENV}.zip")
    for name, values in (
        ("config.yml", {"n_timesteps": 1000000.0, "policy": "MlpPolicy", "gamma": 0.99, "normalize": "false"}),
        ("args.yml", {"algo": "ppo", "env": _ZOO_ENV, "env_kwargs": "null", "seed": 3, "gym_packages": "[]"}),
    ):
        pairs = "\n  ".join(f"- - {key}\n    - {value}" for key, value in values.items())
        (folder / _ZOO_ENV / name).write_text(f"{_TAG}\n- {pairs}\n")


def _write_run(folder: Path) -> None:
    rng = np.random.default_rng(0)
    results = {task: asdict(TaskResult.of([(float(r), 7) for r in rng.normal(size=4)])) for task in "AB"}
    (folder / "results" / "results.json").write_text(json.dumps({"before": results, "after": results}, indent=1))
    status = {"status": "finished", "pid": 12, "versions": {"numpy": "2"}, "seconds": 3.5, "torch_threads": 1}
    (folder / "status" / "run.json").write_text(json.dumps(status, indent=1))
    for row in range(2):
        rows = "".join(f"{rng.normal() * 100:.6f},{rng.integers(1, 50)},{i * 0.1:.6f},A\n" for i in range(20))
        header = '#{"t_start": 1700000000.5, "env_id": "X"}\nr,l,t,task\n'
        (folder / "monitor" / f"{row}.monitor.csv").write_text(header + rows)
    rows = "".join(f"{i * 100},{rng.normal():.4f}\n" for i in range(10))
    (folder / "progress" / "progress.csv").write_text("time/total_timesteps,train/value_loss\n" + rows)
    np.savez(
        folder / "evaluations" / "evaluations.npz",
        timesteps=np.arange(5) * 100,
        results=rng.normal(size=(5, 4)),
        ep_lengths=np.full((5, 4), 7),
        task_names=np.array(["A", "B"]),
        task_results=rng.normal(size=(5, 2, 4)),
    )
    cosines = {net: rng.uniform(-1, 1, (5, 2, 2)).astype(np.float32) for net in ("actor", "critic")}
    np.savez(
        folder / "conflicts" / "conflicts.npz", timesteps=np.arange(5) * 100, task_names=np.array(["A", "B"]), **cosines
    )
