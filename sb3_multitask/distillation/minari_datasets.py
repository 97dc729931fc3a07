"""Datasets of teachers as datasets of Minari (https://minari.farama.org), one for each task, and back.

Minari has one observation space, one action space and one environment for each dataset.
"""

from __future__ import annotations

import copy
import json
import re
import warnings
from collections.abc import Mapping
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from sb3_multitask.distillation.dataset import TaskRecording, TeacherDataset
from sb3_multitask.tasks import Task, registered_id

_FACTS = "sb3_multitask"
"""Key of Minari's metadata with the facts of our dataset, as JSON."""
_NOT_IN_IDS = re.compile(r"[^-\w]")
_ID = re.compile(r"(?P<stem>[-\w/]*[-\w])-v(?P<version>\d+)")
_BY_TASK = ("teachers", "action_bounds", "layouts")
"""Facts that are mappings by task."""
_LABELS = ("teacher_mean", "teacher_log_std", "teacher_action")
"""Columns of the infos, one row for each step."""


def to_minari(
    dataset: TeacherDataset,
    dataset_id: str,
    *,
    author: str | None = None,
    author_email: str | None = None,
    code_permalink: str | None = None,
) -> dict[str, str]:
    """Write a dataset into Minari's folder (``MINARI_DATASETS_PATH``), one dataset of Minari for each task.

    Actions are within the bounds of the environment, as it took them. The infos of an episode have the rows
    ``teacher_action``, as the teacher chose it, and with labels ``teacher_mean`` and ``teacher_log_std``. Where the
    task is an environment by its id, Minari's ``recover_environment`` makes it.

    :param dataset_id: such as ``"own/bodies-v0"``: the task ``SmallFoot`` becomes ``"own/bodies/SmallFoot-v0"``.
        Characters of a task's name that Minari's ids cannot have become ``_``
    :param author: Minari's, as the two below
    :return: task name -> id in Minari
    :raises ImportError: without Minari (the extra ``minari``)
    :raises ValueError: if an id has another form, is taken, or two tasks would have one; before anything is written
    """
    minari = _minari()
    ids = _ids_of(dataset, dataset_id)
    taken = [one for one in ids.values() if one in minari.list_local_datasets()]
    if taken:
        raise ValueError(f"Minari has these datasets already: {', '.join(taken)}. Choose another `dataset_id`")
    try:
        for name in dataset.task_names:
            _write(minari, dataset, name, ids[name], (author, author_email, code_permalink))
    except BaseException:  # Minari leaves what it had begun, which takes the id and reads as an empty dataset
        for one in set(ids.values()) & set(minari.list_local_datasets()):
            minari.delete_dataset(one)
        raise
    return ids


def from_minari(datasets: Mapping[str, Any]) -> TeacherDataset:
    """Read datasets of Minari as one dataset of several tasks.

    Those that :func:`to_minari` wrote come back as they were. Others have actions without a teacher's Gaussians, from
    which a student learns with ``loss="nll"``.

    :param datasets: task name -> id in Minari, of a dataset that is on this machine, or a ``MinariDataset``
    :raises ImportError: without Minari (the extra ``minari``)
    :raises TypeError: if ``datasets`` is no mapping, or observations or actions are no vectors, such as those of goal
        environments
    :raises ValueError: if there is no task or no such dataset, or its parts do not hold together; names the task
    """
    minari = _minari()
    if not isinstance(datasets, Mapping):
        raise TypeError(
            '`datasets` must map tasks to datasets of Minari, such as {"SmallFoot": "own/bodies/SmallFoot-v0"} (got '
            f"{datasets!r:.100})"
        )
    if not datasets:
        raise ValueError("`datasets` must name at least one task and its dataset of Minari (got none)")
    recordings, tasks, facts = {}, [], {}
    for name, given in datasets.items():
        try:
            source = minari.load_dataset(given) if isinstance(given, str) else given
        except (ValueError, FileNotFoundError) as e:
            raise ValueError(f"Task {name!r}: Minari has no dataset {given!r} on this machine ({e})") from e
        for what, space in (("observations", source.observation_space), ("actions", source.action_space)):
            if not (isinstance(space, spaces.Box) and len(space.shape) == 1 and space.dtype.kind == "f"):
                raise TypeError(f"Task {name!r}: its {what} must be vectors of floats (got {space})")
        try:
            recordings[name] = _recording_of([*source.iterate_episodes()])
            facts[name] = _stored_facts(source)
        except ValueError as e:
            raise ValueError(f"Task {name!r}: the dataset {source.id} of Minari does not hold together: {e}") from e
        space = source.action_space
        facts[name].setdefault("action_bounds", [space.low.tolist(), space.high.tolist()])
        tasks.append(_task_of(name, source.env_spec))
    known = None if None in tasks else tuple(task for task in tasks if task is not None)
    return TeacherDataset(recordings, known, _merged(facts))


