"""Algorithms on several tasks, what they share, and the one table of them.

A row of the table is all that an algorithm needs to be trained from a config and by rl_zoo3. Which settings it takes is
read from its constructor, and what it can do from its class attributes:

- ``resumable``: ``ResumableCheckpointCallback`` resumes its training to the same bits
- ``distils``: it learns from ``teachers``
- ``offline``: it learns from a ``dataset``, without environment steps
- ``weighs_tasks``: its updates weigh the losses of tasks, as a schedule in mode "weights" asks for
- ``carries_statistics``: its file holds its tasks and the normaliser's statistics, and it checks its env's normaliser
- ``logs_tasks``: it logs the episodes of every task, and its last update; ``task_terms`` names what it logs of a task's
  update, below ``train/<task>/``
"""

from __future__ import annotations

from inspect import Parameter, signature
from typing import Literal, TypeAlias

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_multitask.algorithms.a2c import A2CMultiTask
from sb3_multitask.algorithms.multitask_algorithm import MultiTaskAlgorithm
from sb3_multitask.algorithms.on_policy import MultiTaskOnPolicyAlgorithm
from sb3_multitask.algorithms.policy_distillation import PolicyDistillation
from sb3_multitask.algorithms.ppo import PPOMultiTask
from sb3_multitask.algorithms.trpo import TRPOMultiTask

__all__ = [
    "ALGORITHMS",
    "A2CMultiTask",
    "Ability",
    "MultiTaskAlgorithm",
    "MultiTaskOnPolicyAlgorithm",
    "PPOMultiTask",
    "PolicyDistillation",
    "TRPOMultiTask",
    "arguments_of",
    "has_ability",
    "task_terms_of",
]

ALGORITHMS: dict[str, type[OnPolicyAlgorithm]] = {
    "a2c_mt": A2CMultiTask,
    "ppo": PPOMultiTask,
    "trpo": TRPOMultiTask,
    "policy_distillation": PolicyDistillation,
}
"""By the name that a config has for them."""

_VARIABLE = (Parameter.VAR_POSITIONAL, Parameter.VAR_KEYWORD)
Ability: TypeAlias = Literal["resumable", "distils", "offline", "weighs_tasks", "carries_statistics", "logs_tasks"]


def has_ability(algorithm: BaseAlgorithm | type[BaseAlgorithm], ability: Ability) -> bool:
    """Whether a model or its class can do something; SB3's own classes have no such attributes, and cannot.

    :param algorithm: the model, or its class
    :param ability: name of the class attribute that says so
    """
    return bool(getattr(algorithm, ability, False))


def arguments_of(algorithm: type[BaseAlgorithm]) -> dict[str, Parameter]:
    """The arguments of an algorithm's constructor by name; where it has ``**kwargs``, also those of its base."""
    found: dict[str, Parameter] = {}
    for base in algorithm.__mro__:
        if "__init__" in vars(base):
            _, *parameters = signature(vars(base)["__init__"]).parameters.values()
            found = {**{one.name: one for one in parameters if one.kind not in _VARIABLE}, **found}
            if Parameter.VAR_KEYWORD not in (one.kind for one in parameters):
                break
    return found


def task_terms_of(algorithm: BaseAlgorithm | type[BaseAlgorithm]) -> tuple[str, ...]:
    """The keys that an algorithm logs of every task's update, below ``train/<task>/``; those of its loss."""
    return tuple(getattr(algorithm, "task_terms", ()))
