"""Every variant can be drawn without a display, through EGL or OSMesa."""

import os
import subprocess
import sys

import pytest

# MuJoCo chooses its renderer when it is imported: one process per renderer draws everything.
DRAW_ALL = """
import gymnasium as gym, numpy as np
import sb3_multitask
from sb3_multitask.envs import VARIANTS
for env_id in VARIANTS:
    env = gym.make(env_id, render_mode="rgb_array", width=64, height=48)
    env.reset(seed=0)
    first = env.render()
    for _ in range(5):
        env.step(np.ones(env.action_space.shape, dtype=np.float32))
    then = env.render()
    env.close()
    assert first.shape == (48, 64, 3) and first.dtype == np.uint8, (env_id, first.shape, first.dtype)
    assert first.std() > 5, f"{env_id}: an empty picture"
    assert (first != then).any(), f"{env_id}: the picture stands still"
    print(env_id)
"""


def draw_all(renderer):
    environment = {**os.environ, "MUJOCO_GL": renderer}
    return subprocess.run(
        [sys.executable, "-c", DRAW_ALL], env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.slow
def test_all_variants_can_be_drawn():
    runs = {renderer: draw_all(renderer) for renderer in ("egl", "osmesa")}
    if not any(run.stdout for run in runs.values()):
        pytest.skip(f"no renderer is at hand: {runs['egl'].stderr.strip().splitlines()[-1]}")
    assert any(run.returncode == 0 and len(run.stdout.split()) == 77 for run in runs.values()), {
        renderer: run.stderr[-500:] for renderer, run in runs.items()
    }
