"""``sb3-multitask enjoy``."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.markup import escape
from rich.progress import track

from sb3_multitask.cli.output import console
from sb3_multitask.cli.packages import GymPackagesOption, import_packages
from sb3_multitask.cli.settings import parse_settings
from sb3_multitask.cli.trained import ModelArgument, PretrainedOption, load_trained, source_of

if TYPE_CHECKING:
    from PIL.Image import Image

    from sb3_multitask.evaluation.films import EndedEpisode, Scene, Shot
    from sb3_multitask.tasks import Task

EXAMPLES = (
    "[bold]Examples[/bold]\n\n"
    "sb3-multitask enjoy runs/main\n\n"
    "sb3-multitask enjoy --pretrained HalfCheetahBody6-vanilla --output film.mp4\n\n"
    "sb3-multitask enjoy runs/main/best_model.zip --task SmallFoot --task BigFoot --output film.gif --seconds 5\n\n"
    "sb3-multitask enjoy runs/main --no-render --env-kwargs max_episode_steps=200"
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
    render: Annotated[
        bool, typer.Option("--render/--no-render", help="Show the tasks, or only print each episode's return.")
    ] = True,
    seconds: Annotated[float | None, typer.Option(help=f"Length of what is shown; default: {_SECONDS:g}.")] = None,
    n_steps: Annotated[
        int | None,
        typer.Option(min=1, help="Environment steps of each task, instead. Default with --no-render: a full episode."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the environments, and of samples.")] = 0,
    deterministic: Annotated[
        bool, typer.Option("--deterministic/--stochastic", help="The Gaussian's mean, or samples.")
    ] = True,
    fps: Annotated[
        float | None, typer.Option(help="Environment steps per second; default: those of real time.")
    ] = None,
    env_kwargs: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY=VALUE",
            help="An argument of every task's environment, such as max_episode_steps=200; may be repeated.",
        ),
    ] = None,
    progress: Annotated[bool, typer.Option(help="Show a progress bar while a film is written.")] = True,
    gym_packages: GymPackagesOption = None,
) -> None:
    """Show a trained agent on all its tasks, side by side, on the screen or as a film, and print returns."""
    import_packages(gym_packages)
    source = source_of(model, pretrained)
    if source is None:
        raise ValueError("Give a run's folder, a model.zip or an agent's .safetensors, or --pretrained NAME")
    _check(output, render, seconds, n_steps, fps)

    from sb3_multitask.agents import Agent, agent_of
    from sb3_multitask.evaluation.envs import tasks_of
    from sb3_multitask.evaluation.films import MAX_FPS, Scene, film, longest_episode, play_episodes, real_time_fps

    trained = load_trained(source)
    tasks = _chosen(tasks_of(trained), task or [])
    if env_kwargs:
        tasks = _with_kwargs(tasks, parse_settings(env_kwargs, "--env-kwargs"))
    agent = trained if isinstance(trained, Agent) else agent_of(trained)
    episodes = _Episodes()
    if not render:
        scene = Scene(agent, tasks, n_steps or longest_episode(tasks), seed=seed, deterministic=deterministic)
        episodes.print(play_episodes(scene))
    else:
        steps_per_second = real_time_fps(tasks) if fps is None else fps
        n_steps = n_steps or max(round((_SECONDS if seconds is None else seconds) * steps_per_second), 1)
        every = math.ceil(steps_per_second / MAX_FPS)
        scene = Scene(agent, tasks, n_steps, every=every, seed=seed, deterministic=deterministic)
        _show(_pictures(film(scene), scene, episodes), scene, steps_per_second / every, output, source, progress)
    episodes.print_means()


def _check(output: Path | None, render: bool, seconds: float | None, n_steps: int | None, fps: float | None) -> None:
    """Raise if the options contradict each other, or nothing can be shown as they ask."""
    if seconds is not None and n_steps is not None:
        raise ValueError("Give --seconds or --n-steps, not both")
    for name, value in {"--seconds": seconds, "--fps": fps}.items():
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{name} must be a positive number (got {value})")
        if value is not None and not render:
            raise ValueError(f"{name} is for what is shown, and --no-render shows nothing; give --n-steps")

    from sb3_multitask.evaluation.films import check_film_path
    from sb3_multitask.evaluation.films.window import has_display

    if output is not None and not render:
        raise ValueError("Give --output or --no-render, not both: a film must be rendered")
    if output is not None:
        check_film_path(output)
    elif render and not has_display():
        raise ValueError(
            "There is no screen to show it on (DISPLAY is not set); write a film: --output film.mp4, or only print "
            "returns: --no-render"
        )


def _show(pictures: Iterable[Image], scene: Scene, fps: float, output: Path | None, title: str, progress: bool) -> None:
    """Show pictures in a window, or write them as a film if there is an ``output``."""
    from sb3_multitask.evaluation.films import write_film
    from sb3_multitask.evaluation.films.window import show

    if output is None:
        show(pictures, fps, title)
        return
    if progress:
        pictures = track(pictures, "Filming", math.ceil(scene.n_steps / scene.every), console=console)
    write_film(output, pictures, fps)
    console.print(f"Film: [bold]{escape(str(output))}[/bold]", soft_wrap=True)


class _Episodes:
    """Prints each episode when it ends, and at last the mean return of each task."""

    def __init__(self) -> None:
        self.ended: dict[str, list[EndedEpisode]] = defaultdict(list)

    def print(self, episodes: Iterable[EndedEpisode]) -> None:
        for episode in episodes:
            self.ended[episode.task].append(episode)
            success = {None: "", True: ", success", False: ", no success"}[episode.success]
            console.print(
                f"Task {episode.task}: return {episode.total_reward:.1f} in {episode.length} steps{success}",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )

    def print_means(self) -> None:
        if len(self.ended) < 2:
            return
        from sb3_multitask.evaluation.results import TaskResult, percent

        console.print("Mean return of each task (episodes):")
        for task, episodes in self.ended.items():
            returns = [(episode.total_reward, episode.length) for episode in episodes]
            result = TaskResult.of(returns, [episode.success for episode in episodes])
            success = "" if result.success_rate is None else f", success {percent(result.success_rate)}"
            text = f"  {task}: {result.mean_reward:.1f} ({len(episodes)}){success}"
            console.print(text, markup=False, highlight=False, soft_wrap=True)


def _pictures(shots: Iterable[tuple[Shot, ...]], scene: Scene, episodes: _Episodes) -> Iterator[Image]:
    from sb3_multitask.evaluation.films import grid_of

    names = [task.name for task in scene.tasks]
    for row in shots:
        yield grid_of(row, names)
        for shot in row:
            episodes.print(shot.ended)


def _with_kwargs(tasks: Sequence[Task], env_kwargs: Mapping[str, Any]) -> tuple[Task, ...]:
    """The tasks with arguments of their environments on top of their own."""
    return tuple(replace(task, env_kwargs={**task.kwargs_of(), **env_kwargs}) for task in tasks)


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
