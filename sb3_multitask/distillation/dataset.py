"""What teachers did on their tasks, recorded: arrays in memory, and a folder of safetensors and JSON."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import numpy as np
import safetensors.numpy

from sb3_multitask.agents.files import describe_tasks, tasks_of_description
from sb3_multitask.readers import UnreadableFileError
from sb3_multitask.storage.files import SaveError, replacing
from sb3_multitask.storage.plain import is_plain
from sb3_multitask.tasks import Task, did_you_mean

SCHEMA = 1
FORMAT = "sb3-multitask teacher dataset"
DESCRIPTION = "dataset.json"
IN_RUN_FOLDER = "dataset"
"""Name of the folder of a dataset within the folder of the run that recorded it."""
_CHECKSUM = "description_sha256"
"""Key of a description that holds the SHA-256 of its other entries."""
_MAX_DESCRIPTION_BYTES = 16 * 2**20
_MAX_TASK_BYTES = 8 * 2**30
_LARGEST = 1e15
"""Beyond this a number is a fault, as in environments."""


@dataclass(frozen=True)
class TaskRecording:
    """The episodes of one task, one after another: a row is one step of the environment.

    :param observations: raw, of the task's own size, (n_rows, obs_dim) float32 or float64
    :param actions: as the teacher chose them, (n_rows, action_dim) float32; the environment took them clipped to its
        bounds
    :param rewards: (n_rows,) float64, in units of the environment
    :param terminations: whether the step ended the episode by the task's own rule, (n_rows,) bool
    :param truncations: whether a limit of time, or the end of the recording, cut the episode after the step, (n_rows,)
        bool
    :param episodes: number of the episode, (n_rows,) int64, rising by 1 from 0
    :param last_observations: after the last step of each episode, (n_episodes, obs_dim)
    :param teacher_mean: of the teacher's Gaussian for the observation, (n_rows, action_dim) float32; ``None`` if
        nothing but actions is known
    :param teacher_log_std: natural logarithm of its standard deviations, like ``teacher_mean``
    :raises TypeError: if a column is no array
    :raises ValueError: if shapes do not fit each other, numbers are not finite, or an episode does not end with its
        last row alone
    """

    observations: np.ndarray
    actions: np.ndarray
    rewards: np.ndarray
    terminations: np.ndarray
    truncations: np.ndarray
    episodes: np.ndarray
    last_observations: np.ndarray
    teacher_mean: np.ndarray | None = None
    teacher_log_std: np.ndarray | None = None

    def __post_init__(self) -> None:
        kinds = {"observations": "f", "last_observations": "f", "terminations": "b", "truncations": "b"}
        kinds |= {"episodes": "i", "actions": "f", "rewards": "f", "teacher_mean": "f", "teacher_log_std": "f"}
        for name, array in self.arrays().items():
            if not isinstance(array, np.ndarray):
                raise TypeError(f"`{name}` must be an array (got {array!r:.100})")
            if array.dtype.kind != kinds[name] or (name == "episodes" and array.dtype != np.int64):  # it would wrap
                raise ValueError(f"`{name}` has the type {array.dtype}")
            if array.dtype.kind == "f" and not (np.abs(array) <= _LARGEST).all():  # also false for NaN
                raise ValueError(f"`{name}` holds numbers that are not finite, or beyond {_LARGEST:g}")
        self._check_shapes()
        self._check_episodes()

    def _check_shapes(self) -> None:
        if (
            self.observations.ndim != 2
            or self.actions.ndim != 2
            or not all((*self.observations.shape, self.action_dim))
        ):
            raise ValueError(
                "`observations` and `actions` must be (n_rows, dim), with at least one row (got "
                f"{self.observations.shape} and {self.actions.shape})"
            )
        n_rows, wide = self.n_rows, (self.n_rows, self.action_dim)
        wanted = {"actions": wide, "teacher_mean": wide, "teacher_log_std": wide}
        wanted |= {"observations": (n_rows, self.obs_dim), "last_observations": (self.n_episodes, self.obs_dim)}
        for name, array in self.arrays().items():
            if array.shape != (shape := wanted.get(name, (n_rows,))):
                raise ValueError(f"`{name}` must have the shape {shape} (got {array.shape})")
        if (self.teacher_mean is None) != (self.teacher_log_std is None):
            raise ValueError("`teacher_mean` and `teacher_log_std` must be given both, or neither")

    def _check_episodes(self) -> None:
        is_last = np.append(np.diff(self.episodes) != 0, True)
        if self.episodes[0] != 0 or not np.isin(np.diff(self.episodes), (0, 1)).all():
            raise ValueError("`episodes` must begin with 0 and rise by 1 from episode to episode")
        if not np.array_equal(self.terminations | self.truncations, is_last):
            raise ValueError("the last row of an episode, and no other, must be terminated or truncated")

    @property
    def n_rows(self) -> int:
        """How many steps there are."""
        return len(self.observations)

    @property
    def n_episodes(self) -> int:
        """How many episodes there are, whole or cut."""
        return int(self.episodes[-1]) + 1 if self.episodes.size else 0

    @property
    def obs_dim(self) -> int:
        """Size of an observation."""
        return int(self.observations.shape[1])

    @property
    def action_dim(self) -> int:
        """Size of an action."""
        return int(self.actions.shape[1])

    @property
    def has_labels(self) -> bool:
        """Whether the teacher's Gaussians are known."""
        return self.teacher_mean is not None

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the arrays by name, but for those that are not known."""
        named = {each.name: getattr(self, each.name) for each in fields(self)}
        return {name: array for name, array in named.items() if array is not None}

    def returns(self) -> np.ndarray:
        """Return the undiscounted return of each episode, (n_episodes,), in units of the reward."""
        return np.bincount(self.episodes, self.rewards, minlength=self.n_episodes)

    def slices(self) -> Iterator[slice]:
        """Yield the rows of each episode."""
        bounds = [0, *(np.diff(self.episodes).nonzero()[0] + 1).tolist(), self.n_rows]
        yield from (slice(start, stop) for start, stop in pairwise(bounds))


@dataclass(frozen=True)
class TeacherDataset:
    """Recorded behaviour of a teacher on each of several tasks: the data of policy distillation.

    :func:`sb3_multitask.record` makes one, :func:`sb3_multitask.from_minari` reads one of Minari.

    :param recordings: task name -> its episodes; tasks may differ in size
    :param tasks: of the same names, in the same order, if their environments are known by their ids; else ``None``
    :param facts: plain values about the recording, such as ``seed``, ``teachers`` (task -> digest) and ``versions``
    :raises TypeError: if ``recordings`` do not map names to recordings
    :raises ValueError: if there is no task, or ``tasks`` have other names
    """

    recordings: Mapping[str, TaskRecording]
    tasks: tuple[Task, ...] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        are_recordings = isinstance(self.recordings, Mapping) and all(
            isinstance(name, str) and isinstance(recording, TaskRecording)
            for name, recording in self.recordings.items()
        )
        if not are_recordings:
            raise TypeError(f"`recordings` must map names of tasks to TaskRecording (got {self.recordings!r:.100})")
        if not self.recordings:
            raise ValueError("`recordings` must hold at least one task (got none)")
        if self.tasks is not None and tuple(task.name for task in self.tasks) != self.task_names:
            names = ", ".join(task.name for task in self.tasks)
            raise ValueError(f"`tasks` must be those of the recordings, {', '.join(self.task_names)} (got {names})")
        if not is_plain(dict(self.facts)):
            raise ValueError("`facts` must be plain values")

    @property
    def task_names(self) -> tuple[str, ...]:
        """Names of the tasks, in order."""
        return tuple(self.recordings)

    @property
    def n_rows(self) -> int:
        """How many steps there are of all tasks."""
        return sum(recording.n_rows for recording in self.recordings.values())

    @property
    def digest(self) -> str:
        """SHA-256 of the tasks' names and arrays, which identifies a dataset in a checkpoint."""
        sha = hashlib.sha256()
        for name, recording in self.recordings.items():
            sha.update(name.encode())
            for array_name, array in recording.arrays().items():
                sha.update(f"{array_name}{array.dtype.str}{array.shape}".encode())
                sha.update(np.ascontiguousarray(array).data)
        return sha.hexdigest()

    def select(self, task_names: Sequence[str]) -> Self:
        """Return the dataset of some of its tasks, in the order that is given.

        :raises TypeError: if ``task_names`` is one text
        :raises ValueError: on no task, a task that is named twice, or one that it does not have
        """
        if isinstance(task_names, str):
            raise TypeError(f"`task_names` must be a list of names of tasks (got {task_names!r:.100})")
        if not task_names or len(set(task_names)) < len(task_names):
            raise ValueError(f"`task_names` must name at least one task, and each once (got {task_names!r:.100})")
        for name in task_names:
            if name not in self.recordings:
                raise ValueError(
                    f"The dataset has no task {name!r}.{did_you_mean(name, self.task_names)} "
                    f"Tasks: {', '.join(self.task_names)}"
                )
        by_name = {task.name: task for task in self.tasks or ()}
        tasks = tuple(by_name[name] for name in task_names) if by_name else None
        return replace(self, recordings={name: self.recordings[name] for name in task_names}, tasks=tasks)

    def __str__(self) -> str:
        """Return a table: steps, episodes and mean return of each task."""
        rows = [["task", "steps", "episodes", "mean return"]]
        for name, recording in self.recordings.items():
            mean = f"{recording.returns().mean():.1f}"
            rows.append([name, str(recording.n_rows), str(recording.n_episodes), mean])
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = [
            [row[0].ljust(widths[0]), *(c.rjust(n) for c, n in zip(row[1:], widths[1:], strict=True))] for row in rows
        ]
        return "\n".join("  ".join(line).rstrip() for line in lines)

    def save(self, path: str | Path) -> None:
        """Write the dataset as a folder, completely or not at all: ``dataset.json``, and a safetensors file per task.

        :param path: the folder, which must not exist
        :raises FileExistsError: if there is something
        :raises SaveError: if it cannot be written
        """
        check_is_free(path)
        with replacing(path) as folder:
            folder.mkdir()
            described = []
            for i, (name, recording) in enumerate(self.recordings.items()):
                arrays = {key: np.ascontiguousarray(array) for key, array in recording.arrays().items()}
                file = folder / f"task_{i}.safetensors"
                safetensors.numpy.save_file(arrays, file)
                described.append({"name": name, "file": file.name, "sha256": _sha256_of(file)})
            description = {"format": FORMAT, "schema": SCHEMA, "recordings": described}
            description |= {"tasks": describe_tasks(self.tasks), "facts": dict(self.facts)}
            text = json.dumps({**description, _CHECKSUM: _checksum(description)}, indent=1) + "\n"
            (folder / DESCRIPTION).write_text(text, encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> Self:
        """Read a dataset; nothing in its files is executed.

        :param path: the folder that was given to :meth:`save`, or that of a run that recorded one
        :raises UnreadableFileError: if a file is missing, damaged or too large, or its parts do not fit; names the file
        """
        folder = locate_dataset(path)
        description = folder / DESCRIPTION
        try:
            content = _read_description(description)
            files = [each["file"] for each in content["recordings"]]
            if len(set(files)) < len(files):  # one file read many times could take any memory
                raise ValueError("two of its tasks have one file")
            recordings = {str(each["name"]): _read_task(folder, each) for each in content["recordings"]}
            if len(recordings) < len(content["recordings"]):
                raise ValueError("two of its tasks have one name")
            return cls(recordings, tasks_of_description(content["tasks"]), dict(content["facts"]))
        except UnreadableFileError:
            raise
        except Exception as e:  # a damaged description may cause any exception
            raise UnreadableFileError(f"{description}: describes no dataset ({type(e).__name__}: {e!s:.200})") from e


def locate_dataset(path: str | Path) -> Path:
    """Return the folder of a dataset: ``path`` itself, or its ``dataset`` if ``path`` is the folder of a run.

    :raises UnreadableFileError: if there is none
    """
    path = Path(path)
    for folder in (path, path / IN_RUN_FOLDER):
        if (folder / DESCRIPTION).is_file():
            return folder
    raise UnreadableFileError(
        f"{path} holds no dataset (no {DESCRIPTION}): give a folder that `sb3-multitask record` or mt.record wrote, or "
        "the folder of a run that recorded one"
    )


def check_is_free(path: str | Path) -> None:
    """Raise if a folder cannot be made at a path.

    :raises FileExistsError: if there is something
    :raises SaveError: if what is to be its parent is no folder that may be written to
    """
    if not isinstance(path, str | Path):
        raise TypeError(f"`path` must be the path of a folder (got {path!r:.100})")
    if Path(path).exists():
        raise FileExistsError(f"{path} exists, and a dataset is not overwritten: choose another folder, or remove it")
    parent = next(each for each in Path(path).absolute().parents if each.exists())
    if not (parent.is_dir() and os.access(parent, os.W_OK)):
        raise SaveError(f"Cannot write {path}: {parent} is no folder that may be written to")


def _sha256_of(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _checksum(description: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a description without its checksum, independent of the order of keys."""
    sealed = {key: value for key, value in description.items() if key != _CHECKSUM}
    return hashlib.sha256(json.dumps(sealed, sort_keys=True).encode()).hexdigest()


def _read_description(path: Path) -> dict[str, Any]:
    if path.stat().st_size > _MAX_DESCRIPTION_BYTES:
        raise UnreadableFileError(f"{path}: is larger than {_MAX_DESCRIPTION_BYTES // 2**20} MB")
    content: dict[str, Any] = json.loads(path.read_bytes())
    if content["format"] != FORMAT or content["schema"] != SCHEMA:
        raise ValueError(f"it is no dataset of schema {SCHEMA} (got {content['schema']!r:.50})")
    if content[_CHECKSUM] != _checksum(content):
        raise ValueError("it is not what was written (its SHA-256 differs)")
    return content


def _read_task(folder: Path, described: Mapping[str, Any]) -> TaskRecording:
    name = str(described["file"])
    if Path(name).name != name:
        raise ValueError(f"the file {name!r:.100} is not in the folder")
    file = folder / name
    try:
        if file.stat().st_size > _MAX_TASK_BYTES:
            raise UnreadableFileError(f"{file}: is larger than {_MAX_TASK_BYTES // 2**30} GB")
        if _sha256_of(file) != described["sha256"]:
            raise UnreadableFileError(f"{file}: is not the file that was written (SHA-256 differs)")
        return TaskRecording(**safetensors.numpy.load_file(file))
    except UnreadableFileError:
        raise
    except Exception as e:  # the file was written by anyone
        raise UnreadableFileError(f"{file}: holds no recording ({type(e).__name__}: {e!s:.200})") from e
