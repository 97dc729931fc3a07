"""Pictures in TensorBoard of how the gradients of tasks conflict."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.logger import Image, Logger, TensorBoardOutputFormat

from sb3_multitask.combiners import NETS, GradientCombining
from sb3_multitask.combiners.heat_map import draw_cosines

KEY = "conflict/cosines"
_MAX_IMAGES = 100  # in a training, however often conflicts are measured: drawing is slow
_OTHER_FORMATS = ("stdout", "log", "json", "csv")


def log_conflict_image(
    logger: Logger, combining: GradientCombining, task_names: Sequence[str], total_timesteps: int
) -> None:
    """Record a picture of the latest cosines, the actor's beside the critic's, if the logger writes to TensorBoard.

    Cosines are drawn once, and a hundredth of the training lies between two pictures.

    :param task_names: of all tasks
    :param total_timesteps: environment steps of the training
    """
    at, last = combining.measured_at, combining.drawn_at
    if at is None or not combining.cosines:
        return
    if not any(isinstance(one, TensorBoardOutputFormat) for one in logger.output_formats):
        return
    if last is not None and at < last + max(1, total_timesteps / _MAX_IMAGES):
        return
    logger.record(KEY, Image(_picture(combining, task_names), "HWC"), exclude=_OTHER_FORMATS)
    combining.drawn_at = at


def _picture(combining: GradientCombining, task_names: Sequence[str]) -> np.ndarray:
    """Return (height, width, 3) bytes."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # nothing else in a training needs matplotlib
    from matplotlib.figure import Figure

    nets = [net for net in NETS if net in combining.cosines]
    figure = Figure(figsize=(4.4 * len(nets), 3.8), dpi=100, layout="constrained")
    canvas: Any = FigureCanvasAgg(figure)
    for axis, net in zip(figure.subplots(1, len(nets), squeeze=False)[0], nets, strict=True):
        draw_cosines(axis, combining.cosines[net], task_names)
        axis.set_title(f"{net}, {combining.measured_at:,} steps", fontsize=9)
    canvas.draw()
    return np.asarray(canvas.buffer_rgba())[..., :3].copy()
