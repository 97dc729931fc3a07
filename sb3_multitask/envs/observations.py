"""The type of observations, and checks before models and agents act on them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from sb3_multitask.envs.task_space import TaskSizes, padded


def observation_dtype(*dtypes: Any) -> np.dtype[Any]:
    """Return float32 if it represents all values of these types exactly, else float64."""
    return np.dtype(np.float32 if all(np.can_cast(dtype, np.float32) for dtype in dtypes) else np.float64)


def checked_observation(observation: Any, n_tasks: int) -> dict[str, Any]:
    """Return the observation, with a task for each row.

    :param observation: ``{"obs": (obs_dim,) or (n_rows, obs_dim), "task": a whole number, or one for each row}``
    :raises ValueError: on other keys, or task ids that are not whole numbers, unknown, too many or too few
    """
    if not isinstance(observation, Mapping) or set(observation) != {"obs", "task"}:
        keys = ", ".join(sorted(map(str, observation))) if isinstance(observation, Mapping) else None
        got = f"{type(observation).__name__}: {observation!r:.100}" if keys is None else f"the keys {keys}"
        raise ValueError(
            "`observation` must be {'obs': (..., obs_dim), 'task': task ids}, as MultiTaskVecEnv and TaskEnv give it "
            f"(got {got})"
        )
    if isinstance(observation["obs"], Mapping | tuple):
        raise ValueError(
            "`observation['obs']` must be the numbers of an observation as one vector, and this one has several parts "
            f"(got {observation['obs']!r:.100}): sb3_multitask.FlatObservation(env) or TaskEnv(env, task, tasks) gives "
            "them in the order in which the VecEnv does"
        )
    shape = np.shape(observation["obs"])
    return {**observation, "task": _checked_tasks(observation["task"], shape, n_tasks)}


def task_ids(task: Any, n_tasks: int, argument: str) -> np.ndarray:
    """Return task ids as int64, in the given shape.

    :param argument: name of the argument that holds them as ``task``, for the error
    :raises ValueError: if they are not whole numbers, or unknown
    """
    ids = np.asarray(task)
    # no bool, no text, no NaN
    if ids.dtype.kind not in "iuf" or (ids.dtype.kind == "f" and not np.array_equal(ids, np.floor(ids))):
        hint = ", of a name its place among `task_names`" if ids.dtype.kind in "US" else ""
        raise ValueError(f"`{argument}['task']` must be whole numbers, task ids{hint} (got {task!r:.100})")
    if ids.size and not (ids.min() >= 0 and ids.max() < n_tasks):
        raise ValueError(f"`{argument}['task']` must be task ids from 0 to {n_tasks - 1} (got {ids})")
    return ids.astype(np.int64, copy=False)


def _checked_tasks(task: Any, obs_shape: tuple[int, ...], n_tasks: int) -> np.ndarray:
    """Return task ids, int64: () for a single observation, (n_rows,) for a batch."""
    ids = task_ids(task, n_tasks, "observation")
    n_rows = obs_shape[0] if len(obs_shape) > 1 else 1
    if ids.ndim == 0 and len(obs_shape) > 1:
        ids = np.full(n_rows, ids)
    if ids.ndim > 1 or ids.size != n_rows:
        raise ValueError(
            f"`observation['task']` must have a task for each row, (n_rows,) (got the shape {ids.shape} for obs of the "
            f"shape {obs_shape})"
        )
    return ids


def padded_observation(obs: Any, task: np.ndarray, sizes: TaskSizes, names: Sequence[str] = ()) -> Any:
    """Return observations padded to those of the widest task; the same where all tasks are equally wide.

    :param obs: (obs_dim,) or (n_rows, obs_dim): padded, or of the size of their tasks, if that is one
    :param task: the task of each row, as :func:`checked_observation` returns it
    :param names: of the tasks, for the error; without them it has their ids
    :raises ValueError: on another size; names the first task whose rows do not have it
    """
    shape, tasks = np.shape(obs), task.reshape(-1)
    if not sizes.has_padding or shape[-1:] == (sizes.obs_dim,):
        return obs
    wrong = tasks[sizes.obs_dims[tasks] != (shape[-1] if shape else 0)].tolist()
    if len(shape) not in (1, 2) or wrong:
        name = [*(names or range(len(sizes.obs_dims)))][wrong[0] if wrong else tasks[0]]
        own, wide = sizes.obs_dims[wrong[0] if wrong else tasks[0]], sizes.obs_dim
        accepted = f"({own},), the task's own size, or ({wide},)"
        if len(shape) > 1:
            accepted = f"(n_rows, {wide}), or (n_rows, {own}) if all rows are of tasks of this size"
        raise ValueError(
            f"`observation['obs']` of task {name} must be {accepted}; padding is zeros (got the shape {shape})"
        )
    return padded(np.asarray(obs), sizes.obs_dim)


def own_actions(actions: np.ndarray, task: np.ndarray, sizes: TaskSizes) -> np.ndarray:
    """Return padded actions (action_dim,) or (n_rows, action_dim) within the bounds of their tasks.

    One action loses its padding; those of a batch have zeros there.
    """
    if not (sizes.has_padding or sizes.bounds_differ):
        return actions
    task = task.reshape(actions.shape[:-1])
    within: np.ndarray = np.clip(actions, sizes.action_low[task], sizes.action_high[task])
    return within if within.ndim > 1 else within[: sizes.action_dims[task]]
