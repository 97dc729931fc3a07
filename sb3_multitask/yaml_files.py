"""YAML files of plain values; nothing in them is executed."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError


class ConfigError(ValueError):
    """A config that cannot be used; the message says where, what and what is accepted."""


def load_values(path: str | Path) -> dict[str, Any]:
    """The plain values of a YAML file, not yet validated; nothing in it is executed.

    :raises ConfigError: unreadable file or duplicate key
    """
    return read_yaml(Path(path))[0]


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """The plain values of a YAML file, and the line of each key; raises as :func:`load_values`."""
    try:
        with path.open(encoding="utf-8") as file:
            content = YAML(typ="rt").load(file)
    except (OSError, UnicodeDecodeError, YAMLError) as e:
        raise ConfigError(f"{path}: cannot read this config: {e}") from e
    if content is None:
        content = CommentedMap()
    if not isinstance(content, CommentedMap):
        raise ConfigError(f"{path}: a config must be a mapping `key: value` (got a {type(content).__name__})")
    return _plain(content), {key: content.lc.key(key)[0] + 1 for key in content}


def _plain(value: Any) -> Any:
    """Ruamel's round-trip types as Python's own."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value
