"""Learning from teachers: what the loss is made of, and what teachers would have done."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias, get_args

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv

from sb3_multitask.agents import Agent, agent_of
from sb3_multitask.agents.files import load_agent
from sb3_multitask.algorithms.rollout_buffer import TaskRolloutBuffer
from sb3_multitask.losses import DistillLoss
from sb3_multitask.losses.schedules import in_range
from sb3_multitask.vec_env.layers import task_normalizer_of
from sb3_multitask.vec_env.task_major import by_step, by_task

Coefficient: TypeAlias = float | Callable[[float], float]
"""A number, or a function of the remaining progress (1 at the start, 0 at the end), as SB3's schedules."""
TeacherLike: TypeAlias = Agent | BaseAlgorithm | str | Path


class Coefficients(NamedTuple):
    """Weights of the terms of the loss in one update.

    loss = rl * (policy loss + ent_coef * entropy loss) + critic * vf_coef * value loss + distill * distillation loss
    """

    rl: float = 1.0
    critic: float = 1.0
    distill: float = 0.0


@dataclass(frozen=True)
class DistillationSettings:
    """How a student learns from teachers; the arguments of ``A2CMultiTask`` of the same names, checked.

    :raises ValueError: on an unknown loss, a coefficient that is negative, a probability outside [0, 1], or RL on
        rollouts that are never the student's
    """

    distill_loss: DistillLoss
    distill_coef: Coefficient
    rl_coef: Coefficient | None
    critic_coef: Coefficient | None
    student_rollout_prob: Coefficient

    def __post_init__(self) -> None:
        if self.distill_loss not in get_args(DistillLoss):
            raise ValueError(
                f"`distill_loss` must be one of {', '.join(get_args(DistillLoss))} (got {self.distill_loss!r})"
            )
        for name in ("distill_coef", "rl_coef", "critic_coef", "student_rollout_prob"):
            value = getattr(self, name)
            if value is not None and not callable(value) and not 0 <= value < np.inf:
                raise ValueError(f"`{name}` must be at least 0 and finite, or a schedule (got {value!r})")
        prob = self.student_rollout_prob
        if not callable(prob) and prob > 1:
            raise ValueError(f"`student_rollout_prob` must lie between 0 and 1 (got {prob!r})")
        for name, what in (("rl_coef", "RL"), ("critic_coef", "a critic")):
            if prob == 0 and _may_be_positive(getattr(self, name)):
                raise ValueError(
                    f"`{name}`={getattr(self, name)!r} asks for {what} on the student's rollouts, and "
                    f"`student_rollout_prob`=0 never makes one: raise `student_rollout_prob`, or leave out `{name}`."
                )

    @property
    def given(self) -> tuple[Any, ...]:
        """The arguments, in order."""
        return (self.distill_loss, self.distill_coef, self.rl_coef, self.critic_coef, self.student_rollout_prob)

    def check_teachers_teach(self) -> None:
        """Raise ValueError if no term of the loss is left for a student that has teachers."""
        if not any(map(_may_be_positive, (self.distill_coef, self.rl_coef, self.critic_coef))):
            raise ValueError(
                f"`distill_coef`={self.distill_coef!r} leaves a student with `teachers` nothing to learn from: raise "
                "it, or give `rl_coef`."
            )

    def check_without_teachers(self) -> None:
        """Raise ValueError if a model without teachers would ignore a setting, or has nothing to learn from."""
        for name, default in (("distill_loss", "forward_kl"), ("distill_coef", 1.0), ("student_rollout_prob", 1.0)):
            if getattr(self, name) != default:
                raise ValueError(f"`{name}`={getattr(self, name)!r} is for distillation, and `teachers` is empty")
        if self.rl_coef == 0 and self.critic_coef == 0:
            raise ValueError("`rl_coef`=0 and `critic_coef`=0 leave nothing to learn from, and `teachers` is empty")

    def at(self, progress_remaining: float, has_teachers: bool, by_teacher: bool) -> Coefficients:
        """The coefficients of an update.

        :param progress_remaining: 1 at the start of training, 0 at the end
        :param has_teachers: without teachers the loss is A2C's own
        :param by_teacher: the rollout's actions came from the teacher, so it says nothing of the student's returns
        """
        if not has_teachers:
            rl = 1.0 if self.rl_coef is None else _value("rl_coef", self.rl_coef, progress_remaining)
            critic = 1.0 if self.critic_coef is None else _value("critic_coef", self.critic_coef, progress_remaining)
            return Coefficients(rl, critic, 0.0)
        distill = _value("distill_coef", self.distill_coef, progress_remaining)
        if by_teacher:
            return Coefficients(0.0, 0.0, distill)
        rl = 0.0 if self.rl_coef is None else _value("rl_coef", self.rl_coef, progress_remaining)
        stays_zero = self.rl_coef is None or (not callable(self.rl_coef) and self.rl_coef == 0)
        default = 0.0 if stays_zero else 1.0
        critic = default if self.critic_coef is None else _value("critic_coef", self.critic_coef, progress_remaining)
        return Coefficients(rl, critic, distill)

    def rollout_is_students(self, progress_remaining: float) -> bool:
        """Whose actions the next rollout takes; draws from torch's generator only if it is open."""
        prob = _value("student_rollout_prob", self.student_rollout_prob, progress_remaining)
        return prob >= 1 or (prob > 0 and th.rand(()).item() < prob)


