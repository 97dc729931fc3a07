"""The configs that come with the package: ``zoo_configs/`` of a checkout, ``sb3_multitask.zoo_configs`` in a wheel."""

from __future__ import annotations

from pathlib import Path

from sb3_multitask.storage.yaml_files import ConfigError
from sb3_multitask.tasks import did_you_mean

NAME = "zoo_configs"
_PACKAGE = Path(__file__).parents[1]
_FOLDERS = (_PACKAGE / NAME, _PACKAGE.parent / NAME)  # a checkout has only the second


def shipped_config(name: str) -> Path:
    """Return the path of a shipped config by the name of its file, such as ``tuned.yml`` or ``family/distral.yml``.

    :raises ConfigError: if there is no config of this name
    """
    for folder in _FOLDERS:
        if (folder / name).is_file():
            return folder / name
    known = sorted({path.relative_to(folder).as_posix() for folder in _FOLDERS for path in folder.rglob("*.yml")})
    raise ConfigError(
        f"No config {name!r} comes with the package.{did_you_mean(name, known)} There are: {', '.join(known) or 'none'}"
    )


def is_shipped(path: str | Path) -> bool:
    """Return whether a path has the form that names a shipped config, ``zoo_configs/<name>``."""
    place, *name = Path(path).parts or ("",)
    return place == NAME and bool(name) and ".." not in name


def find_config(path: str | Path) -> Path:
    """Return the file of a config by a user's path; ``zoo_configs/<name>`` is shipped, unless that file exists.

    :raises ConfigError: if neither exists
    """
    path = Path(path)
    return path if path.exists() or not is_shipped(path) else shipped_config(path.relative_to(NAME).as_posix())
