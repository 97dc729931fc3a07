"""Where the fast engine applies."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch as th
from stable_baselines3.common.vec_env import VecCheckNan, VecEnv, VecMonitor
from torch import nn

from sb3_multitask.fast.parameters import AVERAGES
from sb3_multitask.policies import MultiTaskActorCriticPolicy
from sb3_multitask.vec_env import MultiTaskVecEnv, MultiTaskVecNormalize, TaskCyclingVecEnv
from sb3_multitask.vec_env.layers import layers_of

_UNUSUAL = (
    *("weight_decay", "momentum", "centered", "maximize", "amsgrad", "decoupled_weight_decay"),
    *("capturable", "differentiable"),
)
_KNOWN_LAYERS = {MultiTaskVecEnv, TaskCyclingVecEnv, MultiTaskVecNormalize, VecCheckNan, VecMonitor}


def why_not_fast(policy: nn.Module, env: VecEnv) -> str | None:
    """Why the fast engine does not apply to a policy in an env; None if it does."""
    reasons = (_why_not_policy(policy), _why_not_optimizer(policy), _why_not_env(env))
    return next((reason for of_one in reasons for reason in of_one), None)


def _why_not_policy(policy: Any) -> Iterator[str]:
    if type(policy) is not MultiTaskActorCriticPolicy:
        yield f"the policy is a {type(policy).__name__}, not MultiTaskActorCriticPolicy itself"
    if policy.activation_fn is not nn.Tanh:
        yield f"the activation is {getattr(policy.activation_fn, '__name__', policy.activation_fn)}, not Tanh"
    if policy.shared_policy is not None:
        yield "the policy has a shared policy (Distral)"
    known = ("layer_norm", "value_norm", "shared_policy")
    unknown = {name: value for name, value in policy.options().items() if name not in known}
    yield from (f"{name} is {_shown(value)}" for name, value in unknown.items())
    nets = policy.mlp_extractor
    if not (_is_plain(nets.policy_net, policy.layer_norm is True) and _is_plain(nets.value_net, policy.layer_norm)):
        norm = ", LayerNorm" if policy.layer_norm else ""
        yield f"the nets were changed: their trunks are not Linear{norm} and Tanh in turn"
    if any(module._forward_hooks or module._forward_pre_hooks for module in policy.modules()):
        yield "the policy has hooks"
    if policy.log_std_mode == "state_dependent":
        yield 'log_std_mode is "state_dependent"'
    if policy.device.type != "cpu":
        yield f"the model is on {policy.device}, not on the CPU"
    if (dtype := next(policy.parameters()).dtype) != th.float32:
        yield f"the policy has {dtype}, not torch.float32"


def _shown(value: object) -> str:
    return f'"{value}"' if isinstance(value, str) else getattr(value, "__name__", repr(value))


def _is_plain(trunk: nn.Module, has_norms: object) -> bool:
    kinds = (nn.Linear, nn.LayerNorm, nn.Tanh) if has_norms else (nn.Linear, nn.Tanh)
    layers = list(trunk.children())
    return all(type(layer) is kinds[i % len(kinds)] for i, layer in enumerate(layers)) and all(
        repr(layer) == repr(nn.LayerNorm(layer.normalized_shape)) for layer in layers if isinstance(layer, nn.LayerNorm)
    )


def _why_not_optimizer(policy: Any) -> Iterator[str]:
    optimizer = policy.optimizer
    name = type(optimizer).__name__
    if type(optimizer) not in AVERAGES or len(optimizer.param_groups) != 1:
        yield f"the optimizer is {name}, not one group of {' or '.join(known.__name__ for known in AVERAGES)}"
    settings = optimizer.param_groups[0]
    unusual = [setting for setting in _UNUSUAL if settings.get(setting)]
    if unusual:
        yield f"{name} has {', '.join(unusual)}"
    if settings["eps"] <= 0:
        yield f"{name} has eps={settings['eps']}, with which heads that wait for their turn become NaN"


def _why_not_env(env: VecEnv) -> Iterator[str]:
    layers = list(layers_of(env))
    if not isinstance(layers[-1], MultiTaskVecEnv):
        yield "the env is not a MultiTaskVecEnv"
    unknown = [type(layer).__name__ for layer in layers if type(layer) not in _KNOWN_LAYERS]
    if unknown:  # the engine gives rows to heads by the env's order, which a wrapper could change
        yield f"the env is wrapped with {', '.join(unknown)}"
