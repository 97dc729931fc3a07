"""Acting through a rollout, and the activations that the update needs afterwards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch as th

from sb3_multitask.fast.nets import Tasks, heads_forward, memory_of_copies, of_tasks, transposed, trunk_forward
from sb3_multitask.fast.parameters import FlatParameters, log_std_of
from sb3_multitask.process.arrays import aligned_zeros
from sb3_multitask.vec_env.task_major import by_step, by_task


@dataclass(frozen=True)
class Activations:
    """Activations of the nets for T steps of n = k * m rows; ``[input, ..., output]`` of each net.

    ``trunk_pi``, ``trunk_vf``: (T * n, dim), step by step; ``heads_pi``, ``heads_vf``: (k, T * m, dim), task by task.
    """

    trunk_pi: list[np.ndarray]
    heads_pi: list[np.ndarray]
    trunk_vf: list[np.ndarray]
    heads_vf: list[np.ndarray]


class Acting:
    """Samples actions step by step and keeps the activations of a rollout, in memory that the next one uses again.

    :param n_steps: steps of a rollout
    :param n_envs: rows of the VecEnv
    :param parameters: of the policy, for the sizes
    """

    def __init__(self, n_steps: int, n_envs: int, parameters: FlatParameters) -> None:
        policy, nets, dtype = parameters.policy, parameters.weight_nets, parameters.weights.dtype
        self.n_steps, self.n_envs, self.dtype = n_steps, n_envs, dtype
        self._hidden_pi = [aligned_zeros((n_steps, n_envs, len(bias)), dtype) for _, bias in nets.trunk_pi]
        self._hidden_vf = [aligned_zeros((n_steps + 1, n_envs, len(bias)), dtype) for _, bias in nets.trunk_vf]
        # copies of weights, made again for each rollout
        self._trunk_pi, self._trunk_vf = (
            memory_of_copies((weight.T.shape for weight, _ in layers), dtype)
            for layers in (nets.trunk_pi, nets.trunk_vf)
        )
        self._head_pi, self._head_vf = (
            memory_of_copies(((1, *weight.shape[1:]) for weight, _ in layers), dtype)
            for layers in (nets.head_pi, nets.head_vf)
        )
        # drawn as torch.distributions.Normal draws it: one tensor (n_envs, action_dim) a step
        self._noise = [th.empty(n_envs, nets.log_std.shape[-1], dtype=policy.log_std.dtype) for _ in range(n_steps)]
        self._noise_arrays = [noise.numpy() for noise in self._noise]
        self._hidden_pi_of_step = [[h[step] for h in self._hidden_pi] for step in range(n_steps)]

    def start(self, parameters: FlatParameters, tasks: Tasks, k: int) -> None:
        """Begin a rollout with ``k`` tasks and the weights as they are now."""
        self.tasks, self.k = tasks, k
        self._heads: list[list[np.ndarray]] = []
        self.take_weights(parameters)

    def take_weights(self, parameters: FlatParameters) -> None:
        """Act with the weights as they are now."""
        weights, tasks, k = parameters.weight_nets, self.tasks, self.k
        self.weights = weights
        self.trunk_pi = transposed(weights.trunk_pi, self._trunk_pi)
        self.trunk_vf = transposed(weights.trunk_vf, self._trunk_vf)
        head_pi, head_vf = (self._head_pi, self._head_vf) if k == 1 else (None, None)
        self.head_pi = of_tasks(weights.head_pi, tasks, head_pi)
        self.head_vf = of_tasks(weights.head_vf, tasks, head_vf)
        self._std = np.exp(log_std_of(weights, tasks, k))

    def act(self, step: int, observations: np.ndarray, actions: np.ndarray) -> None:
        """Sample actions for a step.

        :param observations: (n_envs, obs_dim)
        :param actions: receives them, (n_envs, action_dim)
        """
        latent = trunk_forward(self.trunk_pi, observations, self._hidden_pi_of_step[step])
        heads = heads_forward(self.head_pi, latent.reshape(self.k, -1, latent.shape[1]))
        self._heads.append(heads)
        mean = heads[-1]
        self._noise[step].normal_()
        grouped = actions.reshape(mean.shape)
        np.multiply(self._noise_arrays[step].reshape(mean.shape), self._std, out=grouped)
        grouped += mean

    def values(self, observations: np.ndarray) -> np.ndarray:
        """Values of all observations of a rollout and of those after it.

        :param observations: (n_steps + 1, n_envs, obs_dim)
        :return: (n_steps + 1, n_envs)
        """
        n_steps = len(observations)
        flat = [h.reshape(-1, h.shape[2]) for h in self._hidden_vf]
        latent = trunk_forward(self.trunk_vf, observations.reshape(n_steps * self.n_envs, -1), flat)
        self._heads_vf = heads_forward(self.head_vf, by_task(latent.reshape(n_steps, self.n_envs, -1), self.k))
        return by_step(self._heads_vf[-1], n_steps)[:, :, 0]

    def values_of(self, task: int, observations: np.ndarray) -> np.ndarray:
        """Values (n_rows,) of observations (n_rows, obs_dim) of one task."""
        hidden = [np.empty((len(observations), h.shape[2]), dtype=h.dtype) for h in self._hidden_vf]
        latent = trunk_forward(self.trunk_vf, observations, hidden)
        return heads_forward(of_tasks(self.weights.head_vf, np.array([task])), latent[None])[-1].ravel()

    def activations(self, observations: np.ndarray) -> Activations:
        """What the nets have computed for the rollout; after :meth:`values`.

        :param observations: of the rollout, (n_steps, n_envs, obs_dim)
        """
        n_rows = self.n_steps * self.n_envs
        x = observations.reshape(n_rows, -1)
        return Activations(
            trunk_pi=[x, *(h.reshape(n_rows, -1) for h in self._hidden_pi)],
            heads_pi=[np.concatenate(layer, axis=1) for layer in zip(*self._heads, strict=True)],
            trunk_vf=[x, *(h[:-1].reshape(n_rows, -1) for h in self._hidden_vf)],
            heads_vf=[layer[:, : n_rows // self.k] for layer in self._heads_vf],
        )

    def recompute_activations(self, observations: np.ndarray) -> Activations:
        """:meth:`activations` for observations, or of weights, with which the rollout was not collected."""
        n_rows = self.n_steps * self.n_envs
        x = np.ascontiguousarray(observations, dtype=self.dtype)
        latent = trunk_forward(self.trunk_pi, x.reshape(n_rows, -1), [h.reshape(n_rows, -1) for h in self._hidden_pi])
        self._heads = [heads_forward(self.head_pi, by_task(latent.reshape(self.n_steps, self.n_envs, -1), self.k))]
        self.values(np.concatenate((x, x[-1:])))
        return self.activations(x)
