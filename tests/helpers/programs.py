"""Programs in processes of their own: run to their end, or killed on the way."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any


def ended(command: Sequence[Any], cwd: Path | None, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    """A program that has ended, however it did."""
    return subprocess.run(list(map(str, command)), cwd=cwd, env=env, capture_output=True, text=True, check=False)


def output_of(command: Sequence[Any], cwd: Path | None, env: Mapping[str, str]) -> str:
    """What a program printed. Fails if it does."""
    done = ended(command, cwd, env)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    return done.stdout


def killed_at_its_first_checkpoint(command: Sequence[Any], cwd: Path, env: Mapping[str, str], folder: Path) -> Path:
    """Kill a training of rl_zoo3's that would go on for hours; the checkpoint, whose statistics are written last.

    :param folder: of the training
    """
    process = subprocess.Popen(list(map(str, command)), cwd=cwd, env=env, stdout=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 120
        while not list(folder.glob("rl_model_vecnormalize_*.pkl")):
            assert process.poll() is None
            assert time.monotonic() < until
            time.sleep(0.1)
    finally:
        process.send_signal(signal.SIGKILL)
        process.wait()
    first = min(folder.glob("rl_model_vecnormalize_*.pkl"))
    return first.with_name(f"{first.stem.replace('vecnormalize_', '')}.zip")
