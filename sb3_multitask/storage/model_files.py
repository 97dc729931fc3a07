"""Write zips of models completely or not at all, with errors that name what cannot be stored."""

from __future__ import annotations

import pathlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import BufferedIOBase
from typing import Any

import cloudpickle

from sb3_multitask.storage.files import replacing


@contextmanager
def whole_zip(path: str | pathlib.Path, attributes: Iterable[str], model: Any) -> Iterator[BufferedIOBase]:
    """Yield a file to save a model into, which replaces ``path`` only when it is complete.

    :param path: ``.zip`` is added if it has no ending
    :param attributes: names of the stored attributes of the model, for the error
    :raises SaveError: if the file cannot be written; an earlier file is unchanged
    :raises TypeError: if an attribute cannot be stored; the message names it
    """
    path = pathlib.Path(path)
    path = path if path.suffix else path.with_name(f"{path.name}.zip")
    with replacing(path) as temporary, temporary.open("wb") as file:
        try:
            yield file
        except OSError:
            raise
        except Exception as e:
            raise TypeError(_unstorable(path, attributes, model, e)) from e


def can_be_pickled(value: object) -> bool:
    return _why_not_pickled(value) is None


def _why_not_pickled(value: object) -> Exception | None:
    try:
        cloudpickle.dumps(value)
    except Exception as e:  # pickling runs users' code, which may raise anything
        return e
    return None


def _unstorable(path: pathlib.Path, attributes: Iterable[str], model: Any, error: Exception) -> str:
    for name in attributes:
        why_not = _why_not_pickled(getattr(model, name))
        if why_not is not None:
            return (
                f"The model's attribute {name!r} cannot be stored ({why_not}). Delete it, or leave it out: "
                f"model.save({str(path)!r}, exclude=[{name!r}]). What stood at {path} before is unchanged."
            )
    return f"The model cannot be stored in {path} ({error}); what stood there before is unchanged."
