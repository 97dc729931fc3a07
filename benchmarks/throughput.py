"""How fast is training, compared with the physics alone and with SB3? Everything is timed in one run, interleaved.

    make bench                                    # about ten minutes
    python benchmarks/throughput.py --repeats 3 --only joint physics
    git worktree add ../older 0.1.0; python benchmarks/throughput.py --beside ../older

With ``--beside`` another checkout of this package is timed too, in processes of its own, in the same turns.

Every contender is set up once. Then all of them are timed in turn, several times, so that a slower machine slows all of
them down. The table has medians over the repeats; ratios are taken within a repeat. Results go to
``results/throughput/`` as JSON, Markdown and a plot. Absolute rates depend on the machine and its load; quote ratios.

SB3 runs in one process here. Two SB3 processes side by side, one per core, are a separate contender.
"""

from __future__ import annotations

import argparse
import contextlib
import importlib
import importlib.metadata
import importlib.util
import json
import multiprocessing
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from matplotlib.figure import Figure
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

import sb3_multitask as mt
from sb3_multitask.envs.half_cheetah import HalfCheetahBodyEnv
from sb3_multitask.experiments.config import TrainConfig, load_config

RESULTS = Path(__file__).parents[1] / "results" / "throughput"
N_CORES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
ENVPOOL_IS_INSTALLED = importlib.util.find_spec("envpool") is not None
Run = Callable[[int], int]
"""Takes about the given number of env-steps and returns the number that it took."""


def bodies(n_tasks: int) -> list[mt.Task]:
    """Return the paper's six bodies, or ``n_tasks`` cheetahs with legs from short to long."""
    if n_tasks <= 6:
        return list(mt.TASK_SETS["HalfCheetahBody6"][:n_tasks])
    scales = np.linspace(0.75, 1.25, n_tasks)
    legs = ("fshin", "bshin")
    return [
        mt.Task(f"leg{i}", _TimeLimited, {"morphology": mt.Morphology(legs, float(scale))})
        for i, scale in enumerate(scales)
    ]


def _TimeLimited(morphology: mt.Morphology) -> gym.Env:  # noqa: N802
    return gym.wrappers.TimeLimit(HalfCheetahBodyEnv(morphology=morphology), 1000)


def physics(n_tasks: int, n_envs_per_task: int) -> Run:
    """``mujoco.batch`` alone: write controls, step."""
    env = mt.MultiTaskVecEnv(bodies(n_tasks), n_envs_per_task, backend="batch", seed=0)
    env.reset()
    (group,) = env.sub_envs.backend.groups
    actions = np.random.default_rng(0).uniform(-1, 1, (64, *group.ctrl.shape))

    def run(n_steps: int) -> int:
        n = max(1, n_steps // env.num_envs)
        for i in range(n):
            group.ctrl[:] = actions[i % 64]
            group.batch.step(None, group.frame_skip, 0)
        return n * env.num_envs

    return run


def multitask(n_tasks: int, n_envs_per_task: int, **kwargs: Any) -> Run:
    """``A2CMultiTask.learn``, normalisation and monitoring on."""
    env = mt.make_multitask_vec_env(bodies(n_tasks), n_envs_per_task, seed=0)
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=0, device="cpu", **kwargs)

    def run(n_steps: int) -> int:
        return model.learn(n_steps).num_timesteps

    return run


def sb3(n_envs: int) -> Run:
    """SB3's own A2C on one body: VecNormalize, DummyVecEnv, the nets of one task's share."""
    env = VecNormalize(make_vec_env("HalfCheetahSmallFoot-v0", n_envs, seed=0))
    policy_kwargs = {"net_arch": {"pi": [64, 64], "vf": [64, 64]}}
    model = A2C("MlpPolicy", env, seed=0, device="cpu", policy_kwargs=policy_kwargs)

    def run(n_steps: int) -> int:
        return model.learn(n_steps).num_timesteps

    return run


