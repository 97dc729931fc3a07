"""What the nets compute of a rollout: memory for it, and the order of its rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sb3_multitask.fast.grouping import Grouping
from sb3_multitask.fast.nets import forward, regroup
from sb3_multitask.fast.parameters import FlatParameters, Layers
from sb3_multitask.process.arrays import aligned_zeros
from sb3_multitask.process.kernels import load_kernels
from sb3_multitask.vec_env.task_major import by_step, by_task


@dataclass(frozen=True)
class Activations:
    """Activations of the nets for rows that come task by task, ``[input, ..., output]`` of each.

    Those of trunks are (k * m, dim), those of heads (k, m, dim): k tasks, m rows of each.
    """

    trunk_pi: tuple[np.ndarray, ...]
    heads_pi: tuple[np.ndarray, ...]
    trunk_vf: tuple[np.ndarray, ...]
    heads_vf: tuple[np.ndarray, ...]


class RolloutMemory:
    """Memory for what is computed of a rollout: rows come task by task, (k, n_steps * m, dim), for trunks as one.

    Tasks with fewer environments than others repeat rows, up to m of each step: see :class:`Grouping`.

    :param counts: environments of each of the k tasks
    :param parameters: of the policy, for the sizes
    """

    def __init__(self, n_steps: int, counts: tuple[int, ...], parameters: FlatParameters) -> None:
        nets, dtype, self.k = parameters.weight_nets, parameters.weights.dtype, len(counts)
        self.n_steps, self.n_envs, k = n_steps, sum(counts), len(counts)
        self.grouping: Grouping | None = None
        """Of the rows of a rollout; ``None`` where tasks have as many, and come task by task at every step."""
        n_after, n_rows = self.n_envs, n_steps * self.n_envs
        if len(set(counts)) > 1:
            tasks = np.repeat(np.arange(k), counts)
            self.grouping = Grouping.of(np.tile(tasks, n_steps), k, np.arange(n_rows))
            self.grouping_after = Grouping.of(tasks, k, np.arange(self.n_envs))
            n_after, n_rows = self.grouping_after.rows.size, self.grouping.rows.size

        def of_rows(n: int, layers: Layers) -> tuple[np.ndarray, ...]:
            return tuple(aligned_zeros((n, bias.shape[-1]), dtype) for bias in layers.biases)

        def of_tasks(rows: tuple[np.ndarray, ...]) -> tuple[np.ndarray, ...]:
            return tuple(array.reshape(k, len(array) // k, -1) for array in rows)

        self.x = aligned_zeros((n_rows, parameters.policy.obs_dim), dtype)
        trunk_pi, head_pi, trunk_vf, head_vf = (
            of_rows(n_rows, layers) for layers in (nets.trunk_pi, nets.head_pi, nets.trunk_vf, nets.head_vf)
        )
        (latent_pi,), (latent_vf,) = of_tasks((self.x, *trunk_pi)[-1:]), of_tasks((self.x, *trunk_vf)[-1:])
        self.trunk_vf, self.head_vf = trunk_vf, of_tasks(head_vf)
        self.of_actions = *of_tasks(trunk_pi), *of_tasks(head_pi)
        self.after = of_rows(n_after, nets.trunk_vf), of_tasks(of_rows(n_after, nets.head_vf))
        self.activations = Activations(
            (self.x, *trunk_pi), (latent_pi, *of_tasks(head_pi)), (self.x, *trunk_vf), (latent_vf, *self.head_vf)
        )

    def regroup(self, arrays: Sequence[np.ndarray], grouped: Sequence[np.ndarray]) -> None:
        """Copy what comes step by step, (n_steps, n_envs, dim) each, task by task: (k, n_steps * m, dim)."""
        if self.grouping is None:
            regroup(arrays, grouped)
            return
        places = self.grouping.rows
        for array, memory in zip(arrays, grouped, strict=True):
            memory[...] = array.reshape(self.n_steps * self.n_envs, -1)[places]

    def kept(self, keep: np.ndarray | None) -> np.ndarray | None:
        """Which rows are learned from, as :class:`~sb3_multitask.losses.GroupedRows` takes it; None if all are.

        :param keep: (n_steps, n_envs) bool; ``None``: all but those that are repeated
        """
        taken = None if self.grouping is None else self.grouping.taken
        if keep is None:
            return taken
        dtype = self.x.dtype
        if self.grouping is None or taken is None:
            return by_task(keep[:, :, None].astype(dtype), self.k)
        return np.asarray(keep.reshape(-1)[self.grouping.rows][:, :, None] * taken, dtype)

    def values(self, trunk: Layers, heads: Layers, observations: np.ndarray) -> np.ndarray:
        """Values of all observations of a rollout and of those after it, :meth:`Acting.values`."""
        nets, values = (trunk, heads), np.empty((self.n_steps + 1, self.n_envs), self.x.dtype)
        kernels = load_kernels("fast") if self.trunk_vf and self.grouping is None else None
        if kernels is not None:
            arrays = trunk.arrays, heads.arrays
            kernels.values(observations, *arrays, self.x, self.trunk_vf, self.head_vf, *self.after, values)
            return values
        self.regroup([observations[:-1]], [self.x.reshape(self.k, len(self.x) // self.k, -1)])
        forward(*nets, self.x, self.trunk_vf, self.head_vf)
        if self.grouping is None:
            forward(*nets, observations[-1], *self.after)
            values[:-1] = by_step(self.head_vf[-1], self.n_steps)[:, :, 0]
            values[-1] = self.after[1][-1].reshape(-1)
            return values
        after = self.grouping_after.rows.ravel()
        forward(*nets, observations[-1][after], *self.after)
        values[:-1].reshape(-1)[self.grouping.rows.ravel()] = self.head_vf[-1].reshape(-1)  # a view of whole rows
        values[-1][after] = self.after[1][-1].reshape(-1)
        return values

    def has_seen(self, observations: np.ndarray) -> bool:
        """Whether :meth:`values` was computed for these observations, (n_steps, n_envs, obs_dim)."""
        if self.grouping is not None:
            return bool((observations.reshape(-1, self.x.shape[1])[self.grouping.rows.ravel()] == self.x).all())
        seen = self.x.reshape(self.k, self.n_steps, self.n_envs // self.k, -1)
        return bool((observations.reshape(self.n_steps, self.k, -1, seen.shape[3]).swapaxes(0, 1) == seen).all())
