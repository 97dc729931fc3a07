"""Damage files of every kind that the package reads; each must be refused by name, quickly and in little memory.

python -m benchmarks.fuzz_files                 # 20,000 mutants, fixed seed, one worker per core
python -m benchmarks.fuzz_files --mutants 500   # a sample

Each mutant is read in a worker process with a limit on its memory; a worker that dies or hangs is replaced. A fault is

- an exception that is not one of our own named ones,
- a damaged file with a checksum that is accepted,
- a read of more than 5 s,
- a read of more memory than the file's size explains.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import platform
import resource
import shutil
import tempfile
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.file_kinds import KINDS, Kind, make_originals, own_errors
from benchmarks.file_mutations import mutate, mutate_member

RESULTS = Path(__file__).parents[1] / "results" / "faults" / "fuzz_files.json"
SEED, N_MUTANTS = 20_261_129, 20_000
MAX_SECONDS, HANG_SECONDS = 5.0, 30.0
_MIB = 2**20
FREE_BYTES, BYTES_PER_BYTE = 48 * _MIB, 30
"""Memory that reading may take: bytes for any file, and bytes per byte of the file."""
ADDRESS_SPACE = 4 * 2**30
"""Bytes that a worker may reserve beyond what it has when it starts."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of one mutant.

    :param verdict: refused, unchanged, changed, or the name of a fault
    """

    number: int
    kind: str
    verdict: str
    seconds: float
    mib: float
    detail: str = ""


def is_fault(outcome: Outcome) -> bool:
    return outcome.verdict not in ("refused", "unchanged", "changed")


def kind_of(number: int) -> Kind:
    """Return the kind of a mutant: numbers cycle through the kinds of files."""
    return KINDS[number % len(KINDS)]


def make_mutant(number: int, originals: Path, folder: Path) -> tuple[Kind, Path, int]:
    """Write the mutant of this number, from the valid files of a kind.

    :return: the kind, the path to read, and the size of the damaged file in bytes
    """
    kind, rng = kind_of(number), np.random.default_rng((SEED, number))
    target = folder / "mutant"
    shutil.rmtree(target, ignore_errors=True)
    shutil.copytree(originals / kind.name, target)
    files = [target / name for name in kind.files]
    victim = files[int(rng.integers(len(files)))]
    content = victim.read_bytes()
    is_sealed = kind.is_zip and rng.random() < 0.5
    content = mutate_member(content, rng) if is_sealed else mutate(content, kind.is_text(victim), rng)
    victim.write_bytes(content)
    has_checksum = kind.has_checksum and not is_sealed
    return (kind if has_checksum == kind.has_checksum else kind.resealed()), target, len(content)


def read_mutant(number: int, originals: Path, folder: Path, whole: dict[str, Any]) -> Outcome:
    """Read a mutant and return the outcome."""
    kind, target, n_bytes = make_mutant(number, originals, folder)
    before = _forget_peak()
    start, detail = time.perf_counter(), ""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            found = kind.read(target)
            verdict = "unchanged" if found == whole[kind.name] else "changed"
        except BaseException as e:  # the search is for foreign exceptions of any class
            found = None
            verdict = "refused" if own_errors(e, target) else "foreign exception"
            detail = "" if verdict == "refused" else traceback.format_exc(limit=-6)
    seconds = time.perf_counter() - start
    peak = _peak_bytes() - before
    if verdict == "changed" and kind.has_checksum and not warned:
        verdict, detail = "accepted in silence", f"{found!r:.300}"
    if verdict == "changed" and warned:
        verdict = "refused"  # a part of the file, with a warning
    if seconds > MAX_SECONDS:
        verdict, detail = "slow", f"{seconds:.1f} s"
    if peak > FREE_BYTES + BYTES_PER_BYTE * n_bytes:
        verdict, detail = "memory", f"{peak / _MIB:.0f} MiB for {n_bytes} bytes"
    return Outcome(number, kind.name, verdict, seconds, peak / _MIB, detail)


def _forget_peak() -> int:
    """Reset the peak of this process's memory, where the system can (Linux), and return the present memory in bytes."""
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return _peak_bytes()


