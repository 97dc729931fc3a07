"""Running a program of this package, or one of rl_zoo3 as it is."""

from __future__ import annotations

import runpy
import shlex
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module

import typer


def run_ours(arguments: Sequence[str]) -> None:
    """Print a command of ``sb3-multitask`` and run it in this process.

    :param arguments: what stands after ``sb3-multitask``
    :raises ValueError: if an argument is out of range; and whatever the command raises
    """
    from sb3_multitask.cli import app

    print(f"Command: {shlex.join(['sb3-multitask', *arguments])}", flush=True)  # noqa: T201
    try:
        app(list(arguments), standalone_mode=False)
    except typer.BadParameter as e:
        raise ValueError(e.format_message()) from e


def run_zoos(module: str, arguments: Sequence[str]) -> None:
    """Run a program of rl_zoo3 as it is, in this process, where our environments are registered.

    :param module: such as ``rl_zoo3.enjoy``
    :param arguments: of its command line
    """
    name = module.rpartition(".")[2]
    with command_line(f"sb3_multitask.zoo {name}", arguments):
        if name == "record_video":  # It is a script without a function.
            runpy.run_module(module, run_name="__main__")
        else:
            getattr(import_module(module), name)()


@contextmanager
def command_line(program: str, arguments: Sequence[str]) -> Iterator[None]:
    """``arguments`` as ``sys.argv``, which rl_zoo3's programs parse."""
    before = sys.argv
    sys.argv = [program, *arguments]
    try:
        yield
    finally:
        sys.argv = before
