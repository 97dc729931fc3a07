"""``sb3-multitask enjoy``."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.markup import escape
from rich.progress import track

from sb3_multitask.cli.output import console
from sb3_multitask.cli.packages import GymPackagesOption, import_packages
from sb3_multitask.cli.trained import ModelArgument, PretrainedOption, load_trained, source_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from sb3_multitask.tasks import Task

EXAMPLES = (
    "[bold]Examples[/bold]\n\n"
    "sb3-multitask enjoy runs/main\n\n"
    "sb3-multitask enjoy --pretrained HalfCheetahBody6-vanilla --output film.mp4\n\n"
    "sb3-multitask enjoy runs/main/best_model.zip --task SmallFoot --task BigFoot --output film.gif --seconds 5"
)
_SECONDS = 10.0


def enjoy(
    model: ModelArgument = None,
    pretrained: PretrainedOption = None,
    task: Annotated[
        list[str] | None, typer.Option(help="Only this task; may be repeated. Default: all of the agent's.")
    ] = None,
    output: Annotated[
        Path | None, typer.Option(help="Write a film, .mp4 or .gif, instead of opening a window.")
    ] = None,
    seconds: Annotated[float | None, typer.Option(help=f"Length of the film; default: {_SECONDS:g}.")] = None,
    n_steps: Annotated[int | None, typer.Option(min=1, help="Environment steps of each task, instead.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the environments, and of samples.")] = 0,
    deterministic: Annotated[
        bool, typer.Option("--deterministic/--stochastic", help="The Gaussian's mean, or samples.")
    ] = True,
    fps: Annotated[
        float | None, typer.Option(help="Environment steps per second; default: those of real time.")
    ] = None,
    progress: Annotated[bool, typer.Option(help="Show a progress bar while a film is written.")] = True,
    gym_packages: GymPackagesOption = None,
) -> None:
    """Show a trained agent on all its tasks, side by side: on the screen, or as a film."""
    import_packages(gym_packages)
    source = source_of(model, pretrained)
    if source is None:
        raise ValueError("Give a run's folder, a model.zip or an agent's .safetensors, or --pretrained NAME")
    if seconds is not None and n_steps is not None:
        raise ValueError("Give --seconds or --n-steps, not both")
    for name, value in {"--seconds": seconds, "--fps": fps}.items():
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} must be a positive number (got {value})")

    from sb3_multitask.agents import Agent, agent_of
    from sb3_multitask.evaluation_envs import tasks_of
    from sb3_multitask.films import MAX_FPS, Scene, check_film_path, film, grid_of, real_time_fps, write_film
    from sb3_multitask.films.window import has_display, show

    if output is not None:
        check_film_path(output)
    elif not has_display():
        raise ValueError("There is no screen to show it on (DISPLAY is not set); write a film: --output film.mp4")
    trained = load_trained(source)
    tasks = _chosen(tasks_of(trained), task or [])
    names = [one.name for one in tasks]
    steps_per_second = real_time_fps(tasks) if fps is None else fps
    n_steps = n_steps or max(round((_SECONDS if seconds is None else seconds) * steps_per_second), 1)
    every = math.ceil(steps_per_second / MAX_FPS)
    agent = trained if isinstance(trained, Agent) else agent_of(trained)
    scene = Scene(agent, tasks, n_steps, every=every, seed=seed, deterministic=deterministic)
    pictures: Iterable[Image] = (grid_of(shots, names) for shots in film(scene))
    if output is None:
        show(pictures, steps_per_second / every, source)
        return
    if progress:
        n_pictures = math.ceil(n_steps / every)
        pictures = track(pictures, "Filming", n_pictures, console=console)
    write_film(output, pictures, steps_per_second / every)
    console.print(f"Film: [bold]{escape(str(output))}[/bold]", soft_wrap=True)


def _chosen(tasks: Sequence[Task], names: Sequence[str]) -> tuple[Task, ...]:
    """The tasks of these names, in the order of the agent's; all for none.

    :raises ValueError: if there is no task of a name
    """
    from sb3_multitask.tasks import did_you_mean

    known = [task.name for task in tasks]
    for name in names:
        if name not in known:
            raise ValueError(
                f"The agent has no task {name!r}.{did_you_mean(name, known)} Its tasks: {', '.join(known)}"
            )
    return tuple(task for task in tasks if not names or task.name in names)
