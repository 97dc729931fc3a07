"""A checkpoint on disk: a folder of numbers and text, of which nothing is executed.

====================  =================================================================
``state.json``        a tree of plain values; arrays are named in it
``arrays.safetensors``  the arrays
``manifest.json``     format, schema version, size and SHA-256 of both
====================  =================================================================

The folder is written under a temporary name and renamed when it is complete. A folder whose manifest does not fit its
files is not a checkpoint.
"""

from __future__ import annotations

import hashlib
import json
import warnings
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import safetensors.numpy

from sb3_multitask.storage.files import remove_leftovers, replacing

SCHEMA = 2
"""In schema 2 tuples and numpy's numbers keep their type, and equal arrays are stored once. Schema 1 is read too."""
_READABLE = (1, SCHEMA)
_STATE, _ARRAYS, _MANIFEST = "state.json", "arrays.safetensors", "manifest.json"
_ARRAY = "array:"  # prefix, in the JSON, of the name of an array
_TUPLE = "tuple:"  # the only key of an object that represents a tuple
_NUMBER = "number:"  # the only key of an object that represents a numpy number without an equal Python type


class CheckpointError(ValueError):
    """A checkpoint that cannot be used; the message names the file and the reason."""


def write_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Write a tree of dicts, lists, plain values and arrays as the folder ``path``.

    :raises SaveError: if writing fails; earlier contents of ``path`` remain
    :raises TypeError: if the tree holds another type; the message says where
    """
    arrays: dict[str, np.ndarray] = {}
    tree = json.dumps(_Packer(arrays).pack(state, ""))
    files = {_STATE: tree.encode(), _ARRAYS: safetensors.numpy.save(arrays)}
    with replacing(path) as temporary:
        temporary.mkdir()
        for name, content in files.items():
            (temporary / name).write_bytes(content)
        (temporary / _MANIFEST).write_bytes(_manifest(files))


def read_checkpoint(path: Path) -> dict[str, Any]:
    """Read what :func:`write_checkpoint` wrote.

    :raises CheckpointError: if a file is missing, truncated, changed or of a later version of the format
    """
    files = {}
    for name in (_MANIFEST, _STATE, _ARRAYS):
        try:
            files[name] = (path / name).read_bytes()
        except OSError as e:
            raise CheckpointError(f"{path / name}: cannot be read ({e.strerror}), so this is no checkpoint") from e
    _check_manifest(path / _MANIFEST, files)
    try:
        arrays = safetensors.numpy.load(files[_ARRAYS])
        tree = json.loads(files[_STATE])
        state = _unpack(tree, arrays)
    except (safetensors.SafetensorError, ValueError, KeyError, TypeError, RecursionError) as e:
        raise CheckpointError(f"{path}: its contents do not fit together: {e}") from e
    if not isinstance(state, dict):
        raise CheckpointError(f"{path / _STATE}: must hold an object (got {type(state).__name__})")
    return state


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints in ``folder``, newest first, valid or not. Their names are their steps."""
    if not folder.is_dir():
        return []
    steps = [path for path in folder.iterdir() if path.name.isdecimal() and path.is_dir()]
    return sorted(steps, key=lambda path: int(path.name), reverse=True)


def read_latest(folder: Path) -> tuple[Path, dict[str, Any]] | None:
    """Return the newest valid checkpoint of ``folder`` with its contents, or None; warn of those that are skipped."""
    for path in list_checkpoints(folder):
        try:
            return path, read_checkpoint(path)
        except CheckpointError as e:
            warnings.warn(f"Skipping a checkpoint: {e}", stacklevel=2)
    return None


def save_step(folder: Path, step: int, state: dict[str, Any], keep: int) -> None:
    """Write the checkpoint of a step, and remove all but the newest ``keep``."""
    path = folder / f"{step:012d}"
    if path.exists():
        with suppress(CheckpointError):
            read_checkpoint(path)
            return  # a run that resumed before this step has reached it again, with the same bits
        _discard(path)
    write_checkpoint(path, state)
    remove_old(path, keep)


def remove_old(newest: Path, keep: int) -> None:
    """Remove all complete checkpoints but the newest ``keep``, and the temporary files of killed writers."""
    remove_leftovers(newest.parent)
    for old in [other for other in list_checkpoints(newest.parent) if other != newest and _is_whole(other)][keep - 1 :]:
        _discard(old)


def _is_whole(path: Path) -> bool:
    try:
        read_checkpoint(path)
    except CheckpointError:
        return False
    return True


