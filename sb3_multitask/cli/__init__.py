"""The command line: ``sb3-multitask train|evaluate|enjoy|...``, one module per command."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated

import typer
from rich.console import Console
from rich.markup import escape

from sb3_multitask.cli import card, enjoy, evaluate, export, grid, plot, record, report, train
from sb3_multitask.cli.output import console

app = typer.Typer(
    help="Multi-task reinforcement learning for Stable-Baselines3: one agent, one head per task.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(epilog=train.EXAMPLES)(train.train)
app.command(epilog=grid.EXAMPLES)(grid.grid)
app.command(epilog=report.EXAMPLES)(report.report)
app.command(epilog=record.EXAMPLES)(record.record)
app.command(epilog=evaluate.EXAMPLES)(evaluate.evaluate)
app.command(epilog=enjoy.EXAMPLES)(enjoy.enjoy)
app.command(epilog=plot.EXAMPLES)(plot.plot)
app.command(epilog=export.EXAMPLES)(export.export)
app.command(epilog=card.EXAMPLES)(card.card)


def _show_version(wanted: bool) -> None:
    if wanted:
        console.print(version("sb3-multitask"), highlight=False)
        raise typer.Exit


@app.callback()
def _main(
    _version: Annotated[
        bool, typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Subcommands below; each has its own --help."""


def main() -> None:
    """Run the command line; what a user did wrong is one message, not a traceback."""
    try:
        app()
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as e:
        Console(stderr=True, soft_wrap=True).print(
            f"[red]Error:[/red] {escape(str(e).removeprefix('Error: '))}", highlight=False
        )
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
