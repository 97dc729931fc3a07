"""The parts of a model's state and of its settings, as plain values and arrays."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th

from sb3_multitask.tasks import Task

_COUNTERS = ("num_timesteps", "_n_updates", "_episode_num", "_current_progress_remaining")
OPTIONS = "policy_options"
"""Key of a setting that says how the policy's nets differ from the default; it is left out if they do not."""
COMBINER = "gradient_combiner"
"""Key of a setting that says how the tasks' gradients are combined; it is left out if they are not."""
_NORMALIZER = ("norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon")


def settings_of(model: Any) -> dict[str, Any]:
    """The settings of any multi-task model. Schedules are functions and cannot be compared."""
    policy, optimizer = model.policy, model.policy.optimizer
    normalizer = model.get_vec_normalize_env()
    return {
        **{name: getattr(model, name) for name in ("seed", "gamma", "n_envs")},
        "learning_rate": number_or_schedule(model.learning_rate),
        "optimizer": type(optimizer).__name__,
        "optimizer_settings": {
            name: list(value) if isinstance(value, tuple) else value  # as a checkpoint gives it back
            for name, value in optimizer.param_groups[0].items()
            if name not in ("params", "lr")
        },
        **{name: getattr(policy, name, None) for name in ("log_std_mode", "log_std_init")},
        "log_std_bounds": list(policy.log_std_bounds),
        "normalizer": None if normalizer is None else {name: getattr(normalizer, name) for name in _NORMALIZER},
        "on_fault": getattr(model.env and model.env.unwrapped, "on_fault", None),
        "n_envs_per_task": getattr(model.env and model.env.unwrapped, "n_envs_per_task", None),
        "frozen": list(model.frozen),
        "activation": getattr(policy.activation_fn, "__name__", repr(policy.activation_fn)),
        **({OPTIONS: _plain_option(options)} if (options := policy.options()) else {}),
        "envs": [_describe(task) for task in model.tasks or ()],
        "task_names": list(model.task_names or ()),
        "layouts": dict(model.layouts),
        "weights": {name: list(tensor.shape) for name, tensor in policy.state_dict().items()},
    }


def _plain_option(value: Any) -> Any:
    """An argument of the policy with names in place of classes and functions, the same in every process."""
    if isinstance(value, Mapping):
        return {str(name): _plain_option(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain_option(item) for item in value]
    if value is None or isinstance(value, str | bool | int | float):
        return value
    return getattr(value, "__qualname__", type(value).__qualname__)


def number_or_schedule(value: Any) -> Any:
    """A number as it is, and "a schedule" for a function, which cannot be compared unless it has ``as_setting``."""
    schedule = getattr(value, "value_schedule", value)  # SB3 wraps clip ranges
    return getattr(schedule, "as_setting", "a schedule") if callable(value) else value


def _describe(task: Task) -> str:
    """A task's env and arguments, the same in every process."""
    env = task.env_id if isinstance(task.env_id, str) else getattr(task.env_id, "__qualname__", "a callable")
    kwargs = task.env_kwargs
    if callable(kwargs):
        return f"{env}(of {getattr(kwargs, '__qualname__', 'a callable')})"
    if not isinstance(kwargs, Mapping):
        return f"{env}({'; '.join(map(_listed_kwargs, kwargs))})"
    return f"{env}({_listed_kwargs(kwargs)})"


def _listed_kwargs(kwargs: Mapping[str, Any]) -> str:
    return ", ".join(f"{name}={value!r}" for name, value in kwargs.items())


def state_of(model: Any) -> dict[str, Any]:
    """What ``MultiTaskAlgorithm.get_state`` returns: copies, which further training leaves as they are."""
    return {
        "live_settings": {name: getattr(model, name) for name in model.live_settings},
        "counters": {name: getattr(model, name) for name in _COUNTERS},
        "episodes": {
            "all": list(model.ep_info_buffer or ()),
            "successes": list(model.ep_success_buffer or ()),
            "tasks": {task: list(episodes) for task, episodes in model.task_ep_info_buffers.items()},
        },
        "last_obs": None if model._last_obs is None else dict(model._last_obs),
        "last_episode_starts": model._last_episode_starts,
        "policy": _copies(model.policy.state_dict()),
        "optimizer": _optimizer_state(model.policy.optimizer),
    }


def set_state_of(model: Any, state: dict[str, Any]) -> None:
    """Restore what :func:`state_of` gave; see ``MultiTaskAlgorithm.set_state``."""
    weights = {name: th.from_numpy(array.copy()) for name, array in state["policy"].items()}
    bad = [name for name, tensor in weights.items() if not th.isfinite(tensor).all()]
    if bad:
        raise ValueError(f"The weights {', '.join(bad)} are not finite")
    model.policy.load_state_dict(weights)
    _set_optimizer_state(model.policy.optimizer, state["optimizer"])
    for name, value in (state["counters"] | state["live_settings"]).items():
        setattr(model, name, value)
    model._num_timesteps_at_start = model.num_timesteps  # frames per second count from here
    episodes, window = state["episodes"], model._stats_window_size
    model.ep_info_buffer = deque(episodes["all"], maxlen=window)
    model.ep_success_buffer = deque(episodes["successes"], maxlen=window)
    model.task_ep_info_buffers = {task: deque(latest, maxlen=window) for task, latest in episodes["tasks"].items()}
    model._last_obs, model._last_episode_starts = copy.deepcopy((state["last_obs"], state["last_episode_starts"]))


def _optimizer_state(optimizer: th.optim.Optimizer) -> dict[str, Any]:
    """An optimizer's state dict with arrays for tensors."""
    state = optimizer.state_dict()
    arrays = {str(i): _copies(of_parameter) for i, of_parameter in state["state"].items()}
    return {"param_groups": state["param_groups"], "state": arrays}


def _copies(values: Mapping[str, Any]) -> dict[str, Any]:
    """Values with arrays for tensors: copies, since an array of a tensor on the CPU is its memory."""
    return {
        name: value.numpy(force=True).copy() if isinstance(value, th.Tensor) else value
        for name, value in values.items()
    }


def _set_optimizer_state(optimizer: th.optim.Optimizer, saved: dict[str, Any]) -> None:
    """Restore what :func:`_optimizer_state` gave."""
    tensors = {
        int(i): {name: th.from_numpy(v.copy()) if isinstance(v, np.ndarray) else v for name, v in of_parameter.items()}
        for i, of_parameter in saved["state"].items()
    }
    optimizer.load_state_dict({"state": tensors, "param_groups": saved["param_groups"]})
