"""Files of agents: safetensors and JSON, and agents from SB3's files; nothing in them is executed."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_multitask.agents.agent import Agent, agent_of
from sb3_multitask.agents.pretrained import pretrained_path
from sb3_multitask.agents.torch_modules import ModuleLayout, agent_of_module
from sb3_multitask.agents.trained_files import NAMES, PRETRAINED, locate
from sb3_multitask.envs.task_space import TaskSpace
from sb3_multitask.readers import ObsStatistics, SavedPolicy, UnreadableFileError, read_sb3_zip, read_vec_normalize
from sb3_multitask.readers.other_files import describe_file, describe_folder, is_zip
from sb3_multitask.readers.zoo_folder import ZooFolder
from sb3_multitask.storage.files import replacing, write_json
from sb3_multitask.tasks import Task, registered_id

SCHEMA = 2
_SCHEMA_OF_SIZES = 3
"""Of agents of tasks of different sizes, whose files older versions must not read: they know no padding."""
_FORMAT = "sb3-multitask agent"
_CHECKSUM = "description_sha256"
"""Key of a description that holds the SHA-256 of its other entries; since schema 2."""
_MAX_BYTES = 256 * 2**20


def save_agent(agent: Agent | BaseAlgorithm, path: str | Path) -> None:
    """Write an agent as ``<path>.safetensors`` and ``<path>.json``: small, and nothing in them is executed.

    :param agent: an agent, or a model, whose policy is then saved
    :param path: with or without one of these endings
    :raises SaveError: if a file cannot be written
    """
    agent = agent if isinstance(agent, Agent) else agent_of(agent)
    path = Path(path)
    path = path.with_suffix("") if path.suffix in (".safetensors", ".json") else path
    arrays = {f"policy/{name}": array for name, array in agent.weights.items()}
    if agent.statistics is not None:
        arrays |= {"statistics/mean": agent.statistics.mean, "statistics/var": agent.statistics.var}
    # safetensors ignores strides and writes the memory from the array's start
    content = safetensors.numpy.save({name: np.ascontiguousarray(array) for name, array in arrays.items()})
    with replacing(path.with_name(f"{path.name}.safetensors")) as temporary:
        temporary.write_bytes(content)
    statistics = agent.statistics
    description = {
        "format": _FORMAT,
        "schema": SCHEMA if agent.task_space is None else _SCHEMA_OF_SIZES,
        "sha256": hashlib.sha256(content).hexdigest(),
        "task_names": list(agent.task_names),
        "activation": agent.activation,
        "action_low": np.broadcast_to(agent.action_low, agent.action_dim).tolist(),
        "action_high": np.broadcast_to(agent.action_high, agent.action_dim).tolist(),
        "log_std_bounds": agent.log_std_bounds,
        "normalizer": None if statistics is None else {"epsilon": statistics.epsilon, "clip": statistics.clip},
        "facts": dict(agent.facts),
        "tasks": describe_tasks(agent.tasks),
        "obs_dtype": agent.obs_dtype,
    }
    if (space := agent.task_space) is not None:
        description["task_sizes"] = {"obs_dims": list(space.obs_dims), "action_bounds": _listed(space.action_bounds)}
    write_json(path.with_name(f"{path.name}.json"), {**description, _CHECKSUM: _checksum(description)})


def _checksum(description: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a description without its checksum, independent of the order of keys."""
    sealed = {key: value for key, value in description.items() if key != _CHECKSUM}
    return hashlib.sha256(json.dumps(sealed, sort_keys=True).encode()).hexdigest()


