"""Policies without environments, and what they are fed."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from torch import nn

import sb3_multitask as mt
from sb3_multitask.envs.task_space import TaskSpace


class OwnFeatures(BaseFeaturesExtractor):
    """A features extractor of one layer."""

    def __init__(self, observation_space, features_dim=5):
        super().__init__(observation_space, features_dim)
        self.net = nn.Sequential(nn.Linear(observation_space.shape[0], features_dim), nn.ReLU())

    def forward(self, observations):
        return self.net(observations)


def make_policy(n_tasks=3, obs_dim=4, action_dim=2, seed=0, **kwargs):
    """A policy without an environment."""
    th.manual_seed(seed)
    observation_space = spaces.Dict(obs=spaces.Box(-np.inf, np.inf, (obs_dim,)), task=spaces.Discrete(n_tasks))
    action_space = spaces.Box(-1, 1, (action_dim,))
    return mt.MultiTaskActorCriticPolicy(observation_space, action_space, lambda _: 1e-3, **kwargs)


def sized_spaces(obs_dims=(5, 3, 4), action_dims=(2, 3, 1), highs=(1.0, 0.5, 1.0)):
    """Spaces of tasks of different sizes, whose actions are within ``-high`` and ``high``."""
    bounds = [([-high] * dim, [high] * dim) for dim, high in zip(action_dims, highs, strict=True)]
    obs = spaces.Box(-np.inf, np.inf, (max(obs_dims),))
    widest = spaces.Box(-max(highs), max(highs), (max(action_dims),))
    return spaces.Dict(obs=obs, task=TaskSpace(obs_dims, bounds)), widest


def make_sized_policy(*sizes, seed=0, **kwargs):
    """A policy of tasks of different sizes, with weights that are far from their first ones."""
    th.manual_seed(seed)
    policy = mt.MultiTaskActorCriticPolicy(*sized_spaces(*sizes), lambda _: 1e-3, **kwargs)
    with th.no_grad():
        for parameter in policy.parameters():
            parameter.add_(th.randn_like(parameter), alpha=0.3)
    return policy


def batch_for(policy: mt.MultiTaskActorCriticPolicy, task: Sequence[int], seed: int = 0) -> dict[str, th.Tensor]:
    """Observations of given tasks."""
    generator = th.Generator().manual_seed(seed)
    return {
        "obs": th.randn(len(task), policy.obs_dim, generator=generator),
        "task": th.as_tensor(task),
    }
