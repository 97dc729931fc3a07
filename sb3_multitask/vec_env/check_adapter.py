"""Holds an adapter against its environment."""

from __future__ import annotations

from typing import Any

import numpy as np

from sb3_multitask.tasks import TasksLike
from sb3_multitask.vec_env.multitask_vec_env import MultiTaskVecEnv


def check_adapter(tasks: TasksLike, n_steps: int = 1000, seed: int = 0) -> None:
    """Step tasks with ``backend="batch"`` and with their environments, and compare all that they give, bit for bit.

    Actions are drawn from the whole action space, so robots that can fall do. Steps should suffice for several
    episodes.

    :param tasks: of the environments whose adapter is checked
    :param n_steps: of each of two copies of every task
    :raises AssertionError: at the first difference; names step, task, what differs and both values
    :raises ValueError: if the tasks cannot run in a batch
    """
    native, reference = (MultiTaskVecEnv(tasks, 2, backend=backend, seed=seed) for backend in ("batch", "dummy"))
    rng, space = np.random.default_rng(seed), native.action_space
    try:
        _compare(native, 0, "observation", native.reset()["obs"], reference.reset()["obs"])
        for step in range(1, n_steps + 1):
            actions = rng.uniform(space.low, space.high, (native.num_envs, *space.shape)).astype(np.float32)
            mine, theirs = native.step(actions), reference.step(actions)
            _compare(native, step, "observation", mine[0]["obs"], theirs[0]["obs"])  # type: ignore[call-overload]
            _compare(native, step, "reward", mine[1], theirs[1])
            _compare(native, step, "done", mine[2], theirs[2])
            for row, (info, their_info) in enumerate(zip(mine[3], theirs[3], strict=True)):
                _compare_infos(f"{_where(native, step, row)}: info", _timeless(info), _timeless(their_info))
    finally:
        native.close()
        reference.close()


def _compare(env: MultiTaskVecEnv, step: int, what: str, mine: np.ndarray, theirs: np.ndarray) -> None:
    for row, (one, other) in enumerate(zip(mine, theirs, strict=True)):
        if not np.array_equal(one, other, equal_nan=True):
            raise AssertionError(
                f"{_where(env, step, row)}: {what} {one} from the adapter, {other} from the environment"
            )


def _compare_infos(where: str, mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    if mine.keys() != theirs.keys():
        differing = ", ".join(sorted(map(repr, mine.keys() ^ theirs.keys())))
        raise AssertionError(f"{where} has other keys: {differing}")
    for key, value in mine.items():
        if isinstance(value, dict):
            _compare_infos(f"{where}[{key!r}]", value, theirs[key])
        elif not np.array_equal(value, theirs[key]):
            raise AssertionError(f"{where}[{key!r}] is {value} from the adapter, {theirs[key]} from the environment")


def _timeless(info: dict[str, Any]) -> dict[str, Any]:
    """An info without the seconds since the start."""
    if "episode" not in info:
        return info
    return {**info, "episode": {key: value for key, value in info["episode"].items() if key != "t"}}


def _where(env: MultiTaskVecEnv, step: int, row: int) -> str:
    return f"Step {step}, task {env.task_names[env.task_ids[row]]!r}"