def load_agent(path: str | Path, normalizer: str | Path | None = None, layout: ModuleLayout | None = None) -> Agent:
    """Read an agent; nothing in its files is executed.

    :param path: the path that was given to :func:`save_agent`, or either of its files; a zip of ``A2CMultiTask``, of
        SB3's A2C or PPO, or of sb3-contrib's TRPO, such as a run's ``best_model.zip``; a run's folder, ours or
        rl_zoo3's, for the agent at its end; a folder that ``sb3-multitask card`` made; or ``"pretrained:<name>"``
    :param normalizer: for a zip of another algorithm than ours, the file of ``VecNormalize.save`` that belongs to it.
        It is not needed for a ``model.zip`` in a run's folder, nor for a zip in a folder of ``python -m
        sb3_multitask.zoo``, since the file is next to them. If the training had a VecNormalize and its file is not
        given, a warning says so
    :param layout: ``path`` is a whole module of torch, in the file format that torch wrote until 1.6, and this says
        which of its arrays are the policy: see :class:`~sb3_multitask.agents.torch_modules.ModuleLayout`
    :raises ValueError: on a ``normalizer`` for an agent's own files, which have its statistics, or beside ``layout``
    :raises UnreadableFileError: if a file is missing, damaged, of another kind, or its parts do not fit
    """
    if layout is not None:
        return _agent_of_module(path, normalizer, layout)
    if isinstance(path, str) and path.startswith(PRETRAINED):
        return load_pretrained(path.removeprefix(PRETRAINED))
    given = Path(path)
    path = given if normalizer is not None and given.suffix == ".zip" else locate(given)
    if given.is_dir() and path != given and path.suffix == ".zip" and not path.exists():
        raise UnreadableFileError(f"{given}: {describe_folder(given)}")
    if ZooFolder.at(path) is None and not is_zip(path):
        if normalizer is not None:
            raise ValueError(
                f"`normalizer` belongs to a zip of another algorithm (got {str(normalizer)!r}): {path} is an agent's "
                "own file, which has its statistics"
            )
        return _read_agent(path)
    try:
        if (training := ZooFolder.at(path)) is not None:
            return _agent_of_zoo(training, normalizer)
        policy, statistics = read_sb3_zip(path), path.with_name("vecnormalize.pkl")
        if normalizer is None and policy.statistics is None and path.name == "model.zip" and statistics.exists():
            normalizer = statistics  # a run's folder has it
        return _agent_of_zip(policy, normalizer)
    except UnreadableFileError:
        raise
    except (ValueError, FileNotFoundError) as e:
        raise UnreadableFileError(f"{path}: {e}") from e


def _agent_of_module(path: str | Path, normalizer: str | Path | None, layout: ModuleLayout) -> Agent:
    if normalizer is not None:
        raise ValueError(
            f"`normalizer` is for models of SB3 (got {str(normalizer)!r}); a module's statistics are arrays in it, "
            "which `layout` names: obs_mean and obs_std"
        )
    return agent_of_module(path, layout)


def _exists(path: Path) -> bool:
    """Return whether one of an agent's files is there."""
    return any(path.with_name(f"{path.name}.{ending}").exists() for ending in ("safetensors", "json"))


def _agent_of_zoo(training: ZooFolder, normalizer: str | Path | None) -> Agent:
    """Return the agent of a model of rl_zoo3, with statistics from the folder if its own file has none."""
    policy = read_sb3_zip(training.model)
    if normalizer is None and policy.statistics is None:
        normalizer = training.statistics
    if policy.n_tasks > 1 or policy.task_names is not None:
        return _agent_of_zip(policy, normalizer, training.tasks)
    facts = {"env_id": training.own_id, **({"wrapper": training.wrapper} if training.wrapper else {})}
    agent = _agent_of_zip(
        dataclasses.replace(policy, saw_vec_normalize=False), normalizer, training.tasks_of_one_head, facts
    )
    return agent if agent.tasks else dataclasses.replace(agent, task_names=(training.own_id,))


def _agent_of_zip(
    policy: SavedPolicy,
    normalizer: str | Path | None,
    tasks: tuple[Task, ...] | None = None,
    facts: Mapping[str, Any] | None = None,
) -> Agent:
    statistics = policy.statistics
    if normalizer is not None:
        statistics = read_vec_normalize(normalizer)
    names = policy.task_names or (statistics and statistics.task_names)
    names = names or (tuple(task.name for task in tasks) if tasks else None)
    if names is None and policy.n_tasks > 1:
        raise ValueError(
            f"it does not name its {policy.n_tasks} tasks: they are in the folder of its training, and in "
            "the file of its normaliser (`normalizer`)"
        )
    if policy.saw_vec_normalize and statistics is None:
        warnings.warn(
            f"The {policy.algorithm} was trained in a VecNormalize, whose statistics are not in its zip: if it "
            "normalised observations, read the agent with load_agent(path, normalizer=<file of VecNormalize.save>).",
            stacklevel=3,
        )
    steps = {} if policy.num_timesteps is None else {"num_timesteps": policy.num_timesteps}
    low, high = policy.action_bounds
    return Agent(
        policy.weights,
        names or ("task",),
        statistics,
        policy.activation,
        low,
        high,
        policy.log_std_bounds,
        {"algorithm": policy.algorithm, **steps, **(facts or {})},
        tasks,
        policy.obs_dtype,
        policy.task_space,
    )