class Teachers:
    """A teacher for every task of a student.

    :param teachers: task name -> teacher
    :param task_names: the student's tasks, in order
    :param obs_dim: the student's
    :param action_dim: the student's
    :raises ValueError: if a task has no teacher, a teacher no task, or sizes differ; names both sides
    """

    def __init__(
        self, teachers: Mapping[str, TeacherLike], task_names: Sequence[str], obs_dim: int, action_dim: int
    ) -> None:
        missing = [name for name in task_names if name not in teachers]
        unknown = [name for name in teachers if name not in task_names]
        if missing or unknown:
            raise ValueError(
                "`teachers` must have one teacher for every task of the student.\n"
                f"  tasks:    {', '.join(task_names)}\n  teachers: {', '.join(teachers) or 'none'}"
            )
        self.agents = [_resolve(name, teachers[name]) for name in task_names]
        self.heads = [_head(agent, name) for agent, name in zip(self.agents, task_names, strict=True)]
        for name, agent in zip(task_names, self.agents, strict=True):
            if (agent.obs_dim, agent.action_dim) != (obs_dim, action_dim):
                raise ValueError(
                    f"The teacher of task {name!r} takes observations of size {agent.obs_dim} and gives actions of "
                    f"size {agent.action_dim}; the student has {obs_dim} and {action_dim}."
                )
        self.digests = {name: agent.digest for name, agent in zip(task_names, self.agents, strict=True)}

    def targets(self, tasks: Iterable[int], raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The teachers' means and log-stds, each (k, n, action_dim) float32.

        :param tasks: the k tasks
        :param raw: unnormalised observations, (k, n, obs_dim); every teacher sees them through its own normaliser
        """
        pairs = [self.agents[task].distribution(rows, self.heads[task]) for task, rows in zip(tasks, raw, strict=True)]
        means, log_stds = zip(*pairs, strict=True)
        return np.stack(means), np.stack(log_stds)

    def act(self, tasks: Sequence[int], raw: np.ndarray) -> np.ndarray:
        """Sample the teachers' actions, (n_envs, action_dim) float32, for raw observations (n_envs, obs_dim)."""
        grouped = raw.reshape(len(tasks), -1, raw.shape[1])
        mean, log_std = self.targets(tasks, grouped)
        noise = th.randn(mean.shape).numpy()
        actions: np.ndarray = (mean + np.exp(log_std) * noise).astype(np.float32)
        return actions.reshape(len(raw), -1)


def tasks_of_rows(env: Any) -> list[int]:
    """The tasks whose rows an env shows, in order."""
    present: list[int] = np.asarray(env.task_ids)[:: env.n_envs_per_task].tolist()
    return present


def raw_observations(env: VecEnv, last_obs: Any) -> np.ndarray:
    """The latest observations before normalisation, (n_envs, obs_dim)."""
    normalizer = task_normalizer_of(env)
    obs: np.ndarray = last_obs["obs"] if normalizer is None else normalizer.old_obs["obs"]
    return obs


def collect_with_teachers(
    model: Any, env: VecEnv, callback: BaseCallback, rollout_buffer: TaskRolloutBuffer, n_rollout_steps: int
) -> bool:
    """SB3's ``collect_rollouts`` with torch, where the teacher may act; its targets go into the buffer."""
    assert model.teachers is not None
    assert model._last_obs is not None
    model.policy.set_training_mode(False)
    n_steps = 0
    rollout_buffer.reset()
    callback.on_rollout_start()
    model.sample_behavior_policy()
    raw = []
    tasks = tasks_of_rows(env)
    low, high = model.action_space.low, model.action_space.high

    while n_steps < n_rollout_steps:
        raw.append(raw_observations(env, model._last_obs))
        with th.no_grad():
            obs_tensor = obs_as_tensor(model._last_obs, model.device)
            actions, values, log_probs = model.policy(obs_tensor)
        actions = model.teachers.act(tasks, raw[-1]) if model.rollout_by_teacher else actions.cpu().numpy()
        clipped_actions = np.clip(actions, low, high)

        new_obs, rewards, dones, infos = env.step(clipped_actions)
        model.num_timesteps += env.num_envs

        callback.update_locals({**locals(), "self": model})
        if not callback.on_step():
            return False
        model._update_info_buffer(infos, dones)
        n_steps += 1

        for idx in dones.nonzero()[0].tolist():
            if infos[idx].get("terminal_observation") is not None and infos[idx].get("TimeLimit.truncated", False):
                terminal_obs = model.policy.obs_to_tensor(infos[idx]["terminal_observation"])[0]
                with th.no_grad():
                    terminal_value = model.policy.predict_values(terminal_obs)[0]
                rewards[idx] += model.gamma * terminal_value.item()
        rollout_buffer.add(model._last_obs, actions, rewards, model._last_episode_starts, values, log_probs)
        model._last_obs = new_obs
        model._last_episode_starts = dones

    with th.no_grad():
        values = model.policy.predict_values(obs_as_tensor(new_obs, model.device))  # type: ignore[arg-type]
    rollout_buffer.compute_returns_and_advantage(last_values=values, dones=dones)
    mean, log_std = model.teachers.targets(tasks, by_task(np.stack(raw), len(tasks)))
    rollout_buffer.set_targets(by_step(mean, n_steps), by_step(log_std, n_steps))
    callback.update_locals({**locals(), "self": model})
    callback.on_rollout_end()
    return True


def _may_be_positive(coefficient: Coefficient | None) -> bool:
    return coefficient is not None and (callable(coefficient) or coefficient > 0)


def _value(name: str, coefficient: Coefficient, progress_remaining: float) -> float:
    """A coefficient in an update; what a schedule gives is held to what a number must be."""
    if not callable(coefficient):
        return float(coefficient)
    value = float(coefficient(in_range(progress_remaining)))
    if not 0 <= value < np.inf:
        raise ValueError(
            f"`{name}` is a schedule that gives {value} at the remaining progress {progress_remaining:.4g}: it must "
            "give numbers that are at least 0 and finite, from 1 (the start) to 0 (the end)"
        )
    return value


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
        f"The teacher of task {task!r} must be an agent, an A2CMultiTask, or the path of one (got {teacher!r}). For "
        "SB3's own models: load_agent(zip, normalizer=...)."
    )


def _head(agent: Agent, task: str) -> int:
    try:
        return agent.head_of(task)
    except ValueError as e:
        raise ValueError(f"The teacher of task {task!r}: {e}") from e
