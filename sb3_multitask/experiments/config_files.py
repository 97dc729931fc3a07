"""How a config is read from YAML, checked and written; nothing in a file is executed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from sb3_multitask.storage.yaml_files import ConfigError, read_yaml, write_yaml
from sb3_multitask.tasks import did_you_mean


class Config(BaseModel):
    """Settings that a YAML file may hold: frozen, and without unknown keys."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    @classmethod
    def place_of(cls, key: str, values: Mapping[str, Any]) -> str | None:
        """What to write instead of a key that is unknown here, if it has its place elsewhere; None if not.

        :param values: all that was given
        """
        if isinstance(values[key], Mapping) and "policy" in values[key]:
            return (
                f"{key!r} with a policy below it is rl_zoo3's format, for `python -m sb3_multitask.zoo train -conf`. "
                "Configs of `sb3-multitask train` have no such level."
            )
        return None

    def left_out(self) -> Collection[str]:
        """Settings that are not written to a file."""
        return ()


ConfigT = TypeVar("ConfigT", bound=Config)
_MESSAGES = {
    "tuple_type": "must be a list, such as [a, b]",
    "dict_type": "must be names with values, such as {key: value}",
    "extra_forbidden": "unknown key",
}
"""Of pydantic's errors that speak of Python."""


def load_config(kind: type[ConfigT], path: str | Path, overrides: Mapping[str, Any] | None = None) -> ConfigT:
    """Read a YAML file into a config. Nothing in the file is executed.

    :param kind: the config's class, such as ``TrainConfig``
    :param path: a YAML 1.2 file with the config's keys
    :param overrides: values that replace the file's, such as the command line's
    :raises ConfigError: unreadable file, duplicate or unknown key (with the closest one), bad value; with the line
    """
    values, lines = read_yaml(Path(path))
    return make_config(
        kind,
        {**values, **(overrides or {})},
        where=lambda key: f"{path}:{lines[key]}" if key in lines else str(path),
    )


def make_config(kind: type[ConfigT], values: Mapping[str, Any], where: Any = lambda _key: "config") -> ConfigT:
    """Validate ``values``; see :func:`load_config` for what it raises."""
    known = kind.model_fields
    for key in values:
        if key not in known:
            unknown = f"unknown key {key!r}.{did_you_mean(str(key), known)} Known keys: {', '.join(known)}"
            raise ConfigError(f"{where(key)}: {kind.place_of(key, values) or unknown}")
    try:
        return kind(**values)
    except ValidationError as e:
        problems = []
        for error in e.errors(include_url=False):
            key = str(error["loc"][0]) if error["loc"] else "config"
            message = _MESSAGES.get(error["type"], error["msg"].removeprefix("Value error, "))
            path = ".".join(map(str, error["loc"]))
            problem = f"`{path}`: {message} (got {error['input']!r:.300})" if path else message
            problems.append(f"{where(key)}: {problem}")
        raise ConfigError("\n".join(dict.fromkeys(problems))) from e


def dump_config(config: Config, path: Path) -> None:
    """Write a config as YAML that :func:`load_config` reads back to an equal one."""
    write_yaml(path, config.model_dump(mode="json", exclude=set(config.left_out())))
