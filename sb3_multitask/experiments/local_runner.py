"""Runs of a grid as processes of this machine: ``sb3-multitask train --resume <folder>``, one thread each."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress

from sb3_multitask.experiments.grid import GridRun
from sb3_multitask.experiments.run_folder import RunFolder

_PATIENCE = ((120, signal.SIGTERM), (30, signal.SIGKILL))
"""Seconds for a run to write a checkpoint and end, and the signal after them; a second SIGTERM ends it at once."""
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


class LocalJob:
    """A run in a separate process; its output goes to ``log.txt`` of its folder.

    :param run: the run of the grid
    :param modules: modules that register its environments
    """

    def __init__(self, run: GridRun, modules: Sequence[str] = ()) -> None:
        command = [sys.executable, "-m", "sb3_multitask.cli", "train", "--resume", str(run.folder)]
        command += ["--set-aside", "--no-progress"]
        command += [part for module in modules for part in ("--gym-packages", module)]
        with RunFolder(run.folder).log.open("ab") as log:
            self._process = subprocess.Popen(  # noqa: S603
                command,
                stdout=log,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env={**os.environ, **dict.fromkeys(_THREADS, "1")},
                start_new_session=True,  # Ctrl-C reaches only the grid, which stops its runs
            )

    def poll(self) -> str | None:
        code = self._process.poll()
        return f"exit code {code}" if code else None if code is None else ""

    def stop(self) -> None:
        self._process.send_signal(signal.SIGTERM)

    def wait(self) -> None:
        """Wait until the process has ended, and end it by signals if it hangs."""
        for seconds, next_signal in _PATIENCE:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
                return
            self._process.send_signal(next_signal)
        self._process.wait()
