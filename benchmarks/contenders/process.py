"""Run a contender as a process of its own, in its virtual environment, and read what it prints."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import tempfile
import threading
import time
import venv
from collections import defaultdict, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.contenders.entries import Contender
from benchmarks.contenders.progress import PREFIX

ROOT = Path(__file__).parents[2]
PEERS = ROOT / "benchmarks" / "peers.txt"
SECONDS_TO_STOP = 60.0
"""A contender that is still compiling or updating so long after its cap is killed."""


def make_peers_venv(folder: Path) -> Path:
    """Make the peers' virtual environment unless it is there and complete; return its Python."""
    python = folder / "bin" / "python"
    installed, wanted = folder / "installed.txt", PEERS.read_text()
    if not installed.exists() or installed.read_text() != wanted:
        print(f"installing {PEERS.name} into {folder} (some minutes, 3 GB) ...", flush=True)
        venv.create(folder, with_pip=True, clear=folder.exists())
        command = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-r", str(PEERS)]
        subprocess.run(command, check=True)  # noqa: S603
        installed.write_text(wanted)  # comes last, so that an interrupted installation is repeated
    return python


def run(contender: Contender, python: str, config: Path, seed: int, settings: dict[str, Any]) -> dict[str, Any]:
    """Run a contender and return its results.

    :param settings: ``scores``, ``window`` and ``cap`` of :class:`benchmarks.contenders.progress.Progress`
    :raises RuntimeError: if it fails; with the end of its output
    """
    arguments = [argument.replace("{config}", str(config.resolve())) for argument in contender.arguments]
    command = [python, "-m", f"benchmarks.contenders.{contender.module}", *arguments, "--seed", str(seed)]
    command += ["--window", str(settings["window"]), "--cap", str(settings["cap"])]
    command += ["--scores", *map(str, settings["scores"])]
    lines: list[dict[str, Any]] = []
    output: deque[str] = deque(maxlen=30)
    busy, own = _busy_seconds(), _seconds_of_children()
    start = time.monotonic()
    with _started(command, settings["cap"] + SECONDS_TO_STOP) as process:
        for line in process.stdout or ():
            if line.startswith(PREFIX):
                lines.append(json.loads(line.removeprefix(PREFIX)))
            else:
                output.append(line)
    limit = settings["cap"] + SECONDS_TO_STOP
    if process.returncode == -signal.SIGKILL and time.monotonic() - start >= limit:  # it never looked at its cap
        lines += _end_of_killed(lines, limit)
    elif process.returncode:
        raise RuntimeError(f"{contender.name} ended with exit code {process.returncode}:\n{''.join(output)}")
    cpu = _seconds_of_children() - own
    others = None if busy is None else round(max(0.0, (_busy_seconds() or 0.0) - busy - cpu), 1)
    return {**summary_of(lines), "cpu_seconds": round(cpu, 1), "cpu_seconds_of_others": others}


def summary_of(lines: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the results in the lines of a contender.

    :raises RuntimeError: if it took no step or did not come to its end
    """
    by_kind = defaultdict(list)
    for line in lines:
        by_kind[line["kind"]].append({name: fact for name, fact in line.items() if name != "kind"})
    for kind in ("first step", "end"):
        if not by_kind[kind]:
            raise RuntimeError(f"the contender printed no {kind!r}")
    updates = [line["seconds"] for line in by_kind["update"]]
    return {
        "start_up": by_kind["first step"][0]["seconds"],
        "compiling": round(max(0.0, updates[0] - updates[1]), 3) if len(updates) == 2 else None,
        "passed": [[line["score"], line["seconds"], line["n_steps"]] for line in by_kind["passed"]],
        "end": by_kind["end"][0],
        "curve": [[line["seconds"], line["n_steps"], round(line["mean_return"])] for line in by_kind["return"]],
    }


def _end_of_killed(lines: Sequence[dict[str, Any]], seconds: float) -> list[dict[str, Any]]:
    """Return the lines that a contender would have printed that was killed after some seconds."""
    returns = [line for line in lines if line["kind"] == "return"]
    n_steps, mean_return = (returns[-1]["n_steps"], returns[-1]["mean_return"]) if returns else (0, None)
    end = {"kind": "end", "reason": "killed", "seconds": seconds, "n_steps": n_steps, "mean_return": mean_return}
    has_stepped = any(line["kind"] == "first step" for line in lines)
    return [*([] if has_stepped else [{"kind": "first step", "seconds": seconds}]), end]


@contextmanager
def _started(command: Sequence[str], seconds: float) -> Iterator[subprocess.Popen[str]]:
    """Start a process in a temporary folder; kill it and its children after some time or if the block raises."""
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(  # noqa: S603
            [*command, "--start", str(time.monotonic())],
            cwd=folder,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TORCHINDUCTOR_CACHE_DIR": f"{folder}/inductor"},
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

        def kill() -> None:
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)

        timer = threading.Timer(seconds, kill)
        timer.start()
        try:
            yield process
            process.wait()
        finally:
            timer.cancel()
            kill()
            process.wait()
            if process.stdout is not None:
                process.stdout.close()


def _busy_seconds() -> float | None:
    """Return the CPU time of all processes since the machine started, in seconds; None where it is unknown."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(int, fields[:8])
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _seconds_of_children() -> float:
    """Return the CPU time of the child processes that have ended, in seconds."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
