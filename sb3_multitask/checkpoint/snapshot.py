"""What a training run is at the start of a rollout, as a tree of plain values and arrays.

Only there is it small: no half-filled rollout, no action under way. A run that resumes from a snapshot makes the same
bits as one that never stopped.
"""

from __future__ import annotations

import copy
import importlib.metadata
import inspect
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.callbacks import (
    BaseCallback,
    CallbackList,
    ConvertCallback,
    EventCallback,
    ProgressBarCallback,
)
from stable_baselines3.common.vec_env import VecCheckNan, VecEnv

from sb3_multitask.algorithms.model_state import COMBINER, OPTIONS
from sb3_multitask.algorithms.multitask_algorithm import MultiTaskAlgorithm
from sb3_multitask.checkpoint.format import CheckpointError
from sb3_multitask.distillation.teacher_vec_env import TeacherVecEnv
from sb3_multitask.process.generators import global_states, set_global_states
from sb3_multitask.storage.plain import is_plain
from sb3_multitask.task_schedules import TaskSchedule
from sb3_multitask.vec_env.layers import layers_of

_PACKAGES = ("torch", "numpy", "mujoco", "gymnasium", "stable-baselines3")
_STATELESS_LAYERS = (VecCheckNan,)
_NOT_STATE = {"model", "logger", "locals", "globals", "parent", "callback", "callbacks", "verbose", "eval_env"}


@dataclass
class Baseline:
    """What a script had set up when training started; what changed since is state.

    :param settings: what makes it the same run
    :param callbacks: name -> the plain attributes of a callback that does not tell its state itself
    """

    settings: dict[str, Any]
    callbacks: dict[str, dict[str, Any]]


def baseline_of(model: MultiTaskAlgorithm, root: BaseCallback) -> Baseline:
    """To be asked for when training starts, before anything is restored."""
    kept = {name: _plain_attributes(callback) for name, callback in stateful(root) if not _has_state(callback)}
    return Baseline(model.settings(), copy.deepcopy(kept))


def capture(model: MultiTaskAlgorithm, root: BaseCallback, baseline: Baseline) -> dict[str, Any]:
    """Everything that decides how the training continues.

    :param model: at the start of a rollout
    :param root: the callback of ``learn``, with all its children
    :param baseline: of this script
    """
    assert model.env is not None
    return {
        **model.get_state(),
        "settings": baseline.settings,
        "platform": _platform(model),
        "env": env_state(model.env),
        "callbacks": {
            name: _callback_state(callback, baseline.callbacks.get(name)) for name, callback in stateful(root)
        },
        "generators": global_states(),
    }


def restore(model: MultiTaskAlgorithm, root: BaseCallback, snapshot: dict[str, Any], baseline: Baseline) -> None:
    """Make a training run what it was when :func:`capture` gave ``snapshot``; generators last.

    :raises CheckpointError: on other settings or weights that are not finite (nothing is changed), or another env
    """
    assert model.env is not None
    _check_settings(baseline.settings, snapshot["settings"])
    try:
        model.set_state(snapshot)
    except ValueError as e:
        raise CheckpointError(str(e)) from e
    set_env_state(model.env, snapshot["env"])
    for name, callback in stateful(root):
        if name in snapshot["callbacks"]:
            _set_callback_state(callback, snapshot["callbacks"][name], baseline.callbacks.get(name, {}))
    set_global_states(snapshot["generators"])


def why_inexact(model: MultiTaskAlgorithm, root: BaseCallback, snapshot: dict[str, Any] | None = None) -> list[str]:
    """Why a run that resumes from a snapshot would not make the same bits; empty if it would.

    :param snapshot: one to resume from; ``None``: one that would be taken now
    """
    assert model.env is not None
    reasons = list(_inexact_env(model.env))
    for name, callback in stateful(root):
        reasons += _inexact_callback(name, callback)
    reasons += _inexact_functions(root)
    schedule = getattr(model, "task_schedule", None)
    if isinstance(schedule, TaskSchedule) and (reason := schedule.why_inexact()):
        reasons.append(reason)
    combining = getattr(model, "combining", None)
    if combining is not None and (reason := combining.why_inexact()):
        reasons.append(reason)
    if snapshot is None:
        return reasons
    for name, now in _platform(model).items():
        then = snapshot["platform"].get(name)
        if now != then:
            reasons.append(f"{name} was {then} and is {now}")
    missing = [name for name, _ in stateful(root) if name not in snapshot["callbacks"]]
    return reasons + [f"the checkpoint knows no {name}" for name in missing]


# The env, layer by layer


def env_state(env: VecEnv) -> list[dict[str, Any]]:
    """State of a VecEnv and of all it wraps, from the outside in."""
    return [
        {"class": type(layer).__name__, "state": layer.get_state() if _has_state(layer) else None}
        for layer in _lasting_layers(env)
    ]


def _lasting_layers(env: VecEnv) -> list[Any]:
    """The layers of an env but for the teachers, who are in it while a rollout is collected."""
    return [layer for layer in layers_of(env) if not isinstance(layer, TeacherVecEnv)]


def set_env_state(env: VecEnv, states: list[dict[str, Any]]) -> None:
    """Restore what :func:`env_state` gave.

    :raises CheckpointError: if the env has other layers
    """
    layers = _lasting_layers(env)
    now, then = [type(layer).__name__ for layer in layers], [state["class"] for state in states]
    if now != then:
        raise CheckpointError(f"The env is {' over '.join(now)}, that of the checkpoint was {' over '.join(then)}")
    for layer, saved in zip(layers, states, strict=True):
        if saved["state"] is not None:
            try:
                layer.set_state(saved["state"])
            except ValueError as e:
                raise CheckpointError(f"The checkpoint is of another env: {e}") from e


