"""Teachers: one for every task of a student."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch as th

from sb3_multitask.distillation.policies import DEFAULT_STD, TeacherPolicy
from sb3_multitask.distillation.sources import Teacher, TeacherLike, policy_of
from sb3_multitask.envs.task_space import TaskSizes


class Teachers:
    """A teacher for every task of a student.

    :param teachers: task name -> teacher
    :param task_names: the student's tasks, in order
    :param sizes: of the tasks
    :param with_features: whether :meth:`features` is asked for
    :raises ValueError: if a task has no teacher, a teacher no task, or sizes differ; names both sides. Also if a task's
        teacher has no hidden layer that is known, and features are asked for; names the task
    """

    def __init__(
        self,
        teachers: Mapping[str, TeacherLike],
        task_names: Sequence[str],
        sizes: TaskSizes,
        with_features: bool = False,
    ) -> None:
        missing = [name for name in task_names if name not in teachers]
        unknown = [name for name in teachers if name not in task_names]
        if missing or unknown:
            raise ValueError(
                "`teachers` must have one teacher for every task of the student.\n"
                f"  tasks:    {', '.join(task_names)}\n  teachers: {', '.join(teachers) or 'none'}"
            )
        self.sizes = sizes
        self.teachers = [_task_teacher(name, teachers[name], sizes, i) for i, name in enumerate(task_names)]
        self.feature_dims = tuple(map(_feature_dim, self.teachers)) if with_features else None
        """Units of each teacher's last hidden layer, (n_tasks,); ``None`` if features are not asked for."""
        self.digests = {name: teacher.digest for name, teacher in zip(task_names, self.teachers, strict=True)}

    def targets(self, task_ids: np.ndarray, raw: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The teachers' means and log-stds, each (n_steps, n_envs, action_dim) float32; both are 0 in the padding.

        :param task_ids: of the environments, (n_envs,)
        :param raw: unnormalised observations, (n_steps, n_envs, obs_dim); every teacher sees its task's own numbers,
            through its own normaliser
        """
        means, log_stds = np.zeros((2, *raw.shape[:2], self.sizes.action_dim), np.float32)
        for task, envs, obs_dim, action_dim in self._tasks_of(task_ids):
            own = raw[:, envs, :obs_dim]
            mean, log_std = self.teachers[task].label(own.reshape(-1, obs_dim))
            means[:, envs, :action_dim] = mean.reshape(*own.shape[:2], action_dim)
            log_stds[:, envs, :action_dim] = log_std.reshape(*own.shape[:2], action_dim)
        return means, log_stds

    def features(self, task_ids: np.ndarray, raw: np.ndarray) -> np.ndarray:
        """The activations of the teachers' last hidden layers, (n_steps, n_envs, dim) float32.

        ``dim`` is the widest teacher's; they are 0 beyond the units of a task's own teacher.

        :param task_ids: of the environments, (n_envs,)
        :param raw: unnormalised observations, (n_steps, n_envs, obs_dim)
        """
        assert self.feature_dims is not None
        features = np.zeros((*raw.shape[:2], max(self.feature_dims)), np.float32)
        for task, envs, obs_dim, _ in self._tasks_of(task_ids):
            own, dim = raw[:, envs, :obs_dim], self.feature_dims[task]
            of_task = self.teachers[task].policy.features(own.reshape(-1, obs_dim))
            features[:, envs, :dim] = of_task.reshape(*own.shape[:2], dim)
        return features

    def act(self, task_ids: np.ndarray, raw: np.ndarray) -> np.ndarray:
        """The teachers' own actions, (n_envs, action_dim) float32, for raw observations (n_envs, obs_dim).

        :param task_ids: of the environments, (n_envs,)
        """
        noise = th.randn((len(raw), self.sizes.action_dim)).numpy()
        actions = np.zeros(noise.shape, np.float32)
        for task, envs, obs_dim, action_dim in self._tasks_of(task_ids):
            policy, draws = self.teachers[task].policy, noise[envs, :action_dim]
            actions[envs, :action_dim] = policy.act(raw[envs, :obs_dim], draws)
        return actions

    def _tasks_of(self, task_ids: np.ndarray) -> Iterator[tuple[int, np.ndarray, int, int]]:
        """Each task of some environments: its id, its environments, and the sizes of its observations and actions."""
        for task in np.unique(task_ids).tolist():
            sizes = int(self.sizes.obs_dims[task]), int(self.sizes.action_dims[task])
            yield task, (task_ids == task).nonzero()[0], *sizes


@dataclass(frozen=True)
class _TaskTeacher:
    """A teacher with the stds that its labels have where it has none, or in place of its own.

    :param std: in place of its own, (action_dim,), or ``None``
    :param default_std: for one that has none, (action_dim,)
    """

    task: str
    policy: TeacherPolicy
    std: np.ndarray | None
    default_std: np.ndarray

    @property
    def digest(self) -> str:
        if self.std is None:
            return self.policy.digest
        return hashlib.sha256(self.policy.digest.encode() + self.std.tobytes()).hexdigest()

    def label(self, obs: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean, log_std = self.policy.label(obs)
        if self.std is None and log_std is not None:
            return mean, log_std
        std = self.default_std if self.std is None else self.std
        return mean, np.broadcast_to(np.log(std), mean.shape)


def _feature_dim(teacher: _TaskTeacher) -> int:
    dim = teacher.policy.feature_dim
    if not dim:
        reason = "is a function, whose hidden layers are not known" if dim is None else "has no hidden layer"
        raise ValueError(
            f"`distill_features` needs teachers with a hidden layer, and that of task {teacher.task!r} {reason}: give "
            "an agent, a model or the path of one, or leave out `distill_features`"
        )
    return dim


def _task_teacher(task: str, given: TeacherLike, sizes: TaskSizes, index: int) -> _TaskTeacher:
    try:
        teacher = given if isinstance(given, Teacher) else Teacher(given)
    except TypeError as e:
        raise TypeError(f"The teacher of task {task!r}: {e}") from e
    obs_dim, action_dim = int(sizes.obs_dims[index]), int(sizes.action_dims[index])
    policy = policy_of(teacher, task, action_dim)
    if (policy.obs_dim or obs_dim, policy.action_dim or action_dim) != (obs_dim, action_dim):
        raise ValueError(
            f"The teacher of task {task!r} takes observations of size {policy.obs_dim} and gives actions of size "
            f"{policy.action_dim}; the student has {obs_dim} and {action_dim}."
        )
    std = None if teacher.std is None else np.asarray(teacher.std, dtype=np.float32)
    if std is not None and std.shape not in ((), (1,), (action_dim,)):
        raise ValueError(f"`std` of the teacher of task {task!r} has {std.size} numbers, its actions have {action_dim}")
    low, high = (bounds[index, :action_dim].astype(np.float32) for bounds in (sizes.action_low, sizes.action_high))
    return _TaskTeacher(task, policy, std, np.float32(DEFAULT_STD / 2) * (high - low))
