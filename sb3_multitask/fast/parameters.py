"""A policy's parameters as one flat array, shared with torch."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from operator import attrgetter, methodcaller
from typing import Any, Self, TypeAlias

import numpy as np
import torch as th
from torch import nn

from sb3_multitask.policies import MultiTaskActorCriticPolicy
from sb3_multitask.policies.heads import TaskHeads
from sb3_multitask.policies.task_steps import forget_counts, stacked_parameters
from sb3_multitask.process.arrays import aligned_zeros

Layer: TypeAlias = tuple[np.ndarray, np.ndarray]


class Layers(tuple[Layer, ...]):
    """The layers of a net, (weight, bias) each, and the layer norms between the first of them and their activations.

    Compiled functions take ``arrays``: weights, biases, and scale and shift of each norm in turn, or one empty array,
    since a tuple of none has no type.

    :param layers: (weight, bias) each
    :param norms: (scale, shift) each, of the shape of the biases; there are none, or of all layers with an activation
    """

    weights: tuple[np.ndarray, ...]
    biases: tuple[np.ndarray, ...]
    norms: tuple[Layer, ...]
    arrays: tuple[tuple[np.ndarray, ...], ...]

    def __new__(cls, layers: Iterable[Layer], norms: Iterable[Layer] = ()) -> Self:
        made = super().__new__(cls, layers)
        made.weights, made.biases = tuple(weight for weight, _ in made), tuple(bias for _, bias in made)
        made.norms = tuple(norms)
        none = tuple(np.empty((0,) * bias.ndim, bias.dtype) for bias in made.biases[:1])
        made.arrays = made.weights, made.biases, tuple(part for norm in made.norms for part in norm) or none
        return made

    def parts(self) -> list[np.ndarray]:
        """Weight and bias of each layer, and scale and shift of its norm, in the order of torch's parameters."""
        norms = self.norms or ((),) * len(self)
        return [part for layer, norm in zip(self, norms, strict=True) for part in (*layer, *norm)]

    def with_parts(self, parts: Sequence[np.ndarray]) -> Layers:
        """Other arrays, in the order of :meth:`parts`."""
        n = 4 if self.norms else 2
        columns = [parts[i::n] for i in range(n)]
        return Layers(zip(*columns[:2], strict=True), zip(*columns[2:], strict=True))

    def with_weights(self, weights: Iterable[np.ndarray], others: Callable[[np.ndarray], np.ndarray]) -> Layers:
        """Other weights, and what a function gives for each bias, scale and shift."""
        norms = ((others(scale), others(shift)) for scale, shift in self.norms)
        return Layers(zip(weights, map(others, self.biases), strict=True), norms)


AVERAGES: dict[type[th.optim.Optimizer], tuple[str, ...]] = {
    th.optim.RMSprop: ("square_avg",),
    th.optim.Adam: ("exp_avg", "exp_avg_sq"),
}
"""The optimizers that the fast engine knows, and what they keep of each parameter beside the count of steps."""
_VERSION, _IS_TRAINED, _POINTER = attrgetter("_version"), attrgetter("requires_grad"), methodcaller("data_ptr")


_LINE = 64  # bytes, to which torch aligns a tensor's memory


