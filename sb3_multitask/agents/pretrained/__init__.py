"""Trained agents that come with the package, by name.

They were trained by ``sb3-multitask grid zoo_configs/paper_grid.yml --only tuned``. The ``facts`` of each agent name
its run and its returns there.
"""

from __future__ import annotations

from pathlib import Path

from sb3_multitask.tasks import did_you_mean

_FOLDER = Path(__file__).parent

PRETRAINED = tuple(sorted(path.stem for path in _FOLDER.glob("*.safetensors")))
"""The names: ``<task set>-vanilla``, ``<task set>-distilled`` and ``<task set>-teacher-<task>``."""


def pretrained_path(name: str) -> Path:
    """Return the files of an agent that comes with the package, without their ending.

    :raises ValueError: if there is none of this name
    """
    if name not in PRETRAINED:
        raise ValueError(
            f"No pretrained agent {name!r}.{did_you_mean(name, PRETRAINED)} There are: {', '.join(PRETRAINED)}"
        )
    return _FOLDER / name