def _minari() -> Any:
    try:
        import h5py  # noqa: F401 (Minari's format needs it)
        import minari
    except ImportError as e:
        raise ImportError("Datasets of Minari need the extra: pip install 'sb3-multitask[minari]'") from e
    return minari


def _ids_of(dataset: TeacherDataset, dataset_id: str) -> dict[str, str]:
    match = _ID.fullmatch(dataset_id) if isinstance(dataset_id, str) else None
    if match is None or not all(match["stem"].split("/")) or len(match["stem"]) < 2:
        raise ValueError(
            "`dataset_id` must be a name of letters, digits, `-`, `_` and `/`, with at least two characters, and a "
            f"version, such as 'own/bodies-v0' (got {dataset_id!r})"
        )
    stem, version = match.groups()
    ids = {name: f"{stem}/{_NOT_IN_IDS.sub('_', name)}-v{version}" for name in dataset.task_names}
    if len(set(ids.values())) < len(ids):
        raise ValueError(f"Two tasks would have one id in Minari: {', '.join(ids.values())}")
    return ids


def _write(
    minari: Any, dataset: TeacherDataset, name: str, dataset_id: str, authors: tuple[str | None, str | None, str | None]
) -> None:
    """Write the recording of one task as a dataset of Minari.

    :param authors: Minari's author, author_email and code_permalink
    """
    recording, facts = dataset.recordings[name], _facts_of(dataset, name)
    by_name = {task.name: task for task in dataset.tasks or ()}
    extremes = recording.actions.min(axis=0), recording.actions.max(axis=0)
    low, high = (np.array(bound, np.float32) for bound in facts.get("action_bounds", extremes))
    box = spaces.Box(low, high)
    author, author_email, code_permalink = authors
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", ".*(is set to None|env_spec is None).*")
        made = minari.create_dataset_from_buffers(
            dataset_id,
            [_buffer_of(recording, rows, episode, box) for episode, rows in enumerate(recording.slices())],
            env=None if "layouts" in facts else _spec_of(by_name.get(name)),  # whose observations are flattened
            observation_space=spaces.Box(-np.inf, np.inf, (recording.obs_dim,), recording.observations.dtype.type),
            action_space=box,
            algorithm_name="recorded teachers",
            author=author,
            author_email=author_email,
            code_permalink=code_permalink,
            description=f"Steps of a teacher of the task {name!r}, recorded by sb3-multitask",
        )
    made.storage.update_metadata({_FACTS: json.dumps(facts)})


def _buffer_of(recording: TaskRecording, rows: slice, episode: int, box: spaces.Box) -> Any:
    from minari.data_collector import EpisodeBuffer

    columns = dict(zip(_LABELS, (recording.teacher_mean, recording.teacher_log_std, recording.actions), strict=True))
    return EpisodeBuffer(
        observations=np.vstack((recording.observations[rows], recording.last_observations[episode])),
        actions=np.clip(recording.actions[rows], box.low, box.high),
        rewards=recording.rewards[rows],  # type: ignore[arg-type,unused-ignore]
        terminations=recording.terminations[rows],  # type: ignore[arg-type,unused-ignore]
        truncations=recording.truncations[rows],  # type: ignore[arg-type,unused-ignore]
        infos={name: column[rows] for name, column in columns.items() if column is not None},
    )


