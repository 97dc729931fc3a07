"""How likely a student finds its teachers' recorded actions, and the temperature of teachers."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch as th

from sb3_multitask.losses.distillation import DistillationTerms
from sb3_multitask.losses.gaussians import gaussian_kl, grouped_gaussian_kl
from sb3_multitask.losses.grouped import GroupedOutputs, GroupedRows, OutputGradient
from sb3_multitask.losses.loss import Loss


def log_std_at_temperature(log_std: np.ndarray, temperature: float) -> np.ndarray:
    """Return the log-stds of Gaussians at a temperature: ``log_std + log(temperature) / 2``, the std times its root.

    Rusu et al. 2016 (https://arxiv.org/abs/1511.06295, eq. 3) take softmax(q / tau) for the teacher's distribution. It
    is proportional to p^(1 / tau), for p = softmax(q). Of a Gaussian p = N(mu, sigma^2), p^(1 / tau) is proportional to
    exp(-(a - mu)^2 / (2 tau sigma^2)), so it is N(mu, tau sigma^2): below 1 a temperature sharpens, and the mean stays.

    :param log_std: any shape
    :param temperature: positive; 1 changes nothing, to the bit
    """
    return log_std if temperature == 1 else log_std + log_std.dtype.type(0.5 * math.log(temperature))


class LikelihoodTerms(NamedTuple):
    """The loss alone: a scalar, or one value for each row."""

    loss: Any


@dataclass(frozen=True)
class LikelihoodLoss(Loss):
    """``coef`` times the negative log-likelihood of recorded actions a, in nats, summed over the action dimensions.

        -log N(a; mu, sigma^2) = sum (a - mu)^2 / (2 sigma^2) + log sigma + log(2 pi) / 2

    The derivatives at the student's outputs are, each a mean over the rows,

        d/d mu = (mu - a) / sigma^2    d/d log sigma = 1 - (a - mu)^2 / sigma^2

    Rusu et al. 2016 (eq. 1) take the teacher's best action for a. Terms are the loss and, where the batch has the
    teachers' Gaussians, ``kl``, KL(teacher || student).
    """

    pooled_keys: ClassVar[dict[str, str]] = {"loss": "train/distill_loss"}
    task_key: ClassVar[str] = "distill/{task}/{term}"

    coef: float = 1.0

    def rows(self, batch: Any, outputs: Any) -> Any:
        loss = -outputs.log_prob
        if batch.teacher_mean is None:
            return LikelihoodTerms(loss)
        if isinstance(outputs, GroupedOutputs):
            of_teacher = batch.teacher_mean, batch.teacher_log_std
            return DistillationTerms(loss, grouped_gaussian_kl(*of_teacher, outputs.mean, outputs.log_std))
        student = outputs.distribution
        with th.no_grad():
            kl = gaussian_kl(batch.teacher_mean, batch.teacher_log_std, student.mean, student.stddev.log())
        return DistillationTerms(loss, kl)

    def weighted(self, terms: Any) -> th.Tensor:
        weighted: th.Tensor = self.coef * terms.loss
        return weighted

    def output_gradient(self, rows: GroupedRows, outputs: GroupedOutputs) -> OutputGradient:
        weight = np.full_like(rows.advantages, -self.coef / rows.n_rows)
        return OutputGradient(*outputs.log_prob_gradient(rows.only_kept(weight)))
