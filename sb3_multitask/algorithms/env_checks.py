"""What is looked at when a model meets an env, beside its tasks."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from numbers import Integral
from typing import Any, get_args

import numpy as np
from gymnasium import spaces

from sb3_multitask.envs.flattening import layout_lines
from sb3_multitask.envs.task_space import TaskSpace
from sb3_multitask.losses.schedules import as_number
from sb3_multitask.many_tasks import listed
from sb3_multitask.vec_env.layers import task_names_of


def check_bounded_actions(action_space: spaces.Space[Any], env: Any = None) -> None:
    """Raise on a Box without finite bounds, which SB3's algorithms cannot take.

    :param env: whose tasks are named if they differ in their bounds

    :raises ValueError: says what to do
    """
    if isinstance(action_space, spaces.Box) and not action_space.is_bounded():
        unbounded = ~(np.isfinite(action_space.low) & np.isfinite(action_space.high))
        raise ValueError(
            f"`env` has the action space {action_space}{_unbounded_tasks(env)}, of which {int(unbounded.sum())} of "
            f"{unbounded.size} actions have no finite bounds: SB3's algorithms need them. "
            "gymnasium.wrappers.ClipAction takes them away: leave it out, since models clip their actions to the "
            "bounds anyway. Otherwise give bounds by gymnasium.wrappers.RescaleAction(env, -1, 1) or by an "
            "action_space of your own."
        )


def _unbounded_tasks(env: Any) -> str:
    """Name the tasks whose actions have no finite bounds; nothing if the tasks do not differ."""
    task = getattr(env, "observation_space", {"task": None})["task"]
    if not isinstance(task, TaskSpace):
        return ""
    pairs = zip(task_names_of(env), task.action_bounds, strict=True)
    return f" (by the tasks {listed([name for name, bounds in pairs if not np.isfinite(bounds).all()])})"


def check_choices(**arguments: tuple[object, Any]) -> None:
    """Raise ValueError unless each argument's value is one of a ``Literal``.

    :param arguments: name -> (value, the ``Literal``)
    """
    for name, (value, literal) in arguments.items():
        if value not in get_args(literal):
            raise ValueError(f"`{name}` must be one of {', '.join(get_args(literal))} (got {value!r})")


def check_counts(**arguments: object) -> None:
    """Raise unless each argument is a whole number of at least 1.

    :raises TypeError: if one is no whole number, as 100.0 and ``1e2`` are not
    :raises ValueError: if one is below 1
    """
    for name, value in arguments.items():
        if isinstance(value, bool) or not isinstance(value, Integral):
            raise TypeError(f"`{name}` must be a whole number of at least 1 (got {value!r:.100})")
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1 (got {value})")


def check_batch_size(batch_size: int, normalize_advantage: bool) -> None:
    """Raise on minibatches that cannot be, before SB3 asserts it."""
    check_counts(batch_size=batch_size)
    if batch_size < 2 and normalize_advantage:
        raise ValueError(f"`batch_size` must be at least 2, of which the advantages are normalised (got {batch_size})")


def check_positive(**arguments: object) -> None:
    """Raise unless each argument is a positive and finite number.

    :raises TypeError: if one is no number
    :raises ValueError: if one is out of range
    """
    for name, value in arguments.items():
        number = as_number(value)
        if number is None or not 0 < number < float("inf"):
            error = TypeError if number is None else ValueError
            raise error(f"`{name}` must be a positive, finite number (got {value!r:.100})")


def check_sub_sampling(factor: object) -> None:
    """Raise ValueError if TRPO's batch is to be sub-sampled: TRPO takes slices of observations, and ours are a dict."""
    if factor != 1:
        raise ValueError(
            f"`sub_sampling_factor` must be 1 (got {factor!r}): sb3-contrib's TRPO cannot sub-sample observations that "
            "are dicts, and multi-task ones are. For updates from fewer rows take a smaller `n_steps`"
        )


def check_desired_kl(desired_kl: float | None, target_kl: float | None, learning_rate: object) -> None:
    """Raise if a learning rate cannot follow the measured divergence."""
    if desired_kl is None:
        return
    check_positive(desired_kl=desired_kl)
    if target_kl is not None:
        raise ValueError(
            f"`desired_kl`={desired_kl} adapts the learning rate, and `target_kl`={target_kl} ends the update: give one"
        )
    if callable(learning_rate):
        raise ValueError("`desired_kl` sets the learning rate itself: `learning_rate` is a number to begin with")


def check_can_learn(name: str, env: object, *, needs_teachers: bool) -> None:
    """Raise ValueError if a model that was loaded lacks an env, or teachers.

    :param name: of the model's class
    """
    if env is None:
        raise ValueError(
            f"The model has no env to learn in: load it with `{name}.load(path, env=env)` or call "
            "`model.set_env(env)` first."
        )
    if needs_teachers:
        raise ValueError(
            "The model learned from teachers, which are not saved with it: load it with "
            f"`{name}.load(path, env=env, teachers={{task: teacher, ...}})`; with `teachers={{}}` it continues without "
            "them, by reinforcement learning."
        )


def warn_of_other_gamma(gamma: float, normalizer: Any) -> None:
    """Warn if rewards are scaled by returns of another discount factor than an algorithm learns with.

    :param gamma: the algorithm's
    :param normalizer: the env's ``MultiTaskVecNormalize``, or None
    """
    if normalizer is not None and normalizer.norm_reward and normalizer.training and normalizer.gamma != gamma:
        warnings.warn(
            f"The env's normaliser has gamma={normalizer.gamma}, the model gamma={gamma}: rewards are scaled by other "
            "returns than those that are learned. Give both the same, such as make_multitask_vec_env(tasks, "
            f"normalize={{'gamma': {gamma}}}).",
            stacklevel=3,
        )


def print_layouts(env: Any) -> None:
    """Print how the observations of a VecEnv's tasks are flattened, if some are."""
    for line in layout_lines(layouts_of(env)):
        print(line)  # noqa: T201


def layouts_of(env: Any) -> dict[str, str]:
    """Return how an env flattens the observations of tasks: task -> layout."""
    return dict(getattr(getattr(env, "unwrapped", None), "layouts", {}))


def check_same_layouts(of_model: Mapping[str, str], of_env: Mapping[str, str]) -> None:
    """Raise if an env flattens observations in another order than a model learned with.

    Gymnasium's dictionaries are equal whatever the order of their keys, and flattened in that order.

    :param of_model: task -> layout
    :raises ValueError: names the task and both layouts
    """
    for task in of_model.keys() & of_env.keys():
        if of_model[task] != of_env[task]:
            raise ValueError(
                f"The observations of task {task!r} are flattened in another way than those the model learned from, "
                f"which Gymnasium's spaces need not show: they compare equal in any order of keys.\n"
                f"  model: {of_model[task]}\n  env:   {of_env[task]}"
            )


def backend_message(env: Any) -> str:
    """Which backend runs the environments of a model, and why: the end of a sentence; empty for other VecEnvs."""
    venv = getattr(env, "unwrapped", None)
    name, reason = getattr(venv, "backend", None), getattr(venv, "backend_reason", None)
    if name is None:
        return ""
    if reason is not None:
        return f' and the "{name}" backend (not "batch": {reason})'
    n_threads = getattr(venv, "n_threads", 1)
    threads = f", {n_threads} physics thread{'s' * (n_threads > 1)}" if name == "batch" else ""
    return f' and the "{name}" backend{threads}'
