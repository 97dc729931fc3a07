"""Modules that register environments: imported because the command line names them, never because a file does."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Any, TypeAlias

import typer

GymPackagesOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(
        "--gym-packages",
        metavar="MODULE",
        help="Import a module that registers environments of its own; may be repeated.",
    ),
]


def import_packages(names: Iterable[str] | None) -> list[str]:
    """Import modules, so that the environments that they register are known.

    :param names: of ``--gym-packages``; one may hold several, separated by commas
    :return: the modules, one by one
    :raises ValueError: if one cannot be imported
    """
    from sb3_multitask.tasks import import_env_module

    modules = [module.strip() for name in names or () for module in name.split(",")]
    for module in modules:
        import_env_module(module, "--gym-packages")
    return modules


def modules_of(settings: Mapping[str, Any]) -> list[str]:
    """The modules that environment ids in settings name: ``my_pkg`` of ``my_pkg:My/Arm-v0``."""
    ids = [*_ids(settings.get("tasks")), *_ids(settings.get("also_on"))]
    return list(dict.fromkeys(env_id.rpartition(":")[0] for env_id in ids if ":" in env_id))


def flags_of(modules: Sequence[str]) -> list[str]:
    """The command line's flags that import modules."""
    return [part for module in modules for part in ("--gym-packages", module)]


def _ids(value: Any) -> list[str]:
    entries = value.values() if isinstance(value, Mapping) else [value] if isinstance(value, str) else value or ()
    return [entry for entry in entries if isinstance(entry, str)]
