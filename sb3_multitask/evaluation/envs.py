"""The envs of an evaluation: their tasks, the head that acts in each, and the normalisation of observations."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, TypeAlias, cast

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecCheckNan, VecEnv, VecEnvWrapper, VecMonitor, VecNormalize

from sb3_multitask.agents import Agent, normalizer_state_of
from sb3_multitask.envs.task_space import TaskSizes, padded
from sb3_multitask.tasks import Task, did_you_mean, registered_id
from sb3_multitask.vec_env import MultiTaskVecEnv, MultiTaskVecNormalize, TaskCyclingVecEnv
from sb3_multitask.vec_env.faults import OnFault
from sb3_multitask.vec_env.layers import layers_of, task_normalizer_of

Evaluable: TypeAlias = BaseAlgorithm | Agent
_TRANSPARENT = (TaskCyclingVecEnv, VecNormalize, VecCheckNan, VecMonitor)


def given_env(env: Any) -> VecEnv | None:
    """Return ``env`` if it is an env; None if it is tasks or None.

    :raises ValueError: if it is anything else
    """
    if isinstance(env, VecEnv):
        return env
    if env is None or isinstance(env, str | Task | Mapping | Sequence):
        return None
    raise ValueError(
        "`env` must be a MultiTaskVecEnv, normalised or not, or tasks: a set's name, an id, a Task, or a list of these "
        f"(got {env!r:.100})"
    )


def fresh_env(
    model: Evaluable, tasks: Sequence[Task], heads: np.ndarray | None, n_envs_per_task: int, seed: int
) -> MultiTaskVecEnv:
    """Make envs of tasks for the model.

    :param heads: the model's head for each task; None for the task's own
    :raises ValueError: if a task has other sizes than its head
    """
    training_env: Any = training_env_of(model)
    on_fault: OnFault = getattr(training_env and training_env.unwrapped, "on_fault", "stop")
    env = MultiTaskVecEnv(tasks, n_envs_per_task, seed=seed, training=False, on_fault=on_fault)
    try:
        _check_sizes(model, env, heads)
    except ValueError:
        env.close()
        raise
    return env


def _check_sizes(model: Evaluable, env: MultiTaskVecEnv, heads: np.ndarray | None) -> None:
    """Raise ValueError if a task has other sizes than its head; None for ``heads`` are the tasks' own."""
    theirs, ours = env.sub_envs.sizes, sizes_of(model)
    for i, head in enumerate(range(env.n_tasks) if heads is None else heads):
        their_dims, our_dims = ((int(s.obs_dims[j]), int(s.action_dims[j])) for s, j in ((theirs, i), (ours, head)))
        if their_dims != our_dims:
            raise ValueError(
                f"Task {env.task_names[i]!r} has {their_dims[0]} numbers in an observation and {their_dims[1]} in an "
                f"action; the model's head has {our_dims[0]} and {our_dims[1]}"
            )


def sizes_of(model: Evaluable) -> TaskSizes:
    """Return the sizes of the tasks of a model or an agent."""
    return model.sizes if isinstance(model, Agent) else TaskSizes.of(model.observation_space, model.action_space)


def tasks_of(model: Evaluable) -> tuple[Task, ...]:
    """Return the tasks of a model or an agent, in order.

    :raises ValueError: if they are not known
    """
    tasks = getattr(model, "tasks", None) or getattr(training_env_of(model), "tasks", None)
    if tasks is None:
        raise ValueError(
            "The environments of the model's tasks are not known: it was not trained on a MultiTaskVecEnv, or its file "
            "does not name their ids. Pass `env=make_multitask_vec_env(tasks, training=False)`."
        )
    return cast("tuple[Task, ...]", tasks)


def heads_of(model: Evaluable, tasks: Sequence[Task]) -> np.ndarray | None:
    """Return the model's head for each task, (n_tasks,); None if the tasks are the model's own, in order.

    :raises ValueError: if the model has no head for a task, or its statistics are not known
    """
    env: Any = training_env_of(model)
    if env is None and not isinstance(model, Agent) and not hasattr(model, "normalizer_state"):
        raise ValueError(
            f"A {type(model).__name__} without an env does not know how its observations were normalised: pass `env`, "
            "a MultiTaskVecEnv in a MultiTaskVecNormalize with the statistics of its training"
        )
    names = tuple(getattr(model, "task_names", None) or getattr(env, "task_names", None) or ())
    if tuple(task.name for task in tasks) == names:
        return None
    if len(names) == 1:
        return np.zeros(len(tasks), dtype=np.int64)
    own = getattr(model, "tasks", None) or getattr(env, "tasks", None) or ()
    by_id = defaultdict(list)
    for one in own:
        if isinstance(one.env_id, str) and not one.env_kwargs:
            by_id[registered_id(one.env_id)].append(one.name)
    heads = []
    for task in tasks:
        name = task.name
        if name not in names and isinstance(task.env_id, str) and name == registered_id(task.env_id):  # a bare id
            same = by_id[name]
            if len(same) > 1:
                raise ValueError(
                    f"The model has several heads for {name}: {', '.join(same)}. Say which one is evaluated by its "
                    f"name: Task({same[0]!r}, {task.env_id!r})"
                )
            name = same[0] if same else name
        if name not in names:
            raise ValueError(
                f"The model has no head for task {task.name!r}.{did_you_mean(task.name, names)} "
                f"Heads: {', '.join(names)}"
            )
        heads.append(names.index(name))
    return np.array(heads, dtype=np.int64)


