"""``KEY=VALUE`` on the command line."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def parse_settings(settings: Iterable[str], flag: str) -> dict[str, Any]:
    """``["ent_coef=0.01"]`` -> values, read as YAML.

    :param settings: as they were given
    :param flag: named in the message of an error
    :raises ValueError: if one has no ``=``, or its value is no YAML
    """
    parsed = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"{flag} needs KEY=VALUE (got {setting!r})")
        parsed[key.strip()] = parse_value(value, f"{flag} {setting!r}")
    return parsed


def parse_value(text: str, where: str) -> Any:
    """A value on the command line, read as YAML.

    :param where: begins the message of an error
    :raises ValueError: if it is no YAML
    """
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    try:
        return YAML(typ="safe").load(text)
    except YAMLError as e:
        raise ValueError(f"{where}: the value is no YAML: {e}") from e
