"""How a model combines the gradients of its tasks: what it accepts, what a file keeps of it, and torch's way."""

from __future__ import annotations

import json
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.logger import Logger

from sb3_multitask.combiners import NETS, GradientCombiner, GradientCombining, make_combiners, pair_statistics
from sb3_multitask.combiners.settings import is_plain
from sb3_multitask.losses import Loss, Outputs
from sb3_multitask.policies import MultiTaskActorCriticPolicy
from sb3_multitask.policies.task_steps import shared_parameters
from sb3_multitask.task_schedules.base import one_task_at_a_time

_SAVED = "saved"


def check_gradient_combiner(
    gradient_combiner: GradientCombiner | None, conflict_freq: int, *, from_file: bool = False
) -> None:
    """Raise unless the arguments can be used.

    :param from_file: whether a combiner may also be the settings of one, which a file has in its place
    :raises TypeError: on another type
    :raises ValueError: on an unknown name or net, or a negative ``conflict_freq``
    :raises ImportError: if TorchJD or what its class needs is not installed
    """
    if isinstance(conflict_freq, bool) or not isinstance(conflict_freq, Integral):
        raise TypeError(f"`conflict_freq` must be a whole number (got {conflict_freq!r})")
    if conflict_freq < 0:
        raise ValueError(f"`conflict_freq` must be at least 0, which measures nothing (got {conflict_freq})")
    if not (from_file and _is_saved(gradient_combiner)):
        make_combiners(gradient_combiner)


def check_has_combiner(name: str, gradient_combiner: Any) -> None:
    """Raise ValueError if a model that was loaded lacks its combiner.

    :param name: of the model's class
    """
    if _is_saved(gradient_combiner):
        raise ValueError(
            "The model was trained with a gradient combiner that is not saved with it: load it with "
            f"`{name}.load(path, env=env, gradient_combiner=...)`; `gradient_combiner=None` continues without one. "
            f"Its settings were: {gradient_combiner[_SAVED]!r}"
        )


def what_is_combined(model: Any) -> tuple[Any, ...]:
    """Return what a model is to combine and to measure; equal for the same names, or the same objects, of combiners."""
    given = model.gradient_combiner
    of_nets = [given.get(net) if isinstance(given, Mapping) else given for net in NETS]
    keys = [one if isinstance(one, str) else id(one) for one in of_nets]  # compared first, since objects may define ==
    return (*keys, *of_nets, _is_saved(given), bool(model.conflict_freq), one_task_at_a_time(model.task_schedule))


def begun_combining(model: Any) -> GradientCombining | None:
    """Return what combines or measures the gradients of a model whose tasks are known; ``None`` if nothing does.

    Combiners that are equal to those of the model's file, or to those that it has, take over their memory.

    :raises ValueError: with fewer than two tasks in an update
    """
    given, freq, saved = model.gradient_combiner, model.conflict_freq, model.combiner_state
    if _is_saved(given):  # the state is kept for the object that is to come
        return None
    model.combiner_state = None
    if given is None and not freq:
        return None
    asked = "`gradient_combiner`" if given is not None else "`conflict_freq`"
    names = model.task_names or ()
    if one_task_at_a_time(model.task_schedule) or len(names) < 2:
        reason = f"`task_schedule` is {model.task_schedule!r:.100}" if len(names) > 1 else f"the only task is {names}"
        raise ValueError(
            f"{asked} needs the gradients of several tasks in each update, and {reason}: leave it out, or train "
            'several tasks with task_schedule="joint"'
        )
    combiners = make_combiners(given)
    for i, net in enumerate(NETS):
        if net in combiners:
            combiners[net].begin(model.seed, i)
    combining = GradientCombining(combiners, len(names))
    if saved is None and model.combining is not None:
        former = model.combining
        if combiners and _text(former.settings()) == _text(combining.settings()):
            combining.set_state(former.get_state())
    elif saved is not None and combiners:
        if _text(saved["settings"]) == _text(combining.settings()):
            combining.set_state(saved["state"])
        else:
            warnings.warn(
                f"The model was trained with the gradient combiners {saved['settings']!r}: these are others, and begin "
                "without the memory of those.",
                stacklevel=2,
            )
    return combining


