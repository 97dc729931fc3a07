"""The weights out of a model file of SB3, without running code from it."""

from __future__ import annotations

import base64
import binascii
import io
import json
import re
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch as th

from sb3_multitask.policies import LOG_STD_BOUNDS
from sb3_multitask.policy_checks import ACTING
from sb3_multitask.readers.inert_pickle import UnreadableFileError, check_size, read_pickle
from sb3_multitask.readers.normalizer import ObsStatistics, statistics_of_model

_MAX_BYTES = 256 * 2**20
_TRUNK = re.compile(r"mlp_extractor\.policy_net\.(\d+)\.weight")
_HEAD = re.compile(r"action_net\.layers\.(\d+)\.weight")


@dataclass(frozen=True)
class SavedPolicy:
    """An actor-critic's policy as a file holds it.

    :param algorithm: "A2C", "PPO", "TRPO" or "A2CMultiTask"
    :param weights: the policy's state dict, float arrays, all finite
    :param activation: name of the activation function, such as "Tanh"
    :param obs_dim: size of an observation
    :param action_dim: size of an action
    :param task_names: of a multi-task policy, in the order of its heads
    :param statistics: of a multi-task policy that normalises its observations
    :param action_bounds: lowest and highest actions, each (action_dim,)
    :param log_std_bounds: (low, high, init) of a log-std that is an output of the heads
    :param num_timesteps: environment steps of its training, if the file says so
    :param saw_vec_normalize: a stock ``VecNormalize`` was around its env, whose statistics are not in the file
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

    @property
    def n_heads(self) -> int:
        """Heads of a multi-task policy; 1 of any other."""
        return next((len(array) for name, array in self.weights.items() if _HEAD.fullmatch(name)), 1)


def read_sb3_zip(path: str | Path) -> SavedPolicy:
    """Read the policy's weights from a zip of SB3's A2C or PPO, of sb3-contrib's TRPO, or of ``A2CMultiTask``.

    Nothing in the file is executed: weights are read with torch's ``weights_only``, everything else as inert data.
    ``A2CMultiTask.load``, in contrast, unpickles, and so trusts the file.

    :raises UnreadableFileError: if the file is missing, cut, too large when unpacked, of another algorithm, or its
        weights are not finite or do not fit its spaces
    """
    path = Path(path)
    try:
        return _read(path)
    except UnreadableFileError as e:
        raise UnreadableFileError(f"{path}: {e}") from e
    except Exception as e:  # whatever a hostile file leads to
        raise UnreadableFileError(f"{path}: is no model of SB3 ({type(e).__name__})") from e


def _read(path: Path) -> SavedPolicy:
    members = _read_members(path, ("data", "policy.pth"))
    try:
        data = json.loads(members["data"])
    except ValueError as e:
        raise UnreadableFileError(f"its description of the model is no JSON ({e})") from e
    if not isinstance(data, dict):
        raise UnreadableFileError("its description of the model is no JSON object")
    algorithm = _algorithm(data)
    if data.get("use_sde"):
        raise UnreadableFileError("its exploration depends on the state (use_sde), which is not supported")
    _check_policy(data)
    weights = _read_tensors(members["policy.pth"])
    log_std_bounds = _log_std_bounds(data.get("policy_kwargs"))
    obs_dim, action_dim = _dimensions(weights, is_state_dependent=log_std_bounds is not None)
    for name, size in (("observation_space", obs_dim), ("action_space", action_dim)):
        space = data.get(name)
        if not isinstance(space, dict):
            raise UnreadableFileError(f"it has no {name}")
        shape = space.get("_shape")  # a Dict has none
        if shape is not None and shape != [size]:
            raise UnreadableFileError(f"its {name} has the shape {shape}, its weights are for [{size}]")
    bounds = _action_bounds(data["action_space"], action_dim)
    n_steps = data.get("num_timesteps")
    names = data.get("task_names") if algorithm == "A2CMultiTask" else None
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise UnreadableFileError(f"its task names are no list of names (but {names!r:.100})")
    statistics = _statistics(data.get("normalizer_state"), names) if names is not None else None
    return SavedPolicy(
        algorithm,
        weights,
        _activation(data),
        obs_dim,
        action_dim,
        None if names is None else tuple(names),
        statistics,
        bounds,
        log_std_bounds,
        n_steps if type(n_steps) is int else None,
        algorithm != "A2CMultiTask" and data.get("_last_original_obs") is not None,
    )


def _action_bounds(space: dict[str, Any], action_dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest actions, (action_dim,), from the texts that SB3 writes beside the pickled space."""
    bounds = []
    for name in ("low", "high"):
        try:
            numbers = np.array(str(space[name]).strip("[] ").split(), dtype=np.float32)
        except (KeyError, ValueError) as e:
            raise UnreadableFileError(f"its action_space has no {name}") from e
        if numbers.shape != (action_dim,) or np.isnan(numbers).any():
            raise UnreadableFileError(f"its action_space's {name} is not {action_dim} numbers")
        bounds.append(numbers)
    return bounds[0], bounds[1]


