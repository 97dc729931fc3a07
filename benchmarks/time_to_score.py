"""How long does a user wait for a score? PPO of this package, SB3, SBX and rl_games, in turn on the same cores.

    python benchmarks/time_to_score.py                               # everything, three seeds; on an idle machine
    python benchmarks/time_to_score.py --task "six bodies" --seeds 0 1 2 3 4
    python benchmarks/time_to_score.py --table                       # Markdown

The time to a score is wall-clock time until the mean training return passes it: the mean over tasks of the mean over
each task's latest 20 finished episodes, whose returns are undiscounted, unnormalised and of sampled actions. It counts
from the start of the process. The start-up, until the first environment step, is also a column of its own: imports,
environments, compiling what acts. So is compiling the update: the first update's time less the second's.

Each run is a fresh process. Every seed runs all contenders in turn, so that a slower machine slows all of them down.
A run adds a line to ``results/time_to_score/runs.jsonl`` and is skipped if its line is there, so a killed command
resumes. SBX, rl_games and EnvPool have a virtual environment of their own, which is made from ``benchmarks/peers.txt``.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))  # the contenders are modules of benchmarks/

from benchmarks.contenders.entries import CONTENDERS, SINGLE, SIX, Contender  # noqa: E402
from benchmarks.contenders.process import make_peers_venv, run  # noqa: E402
from benchmarks.contenders.progress import n_cpus  # noqa: E402
from benchmarks.contenders.results import append_run, is_finished, read_runs, report  # noqa: E402
from sb3_multitask.experiments.config import TrainConfig, load_config  # noqa: E402

CAPS = {SIX: 600.0, SINGLE: 300.0}


def settings_of(contender: Contender, args: argparse.Namespace) -> dict[str, Any]:
    """Return all that must be the same for runs of a contender to be comparable."""
    settings: dict[str, Any] = {
        "scores": sorted(args.scores),
        "window": args.window,
        "cap": args.cap or CAPS[contender.task],
        "arguments": list(contender.arguments),
    }
    if "{config}" in contender.arguments:
        config = load_config(TrainConfig, config_of(contender, args))
        settings["config"] = config.model_dump(mode="json", include=config.model_fields_set - {"seed"})
    return settings


def config_of(contender: Contender, args: argparse.Namespace) -> Path:
    """Return the path of the config of a contender's task."""
    path: Path = args.six_config if contender.task == SIX else args.single_config
    return path


def main(argv: Sequence[str] | None = None) -> None:
    args = _arguments(argv)
    if args.table:
        print(report(read_runs(args.output)))
        return
    chosen = [c for c in CONTENDERS if args.task in (None, c.task) and args.only in c.name]
    if not chosen:
        raise SystemExit(f"--only {args.only!r} is in no contender's name: {', '.join(c.name for c in CONTENDERS)}")
    runs = read_runs(args.output)
    remaining = [
        (seed, contender, settings)
        for seed in args.seeds
        for contender in chosen
        if not is_finished(runs, contender.name, contender.task, seed, settings := settings_of(contender, args))
    ]
    needs_peers = any(contender.is_peer for _, contender, _ in remaining)
    peers_python = str(make_peers_venv(args.peers_venv)) if needs_peers else ""
    machine = f"{platform.machine()}, {n_cpus()} of {os.cpu_count()} CPUs, {platform.system()}"
    failures = 0
    for number, (seed, contender, settings) in enumerate(remaining, 1):
        python = peers_python if contender.is_peer else sys.executable
        print(f"{number}/{len(remaining)} seed {seed}, {contender.task}, {contender.name}: ", end="", flush=True)
        try:
            results = run(contender, python, config_of(contender, args), seed, settings)
        except RuntimeError as e:
            failures += 1
            print(f"failed: {e}", flush=True)
            continue
        facts = {"contender": contender.name, "task": contender.task, "seed": seed, "machine": machine}
        append_run(args.output, {**facts, "settings": settings, **results})
        print(f"{results['end']['reason']}, {results['passed']}", flush=True)
    raise SystemExit(f"{failures} of {len(remaining)} runs failed" if failures else 0)


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", action="store_true", help="print what there is")
    parser.add_argument("--task", choices=CAPS, help="only this task")
    parser.add_argument("--only", default="", help="only contenders whose name contains this")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--scores", type=float, nargs="+", default=[1000.0, 3000.0, 5000.0])
    parser.add_argument(
        "--cap", type=float, help="seconds that a run takes at most; default: 600 for six bodies, else 300"
    )
    parser.add_argument("--window", type=int, default=20, help="episodes of each task in the mean training return")
    parser.add_argument("--six-config", type=Path, default=ROOT / "benchmarks" / "six_bodies_ppo.yml")
    parser.add_argument("--single-config", type=Path, default=ROOT / "benchmarks" / "halfcheetah_ppo.yml")
    parser.add_argument("--peers-venv", type=Path, default=ROOT / ".venv-peers", help="made if it is missing")
    parser.add_argument("--output", type=Path, default=ROOT / "results" / "time_to_score" / "runs.jsonl")
    return parser.parse_args(argv)


if __name__ == "__main__":
    main()
