"""Read the arrays of a whole module from a file of ``torch.save`` in its format of 2017, without running code from it.

Until PyTorch 1.6 (and with ``_use_new_zipfile_serialization=False`` today) a file is five pickles and then numbers: a
magic number, the format's version, the machine's byte order, the module, and the names of its storages; then each
storage, its length and its numbers. The module's pickle names the classes of its parts and holds the source code of
their classes. Here classes are inert and source code is text.
"""

from __future__ import annotations

import math
import reprlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np

from sb3_multitask.readers.inert_pickle import Inert, UnreadableFileError, check_size, read_pickle
from sb3_multitask.readers.other_files import lfs_pointer

_MAGIC, _VERSION = 0x1950A86A20F9469CFC6C, 1001
_MAX_BYTES = 64 * 2**20
_MAX_DIMS = 8
_MAX_DEPTH = 50
_MAX_PARTS = 10_000
_MAX_NAME = 200
_REPR = reprlib.Repr()
_REPR.maxlevel = 3
_DTYPES = {
    "Double": "f8",
    "Float": "f4",
    "Half": "f2",
    "Long": "i8",
    "Int": "i4",
    "Short": "i2",
    "Char": "i1",
    "Byte": "u1",
    "Bool": "?",
}


@dataclass(frozen=True)
class _Storage:
    """Numbers that come after the pickles: ``n`` of them."""

    key: str
    dtype: np.dtype[Any]
    n: int

    def __setstate__(self, _state: Any) -> None:
        raise UnreadableFileError("it changes a storage")


class _Tensor:
    """A view of a storage; its numbers are not known before the storage is read."""

    def __init__(self, storage: Any, offset: Any, shape: Any, strides: Any, *_of_autograd: Any) -> None:
        if not isinstance(storage, _Storage):
            raise UnreadableFileError("a tensor has no storage")
        numbers = (offset, *_integers(shape), *_integers(strides))
        if len(shape) != len(strides) or any(type(number) is not int or not 0 <= number < 2**40 for number in numbers):
            raise UnreadableFileError(f"a tensor has no shape (got {_shown(shape)} with strides {_shown(strides)})")
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def __setstate__(self, _state: Any) -> None:
        """Drop what autograd keeps of a parameter."""

    @property
    def n_bytes(self) -> int:
        """Bytes of a copy of it."""
        n_bytes: int = math.prod(self.shape) * self.storage.dtype.itemsize
        return n_bytes

    def of(self, numbers: np.ndarray) -> np.ndarray:
        """Return a copy of what the view shows of its storage's numbers, (n,).

        :raises UnreadableFileError: if it does not lie within them
        """
        last = self.offset + sum((size - 1) * stride for size, stride in zip(self.shape, self.strides, strict=True))
        n = math.prod(self.shape)
        if n > numbers.size or (n and last >= numbers.size):
            raise UnreadableFileError(
                f"a tensor of shape {self.shape} does not fit its storage of {numbers.size} numbers"
            )
        if not n:
            return np.empty(self.shape, numbers.dtype)
        steps = tuple(stride * numbers.itemsize for stride in self.strides)
        return np.lib.stride_tricks.as_strided(numbers[self.offset :], self.shape, steps, writeable=False).copy()


def _shown(value: Any) -> str:
    """Return how an error shows a value: shortly, also if the value holds itself or one list very often."""
    return f"{_REPR.repr(value):.100}"


def _integers(given: Any) -> tuple[Any, ...]:
    if not isinstance(given, tuple) or len(given) > _MAX_DIMS:
        raise UnreadableFileError(f"a tensor has no shape (got {_shown(given)})")
    return given


def _parameter(tensor: Any, *_of_autograd: Any) -> _Tensor:
    if not isinstance(tensor, _Tensor):
        raise UnreadableFileError("a parameter is no tensor")
    return tensor


