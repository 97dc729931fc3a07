"""Make a VecEnv for training from tasks in one call."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sb3_multitask.tasks import TasksLike
from sb3_multitask.vec_env.backends import BackendName
from sb3_multitask.vec_env.copies import EnvsPerTask
from sb3_multitask.vec_env.faults import OnFault
from sb3_multitask.vec_env.multitask_vec_env import MultiTaskVecEnv
from sb3_multitask.vec_env.normalize import MultiTaskVecNormalize


def make_multitask_vec_env(
    tasks: TasksLike,
    n_envs_per_task: EnvsPerTask = 4,
    seed: int | None = None,
    backend: BackendName = "auto",
    normalize: bool | Mapping[str, Any] = True,
    training: bool = True,
    monitor_dir: str | Path | None = None,
    render_mode: str | None = None,
    n_threads: int | None = None,
    on_fault: OnFault = "stop",
    override_existing: bool = True,
    torch_threads: int | None = 1,
    flatten: bool = True,
) -> MultiTaskVecEnv | MultiTaskVecNormalize:
    """Make a multi-task VecEnv.

    :param tasks: a set's name (``"HalfCheetahBody6"``), an id, or a list of ids and tasks
    :param n_envs_per_task: copies of each task; ``{"a": 8, "b": 2}`` for each by its name
    :param seed: determines the seeds of all sub-environments, see ``MultiTaskVecEnv``; ``None`` is random
    :param backend: ``"batch"`` (native), ``"dummy"``, ``"subproc"``, ``"ray"`` (a cluster), or ``"auto"`` for the
        faster of the first two that fits
    :param normalize: put ``MultiTaskVecNormalize`` on top; a mapping holds its arguments, such as
        ``{"norm_reward": False, "gamma": 0.98}``
    :param training: ``False`` for evaluation: statistics frozen, raw rewards, and other episodes for the same ``seed``
    :param monitor_dir: folder for SB3's monitor files; ``None`` writes none
    :param override_existing: whether monitor files of earlier runs are replaced, with a warning; ``False`` appends
    :param render_mode: as in ``gymnasium.make``
    :param n_threads: physics threads of ``"batch"``; ``None`` takes torch's number
    :param on_fault: reaction to a NaN, infinite or huge observation, reward or action, or a failed simulation:
        ``"stop"`` raises an error that names task, sub-environment and step; ``"quarantine"`` resets that
        sub-environment and keeps the step out of statistics and updates, see ``MultiTaskVecEnv``
    :param torch_threads: torch's number of threads from the first step until ``close``; ``None`` leaves it alone
    :param flatten: flatten observations that are not a flat Box (``Dict``, ``Discrete``, goals ...), see
        ``FlatObservation``; False refuses them
    :return: the VecEnv; see ``MultiTaskVecEnv`` for what it raises
    """
    if not isinstance(normalize, bool | Mapping):
        raise TypeError(f"`normalize` must be True, False or the normaliser's arguments (got {normalize!r})")
    venv = MultiTaskVecEnv(
        tasks,
        n_envs_per_task,
        backend=backend,
        seed=seed,
        training=training,
        monitor_dir=monitor_dir,
        override_existing=override_existing,
        render_mode=render_mode,
        n_threads=n_threads,
        on_fault=on_fault,
        torch_threads=torch_threads,
        flatten=flatten,
    )
    if normalize is False:
        return venv
    kwargs: dict[str, Any] = {} if normalize is True else dict(normalize)
    if not training:
        kwargs.update(training=False, norm_reward=False)
    try:
        return MultiTaskVecNormalize(venv, **kwargs)
    except TypeError:
        venv.close()
        raise
