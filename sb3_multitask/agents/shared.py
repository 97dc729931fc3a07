"""The policy that the tasks of Distral share, as an agent."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_multitask.agents.agent import Agent, agent_of
from sb3_multitask.envs.task_space import TaskSpace
from sb3_multitask.policies.products import SHARED_HEAD, SHARED_LOG_STD
from sb3_multitask.readers import ObsStatistics
from sb3_multitask.tasks import did_you_mean

SHARED = "shared"
"""Name of the shared policy among tasks: of its head in an agent, and in ``transfer``."""
_TRUNK = "mlp_extractor.policy_net."


def shared_agent(source: Agent | BaseAlgorithm, tasks: Sequence[str] | None = None) -> Agent:
    """Return the policy that all tasks share, of a model that learned with ``distral``, as an agent.

    It is evaluated, saved, exported and used as a teacher as any agent: ``evaluate_tasks(shared_agent(model), [new])``
    on a new task, ``evaluate_tasks(shared_agent(model, model.task_names))`` on those that it learned from.

    :param source: a model, or an agent of it
    :param tasks: names of tasks of the source: the agent has a head for each, all of them the shared policy, which
        normalises observations with the statistics of its task, as in training. ``None``: it has one head, named
        "shared", which acts in any task of the same sizes. Its statistics are those of observations of which every task
        gave as many: the mean of the means, and the mean of the variances plus the variance of the means. Tasks that
        have not had their turn do not count
    :raises TypeError: if the source is neither a model nor an agent
    :raises ValueError: if the source has no shared policy or no such task, a task is named twice, or the source's tasks
        differ in size and ``tasks`` is ``None`` or lacks the widest
    """
    agent = _with_shared_policy(source)
    if tasks is not None:
        _check_names(tasks, agent)
    if tasks is None and agent.task_space is not None:
        raise ValueError(
            f"The tasks of the source differ in size or bounds: name those for which the shared policy acts, as "
            f"tasks={list(agent.task_names)}"
        )
    n_heads = 1 if tasks is None else len(tasks)
    weights = {name: array for name, array in agent.weights.items() if name.startswith(_TRUNK)}
    for name, array in agent.weights.items():
        if name.startswith(SHARED_HEAD):
            weights[f"action_net.{name.removeprefix(SHARED_HEAD)}"] = np.repeat(array, n_heads, axis=0)
    weights["log_std"] = np.repeat(agent.weights[SHARED_LOG_STD][None], n_heads, axis=0)
    if tasks is None:
        return dataclasses.replace(
            agent, weights=weights, task_names=(SHARED,), statistics=_pooled(agent.statistics), tasks=None
        )
    heads, statistics, space = [agent.head_of(task) for task in tasks], agent.statistics, agent.task_space
    if statistics is not None:
        mean, var = statistics.mean[heads], statistics.var[heads]
        statistics = dataclasses.replace(statistics, mean=mean, var=var, task_names=tuple(tasks))
    if space is not None:
        widest = (agent.obs_dim, agent.action_dim)
        if tuple(dims[heads].max() for dims in (agent.sizes.obs_dims, agent.sizes.action_dims)) != widest:
            raise ValueError(
                f"`tasks` must hold the source's widest, with {widest[0]} numbers in an observation and {widest[1]} in "
                f"an action, to which others are padded (got {', '.join(tasks)}, of {', '.join(agent.task_names)})"
            )
        space = TaskSpace([space.obs_dims[head] for head in heads], [space.action_bounds[head] for head in heads])
    return dataclasses.replace(
        agent,
        weights=weights,
        task_names=tuple(tasks),
        statistics=statistics,
        tasks=None if agent.tasks is None else tuple(agent.tasks[head] for head in heads),
        task_space=space,
    )


def _with_shared_policy(source: Agent | BaseAlgorithm) -> Agent:
    """Return a source as an agent, or raise if it has no shared policy."""
    if not isinstance(source, Agent | BaseAlgorithm):
        raise TypeError(f"`source` must be a model or an Agent, such as load_agent(path) gives (got {source!r:.100})")
    agent = source if isinstance(source, Agent) else agent_of(source)
    if SHARED_LOG_STD not in agent.weights:
        raise ValueError("`source` has no shared policy, which A2CMultiTask and PPOMultiTask have with `distral`")
    return agent


def _check_names(tasks: Sequence[str], agent: Agent) -> None:
    """Raise unless these are different tasks of an agent, at least one."""
    is_list = isinstance(tasks, Sequence) and not isinstance(tasks, str) and len(tasks) > 0
    if not is_list or not all(isinstance(task, str) for task in tasks) or len(set(tasks)) < len(tasks):
        raise ValueError(f"`tasks` must be different names of tasks of the source, or None (got {tasks!r:.200})")
    for task in tasks:
        if task not in agent.task_names:  # a single head would take any name
            raise ValueError(
                f"No head for task {task!r}.{did_you_mean(task, agent.task_names)} Heads: {', '.join(agent.task_names)}"
            )


def _pooled(statistics: ObsStatistics | None) -> ObsStatistics | None:
    """Return the statistics, in one row, of observations of which every task gave as many."""
    if statistics is None:
        return None
    mean, var = pooled_moments(statistics.mean, statistics.var)
    return dataclasses.replace(statistics, mean=mean[None], var=var[None], task_names=(SHARED,))


def pooled_moments(mean: np.ndarray, var: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and variance, (dim,), of all numbers, of which each task gave as many.

    A task that gave none, whose mean is 0 and whose variance is 1, does not count, unless none gave any.

    :param mean: of the tasks, (n_tasks, dim)
    :param var: like ``mean``
    """
    seen = (mean != 0).any(axis=1) | (var != 1).any(axis=1)
    if seen.any():
        mean, var = mean[seen], var[seen]
    return mean.mean(axis=0), var.mean(axis=0) + mean.var(axis=0)
