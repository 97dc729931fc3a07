"""``sb3-multitask export``."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from sb3_multitask.cli.output import console
from sb3_multitask.cli.trained import PretrainedOption

EXAMPLES = (
    "[bold]Examples[/bold]\n\n"
    "sb3-multitask export runs/main --output agent.onnx\n\n"
    "sb3-multitask export --pretrained HalfCheetahBody6-vanilla --format torch --output agent.pt2"
)


class ExportFormat(StrEnum):
    """What an exported policy is written as."""

    ONNX = "onnx"
    TORCH = "torch"


def export(
    source: Annotated[
        str | None,
        typer.Argument(
            help="A run's folder (rl_zoo3's too), a zip of ours, or of A2C, PPO or TRPO, or an agent's file."
        ),
    ] = None,
    pretrained: PretrainedOption = None,
    file_format: Annotated[
        ExportFormat, typer.Option("--format", help="ONNX (needs the extra: export), or a torch.export program.")
    ] = ExportFormat.ONNX,
    output: Annotated[Path | None, typer.Option(help="File to write; default: agent.onnx or agent.pt2.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the file if it exists.")] = False,
) -> None:
    """Write a deterministic policy with its normaliser as a file that runs without this package."""
    from sb3_multitask import export_onnx, export_torch, load_agent, load_pretrained

    output = output or Path("agent.onnx" if file_format is ExportFormat.ONNX else "agent.pt2")
    if output.exists() and not overwrite:
        raise FileExistsError(f"{output} exists; choose another file with --output, or replace it with --overwrite")
    if source is not None and pretrained is None:
        agent = load_agent(source)
    elif source is None and pretrained is not None:
        agent = load_pretrained(pretrained)
    else:
        raise ValueError("Give a run's folder or an agent's file, or --pretrained NAME, and not both")
    write = export_onnx if file_format is ExportFormat.ONNX else export_torch
    write(agent, output)
    console.print(
        f"Exported, with the heads {escape(', '.join(agent.task_names))}: [bold]{escape(str(output))}[/bold]",
        soft_wrap=True,
    )
