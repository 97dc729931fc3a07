"""Read arrays of numbers and texts from an ``.npz``: nothing is unpickled, and sizes are checked before use."""

from __future__ import annotations

import io
import math
import zipfile
from pathlib import Path

import numpy as np

from sb3_multitask.readers.inert_pickle import UnreadableFileError

_MAX_BYTES = 64 * 2**20
_FREE_BYTES, _MAX_RATIO = 2**24, 50
_LARGEST_CHARACTER = 0x10FFFF


def read_npz(path: Path) -> dict[str, np.ndarray]:
    """Return the arrays in a file of ``numpy.savez``.

    :raises UnreadableFileError: if the file is damaged, or an array holds neither numbers nor texts; names the file
    """
    try:
        with zipfile.ZipFile(path) as archive:
            check_members(archive, _MAX_BYTES)
            members = {name.removesuffix(".npy"): archive.read(name) for name in archive.namelist()}
        return {name: _array(name, content) for name, content in members.items()}
    except UnreadableFileError as e:
        raise UnreadableFileError(f"{path}: {e}") from e
    except Exception as e:  # damaged zips and headers raise many classes
        raise UnreadableFileError(f"{path}: is no whole file of arrays ({type(e).__name__}: {e!s:.200})") from e


def check_members(archive: zipfile.ZipFile, max_bytes: int) -> None:
    """Raise if a zip could unpack to more than its kind of file can have, or than its size explains.

    Plain deflate unpacks to no more than the size in a member's header.

    :raises UnreadableFileError: if it could
    """
    members = archive.infolist()
    unpacked, packed = (sum(getattr(info, name) for info in members) for name in ("file_size", "compress_size"))
    if unpacked > max_bytes:
        raise UnreadableFileError(f"is larger than {max_bytes // 2**20} MB unpacked")
    if unpacked > _FREE_BYTES + _MAX_RATIO * packed:
        raise UnreadableFileError(f"unpacks {packed} bytes to {unpacked}, which no such file does")
    if not {info.compress_type for info in members} <= {zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED}:
        raise UnreadableFileError("is compressed in a way that neither SB3 nor numpy uses")


def _array(name: str, content: bytes) -> np.ndarray:
    file = io.BytesIO(content)
    version = np.lib.format.read_magic(file)
    read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}.get(
        version
    )
    if read_header is None:
        raise UnreadableFileError(f"its {name} is an array of version {version}")
    shape, is_fortran, kind = read_header(file)
    data = content[file.tell() :]
    if kind.kind not in "biufU":
        raise UnreadableFileError(f"its {name} is neither numbers nor texts (but {kind})")
    if math.prod(shape) * kind.itemsize != len(data):
        raise UnreadableFileError(f"its {name} of shape {shape} does not fit its {len(data)} bytes")
    array = np.frombuffer(data, kind).reshape(shape, order="F" if is_fortran else "C")
    if kind.kind == "U" and data:
        characters = np.frombuffer(data, np.dtype("u4").newbyteorder(kind.byteorder))
        if characters.max() > _LARGEST_CHARACTER:
            raise UnreadableFileError(f"its {name} holds what is no text")
    return array
