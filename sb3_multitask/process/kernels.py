"""Loads modules of compiled loops: numba's, where it is installed.

At the sizes of a step, array operations cost their calls, not their arithmetic, so a phase of a step is one compiled
function. Every module of kernels belongs to one that does the same with arrays, within rounding, where numba is missing
or cannot keep what it compiles.
"""

from __future__ import annotations

import importlib
import logging
import os
from functools import cache
from pathlib import Path
from types import ModuleType

_LOGGER = logging.getLogger("sb3_multitask")
COMPILING = "Compiling kernels, once (about ten seconds)"
SWITCH = "SB3_MULTITASK_KERNELS"
"""Environment variable: 0 leaves numba out."""


@cache
def load_kernels(room: str) -> ModuleType | None:
    """Import the ``kernels`` of a part of this package; None without numba.

    numba compiles a function at its first call, and keeps the result in its cache: ``__pycache__`` beside the module,
    or where that is read-only the user's cache folder, or ``NUMBA_CACHE_DIR``.

    :param room: such as "fast"; its module ``kernels`` imports numba
    """
    name = f"sb3_multitask.{room}.kernels"
    if os.environ.get(SWITCH) == "0":
        return None
    try:
        # numba's matrix products are scipy's, whose threads can be limited only once the library is there
        importlib.import_module("scipy.linalg")
        module = importlib.import_module(name)
    except (ImportError, RuntimeError) as e:  # RuntimeError: numba finds no place for its cache
        _say_once(f"Small array operations are not compiled, which is slower: {e}")
        return None
    if not _is_compiled(module):
        _LOGGER.info("Compiling kernels of %s, once", name)
    return module


def compiles_first() -> bool:
    """Whether a training would compile kernels first: numba is there, and its cache has none of some part's."""
    modules = [load_kernels(room) for room in ("vec_env", "fast", "losses")]
    return any(module is not None and not _is_compiled(module) for module in modules)


@cache
def _say_once(message: str) -> None:
    _LOGGER.info(message)


def _is_compiled(module: ModuleType) -> bool:
    """Whether numba's cache has something of a module."""
    kernels = [value for value in vars(module).values() if hasattr(value, "py_func")]
    name = module.__name__.rpartition(".")[2]
    return any(any(Path(k.stats.cache_path).glob(f"{name}.{k.py_func.__name__}*.nbi")) for k in kernels)
