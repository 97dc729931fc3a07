"""What the zoo's plots read and show."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pandas as pd
from matplotlib import pyplot as plt
from stable_baselines3.common.monitor import get_monitor_files, load_results


def load_run_results(folder: str) -> pd.DataFrame:
    """Monitor files of a folder of the zoo, or of ``sb3-multitask train``, which keeps them in ``monitor/``.

    :raises LoadMonitorResultsError: if there are none
    """
    inner = Path(folder) / "monitor"
    return load_results(str(inner) if inner.is_dir() and not get_monitor_files(folder) else folder)


@contextmanager
def saved_figures(path: Path | None) -> Iterator[None]:
    """Save what is drawn inside instead of showing it; several figures become ``<name>_1.png``, ...

    :param path: where; ``None``: show
    :raises ValueError: if there is nothing in a figure
    """
    if path is None:
        yield
        return
    with patch.object(plt, "show"):
        yield
    numbers = plt.get_fignums()
    empty = [number for number in numbers if not any(axes.has_data() for axes in plt.figure(number).axes)]
    if empty:
        titles = ", ".join(repr(plt.figure(number).get_label()) for number in empty)
        raise ValueError(
            f"Nothing to draw in {titles}: -f, -a and -e find no run, or none that is long enough (plot_train needs "
            "as many episodes as -w says, 100 by default: try -w 20; all_plots needs two evaluations)"
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    for i, number in enumerate(numbers, start=1):
        place = path if len(numbers) == 1 else path.with_stem(f"{path.stem}_{i}")
        plt.figure(number).savefig(place)
        print(f"Figure: {place}")  # noqa: T201
