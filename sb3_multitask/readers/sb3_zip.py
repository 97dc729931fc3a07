"""Read the weights from a model file of SB3, without running code from it."""

from __future__ import annotations

import base64
import binascii
import io
import json
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch as th

from sb3_multitask.envs.task_space import TaskSpace
from sb3_multitask.policies.checks import ACTING
from sb3_multitask.readers.inert_pickle import UnreadableFileError, check_size, read_pickle
from sb3_multitask.readers.normalizer import ObsStatistics, statistics_of_model
from sb3_multitask.readers.npz import check_members
from sb3_multitask.readers.other_files import lfs_pointer
from sb3_multitask.readers.saved_algorithms import algorithm_of, is_of_tasks
from sb3_multitask.readers.saved_policy import (
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
from sb3_multitask.vec_env.saved_statistics import from_tensors

_MEMBERS = ("data", "policy.pth", "pytorch_variables.pth")
_MAX_BYTES = 256 * 2**20


@dataclass(frozen=True)
class SavedPolicy:
    """The policy of an actor-critic, as read from a file.

    :param algorithm: "A2C", "PPO" or "TRPO", or these with "MultiTask" behind
    :param weights: the policy's state dict, float arrays, all finite
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
    try:
        return _read(path)
    except UnreadableFileError as e:
        raise UnreadableFileError(f"{path}: {e}") from e
    except Exception as e:  # a hostile file may cause any exception
        raise UnreadableFileError(f"{path}: is no model of SB3 ({type(e).__name__})") from e


def _read(path: Path) -> SavedPolicy:
    members = _read_members(path)
    data = _description(members["data"])
    algorithm = algorithm_of(data, members)
    if data.get("use_sde"):
        raise UnreadableFileError(
            "its exploration depends on the state (gSDE, `use_sde=True`), which an agent's does not: train without it"
        )
    _check_policy(data)
    policy_kwargs = data.get("policy_kwargs")
    if not isinstance(policy_kwargs, dict):
        raise UnreadableFileError(f"its policy_kwargs are no mapping (got {policy_kwargs!r:.100})")
    weights = without_shared_layers(_read_tensors(members["policy.pth"]))
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


def _obs_dtype(data: dict[str, Any]) -> str:
    """Return the type of raw observations: that of ``A2CMultiTask``'s data, or of SB3's description of a single Box."""
    space = data.get("observation_space")
    described = data.get("obs_dtype", space.get("dtype") if isinstance(space, dict) else None)
    return "float64" if described in ("float64", "int64", "int32", "uint32", "uint64") else "float32"


def _description(content: bytes) -> dict[str, Any]:
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as e:
        raise UnreadableFileError(f"its description of the model is no JSON ({e})") from e
    if not isinstance(data, dict):
        raise UnreadableFileError("its description of the model is no JSON object")
    return data


def _read_members(path: Path) -> dict[str, bytes]:
    """Return the description of a model, and its policy if it has one."""
    try:
        if not path.is_file():
            raise UnreadableFileError("cannot be read (no such file)")
        if path.stat().st_size > _MAX_BYTES:
            _too_large()
        if pointer := lfs_pointer(path):
            raise UnreadableFileError(pointer)
        with zipfile.ZipFile(path) as archive:
            check_members(archive, _MAX_BYTES)
            if "data" not in archive.namelist():
                raise UnreadableFileError(
                    f"is no model of SB3 (no data in it){_describe_other_zip(archive.namelist())}"
                )
            return {name: archive.read(name) for name in _MEMBERS if name in archive.namelist()}
    except UnreadableFileError:
        raise
    except OSError as e:
        raise UnreadableFileError(f"cannot be read ({e.strerror or e})") from e
    except Exception as e:  # damaged zips raise many classes
        raise UnreadableFileError(f"is no whole zip file ({type(e).__name__}: {e})") from e


def _describe_other_zip(names: Sequence[str]) -> str:
    """Describe a zip that is not a model of SB3, if its members reveal its kind."""
    if any(name.endswith("data.pkl") for name in names):
        return ", but a file of torch.save. If it has the weights of a policy, give them to `Agent`"
    return ""


def _too_large() -> NoReturn:
    raise UnreadableFileError(f"is larger than {_MAX_BYTES // 2**20} MB unpacked")


def _read_tensors(content: bytes) -> dict[str, np.ndarray]:
    """Return the weights, which are finite floats."""
    loaded = _load_tensors(content, "weights")
    strange = [name for name, tensor in loaded.items() if not _is_weight(tensor)]
    if strange:
        raise UnreadableFileError(f"weights that are no arrays of floats: {', '.join(strange)}")
    bad = [name for name, tensor in loaded.items() if not th.isfinite(tensor).all()]
    if bad:
        raise UnreadableFileError(f"weights that are not finite: {', '.join(bad)}")
    return {name: tensor.numpy(force=True) for name, tensor in loaded.items()}


def _load_tensors(content: bytes, what: str) -> dict[str, th.Tensor]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            check_members(archive, _MAX_BYTES)
            for name in archive.namelist():
                if name.endswith("data.pkl"):
                    check_size(archive.read(name))
        loaded = th.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except UnreadableFileError:
        raise
    except Exception as e:  # torch raises many classes
        raise UnreadableFileError(f"its {what} cannot be read ({type(e).__name__}: {str(e)[:200]})") from e
    if not isinstance(loaded, dict) or not all(isinstance(tensor, th.Tensor) for tensor in loaded.values()):
        raise UnreadableFileError(f"its {what} are no dict of tensors")
    return {str(name): tensor for name, tensor in loaded.items()}


def _is_weight(tensor: th.Tensor) -> bool:
    """Return whether a tensor is a dense array of floats with all of its memory."""
    if tensor.layout != th.strided or tensor.device.type != "cpu" or tensor.dtype not in (th.float32, th.float64):
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _check_policy(data: dict[str, Any]) -> None:
    """Raise if the policy's class acts differently from its weights, since only the weights are read."""
    reason = data.get("why_no_agent")  # written by A2CMultiTask.save
    described = data.get("policy_class")  # the class's own attributes as texts; those of its bases are not in a file
    if reason is None and isinstance(described, dict):
        package = str(described.get("__module__")).partition(".")[0]
        overridden = [method for method in ACTING if method in described]
        if overridden and package not in ("stable_baselines3", "sb3_contrib", "sb3_multitask"):
            reason = f"its class overrides `{'`, `'.join(overridden)}`"
    if reason is not None:
        raise UnreadableFileError(f"its policy acts differently from its weights ({str(reason)[:200]})")


def _statistics(members: dict[str, bytes], saved: Any, task_names: list[str]) -> ObsStatistics | None:
    """Return the statistics of a multi-task model, from tensors, or from inert data in files of 0.1.0."""
    if "pytorch_variables.pth" in members:
        variables = _load_tensors(members["pytorch_variables.pth"], "statistics")
        if not all(map(_is_weight, variables.values())):
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
