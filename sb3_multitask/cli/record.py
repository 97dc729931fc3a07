"""``sb3-multitask record``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from sb3_multitask.cli.flags import with_flags_of
from sb3_multitask.cli.output import console
from sb3_multitask.cli.packages import GymPackagesOption, import_packages, modules_of
from sb3_multitask.cli.train import TasksOption, split_tasks
from sb3_multitask.cli.trained import ModelArgument, PretrainedOption, source_of
from sb3_multitask.experiments.config import RecordConfig, load_config, make_config

EXAMPLES = (
    "[bold]Examples[/bold]\n\n"
    "sb3-multitask record runs/main --n-steps 50000 --output data/main\n\n"
    "sb3-multitask record --pretrained HalfCheetahBody6-vanilla --n-episodes 50 --output data/vanilla\n\n"
    "sb3-multitask record --tasks HalfCheetahSmallFoot-v0 --teachers '{HalfCheetahSmallFoot-v0: runs/small_foot}' "
    "--n-steps 50000 --output data/small_foot\n\n"
    "sb3-multitask record --config record.yml --output data/bodies"
)


@with_flags_of(RecordConfig, tasks=TasksOption)
def record(
    given: dict[str, Any],
    output: Annotated[Path, typer.Option(help="Folder of the dataset, which must not exist.")],
    model: ModelArgument = None,
    pretrained: PretrainedOption = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with these settings: teachers, n_steps, ...")] = None,
    gym_packages: GymPackagesOption = None,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
) -> None:
    """Record what teachers do on their tasks, as a dataset for policy distillation."""
    from sb3_multitask.experiments.datasets import record_as
    from sb3_multitask.experiments.shipped import find_config

    tasks = {"tasks": split_tasks(given["tasks"])} if "tasks" in given else {}
    source = source_of(model, pretrained)
    if source is not None and "teachers" in given:
        raise ValueError("Give a model, --pretrained or --teachers, and only one of them")
    settings = {**given, **tasks, **({} if source is None else {"teachers": source})}
    import_packages([*(gym_packages or []), *modules_of(settings)])
    if config is None and "teachers" not in settings:
        raise ValueError("Give a run's folder or an agent's file, --pretrained NAME, --teachers or --config FILE.yml")
    chosen = (
        load_config(RecordConfig, find_config(config), settings)
        if config is not None
        else make_config(RecordConfig, settings)
    )
    dataset = record_as(chosen, chosen.resolved_tasks(), output, progress_bar=progress)
    console.print(str(dataset), markup=False, highlight=False)
    console.print(f"Dataset: [bold]{escape(str(output))}[/bold]", soft_wrap=True)
