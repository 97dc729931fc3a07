"""Layers with one set of weights per task, applied to rows of mixed tasks."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Literal, NamedTuple, Self

import torch as th
from torch import nn
from torch.nn import functional


class TaskRows(NamedTuple):
    """The grouping of a batch's rows by task.

    Rows are sorted by task and padded to the same number per task, so that one batched product serves all tasks.

    :ivar tasks: (k,) the tasks that are present, ascending; ``None`` if all are present
    :ivar slots: (n_rows,) index of each row in the grouped (k * m) rows; ``None`` if the rows are grouped already
    :ivar shape: (k, m), tasks present and rows for each
    """

    tasks: th.Tensor | None
    slots: th.Tensor | None
    shape: tuple[int, int]

    @classmethod
    def of(cls, task: th.Tensor, n_tasks: int) -> Self:
        """Group rows by ``task`` (n_rows,), the task id of each row."""
        counts = th.bincount(task, minlength=n_tasks)
        present = counts.nonzero().squeeze(1)
        k, m = len(present), int(counts.max())
        tasks = None if k == n_tasks else present
        order = th.argsort(task, stable=True)
        n_rows = len(task)
        if k * m == n_rows and bool((order[1:] > order[:-1]).all()):
            return cls(tasks, None, (k, m))
        counts = counts[present]
        first = counts.cumsum(0) - counts  # the first sorted row of each task
        gap = th.arange(k, device=task.device) * m - first
        slots = th.empty_like(order)
        slots[order] = th.arange(n_rows, device=task.device) + gap.repeat_interleave(counts)
        return cls(tasks, slots, (k, m))

    @classmethod
    def of_one_head(cls, task: th.Tensor) -> Self:
        """Group rows of any tasks, (n_rows,), as those of a single head."""
        return cls(None, None, (1, len(task)))

    def group(self, rows: th.Tensor) -> th.Tensor:
        """(n_rows, dim) -> (k, m, dim); padding is zero."""
        k, m = self.shape
        if self.slots is not None:
            rows = rows.new_zeros(k * m, rows.shape[1]).index_copy(0, self.slots, rows)
        return rows.reshape(k, m, rows.shape[1])

    def ungroup(self, grouped: th.Tensor) -> th.Tensor:
        """(k, m, dim) -> (n_rows, dim), the inverse of :meth:`group`."""
        rows = grouped.flatten(0, 1)
        return rows if self.slots is None else rows[self.slots]

    def select(self, stacked: th.Tensor) -> th.Tensor:
        """(n_tasks, ...) -> (k, ...), the parameters of the tasks that are present."""
        return stacked if self.tasks is None else stacked[self.tasks]


class TaskLinear(nn.Module):
    """A linear layer per task, stacked: ``weight`` (n_tasks, in, out), ``bias`` (n_tasks, out)."""

    def __init__(self, n_tasks: int, in_features: int, out_features: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(th.empty(n_tasks, in_features, out_features))
        self.bias = nn.Parameter(th.empty(n_tasks, out_features))
        with th.no_grad():
            for task in range(n_tasks):
                layer = nn.Linear(in_features, out_features)  # torch's own default initialisation
                self.weight[task] = layer.weight.T
                self.bias[task] = layer.bias

    def init_orthogonal(self, gain: float) -> None:
        """Initialise each task separately with orthogonal weights and zero bias, as SB3 does for a layer."""
        n_tasks, in_features, out_features = self.weight.shape
        with th.no_grad():
            for task in range(n_tasks):
                self.weight[task] = nn.init.orthogonal_(th.empty(out_features, in_features), gain).T
            self.bias.zero_()

    def forward(self, grouped: th.Tensor, rows: TaskRows) -> th.Tensor:
        """(k, m, in) -> (k, m, out)."""
        return th.baddbmm(rows.select(self.bias).unsqueeze(1), grouped, rows.select(self.weight))


class TaskLayerNorm(nn.Module):
    """A layer norm (Ba et al. 2016) per task, as torch's, stacked: ``weight`` and ``bias`` (n_tasks, dim)."""

    eps = 1e-5

    def __init__(self, n_tasks: int, dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(th.ones(n_tasks, dim))
        self.bias = nn.Parameter(th.zeros(n_tasks, dim))

    def forward(self, grouped: th.Tensor, rows: TaskRows) -> th.Tensor:
        """(k, m, dim) -> (k, m, dim): each row with mean 0 and variance 1, then scaled and shifted for its task."""
        normalized = functional.layer_norm(grouped, grouped.shape[-1:], eps=self.eps)
        return rows.select(self.bias).unsqueeze(1) + normalized * rows.select(self.weight).unsqueeze(1)


class TaskVectors(nn.Module):
    """A vector per task for the trunk's input: ``weight`` (n_tasks, dim).

    :param n_tasks: number of tasks
    :param embedding: ``"onehot"``, which is fixed, or the size of vectors that are learned and start as standard normal
        numbers, as torch's ``Embedding``
    """

    def __init__(self, n_tasks: int, embedding: int | Literal["onehot"]) -> None:
        super().__init__()
        if embedding == "onehot":
            self.weight: th.Tensor = nn.Buffer(th.eye(n_tasks))
        else:
            self.weight = nn.Parameter(th.randn(n_tasks, embedding))

    @property
    def dim(self) -> int:
        return self.weight.shape[1]

    def forward(self, task: th.Tensor) -> th.Tensor:
        """(n_rows,) -> (n_rows, dim)."""
        return functional.embedding(task, self.weight)


class TaskHeads(nn.Module):
    """An MLP per task: hidden layers with an activation, then a linear output.

    :param n_tasks: number of tasks, or 1 for a head that all tasks share
    :param sizes: ``(in, *hidden, out)``
    :param activation_fn: after each hidden layer
    :param layer_norm: whether each hidden layer is followed by a layer norm, before the activation
    """

    def __init__(
        self, n_tasks: int, sizes: Sequence[int], activation_fn: type[nn.Module], layer_norm: bool = False
    ) -> None:
        super().__init__()
        self.layers = nn.ModuleList(TaskLinear(n_tasks, n_in, n_out) for n_in, n_out in pairwise(sizes))
        self.norms = nn.ModuleList(TaskLayerNorm(n_tasks, dim) for dim in sizes[1:-1]) if layer_norm else None
        self.activation = activation_fn()

    def init_orthogonal(self, hidden_gain: float, output_gain: float) -> None:
        *hidden, output = self.layers
        for layer in hidden:
            layer.init_orthogonal(hidden_gain)  # type: ignore[operator]
        output.init_orthogonal(output_gain)  # type: ignore[operator]

    def forward(self, latent: th.Tensor, rows: TaskRows) -> th.Tensor:
        """(n_rows, in) -> (n_rows, out), each row through the head of its task."""
        return rows.ungroup(self.layers[-1](self._hidden(latent, rows), rows))

    def features(self, latent: th.Tensor, rows: TaskRows) -> th.Tensor:
        """(n_rows, in) -> (n_rows, dim): what the output layer takes."""
        return rows.ungroup(self._hidden(latent, rows))

    def _hidden(self, latent: th.Tensor, rows: TaskRows) -> th.Tensor:
        grouped = rows.group(latent)
        for i, layer in enumerate(list(self.layers)[:-1]):
            grouped = layer(grouped, rows)
            if self.norms is not None:
                grouped = self.norms[i](grouped, rows)
            grouped = self.activation(grouped)
        return grouped
