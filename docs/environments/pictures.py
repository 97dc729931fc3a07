"""Render a picture of every variant, and write the galleries of the pages in this folder.

MUJOCO_GL=egl python docs/environments/pictures.py
"""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
from PIL import Image

from sb3_multitask.envs import VARIANTS

HERE = Path(__file__).parent
PAGES = {
    "morphology": ["morphology"],
    "gravity": ["gravity"],
    "walls_and_sensors": ["wall", "sensor"],
    "stairs_and_maze": ["stairs", "maze"],
    "arms": ["arm"],
    "standup_and_run": ["standup_and_run"],
}
BEGIN, END = "<!-- gallery: made by pictures.py -->", "<!-- end of the gallery -->"
CAMERAS = {
    "HalfCheetah": {"distance": 3.4, "trackbodyid": 1},
    "Hopper": {"distance": 3.2, "trackbodyid": 1},
    "Walker2d": {"distance": 3.4, "trackbodyid": 1},
    "Humanoid": {"distance": 3.6, "trackbodyid": 1},
    "Ant": {"distance": 4.0, "trackbodyid": 1},
}
WIDER = {"wall": {"distance": 6.0}, "stairs": {"distance": 9.0}, "maze": {"distance": 14.0, "elevation": -50.0}}


def picture(env_id: str) -> Path:
    """Render a variant in its first state, as a small PNG."""
    variant = VARIANTS[env_id]
    camera = {**CAMERAS.get(variant.robot, {}), **WIDER.get(variant.family, {})}
    kwargs = {"default_camera_config": camera} if camera else {}
    env = gym.make(env_id, render_mode="rgb_array", width=240, height=180, **kwargs)
    env.reset(seed=0)
    pixels = np.asarray(env.render(), dtype=np.uint8)
    env.close()
    path = HERE / "images" / f"{env_id}.png"
    Image.fromarray(pixels).quantize(64).save(path, optimize=True)
    return path


def gallery(families: list[str], columns: int = 4) -> str:
    """A table of pictures with their ids."""
    ids = [env_id for env_id, variant in VARIANTS.items() if variant.family in families]
    cells = [f"![{env_id}](images/{picture(env_id).name})<br>`{env_id}`" for env_id in ids]
    cells += [""] * (-len(cells) % columns)
    rows = [cells[i : i + columns] for i in range(0, len(cells), columns)]
    lines = ["|" + " |" * columns, "|" + "---|" * columns, *(f"| {' | '.join(row)} |" for row in rows)]
    return "\n".join(lines)


def main() -> None:
    (HERE / "images").mkdir(exist_ok=True)
    for page, families in PAGES.items():
        path = HERE / f"{page}.md"
        text = path.read_text(encoding="utf-8")
        before, _, rest = text.partition(BEGIN)
        _, _, after = rest.partition(END)
        path.write_text(f"{before}{BEGIN}\n\n{gallery(families)}\n\n{END}{after}", encoding="utf-8")


if __name__ == "__main__":
    main()
