"""Check that a change of structure does not change a bit of training: compare hashes of weights with another revision.

    python benchmarks/same_bits.py 0a1b2c3

trains small agents with this checkout and, in a process of its own, with the package of that revision: joint and cycle,
fast and torch, plain, with teachers, with rollouts of teachers and students mixed, and with quarantined steps. The
revision must have the public interface that is used here. Both run on one machine, since bits differ between
processors. Exit code 1 if a hash differs.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import itertools
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
N_UPDATES = 20
_HASHES = "--hashes"


def hashes() -> dict[str, str]:
    """Return the SHA-256 of the weights and statistics after some updates, by case."""
    import gymnasium as gym
    import numpy as np
    import torch as th

    import sb3_multitask as mt
    from sb3_multitask.agents import agent_of

    th.set_num_threads(1)

    class Flawed(gym.Wrapper[Any, Any, Any, Any]):
        """An environment that sometimes returns a NaN."""

        n_steps = 0

        def step(self, action: Any) -> Any:
            obs, *rest = self.env.step(action)
            self.n_steps += 1
            return (obs * np.nan if self.n_steps % 17 == 0 else obs), *rest

    def tasks(flawed: bool) -> list[mt.Task]:
        ids = ("HalfCheetahSmallFoot-v0", "HalfCheetahBigLeg-v0", "HalfCheetah-v5")
        if not flawed:
            return [mt.Task(f"T{i}", env_id) for i, env_id in enumerate(ids)]
        return [mt.Task(f"T{i}", lambda env_id=env_id: Flawed(gym.make(env_id))) for i, env_id in enumerate(ids)]

    def train(schedule: Any, engine: Any, case: str) -> str:
        env = mt.make_multitask_vec_env(tasks(case == "quarantine"), 2, seed=0, on_fault="quarantine")
        settings: dict[str, Any] = {}
        if case in ("teachers", "mixed"):
            raw = mt.make_multitask_vec_env(tasks(flawed=False), 1, seed=1)
            teacher = agent_of(mt.A2CMultiTask("MultiTaskMlpPolicy", raw, seed=7, device="cpu"))
            settings = {"teachers": dict.fromkeys(teacher.task_names, teacher)}
            settings |= {"rl_coef": 0.5, "student_rollout_prob": 0.5} if case == "mixed" else {}
        model = mt.A2CMultiTask(
            "MultiTaskMlpPolicy",
            env,
            seed=0,
            device="cpu",
            task_schedule=schedule,
            engine=engine,
            ent_coef=0.01,
            **settings,
        )
        model.learn(N_UPDATES * 5 * 6 // (3 if schedule == "cycle" else 1))
        digest = hashlib.sha256(model.policy.parameters_to_vector().tobytes())
        normalizer = model.get_vec_normalize_env()
        assert normalizer is not None
        digest.update(np.ascontiguousarray(normalizer.obs_rms["obs"].mean).tobytes())  # type: ignore[index]
        return digest.hexdigest()

    cases = itertools.product(("joint", "cycle"), ("fast", "torch"), ("plain", "teachers", "mixed", "quarantine"))
    return {" ".join(case): train(*case) for case in cases}


def hashes_of(package: Path) -> dict[str, str]:
    """Return the result of :func:`hashes` with the package in a folder."""
    environment = {**os.environ, "PYTHONPATH": str(package), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, str(Path(__file__).resolve()), _HASHES]
    done = subprocess.run(  # noqa: S603 (this file)
        command, capture_output=True, text=True, check=True, env=environment, cwd=package
    )
    found: dict[str, str] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("revision", nargs="?", help="what this checkout is compared with, such as a commit")
    parser.add_argument(_HASHES, action="store_true", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.hashes:
        print(json.dumps(hashes()))
        return 0
    if args.revision is None:
        parser.error("give a revision")
    with tempfile.TemporaryDirectory() as folder:
        command = [shutil.which("git") or "git", "archive", args.revision]
        archive = subprocess.run(command, capture_output=True, check=True, cwd=ROOT)  # noqa: S603
        with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
            files.extractall(folder, filter="data")
        then, now = hashes_of(Path(folder)), hashes_of(ROOT)
    different = [case for case in now if now[case] != then.get(case)]
    for case in now:
        print(f"{'DIFFERS' if case in different else 'same':8} {now[case][:12]}  {case}")
    return int(bool(different))


if __name__ == "__main__":
    sys.exit(main())
