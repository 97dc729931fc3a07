"""What ``transfer`` does with the policy that all tasks share, of Distral: a task "shared" that has actions alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch as th

from sb3_multitask.agents.shared import SHARED, pooled_moments
from sb3_multitask.algorithms.multitask_algorithm import MultiTaskAlgorithm


def is_shared_policy(model: MultiTaskAlgorithm, task: str) -> bool:
    """Return whether a task's name is that of the shared policy; a model without one may have a task of this name."""
    return task == SHARED and model.policy.shared_policy is not None


def check_shared_policies(
    model: MultiTaskAlgorithm, source: MultiTaskAlgorithm, tasks: Mapping[str, str], *, heads: bool
) -> None:
    """Raise unless what is carried means the same on both sides, of which one or both may have a shared policy.

    :raises ValueError: on a shared policy of tasks of different sizes or without heads, or a head that is only a factor
    """
    powers = [side.policy.shared_policy or 0 for side in (model, source)]
    for target, origin in tasks.items():
        to_shared, from_shared = is_shared_policy(model, target), is_shared_policy(source, origin)
        if to_shared or from_shared:
            if not heads:
                raise ValueError(f"heads=False carries the trunk only: leave {SHARED!r} out of `tasks`")
            for side, name in ((model, "model"), (source, "source")):
                if side.policy.sizes.has_padding:
                    raise ValueError(f"The tasks of `{name}` differ in size, and {SHARED!r} has none of its own")
        if not heads or (to_shared and from_shared):
            continue
        # The head of the other side's task is a whole policy, unless in 2col.
        is_whole = powers[1 if to_shared else 0] == 0
        means_the_same = is_whole if to_shared or from_shared else math.isclose(*powers, rel_tol=1e-9)
        if not means_the_same:
            raise ValueError(
                f"`tasks` gives {target!r} what {origin!r} has learned, and in Distral's 2col the head of a task is a "
                "factor of its policy, the other of which is the shared policy: carry heads of tasks between models of "
                "the same alpha, the shared policy to a model without 2col, and 'shared' to 'shared'"
            )


def actions_of(policy: Any, task: int | None) -> dict[str, th.Tensor]:
    """Return copies of the parameters of the actions of a task, or of the shared policy (``None``)."""
    return {name: tensor.clone() for name, tensor in _action_parameters(policy, task).items()}


def copy_actions(policy: Any, task: int | None, given: Mapping[str, th.Tensor]) -> None:
    """Give a task, or the shared policy (``None``), what :func:`actions_of` returned."""
    for name, tensor in _action_parameters(policy, task).items():
        tensor.copy_(given[name])


def _action_parameters(policy: Any, task: int | None) -> dict[str, th.Tensor]:
    """Return views of the rows of a task, or of the shared policy, in the parameters."""
    net, row = (policy.shared_head, 0) if task is None else (policy.action_net, task)
    found = {name: parameter.detach()[row] for name, parameter in net.named_parameters()}
    return found | {"log_std": (policy.shared_log_std if task is None else policy.log_std[task]).detach()}


def set_pooled_statistics(rms: Any, task: int, of_tasks: Mapping[str, Any]) -> None:
    """Give a task the statistics of observations of which every task of the source gave as many.

    :param rms: the receiver's statistics of observations
    :param of_tasks: the source's, arrays with the tasks first
    """
    rms.mean[task], rms.var[task] = pooled_moments(of_tasks["mean"], of_tasks["var"])
    rms.count[task] = of_tasks["count"].sum()
