"""``sb3-multitask card``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from sb3_multitask.cli.output import console
from sb3_multitask.cli.packages import GymPackagesOption, import_packages

EXAMPLES = (
    "[bold]Examples[/bold]\n\nsb3-multitask card runs/main --output cheetahs\n\n"
    "sb3-multitask card logs/a2c_mt/MultiTask-HalfCheetahBody6-v0_1 --output cheetahs\n\n"
    "hf upload <user>/cheetahs cheetahs  (of huggingface_hub)"
)


def card(
    run: Annotated[
        Path,
        typer.Argument(help="Folder of a finished run, of this package or of rl_zoo3, or a zip or an agent in it."),
    ],
    output: Annotated[
        Path | None, typer.Option(help="Folder to make; default: <run>/card, or <model>_card beside a zip or an agent.")
    ] = None,
    clips: Annotated[bool, typer.Option(help="Film the agent on its tasks.")] = True,
    n_eval_episodes: Annotated[
        int | None,
        typer.Option(min=1, help="For agents whose returns no file holds: episodes per task; default: 20."),
    ] = None,
    gym_packages: GymPackagesOption = None,
) -> None:
    """Make a folder with a run's agent and its model card, ready for a model hub."""
    from sb3_multitask.experiments.card import write_card

    import_packages(gym_packages)
    output = output or (run / "card" if run.is_dir() else run.with_name(f"{run.stem}_card"))
    write_card(run, output, clips, n_eval_episodes)
    console.print(f"Model card: [bold]{escape(str(output / 'README.md'))}[/bold]", soft_wrap=True)
