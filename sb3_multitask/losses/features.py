"""How far the hidden layer of a student is from those of its teachers: Actor-Mimic's feature regression."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Never

import torch as th

from sb3_multitask.losses.loss import Loss, Outputs, Samples


class FeatureTerms(NamedTuple):
    """The squared distance: a scalar, or one value for each row."""

    feature_loss: Any


@dataclass(frozen=True)
class FeatureLoss(Loss):
    """``coef`` times Actor-Mimic's feature regression (Parisotto et al. 2016, https://arxiv.org/abs/1511.06342, eq. 4).

        mean over the rows of || f_i(h_student(s)) - h_teacher_i(s) ||^2

    h are the activations of the last hidden layers in a state s that was visited, and f_i is the learned linear map of
    the row's task i. The norm is a **sum** over the teacher's units, as in the paper: wider teachers weigh more. With
    ``coef`` as beta it is the second term of eq. (5), whose first is the policy regression. The gradient goes through
    f_i into the student; teachers are constants. The derivative at f_i(h) is 2 (f_i(h) - h_teacher_i) / n_rows.
    """

    pooled_keys: ClassVar[dict[str, str]] = {"feature_loss": "train/feature_loss"}
    task_key: ClassVar[str] = "distill/{task}/{term}"

    coef: float

    def rows(self, batch: Samples, outputs: Outputs) -> FeatureTerms:
        return FeatureTerms(feature_distance(outputs.features, batch.teacher_features))

    def weighted(self, terms: FeatureTerms) -> th.Tensor:
        weighted: th.Tensor = self.coef * terms.feature_loss
        return weighted

    def output_gradient(self, rows: Any, outputs: Any) -> Never:
        """Raise: the maps are torch's, and a model that has them trains on torch's engine."""
        raise NotImplementedError("feature regression is evaluated by torch only")


def feature_distance(mapped: th.Tensor | None, teacher: th.Tensor | None) -> th.Tensor:
    """Return the squared Euclidean distance of each row, (n_rows,).

    :param mapped: what the maps make of the student's features, (n_rows, dim); 0 beyond the units of a row's teacher
    :param teacher: the teachers' features, alike
    :raises ValueError: if there are none, or shapes differ
    """
    if mapped is None or teacher is None or mapped.shape != teacher.shape or mapped.ndim != 2:
        shapes = [None if features is None else tuple(features.shape) for features in (mapped, teacher)]
        raise ValueError(f"features of student and teachers must both be (n_rows, dim) (got {shapes[0]}, {shapes[1]})")
    return ((mapped - teacher) ** 2).sum(dim=1)
