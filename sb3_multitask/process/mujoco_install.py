"""Import MuJoCo before any other module does, so that a broken installation is reported with its remedy.

Gymnasium reports a broken installation as "MuJoCo is not installed".
"""

from __future__ import annotations

import importlib
from types import ModuleType
from typing import Any

# MuJoCo's own message proposes `pip install --force-reinstall --no-deps mujoco mujoco-core mujoco-studio`. Without
# dependencies pip takes the newest release of each, and these need not fit together.
_REMEDY = """
    pip uninstall -y mujoco mujoco-core mujoco-studio
    pip install mujoco
"""


def _import_mujoco() -> ModuleType:
    try:
        module = importlib.import_module("mujoco")
    except Exception as e:  # a missing library is an OSError, a missing name an AttributeError
        if isinstance(e, ModuleNotFoundError) and e.name == "mujoco":
            message = "sb3-multitask needs MuJoCo, which is not installed. Install it: pip install mujoco"
            raise ModuleNotFoundError(message, name="mujoco") from e
        raise _broken(str(e)) from e
    if not hasattr(module, "MjSpec"):  # a folder without __init__.py, left by an incomplete uninstallation
        raise _broken("the module has no MjSpec")
    return module


def _import_batch() -> Any:
    try:
        return importlib.import_module("mujoco.batch").Batch
    except Exception as e:
        if isinstance(e, ModuleNotFoundError) and e.name == "mujoco.batch":
            return None
        raise _broken(str(e)) from e


def _broken(reason: str) -> ImportError:
    return ImportError(
        f"MuJoCo is installed but cannot be used: {reason}\n\n"
        "`pip install` of MuJoCo 4 over 3 deletes files of the new version, that of 3 over 4 leaves files of the old "
        "one, and `pip check` notices neither. Uninstall all parts of MuJoCo and install it again, if need be with its "
        f"version (docs/install.md):\n{_REMEDY}",
        name="mujoco",
    )


_import_mujoco()
Batch = _import_batch()
"""The class ``mujoco.batch.Batch``; None before MuJoCo 3.17."""
