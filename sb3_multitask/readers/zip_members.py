"""Read the parts of a model file of SB3, without running code from it: its description and its weights."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch as th

from sb3_multitask.policies.checks import ACTING
from sb3_multitask.readers.inert_pickle import UnreadableFileError, check_size
from sb3_multitask.readers.npz import check_members
from sb3_multitask.readers.other_files import lfs_pointer

_MEMBERS = ("data", "policy.pth", "pytorch_variables.pth")
_MAX_BYTES = 256 * 2**20


def read_members(path: Path) -> dict[str, bytes]:
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


def read_description(content: bytes) -> dict[str, Any]:
    try:
        data = json.loads(content)
    except (ValueError, RecursionError) as e:
        raise UnreadableFileError(f"its description of the model is no JSON ({e})") from e
    if not isinstance(data, dict):
        raise UnreadableFileError("its description of the model is no JSON object")
    return data


def read_weights(content: bytes, is_wanted: Callable[[str], bool] | None = None) -> dict[str, np.ndarray]:
    """Return the weights, which are finite floats; only those with names that are wanted."""
    loaded = load_tensors(content, "weights")
    if is_wanted is not None:
        loaded = {name: tensor for name, tensor in loaded.items() if is_wanted(name)}
    strange = [name for name, tensor in loaded.items() if not is_weight(tensor)]
    if strange:
        raise UnreadableFileError(f"weights that are no arrays of floats: {', '.join(strange)}")
    bad = [name for name, tensor in loaded.items() if not th.isfinite(tensor).all()]
    if bad:
        raise UnreadableFileError(f"weights that are not finite: {', '.join(bad)}")
    return {name: tensor.numpy(force=True) for name, tensor in loaded.items()}


def load_tensors(content: bytes, what: str) -> dict[str, th.Tensor]:
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


def is_weight(tensor: th.Tensor) -> bool:
    """Return whether a tensor is a dense array of floats with all of its memory."""
    if tensor.layout != th.strided or tensor.device.type != "cpu" or tensor.dtype not in (th.float32, th.float64):
        return False
    return tensor.numel() * tensor.element_size() <= tensor.untyped_storage().nbytes()


def check_policy(data: dict[str, Any], others: Sequence[str] = ()) -> None:
    """Raise if the policy's class acts differently from its weights, since only the weights are read.

    :param others: methods besides :data:`ACTING` that a class of another package must not override
    """
    reason = data.get("why_no_agent")  # written by A2CMultiTask.save
    described = data.get("policy_class")  # the class's own attributes as texts; those of its bases are not in a file
    if reason is None and isinstance(described, dict):
        package = str(described.get("__module__")).partition(".")[0]
        overridden = [method for method in (*ACTING, *others) if method in described]
        if overridden and package not in ("stable_baselines3", "sb3_contrib", "sb3_multitask"):
            reason = f"its class overrides `{'`, `'.join(overridden)}`"
    if reason is not None:
        raise UnreadableFileError(f"its policy acts differently from its weights ({str(reason)[:200]})")


@contextmanager
def errors_of_model(path: Path) -> Iterator[None]:
    """Turn whatever reading a model's zip raises into an error with its path: a hostile file may cause any exception.

    :raises UnreadableFileError: in place of it
    """
    try:
        yield
    except UnreadableFileError as e:
        raise UnreadableFileError(f"{path}: {e}") from e
    except Exception as e:
        raise UnreadableFileError(f"{path}: is no model of SB3 ({type(e).__name__})") from e
