"""Find out whether a policy acts as an ``Agent`` of its weights and settings would."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stable_baselines3.common.distributions import DiagGaussianDistribution
from torch import nn

from sb3_multitask.policies.distributions import MaskedGaussianDistribution
from sb3_multitask.policies.heads import TaskHeads, TaskLinear
from sb3_multitask.policies.policy import MultiTaskActorCriticPolicy, SharedMlpExtractor

ACTING = (
    *("split_observation", "_distribution", "_bounded_log_std", "forward", "get_distribution", "predict", "_predict"),
    *("obs_to_tensor", "is_vectorized_observation", "extract_features", "unscale_action", "set_training_mode"),
    *("_get_action_dist_from_latent", "__call__", "_call_impl", "state_dict"),
)
"""Methods between an observation and an action; an agent uses none of the critic or of training."""


def why_no_agent(policy: MultiTaskActorCriticPolicy) -> str | None:
    """Return why an agent of a policy's weights and settings would act differently; None if it would not.

    Subclasses may add methods, and may change the critic or training.
    """
    return next(_differences(policy), None)


def _differences(policy: MultiTaskActorCriticPolicy) -> Iterator[str]:
    name = type(policy).__name__
    for method in ACTING:
        if method in vars(policy):
            yield f"its `{method}` was replaced"
        elif getattr(type(policy), method) is not getattr(MultiTaskActorCriticPolicy, method):
            yield f"{name} overrides `{method}`"
    gaussian = MaskedGaussianDistribution if policy.sizes.has_padding else DiagGaussianDistribution
    if type(policy.action_dist) is not gaussian:
        yield f"its `action_dist` is a {type(policy.action_dist).__name__}, not a {gaussian.__name__}"
    if policy.squash_output:
        yield "its `squash_output` is True"
    extractor = policy.mlp_extractor
    yield from _wrong_type("mlp_extractor", extractor, SharedMlpExtractor)
    yield from _wrong_type("mlp_extractor.policy_net", extractor.policy_net, nn.Sequential)
    for i, layer in enumerate(extractor.policy_net.children()):
        where = f"mlp_extractor.policy_net.{i}"
        yield from _wrong_activation(where, layer, policy) if i % 2 else _wrong_type(where, layer, nn.Linear)
    yield from _wrong_type("action_net", policy.action_net, TaskHeads)
    heads: Any = policy.action_net
    yield from _wrong_activation("action_net.activation", heads.activation, policy)
    for i, layer in enumerate(heads.layers):
        yield from _wrong_type(f"action_net.layers.{i}", layer, TaskLinear)
    acting = (policy, extractor, *extractor.policy_net.modules(), *policy.action_net.modules())
    if any(module._forward_hooks or module._forward_pre_hooks for module in acting):
        yield "it has forward hooks"


def _wrong_type(where: str, module: nn.Module, kind: type[nn.Module]) -> Iterator[str]:
    if type(module) is not kind:
        yield f"its `{where}` is a {type(module).__name__}, not a {kind.__name__}"
    elif "forward" in vars(module) or "forward_actor" in vars(module):
        yield f"the forward of its `{where}` was replaced"


def _wrong_activation(where: str, module: nn.Module, policy: MultiTaskActorCriticPolicy) -> Iterator[str]:
    made, usual = policy.activation_fn, getattr(nn, type(module).__name__, None)
    expected = made()
    if type(module) is not type(expected) or repr(module) != repr(expected) or "forward" in vars(module):
        yield f"its `{where}` is {module!r}, not {expected!r}"
    elif usual is not type(module):
        yield f"its activation {type(module).__name__} is not torch's"
    elif repr(module) != repr(usual()):
        yield f"its activation is {module!r}, and agents have {usual()!r}"
