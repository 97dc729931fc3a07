"""Write files completely or not at all: write next to the target, flush, and rename."""

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
    """A file could not be written; an earlier file of this name is unchanged."""


@contextmanager
def replacing(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path next to ``path`` for a file or folder; at the end it is renamed to ``path``.

    A file replaces an earlier one in one step of the file system. So a reader, or a run that was killed at any moment,
    finds the complete old file or the complete new one. For a folder, ``path`` must be free.

    :raises SaveError: if writing fails (a full disk, a folder that is not writable); ``path`` is unchanged
    """
    path = Path(os.path.realpath(path))  # keep a link, and replace its target
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.tmp{path.suffix}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        for file in sorted(temporary.rglob("*")) if temporary.is_dir() else [temporary]:
            _flush(file)
        _flush(temporary)
        temporary.replace(path)
        _flush(path.parent)
    except OSError as e:
        _remove(temporary)
        raise SaveError(
            f"Cannot write {path}: {e.strerror or e}. What stood there before is unchanged. Check that the folder may "
            "be written to and that the disk has space (`df`), then save again."
        ) from e
    except BaseException:
        _remove(temporary)
        raise


def write_text(path: str | Path, text: str) -> None:
    """Write a text file, UTF-8; see :func:`replacing`."""
    with replacing(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: Any) -> None:
    """Write a JSON file; see :func:`replacing`."""
    write_text(path, json.dumps(content, indent=1) + "\n")


def file_name(text: str) -> str:
    """Return the name of a file or folder for a text, such as a task's name: a unique one that stays in its parent.

    Letters, digits and characters that every file system accepts are kept; the others are percent-encoded.
    """
    name = quote(text, safe=" ,()[]{}=+@!;'&$#^")
    return f"%2E{name[1:]}" if name.startswith(".") else name


def remove_leftovers(folder: Path) -> None:
    """Remove the temporary files that killed writers have left in ``folder``."""
    for temporary in folder.iterdir() if folder.is_dir() else ():
        if _LEFTOVER.fullmatch(temporary.name):
            _remove(temporary)


def _flush(path: Path) -> None:
    """Flush a file, or a folder's entries, to the disk."""
    with suppress(PermissionError, IsADirectoryError):  # some systems cannot open folders
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
