"""Runs of a grid as tasks of a Ray cluster, one task and one CPU a run; needs the extra ``ray``.

The folders must lie where every node sees them under the same path. A run whose worker dies is started again by Ray,
elsewhere if need be, and resumes from its newest checkpoint; its folder counts once, whoever worked in it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING

from sb3_multitask.experiments.config import TrainConfig, load_config
from sb3_multitask.experiments.grid import GridRun
from sb3_multitask.experiments.run_folder import RunFolder
from sb3_multitask.experiments.scheduler import Job, Launch
from sb3_multitask.experiments.train import train_run
from sb3_multitask.tasks import import_env_module

if TYPE_CHECKING:
    import ray

_RESTARTS = 10
"""How many deaths of its worker a run survives before it counts as failed."""


@contextmanager
def ray_cluster(modules: Sequence[str] = ()) -> Iterator[Launch]:
    """How to start runs on the cluster at ``RAY_ADDRESS``; without that, on one of this machine's own.

    :param modules: that register environments of the runs
    :raises ImportError: without Ray
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as e:
        raise ImportError("--engine ray needs Ray: pip install 'sb3-multitask[ray]'") from e
    ray.init(log_to_driver=False, logging_level=logging.ERROR)
    task = ray.remote(num_cpus=1, max_retries=_RESTARTS)(work)

    def launch(run: GridRun) -> Job:
        return _RayJob(task.remote(str(run.folder.absolute()), str(Path.cwd()), list(modules)))

    try:
        yield launch
    finally:
        ray.shutdown()


def work(path: str, cwd: str, modules: list[str]) -> None:
    """What a task does: train the run in a folder, or resume it. What it prints goes to the folder's log.

    :param path: of the folder
    :param cwd: what the config's paths are relative to
    :param modules: that register its environments
    """
    os.chdir(cwd)
    for module in modules:
        import_env_module(module, "--gym-packages")
    folder = RunFolder(path)
    with folder.log.open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
        train_run(load_config(TrainConfig, folder.config), folder, announce=lambda text: print(text, flush=True))  # noqa: T201


class _RayJob:
    def __init__(self, ref: ray.ObjectRef[None]) -> None:
        self._ref = ref

    def poll(self) -> str | None:
        import ray

        done, _ = ray.wait([self._ref], timeout=0)
        if not done:
            return None
        try:
            ray.get(self._ref)
        except ray.exceptions.RayError as e:
            return (str(e).strip() or type(e).__name__).splitlines()[-1]
        return ""

    def stop(self) -> None:
        import ray

        ray.cancel(self._ref)

    def wait(self) -> None:
        import ray

        ray.wait([self._ref])
