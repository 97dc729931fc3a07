"""What commands print, and the exit code of one that a signal ended."""

from __future__ import annotations

import signal
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table

console = Console()


def exit_code(interrupt: KeyboardInterrupt) -> int:
    """What shells expect of a process that a signal ended: 128 and the signal's number."""
    name = str(interrupt).partition(":")[0]
    return 128 + (signal.Signals[name] if name in signal.Signals.__members__ else signal.SIGINT)


def results_table(results: Any, title: str) -> Table:
    """Tasks as rows, moments (before, after) as columns: mean ± standard deviation over episodes."""
    table = Table(title=title, caption="mean ± standard deviation over episodes")
    table.add_column("task")
    for moment in results:
        table.add_column(moment, justify="right")
    columns = list(results.values())
    for task in columns[0]:
        table.add_row(escape(task), *(f"{c[task].mean_reward:.1f} ± {c[task].std_reward:.1f}" for c in columns))
    means = [sum(r.mean_reward for r in column.values()) / len(column) for column in columns]
    table.add_section()
    table.add_row("mean over tasks", *(f"{mean:.1f}" for mean in means))
    return table
