"""Run the missing runs of a grid, in order, with a live display.

Only the folders hold state. A grid that was killed at any moment and is started again runs what is missing, each run
from its newest checkpoint. A folder's lock prevents two grids from running the same run. A runner starts the runs: as
processes of this machine (:mod:`~sb3_multitask.experiments.local_runner`) or on a Ray cluster
(:mod:`~sb3_multitask.experiments.ray_runner`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from sb3_multitask.experiments.grid import GridRun, prepare
from sb3_multitask.experiments.progress import read_progress, steps_of
from sb3_multitask.experiments.run_folder import FolderInUseError, RunFolder
from sb3_multitask.experiments.signals import stopping_on_signals

_POLL_SECONDS = 0.5


class Job(Protocol):
    """A run that was started."""

    def poll(self) -> str | None:
        """Return None while it runs; then an empty text, or the reason of its failure."""

    def stop(self) -> None:
        """Request a checkpoint and the run's end; return at once."""

    def wait(self) -> None:
        """Wait until it has ended."""


Launch: TypeAlias = Callable[[GridRun], Job]


@dataclass
class Outcome:
    """The outcome of a grid, as keys of its runs."""

    finished: list[str]
    failed: dict[str, str]
    left_out: list[str]

    @property
    def is_complete(self) -> bool:
        return not self.failed and not self.left_out


def run_grid(runs: Sequence[GridRun], launch: Launch, n_at_once: int, console: Console) -> Outcome:
    """Run the missing runs of a grid, with a live display.

    If a run fails, the runs that need it are left out, and the others continue.

    :param runs: in the order in which they should start
    :param launch: function that starts a run
    :param n_at_once: number of runs at a time
    :param console: console of the display
    :raises KeyboardInterrupt: on Ctrl-C or SIGTERM, after every run has written a checkpoint
    """
    failed: dict[str, str] = {}
    for run in runs:
        try:
            prepare(run)  # raises on a changed config before any run starts
        except OSError as e:
            failed[run.key] = str(e)
    with stopping_on_signals(), _Display(runs, console) as display:
        scheduler = _Scheduler(runs, launch, n_at_once, display, failed)
        try:
            scheduler.work()
        finally:
            scheduler.stop()
    return scheduler.outcome()


class _Scheduler:
    def __init__(
        self, runs: Sequence[GridRun], launch: Launch, n_at_once: int, display: _Display, failed: dict[str, str]
    ) -> None:
        self.runs, self.launch, self.n_at_once, self.display = runs, launch, n_at_once, display
        self.jobs: dict[str, Job] = {}
        self.failed = failed
        self.finished = {run.key for run in runs if _status(run) == "finished"}
        self.left_out: set[str] = set()

    def work(self) -> None:
        while True:
            self._collect()
            self._start()
            self.display.update(self.finished, self.failed, set(self.jobs))
            if not self.jobs and not self._waiting():
                return
            time.sleep(_POLL_SECONDS)

    def _waiting(self) -> list[GridRun]:
        """Return the runs that can still be started, now or later."""
        over = self.finished | set(self.failed) | set(self.jobs)
        changed = True
        while changed:
            lost = set(self.failed) | self.left_out
            blocked = {run.key for run in self.runs if set(run.needs) & lost} - self.left_out - over
            self.left_out |= blocked
            changed = bool(blocked)
        return [run for run in self.runs if run.key not in over | self.left_out]

    def _start(self) -> None:
        for run in self._waiting():
            if len(self.jobs) >= self.n_at_once:
                return
            if set(run.needs) <= self.finished:
                try:
                    self.jobs[run.key] = self.launch(run)
                except OSError as e:  # its folder is not writable
                    self.failed[run.key] = str(e)

    def _collect(self) -> None:
        """Check which jobs have ended, and record their outcomes."""
        by_key = {run.key: run for run in self.runs}
        for key, job in list(self.jobs.items()):
            failure = job.poll()
            if failure is None:
                continue
            del self.jobs[key]
            folder = RunFolder(by_key[key].folder)
            status = folder.read_status()
            if status.get("status") == "finished":  # by this job, or by another process that had the lock
                self.finished.add(key)
            elif folder.is_locked():
                time.sleep(_POLL_SECONDS)  # another process, perhaps one that outlived its grid, has the lock: retry
            else:
                reason = str(status.get("reason") or failure or "ended without a word")
                if status.get("status") == "running":  # it was killed before it could write its status
                    with suppress(OSError, FolderInUseError), folder.locked():
                        folder.write_death(reason)
                self.failed[key] = f"{reason} (see {folder.log})"

    def stop(self) -> None:
        """Stop all jobs that still run, with a checkpoint, and wait for their ends."""
        for job in self.jobs.values():
            job.stop()
        for job in self.jobs.values():
            job.wait()

    def outcome(self) -> Outcome:
        order = [run.key for run in self.runs]
        return Outcome(
            [key for key in order if key in self.finished], self.failed, [key for key in order if key in self.left_out]
        )


def _status(run: GridRun) -> str | None:
    return RunFolder(run.folder).read_status().get("status")


class _Display:
    """A line for the grid and a line for every active run."""

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
    """Return the environment steps of a run so far, by its log and checkpoints if they can be read."""
    folder = RunFolder(path)
    steps = folder.steps_of_checkpoints()
    with suppress(OSError, ValueError):
        header, rows = read_progress(folder.progress)
        steps += [n for row in rows[-1:] if (n := steps_of(header, row)) is not None]
    return max(steps, default=0)
