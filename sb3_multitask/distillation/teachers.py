"""Teachers: an agent for every task of a student."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_multitask.agents import Agent, agent_of
from sb3_multitask.agents.files import load_agent
from sb3_multitask.envs.task_space import TaskSizes, padded

TeacherLike: TypeAlias = Agent | BaseAlgorithm | str | Path


class Teachers:
    """A teacher for every task of a student.

    :param teachers: task name -> teacher
    :param task_names: the student's tasks, in order
    :param sizes: the student's
    :raises ValueError: if a task has no teacher, a teacher no task, or sizes differ; names both sides
    """

    def __init__(self, teachers: Mapping[str, TeacherLike], task_names: Sequence[str], sizes: TaskSizes) -> None:
        missing = [name for name in task_names if name not in teachers]
        unknown = [name for name in teachers if name not in task_names]
        if missing or unknown:
            raise ValueError(
                "`teachers` must have one teacher for every task of the student.\n"
                f"  tasks:    {', '.join(task_names)}\n  teachers: {', '.join(teachers) or 'none'}"
            )
        self.agents = [_resolve(name, teachers[name]) for name in task_names]
        self.heads = [_head(agent, name) for agent, name in zip(self.agents, task_names, strict=True)]
        self.sizes = sizes
        for i, (name, agent, head) in enumerate(zip(task_names, self.agents, self.heads, strict=True)):
            theirs = int(agent.sizes.obs_dims[head]), int(agent.sizes.action_dims[head])
            wanted = int(sizes.obs_dims[i]), int(sizes.action_dims[i])
            if theirs != wanted:
                raise ValueError(
                    f"The teacher of task {name!r} takes observations of size {theirs[0]} and gives actions of "
                    f"size {theirs[1]}; the student has {wanted[0]} and {wanted[1]}."
                )
        self.digests = {name: agent.digest for name, agent in zip(task_names, self.agents, strict=True)}

    def targets(self, tasks: Iterable[int], raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The teachers' means and log-stds, each (k, n, action_dim) float32; both are 0 in the padding.

        :param tasks: the k tasks
        :param raw: unnormalised observations, (k, n, obs_dim), padded; every teacher sees its task's own numbers,
            through its own normaliser
        """
        pairs = [
            self.agents[task].distribution(rows[:, : self.sizes.obs_dims[task]], self.heads[task])
            for task, rows in zip(tasks, raw, strict=True)
        ]
        means, log_stds = ([padded(own, self.sizes.action_dim) for own in part] for part in zip(*pairs, strict=True))
        return np.stack(means), np.stack(log_stds)

    def act(self, tasks: Sequence[int], raw: np.ndarray) -> np.ndarray:
        """Sample the teachers' actions, (n_envs, action_dim) float32, for raw observations (n_envs, obs_dim).

        They are unbounded, and without meaning in the padding.
        """
        grouped = raw.reshape(len(tasks), -1, raw.shape[1])
        mean, log_std = self.targets(tasks, grouped)
        noise = th.randn(mean.shape).numpy()
        actions: np.ndarray = (mean + np.exp(log_std) * noise).astype(np.float32)
        return actions.reshape(len(raw), -1)


def _resolve(task: str, teacher: TeacherLike) -> Agent:
    if isinstance(teacher, Agent):
        return teacher
    try:
        if isinstance(teacher, str | Path):
            return load_agent(teacher)
        if hasattr(teacher, "get_normalizer_state"):
            return agent_of(teacher)
    except ValueError as e:
        raise ValueError(f"The teacher of task {task!r} cannot be read: {e}") from e
    raise TypeError(
        f"The teacher of task {task!r} must be an agent, a multi-task model, or the path of one (got {teacher!r}). For "
        "SB3's own models: load_agent(zip, normalizer=...)."
    )


def _head(agent: Agent, task: str) -> int:
    try:
        return agent.head_of(task)
    except ValueError as e:
        raise ValueError(f"The teacher of task {task!r}: {e}") from e
