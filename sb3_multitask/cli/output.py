"""What commands print, and the exit code of one that a signal ended."""

from __future__ import annotations

import signal
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from sb3_multitask.many_tasks import AT_EACH_END, gap, shown_tasks, shown_words

console = Console()


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """What shells expect of a process that a signal ended: 128 and the signal's number."""
    name = str(interrupt).partition(":")[0]
    return 128 + (signal.Signals[name] if name in signal.Signals.__members__ else signal.SIGINT)


def results_table(results: Any, title: str, where_all_are: str = "") -> Table:
    """Tasks as rows, moments (before, after) as columns: mean ± standard deviation over episodes.

    A moment in which a task says success has a column of success rates too. Of more than 20 tasks it shows the ten with
    the lowest and the ten with the highest mean return of the last moment, and the mean over all.

    :param where_all_are: what has all tasks, for the caption of a table that has not
    """
    from sb3_multitask.evaluation.results import mean_success_rate, percent

    table = Table(title=title, caption="mean ± standard deviation over episodes")
    *_, last = results.values()
    shown = shown_tasks({task: result.mean_reward for task, result in last.items()})
    if len(shown) < len(last):
        table.caption = f"{table.caption}; {shown_words(len(last))}{where_all_are and f'; {where_all_are}'}"
    table.add_column("task")
    cells: dict[str, list[str]] = {task: [] for task in next(iter(results.values()))}
    means = []
    for moment, column in results.items():
        rate = mean_success_rate(column.values())
        table.add_column(moment, justify="right")
        for task, row in cells.items():
            row.append(f"{column[task].mean_reward:.1f} ± {column[task].std_reward:.1f}")
        means.append(f"{sum(result.mean_reward for result in column.values()) / len(column):.1f}")
        if rate is not None:
            table.add_column("success" if len(results) == 1 else f"success {moment}", justify="right")
            for task, row in cells.items():
                row.append(percent(column[task].success_rate))
            means.append(percent(rate))
    for i, task in enumerate(shown):
        if i == AT_EACH_END and len(shown) < len(cells):
            table.add_row(gap(len(cells)))
        table.add_row(escape(task), *cells[task])
    table.add_section()
    table.add_row("mean over tasks", *means)
    return table
