"""``sb3-multitask grid``."""

from __future__ import annotations

from enum import StrEnum
from functools import partial
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from sb3_multitask.cli.output import console, exit_code
from sb3_multitask.cli.packages import GymPackagesOption, import_packages

EXAMPLES = (
    "[bold]Examples[/bold]\n\n"
    "sb3-multitask grid zoo_configs/paper_grid.yml\n\n"
    "sb3-multitask grid zoo_configs/paper_grid.yml --only tuned/vanilla --processes 4\n\n"
    "sb3-multitask grid zoo_configs/paper_grid.yml --engine ray\n\n"
    "sb3-multitask grid zoo_configs/paper_grid.yml --dry-run"
)


class GridEngine(StrEnum):
    """Where the runs of a grid run."""

    LOCAL = "local"
    RAY = "ray"


def grid(
    config: Annotated[
        Path,
        typer.Argument(help="YAML file of the grid, such as zoo_configs/paper_grid.yml, which comes with the package."),
    ],
    folder: Annotated[Path | None, typer.Option(help="Where the run folders go; default: what the file says.")] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time; default: one per core, or as many as the cluster takes.")
    ] = None,
    engine: Annotated[
        GridEngine,
        typer.Option(help="Processes of this machine, or tasks of the Ray cluster at RAY_ADDRESS (extra: ray)."),
    ] = GridEngine.LOCAL,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY",
            help="Only runs whose key (<preset>/<run>/seed_<n>) begins so, and what they need; may be repeated.",
        ),
    ] = None,
    gym_packages: GymPackagesOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs and their status; start nothing.")] = False,
) -> None:
    """Run a grid of experiments; started again after a kill, it runs what is missing."""
    from sb3_multitask.experiments.grid import load_grid, select, statuses
    from sb3_multitask.experiments.scheduler import run_grid
    from sb3_multitask.experiments.shipped import find_config
    from sb3_multitask.process.threads import n_cpus

    modules = import_packages(gym_packages)
    runs = select(load_grid(find_config(config), folder), only or [])
    if dry_run:
        steps = sum(run.config.n_timesteps for run in runs)
        table = Table(title=escape(str(config)), caption=f"{len(runs)} runs, {steps:,} steps")
        for column in ("run", "steps", "status", "needs"):
            table.add_column(column, overflow="fold")
        for run, status in statuses(runs):
            table.add_row(escape(run.key), f"{run.config.n_timesteps:,}", status, escape(", ".join(run.needs)))
        console.print(table)
        return
    try:
        if engine is GridEngine.RAY:
            from sb3_multitask.experiments.ray_runner import ray_cluster

            with ray_cluster(modules) as launch:
                outcome = run_grid(runs, launch, processes or len(runs), console)
        else:
            from sb3_multitask.experiments.local_runner import LocalJob

            outcome = run_grid(runs, partial(LocalJob, modules=modules), processes or n_cpus(), console)
    except KeyboardInterrupt as e:
        console.print(f"Interrupted ({escape(str(e))}). Go on with the same command.", soft_wrap=True)
        raise typer.Exit(exit_code(e)) from None
    console.print(f"{len(outcome.finished)} of {len(runs)} runs finished")
    for key, reason in outcome.failed.items():
        console.print(f"[red]failed[/red] {escape(key)}: {escape(reason)}", soft_wrap=True)
    for key in outcome.left_out:
        console.print(f"left out, since a run it needs failed: {escape(key)}", soft_wrap=True)
    if not outcome.is_complete:
        raise typer.Exit(1)
