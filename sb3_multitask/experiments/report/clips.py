"""Short clips of trained agents, where a renderer is at hand: EGL, else OSMesa.

MuJoCo chooses its renderer when it is imported, so every attempt is a process of its own:
``python -m sb3_multitask.experiments.report.clips <agent> <task> <env id> <file.gif>``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import gymnasium as gym
import numpy as np
from PIL import Image

from sb3_multitask.agent_files import load_agent
from sb3_multitask.files import replacing

HOW_TO_RENDER = (
    "No clips: neither EGL nor OSMesa could render. Install one (on Debian or Ubuntu: apt install libegl1, or "
    "libosmesa6) and make the report again."
)
_WIDTH, _HEIGHT = 192, 144
_SKIPPED_STEPS, _N_FRAMES = 100, 60


def render_clips(agent: Path, tasks: Mapping[str, str], folder: Path) -> dict[str, Path]:
    """Film an agent on its tasks; task -> GIF, empty where nothing can render.

    :param agent: what ``save_agent`` was given
    :param tasks: task -> id of its env
    :param folder: where the files ``<task>.gif`` go
    """
    clips: dict[str, Path] = {}
    for task, env_id in tasks.items():
        path = folder / f"{task}.gif"
        command = [sys.executable, "-m", "sb3_multitask.experiments.report.clips", str(agent), task, env_id, str(path)]
        for renderer in ("egl", "osmesa"):
            environment = {**os.environ, "MUJOCO_GL": renderer}
            done = subprocess.run(command, env=environment, capture_output=True, check=False)  # noqa: S603
            if done.returncode == 0:
                clips[task] = path
                break
        else:
            return {}
    return clips


def film(agent_path: str, task: str, env_id: str, path: str) -> None:
    """Write a GIF of a few seconds in which the agent is already under way, deterministic, at half speed."""
    agent = load_agent(agent_path)
    env = gym.make(env_id, render_mode="rgb_array", width=_WIDTH, height=_HEIGHT)
    obs, _ = env.reset(seed=0)
    frames = []
    for step in range(_SKIPPED_STEPS + _N_FRAMES):
        action, _ = agent.predict({"obs": obs, "task": agent.head_of(task)}, deterministic=True)
        obs, *_ = env.step(action)
        if step >= _SKIPPED_STEPS:
            frames.append(Image.fromarray(np.asarray(env.render(), dtype=np.uint8)).quantize(64))
    env.close()
    with replacing(path) as beside:
        frames[0].save(beside, save_all=True, append_images=frames[1:], duration=100, loop=0)


if __name__ == "__main__":
    film(*sys.argv[1:])
