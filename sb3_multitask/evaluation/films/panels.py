"""One picture of all tasks: panels side by side, with names and returns."""

from __future__ import annotations

import math
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont, ImageOps

from sb3_multitask.evaluation.films.playing import Shot

_MARGIN, _FONT_SIZE = 6, 16  # pixels


def grid_of(shots: Sequence[Shot], names: Sequence[str], size: tuple[int, int] = (320, 240)) -> Image.Image:
    """Arrange panels in rows, with as many columns as rows or one more; each has its task's name, return and step.

    :param shots: one of each task
    :param names: names of the tasks
    :param size: width and height of a panel in pixels; pictures of another shape get bars
    """
    n_columns = math.ceil(math.sqrt(len(shots)))
    n_rows = math.ceil(len(shots) / n_columns)
    width, height = size
    picture = Image.new("RGB", (n_columns * width, n_rows * height))
    for i, (shot, name) in enumerate(zip(shots, names, strict=True)):
        row, column = divmod(i, n_columns)
        picture.paste(_panel(shot, name, size), (column * width, row * height))
    return picture


def _panel(shot: Shot, name: str, size: tuple[int, int]) -> Image.Image:
    panel = ImageOps.pad(Image.fromarray(shot.image).convert("RGB"), size)
    draw = ImageDraw.Draw(panel)
    font = ImageFont.load_default(_FONT_SIZE)
    episode = f", episode {shot.episode}" if shot.episode > 1 else ""
    lines = (name, f"return {shot.total_reward:.1f}, step {shot.length}{episode}")
    for number, line in enumerate(lines):
        text = _shortened(line, font, size[0] - 2 * _MARGIN)
        position = (_MARGIN, _MARGIN + number * (_FONT_SIZE + 4))
        draw.text(position, text, font=font, fill="white", stroke_width=1, stroke_fill="black")
    return panel


def _shortened(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """Shorten a text to at most ``width`` pixels, with dots at the end."""
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}...") > width:
        text = text[:-1]
    return f"{text}..."
