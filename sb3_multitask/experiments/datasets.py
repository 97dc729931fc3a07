"""The dataset of a run that learns offline: one that is there, or one that the run records first."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from sb3_multitask.distillation.dataset import TeacherDataset
from sb3_multitask.distillation.recording import record
from sb3_multitask.experiments.config import DatasetConfig, TrainConfig
from sb3_multitask.experiments.run_folder import RunFolder
from sb3_multitask.storage.yaml_files import ConfigError
from sb3_multitask.tasks import Task
from sb3_multitask.vec_env.backends import BackendName
from sb3_multitask.vec_env.faults import OnFault


def record_as(
    config: DatasetConfig,
    tasks: Sequence[Task] | None,
    path: str | Path,
    *,
    backend: BackendName = "auto",
    on_fault: OnFault = "stop",
    progress_bar: bool,
) -> TeacherDataset:
    """Record teachers as a config says.

    :param tasks: of the teachers; ``None``: those of the one agent that it names
    :param path: folder of the dataset, which must not exist
    :param backend: of ``mt.record``, as ``on_fault``
    """
    settings = {name: getattr(config, name) for name in DatasetConfig.model_fields}
    settings |= {"backend": backend, "on_fault": on_fault, "progress_bar": progress_bar}
    return record(settings.pop("teachers"), tasks, path, **settings)


def dataset_of_run(
    config: TrainConfig, folder: RunFolder, announce: Callable[[str], None], *, progress_bar: bool
) -> TeacherDataset | None:
    """Return the dataset that a run learns from; the first time, record it into the run's folder if this is asked for.

    :return: ``None`` for a run that learns in its environments
    :raises ConfigError: if it cannot be read or recorded, or has other tasks
    """
    wanted = config.dataset
    if wanted is None:
        return None
    try:
        if isinstance(wanted, str):
            return TeacherDataset.load(wanted)
        if not folder.dataset.exists():
            announce("Recording the teachers ...")
            return record_as(
                wanted,
                config.resolved_tasks(),
                folder.dataset,
                backend=config.backend,
                on_fault=config.on_fault,
                progress_bar=progress_bar,
            )
        return TeacherDataset.load(folder.dataset)
    except ValueError as e:
        raise ConfigError(f"dataset: {e}") from e
