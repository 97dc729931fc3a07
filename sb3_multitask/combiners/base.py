"""What all gradient combiners share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

import numpy as np

from sb3_multitask.process.generators import generator_state, make_generator
from sb3_multitask.process.seeding import combiner_generator


class Combiner(ABC):
    """Weighs the gradients of k tasks on the parameters that they share.

    A combiner of one's own defines :meth:`weights`. One with a memory also defines :meth:`reset`, and adds the memory
    to :meth:`get_state` and :meth:`set_state`. Its arguments belong into :meth:`settings`. Random numbers come from
    ``generator``.

    A model uses copies of the object that it is given, one for the actor and one for the critic.
    """

    def __init__(self) -> None:
        self.generator = np.random.default_rng(0)

    def begin(self, seed: int | None, net: int = 0) -> None:
        """Take a seed, once, before anything else.

        :param seed: of the combiner's own generator; ``None``: another one in every process
        :param net: another number gives other random numbers: 0 for the actor, 1 for the critic
        """
        self.generator = combiner_generator(seed, net)
        self.reset()

    @abstractmethod
    def weights(self, gramian: np.ndarray) -> np.ndarray:
        """Return the weights w, (k,), of the combined gradient ``sum_i w_i g_i``; ``1 / k`` each gives the mean.

        :param gramian: ``G[i, j] = <g_i, g_j>``, (k, k) float64, with k of at least 2, a positive diagonal and the
            trace k; gradients that are 0 have been left out
        """

    def reset(self) -> None:  # noqa: B027
        """Forget earlier Gramians: other tasks take part from here on. The base class remembers none."""

    def get_state(self) -> dict[str, Any]:
        """Return everything that changes after :meth:`begin`, as new plain values: lists, dicts, numbers, texts."""
        return {"generator": generator_state(self.generator)}

    def set_state(self, state: Mapping[str, Any]) -> None:
        """Restore what :meth:`get_state` returned; after :meth:`begin`."""
        generator = make_generator(state["generator"])
        assert generator is not None
        self.generator = generator

    def why_inexact(self) -> str | None:
        """Return why a training that resumes would not give the same weights; ``None`` if it would.

        A class that forgets what it remembers at :meth:`reset`, and does not say it in its state, would lose it.
        """
        for kind in type(self).__mro__:
            if kind is not Combiner and "reset" in vars(kind) and "get_state" not in vars(kind):
                return f"{kind.__name__} has reset() and no get_state() and set_state(state) of its own"
        return None

    def settings(self) -> dict[str, Any]:
        """Return what makes it the same combiner, as plain values: a training resumes with equal settings only."""
        return {"class": type(self).__qualname__}

    def __repr__(self) -> str:
        arguments = (f"{name}={value!r}" for name, value in self.settings().items() if name != "class")
        return f"{type(self).__name__}({', '.join(arguments)})"


class Mean(Combiner):
    """The mean of the gradients, as without a combiner: a baseline that costs what the others cost."""

    def weights(self, gramian: np.ndarray) -> np.ndarray:
        return np.full(len(gramian), 1 / len(gramian))