def training_env_of(model: Evaluable) -> VecEnv | None:
    return None if isinstance(model, Agent) else model.get_env()


def checked_env(model: Evaluable, env: VecEnv) -> MultiTaskVecEnv:
    """Return the MultiTaskVecEnv inside ``env``, if the model can be evaluated on it."""
    venv = env.unwrapped
    if not isinstance(venv, MultiTaskVecEnv):
        raise ValueError(f"`env` must be a MultiTaskVecEnv, normalised or not, or tasks (got {env!r})")
    training_env = training_env_of(model)
    if training_env is not None and training_env.unwrapped is venv:
        raise ValueError("`env` is the model's training env, which an evaluation would disturb; make another.")
    names = getattr(model, "task_names", None) or getattr(training_env, "task_names", None) or venv.task_names
    if tuple(names) != venv.task_names:
        raise ValueError(
            f"`env` must have the model's tasks, in their order.\n  model: {', '.join(names)}\n"
            f"  env:   {', '.join(venv.task_names)}"
        )
    _check_sizes(model, venv, None)
    return venv


def wrappers_of(env: VecEnv | None) -> list[str]:
    """Return the names of the wrappers that may change observations or actions."""
    return [
        type(layer).__name__
        for layer in (() if env is None else layers_of(env))
        if isinstance(layer, VecEnvWrapper) and not isinstance(layer, _TRANSPARENT)
    ]


@contextmanager
def normalized_like(
    model: Evaluable, venv: MultiTaskVecEnv, given: VecEnv | None, heads: np.ndarray | None
) -> Iterator[VecEnv]:
    """Yield ``venv`` in the wrappers of ``given``, normalised with the model's statistics, which do not change.

    For a model without statistics (of another algorithm, loaded from a file) the env's own statistics are used.

    :param heads: the head whose statistics normalise each task; None for the task's own
    :raises ValueError: if the model or the env has a stock ``VecNormalize``, or a wrapper is around an env of which
        only one of model and env is normalised
    """
    wrappers = [] if given is None else wrappers_of(given)
    if isinstance(model, Agent):
        if given is not None and wrappers and task_normalizer_of(given) is not None:
            raise ValueError(
                f"An agent includes its normaliser: pass an `env` with {', '.join(wrappers)} and without a normaliser"
            )
        yield given if given is not None and wrappers else venv
        return
    state = normalizer_state_of(model)
    if state is None and given is not None:
        normalizer = task_normalizer_of(given)
        state = None if normalizer is None or model.get_env() is not None else normalizer.get_statistics()
    if given is not None and wrappers:
        yield from _with_swapped_statistics(given, state, wrappers)
    elif state is None:
        yield venv
    else:
        frozen = MultiTaskVecNormalize(venv, training=False, norm_reward=False)
        obs_dim = venv.sub_envs.sizes.obs_dim
        frozen.set_statistics(state if heads is None else _statistics_of_heads(state, heads, obs_dim))
        yield frozen


def _statistics_of_heads(state: Mapping[str, Any], heads: np.ndarray, obs_dim: int) -> dict[str, Any]:
    """Return a normaliser's statistics, with the statistics of a head for each task.

    :param obs_dim: of the tasks' env, which may be narrower or wider than the model's
    """
    of_heads = {name: value for name, value in state.items() if not name.endswith("_rms")}
    of_heads["ret_rms"] = {part: array[heads] for part, array in state["ret_rms"].items()}
    of_heads["obs_rms"] = {part: padded(array[heads][:, :obs_dim], obs_dim) for part, array in state["obs_rms"].items()}
    of_heads["obs_rms"]["var"][:, state["obs_rms"]["var"].shape[1] :] = 1
    return of_heads


def _with_swapped_statistics(env: VecEnv, state: dict[str, Any] | None, wrappers: Sequence[str]) -> Iterator[VecEnv]:
    """Yield ``env`` with the model's statistics in its normaliser; restore its own afterwards."""
    normalizer = task_normalizer_of(env)
    if (normalizer is None) != (state is None):
        does, does_not = ("model", "env") if normalizer is None else ("env", "model")
        raise ValueError(
            f"The {does} normalises its observations and the {does_not} does not; under {', '.join(wrappers)} the env "
            "must have a MultiTaskVecNormalize exactly if the model does"
        )
    if normalizer is None or state is None:
        yield env
        return
    mine, flags = normalizer.get_statistics(), (normalizer.training, normalizer.norm_reward)
    try:
        normalizer.set_statistics(state)
        normalizer.training, normalizer.norm_reward = False, False
        yield env
    finally:
        normalizer.set_statistics(mine)
        normalizer.training, normalizer.norm_reward = flags
