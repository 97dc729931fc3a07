"""Distral: a policy that all tasks share, and task policies that are regularised towards it.

Teh et al. 2017, "Distral: Robust multitask reinforcement learning" (https://arxiv.org/abs/1707.04175).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, ClassVar, Literal, NamedTuple, TypeAlias, get_args

import numpy as np
import torch as th

from sb3_multitask.losses.gaussians import gaussian_kl
from sb3_multitask.losses.grouped import GroupedOutputs, GroupedRows, OutputGradient
from sb3_multitask.losses.loss import Loss, Outputs, Samples
from sb3_multitask.losses.schedules import as_number
from sb3_multitask.tasks import did_you_mean

Form: TypeAlias = Literal["1col", "2col"]


@dataclass(frozen=True)
class Distral:
    """How strongly Distral regularises, and how the task policies are built; ``distral`` of an algorithm.

    With the shared policy ``pi_0`` and the policy ``pi_i`` of task i, the discounted return of eq. (1) is of the
    rewards

        r + (alpha / beta) log pi_0(a | s) - (1 / beta) log pi_i(a | s)
        alpha = c_kl / (c_kl + c_ent)    beta = 1 / (c_kl + c_ent)

    so that ``alpha / beta = c_kl`` and ``1 / beta = c_kl + c_ent``. Its expectation is that of the rewards, less
    ``c_kl`` times KL(pi_i ‖ pi_0), plus ``c_ent`` times the entropy of pi_i, of this and of all later steps.

    ``c_kl=0`` leaves an entropy bonus, and a shared policy that learns nothing. It differs from the algorithm's
    ``ent_coef``, which may be given beside it: that one counts the entropy of the present step only. ``c_ent=0``
    leaves the KL.

    :param c_kl: weight of KL(task policy ‖ shared policy) for each step, in units of the (normalised) rewards per nat
    :param c_ent: weight of the entropy for each step, in the same units
    :param form: ``"1col"``: each task has its own head; ``"2col"``: the policy of a task is proportional to
        ``pi_0^alpha exp(beta f_i)`` (section 2.2), where the head of task i gives the Gaussian ``exp(beta f_i)``.
        Gradients flow into both
    :raises TypeError: on a coefficient that is no number
    :raises ValueError: on a coefficient that is negative or not finite, two that are 0, or an unknown form
    """

    c_kl: float
    c_ent: float
    form: Form = "1col"

    def __post_init__(self) -> None:
        for name in ("c_kl", "c_ent"):
            number = as_number(value := getattr(self, name))
            if number is None or not 0 <= number < math.inf:
                error = TypeError if number is None else ValueError
                raise error(f"`{name}` of Distral must be a finite number of at least 0 (got {value!r:.100})")
            object.__setattr__(self, name, number)  # numpy's numbers and tensors do not go into files of settings
        if self.c_kl == 0 and self.c_ent == 0:
            raise ValueError("`c_kl` and `c_ent` of Distral are both 0, and regularise nothing: use distral=None")
        if self.form not in get_args(Form):
            raise ValueError(f"`form` of Distral must be one of {', '.join(get_args(Form))} (got {self.form!r})")

    @property
    def alpha(self) -> float:
        """The share of the KL among the two terms, from 0 to 1."""
        return self.c_kl / (self.c_kl + self.c_ent)

    @property
    def beta(self) -> float:
        """The inverse temperature."""
        return 1 / (self.c_kl + self.c_ent)

    @property
    def shared_power(self) -> float:
        """The power of the shared policy in those of the tasks: 0 for ``"1col"``, alpha for ``"2col"``."""
        return 0.0 if self.form == "1col" else self.alpha

    def has_shared_power(self, power: float) -> bool:
        """Whether the shared policy has this power in those of the tasks; the same ratios may be rounded otherwise."""
        return math.isclose(self.shared_power, power, rel_tol=1e-9)

    def reward(self, log_prob: np.ndarray, shared_log_prob: np.ndarray) -> np.ndarray:
        """Return what is added to the rewards of steps, of any shape.

        :param log_prob: of the actions taken, under their task's policy that took them
        :param shared_log_prob: of the same actions, under the shared policy
        """
        return np.asarray(self.c_kl * shared_log_prob - (self.c_kl + self.c_ent) * log_prob)

    def as_setting(self) -> dict[str, Any]:
        """Return the arguments, as plain values."""
        return asdict(self)


def make_distral(given: Distral | Mapping[str, Any] | None) -> Distral | None:
    """Return ``distral`` of an algorithm as an object; a config has its arguments in a mapping.

    :raises TypeError: on another type, or arguments that ``Distral`` does not have or lacks
    :raises ValueError: as ``Distral``
    """
    if given is None or isinstance(given, Distral):
        return given
    if not isinstance(given, Mapping):
        raise TypeError(
            "`distral` must be None, a Distral, such as Distral(c_kl=0.1, c_ent=0.01), or a mapping of its arguments "
            f"(got {given!r:.100})"
        )
    known = [field.name for field in fields(Distral)]
    for name in given:
        if name not in known:
            raise TypeError(
                f"`distral` has no argument {name!r}.{did_you_mean(str(name), known)} Known: {', '.join(known)}"
            )
    if missing := [name for name in ("c_kl", "c_ent") if name not in given]:
        raise TypeError(f"`distral` needs {' and '.join(missing)} (got {dict(given)!r:.100})")
    return Distral(**given)


class DistralTerms(NamedTuple):
    """What is logged of Distral: scalars, or one value for each row.

    ``loss`` is ``-log pi_0`` of the actions taken, and ``kl`` is KL(pi_i ‖ pi_0), both in nats.
    """

    loss: Any
    kl: Any


@dataclass(frozen=True)
class DistralLoss(Loss):
    """``coef`` times the negative log-likelihood of the actions of all tasks under the shared policy.

    This is how the objective depends on ``pi_0`` where it is written, in ``(alpha / beta) log pi_0(a | s)``: maximum
    likelihood on what all tasks did, whose optimum is the centroid of their policies. ``coef`` is ``alpha / beta``,
    which is ``c_kl``. Where the objective depends on the policies by what they do, the algorithm's own policy
    gradient is enough, with advantages of regularised rewards; the derivative of ``log pi_i`` where it is written has
    the expectation 0 (section 2.2).

    There is no numpy side: torch's engine alone evaluates this loss.
    """

    pooled_keys: ClassVar[dict[str, str]] = {"loss": "train/distral_loss"}
    task_key: ClassVar[str] = "distral/{task}/{term}"

    coef: float

    def rows(self, batch: Samples, outputs: Outputs) -> DistralTerms:  # noqa: ARG002 (the signature of all losses)
        ours, shared = outputs.distribution, outputs.shared_distribution
        assert shared is not None
        assert outputs.shared_log_prob is not None
        with th.no_grad():
            kl = gaussian_kl(ours.mean, ours.stddev.log(), shared.mean, shared.stddev.log())
        return DistralTerms(-outputs.shared_log_prob, kl)

    def weighted(self, terms: DistralTerms) -> th.Tensor:
        weighted: th.Tensor = self.coef * terms.loss
        return weighted

    def output_gradient(self, rows: GroupedRows, outputs: GroupedOutputs) -> OutputGradient:
        raise NotImplementedError("DistralLoss is evaluated by the torch engine")
