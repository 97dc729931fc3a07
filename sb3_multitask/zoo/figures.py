"""rl_zoo3's plots as ``sb3-multitask plot``: the zoo's flags, and what they become."""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from sb3_multitask.zoo.playing import Refused, refuse
from sb3_multitask.zoo.programs import run_ours, run_zoos

_ITS_OWN = "use rl_zoo3's own program, which reads these folders too: python -m rl_zoo3.plots.{program}"
_REFUSED: Refused = {
    "figsize": (None, _ITS_OWN),
    "fontsize": (None, _ITS_OWN),
    "x_axis": ("steps", _ITS_OWN),
    "y_axis": ("reward", _ITS_OWN),
}


def own_flags(command: str, *, alone: bool) -> argparse.ArgumentParser:
    """What this package adds to a plot of the zoo.

    :param command: the plot's name
    :param alone: whether its help is printed alone, not before rl_zoo3's
    """
    flags = argparse.ArgumentParser(
        f"sb3_multitask.zoo {command}", add_help=alone, allow_abbrev=False, usage=None if alone else argparse.SUPPRESS
    )
    flags.add_argument("--save-figure", type=Path, metavar="FILE", help="the picture's file, such as curves.png")
    return flags


def plot_train(argv: Sequence[str]) -> None:
    """Training returns, as ``sb3-multitask plot --show training``."""
    flags = own_flags("plot_train", alone=True)
    flags.add_argument("-a", "--algo", required=True, help="folder in -f; `.` for folders of `sb3-multitask train`")
    flags.add_argument("-e", "--env", nargs="+", required=True, help="ids, or parts of the folders' names")
    flags.add_argument("-f", "--exp-folder", type=Path, required=True, help="folder of the algorithms' folders")
    flags.add_argument("-max", "--max-timesteps", type=int, help="environment steps over all tasks")
    flags.add_argument("-w", "--episode-window", type=int, default=100, help="episodes that a line is the mean of")
    flags.add_argument("-x", "--x-axis", default="steps", help=argparse.SUPPRESS)
    flags.add_argument("-y", "--y-axis", default="reward", help=argparse.SUPPRESS)
    flags.add_argument("--figsize", nargs=2, help=argparse.SUPPRESS)
    flags.add_argument("--fontsize", help=argparse.SUPPRESS)
    args = flags.parse_args(argv)
    refuse(args, _REFUSED, program="plot_train")
    runs = _runs([args.exp_folder / args.algo], args.env, "*.monitor.csv", "Training Episodic Reward")
    limit = [] if args.max_timesteps is None else ["--max-timesteps", str(args.max_timesteps)]
    shown = ["--show", "training", "--window", str(args.episode_window), *limit]
    run_ours(["plot", *map(str, runs), *shown, *_destination(args.save_figure)])


def all_plots(argv: Sequence[str]) -> None:
    """Rl_zoo3's table and its file for plot_from_file; the picture is ``sb3-multitask plot --show evaluations``.

    rl_zoo3's program runs as it is, without a display; only its end at 2M steps is moved to the end of the runs.
    """
    own = own_flags("all_plots", alone=False)
    options, argv = own.parse_known_args(argv)
    flags = argparse.ArgumentParser(add_help=False)
    flags.add_argument("-h", "--help", action="store_true")
    flags.add_argument("-a", "--algos", nargs="+", default=[])
    flags.add_argument("-e", "--env", nargs="+", default=[])
    flags.add_argument("-f", "--exp-folders", nargs="+", default=[])
    flags.add_argument("-max", "--max-timesteps", type=int)
    flags.add_argument("--no-display", action="store_true")
    args, _ = flags.parse_known_args(argv)
    if args.help:
        print(own.format_help())  # noqa: T201
    end = [] if args.max_timesteps is not None else ["-max", str(2**62)]
    run_zoos(
        "rl_zoo3.plots.all_plots",
        [*(value.replace("/", "-") if value in args.env else value for value in argv), "--no-display", *end],
    )
    if args.no_display and options.save_figure is None:
        return
    folders = [Path(folder, algo.lower()) for algo in args.algos for folder in args.exp_folders]
    for i, env in enumerate(args.env, start=1):
        runs = _runs(folders, [env], "evaluations.npz", f"Results {env}")
        path = options.save_figure
        if path is not None and len(args.env) > 1:
            path = path.with_stem(f"{path.stem}_{i}")
        limit = [] if args.max_timesteps is None else ["--max-timesteps", str(args.max_timesteps)]
        run_ours(["plot", *map(str, runs), "--show", "evaluations", "--group", *limit, *_destination(path)])


def plot_from_file(argv: Sequence[str]) -> None:
    """Rl_zoo3's program as it is, on the file that ``all_plots -o`` has written."""
    own = own_flags("plot_from_file", alone=False)
    options, argv = own.parse_known_args(argv)
    if {"-h", "--help"} & set(argv):
        print(own.format_help())  # noqa: T201
    with saved_figures(options.save_figure):
        run_zoos("rl_zoo3.plots.plot_from_file", argv)


def _runs(folders: Sequence[Path], envs: Sequence[str], files: str, title: str) -> list[Path]:
    """The runs of environments, as the zoo finds them: by a part of the folder's name; the oldest first.

    :param folders: of runs
    :param envs: ids, or parts of the names
    :param files: what a run must have to be drawn
    :param title: of the zoo's figure, for the message
    """
    names = [env.replace("/", "-") for env in envs]
    found = [
        path
        for name in names
        for folder in folders
        for path in sorted(folder.glob("*"), key=lambda path: path.stat().st_mtime)
        if name in path.name and path.is_dir() and (any(path.glob(files)) or any(path.glob(f"monitor/{files}")))
    ]
    if not found:
        raise ValueError(
            f"Nothing to draw in {title!r}: {', '.join(map(str, folders)) or '-f and -a'} has no run with {files} and "
            f"{' or '.join(names) or 'the name of -e'} in its folder's name"
        )
    return list(dict.fromkeys(found))


def _destination(path: Path | None) -> list[str]:
    """Flags that say where the picture goes: the file that was asked for, or the default place and the screen."""
    from sb3_multitask.evaluation.films.window import has_display

    if path is None:
        return ["--view"] if has_display() else []
    return ["--output", str(path)]


@contextmanager
def saved_figures(path: Path | None) -> Iterator[None]:
    """Save what rl_zoo3 draws inside instead of showing it; several figures become ``<name>_1.png``, ...

    :param path: of the picture; ``None`` shows the figures
    :raises ValueError: if there is nothing in a figure
    """
    if path is None:
        yield
        return
    from matplotlib import pyplot as plt

    plt.switch_backend("agg")  # which shows nothing
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="FigureCanvasAgg is non-interactive")
        yield
    numbers = plt.get_fignums()
    empty = [number for number in numbers if not any(axes.has_data() for axes in plt.figure(number).axes)]
    if empty:
        titles = ", ".join(repr(plt.figure(number).get_label()) for number in empty)
        raise ValueError(f"Nothing to draw in {titles}: the file of -i holds no runs for it")
    path.parent.mkdir(parents=True, exist_ok=True)
    for i, number in enumerate(numbers, start=1):
        place = path if len(numbers) == 1 else path.with_stem(f"{path.stem}_{i}")
        plt.figure(number).savefig(place)
        print(f"Figure: {place}")  # noqa: T201