def _stored_facts(source: Any) -> dict[str, Any]:
    """Return the facts that :func:`to_minari` wrote with a dataset; none of another's."""
    facts = json.loads(source.storage.metadata.get(_FACTS, "{}"))
    if not isinstance(facts, dict):
        raise ValueError(f"its {_FACTS} is no JSON object")
    return facts


def _recording_of(episodes: list[Any]) -> TaskRecording:
    if not episodes:
        raise ValueError("it has no episodes")
    lengths = [len(episode.rewards) for episode in episodes]
    for episode, length in zip(episodes, lengths, strict=True):
        if not length or len(episode.observations) != length + 1:
            raise ValueError(
                f"episode {episode.id} has {length} steps and {len(episode.observations)} observations; it must have "
                "one more of these"
            )
    terminations, truncations = (
        np.concatenate([getattr(episode, name) for episode in episodes]).astype(bool)
        for name in ("terminations", "truncations")
    )
    ends = np.cumsum(lengths) - 1
    truncations[ends] |= ~terminations[ends]  # an episode of Minari may end without either
    chosen = _column(episodes, lengths, "teacher_action")
    actions = np.concatenate([episode.actions for episode in episodes]) if chosen is None else chosen
    return TaskRecording(
        observations=np.concatenate([episode.observations[:-1] for episode in episodes]),
        actions=actions.astype(np.float32),
        rewards=np.concatenate([episode.rewards for episode in episodes]).astype(np.float64),
        terminations=terminations,
        truncations=truncations,
        episodes=np.repeat(np.arange(len(episodes)), lengths),
        last_observations=np.stack([episode.observations[-1] for episode in episodes]),
        teacher_mean=_column(episodes, lengths, "teacher_mean"),
        teacher_log_std=_column(episodes, lengths, "teacher_log_std"),
    )


def _column(episodes: list[Any], lengths: list[int], name: str) -> np.ndarray | None:
    """Return the rows of an info, if every episode has one for each of its steps."""
    parts: list[Any] = [(episode.infos or {}).get(name) for episode in episodes]
    if any(part is None or len(part) != length for part, length in zip(parts, lengths, strict=True)):
        return None
    return np.concatenate(parts)


def _spec_of(task: Task | None) -> Any:
    """Return Gymnasium's spec of a task that is an environment by its id; else None."""
    if task is None or not isinstance(task.env_id, str) or not isinstance(task.env_kwargs, Mapping):
        return None
    spec = copy.deepcopy(gym.spec(registered_id(task.env_id)))
    spec.kwargs.update(task.env_kwargs)
    return spec


def _task_of(name: str, spec: Any) -> Task | None:
    """Return the task of a spec whose id is registered here; nothing else of the spec is used."""
    if spec is None or spec.id not in gym.registry:
        return None
    return Task(name, spec.id, dict(spec.kwargs))


def _facts_of(dataset: TeacherDataset, name: str) -> dict[str, Any]:
    """Return the facts of one task: those of all tasks, and its own."""
    own = {key: dataset.facts[key][name] for key in _BY_TASK if name in dataset.facts.get(key, {})}
    return {key: value for key, value in dataset.facts.items() if key not in _BY_TASK} | own


def _merged(facts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the facts of several tasks as one: what they have in common, and by task what each has of its own."""
    first, *others = facts.values()
    common = {
        key: value
        for key, value in first.items()
        if key not in _BY_TASK and all(other.get(key) == value for other in others)
    }
    return common | {key: {name: of_task[key] for name, of_task in facts.items() if key in of_task} for key in _BY_TASK}
