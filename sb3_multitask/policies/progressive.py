"""Progressive networks: a column of layers per task, with lateral connections from the columns before it.

Rusu et al. 2016, "Progressive Neural Networks", https://arxiv.org/abs/1606.04671.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from typing import Any, Self

import numpy as np
import torch as th
from torch import nn

SCALE_INIT = 0.1
"""Scales of adapters start as uniform numbers from 0 to this."""
_LAYER = re.compile(r"columns\.(\d+)\.layers\.(\d+)\.weight")
_PREFIX = "mlp_extractor.policy_net."


class Adapter(nn.Module):
    """The non-linear projection of what earlier columns give: ``sigma(V alpha h^(<k))`` of eq. 2.

    :param n_before: number of earlier columns
    :param dim: units of the layer that it reads in each of them, and of its output
    :param activation_fn: sigma
    """

    def __init__(self, n_before: int, dim: int, activation_fn: type[nn.Module]) -> None:
        super().__init__()
        self.scale = nn.Parameter(SCALE_INIT * th.rand(n_before))
        self.projection = nn.Linear(n_before * dim, dim)
        self.activation = activation_fn()

    def forward(self, before: Iterable[th.Tensor]) -> th.Tensor:
        """Activations of each earlier column, (n_rows, dim) -> (n_rows, dim)."""
        scaled = [alpha * hidden for alpha, hidden in zip(self.scale, before, strict=True)]
        projected: th.Tensor = self.activation(self.projection(th.cat(scaled, dim=1)))
        return projected


class Column(nn.Module):
    """The hidden layers of one task: ``h_i = sigma(W_i h_(i-1) + U_i a_(i-1))``, with ``a`` of an :class:`Adapter`.

    :param sizes: ``(in, *hidden)``
    :param n_before: number of earlier columns; the first has neither adapters nor lateral connections
    :param activation_fn: sigma
    """

    def __init__(self, sizes: Sequence[int], n_before: int, activation_fn: type[nn.Module]) -> None:
        super().__init__()
        hidden = sizes[1:] if n_before else ()
        self.layers = nn.ModuleList(nn.Linear(n_in, n_out) for n_in, n_out in pairwise(sizes))
        self.adapters = nn.ModuleList(Adapter(n_before, dim, activation_fn) for dim in hidden)
        self.laterals = nn.ModuleList(nn.Linear(n_in, n_out, bias=False) for n_in, n_out in pairwise(hidden))
        self.activation = activation_fn()

    def forward(self, x: th.Tensor, before: Sequence[Sequence[th.Tensor]]) -> tuple[list[th.Tensor], list[th.Tensor]]:
        """Return the activations of the layers, and what their adapters give, (n_rows, units) each; this is empty in
        the first column.

        :param x: (n_rows, in)
        :param before: activations of the layers of every earlier column
        """
        hidden: list[th.Tensor] = []
        adapted: list[th.Tensor] = []
        for i, layer in enumerate(self.layers):
            x = layer(x)
            if i and before:
                x = x + self.laterals[i - 1](adapted[-1])
            x = self.activation(x)
            hidden.append(x)
            if before:
                adapted.append(self.adapters[i](column[i] for column in before))
        return hidden, adapted


class ProgressiveNet(nn.Module):
    """The columns of the actor or of the critic, without the output layers.

    The latent of a row is ``[h_L, a_L]`` of its task's column, so that the task's linear output layer has the weights
    ``[W, U]`` of eq. 2. In the first column ``a_L`` is 0.

    :param n_tasks: number of columns
    :param sizes: ``(in, *hidden)`` of each
    :param activation_fn: after each layer and in the adapters
    """

    def __init__(self, n_tasks: int, sizes: Sequence[int], activation_fn: type[nn.Module]) -> None:
        super().__init__()
        self.columns = nn.ModuleList(Column(sizes, n_before, activation_fn) for n_before in range(n_tasks))
        self.in_dim, self.hidden_dim = sizes[0], sizes[-1]
        self.latent_dim = 2 * sizes[-1] if len(sizes) > 1 else sizes[0]

    @classmethod
    def of_weights(cls, weights: Mapping[str, np.ndarray], activation_fn: type[nn.Module]) -> Self | None:
        """Return the actor's columns of a policy's weights; ``None`` if they have none.

        :raises ValueError: if they do not fit together
        """
        own = {name.removeprefix(_PREFIX): array for name, array in weights.items() if has_columns([name])}
        shapes = {(int(m[1]), int(m[2])): array.shape for name, array in own.items() if (m := _LAYER.fullmatch(name))}
        if not own:
            return None
        layers = sorted(layer for column, layer in shapes if column == 0)
        n_tasks = len({column for column, _ in shapes})
        if not layers or any(len(shape) != 2 for shape in shapes.values()):
            raise ValueError(f"{_PREFIX}columns.0 has no linear layers")
        sizes = [shapes[0, layers[0]][1], *(shapes[0, layer][0] for layer in layers)]
        misfit = f"the columns are not those of {n_tasks} tasks and layers of {sizes!r:.200}"
        n_arrays = _n_arrays(n_tasks, len(layers))
        if len(own) != n_arrays:  # before modules are made, of which a small damaged file could ask for millions
            raise ValueError(f"{misfit}: they have {len(own)} arrays in place of {n_arrays}")
        with th.device("meta"):  # without memory, which a damaged file could ask for, and without random numbers
            net = cls(n_tasks, sizes, activation_fn)
        tensors = {name: th.from_numpy(array.astype(np.float32)) for name, array in own.items()}
        try:
            net.load_state_dict(tensors, assign=True)
        except RuntimeError as e:
            raise ValueError(f"{misfit}: {e!s:.1000}") from e
        return net.requires_grad_(requires_grad=False)

    @property
    def n_parameters(self) -> list[int]:
        """The number of parameters of each column."""
        return [sum(parameter.numel() for parameter in column.parameters()) for column in self.columns]

    def extra_repr(self) -> str:
        return f"parameters of each column: {', '.join(f'{n:,}' for n in self.n_parameters)}"

    def forward(self, features: th.Tensor, task: th.Tensor) -> th.Tensor:
        """(n_rows, in) and the task of each row, (n_rows,) -> (n_rows, latent_dim)."""
        present = th.unique(task).tolist()
        if len(present) == 1:
            return self.latent_of(features, present[0])
        latent = features.new_zeros(len(features), self.latent_dim)
        for column in present:
            rows = (task == column).nonzero().flatten()
            latent = latent.index_copy(0, rows, self.latent_of(features[rows], column))
        return latent

    def latent_of(self, x: th.Tensor, column: int) -> th.Tensor:
        """(n_rows, in) -> (n_rows, latent_dim), all rows through one column; no gradient enters those before it."""
        own: Any = self.columns[column]
        if not len(own.layers):
            return x
        before: list[list[th.Tensor]] = []
        for earlier in self.columns[:column]:
            with th.no_grad():
                before.append(earlier(x, before)[0])
        hidden, adapted = own(x, before)
        return th.cat([hidden[-1], adapted[-1] if adapted else th.zeros_like(hidden[-1])], dim=1)


class ProgressiveMlpExtractor(nn.Module):
    """Columns for the actor and for the critic; has the place and the names of SB3's ``MlpExtractor``.

    :param features_dim: obs_dim
    :param arch: ``dict(pi=[...], vf=[...])``, units of the hidden layers of every column
    :param activation_fn: after each layer and in the adapters
    :param n_tasks: number of columns
    :ivar trained: 1 for every task whose column an algorithm has trained, else 0, (n_tasks,)
    """

    def __init__(
        self, features_dim: int, arch: Mapping[str, Sequence[int]], activation_fn: type[nn.Module], n_tasks: int
    ) -> None:
        super().__init__()
        self.policy_net, self.value_net = (
            ProgressiveNet(n_tasks, [features_dim, *arch[key]], activation_fn) for key in ("pi", "vf")
        )
        self.latent_dim_pi, self.latent_dim_vf = self.policy_net.latent_dim, self.value_net.latent_dim
        self.trained: th.Tensor = nn.Buffer(th.zeros(n_tasks))
        self.learns_in_turn = n_tasks == 1
        """Whether the algorithm that trains the policy shows one task after the other."""

    def forward(self, features: th.Tensor, task: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """(n_rows, features_dim) and tasks (n_rows,) -> latents of the actor and of the critic."""
        return self.forward_actor(features, task), self.forward_critic(features, task)

    def forward_actor(self, features: th.Tensor, task: th.Tensor) -> th.Tensor:
        latent: th.Tensor = self.policy_net(features, task)
        return latent

    def forward_critic(self, features: th.Tensor, task: th.Tensor) -> th.Tensor:
        latent: th.Tensor = self.value_net(features, task)
        return latent


def _n_arrays(n_tasks: int, n_layers: int) -> int:
    """Return the number of parameters of the columns of a net, matrices and vectors, as :class:`Column` has them."""
    of_layers, of_adapters, of_laterals = 2 * n_layers, 3 * n_layers, n_layers - 1
    return n_tasks * of_layers + (n_tasks - 1) * (of_adapters + of_laterals)


def has_columns(names: Iterable[str]) -> bool:
    """Return whether names of a policy's weights include those of the actor's columns."""
    return any(name.startswith(f"{_PREFIX}columns.") for name in names)


def check_progressive(given: Mapping[str, Any]) -> None:
    """Raise on arguments of the policy with which earlier tasks would change, or which columns do not have.

    :param given: name -> value
    :raises ValueError: names the argument, its value and the alternative
    """
    reasons = {
        "features_extractor_class": "a features extractor is trained by all tasks, which would change earlier columns",
        "task_embedding": "a column knows its task, and learned vectors of tasks would be no part of it",
        "layer_norm": "columns have linear layers and activations only",
        "log_std_mode": 'one log-std for all would change with every task: use "per_task" or "state_dependent"',
    }
    accepted = {"features_extractor_class": None, "task_embedding": None, "layer_norm": False, "log_std_mode": None}
    for name, reason in reasons.items():
        value = given[name]
        if value == accepted[name] or (name == "log_std_mode" and value != "shared"):
            continue
        shown = getattr(value, "__name__", repr(value))
        raise ValueError(f'`{name}={shown}` does not go with share="progressive": {reason}. Leave it out')
