"""Does a long training that is killed repeatedly end with the same bits, and does its memory stay constant?

    python benchmarks/soak.py                                             # one variant after the other, then compare
    python benchmarks/soak.py --variant uninterrupted                     # or side by side, one core each ...
    python benchmarks/soak.py --variant killed
    python benchmarks/soak.py --variant compare                           # ... and compare

Six tasks x 4 envs, 20 million steps, a checkpoint every 100,000 steps. The variant "killed" gets ten SIGKILLs at random
moments (of a seed) and is started again each time. Each variant is one process with one thread. This script watches it,
kills it, and samples its resident memory. Run folders go to ``runs/soak``. If this script is killed itself and started
again with the same settings, it resumes. It compares weights, optimizer, statistics, generators and every other number
of the last checkpoints, and the rows of the monitor files, but no times of day.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "results" / "soak"
VARIANTS = ("uninterrupted", "killed")
TIMES = {"seconds", "t_start", "t", "n_bytes"}
"""Keys of a checkpoint that hold times, or the lengths of the monitor files, whose rows have a time."""
MEGABYTE = 2**20


def train(folder: Path, steps: int, every: int) -> None:
    """Train with checkpoints; when started again, resume."""
    import torch as th

    import sb3_multitask as mt
    from sb3_multitask.vec_env.worker import end_with_parent

    end_with_parent()
    th.set_num_threads(1)
    env = mt.make_multitask_vec_env("HalfCheetahBody6", 4, seed=0, monitor_dir=folder / "monitor", n_threads=1)
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=0, device="cpu")
    model.learn(steps, mt.ResumableCheckpointCallback(folder / "checkpoints", every, verbose=0))
    env.close()
    (folder / "finished").touch()


class Soak:
    """One variant: a folder, and a process that is started until it has finished.

    :param folder: of the variant
    :param steps: env-steps in all
    :param every: steps between two checkpoints
    :param interval: seconds between two samples of memory
    :param kills: at how many steps it is killed, each with a fraction of the time to the next checkpoint to wait
    """

    def __init__(self, folder: Path, steps: int, every: int, interval: float, kills: list[tuple[int, float]]) -> None:
        self.folder, self.steps, self.every, self.interval, self.kills = folder, steps, every, interval, kills
        self.samples, self.killed = folder / "memory.jsonl", folder / "kills.jsonl"
        folder.mkdir(parents=True, exist_ok=True)
        settings = {"steps": steps, "every": every, "kills": kills}
        if _read_settings(folder / "settings.json", settings) != json.loads(json.dumps(settings)):
            raise SystemExit(f"{folder} is of a soak with other settings: remove it, or take the same")

    def run(self) -> None:
        while not (self.folder / "finished").exists():
            process = multiprocessing.get_context("spawn").Process(
                target=train, args=(self.folder, self.steps, self.every)
            )
            process.start()
            was_killed = self._watch(process)
            process.join()
            if process.exitcode and not was_killed:
                raise SystemExit(f"{self.folder}: training ended with exit code {process.exitcode}")

    def _watch(self, process: Any) -> bool:
        """Sample memory until the process ends, or is due to be killed."""
        done = len(read_lines(self.killed))
        due = self.kills[done] if done < len(self.kills) else None
        moment, next_sample, last_checkpoint, began = None, 0.0, time.monotonic(), time.monotonic()
        begun_at = steps = newest(self.folder)
        pace = 1.0
        while process.is_alive():
            now = time.monotonic()
            if newest(self.folder) > steps:
                steps, pace, last_checkpoint = newest(self.folder), now - last_checkpoint, now
            if now >= next_sample:
                next_sample = now + self.interval
                _append(self.samples, {"steps": steps, "megabytes": resident(process.pid), "trains": steps > begun_at})
            if due and moment is None and steps >= due[0]:
                moment = now + due[1] * pace
            if moment is not None and now >= moment:
                os.kill(process.pid, signal.SIGKILL)
                _append(self.killed, {"checkpoint": steps, "session_seconds": round(now - began, 2)})
                return True
            time.sleep(0.02)
        return False


def _read_settings(path: Path, settings: dict[str, Any]) -> Any:
    if not path.exists():
        path.write_text(json.dumps(settings))
    return json.loads(path.read_text())


def newest(folder: Path) -> int:
    """Return the steps of the newest checkpoint."""
    return max((int(path.name) for path in (folder / "checkpoints").glob("[0-9]*")), default=0)


def resident(pid: int) -> float:
    """Return the resident memory of a process in megabytes (2**20 bytes)."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):  # the process has just ended
        return float("nan")
    return round(pages * os.sysconf("SC_PAGE_SIZE") / MEGABYTE, 2)


def _append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Read the complete lines of a file of JSON lines."""
    if not path.exists():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def differences(a: Any, b: Any, where: str = "") -> list[str]:
    """Return the paths at which two checkpoints' trees are not equal, bit for bit."""
    if isinstance(a, dict) and isinstance(b, dict) and a.keys() == b.keys():
        return [d for key in a if key not in TIMES for d in differences(a[key], b[key], f"{where}/{key}")]
    if isinstance(a, list) and isinstance(b, list) and len(a) == len(b):
        return [d for i, (x, y) in enumerate(zip(a, b, strict=True)) for d in differences(x, y, f"{where}/{i}")]
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        same = a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    else:
        same = type(a) is type(b) and (a == b or a != a)  # noqa: PLR0124 (NaN)
    return [] if same else [where]


