"""Write films as files: MP4 with ffmpeg, GIF with Pillow."""

from __future__ import annotations

import importlib.util
import io
import itertools
import tempfile
from collections.abc import Iterable, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from sb3_multitask.storage.files import SaveError, replacing

SUFFIXES = (".mp4", ".gif")
MAX_FPS = 50
"""Most pictures per second that viewers of GIFs show at the right speed."""


def check_film_path(path: str | Path) -> None:
    """Raise if a film cannot be written to ``path``.

    :raises ValueError: if its ending is neither MP4's nor GIF's
    :raises ImportError: if it is MP4, and the library for it is not installed
    :raises SaveError: if its folder, which is made, is not writable
    """
    path = Path(path)
    if path.suffix.lower() not in SUFFIXES:
        raise ValueError(f"A film's file must end in {' or '.join(SUFFIXES)} (got {str(path)!r})")
    if path.suffix.lower() == ".mp4" and importlib.util.find_spec("imageio_ffmpeg") is None:
        raise ImportError('MP4 needs imageio-ffmpeg: pip install "sb3-multitask[video]", or write a .gif')
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=path.parent):
            pass
    except OSError as e:
        raise SaveError(f"{path}: cannot be written ({e.strerror})") from e


def write_film(path: str | Path, pictures: Iterable[Image.Image], fps: float, n_colors: int = 128) -> None:
    """Write pictures of one size as a film.

    :param path: ends in ``.mp4`` or ``.gif``
    :param fps: pictures per second
    :param n_colors: number of colours of each picture of a GIF
    :raises ValueError: on another ending
    :raises ImportError: if the library for MP4 is not installed
    """
    check_film_path(path)
    with replacing(path) as temporary:
        if temporary.suffix.lower() == ".gif":
            temporary.write_bytes(gif_bytes(pictures, fps, n_colors))
        else:
            _write_mp4(temporary, pictures, fps)


def gif_bytes(pictures: Iterable[Image.Image], fps: float, n_colors: int = 128) -> bytes:
    """Return a GIF that repeats endlessly; see :func:`write_film`."""
    frames = [picture.quantize(n_colors) for picture in pictures]
    content = io.BytesIO()
    frames[0].save(
        content,
        format="GIF",
        save_all=True,
        append_images=frames[1:],
        duration=_durations(len(frames), fps),
        loop=0,
    )
    return content.getvalue()


def _durations(n_pictures: int, fps: float) -> Sequence[int]:
    """Return the duration of each picture in ms: multiples of 10, the unit of GIFs, without drift from ``fps``."""
    ends = [10 * round(100 * i / fps) for i in range(n_pictures + 1)]
    return [max(end - begin, 10) for begin, end in itertools.pairwise(ends)]


def _write_mp4(path: Path, pictures: Iterable[Image.Image], fps: float) -> None:
    import imageio.v2 as imageio

    writer: Any = imageio.get_writer(path, format="FFMPEG", mode="I", fps=fps, quality=7)
    with closing(writer):  # the writer's own `with` leaves ffmpeg running after an error
        for picture in pictures:
            writer.append_data(np.asarray(picture))
