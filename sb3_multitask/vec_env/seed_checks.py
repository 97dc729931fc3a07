"""Check that environments obey their seeds; otherwise all copies may learn from the same episodes."""

from __future__ import annotations

import json
import warnings
from collections.abc import Hashable, Mapping, Sequence
from typing import Any

import gymnasium as gym
import numpy as np

from sb3_multitask.tasks import Task, registered_id
from sb3_multitask.vec_env.copies import Copies

_MAX_REMEMBERED = 1000
_starts_in_this_process: dict[Hashable, np.ndarray] = {}


class SeedChecks:
    """Warn, once for each task, of an environment that does not obey ``reset(seed=...)``.

    It compares first observations only, and never resets an environment, since an environment may count its episodes.
    It remembers the starts of this VecEnv, and for the whole process those of registered environments, until they are
    changed.

    :param tasks: in order
    :param copies: of each task
    :param obs_dims: size of the observations of each task
    :param doubtful: names of the tasks whose environments are not known to obey their seeds
    """

    def __init__(self, tasks: Sequence[Task], copies: Copies, obs_dims: Sequence[int], doubtful: set[str]) -> None:
        self._tasks, self._copies, self._obs_dims = tasks, copies, obs_dims
        self._unwarned = set(doubtful)
        self._starts: dict[Hashable, np.ndarray] = {}
        self._are_as_made = True

    def forget(self) -> None:
        """Forget all starts, since the environments were changed and may start differently."""
        self._starts.clear()
        self._are_as_made = False

    def after_reset(
        self, rows: slice, seeds: Sequence[int | None], options: Sequence[Mapping[str, Any]], obs: np.ndarray
    ) -> None:
        """Compare the first observations of a reset.

        :param rows: the rows that were reset, whole tasks
        :param seeds: seeds of these rows; ``None`` where the environment continued with its own generator
        :param options: options of these rows; a start with options is not compared
        :param obs: their first observations, (n_rows, obs_dim)
        """
        first_row = rows.start or 0
        for i, (task, n_copies) in enumerate(zip(self._tasks, self._copies.of_tasks, strict=True)):
            begin = self._copies.bounds[i] - first_row
            if not 0 <= begin < len(seeds):
                continue
            copies, seed = slice(begin, begin + n_copies), seeds[begin]
            if task.name not in self._unwarned or seed is None or None in seeds[copies]:
                continue
            starts = obs[copies, : self._obs_dims[i]]  # VecEnvs may differ in their padding
            earlier = None if options[begin] else self._earlier_start(task, seed, starts[0])
            if earlier is not None and not np.array_equal(earlier, starts[0], equal_nan=True):
                self._warn(task, "starts differently from before with the same seed, so results cannot be repeated")
            elif n_copies > 1 and (starts == starts[0]).all():
                self._warn(task, f"starts in the same state in all of its {n_copies} copies, whose seeds differ")

    def _earlier_start(self, task: Task, seed: int, obs: np.ndarray) -> np.ndarray | None:
        """Return the earlier start of a task's first copy with this seed, and remember the present start."""
        mine: Hashable = (task.name, seed)
        if mine in self._starts:
            return self._starts[mine]
        self._starts[mine] = obs.copy()
        key = _key_in_process(task, seed) if self._are_as_made else None
        if key is None:
            return None
        if len(_starts_in_this_process) >= _MAX_REMEMBERED:
            _starts_in_this_process.clear()
        return _starts_in_this_process.setdefault(key, self._starts[mine])

    def _warn(self, task: Task, what: str) -> None:
        self._unwarned.discard(task.name)
        warnings.warn(
            f"Task {task.name!r} {what}: its environment does not obey reset(seed=...), or has one fixed start. If its "
            "constructor takes a seed, give each copy its own: "
            'Task(name, env_id, env_kwargs=lambda copy: {"seed": copy}).',
            stacklevel=5,
        )


def _key_in_process(task: Task, seed: int) -> Hashable | None:
    """Return a key that is equal for environments that start in the same state; None if that is unknown."""
    if not isinstance(task.env_id, str) or not isinstance(task.env_kwargs, Mapping):
        return None  # a callable may make different environments
    spec = gym.registry.get(registered_id(task.env_id))
    if spec is None:
        return None
    try:
        kwargs = json.dumps({**spec.kwargs, **task.env_kwargs}, sort_keys=True)
        hash(spec.entry_point)
    except TypeError:  # other arguments than texts and numbers cannot be compared
        return None
    return spec.id, spec.entry_point, kwargs, seed
