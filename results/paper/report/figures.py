"""The paper's figures from a grid's runs, and the curves of the ablation and of the control."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from results.paper.report.comparisons import changes
from results.paper.report.methods import BODIES, FINETUNING, METHODS, Method
from sb3_multitask.experiments.report import Curve, Panel, Run, Sides, draw_panels, draw_sides, select


def draw_paper_figures(runs: Sequence[Run], preset: str, folder: Path) -> list[Path]:
    """The paper's Figures 2 to 8, as far as there are runs; the SVG files, each with a PNG beside it."""
    figures: dict[str, list[Panel]] = {
        f"figure_2_{preset}": [
            (f"{source} to {target}, on {body}", select(runs, preset, f"finetune_{source}_to_{target}"), body)
            for source, target in FINETUNING
            for body in (target, source)
        ]
    }
    for number, body in enumerate(BODIES, start=3):
        figures[f"figure_{number}_{preset}"] = [
            (f"{body}, {name}", Method(preset, name).of_body(runs, body), body) for name in METHODS
        ]
    return [
        draw_panels(
            panels,
            folder / f"{name}.svg",
            "steps of fine-tuning" if name.startswith("figure_2") else "steps of this body",
        )
        for name, panels in figures.items()
        if any(panel_runs for _, panel_runs, _ in panels)
    ]


def draw_control(runs: Sequence[Run], preset: str, base: str, folder: Path) -> list[Path]:
    """Single tasks with a preset's settings, with the base preset's, and the base's vanilla: a panel a body."""
    methods = [Method(base, "scratch"), Method(preset, "alone"), Method(base, "vanilla")]
    panels = {
        body: {method.name: [c[body] for c in _curves(method.of_body(runs, body)) if body in c] for method in methods}
        for body in BODIES
    }
    return draw_sides(panels, folder / f"control_{preset}.svg", "steps of this body")


def draw_changes(runs: Sequence[Run], preset: str, base: str, folder: Path) -> list[Path]:
    """Every run ``<method>_<change>`` beside the base's method, same seeds: a panel a change, mean of the bodies."""
    panels: dict[str, Sides] = {}
    for method, change, changed, original in changes(runs, preset, base):
        panels[f"{method}: {change}"] = {
            label: [_mean_curve(curves) for curves in _curves(side) if set(BODIES) <= set(curves)]
            for label, side in ((base, original), ("changed", changed))
        }
    return draw_sides(panels, folder / f"ablation_{preset}.svg", "steps of a body, mean of the six")


def _curves(runs: Sequence[Run]) -> list[dict[str, Curve]]:
    return [run.curves() for run in runs]


def _mean_curve(curves: Mapping[str, Curve]) -> Curve:
    """Steps of a body, and the mean over the bodies, which are evaluated at the same time."""
    steps, returns = zip(*(curves[body] for body in BODIES), strict=True)
    return np.mean(steps, axis=0), np.mean(returns, axis=0)
