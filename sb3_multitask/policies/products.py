"""Products of Gaussians: the task policies of Distral's two columns (Teh et al. 2017, section 2.2), and their weights.

The policy of a task is proportional to ``p_0^power p``, with the shared policy ``p_0 = N(mean_0, std_0^2)`` and the
Gaussian of the task's own head, ``p = N(mean, std^2)``. In each dimension it is the Gaussian with

    precision  power / std_0^2 + 1 / std^2
    mean       share mean_0 + (1 - share) mean    share = (power / std_0^2) / precision

Where log-stds do not depend on the state, nor does the share: then the product is itself a head, with weights of its
own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch as th

SHARED_HEAD, SHARED_LOG_STD, SHARED_POWER = "shared_head.", "shared_log_std", "shared_power"
"""Of the names of a policy's parameters and buffers: those of the shared policy, and its power in the task policies."""


def product_of_log_stds(shared: th.Tensor, own: th.Tensor, power: float) -> tuple[th.Tensor, th.Tensor]:
    """Return the log-std of ``p_0^power p``, and the share of the shared policy's mean in that of the product.

    :param shared: log-std of the shared policy, (action_dim,) or like ``own``
    :param own: log-std of the task's own Gaussian, (..., action_dim)
    :param power: positive
    """
    shared_precision = math.log(power) - 2 * shared  # logarithms
    log_std = -0.5 * th.logaddexp(shared_precision.expand_as(own), -2 * own)
    return log_std, th.sigmoid(shared_precision + 2 * own)


