"""Film in a separate process, with an available renderer: EGL, else OSMesa, else a window's.

MuJoCo chooses its renderer when it is imported. A separate process can have another renderer than this one, and does
not affect a training in this one.
"""

from __future__ import annotations

import functools
import os
import pickle
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import IO, Any

import cloudpickle
import gymnasium as gym

from sb3_multitask.evaluation.films.playing import Scene, Shot
from sb3_multitask.process.generators import seeded_globals
from sb3_multitask.tasks import Task, registered_id, resolve_tasks

_RENDERERS = ("egl", "osmesa", "glfw")
_PROBE = "import mujoco; mujoco.Renderer(mujoco.MjModel.from_xml_string('<mujoco/>'), 8, 8).render()"
_RATE_WITHOUT_ONE = 30.0


class NoRendererError(RuntimeError):
    """There is no renderer; the message says what to install."""


def film(scene: Scene) -> Iterator[tuple[Shot, ...]]:
    """Film a scene; yield shots when they are rendered, one of every task at a time.

    :param scene: the agent, tasks and steps to film
    :raises NoRendererError: if there is no renderer
    :raises RuntimeError: if an environment fails
    """
    renderer = find_renderer()
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}  # for tasks that are functions
    if renderer is not None:
        environment["MUJOCO_GL"] = renderer
    command = [sys.executable, "-m", "sb3_multitask.evaluation.films.worker"]
    with tempfile.TemporaryFile() as errors:
        worker = subprocess.Popen(  # noqa: S603
            command, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
        )
        assert worker.stdin is not None
        assert worker.stdout is not None
        try:
            with suppress(BrokenPipeError), worker.stdin as pipe:  # its error is read below
                cloudpickle.dump((_specs(scene.tasks), scene), pipe)
            yield from _shots(worker.stdout, renderer)
            if worker.wait() != 0:
                raise _failure(_last_line(errors), renderer)
        finally:
            worker.kill()
            worker.wait()
            worker.stdout.close()


@functools.cache
def find_renderer() -> str | None:
    """Return a ``MUJOCO_GL`` with which MuJoCo renders here, the present one if it does; None if none does."""
    chosen = os.environ.get("MUJOCO_GL", "").lower()
    for renderer in dict.fromkeys([*([chosen] if chosen else []), *_RENDERERS]):
        command = [sys.executable, "-c", _PROBE]
        environment = {**os.environ, "MUJOCO_GL": renderer}
        done = subprocess.run(command, env=environment, capture_output=True, check=False)  # noqa: S603
        if done.returncode == 0:
            return renderer
    return None


def real_time_fps(tasks: Sequence[Task]) -> float:
    """Return steps per second in real time, from the first task's environment (``metadata["render_fps"]``).

    :raises ValueError: if an environment cannot be rendered as a picture
    """
    rates = []
    for task in tasks:
        with seeded_globals(0):  # so that draws of the env's constructor do not change a training
            env = task.make()
        modes = env.metadata.get("render_modes") or []
        rates.append(float(env.metadata.get("render_fps") or _RATE_WITHOUT_ONE))
        env.close()
        if "rgb_array" not in modes:
            raise ValueError(
                f"Task {task.name!r}: its environment cannot be filmed, since it has no render mode 'rgb_array' "
                f"(it has: {', '.join(map(str, modes)) or 'none'})"
            )
    return rates[0]


def _specs(tasks: Sequence[Task]) -> tuple[Any, ...]:
    """Return the specifications of ids, since some may be registered in this process only."""
    return tuple(gym.spec(registered_id(task.env_id)) for task in resolve_tasks(tasks) if isinstance(task.env_id, str))


def _shots(pipe: IO[bytes], renderer: str | None) -> Iterator[tuple[Shot, ...]]:
    while True:
        try:
            message = pickle.load(pipe)  # noqa: S301 (from the process that was started above)
        except EOFError:
            return
        if isinstance(message, str):
            raise _failure(message, renderer)
        yield message


def _failure(reason: str, renderer: str | None) -> RuntimeError:
    if renderer is None:
        return NoRendererError(
            "Nothing can be rendered here: neither EGL nor OSMesa works. Install one, on Debian or Ubuntu with "
            f"`apt install libegl1` (or libosmesa6). What was raised: {reason}"
        )
    return RuntimeError(f"Filming failed (MUJOCO_GL={renderer}): {reason}")


def _last_line(errors: IO[bytes]) -> str:
    errors.seek(0)
    lines = errors.read().decode(errors="replace").strip().splitlines()
    return lines[-1] if lines else "the process that renders ended without a word"
