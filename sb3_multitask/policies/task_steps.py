"""An optimizer's step that changes neither what does not learn, such as heads of absent tasks, nor its optimizer state.

A gradient of 0 is not enough: momentum, Adam's averages and weight decay move a parameter without a gradient. The heads
of all tasks are one parameter with the task axis first, so torch cannot leave some of them out. Here the optimizer gets
each present task's part as a separate parameter with a separate state.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch as th
from torch import nn

from sb3_multitask.policies.policy import MultiTaskActorCriticPolicy

_OF_TASKS = "_of_tasks"
_CRITIC = ("mlp_extractor.value_net.", "value_net.", "vf_features_extractor.")
_STARTED = f"started{_OF_TASKS}"


def stacked_parameters(policy: MultiTaskActorCriticPolicy) -> dict[str, nn.Parameter]:
    """Return names and parameters with a task axis, which comes first."""
    per_task = (
        "task_vectors.",
        *(["action_net.", "value_net."] if policy.share != "all" else []),
        *(["log_std"] if policy.log_std_mode == "per_task" else []),
    )
    return {name: parameter for name, parameter in policy.named_parameters() if name.startswith(per_task)}


def shared_parameters(policy: MultiTaskActorCriticPolicy) -> dict[str, list[nn.Parameter]]:
    """Return the parameters that all tasks share, frozen or not: of the ``"actor"``, and of the ``"critic"`` alone.

    What both read, a features extractor, is the actor's.
    """
    found: dict[str, list[nn.Parameter]] = {"actor": [], "critic": []}
    stacked = stacked_parameters(policy)
    for name, parameter in policy.named_parameters():
        if name not in stacked and not (policy.share == "progressive" and name.startswith("mlp_extractor.")):
            found["critic" if name.startswith(_CRITIC) else "actor"].append(parameter)
    return found


def onehot_inputs(policy: MultiTaskActorCriticPolicy) -> list[str]:
    """Return names of the parameters whose last n_tasks inputs, on axis 1, are a task each: of ``"onehot"``."""
    if policy.task_embedding != "onehot":
        return []
    nets = (("policy_net", "action_net"), ("value_net", "value_net"))
    has_layers = [len(getattr(policy.mlp_extractor, trunk)) > 0 for trunk, _ in nets]
    return [
        f"mlp_extractor.{trunk}.0.weight" if has_trunk else f"{heads}.layers.0.weight"
        for (trunk, heads), has_trunk in zip(nets, has_layers, strict=True)
    ]


def step_of_tasks(policy: MultiTaskActorCriticPolicy, present: Sequence[bool]) -> None:
    """Take one step of the policy's optimizer, without absent tasks.

    If all tasks are present it is the optimizer's own step. From the first time that a task is absent, the optimizer's
    state of a parameter with a task axis has a task axis too. Single numbers of the state, such as the count of steps,
    are then kept per task under ``<name>_of_tasks``.

    :param present: whether each task took part, (n_tasks,)
    """
    optimizer, stacked = policy.optimizer, list(stacked_parameters(policy).values())
    if all(present) and not any(_STARTED in optimizer.state.get(parameter, {}) for parameter in stacked):
        optimizer.step()
        return
    tasks = [task for task, here in enumerate(present) if here]
    rows = {p: {task: _part_of_task(optimizer, p, task) for task in tasks} for p in stacked if p.grad is not None}
    groups = [group["params"] for group in optimizer.param_groups]
    try:
        for group, parameters in zip(optimizer.param_groups, groups, strict=True):
            group["params"] = [row for p in parameters for row in (rows[p].values() if p in rows else [p])]
        optimizer.step()
    finally:
        for group, parameters in zip(optimizer.param_groups, groups, strict=True):
            group["params"] = parameters
        states = {p: {t: optimizer.state.pop(row, {}) for t, row in mine.items()} for p, mine in rows.items()}
    for parameter, of_rows in states.items():
        for task, state in of_rows.items():
            _store_part(optimizer.state[parameter], parameter, task, state)


@contextmanager
def absent_heads_kept(policy: MultiTaskActorCriticPolicy, present: Sequence[bool] | None) -> Iterator[None]:
    """Let another algorithm update the policy, and then give absent tasks what they had: heads and optimizer's state.

    :param present: whether each task took part, (n_tasks,); ``None``: all did
    """
    absent = [] if present is None else [task for task, here in enumerate(present) if not here]
    if not absent:
        yield
        return
    optimizer, stacked = policy.optimizer, list(stacked_parameters(policy).values())

    def rows() -> Iterator[tuple[Any, str, th.Tensor]]:
        for parameter in stacked:
            yield parameter, "", parameter.data
            for name, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, th.Tensor) and value.shape == parameter.shape:
                    yield parameter, name, value

    before = {(parameter, name): tensor[absent].clone() for parameter, name, tensor in rows()}
    yield
    for parameter, name, tensor in rows():  # an average that there was not before begins at 0
        tensor[absent] = before.get((parameter, name), th.zeros(()))


@contextmanager
def actor_held(policy: MultiTaskActorCriticPolicy, when: bool) -> Iterator[None]:
    """Let updates change the critic alone, also where the optimizer remembers gradients of the actor.

    :param when: whether they may not change the actor; else nothing happens
    """
    if not when:
        yield
        return
    held = [p for name, p in policy.named_parameters() if p.requires_grad and not name.startswith(_CRITIC)]
    for parameter in held:
        parameter.requires_grad = False
        parameter.grad = None
    try:
        yield
    finally:
        for parameter in held:
            parameter.requires_grad = True


def forget_critic(policy: MultiTaskActorCriticPolicy) -> None:
    """Set to 0 what the optimizer remembers of the critic, which an update without losses of values does not move then.

    Without a gradient, averages of earlier ones would move it on the fast engine, which has a 0 in its place.
    """
    for name, parameter in policy.named_parameters():
        if name.startswith(_CRITIC):
            for value in policy.optimizer.state.get(parameter, {}).values():
                if isinstance(value, th.Tensor) and value.shape == parameter.shape:
                    value.zero_()


def forget_counts(state: dict[str, Any]) -> None:
    """Remove the numbers per task from a whole parameter's state, so that it is the optimizer's own state again."""
    for name in [name for name in state if name.endswith(_OF_TASKS)]:
        del state[name]


def _part_of_task(optimizer: th.optim.Optimizer, parameter: nn.Parameter, task: int) -> nn.Parameter:
    """Return a task's part of a parameter: the same memory, its gradient, and its part of the optimizer's state."""
    row = nn.Parameter(parameter.detach()[task])
    assert parameter.grad is not None
    row.grad = parameter.grad[task]
    whole: dict[str, Any] = optimizer.state.get(parameter, {})
    if not (whole[_STARTED][task] if _STARTED in whole else whole and _has_task_axis(whole, parameter)):
        return row  # the optimizer makes a new state for it
    state = optimizer.state[row]
    for name, value in whole.items():
        if name.endswith(_OF_TASKS):
            continue
        if isinstance(value, th.Tensor) and value.ndim:
            state[name] = value[task]
        else:
            numbers = whole.get(name + _OF_TASKS)
            state[name] = copy.deepcopy(value) if numbers is None else _number_like(value, numbers[task])
    return row


def _has_task_axis(state: dict[str, Any], parameter: nn.Parameter) -> bool:
    """Return whether an optimizer's state of a whole parameter can be split by task; Adafactor's cannot."""
    return all(v.shape == parameter.shape for v in state.values() if isinstance(v, th.Tensor) and v.ndim)


def _store_part(whole: dict[str, Any], parameter: nn.Parameter, task: int, state: dict[str, Any]) -> None:
    """Write a task's part of the optimizer's state into the state of the whole parameter."""
    n_tasks = len(parameter)
    if _STARTED not in whole:  # so far all tasks have taken the same steps, or none
        if not _has_task_axis(whole, parameter):
            whole.clear()
        whole[_STARTED] = th.full((n_tasks,), float(bool(whole)))
    for name, value in state.items():
        if isinstance(value, th.Tensor) and value.ndim:
            if not isinstance(whole.get(name), th.Tensor):
                whole[name] = value.new_zeros(n_tasks, *value.shape)
            whole[name][task] = value
        elif isinstance(value, th.Tensor | float | int):
            if name + _OF_TASKS not in whole:
                whole[name + _OF_TASKS] = th.full((n_tasks,), float(whole.get(name, 0.0)))
            whole[name + _OF_TASKS][task] = float(value)
            if isinstance(value, th.Tensor) and isinstance(whole.get(name), th.Tensor):
                whole[name].copy_(value)  # in place, since the fast engine holds this tensor
            else:
                whole[name] = value
        else:
            whole[name] = value
    whole[_STARTED][task] = 1.0


def _number_like(value: Any, number: th.Tensor) -> Any:
    """Return a task's own number as the optimizer keeps it: a tensor, or Python's."""
    if isinstance(value, th.Tensor):
        return number.to(value).clone()
    return type(value)(number.item())
