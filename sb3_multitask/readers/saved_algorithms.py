"""Identify the algorithm of a zip by its settings and its policy's module, since classes are pickled."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from sb3_multitask.readers.inert_pickle import UnreadableFileError

ACCEPTED = "A2C, PPO, TRPO (sb3-contrib) or one of several tasks (A2CMultiTask, ...), with an MLP policy"

_ACTORS = ("SAC", "TD3", "DDPG", "TQC", "CrossQ")
"""Off-policy algorithms whose actors can teach."""
_OTHERS_BY_MODULE = {
    "sbx.": "sbx (SB3 in JAX)",
    "sb3_contrib.common.recurrent": "RecurrentPPO (sb3-contrib)",
    "sb3_contrib.common.maskable": "MaskablePPO (sb3-contrib)",
    "sb3_contrib.ppo_recurrent": "RecurrentPPO (sb3-contrib)",
    "sb3_contrib.ppo_mask": "MaskablePPO (sb3-contrib)",
    "sb3_contrib.ars": "ARS (sb3-contrib)",
    "sb3_contrib.crossq": "CrossQ (sb3-contrib)",
    "sb3_contrib.qrdqn": "QR-DQN (sb3-contrib)",
    "sb3_contrib.tqc": "TQC (sb3-contrib)",
}
_OTHERS_BY_SETTINGS: tuple[tuple[set[str], str], ...] = (
    ({"n_sampled_goal", "goal_selection_strategy"}, "HER (SB3 before 1.1)"),
    ({"_last_lstm_states"}, "RecurrentPPO (sb3-contrib)"),
    ({"delta_std_schedule"}, "ARS (sb3-contrib)"),
    ({"top_quantiles_to_drop_per_net"}, "TQC (sb3-contrib)"),
    ({"policy_delay", "target_entropy"}, "CrossQ (sb3-contrib)"),
    ({"target_entropy"}, "SAC"),
    ({"exploration_fraction"}, "DQN"),
)
_BY_SETTING = {"clip_range": "PPO", "cg_max_steps": "TRPO", "normalize_advantage": "A2C"}
_OFFLINE = "PolicyDistillation"
_OF_TASKS = "MultiTask"  # what the names of algorithms on several tasks end with


def algorithm_of(data: Mapping[str, Any], members: Collection[str]) -> str:
    """Return the algorithm of a model, by its zip's ``data`` and the names of the zip's members.

    :raises UnreadableFileError: if the algorithm is not supported; names it
    """
    other = _other_algorithm(data)
    if other is None and "policy.pth" not in members:
        raise UnreadableFileError(
            "is no model of SB3 that has its policy (no policy.pth in it). Save it again with `model.save(path)`"
        )
    # SB3's on-policy algorithms; PPO has `normalize_advantage` since SB3 1.7 only
    if other is None and {"n_steps", "gae_lambda"} <= set(data):
        if {"task_schedule", "order_seed"} <= set(data):
            return _OFFLINE
        for setting, algorithm in _BY_SETTING.items():
            if setting in data:
                return algorithm + _OF_TASKS if "task_schedule" in data else algorithm
    if other is not None and _short(other) in _ACTORS:
        raise UnreadableFileError(
            f"is a model of {other}, whose policy is no agent: it can only teach (teachers={{task: path}}); give one "
            f"of {ACCEPTED}"
        )
    raise UnreadableFileError(
        f"is a model of {other or 'an unknown algorithm'}, which is not read; give one of {ACCEPTED}"
    )


def actor_algorithm_of(data: Mapping[str, Any], members: Collection[str]) -> str | None:
    """Return the off-policy algorithm of a model with an actor, such as "SAC"; None for another algorithm."""
    other = _short(_other_algorithm(data) or "")
    return other if other in _ACTORS and "policy.pth" in members else None


def _short(name: str) -> str:
    """Return an algorithm's name without its package."""
    return name.partition(" ")[0]


def is_of_tasks(algorithm: str) -> bool:
    """Whether an algorithm's file names its tasks and holds their statistics."""
    return algorithm == _OFFLINE or algorithm.endswith(_OF_TASKS)


def _other_algorithm(data: Mapping[str, Any]) -> str | None:
    """Return the name of an unsupported algorithm; None if the algorithm may be a supported one."""
    module = _module_of_policy(data)
    for prefix, name in _OTHERS_BY_MODULE.items():
        if module.startswith(prefix):
            return name
    for settings, name in _OTHERS_BY_SETTINGS:
        if settings <= set(data):
            return name
    if "target_policy_noise" in data:
        return "DDPG" if data.get("policy_delay") == 1 and data.get("target_noise_clip") == 0 else "TD3"
    return None


def _module_of_policy(data: Mapping[str, Any]) -> str:
    policy = data.get("policy_class")
    return str(policy.get("__module__", "")) if isinstance(policy, dict) else ""
