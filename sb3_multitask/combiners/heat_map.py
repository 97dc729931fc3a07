"""A picture of the cosines between the gradients of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sb3_multitask.many_tasks import MANY

_WITH_NUMBERS = 8  # up to so many tasks the cells have room for their numbers
_LONGEST_NAME = 24
_TICKS = (-1, -0.25, 0, 0.25, 1)


def draw_cosines(axis: Any, of_tasks: np.ndarray, task_names: Sequence[str]) -> None:
    """Draw cosines as a heat map: red below 0, where gradients conflict, blue above 0, and grey where they are NaN.

    Colours follow the signed root of a cosine, so that small ones show; they are the same in all pictures. The names
    of more than 20 tasks are left out.

    :param axis: of matplotlib, in a figure with a layout
    :param of_tasks: the cosines, (n_tasks, n_tasks)
    :param task_names: in the order of the rows, from the top
    """
    from matplotlib.colors import FuncNorm

    scale = FuncNorm((_signed_root, _signed_square), vmin=-1, vmax=1)
    image = axis.imshow(of_tasks, cmap="RdBu", norm=scale)
    axis.set_facecolor("0.8")
    bar = axis.figure.colorbar(image, ax=axis, ticks=_TICKS, shrink=0.8)
    bar.ax.tick_params(labelsize=7)
    n = len(task_names)
    if n > MANY:
        axis.set_xticks([])
        axis.set_yticks([])
        axis.set_xlabel(f"{n} tasks, in their order", fontsize=8)
        return
    names = [name if len(name) <= _LONGEST_NAME else f"{name[: _LONGEST_NAME - 1]}…" for name in task_names]
    axis.set_xticks(range(n), names, rotation=90, fontsize=7, parse_math=False)  # names are not formulas
    axis.set_yticks(range(n), names, fontsize=7, parse_math=False)
    if n <= _WITH_NUMBERS:
        for (row, column), cosine in np.ndenumerate(of_tasks):
            if np.isfinite(cosine):
                color = "white" if abs(cosine) > 0.3 else "black"
                axis.text(column, row, f"{cosine:z.2f}", ha="center", va="center", fontsize=6, color=color)


def _signed_root(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.sign(values) * np.sqrt(np.abs(values)))


def _signed_square(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.sign(values) * np.square(values))
