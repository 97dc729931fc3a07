"""Files that are whole or not there: written beside their place, flushed, and renamed into it."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote

_LEFTOVER = re.compile(r"\..+\.\d+\.tmp(\.\w+)?")


class SaveError(OSError):
    """A file could not be written; what stood in its place before is unchanged."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Give a path beside ``path`` to write a file or make a folder at; at the end it takes the place of ``path``.

    A file replaces an earlier one in one step of the file system, so that a reader, or a run that was killed at any
    moment, finds the old file or the new one, both whole. A folder needs a free place.

    :raises SaveError: if writing fails (a full disk, a folder that may not be written to); ``path`` is as it was
    """
    path = Path(os.path.realpath(path))  # a link stays one
    beside = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield beside
        for file in sorted(beside.rglob("*")) if beside.is_dir() else [beside]:
            _flush(file)
        _flush(beside)
        beside.replace(path)
        _flush(path.parent)
    except OSError as e:
        _remove(beside)
        raise SaveError(
            f"Cannot write {path}: {e.strerror or e}. What stood there before is unchanged. Check that the folder may "
            "be written to and that the disk has space (`df`), then save again."
        ) from e
    except BaseException:
        _remove(beside)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, UTF-8; see :func:`replacing`."""
    with replacing(path) as beside:
        beside.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: Any) -> None:
    """Write a JSON file; see :func:`replacing`."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def file_name(text: str) -> str:
    """A text, such as a task's name, as the name of a file or folder that stays in its parent and is no other text's.

    Letters, digits and what no file system minds stay as they are; the rest is percent-encoded.
    """
    name = quote(text, safe=" ,()[]{}=+@!;'&$#^")
    return f"%2E{name[1:]}" if name.startswith(".") else name


def remove_leftovers(folder: Path) -> None:
    """Remove what writers that were killed have left beside their files in ``folder``."""
    for beside in folder.iterdir():
        if _LEFTOVER.fullmatch(beside.name):
            _remove(beside)


def _flush(path: Path) -> None:
    """Have the operating system write a file, or a folder's entries, to the disk."""
    with suppress(PermissionError, IsADirectoryError):  # systems that cannot open folders
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _remove(path: Path) -> None:
    with suppress(OSError):
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()
