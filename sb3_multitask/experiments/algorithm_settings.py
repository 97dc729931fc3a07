"""Which settings an algorithm takes: its constructor's signature says so, and its class what it can do."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_multitask.algorithms import ALGORITHMS, Ability, arguments_of, env_checks, has_ability

_OF_EVERY_ALGORITHM = {"policy", "env", "seed", "device", "verbose", "_init_setup_model"}
_NEEDS: dict[str, Ability] = dict.fromkeys(("init_from", "init_tasks", "freeze"), "carries_statistics")
"""Settings that are no argument of a constructor -> the ability that an algorithm needs for them."""


def settings_of_algorithms(settings: Iterable[str]) -> list[str]:
    """Those of a config's settings that some algorithms take and others may not."""
    known = {*_NEEDS, *(name for algorithm in ALGORITHMS.values() for name in further_arguments(algorithm))}
    return [name for name in settings if name in known]


def takes(algorithm: type[BaseAlgorithm], setting: str) -> bool:
    """Whether an algorithm has a setting."""
    ability = _NEEDS.get(setting)
    return setting in arguments_of(algorithm) if ability is None else has_ability(algorithm, ability)


def has_default(algorithm: type[BaseAlgorithm], setting: str, default: object) -> bool:
    """Whether an algorithm that takes a setting has it at ``default`` by itself, where ``{}`` stands for None."""
    parameter = arguments_of(algorithm).get(setting)
    return parameter is None or (parameter.default or None) == (default or None)


def check_settings(algo: str, given: Iterable[str]) -> None:
    """Raise unless an algorithm takes all settings that are given.

    :param algo: a name of ``ALGORITHMS``
    :raises ValueError: names those that it does not take
    """
    if bad := [name for name in given if not takes(ALGORITHMS[algo], name)]:
        raise ValueError(f"algo {algo!r} has no {', '.join(bad)}")


def further_arguments(algorithm: type[BaseAlgorithm]) -> list[str]:
    """Arguments of an algorithm beside those that every algorithm has."""
    return [name for name in arguments_of(algorithm) if name not in _OF_EVERY_ALGORITHM]


def check_sub_sampling(algorithm: type[BaseAlgorithm], arguments: Mapping[str, Any]) -> None:
    """Raise on an argument of sb3-contrib's TRPO with which its ``train`` fails.

    :raises ValueError: if the batch is to be sub-sampled: TRPO takes slices of the observations, and ours are a dict
    """
    if takes(algorithm, "sub_sampling_factor"):
        env_checks.check_sub_sampling(arguments.get("sub_sampling_factor", 1))