def weights_of_products(weights: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return a policy's state dict with heads that give the tasks' policies themselves.

    Weights without a shared policy are returned as they are. Else ``shared_power`` is left out, the shared policy's
    own weights stay, and those of the tasks' heads and log-stds become the products'. Hidden layers of heads are then
    the shared head's and the task's own, side by side.

    :param weights: of a ``MultiTaskActorCriticPolicy``
    :raises ValueError: if heads have layer norms, which no single layer norm stands for, the power is none, or the
        shared policy's weights have other shapes than those of a task
    """
    found = {name: array for name, array in weights.items() if name != SHARED_POWER}
    if SHARED_POWER not in weights:
        return found
    power = _power_of(weights)
    if power == 0:
        return found
    if any(name.startswith("action_net.norms.") for name in weights):
        raise ValueError("its heads are products with a shared policy (Distral, 2col) and have layer norms")
    _check_shapes(weights)
    shared_log_std, own_log_std = (th.from_numpy(weights[name]) for name in (SHARED_LOG_STD, "log_std"))
    log_std, share = (part.numpy() for part in product_of_log_stds(shared_log_std, own_log_std, power))
    found["log_std"] = log_std
    n_layers = sum(name.startswith("action_net.layers.") and name.endswith(".weight") for name in weights)
    for i in range(n_layers):
        name, is_last = f"action_net.layers.{i}", i == n_layers - 1
        own_weight, own_bias = weights[f"{name}.weight"], weights[f"{name}.bias"]
        layer = name.removeprefix("action_net.")
        weight = np.repeat(weights[f"{SHARED_HEAD}{layer}.weight"], len(own_weight), axis=0)
        bias = np.repeat(weights[f"{SHARED_HEAD}{layer}.bias"], len(own_bias), axis=0)
        if is_last:  # the sum of both, by their shares
            weight, own_weight = weight * share[:, None], own_weight * (1 - share[:, None])
            bias = bias * share + own_bias * (1 - share)
            weight = weight + own_weight if i == 0 else np.concatenate([weight, own_weight], axis=1)
        else:
            bias = np.concatenate([bias, own_bias], axis=1)
            weight = np.concatenate([weight, own_weight], axis=2) if i == 0 else _block_diagonal(weight, own_weight)
        found |= {f"{name}.weight": weight, f"{name}.bias": bias}
    return found


def _power_of(weights: Mapping[str, Any]) -> float:
    """Return the power of the shared policy in those of the tasks.

    :raises ValueError: if it is no number from 0 to 1
    """
    given = weights[SHARED_POWER]
    power = float(given.reshape(-1)[0]) if math.prod(given.shape) == 1 else math.nan
    if not 0 <= power <= 1:
        raise ValueError(f"its {SHARED_POWER} is not one number from 0 to 1")
    return power


def _check_shapes(weights: Mapping[str, np.ndarray]) -> None:
    """Raise unless the shared policy has the shapes of one task's head; a file may pair others, which fill the memory.

    :raises ValueError: names the weights
    """
    n_tasks = len(weights["log_std"])
    pairs = {SHARED_LOG_STD: "log_std"} | {
        f"{SHARED_HEAD}{name.removeprefix('action_net.')}": name for name in weights if name.startswith("action_net.")
    }
    for shared, own in pairs.items():
        expected = (n_tasks, *(weights[shared].shape if shared == SHARED_LOG_STD else weights[shared].shape[1:]))
        n_heads = 1 if shared == SHARED_LOG_STD else len(weights[shared])
        if n_heads != 1 or weights[own].shape != expected:
            raise ValueError(
                f"its {shared} and {own} have the shapes {list(weights[shared].shape)} and {list(weights[own].shape)}, "
                "which do not make a product"
            )


def check_same_shared_policy(ours: float | None, weights: Mapping[str, Any], *, strict: bool) -> None:
    """Raise unless the weights of a policy mean the same in another one.

    :param ours: ``shared_policy`` of the policy that receives them
    :param strict: whether weights that one side lacks are an error
    :raises ValueError: names both sides and what is accepted
    """
    theirs = _power_of(weights) if SHARED_POWER in weights else None
    if ours is not None and theirs is not None:
        if math.isclose(ours, theirs, rel_tol=1e-6, abs_tol=1e-37):  # weights are float32
            return
        raise ValueError(
            f"The policy has shared_policy={ours!r}, the power of the shared policy in those of the tasks, and the "
            f"weights are for {theirs:.7g}: the heads of tasks would mean something else. Make both with Distral of "
            "the same `form`, and in 2col the same ratio of `c_kl` and `c_ent`"
        )
    if strict and (ours is None) != (theirs is None):
        has, has_not = ("policy has", "weights have") if theirs is None else ("weights have", "policy has")
        raise ValueError(
            f"The {has} a shared policy, which `distral` trains, and the {has_not} none: make both with or both "
            "without `distral`, or carry over what was learned with transfer(model, source, tasks)"
        )


def _block_diagonal(first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """(k, a, b), (k, c, d) -> (k, a + c, b + d), with zeros elsewhere."""
    k, a, b = first.shape
    blocks: np.ndarray = np.zeros((k, a + second.shape[1], b + second.shape[2]), first.dtype)
    blocks[:, :a, :b], blocks[:, a:, b:] = first, second
    return blocks


def check_shared_policy(shared_policy: Any, *, share: str, task_embedding: Any, log_std_mode: str) -> None:
    """Raise on anything but the values of ``shared_policy``, and beside arguments that leave no place for it.

    :raises ValueError: names the argument, its value and the accepted values
    """
    if shared_policy is None:
        return
    is_number = isinstance(shared_policy, int | float) and not isinstance(shared_policy, bool)
    if not is_number or not 0 <= shared_policy <= 1:
        raise ValueError(
            "`shared_policy` must be None or a number from 0 to 1, the power of the shared policy in those of the "
            f"tasks (got {shared_policy!r})"
        )
    reasons = {
        f"`share={share!r}`": share != "heads" and 'a head for each task, which share="heads" has',
        f"`task_embedding={task_embedding!r}`": task_embedding is not None
        and "an input that does not say which task it is: leave it out",
        f"`log_std_mode={log_std_mode!r}`": log_std_mode != "per_task" and 'log_std_mode="per_task"',
    }
    for given, needed in reasons.items():
        if needed:
            raise ValueError(f"{given} does not go with a shared policy (`distral`), which needs {needed}")
