"""The command line: ``sb3-multitask train|evaluate|enjoy|...``, one module per command."""

from __future__ import annotations

import sys

import typer
from rich.console import Console
from rich.markup import escape

from sb3_multitask.cli import card, enjoy, evaluate, export, grid, plot, report, train

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
app.command(epilog=evaluate.EXAMPLES)(evaluate.evaluate)
app.command(epilog=enjoy.EXAMPLES)(enjoy.enjoy)
app.command(epilog=plot.EXAMPLES)(plot.plot)
app.command(epilog=export.EXAMPLES)(export.export)
app.command(epilog=card.EXAMPLES)(card.card)


@app.callback()
def _main() -> None:
    """Subcommands below; each has its own --help."""


def main() -> None:
    """Run the command line; what a user did wrong is one message, not a traceback."""
    try:
        app()
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as e:
        Console(stderr=True, soft_wrap=True).print(f"[red]Error:[/red] {escape(str(e))}", highlight=False)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)
