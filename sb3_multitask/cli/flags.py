"""A flag for every setting of a config, made from the config: name, type, default and help stand there alone.

Typer reads a command's parameters from its signature, so the signature is what is made.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import wraps
from inspect import Parameter, Signature, signature
from types import NoneType
from typing import Annotated, Any, Literal, TypeAlias, get_args, get_origin

import typer
from pydantic import BaseModel
from pydantic.fields import FieldInfo
from rich.markup import escape

from sb3_multitask.cli.settings import parse_value

Command: TypeAlias = Callable[..., None]


def with_flags_of(
    kind: type[BaseModel], panels: Mapping[str, str] | None = None, **own: Any
) -> Callable[[Command], Command]:
    """Give a command a flag for every setting of a config.

    The settings that are given on the command line reach the command as ``given``: setting -> value, which the config
    has yet to check. A flag takes a number, a text or yes and no, and YAML for what else a config may hold.

    :param kind: the config's class
    :param panels: setting -> title of the part of ``--help`` that begins with it
    :param own: setting -> annotation of its parameter, where this is not the flag that would be made
    """
    flags, panel = {}, None
    for name, field in kind.model_fields.items():
        panel = (panels or {}).get(name, panel)
        flags[name] = own.get(name) or _annotation(field, panel)
    as_yaml = [name for name, field in kind.model_fields.items() if name not in own and _type_of(field) is None]

    def decorate(command: Command) -> Command:
        @wraps(command)
        def run(**values: Any) -> None:
            given = {name: value for name in flags if (value := values.pop(name)) is not None}
            for name in given.keys() & set(as_yaml):
                given[name] = parse_value(given[name], f"--{name.replace('_', '-')} {given[name]!r}")
            command(given=given, **values)

        made = [Parameter(name, Parameter.KEYWORD_ONLY, default=None, annotation=flag) for name, flag in flags.items()]
        others = [one for one in signature(command, eval_str=True).parameters.values() if one.name != "given"]
        parameters = [*made, *(one.replace(kind=Parameter.KEYWORD_ONLY) for one in others)]
        run.__signature__ = Signature(parameters)  # type: ignore[attr-defined]
        run.__annotations__ = {one.name: one.annotation for one in parameters}
        return run

    return decorate


def _annotation(field: FieldInfo, panel: str | None) -> Any:
    """What Typer makes a flag of; it is None if it is not given, which leaves the setting to the config."""
    kind, default = _type_of(field) or str, field.default
    text = f"{escape((field.description or '').removesuffix('.'))}."
    if default not in (None, {}, ()) and kind is not bool:
        shown = str(default).lower() if isinstance(default, bool) else default
        text += f" [dim]{escape(f'[default: {shown}]')}[/dim]"
    return Annotated[kind | None, typer.Option(metavar=_metavar(field), help=text, rich_help_panel=panel)]


def _type_of(field: FieldInfo) -> type | None:
    """The type of a flag's value; None if it is read as YAML."""
    if get_origin(field.annotation) is Literal:
        return str
    (kind, *others) = [one for one in get_args(field.annotation) or (field.annotation,) if one is not NoneType]
    return kind if kind in (bool, int, float, str) and not others else None


def _metavar(field: FieldInfo) -> str | None:
    """What stands for the value in the help; None: Typer's word for the type."""
    kinds = get_args(field.annotation)
    if get_origin(field.annotation) is Literal:
        return "|".join(kinds)
    if _type_of(field) is not None:
        return None
    is_mapping = get_origin(field.annotation) is dict
    return "NUMBER|lin_NUMBER|YAML" if float in kinds and not is_mapping else "YAML"
