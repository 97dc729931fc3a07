"""How far a student is from its teachers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias

import numpy as np
import torch as th

from sb3_multitask.losses.gaussians import check_gaussians, gaussian_kl, grouped_gaussian_kl
from sb3_multitask.losses.grouped import GroupedOutputs, GroupedRows, OutputGradient
from sb3_multitask.losses.loss import Loss, Outputs, Samples

DistillLoss: TypeAlias = Literal["forward_kl", "reverse_kl", "mse"]


def distill_loss(
    kind: DistillLoss,
    teacher_mean: th.Tensor,
    teacher_log_std: th.Tensor,
    student_mean: th.Tensor,
    student_log_std: th.Tensor,
) -> th.Tensor:
    """How far a student's action distribution is from its teacher's, of each row, (n_rows,).

    :param kind: ``"forward_kl"``, KL(teacher ‖ student): what the paper's text names, D_KL(T, S), and its authors'
        code computes; ``"reverse_kl"``, KL(student ‖ teacher): the paper's eq. (4) as printed, which has the inverse
        of the teacher's covariance in both terms; ``"mse"``, the squared errors of means and standard deviations
    :param teacher_mean: (n_rows, action_dim); the others alike, a log-std may be one row for all
    :raises ValueError: if a shape differs
    """
    if kind == "forward_kl":
        return gaussian_kl(teacher_mean, teacher_log_std, student_mean, student_log_std)
    if kind == "reverse_kl":
        return gaussian_kl(student_mean, student_log_std, teacher_mean, teacher_log_std)
    check_gaussians(teacher_mean, teacher_log_std, student_mean, student_log_std)
    std_error = th.exp(student_log_std) - th.exp(teacher_log_std)
    return ((student_mean - teacher_mean) ** 2 + std_error**2).sum(dim=-1)


class DistillationTerms(NamedTuple):
    """The loss, and KL(teacher ‖ student) in nats whatever the loss: scalars, or one value for each row."""

    loss: Any
    kl: Any


@dataclass(frozen=True)
class DistillationLoss(Loss):
    """``coef`` times the distance from the teachers (the paper's section 4.3.2), see :func:`distill_loss`.

    With a teacher (mu_t, sigma_t) the derivatives at the student's outputs are, each a mean over the rows,

        KL(teacher || student)  d/d mu = (mu - mu_t) / sigma^2    d/d log sigma = 1 - (sigma_t^2 + (mu - mu_t)^2) / sigma^2
        KL(student || teacher)  d/d mu = (mu - mu_t) / sigma_t^2  d/d log sigma = sigma^2 / sigma_t^2 - 1
        MSE                     d/d mu = 2 (mu - mu_t)            d/d log sigma = 2 (sigma - sigma_t) sigma
    """  # noqa: E501 (a table)

    pooled_keys: ClassVar[dict[str, str]] = {"loss": "train/distill_loss"}
    task_key: ClassVar[str] = "distill/{task}/{term}"

    kind: DistillLoss
    coef: float

    def rows(self, batch: Any, outputs: Any) -> DistillationTerms:
        if isinstance(outputs, GroupedOutputs):
            kl = _grouped_loss("forward_kl", batch, outputs)
            loss = kl if self.kind == "forward_kl" else _grouped_loss(self.kind, batch, outputs)
            return DistillationTerms(loss, kl)
        student = outputs.distribution
        gaussians = batch.teacher_mean, batch.teacher_log_std, student.mean, student.stddev.log()
        with th.no_grad():
            distance = gaussian_kl(*gaussians)
        return DistillationTerms(distill_loss(self.kind, *gaussians), distance)

    def weighted(self, terms: DistillationTerms) -> th.Tensor:
        weighted: th.Tensor = self.coef * terms.loss
        return weighted

    def terms(self, batch: Samples, outputs: Outputs) -> DistillationTerms:
        rows = self.rows(batch, outputs)
        return DistillationTerms(rows.loss.mean(), rows.kl.mean())

    def output_gradient(self, rows: GroupedRows, outputs: GroupedOutputs) -> OutputGradient:
        assert rows.teacher_log_std is not None
        distance = outputs.mean - rows.teacher_mean
        std, teacher_std = outputs.std, np.exp(rows.teacher_log_std)
        if self.kind == "forward_kl":
            variance = std * std
            mean = distance / variance
            log_std = 1 - (teacher_std * teacher_std + distance * distance) / variance
        elif self.kind == "reverse_kl":
            variance = teacher_std * teacher_std
            mean = distance / variance
            log_std = std * std / variance - 1
        else:
            mean = 2 * distance
            log_std = 2 * (std - teacher_std) * std
        coef = self.coef / rows.n_rows
        return OutputGradient(coef * rows.only_kept(mean), coef * rows.only_kept(log_std).sum(axis=1))


def _grouped_loss(kind: DistillLoss, rows: GroupedRows, student: GroupedOutputs) -> np.ndarray:
    """:func:`distill_loss` of grouped rows, (k, m, 1)."""
    assert rows.teacher_mean is not None
    assert rows.teacher_log_std is not None
    if kind == "forward_kl":
        return grouped_gaussian_kl(rows.teacher_mean, rows.teacher_log_std, student.mean, student.log_std)
    if kind == "reverse_kl":
        return grouped_gaussian_kl(student.mean, student.log_std, rows.teacher_mean, rows.teacher_log_std)
    mean_error, std_error = student.mean - rows.teacher_mean, student.std - np.exp(rows.teacher_log_std)
    return np.asarray((mean_error**2 + std_error**2).sum(axis=2, keepdims=True))
