"""Runs of a grid as tasks of a Ray cluster, one task and one CPU a run; needs the extra ``ray``.

The folders must have the same path on every node. If the worker of a run dies, Ray starts the run again, on another
node if necessary, and it resumes from its newest checkpoint. A run has one folder, so it counts once.
"""

from __future__ import annotations

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
from sb3_multitask.process.ray_cluster import RayConnection
from sb3_multitask.tasks import import_env_module

if TYPE_CHECKING:
    import ray

_RESTARTS = 10
"""Number of deaths of its worker after which a run counts as failed."""


@contextmanager
def ray_cluster(modules: Sequence[str] = ()) -> Iterator[Launch]:
    """Yield a function that starts runs on the cluster at ``RAY_ADDRESS``, or else on a new one of this machine.

    :param modules: modules that register environments of the runs
    :raises ImportError: without Ray
    """
    connection = RayConnection("--engine ray")
    task = connection.ray.remote(num_cpus=1, max_retries=_RESTARTS)(work)

    def launch(run: GridRun) -> Job:
        return _RayJob(task.remote(str(run.folder.absolute()), str(Path.cwd()), list(modules)))

    try:
        yield launch
    finally:
        connection.close()


def work(path: str, cwd: str, modules: list[str]) -> None:
    """Train or resume the run in a folder, as a task of Ray; its output goes to the folder's log.

    :param path: the run's folder
    :param cwd: folder to which the config's paths are relative
    :param modules: modules that register its environments
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
