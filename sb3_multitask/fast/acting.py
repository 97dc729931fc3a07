"""Acting through a rollout, and the activations that the update needs afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch as th

from sb3_multitask.fast.nets import Tasks, forward, heads_forward, of_tasks, regroup, trunk_forward
from sb3_multitask.fast.parameters import FlatParameters, Layers
from sb3_multitask.fast.weights import ReadyWeights
from sb3_multitask.process.arrays import Scratch, aligned_zeros
from sb3_multitask.process.kernels import load_kernels
from sb3_multitask.vec_env.task_major import by_step, by_task

_HALF_LOG_2_PI = 0.5 * np.log(2 * np.pi)


@dataclass(frozen=True)
class Activations:
    """Activations of the nets for rows that come task by task, ``[input, ..., output]`` of each.

    Those of trunks are (k * m, dim), those of heads (k, m, dim): k tasks, m rows of each.
    """

    trunk_pi: tuple[np.ndarray, ...]
    heads_pi: tuple[np.ndarray, ...]
    trunk_vf: tuple[np.ndarray, ...]
    heads_vf: tuple[np.ndarray, ...]


class _Memory:
    """Memory for what is computed of a rollout: rows come task by task, (k, n_steps * m, dim), for trunks as one.

    :param k: number of tasks
    :param parameters: of the policy, for the sizes
    """

    def __init__(self, n_steps: int, n_envs: int, k: int, parameters: FlatParameters) -> None:
        nets, dtype, n_rows = parameters.weight_nets, parameters.weights.dtype, n_steps * n_envs

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
        self.after = of_rows(n_envs, nets.trunk_vf), of_tasks(of_rows(n_envs, nets.head_vf))
        self.activations = Activations(
            (self.x, *trunk_pi), (latent_pi, *of_tasks(head_pi)), (self.x, *trunk_vf), (latent_vf, *self.head_vf)
        )


class Acting:
    """Samples actions step by step and keeps the activations of a rollout, in memory that the next one uses again.

    :param n_steps: steps of a rollout
    :param n_envs: rows of the VecEnv
    :param parameters: of the policy, for the sizes
    """

    def __init__(self, n_steps: int, n_envs: int, parameters: FlatParameters) -> None:
        policy, nets, dtype = parameters.policy, parameters.weight_nets, parameters.weights.dtype
        self.n_steps, self.n_envs, self.dtype = n_steps, n_envs, dtype
        self.weights = ReadyWeights(parameters)
        self._all_bounds: np.ndarray = np.stack((policy.sizes.action_low, policy.sizes.action_high))
        # step by step, as rows come from the VecEnv: (n_steps, n_envs, dim)
        self._hidden, self._outputs = (
            tuple(aligned_zeros((n_steps, n_envs, bias.shape[-1]), dtype) for bias in layers.biases)
            for layers in (nets.trunk_pi, nets.head_pi)
        )
        # drawn as torch.distributions.Normal draws it: one tensor (n_envs, action_dim) a step
        self._noise = th.empty(n_steps, n_envs, nets.log_std.shape[-1], dtype=policy.log_std.dtype)
        self._noise_array, self._noise_of_step = self._noise.numpy(), list(self._noise)
        self._columns = Scratch(dtype)
        self._memory: dict[int, _Memory] = {}  # for each number of tasks

    def start(self, parameters: FlatParameters, tasks: Tasks, k: int) -> None:
        """Begin a rollout with ``k`` tasks and the weights as they are now."""
        self._log_stds: list[np.ndarray] = []
        self.weights.take(parameters, tasks, k)
        self.bounds = np.ascontiguousarray(self._all_bounds[:, tasks])
        self.own_dims = np.ascontiguousarray(parameters.policy.sizes.action_dims[tasks])
        if k not in self._memory:
            self._memory[k] = _Memory(self.n_steps, self.n_envs, k, parameters)

    def take_weights(self, parameters: FlatParameters) -> None:
        """Act with the weights as they are now."""
        self.weights.take(parameters, self.tasks, self.k)

    @property
    def tasks(self) -> Tasks:
        """The tasks that the VecEnv shows."""
        return self.weights.tasks

    @property
    def k(self) -> int:
        """How many they are."""
        return self.weights.k

    def act(self, step: int, observations: np.ndarray, actions: np.ndarray) -> np.ndarray:
        """Sample the actions of a step.

        :param observations: of the steps of a rollout, (at least ``step + 1``, n_envs, obs_dim)
        :param actions: of its steps, (n_steps, n_envs, action_dim); receives those of this one
        :return: what the environments get, within the bounds of their tasks, (n_envs, action_dim)
        """
        weights = self.weights
        self._log_stds.append(weights.log_std)
        self._noise_of_step[step].normal_()
        kernels = load_kernels("fast") if self._hidden else None
        if kernels is not None:
            memory = self._hidden, self._outputs, self._noise_array
            nets = weights.trunk_pi.arrays, weights.head_pi.arrays
            of_tasks = weights.std, self.bounds, self.own_dims
            within: np.ndarray = kernels.act(step, observations, *nets, *memory, *of_tasks, actions)
            return within
        outputs = [output[step].reshape(self.k, self.n_envs // self.k, -1) for output in self._outputs]  # views
        forward(weights.trunk_pi, weights.head_pi, observations[step], [h[step] for h in self._hidden], outputs)
        sampled = self._noise_array[step].reshape(outputs[-1].shape) * weights.std + outputs[-1]
        weights.clear_padding(outputs[-1])  # which losses read
        weights.clear_padding(sampled)
        actions[step] = sampled.reshape(self.n_envs, -1)
        low, high = self.bounds[:, :, None]
        return np.asarray(np.minimum(np.maximum(sampled, low), high).reshape(self.n_envs, -1))

    def values(self, observations: np.ndarray) -> np.ndarray:
        """Values of all observations of a rollout and of those after it.

        :param observations: (n_steps + 1, n_envs, obs_dim)
        :return: (n_steps + 1, n_envs)
        """
        memory, nets = self._memory[self.k], (self.weights.trunk_vf, self.weights.head_vf)
        values = np.empty((self.n_steps + 1, self.n_envs), self.dtype)
        kernels = load_kernels("fast") if memory.trunk_vf else None
        if kernels is not None:
            arrays = nets[0].arrays, nets[1].arrays
            kernels.values(observations, *arrays, memory.x, memory.trunk_vf, memory.head_vf, *memory.after, values)
            return values
        memory.x[...] = by_task(observations[:-1], self.k).reshape(memory.x.shape)
        forward(*nets, memory.x, memory.trunk_vf, memory.head_vf)
        forward(*nets, observations[-1], *memory.after)
        values[:-1] = by_step(memory.head_vf[-1], self.n_steps)[:, :, 0]
        values[-1] = memory.after[1][-1].reshape(-1)
        return values

    def values_of(self, task: int, observations: np.ndarray) -> np.ndarray:
        """Values (n_rows,) of observations (n_rows, obs_dim) of one task."""
        trunk, heads, n_rows = self.weights.trunk_vf, self.weights.nets.head_vf, len(observations)
        hidden = [np.empty((n_rows, len(bias)), self.dtype) for bias in trunk.biases]
        outputs = [np.empty((1, n_rows, bias.shape[1]), self.dtype) for bias in heads.biases]
        latent = trunk_forward(trunk, observations, hidden)
        values: np.ndarray = heads_forward(of_tasks(heads, np.array([task])), latent[None], outputs)
        return values.ravel()

    def log_probs(self) -> np.ndarray:
        """Log-probabilities of the actions that were sampled, (n_steps, n_envs)."""
        n_per_task = self.n_envs // self.k
        squares, constants = self._noise_array * self._noise_array, np.stack(self._log_stds)[:, :, 0] + _HALF_LOG_2_PI
        if self.weights.action_dims is not None:
            is_own = np.arange(self._noise_array.shape[2]) < self.own_dims[:, None]
            squares *= np.repeat(is_own, n_per_task, axis=0)
            constants *= is_own
        constants = constants.sum(axis=2)
        return np.asarray(-0.5 * squares.sum(axis=2) - np.repeat(constants, n_per_task, axis=1))

    def has_seen(self, observations: np.ndarray) -> bool:
        """Whether :meth:`values` was computed for these observations, (n_steps, n_envs, obs_dim)."""
        seen = self._memory[self.k].x.reshape(self.k, self.n_steps, self.n_envs // self.k, -1)
        return bool((observations.reshape(self.n_steps, self.k, -1, seen.shape[3]).swapaxes(0, 1) == seen).all())

    def grouped(self, columns: Sequence[np.ndarray]) -> tuple[Activations, Sequence[np.ndarray]]:
        """What the nets have computed for the rollout, after :meth:`values`, and some of its columns task by task.

        :param columns: (n_steps, n_envs, dim) each
        """
        memory, of_columns = self._memory[self.k], self._memory_of(columns)
        regroup((*self._hidden, *self._outputs, *columns), (*memory.of_actions, *of_columns))
        return memory.activations, of_columns

    def recomputed(
        self, observations: np.ndarray, columns: Sequence[np.ndarray]
    ) -> tuple[Activations, Sequence[np.ndarray]]:
        """:meth:`grouped` for observations, or of weights, with which the rollout was not collected."""
        memory, of_columns = self._memory[self.k], self._memory_of(columns)
        x = np.ascontiguousarray(observations, dtype=self.dtype)
        self.values(np.concatenate((x, x[-1:])))
        activations = memory.activations
        forward(
            self.weights.trunk_pi, self.weights.head_pi, memory.x, activations.trunk_pi[1:], activations.heads_pi[1:]
        )
        self.weights.clear_padding(activations.heads_pi[-1])
        regroup(columns, of_columns)
        return activations, of_columns

    def _memory_of(self, columns: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """Memory for columns task by task."""
        n = self.n_steps * self.n_envs // self.k
        return tuple(self._columns.array(i, (self.k, n, column.shape[2])) for i, column in enumerate(columns))
