"""Acting through a rollout, and the activations that the update needs afterwards."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch as th

from sb3_multitask.fast.nets import Tasks, heads_forward, kernels_for, of_tasks, trunk_forward
from sb3_multitask.fast.parameters import FlatParameters
from sb3_multitask.fast.weights import ReadyWeights
from sb3_multitask.process.arrays import aligned_zeros
from sb3_multitask.vec_env.task_major import by_step, by_task

_HALF_LOG_2_PI = 0.5 * np.log(2 * np.pi)


@dataclass(frozen=True)
class Activations:
    """Activations of the nets, ``[input, ..., output]`` of each: of trunks (n_rows, dim), of heads (k, m, dim).

    Heads have their rows task by task. Trunks have them step by step of a rollout of ``n_steps``.
    """

    trunk_pi: list[np.ndarray]
    heads_pi: list[np.ndarray]
    trunk_vf: list[np.ndarray]
    heads_vf: list[np.ndarray]
    n_steps: int = 1

    def in_trunk(self, grouped: np.ndarray) -> np.ndarray:
        """What heads have, (k, m, dim), in the order of the trunks' rows, (n_rows, dim)."""
        return by_step(grouped, self.n_steps).reshape(-1, grouped.shape[2])


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
        self._hidden_pi = [aligned_zeros((n_steps, n_envs, len(bias)), dtype) for _, bias in nets.trunk_pi]
        self._hidden_vf = [aligned_zeros((n_steps + 1, n_envs, len(bias)), dtype) for _, bias in nets.trunk_vf]
        # drawn as torch.distributions.Normal draws it: one tensor (n_envs, action_dim) a step
        self._noise = [th.empty(n_envs, nets.log_std.shape[-1], dtype=policy.log_std.dtype) for _ in range(n_steps)]
        self._noise_arrays = [noise.numpy() for noise in self._noise]
        self._hidden_pi_of_step = [tuple(h[step] for h in self._hidden_pi) for step in range(n_steps)]
        sizes = [bias.shape[-1] for _, bias in nets.head_pi]
        self._outputs_pi = [[aligned_zeros((n_envs, size), dtype) for size in sizes] for _ in range(n_steps)]

    def start(self, parameters: FlatParameters, tasks: Tasks, k: int) -> None:
        """Begin a rollout with ``k`` tasks and the weights as they are now."""
        self._heads: list[list[np.ndarray]] = []
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

    def act(self, step: int, observations: np.ndarray, actions: np.ndarray) -> None:
        """Sample actions for a step.

        :param observations: (n_envs, obs_dim)
        :param actions: receives them, (n_envs, action_dim)
        """
        weights, hidden, k = self.weights, self._hidden_pi_of_step[step], self.k
        self._log_stds.append(weights.log_std)
        self._noise[step].normal_()
        grouped = actions.reshape(k, -1, actions.shape[1])
        noise = self._noise_arrays[step].reshape(grouped.shape)
        latent = (hidden[-1] if hidden else observations).reshape(k, grouped.shape[1], -1)
        kernels = kernels_for(observations) if hidden else None
        if kernels is not None:
            outputs = [output.reshape(k, grouped.shape[1], -1) for output in self._outputs_pi[step]]
            trunk, heads = weights.trunk_pi, weights.head_pi
            nets = (trunk.weights, trunk.biases), (heads.weights, heads.biases)
            kernels.act(observations, nets[0], hidden, nets[1], tuple(outputs), noise, weights.std, grouped)
            self._heads.append([latent, *outputs])
            return
        trunk_forward(weights.trunk_pi, observations, hidden)
        self._heads.append(heads_forward(weights.head_pi, latent))
        np.multiply(noise, weights.std, out=grouped)
        grouped += self._heads[-1][-1]

    def values(self, observations: np.ndarray) -> np.ndarray:
        """Values of all observations of a rollout and of those after it.

        :param observations: (n_steps + 1, n_envs, obs_dim)
        :return: (n_steps + 1, n_envs)
        """
        n_steps, weights = len(observations), self.weights
        flat = [h.reshape(-1, h.shape[2]) for h in self._hidden_vf]
        latent = trunk_forward(weights.trunk_vf, observations.reshape(n_steps * self.n_envs, -1), flat)
        self._heads_vf = heads_forward(weights.head_vf, by_task(latent.reshape(n_steps, self.n_envs, -1), weights.k))
        return by_step(self._heads_vf[-1], n_steps)[:, :, 0]

    def values_of(self, task: int, observations: np.ndarray) -> np.ndarray:
        """Values (n_rows,) of observations (n_rows, obs_dim) of one task."""
        hidden = [np.empty((len(observations), h.shape[2]), dtype=h.dtype) for h in self._hidden_vf]
        latent = trunk_forward(self.weights.trunk_vf, observations, hidden)
        return heads_forward(of_tasks(self.weights.nets.head_vf, np.array([task])), latent[None])[-1].ravel()

    def log_probs(self) -> np.ndarray:
        """Log-probabilities of the actions that were sampled, (n_steps, n_envs)."""
        noise = np.stack(self._noise_arrays)
        n_per_task = self.n_envs // self.k
        constants = (np.stack(self._log_stds)[:, :, 0] + _HALF_LOG_2_PI).sum(axis=2)
        return np.asarray(-0.5 * (noise * noise).sum(axis=2) - np.repeat(constants, n_per_task, axis=1))

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
            n_steps=self.n_steps,
        )

    def recompute_activations(self, observations: np.ndarray) -> Activations:
        """:meth:`activations` for observations, or of weights, with which the rollout was not collected."""
        n_rows, trunk = self.n_steps * self.n_envs, self.weights.trunk_pi
        x = np.ascontiguousarray(observations, dtype=self.dtype)
        latent = trunk_forward(trunk, x.reshape(n_rows, -1), [h.reshape(n_rows, -1) for h in self._hidden_pi])
        grouped = by_task(latent.reshape(self.n_steps, self.n_envs, -1), self.k)
        self._heads = [heads_forward(self.weights.head_pi, grouped)]
        self.values(np.concatenate((x, x[-1:])))
        return self.activations(x)