def _peak_bytes() -> int:
    try:
        status = Path("/proc/self/status").read_text()
        return int(status.split("VmHWM:")[1].split()[0]) * 1024
    except (OSError, IndexError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def _work(pipe: Any, originals: Path, limit: bool) -> None:
    """Read mutants by the numbers that arrive, until there are no more."""
    whole = {kind.name: kind.read(originals / kind.name) for kind in KINDS}
    if limit:
        reserved = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (reserved + ADDRESS_SPACE, resource.RLIM_INFINITY))
    with tempfile.TemporaryDirectory() as folder:
        while (number := pipe.recv()) is not None:
            pipe.send(read_mutant(number, originals, Path(folder), whole))


class _Worker:
    def __init__(self, originals: Path, limit: bool) -> None:
        self.pipe, theirs = multiprocessing.Pipe()
        context = multiprocessing.get_context("spawn")
        self.process = context.Process(target=_work, args=(theirs, originals, limit), daemon=True)
        self.process.start()
        theirs.close()

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


def run(numbers: range, originals: Path, n_workers: int, report: Callable[[Outcome], None]) -> None:
    """Read mutants in worker processes; one that dies or hangs is a fault, and its worker is replaced."""
    limit = platform.system() == "Linux"
    todo: Iterator[int] = iter(numbers)
    workers: dict[_Worker, tuple[int, float] | None] = {_Worker(originals, limit): None for _ in range(n_workers)}
    while workers:
        for worker, doing in list(workers.items()):
            if doing is None:
                number = next(todo, None)
                worker.pipe.send(number)
                if number is None:
                    del workers[worker]
                    worker.process.join()
                else:
                    workers[worker] = (number, time.monotonic())
                continue
            number, since = doing
            try:
                if worker.pipe.poll(0.02 if time.monotonic() - since > 0.1 else 0.0005):
                    report(worker.pipe.recv())
                    workers[worker] = None
                    continue
            except EOFError:
                verdict = f"died (exit code {worker.process.exitcode})"
            else:
                if time.monotonic() - since < HANG_SECONDS + 60 * (number < n_workers):  # the first ones import
                    continue
                verdict = "hung"
            report(Outcome(number, kind_of(number).name, verdict, time.monotonic() - since, 0.0))
            worker.end()
            del workers[worker]
            workers[_Worker(originals, limit)] = None


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mutants", type=int, default=N_MUTANTS)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutant")
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1)
    parser.add_argument("--output", type=Path, default=None, help=f"JSON; of all mutants: {RESULTS.name}")
    arguments = parser.parse_args()
    outcomes: list[Outcome] = []

    def report(outcome: Outcome) -> None:
        outcomes.append(outcome)
        if is_fault(outcome):
            print(f"{outcome.number} {outcome.kind}: {outcome.verdict}\n{outcome.detail}", flush=True)
        if len(outcomes) % 2000 == 0:
            print(f"{len(outcomes)} mutants, {sum(map(is_fault, outcomes))} faults", flush=True)

    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        make_originals(Path(folder))
        numbers = range(arguments.first, arguments.first + arguments.mutants)
        run(numbers, Path(folder), arguments.workers, report)
    summary = {
        "mutants": len(outcomes),
        "seed": SEED,
        "minutes": round((time.monotonic() - start) / 60, 1),
        "machine": f"{platform.machine()}, {os.cpu_count()} CPUs, {platform.system()}",
        "python": platform.python_version(),
        "faults": [asdict(outcome) for outcome in outcomes if is_fault(outcome)],
        "slowest_seconds": round(max(outcome.seconds for outcome in outcomes), 2),
        "most_mib": round(max(outcome.mib for outcome in outcomes), 1),
        "verdicts": {
            kind.name: dict(Counter(outcome.verdict for outcome in outcomes if outcome.kind == kind.name))
            for kind in KINDS
        },
    }
    print(json.dumps({**summary, "faults": len(summary["faults"])}, indent=1))
    output = arguments.output or (RESULTS if arguments.mutants >= N_MUTANTS else None)
    if output is not None:
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(summary, indent=1) + "\n")


if __name__ == "__main__":
    main()
