"""The layers of a model's env: wrappers, normaliser, tasks, and the order of tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal, TypeAlias

from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv, VecNormalize, unwrap_vec_normalize

from sb3_multitask.envs.task_env import box_of
from sb3_multitask.task_schedules.base import TaskSchedule, one_task_at_a_time
from sb3_multitask.vec_env.cycling import TaskCyclingVecEnv
from sb3_multitask.vec_env.multitask_vec_env import MultiTaskVecEnv
from sb3_multitask.vec_env.normalize import MultiTaskVecNormalize

ScheduleName: TypeAlias = Literal["joint", "cycle"]
TaskScheduleLike: TypeAlias = ScheduleName | TaskSchedule
"""All tasks in every update, one after the other, or what an object of ``sb3_multitask.task_schedules`` decides."""


def layers_of(env: VecEnv) -> Iterator[Any]:
    """Yield a VecEnv and what it wraps, from the outside in."""
    layer: Any = env
    while layer is not None:
        yield layer
        layer = vars(layer).get("venv")


def layer_with_tasks(env: VecEnv) -> Any:
    """Return the outermost layer that has tasks itself: reading its attributes takes no search through all layers."""
    return next(layer for layer in layers_of(env) if hasattr(type(layer), "task_ids") or "task_ids" in vars(layer))


def task_normalizer_of(env: VecEnv) -> MultiTaskVecNormalize | None:
    """Return an env's normaliser with statistics per task, under any wrappers.

    :raises ValueError: if the env has a stock ``VecNormalize``, or two normalisers
    """
    if sum(isinstance(layer, VecNormalize) for layer in layers_of(env)) > 1:
        raise ValueError(
            "The env is normalised twice: put one MultiTaskVecNormalize over a VecEnv made with "
            "make_multitask_vec_env(tasks, normalize=False)."
        )
    normalizer = unwrap_vec_normalize(env)
    if isinstance(normalizer, VecNormalize) and not isinstance(normalizer, MultiTaskVecNormalize):
        raise ValueError(
            "A stock VecNormalize mixes the tasks' statistics, and they would not travel with the model: use "
            "MultiTaskVecNormalize, as make_multitask_vec_env(tasks, normalize=True) does."
        )
    return normalizer


def scheduled(env: VecEnv, schedule: Any) -> VecEnv:
    """Return the env for an algorithm with this schedule: all tasks at once, or cycling under the normaliser.

    :param schedule: a ``TaskScheduleLike``, or the settings of a schedule
    :raises ValueError: if the env cannot have this schedule
    """
    given = repr(schedule).replace("'", '"') if isinstance(schedule, str) else f"{schedule!r:.100}"
    is_cycling = any(isinstance(layer, TaskCyclingVecEnv) for layer in layers_of(env))
    if not one_task_at_a_time(schedule):
        if is_cycling:
            raise ValueError(
                f"task_schedule={given} needs all tasks in one step, and a TaskCyclingVecEnv shows one at a time: "
                'pass the env inside it, or task_schedule="cycle".'
            )
        return env
    if isinstance(env, TaskCyclingVecEnv) and isinstance(env.venv, MultiTaskVecNormalize):
        env = env.venv  # cycling belongs under the normaliser
        is_cycling = False
    if is_cycling and isinstance(env, TaskCyclingVecEnv | MultiTaskVecNormalize):
        return env
    if isinstance(env, MultiTaskVecNormalize) and isinstance(env.venv, MultiTaskVecEnv):
        return env.cycling()
    if isinstance(env, MultiTaskVecEnv):
        return TaskCyclingVecEnv(env)
    raise ValueError(
        f"task_schedule={given} needs a MultiTaskVecEnv, or a MultiTaskVecNormalize over one, without other wrappers "
        f"(got {env!r}): a wrapper would mix up what it remembers of the tasks."
    )


def task_names_of(env: VecEnv) -> tuple[str, ...]:
    """Return the names of the tasks of a VecEnv, in the order of the heads.

    :raises ValueError: if its sub-environments have no tasks, or different ones
    """
    if hasattr(env, "task_names"):
        return tuple(env.task_names)
    try:
        names: list[tuple[str, ...]] = env.get_attr("task_names")
    except AttributeError as e:
        raise ValueError(
            "The env's observations carry a task, but it does not name its tasks: make it with "
            "make_multitask_vec_env(tasks), or wrap its sub-environments with TaskEnv(env, task, tasks)."
        ) from e
    if len(set(names)) != 1:
        raise ValueError(f"The sub-environments of an env must know the same tasks (got {sorted(set(names))})")
    return names[0]


def check_same_tasks(model_tasks: Sequence[str] | None, env_tasks: Sequence[str]) -> None:
    """Raise unless a model (if it has tasks yet) and an env have the same tasks in the same order."""
    if model_tasks is not None and tuple(model_tasks) != tuple(env_tasks):
        raise ValueError(
            "The env's tasks are not the model's, and heads follow their order.\n"
            f"  model: {', '.join(model_tasks)}\n  env:   {', '.join(env_tasks)}"
        )


def check_task_observations(env: Any) -> None:
    """Raise unless an env's observations carry their task."""
    space = getattr(env, "observation_space", None)
    if not isinstance(space, spaces.Dict) or set(space.spaces) != {"obs", "task"}:
        raise ValueError(
            f"A multi-task model needs an env whose observations carry their task, Dict(obs, task), not {space}. "
            "Make it with make_multitask_vec_env(tasks), or pass the tasks themselves, "
            'such as PPOMultiTask("MultiTaskMlpPolicy", ["Hopper-v5", ...]).'
        )


def differs_in_type_only(saved: Any, space: Any) -> bool:
    """Return whether a model's and an env's observations differ only in float32 or float64: 0.1.0 had only float32."""
    if not (isinstance(saved, spaces.Dict) and isinstance(space, spaces.Dict)) or saved == space:
        return False
    mine, other = saved.spaces.get("obs"), space.spaces.get("obs")
    if not (isinstance(mine, spaces.Box) and isinstance(other, spaces.Box)):
        return False
    return box_of(mine.low, mine.high, other.dtype) == other and saved.spaces.get("task") == space.spaces.get("task")
