"""How a student learns from teachers: the weights of the loss's terms, and whose actions rollouts take."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias, get_args

import numpy as np
import torch as th

from sb3_multitask.losses import DistillLoss
from sb3_multitask.losses.schedules import as_number, check_number_or_schedule, in_range

Coefficient: TypeAlias = float | Callable[[float], float]
"""A number, or a function of the remaining progress (1 at the start, 0 at the end), as SB3's schedules."""

_ROUNDING = 1e-6  # by which a probability that a schedule computes may lie above 1


class Coefficients(NamedTuple):
    """Weights of the terms of the loss in one update.

    loss = rl * (policy loss + ent_coef * entropy loss) + critic * vf_coef * value loss + distill * distillation loss
    """

    rl: float = 1.0
    critic: float = 1.0
    distill: float = 0.0

    @property
    def moves_actor(self) -> bool:
        """Whether a term of the loss is about the actor."""
        return self.rl > 0 or self.distill > 0


@dataclass(frozen=True)
class DistillationSettings:
    """How a student learns from teachers; the arguments of the same names of a multi-task model, checked.

    :raises TypeError: on a coefficient that is neither a number nor a function
    :raises ValueError: on an unknown loss, a coefficient that is negative, a probability outside [0, 1], or RL on
        rollouts that are never the student's
    """

    distill_loss: DistillLoss
    distill_coef: Coefficient
    rl_coef: Coefficient | None
    critic_coef: Coefficient | None
    student_rollout_prob: Coefficient
    distill_features: Coefficient = 0.0

    def __post_init__(self) -> None:
        if self.distill_loss not in get_args(DistillLoss):
            raise ValueError(
                f"`distill_loss` must be one of {', '.join(get_args(DistillLoss))} (got {self.distill_loss!r})"
            )
        for name in ("distill_coef", "rl_coef", "critic_coef", "student_rollout_prob", "distill_features"):
            value = getattr(self, name)
            if value is not None or name not in ("rl_coef", "critic_coef"):
                check_number_or_schedule(name, value)
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
        own = (self.student_rollout_prob, self.distill_features)
        return (self.distill_loss, self.distill_coef, self.rl_coef, self.critic_coef, *own)

    @property
    def wants_features(self) -> bool:
        """Whether the student regresses its teachers' features at some time."""
        return _may_be_positive(self.distill_features)

    def check_teachers_teach(self) -> None:
        """Raise ValueError if no term of the loss is left for a student that has teachers."""
        given = (self.distill_coef, self.rl_coef, self.critic_coef, self.distill_features)
        if not any(map(_may_be_positive, given)):
            raise ValueError(
                f"`distill_coef`={self.distill_coef!r} leaves a student with `teachers` nothing to learn from: raise "
                "it, or give `rl_coef`."
            )

    def check_without_teachers(self) -> None:
        """Raise ValueError if a model without teachers would ignore a setting, or has nothing to learn from."""
        defaults = {"distill_loss": "forward_kl", "distill_coef": 1.0, "student_rollout_prob": 1.0}
        for name, default in {**defaults, "distill_features": 0.0}.items():
            if getattr(self, name) != default:
                raise ValueError(f"`{name}`={getattr(self, name)!r} is for distillation, and `teachers` is empty")
        if self.rl_coef == 0 and self.critic_coef == 0:
            raise ValueError("`rl_coef`=0 and `critic_coef`=0 leave nothing to learn from, and `teachers` is empty")

    def at(self, progress_remaining: float, has_teachers: bool, by_teacher: bool) -> Coefficients:
        """The coefficients of an update.

        :param progress_remaining: 1 at the start of training, 0 at the end
        :param has_teachers: without teachers the loss is the algorithm's own
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

    def feature_coef_at(self, progress_remaining: float) -> float:
        """The weight of feature regression in an update, whose actions may be the student's or the teachers'.

        :param progress_remaining: 1 at the start of training, 0 at the end
        """
        return _value("distill_features", self.distill_features, progress_remaining)

    def rollout_is_students(self, progress_remaining: float) -> bool:
        """Whose actions the next rollout takes; draws from torch's generator only if it is open."""
        prob = _value("student_rollout_prob", self.student_rollout_prob, progress_remaining)
        return prob >= 1 or (prob > 0 and th.rand(()).item() < prob)


def _may_be_positive(coefficient: Coefficient | None) -> bool:
    return coefficient is not None and (callable(coefficient) or coefficient > 0)


def _value(name: str, coefficient: Coefficient, progress_remaining: float) -> float:
    """A coefficient in an update; what a schedule gives is held to what a number must be."""
    if not callable(coefficient):
        return float(coefficient)
    given = coefficient(in_range(progress_remaining))
    value, most = as_number(given), 1 + _ROUNDING if name == "student_rollout_prob" else np.inf
    if value is None or not 0 <= value <= most or value == np.inf:
        what = "finite" if most == np.inf else "at most 1"
        raise ValueError(
            f"`{name}` is a schedule that gives {given!r:.100} at the remaining progress {progress_remaining:.4g}: it "
            f"must give numbers that are at least 0 and {what}, from 1 (the start) to 0 (the end)"
        )
    return value
