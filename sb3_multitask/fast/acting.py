"""Acting through a rollout, and the activations that the update needs afterwards."""

from __future__ import annotations

from collections.abc import Sequence
from operator import itemgetter
from typing import Any, NamedTuple, Self

import numpy as np
import torch as th

from sb3_multitask.envs.task_space import TaskSizes
from sb3_multitask.fast.nets import Tasks, forward, heads_forward, of_tasks, trunk_forward
from sb3_multitask.fast.parameters import FlatParameters
from sb3_multitask.fast.rollout_memory import Activations, RolloutMemory
from sb3_multitask.fast.weights import ReadyWeights
from sb3_multitask.process.arrays import Scratch, aligned_zeros
from sb3_multitask.process.kernels import load_kernels

_HALF_LOG_2_PI = 0.5 * np.log(2 * np.pi)


class _RowsShown(NamedTuple):
    """What is fixed for the rows of a VecEnv that shows k tasks.

    :ivar bounds: lowest and highest actions of each task, (2, k, action_dim)
    :ivar own_dims: how many actions each task has, (k,)
    :ivar starts: the first row of each task, and the number of rows, (k + 1,)
    :ivar task_of_env: the task of each row, from 0 to k - 1, (n_envs,)
    """

    bounds: np.ndarray
    own_dims: np.ndarray
    starts: np.ndarray
    task_of_env: np.ndarray

    @classmethod
    def of(cls, sizes: TaskSizes, tasks: Tasks, counts: tuple[int, ...]) -> Self:
        bounds: np.ndarray = np.stack((sizes.action_low[tasks], sizes.action_high[tasks]))
        of_env = np.repeat(np.arange(len(counts)), counts)
        return cls(bounds, np.ascontiguousarray(sizes.action_dims[tasks]), np.cumsum((0, *counts)), of_env)


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
        # step by step, as rows come from the VecEnv: (n_steps, n_envs, dim)
        self._hidden, self._outputs = (
            tuple(aligned_zeros((n_steps, n_envs, bias.shape[-1]), dtype) for bias in layers.biases)
            for layers in (nets.trunk_pi, nets.head_pi)
        )
        # drawn as torch.distributions.Normal draws it: one tensor (n_envs, action_dim) a step
        self._noise = th.empty(n_steps, n_envs, nets.log_std.shape[-1], dtype=policy.log_std.dtype)
        self._noise_array, self._noise_of_step = self._noise.numpy(), list(self._noise)
        self._columns = Scratch(dtype)
        self._memories: dict[tuple[int, ...], RolloutMemory] = {}
        self._rows_shown: dict[tuple[Any, ...], _RowsShown] = {}

    def start(self, parameters: FlatParameters, tasks: Tasks, counts: tuple[int, ...]) -> None:
        """Begin a rollout with the weights as they are now.

        :param tasks: the k tasks that the VecEnv shows
        :param counts: environments of each, (k,)
        """
        self._log_stds: list[np.ndarray] = []
        self.weights.take(parameters, tasks, len(counts))
        key = (tasks.start, tasks.stop, counts) if isinstance(tasks, slice) else (*tasks.tolist(), counts)
        if key not in self._rows_shown:  # in a cycle it changes with every rollout
            self._rows_shown[key] = _RowsShown.of(parameters.policy.sizes, tasks, counts)
        self.bounds, self.own_dims, self.starts, self.task_of_env = self._rows_shown[key]
        if counts not in self._memories:
            self._memories[counts] = RolloutMemory(self.n_steps, counts, parameters)
        self.memory = self._memories[counts]

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
            of_tasks = weights.std, self.bounds, self.own_dims, self.starts
            within: np.ndarray = kernels.act(step, observations, *nets, *memory, *of_tasks, actions)
            return within
        hidden, outputs = [h[step] for h in self._hidden], [output[step] for output in self._outputs]
        self._forward_actor(observations[step], hidden, outputs)
        actions[step] = self._noise_array[step] * weights.std[self.task_of_env, 0] + outputs[-1]
        weights.clear_padding(outputs[-1], self.task_of_env)  # which losses read
        weights.clear_padding(actions[step], self.task_of_env)
        low, high = self.bounds[:, self.task_of_env]
        return np.asarray(np.minimum(np.maximum(actions[step], low), high))

    def _forward_actor(self, x: np.ndarray, hidden: list[np.ndarray], outputs: list[np.ndarray]) -> None:
        """Compute the activations of the actor for the rows of a step, as they come from the VecEnv."""
        weights, starts = self.weights, self.starts
        if self.memory.grouping is None:
            grouped = [output.reshape(self.k, self.n_envs // self.k, -1) for output in outputs]  # views
            forward(weights.trunk_pi, weights.head_pi, x, hidden, grouped)
            return
        latent = trunk_forward(weights.trunk_pi, x, hidden)
        for task in range(self.k):
            rows, one = slice(starts[task], starts[task + 1]), slice(task, task + 1)
            head = weights.head_pi.with_weights((weight[one] for weight in weights.head_pi.weights), itemgetter(one))
            heads_forward(head, latent[None, rows], [output[None, rows] for output in outputs])

    def values(self, observations: np.ndarray) -> np.ndarray:
        """Values of all observations of a rollout and of those after it, in units of the rewards.

        :param observations: (n_steps + 1, n_envs, obs_dim)
        :return: (n_steps + 1, n_envs)
        """
        values = self.memory.values(self.weights.trunk_vf, self.weights.head_vf, observations)
        if (units := self.value_units) is not None:
            std, mean = units
            values *= std
            values += mean
        return values

    @property
    def value_units(self) -> tuple[np.ndarray, np.ndarray] | None:
        """Standard deviations and means of the returns of each row's task, (n_envs,) each, with ``value_norm``."""
        if self.weights.value_units is None:
            return None
        std, mean = (of_tasks[self.tasks][self.task_of_env] for of_tasks in self.weights.value_units)
        return std, mean

    def update_value_units(self, parameters: FlatParameters) -> None:
        """Take the weights and the units of values as they are now, and express the rollout's values in these units."""
        assert self.weights.value_units is not None
        old_std, old_mean = (of_tasks[self.tasks][:, None, None] for of_tasks in self.weights.value_units)
        self.take_weights(parameters)
        std, mean = (of_tasks[self.tasks][:, None, None] for of_tasks in self.weights.value_units)
        normalized = self.memory.head_vf[-1]
        normalized *= old_std / std
        normalized += (old_mean - mean) / std

    def values_of(self, task: int, observations: np.ndarray) -> np.ndarray:
        """Values (n_rows,) of observations (n_rows, obs_dim) of one task."""
        trunk, heads, n_rows = self.weights.trunk_vf, self.weights.nets.head_vf, len(observations)
        hidden = [np.empty((n_rows, len(bias)), self.dtype) for bias in trunk.biases]
        outputs = [np.empty((1, n_rows, bias.shape[1]), self.dtype) for bias in heads.biases]
        latent = trunk_forward(trunk, observations, hidden)
        values: np.ndarray = heads_forward(of_tasks(heads, np.array([task])), latent[None], outputs)
        if self.weights.value_units is not None:
            std, mean = self.weights.value_units
            values = std[task] * values + mean[task]
        return values.ravel()

    def log_probs(self) -> np.ndarray:
        """Log-probabilities of the actions that were sampled, (n_steps, n_envs)."""
        squares, constants = self._noise_array * self._noise_array, np.stack(self._log_stds)[:, :, 0] + _HALF_LOG_2_PI
        if self.weights.action_dims is not None:
            is_own = np.arange(self._noise_array.shape[2]) < self.own_dims[:, None]
            squares *= is_own[self.task_of_env]
            constants *= is_own
        constants = constants.sum(axis=2)
        return np.asarray(-0.5 * squares.sum(axis=2) - constants[:, self.task_of_env])

    def grouped(self, columns: Sequence[np.ndarray]) -> tuple[Activations, Sequence[np.ndarray]]:
        """What the nets have computed for the rollout, after :meth:`values`, and some of its columns task by task.

        :param columns: (n_steps, n_envs, dim) each
        """
        memory, of_columns = self.memory, self._memory_of(columns)
        memory.regroup((*self._hidden, *self._outputs, *columns), (*memory.of_actions, *of_columns))
        return memory.activations, of_columns

    def recomputed(
        self, observations: np.ndarray, columns: Sequence[np.ndarray]
    ) -> tuple[Activations, Sequence[np.ndarray]]:
        """:meth:`grouped` for observations, or of weights, with which the rollout was not collected."""
        memory, of_columns = self.memory, self._memory_of(columns)
        x = np.ascontiguousarray(observations, dtype=self.dtype)
        self.values(np.concatenate((x, x[-1:])))
        activations = memory.activations
        forward(
            self.weights.trunk_pi, self.weights.head_pi, memory.x, activations.trunk_pi[1:], activations.heads_pi[1:]
        )
        self.weights.clear_padding(activations.heads_pi[-1])
        memory.regroup(columns, of_columns)
        return activations, of_columns

    def _memory_of(self, columns: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """Memory for columns task by task."""
        n = len(self.memory.x) // self.k
        return tuple(self._columns.array(i, (self.k, n, column.shape[2])) for i, column in enumerate(columns))
