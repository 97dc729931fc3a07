"""Read the weights from a model file of SB3, without running code from it."""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from sb3_multitask.envs.task_space import TaskSpace
from sb3_multitask.policies.products import weights_of_products
from sb3_multitask.readers.inert_pickle import UnreadableFileError, read_pickle
from sb3_multitask.readers.normalizer import ObsStatistics, statistics_of_model
from sb3_multitask.readers.saved_algorithms import algorithm_of, is_of_tasks
from sb3_multitask.readers.saved_policy import (
    Weights,
    action_bounds,
    activation_of,
    check_parts,
    check_spaces,
    dimensions,
    log_std_bounds,
    n_tasks,
    task_space,
    without_shared_layers,
)
from sb3_multitask.readers.zip_members import (
    check_policy,
    errors_of_model,
    is_weight,
    load_tensors,
    read_description,
    read_members,
    read_weights,
)
from sb3_multitask.vec_env.saved_statistics import from_tensors


@dataclass(frozen=True)
class SavedPolicy:
    """The policy of an actor-critic, as read from a file.

    :param algorithm: "A2C", "PPO" or "TRPO", or these with "MultiTask" behind
    :param weights: the policy's state dict, float arrays, all finite; its heads give the tasks' policies themselves,
        also where these are products with a shared policy
    :param activation: name of the activation function, such as "Tanh"
    :param obs_dim: size of an observation
    :param action_dim: size of an action
    :param task_names: task names of a multi-task policy, in the order of its heads
    :param statistics: statistics of a multi-task policy that normalises its observations
    :param action_bounds: lowest and highest actions, each (action_dim,)
    :param log_std_bounds: (low, high, init) of a log-std that is an output of the heads
    :param num_timesteps: environment steps of its training, if the file says so
    :param obs_dtype: "float32" or "float64", type of observations before they are normalised
    :param saw_vec_normalize: whether its env had a stock ``VecNormalize``, whose statistics are not in the file
    :param task_space: how its tasks differ in size and in the bounds of their actions; ``None`` if they do not
    """

    algorithm: str
    weights: dict[str, np.ndarray]
    activation: str
    obs_dim: int
    action_dim: int
    task_names: tuple[str, ...] | None
    statistics: ObsStatistics | None
    action_bounds: tuple[np.ndarray, np.ndarray]
    log_std_bounds: tuple[float, float, float] | None
    num_timesteps: int | None = None
    saw_vec_normalize: bool = False
    obs_dtype: str = "float32"
    task_space: TaskSpace | None = None

    @property
    def n_tasks(self) -> int:
        """Number of tasks of a multi-task policy; 1 for any other policy."""
        return n_tasks(self.weights)


def read_sb3_zip(path: str | Path) -> SavedPolicy:
    """Read the policy's weights from a zip of SB3's A2C or PPO, of sb3-contrib's TRPO, or of ours.

    Nothing in the file is executed: weights are read with torch's ``weights_only``, everything else as inert data.
    ``A2CMultiTask.load``, in contrast, unpickles, and so trusts the file.

    :raises UnreadableFileError: if the file is missing, truncated, too large when unpacked, of another algorithm, or
        its weights are not finite or do not fit its spaces
    """
    path = Path(path)
    with errors_of_model(path):
        return _read(path)


def _read(path: Path) -> SavedPolicy:
    members = read_members(path)
    data = read_description(members["data"])
    algorithm = algorithm_of(data, members)
    if data.get("use_sde"):
        raise UnreadableFileError(
            "its exploration depends on the state (gSDE, `use_sde=True`), which an agent's does not: train without it. "
            "Its actions can teach, as a function: `lambda obs: model.predict(obs, deterministic=True)[0]`"
        )
    check_policy(data)
    policy_kwargs = data.get("policy_kwargs")
    if not isinstance(policy_kwargs, dict):
        raise UnreadableFileError(f"its policy_kwargs are no mapping (got {policy_kwargs!r:.100})")
    weights = _products_of(without_shared_layers(read_weights(members["policy.pth"])))
    check_parts(weights, policy_kwargs)
    check_spaces(data, weights)
    bounds_of_log_std = log_std_bounds(policy_kwargs)
    obs_dim, action_dim = dimensions(weights, is_state_dependent=bounds_of_log_std is not None)
    check_spaces(data, weights, obs_dim, action_dim)
    n_steps = data.get("num_timesteps")
    names = data.get("task_names") if is_of_tasks(algorithm) else None
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise UnreadableFileError(f"its task names are no list of names (but {names!r:.100})")
    statistics = None if names is None else _statistics(members, data.get("normalizer_state"), names)
    return SavedPolicy(
        algorithm,
        weights,
        activation_of(policy_kwargs),
        obs_dim,
        action_dim,
        None if names is None else tuple(names),
        statistics,
        action_bounds(data["action_space"], action_dim),
        bounds_of_log_std,
        n_steps if type(n_steps) is int else None,
        not is_of_tasks(algorithm) and data.get("_last_original_obs") is not None,
        _obs_dtype(data),
        task_space(data["observation_space"]),
    )


def _products_of(weights: Weights) -> Weights:
    """Return weights whose heads give the tasks' policies themselves."""
    try:
        return weights_of_products(weights)
    except KeyError as e:
        raise UnreadableFileError(f"its policy has a shared policy (Distral) without {e}") from e
    except ValueError as e:
        raise UnreadableFileError(str(e)) from e


def _obs_dtype(data: dict[str, Any]) -> str:
    """Return the type of raw observations: that of ``A2CMultiTask``'s data, or of SB3's description of a single Box."""
    space = data.get("observation_space")
    described = data.get("obs_dtype", space.get("dtype") if isinstance(space, dict) else None)
    return "float64" if described in ("float64", "int64", "int32", "uint32", "uint64") else "float32"


def _statistics(members: dict[str, bytes], saved: Any, task_names: list[str]) -> ObsStatistics | None:
    """Return the statistics of a multi-task model, from tensors, or from inert data in files of 0.1.0."""
    if "pytorch_variables.pth" in members:
        variables = load_tensors(members["pytorch_variables.pth"], "statistics")
        if not all(map(is_weight, variables.values())):
            raise UnreadableFileError("its statistics are no arrays of floats")
        try:
            state = from_tensors(variables)
        except (KeyError, RuntimeError) as e:
            raise UnreadableFileError(f"its statistics lack {e}") from e
        if state is not None:
            return statistics_of_model(state, task_names)
    if saved is None:
        return None
    try:
        content = base64.b64decode(saved[":serialized:"], validate=True)
    except (KeyError, TypeError, binascii.Error) as e:
        raise UnreadableFileError(f"its statistics cannot be read ({e})") from e
    return statistics_of_model(read_pickle(content), task_names)
