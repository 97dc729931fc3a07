"""Runs that are killed and resume from their checkpoints, and what they leave."""

import os
import signal
import threading

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback

import sb3_multitask as mt
from helpers.killing import in_child
from helpers.models import weights_equal

BODIES = ["HalfCheetahSmallFoot-v0", "HalfCheetahBigTorso-v0"]
TOTAL = 4_000  # with episodes of 1000 steps, which end for each of the two copies of both bodies


class Killed(Exception):  # noqa: N818
    pass


def kill_after(seconds):
    """Kill this process by SIGKILL in some time, whatever it does then."""
    threading.Timer(seconds, os.kill, (os.getpid(), signal.SIGKILL)).start()


class KillAt(BaseCallback):
    """Acts in the middle of whatever rollout reaches ``step``.

    :param seconds: time from then to SIGKILL; ``None`` raises ``Killed``
    """

    def __init__(self, step, seconds=None):
        super().__init__()
        self.step, self.seconds = step, seconds

    def get_state(self):
        return {}

    def set_state(self, state):
        pass

    def _on_step(self):
        if self.num_timesteps >= self.step:
            if self.seconds is None:
                raise Killed
            self.step = np.inf
            kill_after(self.seconds)
        return True


def run(
    folder,
    step=10**9,
    total=TOTAL,
    tasks=BODIES,
    seed=0,
    n_envs=2,
    callbacks=(),
    algorithm=mt.A2CMultiTask,
    seconds=None,
    **kwargs,
):
    """One process of a run: trains to the end, or is killed at ``step``."""
    backend = kwargs.pop("backend", "auto")
    env = mt.make_multitask_vec_env(tasks, n_envs, seed=5, backend=backend, monitor_dir=folder / "monitor")
    eval_env = mt.make_multitask_vec_env(tasks, 1, seed=7, normalize=False)
    model = algorithm("MultiTaskMlpPolicy", env, seed=seed, device="cpu", **kwargs)
    evaluations = mt.MultiTaskEvalCallback(eval_env, n_eval_episodes=1, eval_freq=1500, log_path=folder, verbose=0)
    checkpoints = mt.ResumableCheckpointCallback(folder / "checkpoints", every=200, verbose=0)
    try:
        model.learn(total, [checkpoints, evaluations, *callbacks, KillAt(step, seconds)])
    except Killed:
        pass
    finally:
        env.close()
        eval_env.close()
    return model


def run_killed(folder, step, seconds, **kwargs):
    """A process of a run that is killed by SIGKILL some time after a step: while it collects, updates, or writes."""

    def work():
        run(folder, step, seconds=seconds, **kwargs)
        os.kill(os.getpid(), signal.SIGKILL)  # a run that ends before its kill comes, or that had ended before

    assert in_child(work) == -signal.SIGKILL


def random_kills(n, *seed, total=TOTAL):
    """Steps in order, and the seconds from each to its kill: the time of a few rollouts, updates or evaluations."""
    generator = np.random.default_rng(seed)
    steps = np.sort(generator.integers(1, total - 100, n)).tolist()
    return list(zip(steps, generator.uniform(0, 0.2, n).tolist(), strict=True))


def killed_and_resumed(tmp_path, kills, **kwargs):
    """What differs between a run that is killed again and again, and one that is not.

    :param kills: steps, or steps and the seconds from each to its SIGKILL
    :return: what differs, and the uninterrupted run's model
    """
    a, b = tmp_path / "uninterrupted", tmp_path / "killed"
    for kill in kills:
        if isinstance(kill, tuple):
            run_killed(b, *kill, **kwargs)
        else:
            run(b, kill, **kwargs)
    resumed, uninterrupted = run(b, **kwargs), run(a, **kwargs)
    assert monitor_rows(a)
    assert all(len(rows) > 1 for rows in monitor_rows(a).values())
    return difference(uninterrupted, resumed, a, b), uninterrupted


def difference(a, b, folder_a, folder_b):
    """What differs between two finished runs; empty if nothing does."""
    different = []
    if not weights_equal(a, b):
        different.append("weights")
    different += optimizer_difference(*(model.policy.optimizer.state_dict() for model in (a, b)))
    for name in ("num_timesteps", "_n_updates", "_current_progress_remaining"):
        if getattr(a, name) != getattr(b, name):
            different.append(name)
    statistics = [model.get_vec_normalize_env().get_state() for model in (a, b)]
    for name, part in (("obs_rms", "mean"), ("obs_rms", "var"), ("ret_rms", "var"), ("ret_rms", "count")):
        if not np.array_equal(*(s["statistics"][name][part] for s in statistics)):
            different += [f"{name}.{part}"]
    if not np.array_equal(*(s["returns"] for s in statistics)):
        different.append("returns")
    if monitor_rows(folder_a) != monitor_rows(folder_b):
        different.append("monitor")
    first, second = (np.load(folder / "evaluations.npz") for folder in (folder_a, folder_b))
    if any(not np.array_equal(first[key], second[key]) for key in first):
        different.append("evaluations")
    return different


def optimizer_difference(a, b):
    """Which parts of two optimizers' state dicts differ."""
    different = []
    if a["param_groups"] != b["param_groups"]:  # with the learning rate
        different.append("optimizer's settings")
    if a["state"].keys() != b["state"].keys() or not a["state"]:
        different.append("optimizer's parameters")
    for i in a["state"].keys() & b["state"].keys():
        first, second = a["state"][i], b["state"][i]
        if first.keys() != second.keys():
            different.append(f"optimizer.{i}")
        different += [
            f"optimizer.{i}.{name}" for name in first if not th.equal(*map(th.as_tensor, (first[name], second[name])))
        ]
    return different


def monitor_rows(folder):
    """All monitor rows, without their wall-clock column, by the file's path in ``monitor``."""
    rows = {}
    for path in sorted((folder / "monitor").rglob("*.csv")):
        lines = [line.split(",") for line in path.read_text().splitlines()[1:]]
        rows[str(path.relative_to(folder / "monitor"))] = [line[:2] + line[3:] for line in lines]
    return rows
