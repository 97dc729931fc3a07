"""``sb3-multitask plot``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from sb3_multitask.cli.output import console

EXAMPLES = (
    "[bold]Examples[/bold]\n\n"
    "sb3-multitask plot runs/main\n\n"
    "sb3-multitask plot runs/HalfCheetahBody6_1 runs/HalfCheetahBody6_2 --output curves.svg\n\n"
    "sb3-multitask plot logs/a2c_mt/MultiTask-HalfCheetahBody6-v0_1 --show evaluations\n\n"
    "sb3-multitask plot runs/HalfCheetahBody6_* --show evaluations --group  (the mean over seeds)"
)


class Shown(StrEnum):
    """Which curves are drawn."""

    BOTH = "both"
    TRAINING = "training"
    EVALUATIONS = "evaluations"
    SUCCESS = "success"


def plot(
    runs: Annotated[list[Path], typer.Argument(help="Folders of runs, of this package or of rl_zoo3.")],
    output: Annotated[
        Path | None, typer.Option(help="The picture, .png, .svg or .pdf; default: <run>_curves.png beside the run.")
    ] = None,
    show: Annotated[Shown, typer.Option(help="Training returns, evaluations, or both; or success rates.")] = Shown.BOTH,
    window: Annotated[int, typer.Option(min=1, help="Training episodes that a line is the mean of.")] = 20,
    max_timesteps: Annotated[
        int | None, typer.Option(min=1, help="Environment steps over all tasks at which the curves end.")
    ] = None,
    group: Annotated[
        bool,
        typer.Option(
            "--group",
            help="With --show evaluations: one curve, mean and standard error, for runs that differ only in the number "
            "at the end of their folders' names.",
        ),
    ] = False,
    view: Annotated[bool, typer.Option("--view", help="Open the picture in the system's viewer.")] = False,
) -> None:
    """Curves of each task, from run folders; several runs are compared in one picture."""
    from sb3_multitask.experiments.plot import plot_runs

    if group and show is not Shown.EVALUATIONS:
        raise ValueError("--group needs --show evaluations: episodes of training end at different steps in each run")
    written = plot_runs(runs, output, show.value, window, max_timesteps, group)
    console.print(f"Curves: [bold]{escape(str(written))}[/bold]", soft_wrap=True)
    if view:
        typer.launch(str(written))
