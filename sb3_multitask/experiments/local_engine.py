"""Runs a grid with local processes, one per core.

Every run is a process of its own, ``sb3-multitask train --resume <folder>``, with one thread. The folders are the only
truth: killed at any moment and started again, the grid goes on with what is missing, each run from its newest
checkpoint. A folder's lock keeps two grids from doing one run twice.
"""

from __future__ import annotations

import csv
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from sb3_multitask.checkpoint.format import list_checkpoints
from sb3_multitask.experiments.grid import GridRun, prepare
from sb3_multitask.experiments.run_folder import RunFolder
from sb3_multitask.experiments.signals import stopping_on_signals

_POLL_SECONDS = 0.5
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


@dataclass
class Outcome:
    """How a grid ended: keys of its runs."""

    finished: list[str]
    failed: dict[str, str]
    left_out: list[str]

    @property
    def is_complete(self) -> bool:
        return not self.failed and not self.left_out


def run_grid(runs: Sequence[GridRun], n_processes: int, console: Console) -> Outcome:
    """Run what is missing of a grid, with a live display.

    A run that fails does not stop the others; those that need it are left out.

    :param runs: in the order in which they should start
    :param n_processes: runs at a time
    :param console: where the display goes
    :raises KeyboardInterrupt: on Ctrl-C or SIGTERM, after every run has written a checkpoint
    """
    for run in runs:
        prepare(run)  # a changed config is noticed before anything starts
    with stopping_on_signals(), _Display(runs, console) as display:
        scheduler = _Scheduler(runs, n_processes, display)
        try:
            scheduler.work()
        finally:
            scheduler.stop()
    return scheduler.outcome()


class _Scheduler:
    def __init__(self, runs: Sequence[GridRun], n_processes: int, display: _Display) -> None:
        self.runs, self.n_processes, self.display = runs, n_processes, display
        self.processes: dict[str, subprocess.Popen[bytes]] = {}
        self.failed: dict[str, str] = {}
        self.finished = {run.key for run in runs if _status(run) == "finished"}
        self.left_out: set[str] = set()

    def work(self) -> None:
        while True:
            self._collect()
            self._start()
            self.display.update(self.finished, self.failed, set(self.processes))
            if not self.processes and not self._waiting():
                return
            time.sleep(_POLL_SECONDS)

    def _waiting(self) -> list[GridRun]:
        """Runs that can still be started, now or later."""
        over = self.finished | set(self.failed) | set(self.processes)
        changed = True
        while changed:
            lost = set(self.failed) | self.left_out
            blocked = {run.key for run in self.runs if set(run.needs) & lost} - self.left_out - over
            self.left_out |= blocked
            changed = bool(blocked)
        return [run for run in self.runs if run.key not in over | self.left_out]

    def _start(self) -> None:
        for run in self._waiting():
            if len(self.processes) >= self.n_processes:
                return
            if set(run.needs) <= self.finished:
                self.processes[run.key] = _launch(run)

    def _collect(self) -> None:
        """See which processes have ended, and how."""
        by_key = {run.key: run for run in self.runs}
        for key, process in list(self.processes.items()):
            code = process.poll()
            if code is None:
                continue
            del self.processes[key]
            folder = RunFolder(by_key[key].folder)
            status = folder.read_status()
            if code == 0 and status.get("status") == "finished":
                self.finished.add(key)
            elif folder.is_locked():
                time.sleep(_POLL_SECONDS)  # another process has it, perhaps one that outlived its grid: ask again
            else:
                reason = str(status.get("reason") or f"exit code {code}")
                self.failed[key] = f"{reason} (see {folder.log})"

    def stop(self) -> None:
        """Ask what still runs to write a checkpoint and end; wait for it."""
        for process in self.processes.values():
            process.send_signal(signal.SIGTERM)
        for process in self.processes.values():
            process.wait()

    def outcome(self) -> Outcome:
        order = [run.key for run in self.runs]
        return Outcome(
            [key for key in order if key in self.finished], self.failed, [key for key in order if key in self.left_out]
        )


def _status(run: GridRun) -> str | None:
    return RunFolder(run.folder).read_status().get("status")


def _launch(run: GridRun) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "sb3_multitask.cli", "train", "--resume", str(run.folder), "--no-progress"]
    with RunFolder(run.folder).log.open("ab") as log:
        return subprocess.Popen(  # noqa: S603
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            env={**os.environ, **dict.fromkeys(_THREADS, "1")},
            start_new_session=True,  # Ctrl-C reaches the grid, which tells its runs
        )


class _Display:
    """A line for the grid and one for every run under way."""

    def __init__(self, runs: Sequence[GridRun], console: Console) -> None:
        self.runs = {run.key: run for run in runs}
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=console,
            refresh_per_second=2,
        )
        self.whole = self.progress.add_task("[bold]runs", total=len(runs))
        self.lines: dict[str, TaskID] = {}

    def __enter__(self) -> _Display:
        self.progress.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        self.progress.stop()

    def update(self, finished: set[str], failed: dict[str, str], running: set[str]) -> None:
        for key in set(self.lines) - running:
            self.progress.remove_task(self.lines.pop(key))
            if key in failed:
                self.progress.console.print(f"[red]failed[/red] {key}: {failed[key]}", highlight=False)
            elif key in finished:
                self.progress.console.print(f"[green]finished[/green] {key}", highlight=False)
        for key in sorted(running):
            if key not in self.lines:
                self.lines[key] = self.progress.add_task(key, total=self.runs[key].config.n_timesteps)
            self.progress.update(self.lines[key], completed=steps_so_far(self.runs[key].folder))
        self.progress.update(self.whole, completed=len(finished), description=f"[bold]runs ({len(failed)} failed)")


def steps_so_far(path: Path) -> int:
    """How far a run has come, by its log and its checkpoints."""
    folder = RunFolder(path)
    steps = [int(checkpoint.name) for checkpoint in list_checkpoints(folder.checkpoints)[:1]]
    if folder.progress.exists():
        with folder.progress.open(encoding="utf-8") as file:
            rows = list(csv.DictReader(file))[-1:]
        steps += [int(row["time/total_timesteps"]) for row in rows if str(row.get("time/total_timesteps")).isdecimal()]
    return max(steps, default=0)
