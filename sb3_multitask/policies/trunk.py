"""The trunk of the policy: the layers that all tasks share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch as th
from stable_baselines3.common.torch_layers import create_mlp
from torch import nn

from sb3_multitask.policies.arguments import LayerNormOf


class SharedMlpExtractor(nn.Module):
    """The trunk: an MLP for the actor and one for the critic, both shared by all tasks.

    Like SB3's ``MlpExtractor``, with its names, so that tools that look for ``policy_net`` and ``value_net``
    find them.

    :param features_dim: size of the input: obs_dim, or that of a features extractor, and of the tasks' vectors
    :param net_arch: ``dict(pi=[...], vf=[...])``, units per shared layer; empty lists are allowed
    :param activation_fn: after each layer
    :param layer_norm: ``True``: a ``LayerNorm`` between each layer and its activation; ``"critic"``: in the critic only
    """

    def __init__(
        self,
        features_dim: int,
        net_arch: Mapping[str, Sequence[int]],
        activation_fn: type[nn.Module],
        layer_norm: LayerNormOf = False,
    ) -> None:
        super().__init__()
        pi, vf = list(net_arch["pi"]), list(net_arch["vf"])
        norm_pi, norm_vf = ([nn.LayerNorm] if has_norm else None for has_norm in (layer_norm is True, layer_norm))
        policy_net = create_mlp(features_dim, -1, pi, activation_fn, post_linear_modules=norm_pi)  # type: ignore[arg-type]
        value_net = create_mlp(features_dim, -1, vf, activation_fn, post_linear_modules=norm_vf)  # type: ignore[arg-type]
        self.policy_net, self.value_net = nn.Sequential(*policy_net), nn.Sequential(*value_net)
        self.latent_dim_pi = pi[-1] if pi else features_dim
        self.latent_dim_vf = vf[-1] if vf else features_dim

    def forward(self, features: th.Tensor, task: th.Tensor | None = None) -> tuple[th.Tensor, th.Tensor]:
        """(n_rows, features_dim) -> latents of the actor and of the critic.

        :param task: of each row, (n_rows,); not used, since all tasks share the layers
        """
        return self.forward_actor(features, task), self.forward_critic(features, task)

    def forward_actor(self, features: th.Tensor, task: th.Tensor | None = None) -> th.Tensor:  # noqa: ARG002
        latent: th.Tensor = self.policy_net(features)
        return latent

    def forward_critic(self, features: th.Tensor, task: th.Tensor | None = None) -> th.Tensor:  # noqa: ARG002
        latent: th.Tensor = self.value_net(features)
        return latent
