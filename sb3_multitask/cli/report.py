"""``sb3-multitask report``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from sb3_multitask.cli.output import console
from sb3_multitask.cli.packages import GymPackagesOption, import_packages

EXAMPLES = "[bold]Example[/bold]\n\nsb3-multitask report runs/my_grid --output results/my_grid"


def report(
    runs: Annotated[Path, typer.Argument(help="Folder of a grid's runs, or data/ of a report on one.")],
    output: Annotated[Path | None, typer.Option(help="Where the report goes; default: <runs>/report.")] = None,
    clips: Annotated[bool, typer.Option(help="Film the best multi-task agent of each preset.")] = True,
    gym_packages: GymPackagesOption = None,
) -> None:
    """Tables, learning curves and one page from the run folders of a grid, whatever its runs are called."""
    from sb3_multitask.experiments.report import write_report

    import_packages(gym_packages)
    output = output or runs / "report"
    missing = write_report(runs, output, clips)
    if missing:
        console.print(f"{len(missing)} runs are not finished, and not in the report (such as {escape(missing[0])})")
    console.print(f"Report: [bold]{escape(str(output / 'report.html'))}[/bold]", soft_wrap=True)
