"""``sb3-multitask card``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from sb3_multitask.cli.output import console

EXAMPLES = (
    "[bold]Example[/bold]\n\nsb3-multitask card runs/main --output cheetahs\n\n"
    "hf upload <user>/cheetahs cheetahs  (of huggingface_hub)"
)


def card(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    output: Annotated[Path | None, typer.Option(help="Folder to make; default: <run>/card.")] = None,
    clips: Annotated[bool, typer.Option(help="Film the agent on its tasks.")] = True,
) -> None:
    """Make a folder with a run's agent and its model card, ready for a model hub."""
    from sb3_multitask.experiments.card import write_card

    output = output or run / "card"
    write_card(run, output, clips)
    console.print(f"Model card: [bold]{escape(str(output / 'README.md'))}[/bold]", soft_wrap=True)