def _inexact_env(env: VecEnv) -> Iterator[str]:
    for layer in _lasting_layers(env):
        if hasattr(type(layer), "why_inexact"):
            reason = layer.why_inexact()
            if reason:
                yield reason
        elif not _has_state(layer) and not isinstance(layer, _STATELESS_LAYERS):
            yield f"{type(layer).__name__} has no get_state() and set_state(state)"


def _has_state(layer: Any) -> bool:
    """Whether a class offers its state itself: wrappers forward the attributes of what they wrap."""
    return callable(getattr(type(layer), "get_state", None)) and callable(getattr(type(layer), "set_state", None))


# Callbacks: those with get_state() and set_state(state) tell it themselves; of others, the numbers they keep


def stateful(root: BaseCallback) -> Iterator[tuple[str, BaseCallback]]:
    """The callbacks below ``root`` with names that tell them apart: class and count."""
    counts: dict[str, int] = {}
    for callback in descend(root):
        if isinstance(callback, CallbackList | ConvertCallback | ProgressBarCallback):
            continue
        name = type(callback).__name__
        counts[name] = counts.get(name, 0) + 1
        yield f"{name} {counts[name]}", callback


def descend(callback: BaseCallback) -> Iterator[BaseCallback]:
    """A callback and all its children."""
    yield callback
    children: list[Any] = list(callback.callbacks) if isinstance(callback, CallbackList) else []
    if isinstance(callback, EventCallback):
        children.append(callback.callback)
    children.append(getattr(callback, "callback_on_new_best", None))
    for child in children:
        if isinstance(child, BaseCallback):
            yield from descend(child)


def _callback_state(callback: Any, original: dict[str, Any] | None) -> dict[str, Any]:
    """What a callback tells, or what of its plain attributes is not as the script had set it."""
    state: dict[str, Any] = {"n_calls": callback.n_calls, "num_timesteps": callback.num_timesteps}
    if _has_state(callback):
        state["own"] = callback.get_state()
    else:
        original = original or {}
        state["attributes"] = {
            name: value
            for name, value in _plain_attributes(callback).items()
            if name not in original or not _equal(value, original[name])
        }
    if isinstance(getattr(callback, "eval_env", None), VecEnv):
        state["eval_env"] = env_state(callback.eval_env)
    return state


def _plain_attributes(callback: Any) -> dict[str, Any]:
    return {name: value for name, value in vars(callback).items() if name not in _NOT_STATE and is_plain(value)}


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return type(a) is type(b) and np.array_equal(a, b)
    return type(a) is type(b) and bool(a == b)


def _set_callback_state(callback: Any, state: dict[str, Any], original: dict[str, Any]) -> None:
    callback.n_calls, callback.num_timesteps = state["n_calls"], state["num_timesteps"]
    if "own" in state:
        callback.set_state(state["own"])
    for name, value in {**original, **state.get("attributes", {})}.items():
        if hasattr(callback, name):
            setattr(callback, name, copy.deepcopy(value))
    if "eval_env" in state:
        set_env_state(callback.eval_env, state["eval_env"])


def _inexact_callback(name: str, callback: Any) -> Iterator[str]:
    if isinstance(getattr(callback, "eval_env", None), VecEnv):
        yield from _inexact_env(callback.eval_env)
    if _has_state(callback) or type(callback).__module__.startswith(("stable_baselines3.", "sb3_contrib.")):
        return
    kept = {attribute: value for attribute, value in vars(callback).items() if attribute not in _NOT_STATE}
    unknown = [attribute for attribute, value in kept.items() if not (is_plain(value) or _is_setting(value))]
    if unknown:
        yield f"{name} keeps {', '.join(unknown)} and has no get_state() and set_state(state)"


def _inexact_functions(root: BaseCallback) -> Iterator[str]:
    """Functions as callbacks may keep state in the variables that they close over."""
    for callback in descend(root):
        function = getattr(callback, "callback", None) if isinstance(callback, ConvertCallback) else None
        if getattr(function, "__closure__", None) or (function is not None and not inspect.isfunction(function)):
            yield f"the callback {getattr(function, '__qualname__', function)!r} may keep state out of reach"


def _is_setting(value: Any) -> bool:
    """Whether a value is given by the user's script rather than made by training."""
    is_function = inspect.isroutine(value) or isinstance(value, type | partial)
    if isinstance(value, tuple):
        return all(is_plain(item) or _is_setting(item) for item in value)
    return is_function or hasattr(value, "__fspath__") or isinstance(value, BaseCallback)


# What must be, or should be, the same


def _check_settings(now: dict[str, Any], then: dict[str, Any]) -> None:
    now, then = ({OPTIONS: {}, COMBINER: {}, **settings} for settings in (now, then))
    different = [name for name in now if name in then and now[name] != then[name]]
    if different:
        lines = [f"  {name}: {then[name]!r:.200} then, {now[name]!r:.200} now" for name in different]
        raise CheckpointError(
            "The checkpoint is of another run:\n" + "\n".join(lines) + "\nResume with the settings of then, or give "
            "the checkpoints of this run another folder."
        )


def _platform(model: MultiTaskAlgorithm) -> dict[str, Any]:
    """What the last bits depend on beside the settings."""
    threads = {} if model.last_engine == "fast" else {"torch threads": th.get_num_threads()}
    versions = {name: importlib.metadata.version(name) for name in _PACKAGES}
    return {"engine": model.last_engine, **threads, **versions}