def ppo(n_envs_per_task: int, algorithm: type[PPO], **kwargs: Any) -> Run:
    """PPO of ``zoo_configs/ppo.yml`` on six bodies: this package's or SB3's, on the same policy and VecEnv."""
    config = load_config(TrainConfig, "zoo_configs/ppo.yml")
    names = ("n_steps", "gamma", "gae_lambda", "ent_coef", "vf_coef", "max_grad_norm", "policy_kwargs")
    settings = {**{name: getattr(config, name) for name in names}, **config.algo_kwargs, **kwargs}
    env = mt.make_multitask_vec_env(bodies(6), n_envs_per_task, seed=0, torch_threads=None)
    model = algorithm(mt.MultiTaskActorCriticPolicy, env, learning_rate=3e-4, seed=0, device="cpu", **settings)

    def run(n_steps: int) -> int:
        return model.learn(n_steps).num_timesteps

    return run


def gymnasium_vector(n_envs: int) -> Run:
    """Gymnasium's own SyncVectorEnv: stepping only."""
    env = gym.make_vec("HalfCheetahSmallFoot-v0", n_envs, vectorization_mode="sync")
    env.reset(seed=0)
    actions = np.random.default_rng(0).uniform(-1, 1, (64, n_envs, 6)).astype(np.float32)

    def run(n_steps: int) -> int:
        n = max(1, n_steps // n_envs)
        for i in range(n):
            env.step(actions[i % 64])
        return n * n_envs

    return run


def envpool(n_envs: int) -> Run:
    """EnvPool, a C++ simulator of Gymnasium's bodies as published: stepping only, on all cores."""
    module = importlib.import_module("envpool")
    env = module.make_gymnasium("HalfCheetah-v5", num_envs=n_envs, num_threads=N_CORES, seed=0)
    env.reset()
    actions = np.random.default_rng(0).uniform(-1, 1, (64, n_envs, 6))

    def run(n_steps: int) -> int:
        n = max(1, n_steps // n_envs)
        for i in range(n):
            env.step(actions[i % 64])
        return n * n_envs

    return run


def one_thread(make: Callable[[], Run]) -> Run:
    """Run the contender with one thread, which is fastest for SB3's A2C in a single process."""
    return with_threads(1, make)


def with_threads(number: int, make: Callable[[], Run]) -> Run:
    """Run the contender with a number of torch's threads."""
    inner = make()

    def run(n_steps: int) -> int:
        n_threads = th.get_num_threads()
        th.set_num_threads(number)
        try:
            return inner(n_steps)
        finally:
            th.set_num_threads(n_threads)

    return run


def side_by_side(make: Callable[[], Run]) -> Run:
    """Run one process per core, with one thread each; return the sum of their steps."""
    context = multiprocessing.get_context("spawn")
    pipes = []
    for _ in range(N_CORES):
        parent, child = context.Pipe()
        context.Process(target=_serve, args=(child, make), daemon=True).start()
        pipes.append(parent)
    for pipe in pipes:
        pipe.recv()  # ready

    def run(n_steps: int) -> int:
        for pipe in pipes:
            pipe.send(n_steps // N_CORES)
        return sum(pipe.recv() for pipe in pipes)

    return run


def _serve(pipe: Any, make: Callable[[], Run]) -> None:
    th.set_num_threads(1)
    run = make()
    run(1000)
    pipe.send("ready")
    with contextlib.suppress(EOFError):  # the parent is done
        while True:
            pipe.send(run(pipe.recv()))


def of_checkout(folder: Path, name: str) -> Run:
    """A contender of another checkout of this package, in a process of its own."""
    env = {**os.environ, "PYTHONPATH": str(folder.resolve())}
    command = [sys.executable, __file__, "--serve", name]
    process = subprocess.Popen(command, env=env, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)  # noqa: S603
    assert process.stdin is not None
    assert process.stdout is not None
    write, read = process.stdin, process.stdout

    def run(n_steps: int) -> int:
        print(n_steps, file=write, flush=True)
        return int(read.readline())

    return run


def serve(name: str) -> None:
    """Time a contender for another process: read numbers of steps from stdin, and print how many were taken."""
    (make,) = (contender.make for contender in CONTENDERS if contender.name == name)
    run = make()
    for line in sys.stdin:
        print(run(int(line)), flush=True)


@dataclass
class Contender:
    """Something to time.

    :param make: returns the function to time
    :param n_steps: env-steps of one timing
    """

    name: str
    make: Callable[[], Run]
    n_steps: int


SETS = [name for name in mt.TASK_SETS if not name.startswith("HalfCheetahBody6")]
"""Sets of a family of robots, whose environments the package has beside the paper's bodies."""


def physics_of_set(name: str) -> Run:
    """``mujoco.batch`` alone on four environments of each task of a set: write controls, step."""
    env = mt.MultiTaskVecEnv(name, 4, backend="batch", seed=0)
    env.reset()
    groups, rng = env.sub_envs.backend.groups, np.random.default_rng(0)
    actions = [rng.uniform(-1, 1, (64, *group.ctrl.shape)) for group in groups]

    def run(n_steps: int) -> int:
        n = max(1, n_steps // env.num_envs)
        for i in range(n):
            for group, of_group in zip(groups, actions, strict=True):
                group.ctrl[:] = of_group[i % 64]
                group.batch.step(None, group.frame_skip, 0)
        return n * env.num_envs

    return run


def joint_on_set(name: str) -> Run:
    """``A2CMultiTask.learn`` on four environments of each task of a set."""
    env = mt.make_multitask_vec_env(name, 4, seed=0)
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=0, device="cpu")

    def run(n_steps: int) -> int:
        return model.learn(n_steps).num_timesteps

    return run


OF_BOTH = ("joint fast 6x16", "joint fast 6x4", "joint fast 6x1", "cycle fast 6x4", "single fast 1x16, one per core")
"""What is timed of another checkout too."""

CONTENDERS = [
    *(Contender(f"physics {t}x{e}", partial(physics, t, e), 60_000) for t, e in ((6, 16), (6, 4), (6, 1))),
    *(Contender(f"joint fast {t}x{e}", partial(multitask, t, e), 40_000) for t, e in ((6, 16), (6, 4), (6, 1))),
    *(Contender(f"joint torch 6x{e}", partial(multitask, 6, e, engine="torch"), 20_000) for e in (16, 4)),
    *(
        Contender(f"cycle {engine} 6x{e}", partial(multitask, 6, e, task_schedule="cycle", engine=engine), 12_000)
        for engine, e in (("fast", 16), ("fast", 4), ("torch", 4))
    ),
    Contender("single physics 1x16, one per core", partial(side_by_side, partial(physics, 1, 16)), 60_000),
    Contender("single fast 1x16, one per core", partial(side_by_side, partial(multitask, 1, 16)), 40_000),
    *(Contender(f"SB3 A2C {n} envs", partial(one_thread, partial(sb3, n)), 12_000) for n in (96, 24, 4)),
    Contender("SB3 A2C 24 envs, one per core", partial(side_by_side, partial(sb3, 24)), 20_000),
    Contender("Gymnasium SyncVectorEnv 24 envs", partial(gymnasium_vector, 24), 12_000),
    *(Contender(f"EnvPool {n} envs", partial(envpool, n), 40_000) for n in (24, 96) if ENVPOOL_IS_INSTALLED),
    *(Contender(f"PPO fast 6x{e}", partial(ppo, e, mt.PPOMultiTask, engine="fast"), 2 * e * 3072) for e in (4, 16)),
    *(
        Contender(f"SB3 PPO 6x{e}, {n} torch thread(s)", partial(with_threads, n, partial(ppo, e, PPO)), e * 3072)
        for e in (4, 16)
        for n in sorted({1, N_CORES})
    ),
    *(Contender(f"joint fast {t}x4", partial(multitask, t, 4), 40_000) for t in (1, 12, 24, 48)),
    *(Contender(f"physics {t}x4", partial(physics, t, 4), 60_000) for t in (1, 12, 24, 48)),
    *(Contender(f"joint fast {name}", partial(joint_on_set, name), 5_000) for name in SETS),
    *(Contender(f"physics {name}", partial(physics_of_set, name), 5_000) for name in SETS),
]

BUDGETS = [  # (what, numerator, denominator, budget)
    ("joint 6x16 over the physics", "joint fast 6x16", "physics 6x16", 0.87),
    ("joint 6x4 over the physics", "joint fast 6x4", "physics 6x4", 0.75),
    ("joint 6x1 over the physics", "joint fast 6x1", "physics 6x1", 0.55),
    ("cycle 6x4 over the physics of 1x4", "cycle fast 6x4", "physics 1x4", 0.45),
    ("single 1x16, one per core, over the physics", "single fast 1x16, one per core",
     "single physics 1x16, one per core", 0.80),
    *((f"{name} x 4 over its physics", f"joint fast {name}", f"physics {name}", 0.75) for name in SETS),
    ("joint 6x16 over SB3 with 96 envs", "joint fast 6x16", "SB3 A2C 96 envs", 3.9),
    ("joint 6x4 over SB3 with 24 envs", "joint fast 6x4", "SB3 A2C 24 envs", 3.5),
    ("cycle 6x4 over SB3 with 4 envs", "cycle fast 6x4", "SB3 A2C 4 envs", 3.0),
    ("PPO 6x4 over SB3's PPO on the same VecEnv, one torch thread", "PPO fast 6x4", "SB3 PPO 6x4, 1 torch thread(s)",
     2.5),
    ("PPO 6x4 over SB3's PPO on the same VecEnv, a torch thread per core", "PPO fast 6x4",
     f"SB3 PPO 6x4, {N_CORES} torch thread(s)", 2.5),
    ("joint 48x4 over joint 6x4", "joint fast 48x4", "joint fast 6x4", 1 / 1.3),
]  # fmt: skip


def measure(contenders: list[Contender], repeats: int) -> dict[str, list[float]]:
    """Return the env-steps per second of every contender in every repeat."""
    runs: dict[str, Run] = {}
    for contender in contenders:
        runs[contender.name] = contender.make()
        runs[contender.name](2_000)
        print(f"set up {contender.name}", flush=True)
    rates: dict[str, list[float]] = {contender.name: [] for contender in contenders}
    for repeat in range(repeats):
        for contender in contenders:
            start = time.perf_counter()
            n_steps = runs[contender.name](contender.n_steps)
            rates[contender.name].append(n_steps / (time.perf_counter() - start))
        print(f"repeat {repeat + 1}/{repeats} done", flush=True)
    return rates


def megabytes_per_env() -> dict[str, float]:
    """Return the growth of memory per sub-environment in MB, from 6 x 1 to 6 x 33; each backend in a fresh process."""
    growth = {}
    for backend in ("batch", "dummy"):
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            growth[backend] = pool.apply(_growth, (backend,))
    return growth


def _growth(backend: str) -> float:
    kept = []
    for n_envs_per_task in (1, 33):
        start = _resident_megabytes()
        kept.append(mt.MultiTaskVecEnv(bodies(6), n_envs_per_task, backend=backend, seed=0))
        kept[-1].reset()
        kept[-1].step(np.zeros((kept[-1].num_envs, 6)))
    return (_resident_megabytes() - start) / kept[-1].num_envs


def _resident_megabytes() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def import_seconds(module: str, repeats: int) -> list[float]:
    """Return the wall-clock time of importing a module in a fresh interpreter, in seconds."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {module}"], check=True)  # noqa: S603
        times.append(time.perf_counter() - start)
    return times


def microseconds(n_envs_per_task: int = 4, n_steps: int = 60_000) -> dict[str, float]:
    """Return the wall-clock time of each part of one vectorised step of joint training, in µs."""
    env = mt.make_multitask_vec_env(bodies(6), n_envs_per_task, seed=0)
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=0, device="cpu", engine="fast")
    model.learn(5_000)
    assert isinstance(env, mt.MultiTaskVecNormalize)
    venv = env.venv
    group = venv.sub_envs.backend.groups[0]
    spent: dict[str, float] = {}

    def timed(owner: Any, method: str, label: str) -> None:
        function = getattr(owner, method)

        def wrapper(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent[label] = spent.get(label, 0.0) + time.perf_counter() - start

        setattr(owner, method, wrapper)

    layers = [
        (group, "_advance", "physics"),
        (venv.sub_envs.backend, "receive", "backend"),
        (venv, "step_wait", "vec_env"),
        (env, "step_wait", "normalize"),
        (model, "collect_rollouts", "rollout"),
        (model, "train", "update"),
    ]
    for layer in layers:
        timed(*layer)
    model.learn(n_steps)
    calls = n_steps / env.num_envs
    inclusive = {label: seconds / calls * 1e6 for label, seconds in spent.items()}
    return {
        "physics (native call)": inclusive["physics"],
        "observations, rewards, resets": inclusive["backend"] - inclusive["physics"],
        "monitor, task key, float32": inclusive["vec_env"] - inclusive["backend"],
        "normalisation": inclusive["normalize"] - inclusive["vec_env"],
        "acting, callbacks, values, advantages": inclusive["rollout"] - inclusive["normalize"],
        "gradient and RMSprop": inclusive["update"],
    }


def report(
    rates: dict[str, list[float]],
    imports: dict[str, list[float]],
    where: dict[str, float],
    memory: dict[str, float],
) -> str:
    """Return the results as Markdown."""
    lines = ["| contender | env-steps/s (median) | min | max |", "|---|---|---|---|"]
    for name, values in rates.items():
        lines.append(f"| {name} | {np.median(values):,.0f} | {min(values):,.0f} | {max(values):,.0f} |")
    lines += ["", "| ratio of env-steps/s | median | min | max | budget (at least) |", "|---|---|---|---|---|"]
    older = [(f"{what}, older", f"older: {top}", bottom, 0.0) for what, top, bottom, _ in BUDGETS if top in OF_BOTH]
    for what, top, bottom, budget in (*BUDGETS, *older):
        if top in rates and bottom in rates:
            ratios = np.array(rates[top]) / np.array(rates[bottom])
            at_least = f"{budget:.2f}" if budget else ""
            cells = f"{np.median(ratios):.2f} | {ratios.min():.2f} | {ratios.max():.2f} | {at_least}"
            lines.append(f"| {what} | {cells} |")
    if imports:
        extra = np.median(imports["sb3_multitask"]) - np.median(imports["stable_baselines3"])
        lines += ["", f"`import sb3_multitask` takes {extra:+.2f} s over `import stable_baselines3` (budget +0.30 s)."]
    if where:
        lines += ["", "| one vectorised step, joint 6x4 | µs |", "|---|---|"]
        lines += [f"| {label} | {value:.0f} |" for label, value in where.items()]
    if memory:
        lines += ["", "| backend | MB per sub-environment |", "|---|---|"]
        lines += [f"| {backend} | {megabytes:.2f} |" for backend, megabytes in memory.items()]
    return "\n".join(lines) + "\n"


def draw(rates: dict[str, list[float]], path: Path) -> None:
    """Draw bars of the medians, with whiskers from the slowest to the fastest repeat."""
    figure = Figure(figsize=(8, 0.3 * len(rates) + 1), layout="constrained")
    axis = figure.subplots()
    names = list(rates)[::-1]
    medians = np.array([np.median(rates[name]) for name in names])
    spread = np.abs(np.array([[min(rates[n]), max(rates[n])] for n in names]).T - medians)
    kinds = {"physics": "tab:gray", "SB3": "tab:orange", "Gymnasium": "tab:orange", "EnvPool": "tab:orange"}
    colors = [next((color for kind, color in kinds.items() if kind in name), "tab:blue") for name in names]
    axis.barh(names, medians / 1e3, xerr=spread / 1e3, color=colors, error_kw={"lw": 1})
    axis.set_xlabel("thousand env-steps per second")
    axis.grid(axis="x", alpha=0.3)
    figure.savefig(path, dpi=110)


def draw_scaling(rates: dict[str, list[float]], path: Path) -> None:
    """Draw training and physics against the number of tasks (4 envs each) and of envs per task (6 tasks)."""
    figure = Figure(figsize=(8, 3.2), layout="constrained")
    axes = figure.subplots(1, 2, sharey=True)
    panels = [("tasks, 4 envs each", "{}x4", (1, 6, 12, 24, 48)), ("envs per task, 6 tasks", "6x{}", (1, 4, 16))]
    for axis, (label, size, counts) in zip(axes, panels, strict=True):
        for name, color in (("physics", "tab:gray"), ("joint fast", "tab:blue")):
            all_rates = np.array([rates[f"{name} {size.format(n)}"] for n in counts]) / 1e3
            axis.plot(counts, np.median(all_rates, axis=1), "o-", color=color, label=name)
            axis.fill_between(counts, all_rates.min(axis=1), all_rates.max(axis=1), color=color, alpha=0.2)
        axis.set_xscale("log", base=2)
        axis.set_xticks(counts, [str(n) for n in counts])
        axis.set_xlabel(label)
        axis.set_ylim(bottom=0)
        axis.grid(alpha=0.3)
    axes[0].set_ylabel("thousand env-steps per second")
    axes[0].legend()
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--only", nargs="+", help="contenders whose name contains one of these; writes no results")
    parser.add_argument("--beside", type=Path, metavar="FOLDER", help="another checkout of this package")
    parser.add_argument("--serve", metavar="NAME", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve)
        return
    contenders = list(CONTENDERS)
    if args.beside is not None:
        contenders += [
            Contender(f"older: {c.name}", partial(of_checkout, args.beside, c.name), c.n_steps)
            for c in CONTENDERS
            if c.name in OF_BOTH
        ]
    if args.only is not None:
        contenders = [c for c in contenders if any(part in c.name for part in args.only)]
    rates = measure(contenders, args.repeats)
    if args.only is not None:
        print(report(rates, {}, {}, {}))
        return
    imports = {module: import_seconds(module, args.repeats) for module in ("stable_baselines3", "sb3_multitask")}
    where = microseconds()
    memory = megabytes_per_env()
    packages = ("stable-baselines3", "mujoco", "gymnasium", "torch", "numpy")
    packages += ("envpool",) if ENVPOOL_IS_INSTALLED else ()
    machine = {
        "machine": platform.machine(),
        "cores": N_CORES,
        "torch_threads": th.get_num_threads(),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in packages},
    }
    RESULTS.mkdir(parents=True, exist_ok=True)
    content = {
        "machine": machine,
        "env_steps_per_second": rates,
        "import_seconds": imports,
        "microseconds": where,
        "megabytes_per_env": memory,
    }
    (RESULTS / "throughput.json").write_text(json.dumps(content, indent=1) + "\n")
    (RESULTS / "throughput.md").write_text(report(rates, imports, where, memory))
    draw(rates, RESULTS / "throughput.png")
    draw_scaling(rates, RESULTS / "scaling.png")
    print(report(rates, imports, where, memory))


if __name__ == "__main__":
    main()
