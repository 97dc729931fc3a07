"""What an objective is made of: losses with two faces, torch's terms and numpy's gradient at the network's outputs."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple, Protocol

import numpy as np
import torch as th

from sb3_multitask.losses.grouped import GroupedOutputs, GroupedRows, OutputGradient


class Samples(Protocol):
    """What a loss reads of a rollout buffer's samples; ``TaskRolloutBufferSamples`` has the shapes."""

    @property
    def actions(self) -> th.Tensor: ...
    @property
    def old_values(self) -> th.Tensor: ...
    @property
    def old_log_prob(self) -> th.Tensor: ...
    @property
    def advantages(self) -> th.Tensor: ...
    @property
    def returns(self) -> th.Tensor: ...
    @property
    def teacher_mean(self) -> th.Tensor | None: ...
    @property
    def teacher_log_std(self) -> th.Tensor | None: ...
    @property
    def teacher_features(self) -> th.Tensor | None: ...


class Outputs(NamedTuple):
    """What a policy gives for the rows of a batch.

    ``values``, ``log_prob`` of the actions taken and ``entropy`` in nats, each (n_rows,); ``distribution``: of the
    actions, (n_rows, action_dim). ``features``: for feature regression alone, what the maps of
    :class:`~sb3_multitask.policies.feature_maps.FeatureMaps` make of the actor's last hidden layer, (n_rows, dim). Of a
    policy with a shared policy (Distral) also ``shared_log_prob`` and ``shared_distribution``, which are the shared
    policy's for the same rows and actions; else ``None``.
    """

    values: th.Tensor
    log_prob: th.Tensor
    entropy: th.Tensor
    distribution: th.distributions.Normal
    features: th.Tensor | None = None
    shared_log_prob: th.Tensor | None = None
    shared_distribution: th.distributions.Normal | None = None


class Loss(ABC):
    """One loss of an objective; a frozen dataclass of its coefficients.

    Its terms are a NamedTuple. ``pooled_keys`` and ``task_key`` say under which keys the logger records them: of all
    rows, and of each task; a term without a pooled key has none.
    """

    pooled_keys: ClassVar[dict[str, str]]
    task_key: ClassVar[str]

    @abstractmethod
    def rows(self, batch: Any, outputs: Any) -> Any:
        """The terms of every row.

        :param batch: :class:`Samples` with :class:`Outputs`, or :class:`GroupedRows` with :class:`GroupedOutputs`
        :return: tensors (n_rows,), or arrays (n_tasks, rows of a task, 1)
        """

    def terms(self, batch: Samples, outputs: Outputs) -> Any:
        """The terms as means over all rows, each a scalar tensor."""
        rows = self.rows(batch, outputs)
        return type(rows)(*(row.mean() for row in rows))

    @abstractmethod
    def weighted(self, terms: Any) -> th.Tensor:
        """What the loss adds to the objective, a scalar: its terms by their coefficients."""

    @abstractmethod
    def output_gradient(self, rows: GroupedRows, outputs: GroupedOutputs) -> OutputGradient:
        """The derivative of ``weighted(terms)`` with respect to what the network puts out."""

    def evaluate_groups(self, rows: GroupedRows, outputs: GroupedOutputs) -> tuple[OutputGradient, TermSums]:
        """:meth:`output_gradient`, and the terms as sums over the rows of each task."""
        terms = self.rows(rows, outputs)
        return self.output_gradient(rows, outputs), TermSums(type(terms), rows.sums_per_task(terms))


class TermSums(NamedTuple):
    """The terms of a loss, summed over the rows of each task.

    :param kind: the NamedTuple of the terms
    :param of_tasks: (k, n_terms)
    """

    kind: Any
    of_tasks: np.ndarray


class LossTerms(NamedTuple):
    """The terms of one loss in an update.

    :param pooled: their means over all rows, with the terms' names
    :param of_tasks: their means over the rows of each task that took part, (n_tasks, n_terms)
    """

    loss: Loss
    pooled: Any
    of_tasks: np.ndarray

    def weighted(self) -> float:
        """What the loss was in the objective."""
        return float(self.loss.weighted(self.pooled))


@dataclass(frozen=True)
class Evaluation:
    """What an objective was for a batch.

    :param tasks: the tasks that took part, whose means ``of_tasks`` lists
    :param losses: of every loss of the objective
    """

    tasks: Sequence[int]
    losses: Sequence[LossTerms]

    @property
    def means(self) -> dict[str, float]:
        """The terms of all losses as means over all rows."""
        return {name: mean for terms in self.losses for name, mean in terms.pooled._asdict().items()}

    def not_finite(self) -> list[int]:
        """The tasks with a term that is NaN or infinite."""
        return [
            task
            for i, task in enumerate(self.tasks)
            if not all(np.isfinite(terms.of_tasks[i]).all() for terms in self.losses)
        ]


def terms_of_samples(loss: Loss, rows: Any, terms: Any, task: th.Tensor, n_tasks: int) -> LossTerms:
    """What torch computed of one loss.

    :param rows: the terms of every row, each (n_rows,)
    :param terms: their means
    :param task: the task of each row, (n_rows,)
    """
    n_rows = th.bincount(task, minlength=n_tasks)
    sums = th.stack(tuple(rows), dim=1).new_zeros(n_tasks, len(rows)).index_add_(0, task, th.stack(tuple(rows), dim=1))
    here = n_rows > 0
    means = sums[here] / n_rows[here].unsqueeze(1)
    return LossTerms(loss, type(terms)(*(term.item() for term in terms)), means.numpy(force=True))


class SumsOfTerms(NamedTuple):
    """What a part of a minibatch adds to the terms of an objective.

    :param tasks: ids of the tasks, (k,)
    :param rows_per_task: how many rows of each are learned from
    :param n_rows: how many rows of the whole minibatch are
    :param of_losses: the terms of each loss
    """

    tasks: np.ndarray
    rows_per_task: Sequence[int]
    n_rows: int
    of_losses: Sequence[TermSums]


def evaluate_groups(objective: Sequence[Loss], outputs: GroupedOutputs) -> tuple[OutputGradient, SumsOfTerms]:
    """The derivative of an objective for a part, and its terms."""
    rows = outputs.rows
    (gradient, terms), *others = (loss.evaluate_groups(rows, outputs) for loss in objective)
    for other, _ in others:
        gradient += other
    of_losses = [terms, *(of_loss for _, of_loss in others)]
    return gradient, SumsOfTerms(rows.tasks, rows.rows_per_task, rows.n_rows, of_losses)


def evaluation_of_sums(objective: Sequence[Loss], parts: Sequence[SumsOfTerms]) -> Evaluation:
    """What an objective was for a minibatch.

    :param parts: of the minibatch, which have the same tasks
    """
    first, *others = parts
    n_rows = np.add.reduce([part.rows_per_task for part in parts]) if others else np.array(first.rows_per_task)
    here = slice(None) if n_rows.all() else n_rows.nonzero()[0]
    divisors = n_rows[here, None]
    losses = []
    for i, loss in enumerate(objective):
        kind, sums = first.of_losses[i]
        for part in others:
            sums = sums + part.of_losses[i].of_tasks
        pooled = kind(*[total / first.n_rows for total in np.add.reduce(sums).tolist()])
        losses.append(LossTerms(loss, pooled, sums[here] / divisors))
    return Evaluation(first.tasks[here].tolist(), losses)