def monitor_rows(folder: Path) -> dict[str, list[list[str]]]:
    """Read the return, length and task of every episode from every monitor file."""
    rows = {}
    for path in sorted((folder / "monitor").glob("*.csv")):
        lines = [line.split(",") for line in path.read_text().splitlines()[1:]]
        rows[path.name] = [[line[0], line[1], line[3]] for line in lines]
    return rows


def compare(root: Path, steps: int, every: int) -> dict[str, Any]:
    """Compare the final states of the two variants."""
    from sb3_multitask.checkpoint.format import read_latest

    first, second = (root / name for name in VARIANTS)
    ended = [read_latest(folder / "checkpoints") for folder in (first, second)]
    if None in ended or not all((folder / "finished").exists() for folder in (first, second)):
        raise SystemExit(f"{first} and {second}: not both have finished")
    (path, whole), (other, killed) = ended  # type: ignore[misc]
    different = differences(whole, killed) + ([] if path.name == other.name else ["steps"])
    rows, other_rows = monitor_rows(first), monitor_rows(second)
    different += [f"monitor/{name}" for name in rows if rows[name] != other_rows.get(name)]
    return {
        "tasks": "HalfCheetahBody6",
        "n_envs_per_task": 4,
        "steps": steps,
        "checkpoint_every": every,
        "kills": [kill["checkpoint"] for kill in read_lines(second / "kills.jsonl")],
        "last_checkpoint": int(path.name),
        "compared": {
            "parts": sorted(whole),
            "weights": int(sum(array.size for array in whole["policy"].values())),
            "monitor_rows": sum(map(len, rows.values())),
        },
        "different": different,
        "memory": {name: memory(root / name, steps) for name in VARIANTS},
    }


def memory(folder: Path, steps: int) -> dict[str, Any]:
    """Summarise resident memory: after a tenth of the steps, at the end, at most, and its slope from that tenth on."""
    x, y = samples(folder)
    settled = x >= steps / 10
    slope = np.polyfit(x[settled] / 1e6, y[settled], 1)[0] if len(np.unique(x[settled])) > 1 else np.nan
    return {
        "megabytes_after_a_tenth": float(y[settled][0]),
        "megabytes_at_the_end": float(y[-1]),
        "megabytes_at_most": float(y.max()),
        "megabytes_per_million_steps": round(float(slope), 4),
        "n_samples": len(x),
    }


def samples(folder: Path) -> tuple[np.ndarray, np.ndarray]:
    """Return steps and megabytes of a variant's samples, without those of a process before its first checkpoint."""
    lines = [line for line in read_lines(folder / "memory.jsonl") if line["trains"]]
    both = np.array([(line["steps"], line["megabytes"]) for line in lines], dtype=float)
    return tuple(both[np.isfinite(both[:, 1])].T)  # type: ignore[return-value]


def draw(root: Path, results: dict[str, Any], path: Path) -> None:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 3), layout="constrained")
    axis = figure.subplots()
    for name, color in zip(VARIANTS, ("tab:blue", "tab:orange"), strict=True):
        steps, megabytes = samples(root / name)
        axis.plot(steps / 1e6, megabytes, ".", markersize=2, color=color, label=name)
    for steps in results["kills"]:
        axis.axvline(steps / 1e6, color="tab:orange", linewidth=0.5, alpha=0.6)
    axis.set_ylim(0, 1.3 * max(variant["megabytes_at_most"] for variant in results["memory"].values()))
    axis.set_xlabel("million steps (lines: killed and started again)")
    axis.set_ylabel("resident memory (MiB)")
    axis.legend(markerscale=4)
    axis.grid(alpha=0.3)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20_000_000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--interval", type=float, default=5.0, help="seconds between two samples of memory")
    parser.add_argument("--every", type=int, default=100_000, help="steps between two checkpoints")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--variant", choices=[*VARIANTS, "compare"], help="only this; default: all of them")
    parser.add_argument("--root", type=Path, default=ROOT / "runs" / "soak", help="where the run folders go")
    parser.add_argument("--output", type=Path, default=RESULTS, help="where soak.json and memory.png go")
    args = parser.parse_args()
    os.environ.update(dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1"))

    rng = np.random.default_rng(args.seed)
    moments = sorted(rng.integers(0, args.steps - args.every, args.kills).tolist())
    kills = {"uninterrupted": [], "killed": [(step, float(rng.uniform())) for step in moments]}
    for variant in [args.variant] if args.variant in VARIANTS else VARIANTS if args.variant is None else ():
        Soak(args.root / variant, args.steps, args.every, args.interval, kills[variant]).run()
        print(f"{variant}: finished, killed {len(read_lines(args.root / variant / 'kills.jsonl'))} times")
    if args.variant in VARIANTS:
        return
    results = compare(args.root, args.steps, args.every)
    args.output.mkdir(parents=True, exist_ok=True)
    (args.output / "soak.json").write_text(json.dumps(results, indent=1) + "\n")
    draw(args.root, results, args.output / "memory.png")
    print(json.dumps(results["memory"], indent=1))
    print("the same bits" if not results["different"] else f"different: {', '.join(results['different'])}")


if __name__ == "__main__":
    main()
