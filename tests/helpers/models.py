"""Models on small tasks, and what is asked of them."""

from __future__ import annotations

from typing import Any

import torch as th

import sb3_multitask as mt
from helpers.drift import drift_tasks, recorded_tasks


def model_on(env: Any, seed: int = 0, **kwargs: Any) -> mt.A2CMultiTask:
    """A model on an environment, or on tasks."""
    return mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=seed, device="cpu", **kwargs)


def make_model(
    tasks: Any = None, n_envs_per_task: int = 2, seed: int = 0, normalize: Any = True, **kwargs: Any
) -> mt.A2CMultiTask:
    """A model and its environment; on three points that drift, unless other tasks are given."""
    env = mt.make_multitask_vec_env(tasks or drift_tasks(3), n_envs_per_task, seed=seed, normalize=normalize)
    return model_on(env, seed, **kwargs)


def recorded_model(
    engine: str,
    schedule: str = "joint",
    n_envs_per_task: int = 2,
    normalize: bool = True,
    tasks: Any = None,
    **kwargs: Any,
) -> mt.A2CMultiTask:
    """A model whose rollouts do not depend on its actions, so that engines can be compared."""
    statistics = normalize and {"gamma": kwargs.get("gamma", 0.99)}
    tasks = tasks or recorded_tasks()
    return make_model(tasks, n_envs_per_task, normalize=statistics, engine=engine, task_schedule=schedule, **kwargs)


def weights_equal(a: Any, b: Any) -> bool:
    """Whether two models' policies are equal, bit for bit."""
    first, second = a.policy.state_dict(), b.policy.state_dict()
    return first.keys() == second.keys() and all(th.equal(first[key], second[key]) for key in first)


def is_finite(model: Any) -> bool:
    """Whether all weights are numbers."""
    return all(th.isfinite(parameter).all() for parameter in model.policy.parameters())
