"""Find out whether a policy acts as an ``Agent`` of its weights and settings would."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from stable_baselines3.common.distributions import DiagGaussianDistribution
from torch import nn

from sb3_multitask.policies.distributions import MaskedGaussianDistribution
from sb3_multitask.policies.features import PLAIN
from sb3_multitask.policies.heads import TaskHeads, TaskLayerNorm, TaskLinear, TaskVectors
from sb3_multitask.policies.policy import MultiTaskActorCriticPolicy
from sb3_multitask.policies.progressive import Adapter, Column, ProgressiveMlpExtractor, ProgressiveNet
from sb3_multitask.policies.trunk import SharedMlpExtractor

ACTING = (
    *("split_observation", "_distribution", "_bounded_log_std", "forward", "get_distribution", "predict", "_predict"),
    *("obs_to_tensor", "is_vectorized_observation", "extract_features", "unscale_action", "set_training_mode"),
    *(
        "_trunk_input",
        "_latents",
        "_gaussian",
        "_with_shared_policy",
        "_get_action_dist_from_latent",
        "__call__",
        "_call_impl",
        "state_dict",
    ),
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
    if type(policy.pi_features_extractor) is not PLAIN:
        yield f"it has a features extractor, {type(policy.pi_features_extractor).__name__}, and agents have none"
    if policy.task_vectors is not None:
        yield from _wrong_type("task_vectors", policy.task_vectors, TaskVectors)
    extractor, has_columns = policy.mlp_extractor, policy.share == "progressive"
    yield from _wrong_type("mlp_extractor", extractor, ProgressiveMlpExtractor if has_columns else SharedMlpExtractor)
    yield from _wrong_type(
        "mlp_extractor.policy_net", extractor.policy_net, ProgressiveNet if has_columns else nn.Sequential
    )
    yield from (_wrong_columns if has_columns else _wrong_layers)(extractor.policy_net, policy)
    yield from _wrong_heads(policy.action_net, policy)
    if policy.shared_policy and policy.action_net.norms:
        yield "its heads are products with a shared policy (Distral, 2col) and have layer norms"
    modules = (policy, extractor, *extractor.policy_net.modules(), *policy.action_net.modules(), policy.task_vectors)
    if any(module._forward_hooks or module._forward_pre_hooks for module in modules if module is not None):
        yield "it has forward hooks"


def _wrong_layers(trunk: nn.Module, policy: MultiTaskActorCriticPolicy) -> Iterator[str]:
    has_norms = policy.layer_norm is True
    kinds = (nn.Linear, nn.LayerNorm, policy.activation_fn) if has_norms else (nn.Linear, policy.activation_fn)
    for i, layer in enumerate(trunk.children()):
        where, kind = f"mlp_extractor.policy_net.{i}", kinds[i % len(kinds)]
        if kind is policy.activation_fn:
            yield from _wrong_activation(where, layer, policy)
            continue
        yield from _wrong_type(where, layer, kind)
        if isinstance(layer, nn.LayerNorm) and repr(layer) != repr(nn.LayerNorm(layer.normalized_shape)):
            yield f"its `{where}` is {layer!r}, and agents have {nn.LayerNorm(layer.normalized_shape)!r}"


def _wrong_columns(net: nn.Module, policy: MultiTaskActorCriticPolicy) -> Iterator[str]:
    kinds = {"columns": Column, "adapters": Adapter, "layers": nn.Linear, "laterals": nn.Linear}
    for name, module in net.named_modules():
        where = f"mlp_extractor.policy_net.{name}"
        *rooms, last = name.split(".")
        if last == "activation":
            yield from _wrong_activation(where, module, policy)
        elif last == "projection":
            yield from _wrong_type(where, module, nn.Linear)
        elif last.isdigit():
            yield from _wrong_type(where, module, kinds[rooms[-1]])


def _wrong_heads(heads: Any, policy: MultiTaskActorCriticPolicy) -> Iterator[str]:
    yield from _wrong_type("action_net", heads, TaskHeads)
    yield from _wrong_activation("action_net.activation", heads.activation, policy)
    for i, layer in enumerate(heads.layers):
        yield from _wrong_type(f"action_net.layers.{i}", layer, TaskLinear)
    for i, norm in enumerate(heads.norms or ()):
        yield from _wrong_type(f"action_net.norms.{i}", norm, TaskLayerNorm)


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
