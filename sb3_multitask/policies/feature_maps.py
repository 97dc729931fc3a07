"""Linear maps from a student's hidden layer to those of its teachers, one per task."""

from __future__ import annotations

from collections.abc import Sequence

import torch as th
from torch import nn


class FeatureMaps(nn.Module):
    """The functions f_i of Actor-Mimic's feature regression (Parisotto et al. 2016, section 3.2): a linear layer each.

    They belong to a training, not to a policy: its optimizer moves them, its files hold them, and agents have none.
    They begin as torch's linear layers do.

    :param in_features: units of the student's last hidden layer
    :param dims: units of each task's teacher's last hidden layer, (n_tasks,)
    """

    def __init__(self, in_features: int, dims: Sequence[int]) -> None:
        super().__init__()
        self.dims = tuple(dims)
        self.maps = nn.ModuleList(nn.Linear(in_features, dim) for dim in self.dims)

    def forward(self, features: th.Tensor, task: th.Tensor) -> th.Tensor:
        """(n_rows, in_features) -> (n_rows, max(dims)), each row through the map of its task; 0 beyond its own units.

        A task without a row leaves its map without a gradient.

        :param task: the task of each row, (n_rows,)
        """
        mapped = features.new_zeros(len(features), max(self.dims))
        for i in th.unique(task).tolist():
            rows = (task == i).nonzero().squeeze(1)
            mapped[rows, : self.dims[i]] = self.maps[i](features[rows])
        return mapped
