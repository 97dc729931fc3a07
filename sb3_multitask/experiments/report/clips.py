"""Short clips of a trained agent for a report, one of each task."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from sb3_multitask.agents.files import load_agent
from sb3_multitask.evaluation.films import Scene, film, write_film
from sb3_multitask.storage.files import file_name
from sb3_multitask.tasks import Task

_SIZE = (192, 144)
_SKIPPED_STEPS, _N_FRAMES = 100, 60
_FPS = 10  # half of the real-time speed of HalfCheetah


def render_clips(agent: Path, tasks: Sequence[Task], folder: Path) -> dict[str, Path]:
    """Film a few seconds of an agent, after its first steps, deterministic; task -> GIF.

    :param agent: path of the agent's files, as given to ``save_agent``
    :param tasks: tasks of the film
    :param folder: folder of the files ``<task>.gif``
    :raises NoRendererError: if there is no renderer
    :raises RuntimeError: if an environment fails
    :raises UnreadableFileError: if there is no agent
    """
    scene = Scene(load_agent(agent), tuple(tasks), _N_FRAMES, skip=_SKIPPED_STEPS, size=_SIZE)
    pictures = [[Image.fromarray(shot.image) for shot in shots] for shots in film(scene)]
    clips = {task.name: folder / f"{file_name(task.name)}.gif" for task in tasks}
    for path, film_of_task in zip(clips.values(), zip(*pictures, strict=True), strict=True):
        write_film(path, film_of_task, _FPS, n_colors=64)
    return clips