def _whole_lines(n: int, dtype: th.dtype) -> int:
    """The least number of elements, at least ``n``, that fill whole lines of memory."""
    per_line = _LINE // dtype.itemsize
    return -(-n // per_line) * per_line


def _places(parameters: list[nn.Parameter]) -> dict[nn.Parameter, slice]:
    """Where each parameter stands in the flat tensors."""
    places, start = {}, 0
    for parameter in parameters:
        start = _whole_lines(start, parameter.dtype)
        places[parameter] = slice(start, start + parameter.numel())
        start += parameter.numel()
    return places


@dataclass
class Nets:
    """Arrays in the shape of a policy: its weights, or a gradient.

    ``trunk_pi``, ``trunk_vf``: per layer (weight (out, in), bias (out,)); ``head_pi``, ``head_vf``: per layer
    (weight (n_tasks, in, out), bias (n_tasks, out)); norms are shaped like biases; ``log_std`` (n_tasks, action_dim),
    or (action_dim,) if shared.
    """

    trunk_pi: Layers
    trunk_vf: Layers
    head_pi: Layers
    head_vf: Layers
    log_std: np.ndarray


Gradient: TypeAlias = tuple[np.ndarray, Nets]
"""A flat gradient, and the same memory in the policy's shapes."""


def log_std_of(nets: Nets, tasks: slice | np.ndarray, k: int) -> np.ndarray:
    """log-std of k tasks, (k, 1, action_dim), from one vector per task or a shared one."""
    log_std = nets.log_std
    rows: np.ndarray = log_std[tasks] if log_std.ndim == 2 else np.broadcast_to(log_std, (k, len(log_std)))
    return rows[:, None]


class FlatParameters:
    """Moves a policy's parameters and its optimizer's state into flat tensors, and looks at them from numpy.

    The torch parameters stay the same objects; only their storage is now a slice of a flat one, so that an update is
    a handful of array operations. Whatever writes into them in place (an optimizer, ``load_state_dict``) is seen here;
    what replaces their storage (``.to()``, ``load_from_vector``) is noticed by :meth:`is_current`.

    Every parameter begins at a multiple of 64 bytes, as a tensor of its own does: torch's matrix products take other
    ways, which round differently, for other addresses, and a model must act as its copies do. Between parameters
    there may be a gap, whose gradient stays 0.

    :param policy: the policy; its optimizer is one of ``AVERAGES``
    """

    def __init__(self, policy: MultiTaskActorCriticPolicy) -> None:
        self.policy = policy
        self._parameters = list(policy.parameters())
        dtype = self._parameters[0].dtype
        self.offsets = _places(self._parameters)
        n = _whole_lines(max(place.stop for place in self.offsets.values()), dtype)
        weights, gradient = th.zeros(n, dtype=dtype), th.zeros(n, dtype=dtype)
        averages = {name: th.zeros(n, dtype=dtype) for name in AVERAGES[type(policy.optimizer)]}
        steps = th.zeros(len(self._parameters))
        for parameter, step in zip(self._parameters, steps, strict=True):
            place = self.offsets[parameter]
            weights[place] = parameter.detach().flatten()
            parameter.data = weights[place].view_as(parameter)
            if parameter.requires_grad:
                self._adopt_state(parameter, {name: a[place].view_as(parameter) for name, a in averages.items()}, step)
        self.weights, self.gradient, self._gradient = weights.numpy(), gradient.numpy(), gradient
        self.is_trained = np.array([parameter.requires_grad for parameter in self._parameters])
        self.steps, self._all_trained = steps.numpy(), bool(self.is_trained.all())
        tensors = (weights, gradient, *averages.values(), th.empty_like(weights))
        self._trained_runs, self._first_of_run = self._runs()
        self._first_of_runs = np.unique(self._first_of_run)
        self.trainable = [tuple(tensor[place] for tensor in tensors) for place in self._trained_runs]
        self.trainable_arrays = [tuple(tensor.numpy() for tensor in run) for run in self.trainable]
        self.flat = tensors
        self._places: dict[tuple[bool, ...] | None, np.ndarray] = {}
        self.weight_nets = self._nets(self.weights)
        self.gradient_nets = self._nets(self.gradient)
        states, stacked = policy.optimizer.state, stacked_parameters(policy).values()
        self._stacked_states = [states[parameter] for parameter in stacked if parameter.requires_grad]
        self._n_kept = len(averages) + 1  # and the count of steps
        self._pointers = [parameter.data_ptr() for parameter in self._parameters]
        self._was_trained = [parameter.requires_grad for parameter in self._parameters]
        self._optimizer_state = policy.optimizer.state

    def _adopt_state(self, parameter: nn.Parameter, averages: dict[str, th.Tensor], step: th.Tensor) -> None:
        """Give the optimizer's state of a parameter its place in the flat tensors; make it if there is none."""
        state = self.policy.optimizer.state[parameter]
        for name, average in averages.items():
            if name in state:
                average.copy_(state[name])
            state[name] = average
        if "step" in state:
            step.copy_(state["step"])
        state["step"] = step

    def another_gradient(self) -> Gradient:
        """Memory for a gradient of its own."""
        flat = aligned_zeros(self.gradient.shape, self.gradient.dtype)
        return flat, self._nets(flat)

    def shared_trained(self, net: str) -> list[bool]:
        """Whether each parameter that all tasks share is trained: the trunk's, as ``Layers.parts`` has them, log-std.

        :param net: "actor" or "critic"; the log-std is the actor's, and the last, if all tasks share it
        """
        policy = self.policy
        trunk = policy.mlp_extractor.policy_net if net == "actor" else policy.mlp_extractor.value_net
        parameters = list(trunk.parameters())
        if net == "actor" and policy.log_std.ndim == 1:
            parameters.append(policy.log_std)
        return [parameter.requires_grad for parameter in parameters]

    def is_current(self) -> bool:
        """Whether the policy and its optimizer still live in the flat arrays."""
        return (
            self.policy.optimizer.state is self._optimizer_state  # load_state_dict makes a new one
            and list(map(_POINTER, self._parameters)) == self._pointers
            and list(map(_IS_TRAINED, self._parameters)) == self._was_trained
        )

    def version(self) -> tuple[int, int]:
        """Differs once somebody has put in weights: how often torch wrote into the parameters, and where they live.

        Of where, only the first is asked, since this is asked at every step; :meth:`is_current` asks all.
        """
        return sum(map(_VERSION, self._parameters)), self._parameters[0].data_ptr()

    def places(self, present: Sequence[bool] | None) -> np.ndarray:
        """Where the trained parameters stand, without the heads of absent tasks: starts and stops, (n, 2) int64.

        :param present: whether each task took part, (n_tasks,); ``None``: all did
        """
        key = None if present is None else tuple(present)
        if key not in self._places:
            if len(self._places) > self.policy.n_tasks:  # each task's turn is met again and again; quarantines are rare
                self._places.clear()
            self._places[key] = np.array(list(self._find_places(present)), dtype=np.int64).reshape(-1, 2)
        return self._places[key]

    def _find_places(self, present: Sequence[bool] | None) -> Iterator[tuple[int, int]]:
        if present is None:
            yield from ((place.start, place.stop) for place in self._trained_runs)
            return
        stacked = set(stacked_parameters(self.policy).values())
        for parameter in self._parameters:
            start, size = self.offsets[parameter].start, parameter.numel()
            if not parameter.requires_grad:
                continue
            if parameter not in stacked:
                yield start, start + size
                continue
            of_task = size // len(present)
            yield from (
                (start + task * of_task, start + (task + 1) * of_task) for task, here in enumerate(present) if here
            )

    def steps_of_runs(self) -> list[float] | None:
        """How many steps the parameters of each of the ``trainable`` runs have made; None if those of a run differ."""
        if (self.steps[self.is_trained] != self.steps[self._first_of_run]).any():
            return None
        steps: list[float] = self.steps[self._first_of_runs].tolist()
        return steps

    def count_step(self) -> None:
        """Count a step of every parameter, as torch does."""
        if self._all_trained:
            self.steps += 1
        else:
            self.steps[self.is_trained] += 1

    def counts_by_task(self) -> bool:
        """Whether torch has made steps in which tasks were absent, and counts those of each task since."""
        return any(len(state) > self._n_kept for state in self._stacked_states)

    def forget_counts_by_task(self) -> None:
        """Count the steps of all tasks as one again."""
        for state in self._stacked_states:
            forget_counts(state)

    def give_gradients(self) -> None:
        """Let torch's parameters see the gradient, for an optimizer of torch."""
        for parameter in self._parameters:
            if parameter.requires_grad:
                parameter.grad = self._gradient[self.offsets[parameter]].view_as(parameter)

    def _runs(self) -> tuple[list[slice], np.ndarray]:
        """The places of the parameters that are not frozen; neighbours with as many steps as one.

        :return: the places, and for each of the parameters the first of its run
        """
        runs: list[slice] = []
        first: list[int] = []
        for i, parameter in enumerate(self._parameters):
            place = self.offsets[parameter]
            if not parameter.requires_grad:
                continue
            is_neighbour = (
                runs and _whole_lines(runs[-1].stop, parameter.dtype) == place.start
            )  # the gap between them holds no parameter
            if is_neighbour and self.steps[i] == self.steps[first[-1]]:
                place = slice(runs.pop().start, place.stop)
                first.append(first[-1])
            else:
                first.append(i)
            runs.append(place)
        return runs, np.array(first, dtype=np.int64)

    def _nets(self, flat: np.ndarray) -> Nets:
        policy = self.policy

        def view(parameter: Any) -> np.ndarray:
            return flat[self.offsets[parameter]].reshape(parameter.shape)

        def layers(linear: Iterable[Any], norms: Iterable[Any]) -> Layers:
            return Layers(*([(view(m.weight), view(m.bias)) for m in modules] for modules in (linear, norms)))

        def trunk(net: nn.Module) -> Layers:
            linear, norms = ([m for m in net.modules() if isinstance(m, kind)] for kind in (nn.Linear, nn.LayerNorm))
            return layers(linear, norms)

        def heads(net: nn.Module) -> Layers:
            assert isinstance(net, TaskHeads)
            return layers(net.layers, net.norms or ())

        extractor = policy.mlp_extractor
        return Nets(
            trunk(extractor.policy_net),
            trunk(extractor.value_net),
            heads(policy.action_net),
            heads(policy.value_net),
            view(policy.log_std),
        )
