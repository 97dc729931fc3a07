"""Draw the way from ``env.step`` to the gradient, concepts.svg next to this file.

python docs/pictures/concepts.py
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

HERE = Path(__file__).parent
TASKS = {"E1": "#9ecae1", "E2": "#fdae6b", "En": "#a1d99b"}
PLAIN, EDGE, SOFT = "#f2f2f2", "#444444", "#8a8a8a"


def box(ax: Axes, x: float, y: float, width: float, height: float, text: str, color: str = PLAIN) -> None:
    """A box from its lower left corner; the first line of its text is bold."""
    shape = FancyBboxPatch((x, y), width, height, boxstyle="round,pad=0,rounding_size=0.6", fc=color, ec=EDGE, lw=1)
    ax.add_patch(shape)
    title, _, rest = text.partition("\n")
    lines = 1 + text.count("\n")
    top = y + height / 2 + 1.15 * (lines - 1)
    ax.text(x + width / 2, top, title, ha="center", va="center", fontsize=9, weight="bold")
    for i, line in enumerate(rest.split("\n") if rest else []):
        ax.text(x + width / 2, top - 2.3 * (i + 1), line, ha="center", va="center", fontsize=8)


def arrow(ax: Axes, points: Sequence[tuple[float, float]], text: str = "", at: tuple[float, float] = (0, 0)) -> None:
    """A line through points that ends in an arrow."""
    *corners, last = points
    xs, ys = zip(*corners, strict=True)
    ax.plot(xs, ys, color=EDGE, lw=1.2, solid_joinstyle="round")
    style = {"arrowstyle": "-|>", "color": EDGE, "lw": 1.2, "shrinkA": 0, "shrinkB": 0}
    ax.annotate("", xy=last, xytext=corners[-1], arrowprops=style)
    if text:
        ax.text(*at, text, ha="center", va="center", fontsize=8, style="italic")


def of_each_task(ax: Axes, x: float, y: float, width: float, texts: Sequence[str], height: float = 3.6) -> None:
    """Small boxes in the tasks' colours, one above the other."""
    for i, (text, color) in enumerate(zip(texts, TASKS.values(), strict=True)):
        box(ax, x, y - i * (height + 0.6), width, height, text, color)


def collect(ax: Axes) -> None:
    """Upper row: from the tasks to actions, and back."""
    ax.text(1, 61, "Collect: n_steps times", fontsize=11, weight="bold")
    of_each_task(ax, 1, 51, 9, ["task E1", "task E2", "task En"])
    box(ax, 15, 42.6, 17, 12, "MultiTaskVecEnv\nn_envs_per_task copies\nof every task,\none call steps all")
    box(ax, 37, 42.6, 19, 12, "MultiTaskVecNormalize\nmean and variance\nof each task\nby itself")
    box(ax, 61, 42.6, 13, 12, "observation\nDict(obs: Box,\ntask: Discrete)")
    box(ax, 79, 42.6, 9, 12, "trunk\nshared by\nall tasks")
    of_each_task(ax, 91.5, 51, 8, ["head 1", "head 2", "head n"])
    for x, width in ((10, 5), (32, 5), (56, 5), (74, 5), (88, 3.5)):
        arrow(ax, [(x, 48.6), (x + width, 48.6)])
    ax.text(90, 40.8, "a head: a Gaussian and a value", fontsize=8, ha="right", va="center", style="italic")
    text = "actions, from the head of each row's task"
    arrow(ax, [(95.5, 55), (95.5, 58.2), (23.5, 58.2), (23.5, 54.8)], text, (60, 59.6))


def update(ax: Axes) -> None:
    """Middle row: from the rollout to the gradient."""
    ax.text(1, 36, "Update: once per rollout", fontsize=11, weight="bold")
    box(
        ax,
        74,
        20.6,
        25.5,
        12,
        "rollout buffer\nn_steps x n_envs rows, each with its\ntask; GAE from the values of the\nrow's own value head",
    )
    of_each_task(ax, 51, 29, 17, ["loss of E1's rows", "loss of E2's rows", "loss of En's rows"])
    box(ax, 31, 20.6, 14, 12, "mean of all rows\npolicy, value and\nentropy terms;\nKL to teachers")
    box(
        ax,
        1,
        20.6,
        24,
        12,
        "one step of RMSprop\ntrunk: gradient of all rows\nhead i: of task i's rows, and\nof no others",
    )
    arrow(ax, [(95.5, 42.6), (95.5, 32.8)], "rows: observation, action, reward, value", (81, 37.5))
    for start, end in ((74, 68), (51, 45), (31, 25)):
        arrow(ax, [(start, 26.6), (end, 26.6)])


def schedules(ax: Axes) -> None:
    """Lower row: the two schedules as timelines."""
    ax.text(1, 14.5, "Two schedules", fontsize=11, weight="bold")
    colors = list(TASKS.values())
    for y, name in ((8.2, '"joint"'), (1.5, '"cycle"')):
        ax.text(1, y + 1.6, name, fontsize=9, va="center", family="monospace")
        arrow(ax, [(10, y - 0.7), (99, y - 0.7)])
    for k in range(5):
        x = 10.5 + 17.5 * k
        for i, color in enumerate(colors):
            ax.add_patch(FancyBboxPatch((x, 10.5 - 1.25 * i), 12.5, 1.1, boxstyle="square,pad=0", fc=color, ec="none"))
        _update_mark(ax, x + 14.6, 8.2)
    for k in range(10):
        x = 10.5 + 8.75 * k
        patch = FancyBboxPatch((x, 2.0), 5, 1.9, boxstyle="square,pad=0", fc=colors[k % 3], ec="none")
        ax.add_patch(patch)
        _update_mark(ax, x + 6.6, 1.5)
    ax.text(99.5, 14.6, "colour: whose rollout;  ▲: an update", fontsize=8, ha="right", color=SOFT)


def _update_mark(ax: Axes, x: float, y: float) -> None:
    ax.text(x, y + 1.5, "▲", fontsize=9, ha="center", va="center", color=EDGE)


def main() -> None:
    mpl.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "concepts"})  # text stays text, files comparable
    figure = Figure(figsize=(11, 6.9), facecolor="white")
    ax = figure.add_axes((0.01, 0.01, 0.98, 0.98))
    ax.set(xlim=(0, 100.5), ylim=(0, 63))
    ax.axis("off")
    collect(ax)
    update(ax)
    schedules(ax)
    figure.savefig(HERE / "concepts.svg", metadata={"Date": None, "Title": "From env.step to the gradient"})


if __name__ == "__main__":
    main()
