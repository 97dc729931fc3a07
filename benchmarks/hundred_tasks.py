"""Measure what a hundred tasks cost beside six: start-up, memory, steps, logs, evaluation, checkpoints, pictures.

    python benchmarks/hundred_tasks.py                  # six bodies and a hundred, each in a process of its own
    python benchmarks/hundred_tasks.py --n-tasks 6 48   # other numbers

The tasks are ``sample_bodies("HalfCheetah")`` with four environments each. The table has a column for each number of
tasks, and in the last one the quotient of the last number by the first: 16.7 is the quotient of a hundred tasks by six.
Each process is started ``--repeats`` times, by turns; the figures are medians.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stdout
from pathlib import Path

import sb3_multitask as mt
from sb3_multitask.experiments.curves import RunCurves, draw_learning_curves, read_training_returns
from sb3_multitask.experiments.progress import make_logger

N_ENVS, N_STEPS = 4, 5
N_STRETCHES = 8
WALL_CLOCK = ("first", "evaluate")
"""What runs on all cores; the other times are CPU times, which depend less on what else runs."""
UNITS = {
    "make": "make the VecEnv, CPU s",
    "make_dummy": "the same on backend=dummy, CPU s",
    "model": "make the model, CPU s",
    "first": "first rollout and update, s",
    "memory": "peak memory of the process, MiB",
    "joint": "joint, steps/s",
    "cycle": "cycle, steps/s",
    "log": "one log (stdout, CSV, TensorBoard), CPU ms",
    "lines": "lines of the table on stdout",
    "columns": "columns of progress.csv",
    "events": "TensorBoard, KiB a log",
    "evaluate": "evaluate, one episode a task, s",
    "results": "lines of the table of an evaluation",
    "checkpoint": "one checkpoint, CPU s",
    "checkpoint_size": "one checkpoint, MiB",
    "save": "model.save, CPU s",
    "save_size": "model.zip, MiB",
    "load": "load it, CPU s",
    "monitor": "read the monitor files, CPU s",
    "curves": "draw the learning curves, CPU s",
}


@contextmanager
def timed(figures: dict[str, float], name: str) -> Iterator[None]:
    clock = time.perf_counter if name in WALL_CLOCK else time.process_time
    start = clock()
    yield
    figures[name] = clock() - start


def size(path: Path) -> int:
    return sum(file.stat().st_size for file in ([path] if path.is_file() else path.rglob("*")) if file.is_file())


def measure(n_tasks: int, folder: Path) -> dict[str, float]:
    """Return the figures of ``n_tasks`` tasks."""
    tasks, figures = mt.sample_bodies("HalfCheetah", n_tasks), dict[str, float]()
    mt.make_multitask_vec_env(tasks[:1], N_ENVS).close()  # modules, kernels and MuJoCo's files are loaded
    mt.A2CMultiTask("MultiTaskMlpPolicy", tasks[:1], device="cpu").learn(100)
    with timed(figures, "make"):
        env = mt.make_multitask_vec_env(tasks, N_ENVS, seed=0, monitor_dir=folder / "monitor")
    with timed(figures, "model"):
        model = mt.A2CMultiTask("MultiTaskMlpPolicy", env, n_steps=N_STEPS, seed=0, device="cpu", verbose=0)
    model.set_logger(make_logger(folder / "progress.csv", ["stdout", "tensorboard"], 0))
    rollout = N_STEPS * env.num_envs
    with timed(figures, "first"):
        model.learn(rollout, log_interval=None)
    model.learn(1000 * env.num_envs, log_interval=None)  # so that every environment ends an episode
    figures["joint"] = best_rate(model, 100 * env.num_envs)
    measure_log(model, folder, figures)
    with timed(figures, "evaluate"):
        results = mt.evaluate_tasks(model, n_eval_episodes=1)
    figures["results"] = str(results).count("\n") + 1
    measure_files(model, folder, figures)
    model.logger.close()
    env.close()
    measure_cycle(tasks, figures)
    with timed(figures, "make_dummy"):
        env = mt.make_multitask_vec_env(tasks, N_ENVS, seed=0, backend="dummy")
    env.close()
    return figures


def measure_log(model: mt.A2CMultiTask, folder: Path, figures: dict[str, float]) -> None:
    """Take the figures of the second log, when all columns are there."""
    model.dump_logs(1)
    model.learn(N_STEPS * model.n_envs, log_interval=None, reset_num_timesteps=False)  # keeps the episodes
    n_bytes = size_of_events(folder)
    shown = model.logger.output_formats[1].file = io.StringIO()
    with timed(figures, "log"):
        model.dump_logs(2)
    figures["log"] *= 1e3
    figures["lines"] = shown.getvalue().count("\n")
    figures["events"] = (size_of_events(folder) - n_bytes) / 1024
    figures["columns"] = len((folder / "progress.csv").read_text().split("\n", 1)[0].split(","))


def measure_files(model: mt.A2CMultiTask, folder: Path, figures: dict[str, float]) -> None:
    """Take the figures of checkpoints, models and pictures, and of the memory up to the pictures."""
    callback = mt.ResumableCheckpointCallback(folder / "checkpoints", every=10**9, verbose=0)
    model.learn(N_STEPS * model.n_envs, callback, log_interval=None)  # leaves a checkpoint at its end
    callback.save_path = folder / "another"
    with timed(figures, "checkpoint"):
        callback.save()
    figures["checkpoint_size"] = size(folder / "another") / 2**20
    with timed(figures, "save"):
        model.save(folder / "model.zip")
    figures["save_size"] = size(folder / "model.zip") / 2**20
    with timed(figures, "load"):
        mt.A2CMultiTask.load(folder / "model.zip", device="cpu")
    figures["memory"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    with timed(figures, "monitor"):
        training = read_training_returns(folder / "monitor")
    with timed(figures, "curves"):
        draw_learning_curves({"run": RunCurves(training)}, list(training), folder / "curves.png", "A run")


def measure_cycle(tasks: Sequence[mt.Task], figures: dict[str, float]) -> None:
    env = mt.make_multitask_vec_env(tasks, N_ENVS, seed=0)
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", env, n_steps=N_STEPS, seed=0, device="cpu", task_schedule="cycle")
    cycle = len(tasks) * N_STEPS * N_ENVS
    model.learn(cycle, log_interval=None)
    figures["cycle"] = best_rate(model, max(6_000 // cycle, 1) * cycle)
    env.close()


def best_rate(model: mt.A2CMultiTask, n_steps: int) -> float:
    """Return the steps per second of the best of several stretches, which others disturb least."""
    rates = []
    for _ in range(N_STRETCHES):
        start = time.perf_counter()
        model.learn(n_steps, log_interval=None, reset_num_timesteps=False)
        rates.append(n_steps / (time.perf_counter() - start))
    return max(rates)


def size_of_events(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob("events.out.tfevents.*"))


def measure_apart(n_tasks: int) -> dict[str, float]:
    command = [sys.executable, __file__, "--alone", str(n_tasks)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 (this file)
    return json.loads(done.stdout.splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--n-tasks", type=int, nargs="+", default=[6, 100])
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--alone", type=int, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.alone:
        with tempfile.TemporaryDirectory() as folder, redirect_stdout(sys.stderr):
            figures = measure(arguments.alone, Path(folder))
        print(json.dumps(figures))
        return
    found: dict[int, list[dict[str, float]]] = {n: [] for n in arguments.n_tasks}
    for _ in range(arguments.repeats):
        for n, figures_of_n in found.items():
            figures_of_n.append(measure_apart(n))
    print("|", *(f"| {n} tasks" for n in found), "| quotient |")
    print("|---" * (len(found) + 2) + "|")
    for name, unit in UNITS.items():
        medians = [statistics.median(figures[name] for figures in of_n) for of_n in found.values()]
        cells = (f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in medians)
        print(f"| {unit} |", *(f"{cell} |" for cell in cells), f"{medians[-1] / medians[0]:.2g} |")


if __name__ == "__main__":
    main()
