"""A policy's parameters as one flat array, shared with torch."""

from __future__ import annotations

from dataclasses import dataclass
from operator import attrgetter
from typing import Any

import numpy as np
import torch as th
from torch import nn

from sb3_multitask.heads import TaskHeads
from sb3_multitask.policies import MultiTaskActorCriticPolicy

Layer = tuple[np.ndarray, np.ndarray]
_VERSION = attrgetter("_version")


@dataclass
class Nets:
    """Arrays in the shape of a policy: its weights, or a gradient.

    ``trunk_pi``, ``trunk_vf``: per layer (weight (out, in), bias (out,)); ``head_pi``, ``head_vf``: per layer
    (weight (n_tasks, in, out), bias (n_tasks, out)); ``log_std`` (n_tasks, action_dim), or (action_dim,) if shared.
    """

    trunk_pi: list[Layer]
    trunk_vf: list[Layer]
    head_pi: list[Layer]
    head_vf: list[Layer]
    log_std: np.ndarray


class FlatParameters:
    """Moves a policy's parameters and its RMSprop state into flat tensors, and looks at them from numpy.

    The torch parameters stay the same objects; only their storage is now a slice of a flat one, so that an update is
    a handful of array operations. Whatever writes into them in place (an optimizer, ``load_state_dict``) is seen here;
    what replaces their storage (``.to()``, ``load_from_vector``) is noticed by :meth:`is_current`.

    :param policy: the policy; its optimizer is RMSprop
    """

    def __init__(self, policy: MultiTaskActorCriticPolicy) -> None:
        self.policy = policy
        self._parameters = list(policy.parameters())
        dtype = self._parameters[0].dtype
        n = sum(parameter.numel() for parameter in self._parameters)
        weights, averages = th.empty(n, dtype=dtype), th.zeros(n, dtype=dtype)
        steps = th.zeros(len(self._parameters))
        self.offsets: dict[nn.Parameter, slice] = {}
        start = 0
        for parameter, step in zip(self._parameters, steps, strict=True):
            place = slice(start, start + parameter.numel())
            self.offsets[parameter] = place
            weights[place] = parameter.detach().flatten()
            parameter.data = weights[place].view_as(parameter)
            if parameter.requires_grad:
                self._adopt_state(parameter, averages[place].view_as(parameter), step)
            start = place.stop
        self.weights = weights.numpy()
        self.gradient = np.zeros_like(self.weights)
        self.is_trained = np.array([parameter.requires_grad for parameter in self._parameters])
        tensors = (weights, th.from_numpy(self.gradient), averages, th.empty_like(weights))
        self.trainable = [tuple(tensor[place] for tensor in tensors) for place in self._runs(frozen=False)]
        self.frozen_gradients = [self.gradient[place] for place in self._runs(frozen=True)]
        self.weight_nets = self._nets(self.weights)
        self.gradient_nets = self._nets(self.gradient)
        self.steps = steps.numpy()
        self._pointers = self._identity()
        self._optimizer_state = policy.optimizer.state

    def _adopt_state(self, parameter: nn.Parameter, average: th.Tensor, step: th.Tensor) -> None:
        """Give the optimizer's state of a parameter its place in the flat tensors; make it if there is none."""
        state = self.policy.optimizer.state[parameter]
        if "square_avg" in state:
            average.copy_(state["square_avg"])
            step.copy_(state["step"])
        state["square_avg"], state["step"] = average, step

    def is_current(self) -> bool:
        """Whether the policy and its optimizer still live in the flat arrays."""
        return (
            self.policy.optimizer.state is self._optimizer_state  # load_state_dict makes a new one
            and self._identity() == self._pointers
        )

    def version(self) -> tuple[int, int]:
        """Differs once somebody has put in weights: how often torch wrote into the parameters, and where they live.

        Of where, only the first is asked, since this is asked at every step; :meth:`is_current` asks all.
        """
        return sum(map(_VERSION, self._parameters)), self._parameters[0].data_ptr()

    def _identity(self) -> list[tuple[int, bool]]:
        """Where the parameters live, and which of them are trained."""
        return [(parameter.data_ptr(), parameter.requires_grad) for parameter in self._parameters]

    def _runs(self, frozen: bool) -> list[slice]:
        """The places of the parameters that are frozen, or are not; neighbours as one."""
        runs: list[slice] = []
        for parameter in self._parameters:
            place = self.offsets[parameter]
            if parameter.requires_grad == frozen:
                continue
            if runs and runs[-1].stop == place.start:
                place = slice(runs.pop().start, place.stop)
            runs.append(place)
        return runs

    def _nets(self, flat: np.ndarray) -> Nets:
        policy = self.policy

        def view(parameter: Any) -> np.ndarray:
            return flat[self.offsets[parameter]].reshape(parameter.shape)

        def trunk(net: nn.Module) -> list[Layer]:
            return [(view(m.weight), view(m.bias)) for m in net.modules() if isinstance(m, nn.Linear)]

        def heads(net: nn.Module) -> list[Layer]:
            assert isinstance(net, TaskHeads)
            return [(view(layer.weight), view(layer.bias)) for layer in net.layers]

        extractor = policy.mlp_extractor
        return Nets(
            trunk(extractor.policy_net),
            trunk(extractor.value_net),
            heads(policy.action_net),
            heads(policy.value_net),
            view(policy.log_std),
        )