def _encoded(text: Any, encoding: Any) -> bytes:
    """Return the bytes of a numpy array, which pickles of protocol 2 hold as text."""
    if type(text) is not str or encoding != "latin1":
        raise UnreadableFileError("bytes are not written as torch writes them")
    return text.encode("latin1")


def _ordered_dict() -> dict[Any, Any]:
    return {}


_FUNCTIONS: dict[str, Callable[..., Any]] = {
    "_codecs.encode": _encoded,
    "collections.OrderedDict": _ordered_dict,
    "torch._utils._rebuild_tensor": _Tensor,
    "torch._utils._rebuild_tensor_v2": _Tensor,
    "torch._utils._rebuild_parameter": _parameter,
    "torch.nn.parameter.Parameter": _parameter,
}


def read_torch_module(path: str | Path) -> dict[str, np.ndarray]:
    """Return the parameters and buffers of a whole module, under the names that its ``state_dict`` would have.

    The file is one of ``torch.save(module, path)`` before PyTorch 1.6, or of ``torch.save(module, path,
    _use_new_zipfile_serialization=False)``. Nothing in it is run, and the module's class need not exist.

    :return: name, such as ``"a_fc1.weight"`` -> array of the tensor's shape and type, on whichever device it was
    :raises UnreadableFileError: if the file is missing, truncated, larger than 64 MB, of another format, or holds no
        module; or a float in it is not finite
    """
    path = Path(path)
    try:
        if not path.is_file():
            raise UnreadableFileError("is no file")
        if path.stat().st_size > _MAX_BYTES:
            raise UnreadableFileError(f"is larger than {_MAX_BYTES // 2**20} MB, the largest module that is read")
        if pointer := lfs_pointer(path):
            raise UnreadableFileError(pointer)
        return _read(path.read_bytes())
    except UnreadableFileError as e:
        raise UnreadableFileError(f"{path}: {e}") from e
    except OSError as e:
        raise UnreadableFileError(f"{path}: cannot be read ({e.strerror})") from e
    except Exception as e:  # a damaged or hostile file may cause any exception
        raise UnreadableFileError(f"{path}: is no whole module of torch.save ({type(e).__name__}: {e!s:.200})") from e


def _read(content: bytes) -> dict[str, np.ndarray]:
    if content.startswith(b"PK"):
        raise UnreadableFileError(
            "is in torch's format since 1.6, a zip: write the module with torch.save(module, path, "
            "_use_new_zipfile_serialization=False)"
        )
    storages: dict[str, _Storage] = {}

    def outside(pid: Any) -> Any:
        """Return a module's class, whose source code is dropped, or a storage."""
        if isinstance(pid, tuple) and len(pid) == 4 and pid[0] == "module":
            return pid[1]
        return _storage(pid, storages)

    values: list[Any] = []
    position = 0
    for i in range(5):
        if i == 1 and values[0] != _MAGIC:
            break
        content = content[position:]
        position = check_size(content)
        values.append(read_pickle(content[:position], _FUNCTIONS, outside))
    if values[0] != _MAGIC or values[1] != _VERSION:
        raise UnreadableFileError(f"is no file of torch.save of version {_VERSION} (got {_shown(values[:2])})")
    _, _, machine, module, keys = values
    if not isinstance(machine, dict) or machine.get("little_endian") is not True:
        raise UnreadableFileError("does not say that its numbers are little-endian")
    tensors = dict(_tensors_of(module))
    if sum(tensor.n_bytes for tensor in tensors.values()) > _MAX_BYTES:
        raise UnreadableFileError(
            f"holds tensors of more than {_MAX_BYTES // 2**20} MB, the largest module that is read"
        )
    numbers = _numbers(content, position, keys, storages)
    arrays = {name: tensor.of(numbers[tensor.storage.key]) for name, tensor in tensors.items()}
    bad = [name for name, array in arrays.items() if array.dtype.kind == "f" and not np.isfinite(array).all()]
    if bad:
        raise UnreadableFileError(f"holds numbers that are not finite: {', '.join(bad)}")
    return arrays


