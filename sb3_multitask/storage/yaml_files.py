"""YAML files of plain values; nothing in them is executed.

rl_zoo3 writes its files as one tagged list of pairs, ``!!python/object/apply:collections.OrderedDict``. Values with
this tag are read as a mapping. All other tags are ignored: their values are read as plain values.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap, TaggedScalar
from ruamel.yaml.nodes import ScalarNode
from ruamel.yaml.representer import RepresenterError, RoundTripRepresenter

from sb3_multitask.storage.files import write_text

_MAX_BYTES = 64 * 2**10  # ruamel reads this many in about two seconds
_MAX_VALUES = 20_000
_MAX_DEPTH = 100
_ORDERED_DICT = "tag:yaml.org,2002:python/object/apply:collections.OrderedDict"
_PLAIN_TEXT = re.compile(r"(?!(?:y|n|yes|no|on|off)$)[A-Za-z_/].*", re.IGNORECASE | re.DOTALL)
"""Texts that no reader takes for a number or a truth value. ruamel itself quotes texts that only YAML 1.2 misreads."""


class ConfigError(ValueError):
    """A config that cannot be used; the message names the place, the value and the accepted values."""


def load_values(path: str | Path) -> dict[str, Any]:
    """Read the plain values of a YAML file, without validation; nothing in it is executed.

    :raises ConfigError: unreadable file or duplicate key
    """
    return read_yaml(Path(path))[0]


def read_yaml(path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    """Read the plain values of a YAML file, and the line of each key; raises as :func:`load_values`."""
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise ConfigError(f"{path}: is larger than {_MAX_BYTES // 2**10} KiB, which no config is")
        text = path.read_text(encoding="utf-8")
        if _depth(text) > _MAX_DEPTH:  # ruamel needs seconds to detect it
            raise ConfigError(f"{path}: cannot read this config: it is nested too deeply")
        content = YAML(typ="rt").load(text)
        return _values_and_lines(content, path)
    except ConfigError:
        raise
    except RecursionError as e:
        raise ConfigError(f"{path}: cannot read this config: it is nested too deeply") from e
    except Exception as e:  # ruamel raises many classes for values that do not fit their tags
        raise ConfigError(f"{path}: cannot read this config: {e}") from e


def write_yaml(path: str | Path, values: Mapping[str, Any]) -> None:
    """Write plain values as a YAML file, completely or not at all; see :func:`yaml_text` and ``files.replacing``."""
    write_text(path, yaml_text(values))


def yaml_text(values: Mapping[str, Any]) -> str:
    """Return plain values as YAML in block style, in the order of the mapping.

    YAML 1.1 and YAML 1.2 read the text in the same way. rl_zoo3 reads with PyYAML, which supports 1.1 only and takes
    ``7e-05`` for a text and ``on`` for a truth value.

    :raises ValueError: if a value is not plain; the message names it
    """
    yaml, text = YAML(), io.StringIO()
    yaml.Representer = _Representer
    yaml.default_flow_style = False
    try:
        yaml.dump(dict(values), text)
    except RepresenterError as e:
        raise ValueError(f"YAML files here hold plain values only: {e}") from e
    return text.getvalue()


class _Representer(RoundTripRepresenter):
    """Writes numbers and texts so that both versions of YAML read them alike."""


def _represent_float(representer: RoundTripRepresenter, value: float) -> ScalarNode:
    node: ScalarNode = RoundTripRepresenter.represent_float(representer, value)
    if "e" in node.value and "." not in node.value:
        node.value = node.value.replace("e", ".0e")
    return node


def _represent_str(representer: RoundTripRepresenter, value: str) -> ScalarNode:
    if _PLAIN_TEXT.fullmatch(value):
        node: ScalarNode = RoundTripRepresenter.represent_str(representer, value)
        return node
    quoted: ScalarNode = representer.represent_scalar("tag:yaml.org,2002:str", value, style="'")
    return quoted


_Representer.add_representer(float, _represent_float)
_Representer.add_representer(str, _represent_str)


def _depth(text: str) -> int:
    """Return the largest number of open brackets, including those in texts and comments."""
    deepest = depth = 0
    for bracket in re.findall(r"[\[\]{}]", text):
        depth = depth + 1 if bracket in "[{" else max(depth - 1, 0)
        deepest = max(deepest, depth)
    return deepest


def _values_and_lines(content: Any, path: Path) -> tuple[dict[str, Any], dict[str, int]]:
    if content is None:
        return {}, {}
    budget = _Budget(path)
    if isinstance(content, CommentedMap):
        return _plain(content, budget), {str(key): content.lc.key(key)[0] + 1 for key in content}
    values = _plain(content, budget)
    if not isinstance(values, dict):
        kind = f"{type(content).__name__}{f' tagged {tag}' if (tag := _tag_of(content)) else ''}"
        raise ConfigError(f"{path}: a config must be a mapping `key: value` (got a {kind})")
    return values, {str(pair[0]): pair.lc.line + 1 for pair in content[0]}


class _Budget:
    """Counts values, since aliases in a small file can expand to an unbounded number of values."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.left = _MAX_VALUES

    def spend(self) -> None:
        self.left -= 1
        if self.left < 0:
            raise ConfigError(f"{self.path}: holds more than {_MAX_VALUES} values, which no config does")


def _plain(value: Any, budget: _Budget) -> Any:
    """Convert ruamel's round-trip types to Python's own."""
    budget.spend()
    if isinstance(value, TaggedScalar):
        value = value.value
    if isinstance(value, Mapping):
        return {str(key): _plain(item, budget) for key, item in value.items()}
    if isinstance(value, list):
        pairs = _pairs(value)
        if pairs is not None:
            return {str(key): _plain(item, budget) for key, item in pairs}
        return [_plain(item, budget) for item in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value


def _pairs(value: Any) -> list[Any] | None:
    """Return the pairs of a tagged OrderedDict, ``[[[key, value], ...]]``; None for any other list.

    :raises ValueError: if the list has the tag and other content
    """
    if _tag_of(value) != _ORDERED_DICT:
        return None
    pairs = value[0] if len(value) == 1 else None
    if not isinstance(pairs, list) or not all(
        isinstance(pair, list) and len(pair) == 2 and isinstance(pair[0], str | int | float) for pair in pairs
    ):
        raise ValueError(f"what is tagged {_ORDERED_DICT} must hold one list of pairs of a key and a value")
    keys = [str(pair[0]) for pair in pairs]
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise ValueError(f"what is tagged {_ORDERED_DICT} has a key twice: {', '.join(twice)}")
    return pairs


def _tag_of(value: Any) -> str | None:
    tag = getattr(value, "tag", None)
    return None if tag is None or tag.value is None else str(tag.value)
