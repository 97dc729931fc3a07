"""How soon a method reaches a return."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from results.paper.report.methods import BODIES, METHODS, Method, by_common_seed, millions, stacked
from sb3_multitask.experiments.report import Run, Table


def frames_to_reach(runs: Sequence[Run], preset: str, level: float = 1000) -> Table:
    """How many frames of a body a method needs until an evaluation while training reaches ``level``."""
    looks = _spacing(runs, preset)
    found = {name: stacked(_first_frames(runs, Method(preset, name), level, looks)) for name in METHODS}
    rows = []
    for name, frames in found.items():
        within = [f"{np.mean(frames <= budget):.2f}" if frames.size else "-" for budget in (1e6, 3e6)]
        if name != "scratch":
            within[1] = ""  # these end at 1M
        each = "; ".join(f"{body} {_median(column)}" for body, column in zip(BODIES, frames.T, strict=True))
        rows.append([name, *within, _median(frames.ravel()), each if frames.size else "", str(len(frames))])
    return Table(
        f"reaching_{preset}",
        f"Frames until a return of {level:.0f} ({preset})",
        f"At evaluations while training, one every {millions(looks)} frames of a body, for all methods: the share of "
        f"(seed, body) whose curve reaches {level:.0f} within 1M and 3M frames of that body; the median of the first "
        "such frame, of all and of each body, or how many reach it where that is not half. A distilled student's "
        "frames are its own; its teachers had theirs before.",
        ["method", "within 1M", "within 3M", "median frames", "each body", "seeds"],
        rows,
    )


def _spacing(runs: Sequence[Run], preset: str) -> float:
    """Frames of a body between two evaluations, of the method that has the fewest; 0 without curves."""
    curves = [run.curves()[b] for name in METHODS for b in BODIES for run in Method(preset, name).of_body(runs, b)]
    return max((float(np.median(np.diff(steps, prepend=0))) for steps, _ in curves if len(steps)), default=0.0)


def _first_frames(runs: Sequence[Run], method: Method, level: float, looks: float) -> dict[int, np.ndarray]:
    """Seed -> frames of each body at its first evaluation at ``level`` or above, infinite if there is none, (6,).

    :param looks: only evaluations at multiples of so many frames are seen
    """

    def first(steps: np.ndarray, values: np.ndarray) -> float:
        wanted = np.arange(looks, steps[-1] + looks / 100, looks)
        seen = np.unique(np.abs(steps[:, None] - wanted).argmin(axis=0))
        return float(np.min(steps[seen][values[seen] >= level], initial=np.inf))

    curves = ({run.seed: run.curves() for run in method.of_body(runs, body)} for body in BODIES)
    return by_common_seed(
        {seed: first(*curve[body]) for seed, curve in column.items() if len(curve.get(body, ((),))[0])}
        for body, column in zip(BODIES, curves, strict=True)
    )


def _median(frames: np.ndarray) -> str:
    if not frames.size:
        return "-"
    median = np.median(frames)
    return millions(median) if np.isfinite(median) else f"({np.isfinite(frames).sum()} of {frames.size})"
