"""How a model learns from teachers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_multitask.algorithms.engine import check_learns_from_teachers
from sb3_multitask.algorithms.model_state import number_or_schedule
from sb3_multitask.algorithms.multitask_algorithm import MultiTaskAlgorithm
from sb3_multitask.algorithms.rollout_buffer import task_buffer
from sb3_multitask.distillation.settings import Coefficient, Coefficients, DistillationSettings
from sb3_multitask.distillation.sources import TeacherLike
from sb3_multitask.distillation.teacher_vec_env import TeachersInEnv
from sb3_multitask.distillation.teachers import Teachers
from sb3_multitask.envs.task_space import TaskSizes
from sb3_multitask.losses import DistillationLoss, DistillLoss, Loss

_COEFFICIENTS = ("distill_coef", "rl_coef", "critic_coef", "student_rollout_prob")


class TaughtAlgorithm(MultiTaskAlgorithm, OnPolicyAlgorithm):
    """The part of an on-policy algorithm that has ``teachers``."""

    distils: ClassVar[bool] = True  # has `teachers`

    def learn_from(
        self,
        teachers: Mapping[str, TeacherLike] | None = None,
        distill_loss: DistillLoss = "forward_kl",
        distill_coef: Coefficient = 1.0,
        rl_coef: Coefficient | None = None,
        critic_coef: Coefficient | None = None,
        student_rollout_prob: Coefficient = 1.0,
    ) -> None:
        """Set how the model learns from teachers; before SB3's constructor.

        :raises ValueError: on settings of distillation without teachers
        """
        self.distill_loss: DistillLoss = distill_loss
        self.distill_coef, self.rl_coef, self.critic_coef = distill_coef, rl_coef, critic_coef
        self.student_rollout_prob = student_rollout_prob
        self._distillation: DistillationSettings | None = None
        if not teachers:
            self.distillation.check_without_teachers()
        self.teachers: Mapping[str, TeacherLike] | Teachers | None = teachers  # resolved when the env is known
        self.is_taught = bool(teachers)
        self._teaching: TeachersInEnv | None = None

    def _setup_model(self) -> None:
        _ = self.distillation  # checked
        super()._setup_model()
        if isinstance(self.teachers, Mapping):
            self._take_teachers(self.teachers)
        elif not (self.teachers is None or isinstance(self.teachers, Teachers)):
            raise TypeError(f"`teachers` must map tasks to teachers (got {self.teachers!r:.100})")

    def _take_teachers(self, teachers: Mapping[str, TeacherLike]) -> None:
        self.is_taught, self.teachers, self._teaching = bool(teachers), None, None
        if not teachers:
            return
        self.distillation.check_teachers_teach()
        check_learns_from_teachers(self)
        task_buffer(self.rollout_buffer, "hold what teachers would do")
        if self.task_names is None:
            raise ValueError("`teachers` need an env, whose tasks they teach: pass `env` too")
        sizes = TaskSizes.of(self.observation_space, self.action_space)
        self.teachers = Teachers(teachers, self.task_names, sizes)
        self._teaching = TeachersInEnv(self.teachers)

    @property
    def distillation(self) -> DistillationSettings:
        """How the model learns from teachers, as its attributes say now."""
        given = (self.distill_loss, self.distill_coef, self.rl_coef, self.critic_coef, self.student_rollout_prob)
        if self._distillation is None or self._distillation.given != given:
            self._distillation = DistillationSettings(*given)
        return self._distillation

    @property
    def rollout_by_teacher(self) -> bool:
        """Whether the actions of the latest rollout were the teachers'."""
        return self._teaching is not None and self._teaching.teachers_act

    def coefficients(self) -> Coefficients:
        """Weights of RL, of the critic and of distillation in this update."""
        progress = self._current_progress_remaining
        return self.distillation.at(progress, self._teaching is not None, self.rollout_by_teacher)

    def with_teachers(self, loss: Loss, distill_coef: float) -> Sequence[Loss]:
        """The objective: a loss, and with teachers ``distill_coef`` times the distance from them."""
        return [loss] if self._teaching is None else [loss, DistillationLoss(self.distill_loss, distill_coef)]

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "teachers", "_teaching", "_distillation"]

    def settings(self) -> dict[str, Any]:
        return {
            **super().settings(),
            "distill_loss": self.distill_loss,
            **{name: number_or_schedule(getattr(self, name)) for name in _COEFFICIENTS},
            "teachers": self.teachers.digests if isinstance(self.teachers, Teachers) else {},
        }