def check_shares(model: Any) -> None:
    """Raise ValueError if the tasks share no layer of a net that is to be combined, or of no net that is measured."""
    if model.combining is None:
        return
    shared = shared_parameters(model.policy)
    if not any(shared.values()):
        asked = "gradient_combiner" if model.combining.combiners else "conflict_freq"
        raise ValueError(f"`{asked}` has nothing to look at: by `net_arch` the tasks share no layer")
    for net in NETS:
        if model.combining.combines(net) and not shared[net]:
            raise ValueError(
                f"`gradient_combiner` has nothing to combine in the {net}: by `net_arch` the tasks share no layer of it"
            )


@contextmanager
def combiner_saved_as_settings(model: Any) -> Iterator[None]:
    """Let a model have the settings of its combiners in place of objects, while it is saved."""
    given, state = model.gradient_combiner, model.combiner_state
    try:
        if model.combining is not None and model.combining.combiners:
            model.combiner_state = {"settings": model.combining.settings(), "state": model.combining.get_state()}
        if not (is_plain(given) or _is_saved(given)):
            settings = {net: combiner.settings() for net, combiner in make_combiners(given).items()}
            model.gradient_combiner = {_SAVED: settings}
        yield
    finally:
        model.gradient_combiner, model.combiner_state = given, state


def log_conflicts(logger: Logger, combining: GradientCombining) -> None:
    """Record how the gradients of an update conflict, if it was measured."""
    measured, combining.unlogged = combining.unlogged, []
    for net in measured:
        statistics = pair_statistics(combining.cosines[net])
        if statistics is not None:
            logger.record(f"conflict/{net}/cosine_mean", statistics[0])
            logger.record(f"conflict/{net}/negative_share", statistics[1])


def combine_by_autograd(
    combining: GradientCombining,
    policy: MultiTaskActorCriticPolicy,
    objective: Sequence[Loss],
    batch: Any,
    outputs: Outputs,
    loss_weights: np.ndarray | None,
) -> None:
    """Combine the gradients that torch's parameters have, which are the sums of the tasks' contributions.

    It takes as many backward passes as tasks have rows in the batch; the graph must have been retained.

    :param loss_weights: what the losses of each task's rows are multiplied by, (n_tasks,); ``None``: all by 1
    """
    shared = {net: [p for p in found if p.requires_grad] for net, found in shared_parameters(policy).items()}
    nets = [net for net in NETS if combining.asks_for(net) and shared[net]]
    if not nets:
        return
    task = batch.observations["task"].long().flatten()
    here = task.unique().numpy(force=True)
    parameters = [parameter for net in nets for parameter in shared[net]]
    rows = [loss.rows(batch, outputs) for loss in objective]
    jacobian = []
    for number in here.tolist():
        weight = 1.0 if loss_weights is None else float(loss_weights[number])
        is_its_own = (task == number).to(outputs.values.dtype) * weight
        terms = [type(of_loss)(*((is_its_own * row).mean() for row in of_loss)) for of_loss in rows]
        contribution = sum(loss.weighted(of_loss) for loss, of_loss in zip(objective, terms, strict=True))
        gradients = th.autograd.grad(contribution, parameters, retain_graph=True, allow_unused=True)  # type: ignore[arg-type]
        jacobian.append([th.zeros_like(p) if g is None else g for p, g in zip(parameters, gradients, strict=True)])
    stacked = dict(zip(parameters, map(th.stack, zip(*jacobian, strict=True)), strict=True))
    for net in nets:
        matrices = [stacked[parameter].flatten(1) for parameter in shared[net]]
        gramian = sum((matrix @ matrix.T for matrix in matrices), start=th.zeros(()))
        factors = combining.factors(net, here, gramian.double().numpy(force=True))
        if combining.combines(net):
            of_rows = th.as_tensor(factors, dtype=gramian.dtype, device=gramian.device)
            for parameter, matrix in zip(shared[net], matrices, strict=True):
                if parameter.grad is not None:
                    parameter.grad = (of_rows @ matrix).view_as(parameter)


def _is_saved(gradient_combiner: Any) -> bool:
    return isinstance(gradient_combiner, Mapping) and set(gradient_combiner) == {_SAVED}


def _text(settings: Mapping[str, Any]) -> str:
    """Settings as they are in a file, in which a tuple is a list."""
    return json.dumps(settings, sort_keys=True, default=repr)
