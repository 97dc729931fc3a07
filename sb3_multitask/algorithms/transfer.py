"""Carrying over what was learned: from task to task, and from model to model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import nn

from sb3_multitask.algorithms.columns import check_carried_columns, copy_trained, without_later_columns
from sb3_multitask.algorithms.multitask_algorithm import MultiTaskAlgorithm
from sb3_multitask.algorithms.transfer_of_shared import (
    actions_of,
    check_shared_policies,
    copy_actions,
    is_shared_policy,
    set_pooled_statistics,
)
from sb3_multitask.policies.task_steps import onehot_inputs, stacked_parameters

Frozen: TypeAlias = Literal["trunk", "all_but_last", "nothing"]
_SHARED_POLICY = ("shared_head.", "shared_log_std")
_EXTRACTORS = ("features_extractor.", "vf_features_extractor.")


def transfer(
    model: MultiTaskAlgorithm, source: MultiTaskAlgorithm, tasks: Mapping[str, str], heads: bool = True
) -> None:
    """Give tasks of a model what another task has learned: its head, log-std, place in the input, and statistics.

    From another model the trunk is copied too, so that its heads go on to mean the same. With ``share="progressive"``
    the tasks' columns are copied; the tasks must then be the first of both models. The optimizer's state stays.
    Everything is checked first: a call that raises has changed nothing.

    The shared policy of a side that learned with ``distral`` is a task named "shared". It has actions, but no values:
    a task that takes it over keeps its own value head and statistics of returns, and gets the statistics of
    observations that :func:`~sb3_multitask.shared_agent` has. Where both sides have one, another model's is copied with
    the trunk.

    :param model: the model that receives
    :param source: the model that gives: another one with the same nets, or ``model`` itself
    :param tasks: task of ``model`` -> task of ``source``; may be empty with ``heads=False``
    :param heads: ``False`` carries the trunk only, for tasks whose heads have actions of another size: neither heads
        nor log-stds nor statistics of returns change, and of the named tasks the statistics of observations are copied,
        with which the trunk means the same
    :raises TypeError: if a side is no multi-task model, such as an ``Agent``, which has no statistics of returns
    :raises ValueError: on an unknown task, on nets or normalisers that would make something else of the weights, on
        weights that are not finite, on tasks of different sizes; both sides are named
    """
    _check_model(model, "model")
    _check_model(source, "source")
    if not isinstance(tasks, Mapping):
        raise TypeError(f"`tasks` must map tasks of `model` to tasks of `source` (got {tasks!r})")
    if not tasks and heads:
        raise ValueError("`tasks` must name at least one task of the model and the task of the source it takes over")
    check_shared_policies(model, source, tasks, heads=heads)
    of_shared = {t: o for t, o in tasks.items() if is_shared_policy(model, t) or is_shared_policy(source, o)}
    tasks = {target: origin for target, origin in tasks.items() if target not in of_shared}
    pairs = [(_index(model, target, "`model`"), _index(source, origin, "`source`")) for target, origin in tasks.items()]
    shared_pairs = [
        (
            None if is_shared_policy(model, target) else _index(model, target, "`model`"),
            None if is_shared_policy(source, origin) else _index(source, origin, "`source`"),
        )
        for target, origin in of_shared.items()
    ]
    _check_same_sizes(model, source, tasks, heads=heads)
    with_shared = heads and None not in (model.policy.shared_policy, source.policy.shared_policy)
    per_task = set(stacked_parameters(model.policy))
    _check_same_meaning(model, source, heads=heads)
    check_carried_columns(model, source, pairs, heads=heads)
    ours, theirs = (
        without_later_columns(_carried(side.policy, heads=heads, shared=with_shared).items(), len(pairs))
        for side in (model, source)
    )
    onehot = {
        name: (model.policy.n_tasks, source.policy.n_tasks) for name in onehot_inputs(model.policy) if name in ours
    }
    _check_same_nets(ours, theirs, per_task, onehot)
    receiver, giver = model.get_vec_normalize_env(), source.get_normalizer_state()
    if receiver is None and model.get_normalizer_state() is not None:
        raise ValueError("`model` has no env, whose normaliser takes over the statistics: load it with one")
    copies = {name: parameter.detach().clone() for name, parameter in theirs.items()}
    of_actions = [actions_of(source.policy, origin) for _, origin in shared_pairs]
    for name in onehot:
        copies[name] = _with_columns_of(
            ours[name].detach(), copies[name], model.policy.n_tasks, pairs, name in per_task
        )
    with th.no_grad():
        _copy_weights(ours, copies, per_task, pairs)
        for (target, _), given in zip(shared_pairs, of_actions, strict=True):
            copy_actions(model.policy, target, given)
        _copy_averages(model, source)
        copy_trained(model, source, len(pairs))
        if heads and pairs and model.policy.value_statistics is not None:
            _copy_value_statistics(model.policy.value_statistics, source.policy.value_statistics, pairs)
    if receiver is not None and giver is not None:
        pooled = {part: array.copy() for part, array in giver["obs_rms"].items()} if shared_pairs else {}
        _copy_statistics(receiver, giver, pairs, returns=heads)
        for target, origin in shared_pairs:
            if target is not None and origin is None:
                set_pooled_statistics(receiver.obs_rms["obs"], target, pooled)


def freeze(model: MultiTaskAlgorithm, what: Frozen) -> None:
    """Keep parameters as they are from now on; ``save`` and ``load`` keep that too.

    :param what: ``"trunk"``: the layers that all tasks share before the heads, a features extractor and its averages
        included; ``"all_but_last"``: everything but the heads' output layers and the log-std (the paper's fine-tuning,
        section 4.2); ``"nothing"``: train everything again
    :raises TypeError: if it is no multi-task model
    :raises ValueError: on anything else
    """
    _check_model(model, "model")
    if what not in get_args(Frozen):
        raise ValueError(f"`what` must be one of {', '.join(get_args(Frozen))} (got {what!r})")
    policy = model.policy
    names = [name for name, _ in policy.named_parameters()]
    trunk = [name for name in names if name.startswith((*_EXTRACTORS, "mlp_extractor."))]
    nets = ["action_net", "value_net", *(["shared_head"] if policy.shared_policy is not None else [])]
    last = [f"{net}.layers.{len(getattr(policy, net).layers) - 1}." for net in nets]
    before_last = [name for name in names if name.startswith(("task_vectors.", *(f"{net}." for net in nets)))]
    hidden = [name for name in before_last if not name.startswith(tuple(last))]
    frozen = {"trunk": trunk, "all_but_last": trunk + hidden, "nothing": []}[what]
    model.frozen = tuple(frozen)
    policy.set_frozen(frozen)


def _carried(policy: Any, *, heads: bool, shared: bool) -> dict[str, nn.Parameter]:
    """Return names and parameters of what is carried: all, or the trunk.

    :param shared: whether the shared policy is carried too
    """
    left = (*(() if heads else ("action_net.", "value_net.", "log_std")), *(() if shared else _SHARED_POLICY))
    return {name: parameter for name, parameter in policy.named_parameters() if not name.startswith(left)}


def _copy_weights(
    ours: Mapping[str, th.Tensor],
    copies: Mapping[str, th.Tensor],
    per_task: set[str],
    pairs: Sequence[tuple[int, int]],
) -> None:
    for name, parameter in ours.items():
        if name not in per_task:
            parameter.copy_(copies[name])
            continue
        for target, origin in pairs:
            parameter[target] = copies[name][origin]


def _copy_averages(model: MultiTaskAlgorithm, source: MultiTaskAlgorithm) -> None:
    """Copy what a features extractor keeps besides weights, such as averages of a batch norm."""
    theirs = dict(source.policy.named_buffers())
    for name, buffer in model.policy.named_buffers():
        if name.startswith(_EXTRACTORS):
            buffer.copy_(theirs[name])


def _copy_value_statistics(ours: nn.Module, theirs: nn.Module, pairs: Sequence[tuple[int, int]]) -> None:
    """Copy the statistics with which value heads normalise."""
    targets, origins = map(list, zip(*pairs, strict=True))
    for buffer, given in zip(ours.buffers(), theirs.buffers(), strict=True):
        buffer[targets] = given[origins]


def _with_columns_of(
    ours: th.Tensor, theirs: th.Tensor, n_tasks: int, pairs: Sequence[tuple[int, int]], is_per_task: bool
) -> th.Tensor:
    """Return the source's weights of a layer with one-hot tasks among its inputs, with a column for each of our tasks.

    A task that receives gets the column of the task that it receives from; other tasks keep theirs.

    :param ours: weights, whose axis 1 are the inputs; the last ``n_tasks`` of these are the tasks
    :param theirs: the source's, with its own tasks
    :param is_per_task: whether axis 0 are the tasks of either side, of whose columns each needs its own only
    """
    n_features = ours.shape[1] - n_tasks
    columns = theirs.new_zeros(len(theirs), n_tasks, *theirs.shape[2:]) if is_per_task else ours[:, n_features:].clone()
    for target, origin in pairs:
        columns[:, target] = theirs[:, n_features + origin]
    return th.cat([theirs[:, :n_features], columns], dim=1)


def _copy_statistics(
    normalizer: Any, giver: Mapping[str, Any], pairs: Sequence[tuple[int, int]], *, returns: bool
) -> None:
    all_rms = [("obs_rms", normalizer.obs_rms["obs"]), *([("ret_rms", normalizer.ret_rms)] if returns else [])]
    for name, rms in all_rms:
        for part in ("mean", "var", "count"):
            for target, origin in pairs:
                getattr(rms, part)[target] = giver[name][part][origin]


def _check_model(model: object, name: str) -> None:
    if not (isinstance(model, BaseAlgorithm) and hasattr(model, "get_normalizer_state")):
        hint = f": load it, for one with A2CMultiTask.load({str(model)!r})" if isinstance(model, str | Path) else ""
        raise TypeError(f"`{name}` must be a multi-task model, such as an A2CMultiTask (got {model!r:.100}){hint}")


def _index(model: MultiTaskAlgorithm, task: str, side: str) -> int:
    names = model.task_names or ()
    if not names:
        raise ValueError(f"{side} names no tasks: it was saved by another algorithm, which is none of several tasks")
    if task not in names:
        raise ValueError(f"{side} has no task {task!r}; it has: {', '.join(names)}")
    return names.index(task)


def _normalizes(state: Mapping[str, Any] | None) -> bool:
    return state is not None and bool(state["norm_obs"])


def _check_same_sizes(
    model: MultiTaskAlgorithm, source: MultiTaskAlgorithm, tasks: Mapping[str, str], *, heads: bool
) -> None:
    """Raise unless observations are as wide on both sides, and tasks that are paired have equal sizes."""
    ours, theirs = model.policy.sizes, source.policy.sizes
    if ours.obs_dim != theirs.obs_dim:
        raise ValueError(
            f"The trunk of the model takes observations of size {ours.obs_dim}, the widest task's, and that of the "
            f"source {theirs.obs_dim}: which of these numbers mean the same is not known, so it cannot be carried"
        )
    for target, origin in tasks.items():
        i, j = _index(model, target, "`model`"), _index(source, origin, "`source`")
        sizes = (ours.action_dims[i], theirs.action_dims[j])
        if heads and (sizes[0] != sizes[1] or ours.action_dim != theirs.action_dim):
            raise ValueError(
                f"Task {target!r} of the model has actions of size {sizes[0]}, {ours.action_dim} with padding, task "
                f"{origin!r} of the source {sizes[1]} and {theirs.action_dim}: heads=False carries the trunk only"
            )
        if ours.obs_dims[i] != theirs.obs_dims[j]:
            raise ValueError(
                f"Task {target!r} of the model has observations of size {ours.obs_dims[i]}, task {origin!r} of the "
                f"source {theirs.obs_dims[j]}, whose statistics mean something else. To carry the trunk alone: "
                "tasks={}, heads=False"
            )


def _check_same_meaning(model: MultiTaskAlgorithm, source: MultiTaskAlgorithm, *, heads: bool) -> None:
    """Weights mean the same under the same activation, log-std and normalisation only."""
    options = {**model.policy.options(), **source.policy.options()}
    names = ["activation_fn", *(name for name in options if name not in ("share", "value_norm", "shared_policy"))]
    if heads:
        names += ["log_std_mode", "share", "value_norm"]
    if heads and model.policy.log_std_mode == "state_dependent":  # an output of the head, squashed by these
        names += ["log_std_bounds", "log_std_init"]
    for name in names:
        first, second = getattr(model.policy, name), getattr(source.policy, name)
        if first != second:
            raise ValueError(f"The model's `{name}` is {first!r}, the source's is {second!r}: make them alike")
    normalizes, others = (_normalizes(side.get_normalizer_state()) for side in (model, source))
    if normalizes != others:
        does, does_not = ("model", "source") if normalizes else ("source", "model")
        raise ValueError(f"The {does} normalises its observations and the {does_not} does not: make them alike")
    bad = [name for name, parameter in source.policy.named_parameters() if not parameter.isfinite().all()]
    if bad:
        raise ValueError(f"The source has weights that are not finite: {', '.join(bad)}")


def _check_same_nets(
    ours: Mapping[str, th.Tensor],
    theirs: Mapping[str, th.Tensor],
    per_task: set[str],
    onehot: Mapping[str, tuple[int, int]],
) -> None:
    """Raise if parameters differ in their sizes, but for the tasks, which are ``onehot``'s inputs on either side."""

    def sizes(parameters: Mapping[str, th.Tensor], side: int) -> dict[str, list[int]]:
        found = {name: list(parameter.shape) for name, parameter in parameters.items()}
        for name in onehot.keys() & found.keys():
            found[name][1] -= onehot[name][side]
        return {name: size[1:] if name in per_task else size for name, size in found.items()}

    first, second = sizes(ours, 0), sizes(theirs, 1)
    different = [name for name in {**first, **second} if first.get(name) != second.get(name)]
    if different:
        lines = [f"  {name}: {first.get(name)} here, {second.get(name)} in the source" for name in different]
        raise ValueError("The nets of the model and of the source differ:\n" + "\n".join(lines))