def _read_agent(path: Path) -> Agent:
    arrays_path, json_path = (path.with_name(f"{path.name}.{ending}") for ending in ("safetensors", "json"))
    try:
        for file in (arrays_path, json_path):
            if file.stat().st_size > _MAX_BYTES:
                raise UnreadableFileError(f"{file}: larger than {_MAX_BYTES // 2**20} MB")
        content, text = arrays_path.read_bytes(), json_path.read_bytes()
    except FileNotFoundError as e:
        raise UnreadableFileError(_describe_missing(path, str(e.filename))) from None
    except OSError as e:
        raise UnreadableFileError(f"{path}: cannot be read ({e.strerror}: {e.filename})") from e
    try:
        facts = json.loads(text)
        if facts["format"] != _FORMAT or facts["schema"] not in (1, SCHEMA, _SCHEMA_OF_SIZES):
            raise ValueError(
                f"it is no agent of schema version 1 to {_SCHEMA_OF_SIZES}, which this version of sb3-multitask reads "
                f"(got {facts['schema']!r:.50})"
            )
        if facts["sha256"] != hashlib.sha256(content).hexdigest():
            raise UnreadableFileError(f"{arrays_path}: is not the file that was written (SHA-256 differs)")
        agent = _agent_of(facts, safetensors.numpy.load(content))
        if facts.get(_CHECKSUM) != (_checksum(facts) if facts["schema"] >= SCHEMA else None):
            raise ValueError(
                "it is not what was written (its SHA-256 differs). To change an agent, use dataclasses.replace(agent, "
                "...) and save_agent"
            )
    except UnreadableFileError as e:
        raise UnreadableFileError(str(e) if str(arrays_path) in str(e) else f"{json_path}: {e}") from e
    except Exception as e:  # a damaged description may cause any exception
        raise UnreadableFileError(f"{json_path}: is no description of an agent ({type(e).__name__}: {e})") from e
    return agent


def _agent_of(facts: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> Agent:
    names = _checked_names(facts["task_names"])
    statistics = None
    if facts["normalizer"] is not None:
        mean, var = arrays["statistics/mean"], arrays["statistics/var"]
        statistics = ObsStatistics(mean, var, facts["normalizer"]["epsilon"], facts["normalizer"]["clip"], names)
    bounds = facts["log_std_bounds"]
    return Agent(
        {name.removeprefix("policy/"): a for name, a in arrays.items() if name.startswith("policy/")},
        names,
        statistics,
        facts["activation"],
        np.array(facts["action_low"]),
        np.array(facts["action_high"]),
        None if bounds is None else tuple(bounds),
        facts["facts"],
        _tasks(facts.get("tasks")),
        facts.get("obs_dtype", "float32"),
        None if (sizes := facts.get("task_sizes")) is None else TaskSpace(sizes["obs_dims"], sizes["action_bounds"]),
    )


def load_pretrained(name: str) -> Agent:
    """Return a trained agent that comes with the package.

    Its ``predict`` takes raw observations, ``{"obs": ..., "task": ...}``, since the agent includes its normaliser.

    :param name: for example ``"HalfCheetahBody6-vanilla"``; all are in ``sb3_multitask.agents.pretrained.PRETRAINED``
    :raises ValueError: if there is none of this name
    """
    return load_agent(pretrained_path(name))


def _describe_missing(path: Path, missing: str) -> str:
    """Return why a path holds no agent: it is a file of another kind, has one of two files, or does not exist."""
    description = path.with_name(f"{path.name}.json")
    if description.exists() and _FORMAT.encode() not in description.read_bytes():
        return f"{description}: {describe_file(description)}"
    if _exists(path):
        return f"{missing} does not exist; give an agent with both of its files, .safetensors and .json (save_agent)"
    return f"{path}: {describe_file(path)}" if path.exists() else f"{path} does not exist; give {NAMES}"


def _checked_names(names: Sequence[Any]) -> tuple[str, ...]:
    if not names or not all(isinstance(name, str) for name in names):
        raise ValueError(f"task names must be strings (got {names!r})")
    return tuple(names)


def describe_tasks(tasks: Sequence[Task] | None) -> list[dict[str, Any]] | None:
    """Return names, ids and arguments of tasks; None if one is a callable, or JSON cannot hold its arguments."""
    described = [
        {"name": task.name, "env_id": _without_module(task.env_id), "env_kwargs": _listed(task.env_kwargs)}
        for task in tasks or ()
    ]
    try:
        return described if tasks is not None and json.loads(json.dumps(described)) == described else None
    except TypeError:
        return None


def _without_module(env_id: Any) -> Any:
    """Return an id without its module, as files have it: users import the module themselves."""
    return registered_id(env_id) if isinstance(env_id, str) else env_id


def _listed(value: Any) -> Any:
    """Convert tuples to lists, as JSON does."""
    if isinstance(value, list | tuple):
        return [_listed(item) for item in value]
    return {key: _listed(item) for key, item in value.items()} if isinstance(value, Mapping) else value


def _tasks(described: Sequence[Mapping[str, Any]] | None) -> tuple[Task, ...] | None:
    if described is None:
        return None
    for task in described:
        if ":" in task["env_id"]:  # Gymnasium imports the module before a colon
            raise ValueError(f"the environment id {task['env_id']!r} of a file must not name a module")
    return tuple(Task(**task) for task in described)
