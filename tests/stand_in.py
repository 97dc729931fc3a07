"""What a hostile file would name, made harmless: building it makes an empty dict and leaves a mark in this module.

A loader that runs what a file names would build it, and a test sees that. Nothing outside this module changes.
"""

from __future__ import annotations

from typing import Any

BUILT: list[str] = []
"""The marks: one for every stand-in that a loader built."""


class EmptyDict(dict[str, Any]):
    """An empty dict that leaves a mark when it is built."""

    def __init__(self) -> None:
        super().__init__()
        BUILT.append("EmptyDict")


class Payload:
    """Pickles to a call that builds an :class:`EmptyDict`."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return EmptyDict, ()


TAGS = ("!!python/object/apply:stand_in.EmptyDict []", "!!python/object/new:stand_in.EmptyDict []")
"""Its YAML: what loaders that build Python objects would build it from."""
EXPRESSION = "__import__('stand_in').EmptyDict()"
"""The same as Python source, for readers that might evaluate a text."""