def _read_members(path: Path, names: Iterable[str]) -> dict[str, bytes]:
    try:
        if not path.is_file():
            raise UnreadableFileError("cannot be read (no such file)")
        if path.stat().st_size > _MAX_BYTES:
            _too_large()
        with zipfile.ZipFile(path) as archive:
            _check_members(archive)
            missing = [name for name in names if name not in archive.namelist()]
            if missing:
                raise UnreadableFileError(f"is no model of SB3 (no {', '.join(missing)} in it)")
            return {name: archive.read(name) for name in names}
    except UnreadableFileError:
        raise
    except OSError as e:
        raise UnreadableFileError(f"cannot be read ({e.strerror or e})") from e
    except Exception as e:  # the many kinds that broken zips raise
        raise UnreadableFileError(f"is no whole zip file ({type(e).__name__}: {e})") from e


def _check_members(archive: zipfile.ZipFile) -> None:
    """Raise if unpacking could give more than a model can have; plain deflate gives no more than it says."""
    if sum(info.file_size for info in archive.infolist()) > _MAX_BYTES:
        _too_large()
    if not {info.compress_type for info in archive.infolist()} <= {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise UnreadableFileError("is compressed in a way that SB3 never uses")


def _too_large() -> NoReturn:
    raise UnreadableFileError(f"is larger than {_MAX_BYTES // 2**20} MB unpacked")


def _read_tensors(content: bytes) -> dict[str, np.ndarray]:
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            _check_members(archive)
            for name in archive.namelist():
                if name.endswith("data.pkl"):
                    check_size(archive.read(name))
        loaded = th.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except UnreadableFileError:
        raise
    except Exception as e:  # torch raises many kinds
        raise UnreadableFileError(f"its weights cannot be read ({type(e).__name__}: {str(e)[:200]})") from e
    if not isinstance(loaded, dict) or not all(isinstance(tensor, th.Tensor) for tensor in loaded.values()):
        raise UnreadableFileError("its weights are no dict of tensors")
    strange = [str(name) for name, tensor in loaded.items() if not _is_weight(tensor)]
    if strange:
        raise UnreadableFileError(f"weights that are no arrays of floats: {', '.join(strange)}")
    bad = [name for name, tensor in loaded.items() if not th.isfinite(tensor).all()]
    if bad:
        raise UnreadableFileError(f"weights that are not finite: {', '.join(bad)}")
    return {str(name): tensor.numpy(force=True) for name, tensor in loaded.items()}


def _is_weight(tensor: th.Tensor) -> bool:
    """Whether a tensor is a dense array of floats that has all the memory it claims."""
    if tensor.layout != th.strided or tensor.device.type != "cpu" or tensor.dtype not in (th.float32, th.float64):
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def _algorithm(data: dict[str, Any]) -> str:
    """Which algorithm's file it is, by the settings in it: their classes are pickled."""
    is_on_policy = {"n_steps", "gae_lambda", "normalize_advantage"} <= set(data)
    of = {"task_schedule": "A2CMultiTask", "clip_range": "PPO", "cg_max_steps": "TRPO", "n_steps": "A2C"}
    for setting, algorithm in of.items():
        if is_on_policy and setting in data:
            return algorithm
    raise UnreadableFileError("is the model of another algorithm than A2C, PPO, TRPO or A2CMultiTask")


def _check_policy(data: dict[str, Any]) -> None:
    """Raise if the policy's class acts otherwise than its weights say: that is all that is read of it."""
    reason = data.get("why_no_agent")  # as A2CMultiTask saw it when it was saved
    described = data.get("policy_class")  # its own attributes as texts; what stands in its bases is not in a file
    if reason is None and isinstance(described, dict):
        package = str(described.get("__module__")).partition(".")[0]
        overridden = [method for method in ACTING if method in described]
        if overridden and package not in ("stable_baselines3", "sb3_contrib", "sb3_multitask"):
            reason = f"its class overrides `{'`, `'.join(overridden)}`"
    if reason is not None:
        raise UnreadableFileError(f"its policy acts otherwise than its weights say ({str(reason)[:200]})")


def _log_std_bounds(policy_kwargs: Any) -> tuple[float, float, float] | None:
    """(low, high, init) of a state-dependent log-std, None for another; SB3 writes plain values beside their pickle."""
    if not isinstance(policy_kwargs, dict) or policy_kwargs.get("log_std_mode") != "state_dependent":
        return None
    try:
        low, high = policy_kwargs.get("log_std_bounds", LOG_STD_BOUNDS)
        return float(low), float(high), float(policy_kwargs.get("log_std_init", 0.0))
    except (TypeError, ValueError) as e:
        raise UnreadableFileError(f"its bounds of the log-std are no numbers ({e})") from e


def _dimensions(weights: dict[str, np.ndarray], is_state_dependent: bool) -> tuple[int, int]:
    """Sizes of observation and action, by the first layer and the log-std, or the last layer of the heads.

    :raises UnreadableFileError: if these are not the weights of an MLP policy with a Gaussian
    """
    layers = sorted(int(match[1]) for name in weights if (match := _TRUNK.fullmatch(name)))
    if not layers:
        raise UnreadableFileError("its policy is no MlpPolicy with hidden layers (no mlp_extractor.policy_net)")
    first = weights[f"mlp_extractor.policy_net.{layers[0]}.weight"]
    if is_state_dependent:
        heads = {int(match[1]): array for name, array in weights.items() if (match := _HEAD.fullmatch(name))}
        output = heads[max(heads)] if heads else None
        if output is None or first.ndim != 2 or output.ndim != 3 or output.shape[2] % 2:
            raise UnreadableFileError("its heads do not give means and log-stds")
        return int(first.shape[1]), int(output.shape[2]) // 2
    log_std = weights.get("log_std")
    if log_std is None or first.ndim != 2 or log_std.ndim not in (1, 2):
        raise UnreadableFileError("its policy has no log_std, so it is no Gaussian policy for continuous actions")
    return int(first.shape[1]), int(log_std.shape[-1])


def _activation(data: dict[str, Any]) -> str:
    """Name of the activation: SB3 writes the policy's arguments as text beside their pickle."""
    kwargs = data.get("policy_kwargs")
    text = str(kwargs.get("activation_fn", "")) if isinstance(kwargs, dict) else ""
    match = re.search(r"\.(\w+)'>$", text)
    return match[1] if match else "Tanh"


def _statistics(saved: Any, task_names: list[str]) -> ObsStatistics | None:
    if saved is None:
        return None
    try:
        content = base64.b64decode(saved[":serialized:"], validate=True)
    except (KeyError, TypeError, binascii.Error) as e:
        raise UnreadableFileError(f"its statistics cannot be read ({e})") from e
    return statistics_of_model(read_pickle(content), task_names)