def _storage(pid: Any, storages: dict[str, _Storage]) -> _Storage:
    if not isinstance(pid, tuple) or len(pid) != 6 or pid[0] != "storage":
        raise UnreadableFileError(f"refers to something that is neither class nor storage ({_shown(pid)})")
    _, kind, key, _device, n, view = pid
    name = getattr(kind, "of", "").removeprefix("torch.").removeprefix("cuda.").removesuffix("Storage")
    if name not in _DTYPES:
        raise UnreadableFileError(
            f"a storage of type {_shown(getattr(kind, 'of', kind))} is none of {', '.join(_DTYPES)}"
        )
    if view is not None:
        raise UnreadableFileError("a storage is part of another one, as torch wrote them before 0.4")
    if type(key) is not str or type(n) is not int or not 0 <= n < 2**40:
        raise UnreadableFileError(f"a storage has no length ({_shown(n)})")
    storage = storages.setdefault(key, _Storage(key, np.dtype(_DTYPES[name]).newbyteorder("<"), n))
    if (storage.n, storage.dtype) != (n, np.dtype(_DTYPES[name]).newbyteorder("<")):
        raise UnreadableFileError(f"the storage {key!r:.50} has two lengths or types")
    return storage


def _numbers(content: bytes, position: int, keys: Any, storages: Mapping[str, _Storage]) -> dict[str, np.ndarray]:
    """Return the numbers of all storages, which follow the pickles in the order of ``keys``."""
    are_names = isinstance(keys, list) and all(type(key) is str for key in keys)
    if not are_names or set(keys) != set(storages) or len(keys) != len(storages):
        raise UnreadableFileError("the names of its storages are not those that its module refers to")
    found = {}
    for key in keys:
        storage = storages[key]
        n_bytes = storage.n * storage.dtype.itemsize
        start, position = position + 8, position + 8 + n_bytes
        if position > len(content):
            raise UnreadableFileError("is truncated")
        if int.from_bytes(content[start - 8 : start], "little") != storage.n:
            raise UnreadableFileError(f"the storage {key!r:.50} has another length than its module says")
        found[key] = np.frombuffer(content[start:position], storage.dtype)
    if position != len(content):
        raise UnreadableFileError("has bytes after its last storage")
    return found


def _tensors_of(module: Any) -> Iterator[tuple[str, _Tensor]]:
    """Return the tensors of a module and of the modules in it, by their names in a state dict.

    A module may be part of several others, which a few opcodes can do so often that going through them never ends.
    """
    yield from _tensors_below(module, "", 0, count())


def _tensors_below(module: Any, prefix: str, depth: int, parts: Iterator[int]) -> Iterator[tuple[str, _Tensor]]:
    if depth > _MAX_DEPTH:
        raise UnreadableFileError("holds modules within modules without end")
    if not (isinstance(module, Inert) and isinstance(module.state, dict) and "_modules" in module.state):
        what = f"a {type(module).__name__}" if not isinstance(module, Inert) else module.of
        hint = ", such as a state dict, which torch.load(path, weights_only=True) reads" if what == "a dict" else ""
        raise UnreadableFileError(f"holds {what}, which is no module{hint}")
    for kind in ("_parameters", "_buffers", "_modules"):
        for name, part in module.attribute(kind).items():
            if type(name) is not str or len(name) > _MAX_NAME:
                raise UnreadableFileError(f"a part of it has no name of at most {_MAX_NAME} letters ({_shown(name)})")
            if next(parts) >= _MAX_PARTS:
                raise UnreadableFileError(f"holds more than {_MAX_PARTS} modules and tensors")
            if part is None:  # a linear layer without a bias
                continue
            if kind == "_modules":
                yield from _tensors_below(part, f"{prefix}{name}.", depth + 1, parts)
            elif isinstance(part, _Tensor):
                yield f"{prefix}{name}", part
            else:
                raise UnreadableFileError(f"its {prefix}{name} is no tensor")
