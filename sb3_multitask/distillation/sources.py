"""What may be given as a teacher, and how it is read."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from sb3_multitask.agents import Agent, agent_of
from sb3_multitask.agents.files import load_agent
from sb3_multitask.agents.trained_files import PRETRAINED, locate
from sb3_multitask.distillation.policies import ActorTeacher, AgentTeacher, FunctionTeacher, TeacherPolicy
from sb3_multitask.readers import UnreadableFileError, read_sb3_actor, read_vec_normalize
from sb3_multitask.readers.other_files import is_zip
from sb3_multitask.readers.zoo_folder import ZooFolder

TeacherFunction: TypeAlias = Callable[[np.ndarray], Any]
"""Raw observations (n_rows, obs_dim) -> actions (n_rows, action_dim), or (means, stds)."""
Readable: TypeAlias = Agent | BaseAlgorithm | str | Path
TeacherSource: TypeAlias = Readable | TeacherFunction


@dataclass(frozen=True)
class Teacher:
    """A teacher with what does not come with it, as a value of ``teachers``.

    Without ``std`` and ``normalizer`` the source itself can be given.

    :param source: an ``Agent``; a multi-task model; a model of SB3's A2C, PPO, SAC, TD3 or DDPG, or of sb3-contrib's
        TRPO, TQC or CrossQ, with an ``MlpPolicy`` and without gSDE; the path of one of these; or a function of raw
        observations (n_rows, obs_dim) that gives actions (n_rows, action_dim), or (means, stds)
    :param std: standard deviation of the Gaussian that the student learns, in units of the action: one number, or one
        for each dimension. ``None`` takes the teacher's own; for TD3, DDPG and a function that gives actions it is 0.1
        of half the range of the actions. It does not change how the teacher acts in rollouts
    :param normalizer: the ``VecNormalize`` of a model of SB3, or its file. It is not needed if the model's env has it,
        nor for a folder of rl_zoo3, nor for a ``model.zip`` with a ``vecnormalize.pkl`` in the same folder. The zips
        of SAC, TQC, CrossQ, TD3 and DDPG do not say whether they need one
    :raises TypeError: on a source or a std of another type
    :raises ValueError: on a std that is not positive and finite
    """

    source: TeacherSource
    std: float | tuple[float, ...] | None = None
    normalizer: VecNormalize | str | Path | None = None

    def __post_init__(self) -> None:
        if isinstance(self.source, nn.Module):
            raise TypeError(
                f"A teacher takes numpy arrays (got {type(self.source).__name__}, a module of torch). Give the model "
                "whose policy it is, or a function, such as `lambda obs: policy.predict(obs, deterministic=True)[0]`"
            )
        if isinstance(self.source, type) or not (isinstance(self.source, Readable) or callable(self.source)):
            raise TypeError(
                f"`source` must be an agent, a model, the path of one, or a function (got {self.source!r:.100})"
            )
        if self.normalizer is not None and not isinstance(self.normalizer, VecNormalize | str | Path):
            raise TypeError(
                f"`normalizer` must be a VecNormalize or the path of its file (got {self.normalizer!r:.100})"
            )
        if self.std is None:
            return
        try:
            std = np.array(self.std)
        except ValueError as e:  # rows of different lengths
            raise TypeError(f"`std` must be a number, or one for each dimension (got {self.std!r:.100})") from e
        if std.dtype.kind not in "iuf" or std.ndim > 1:
            raise TypeError(f"`std` must be a number, or one for each dimension (got {self.std!r:.100})")
        if not std.size or not ((std > 0) & np.isfinite(std)).all():
            raise ValueError(f"`std` must be positive and finite (got {self.std!r:.100})")


TeacherLike: TypeAlias = Teacher | TeacherSource


def policy_of(teacher: Teacher, task: str, action_dim: int) -> TeacherPolicy:
    """Read a teacher.

    :param task: the teacher's task
    :param action_dim: the task's
    :raises ValueError: if it cannot be read, has no head for the task, or has a ``normalizer`` that it does not use
    """
    source, normalizer = teacher.source, teacher.normalizer
    if not isinstance(source, Readable):
        _refuse_normalizer(normalizer, task, "a function, which normalises by itself")
        return FunctionTeacher(source, task, action_dim)
    try:
        policy = _read(source, normalizer, task)
    except (ValueError, FileNotFoundError) as e:
        raise ValueError(f"The teacher of task {task!r} cannot be read: {e}") from e
    if isinstance(policy, ActorTeacher):
        return policy
    try:
        return AgentTeacher(policy, policy.head_of(task))
    except ValueError as e:
        raise ValueError(f"The teacher of task {task!r}: {e}") from e


def _read(source: Readable, normalizer: VecNormalize | str | Path | None, task: str) -> Agent | ActorTeacher:
    if isinstance(source, Agent):
        _refuse_normalizer(normalizer, task, "an agent, which has its statistics")
        return source
    if isinstance(source, BaseAlgorithm):
        if hasattr(source, "get_normalizer_state"):
            _refuse_normalizer(normalizer, task, "a multi-task model, which has its statistics")
            return agent_of(source)
        return _of_model(source, normalizer)
    if isinstance(normalizer, VecNormalize):
        with tempfile.TemporaryDirectory() as folder:
            return _of_path(source, _saved(normalizer, Path(folder)))
    return _of_path(source, normalizer)


def _refuse_normalizer(normalizer: Any, task: str, what: str) -> None:
    if normalizer is not None:
        raise ValueError(f"`normalizer` is for models of SB3; the teacher of task {task!r} is {what}")


def _of_model(model: BaseAlgorithm, normalizer: VecNormalize | str | Path | None) -> Agent | ActorTeacher:
    """Read a model of SB3 as it is now, by the way of its file, with all of the file's checks."""
    env = model.get_vec_normalize_env()
    with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
        path = Path(name) / "model.zip"
        model.save(path)
        if normalizer is None and env is not None:
            if env.norm_obs:
                normalizer = env
            else:
                warnings.filterwarnings("ignore", "The .* was trained in a VecNormalize")
        if isinstance(normalizer, VecNormalize):
            normalizer = _saved(normalizer, path.parent)
        try:
            return _of_path(path, normalizer)
        except UnreadableFileError as e:
            raise UnreadableFileError(str(e).replace(str(path), f"the {type(model).__name__}")) from e


def _saved(normalizer: VecNormalize, folder: Path) -> Path:
    normalizer.save(str(folder / "vecnormalize.pkl"))
    return folder / "vecnormalize.pkl"


def _of_path(path: str | Path, normalizer: str | Path | None) -> Agent | ActorTeacher:
    if not str(path).startswith(PRETRAINED):
        given = Path(path)
        found = given if normalizer is not None and given.suffix == ".zip" else locate(given)
        training = ZooFolder.at(found)
        model = found if training is None else training.model
        if is_zip(model) and (actor := read_sb3_actor(model)) is not None:
            if normalizer is None:
                normalizer = _statistics_of(model, training)
            return ActorTeacher(actor, None if normalizer is None else read_vec_normalize(normalizer))
    return load_agent(path, normalizer)


def _statistics_of(model: Path, training: ZooFolder | None) -> Path | None:
    """Return the file of the statistics in a model's folder; None without one."""
    if training is not None:
        return training.statistics
    beside = model.with_name("vecnormalize.pkl")
    return beside if model.name == "model.zip" and beside.exists() else None
