"""``sb3-multitask train``."""

from __future__ import annotations

import shlex
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from rich.markup import escape

from sb3_multitask.cli.flags import with_flags_of
from sb3_multitask.cli.output import console, exit_code, results_table
from sb3_multitask.cli.packages import GymPackagesOption, flags_of, import_packages, modules_of
from sb3_multitask.cli.settings import parse_settings
from sb3_multitask.experiments.config import TrainConfig, load_config, make_config

if TYPE_CHECKING:
    from sb3_multitask.experiments.run_folder import RunFolder
    from sb3_multitask.experiments.train import Earlier

EXAMPLES = (
    "[bold]Examples[/bold]\n\n"
    "sb3-multitask train --config zoo_configs/quickstart.yml\n\n"
    "sb3-multitask train --tasks HalfCheetahBody6 --n-timesteps 1000000 --seed 1\n\n"
    "sb3-multitask train --tasks HalfCheetahBigLeg-v0,HalfCheetah-v5 --ent-coef 0.001 --learning-rate lin_1e-3\n\n"
    "sb3-multitask train --resume runs/HalfCheetahBody6_1"
)


PANELS = {
    "tasks": "What is learned",
    "algo": "What runs",
    "policy": "Policy and updates",
    "teachers": "Teachers",
    "init_from": "What the run begins with",
    "also_on": "Log and evaluations",
    "checkpoint_freq": "Files and device",
}
"""Setting -> the part of ``--help`` that begins with it."""

TasksOption: TypeAlias = Annotated[
    str | None,
    typer.Option(
        help="A task set, or ids separated by commas; an id of your own as module:id.", rich_help_panel=PANELS["tasks"]
    ),
]


@with_flags_of(TrainConfig, PANELS, tasks=TasksOption)
def train(
    given: dict[str, Any],
    config: Annotated[
        Path | None,
        typer.Option(help="YAML file with the run's settings; zoo_configs/<name>.yml comes with the package."),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any setting, over its own flag; may be repeated."),
    ] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Folder of the run; default: runs/<tasks>_<number>.")] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Resume an interrupted run from its newest checkpoint, to the same bits. Runs without checkpoints "
            "need --set-aside or --overwrite.",
        ),
    ] = None,
    set_aside: Annotated[
        bool,
        typer.Option(
            "--set-aside",
            help="With --resume: a run that cannot be resumed starts over; what it left is moved to RUN/earlier_1.",
        ),
    ] = False,
    overwrite: Annotated[
        bool,
        typer.Option("--overwrite", help="Replace the run in --run-dir, or in --resume if it cannot be resumed."),
    ] = False,
    gym_packages: GymPackagesOption = None,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print SB3's log and each evaluation.")] = False,
) -> None:
    """Train one agent on several tasks; everything about the run goes into its folder."""
    from sb3_multitask.experiments.run_folder import RunFolder
    from sb3_multitask.experiments.shipped import find_config
    from sb3_multitask.experiments.train import can_resume, train_run

    tasks = {"tasks": split_tasks(given["tasks"])} if "tasks" in given else {}
    overrides = {**given, **tasks, **parse_settings(settings or [], "--set")}
    modules = import_packages([*(gym_packages or []), *modules_of(overrides)])
    if resume is not None:
        if overrides or config or run_dir:
            raise ValueError("--resume takes the run's own config: leave out the other settings")
        folder = RunFolder.existing(resume)
        run_config = load_config(TrainConfig, folder.config)
        is_finished = folder.read_status().get("status") == "finished"
        if overwrite and (set_aside or can_resume(run_config, folder) or is_finished):
            raise ValueError(
                "--overwrite replaces what an interrupted run left that cannot be resumed, and goes without "
                f"--set-aside; train anew with --config {folder.config} --run-dir FOLDER"
            )
    else:
        if set_aside:
            raise ValueError("--set-aside goes with --resume")
        run_config = (
            load_config(TrainConfig, find_config(config), overrides)
            if config is not None
            else make_config(TrainConfig, overrides)
        )
        folder = RunFolder.create(run_dir, run_config.name, overwrite)
    console.print(f"Run folder: [bold]{escape(str(folder.path))}[/bold]")
    earlier: Earlier = "set_aside" if set_aside else "remove" if overwrite else "refuse"
    try:
        results = train_run(run_config, folder, progress, int(verbose), _announce, earlier)
    except KeyboardInterrupt as e:
        console.print(
            f"Interrupted ({escape(str(e))}). {escape(_how_to_go_on(run_config, folder, modules))}", soft_wrap=True
        )
        raise typer.Exit(exit_code(e)) from None
    except Exception:
        if resume is None and run_dir is None and not folder.results.exists():  # of a run that never began
            shutil.rmtree(folder.path)
        raise
    title = f"Return per episode, {run_config.n_eval_episodes} episodes each"
    console.print(results_table(results, title, f"all are in {escape(str(folder.results))}"))
    curves = "" if run_config.sequential else "No episode ended, so there are no learning curves; "
    if folder.curves.exists():
        curves = f"Learning curves: [bold]{escape(str(folder.curves))}[/bold]; "
    console.print(f"{curves}Model: [bold]{escape(str(folder.model))}[/bold]", soft_wrap=True)


def _how_to_go_on(config: TrainConfig, folder: RunFolder, modules: Sequence[str]) -> str:
    """What to do with an interrupted run; the command loses nothing."""
    from sb3_multitask.experiments.train import can_resume

    command = shlex.join(["sb3-multitask", "train", "--resume", str(folder.path), *flags_of(modules)])
    if can_resume(config, folder):
        return f"Go on with: {command}"
    return (
        f"It cannot be resumed; what it left stays in {folder.path}. Start it over, with that moved aside: "
        f"{command} --set-aside"
    )


def _announce(text: str) -> None:
    console.print(text, markup=False)  # brackets in names and paths are no markup


def split_tasks(tasks: str) -> str | tuple[str, ...]:
    return tuple(tasks.split(",")) if "," in tasks else tasks