def _discard(path: Path) -> None:
    """Remove a checkpoint, its manifest first, so that a part of one does not count."""
    for name in (_MANIFEST, _STATE, _ARRAYS):
        (path / name).unlink(missing_ok=True)
    with suppress(OSError):
        path.rmdir()


def _manifest(files: dict[str, bytes], schema: int = SCHEMA) -> bytes:
    content = {
        "format": "sb3-multitask checkpoint",
        "schema": schema,
        "files": {
            name: {"bytes": len(files[name]), "sha256": hashlib.sha256(files[name]).hexdigest()}
            for name in (_STATE, _ARRAYS)
        },
    }
    return (json.dumps(content, indent=1) + "\n").encode()


def _check_manifest(path: Path, files: dict[str, bytes]) -> None:
    """Raise unless the manifest is, byte for byte, that of these files."""
    if any(files[_MANIFEST] == _manifest(files, schema) for schema in _READABLE):
        return
    expected = _manifest(files)
    try:
        found = json.loads(files[_MANIFEST])
        schema, listed = found["schema"], found["files"]
    except (ValueError, KeyError, TypeError, RecursionError) as e:
        raise CheckpointError(f"{path}: is no manifest of a checkpoint") from e
    if schema not in _READABLE:
        readable = " and ".join(map(str, _READABLE))
        raise CheckpointError(f"{path}: schema version {schema!r}; this version of sb3-multitask reads {readable}")
    wanted = json.loads(expected)["files"]
    for name, facts in wanted.items():
        if not isinstance(listed, dict) or listed.get(name) != facts:
            raise CheckpointError(f"{path.parent / name}: is not the file that was written (size or SHA-256 differs)")
    raise CheckpointError(f"{path}: is not as it was written")


class _Packer:
    """Converts a tree for JSON; its arrays move to ``arrays``, equal ones once, and are named by their path."""

    def __init__(self, arrays: dict[str, np.ndarray]) -> None:
        self.arrays = arrays
        self._names: dict[bytes, str] = {}

    def pack(self, value: Any, where: str) -> Any:
        if isinstance(value, np.ndarray):
            return _ARRAY + self._name(value, where)
        if isinstance(value, np.generic):
            is_own = value.dtype.kind in "iuf" and not isinstance(value, np.float64 | np.int64)
            return {_NUMBER: self.pack(np.asarray(value), where)} if is_own else value.item()
        if isinstance(value, dict):
            if not all(isinstance(key, str) and key not in (_TUPLE, _NUMBER) for key in value):
                raise TypeError(
                    f"{where}: keys must be strings other than {_TUPLE!r} and {_NUMBER!r} (got {list(value)!r:.200})"
                )
            return {key: self.pack(item, f"{where}/{key}") for key, item in value.items()}
        if isinstance(value, list | tuple):
            items = [self.pack(item, f"{where}/{i}") for i, item in enumerate(value)]
            return {_TUPLE: items} if isinstance(value, tuple) else items
        if isinstance(value, str) and value.startswith(_ARRAY):
            raise TypeError(f"{where}: {value!r} would be read as an array")
        if value is None or isinstance(value, bool | int | float | str):
            return value
        raise TypeError(f"{where}: a {type(value).__name__} cannot be stored")

    def _name(self, array: np.ndarray, where: str) -> str:
        """Return an array's name in the file, one for equal arrays: copies of a task share most of their model's."""
        if array.dtype.hasobject:
            raise TypeError(f"{where}: arrays of objects cannot be stored")
        content = np.ascontiguousarray(array).reshape(array.shape)
        key = hashlib.sha256(repr((content.dtype.str, content.shape)).encode() + content.tobytes()).digest()
        if key not in self._names:
            name = f"{len(self.arrays)}{where}"  # numbered, since two paths could have the same name
            self._names[key] = name
            self.arrays[name] = content
        return self._names[key]


def _unpack(value: Any, arrays: dict[str, np.ndarray]) -> Any:
    if isinstance(value, str) and value.startswith(_ARRAY):
        return arrays[value.removeprefix(_ARRAY)].copy()  # equal arrays are stored once, but may change separately
    if isinstance(value, dict):
        if value.keys() == {_TUPLE}:
            return tuple(_unpack(item, arrays) for item in value[_TUPLE])
        if value.keys() == {_NUMBER}:
            return _unpack(value[_NUMBER], arrays)[()]
        return {key: _unpack(item, arrays) for key, item in value.items()}
    if isinstance(value, list):
        return [_unpack(item, arrays) for item in value]
    return value
