"""Acting through a rollout, and the activations that the update needs afterwards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch as th

from sb3_multitask.fast.nets import KERNELS, Tasks, forward, heads_forward, of_tasks, regroup, trunk_forward
from sb3_multitask.fast.parameters import FlatParameters
from sb3_multitask.fast.weights import ReadyWeights
from sb3_multitask.process.arrays import Scratch, aligned_zeros
from sb3_multitask.process.kernels import load_kernels
from sb3_multitask.vec_env.task_major import by_step

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
        self.bounds: np.ndarray = np.stack((policy.action_space.low, policy.action_space.high))  # type: ignore[attr-defined]
        # step by step, as rows come from the VecEnv: (n_steps, n_envs, dim)
        sizes = ([bias.shape[-1] for bias in layers.biases] for layers in (nets.trunk_pi, nets.head_pi))
        self._hidden, self._outputs = (
            tuple(aligned_zeros((n_steps, n_envs, size), dtype) for size in of_layers) for of_layers in sizes
        )
        # drawn as torch.distributions.Normal draws it: one tensor (n_envs, action_dim) a step
        self._noise = th.empty(n_steps, n_envs, nets.log_std.shape[-1], dtype=policy.log_std.dtype)
        self._noise_array, self._noise_of_step = self._noise.numpy(), list(self._noise)
        self._rows, self._of_pi, self._head_pi, self._of_vf, self._head_vf, self._after, self._head_after = (
            Scratch(dtype) for _ in range(7)
        )

    def start(self, parameters: FlatParameters, tasks: Tasks, k: int) -> None:
        """Begin a rollout with ``k`` tasks and the weights as they are now."""
        self._log_stds: list[np.ndarray] = []
        self.weights.take(parameters, tasks, k)

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
        :return: what the environments get, within the bounds of the action space, (n_envs, action_dim)
        """
        weights = self.weights
        self._log_stds.append(weights.log_std)
        self._noise_of_step[step].normal_()
        kernels = load_kernels(KERNELS) if self._hidden else None
        if kernels is not None:
            memory = self._hidden, self._outputs, self._noise_array
            nets = weights.trunk_pi.arrays, weights.head_pi.arrays
            clipped: np.ndarray = kernels.act(step, observations, *nets, *memory, weights.std, self.bounds, actions)
            return clipped
        latent = trunk_forward(weights.trunk_pi, observations[step], [h[step] for h in self._hidden])
        _, *outputs = heads_forward(weights.head_pi, latent.reshape(self.k, self.n_envs // self.k, -1))
        for memory_of_layer, output in zip(self._outputs, outputs, strict=True):
            memory_of_layer[step] = output.reshape(self.n_envs, -1)
        noise = self._noise_array[step].reshape(outputs[-1].shape) * weights.std
        actions[step] = (noise + outputs[-1]).reshape(self.n_envs, -1)
        return np.minimum(np.maximum(actions[step], self.bounds[0]), self.bounds[1])

    def values(self, observations: np.ndarray) -> np.ndarray:
        """Values of all observations of a rollout and of those after it.

        :param observations: (n_steps + 1, n_envs, obs_dim)
        :return: (n_steps + 1, n_envs)
        """
        (x,) = regroup([observations[:-1]], self.k, self._rows, "x")
        self._x = x.reshape(-1, x.shape[2])
        nets = self.weights.trunk_vf, self.weights.head_vf
        self._of_values = forward(*nets, self._x, self._of_vf, self._head_vf)
        _, (*_, after) = forward(*nets, observations[-1], self._after, self._head_after)
        values = np.empty((self.n_steps + 1, self.n_envs), self.dtype)
        values[:-1] = by_step(self._of_values[1][-1], self.n_steps)[:, :, 0]
        values[-1] = after.reshape(-1)
        return values

    def values_of(self, task: int, observations: np.ndarray) -> np.ndarray:
        """Values (n_rows,) of observations (n_rows, obs_dim) of one task."""
        weights = self.weights
        hidden = [np.empty((len(observations), len(bias)), self.dtype) for bias in weights.trunk_vf.biases]
        latent = trunk_forward(weights.trunk_vf, observations, hidden)
        return heads_forward(of_tasks(weights.nets.head_vf, np.array([task])), latent[None])[-1].ravel()

    def log_probs(self) -> np.ndarray:
        """Log-probabilities of the actions that were sampled, (n_steps, n_envs)."""
        noise, n_per_task = self._noise_array, self.n_envs // self.k
        constants = (np.stack(self._log_stds)[:, :, 0] + _HALF_LOG_2_PI).sum(axis=2)
        return np.asarray(-0.5 * (noise * noise).sum(axis=2) - np.repeat(constants, n_per_task, axis=1))

    def activations(self) -> Activations:
        """What the nets have computed for the rollout; after :meth:`values`."""
        grouped = regroup((*self._hidden, *self._outputs), self.k, self._of_pi, "h")
        hidden, outputs, x = grouped[: len(self._hidden)], grouped[len(self._hidden) :], self._x
        latent = hidden[-1] if hidden else x.reshape(self.k, -1, x.shape[1])
        rows = (x, *(h.reshape(len(x), -1) for h in hidden))
        return Activations(rows, (latent, *outputs), *self._of_values)

    def recompute_activations(self, observations: np.ndarray) -> Activations:
        """:meth:`activations` for observations, or of weights, with which the rollout was not collected."""
        x = np.ascontiguousarray(observations, dtype=self.dtype)
        self.values(np.concatenate((x, x[-1:])))
        of_actions = forward(self.weights.trunk_pi, self.weights.head_pi, self._x, self._of_pi, self._head_pi)
        return Activations(*of_actions, *self._of_values)
