"""Show a film on the screen, in a window of GLFW, which MuJoCo installs."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterable
from typing import Any

import glfw
import mujoco
import numpy as np
from PIL import Image

_SCREENS = ("DISPLAY", "WAYLAND_DISPLAY")


def has_display() -> bool:
    """Return whether a window can be opened, by the environment's variables."""
    return not sys.platform.startswith("linux") or any(os.environ.get(name) for name in _SCREENS)


def show(pictures: Iterable[Image.Image], fps: float, title: str) -> None:
    """Show pictures until they end, or the window is closed (or Escape pressed).

    :param fps: pictures per second, at most
    :raises RuntimeError: if no window can be opened
    """
    pictures = iter(pictures)
    first = next(pictures)  # rendered before the window opens
    if not glfw.init():
        raise RuntimeError("No window can be opened: GLFW finds no display")
    try:
        window = glfw.create_window(first.width, first.height, title, None, None)
        if not window:
            raise RuntimeError("No window can be opened: GLFW finds no OpenGL")
        glfw.make_context_current(window)
        glfw.swap_interval(0)  # the clock below sets the pace
        context = mujoco.MjrContext(mujoco.MjModel.from_xml_string("<mujoco/>"), mujoco.mjtFontScale.mjFONTSCALE_100)
        _draw(window, context, first)
        due = time.monotonic()
        for picture in pictures:
            due = max(due + 1 / fps, time.monotonic() - 1 / fps)  # do not catch up after a delay
            time.sleep(max(due - time.monotonic(), 0.0))
            _draw(window, context, picture)
            if glfw.window_should_close(window) or glfw.get_key(window, glfw.KEY_ESCAPE) == glfw.PRESS:
                return
    finally:
        glfw.terminate()


def _draw(window: Any, context: mujoco.MjrContext, picture: Image.Image) -> None:
    size = glfw.get_framebuffer_size(window)
    if size != picture.size and min(size) > 0:
        picture = picture.resize(size)
    pixels = np.ascontiguousarray(np.asarray(picture)[::-1])  # OpenGL's first row is the bottom
    mujoco.mjr_drawPixels(pixels.ravel(), None, mujoco.MjrRect(0, 0, *picture.size), context)
    glfw.swap_buffers(window)
    glfw.poll_events()
