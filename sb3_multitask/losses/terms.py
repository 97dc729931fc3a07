"""Losses as pure functions: tensors in, tensors out.

Rows are the transitions of one rollout, ``(n_rows,)`` with ``n_rows = n_steps * n_envs``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch as th
import torch.nn.functional as F  # noqa: N812


@dataclass(frozen=True)
class A2CLoss:
    """The terms of A2C's objective; each a scalar, or (n_tasks,) after :func:`a2c_loss_per_task`.

    The objective is ``policy_loss + ent_coef * entropy_loss + vf_coef * value_loss``.
    """

    policy_loss: th.Tensor
    value_loss: th.Tensor
    entropy_loss: th.Tensor


def a2c_loss(
    log_prob: th.Tensor,
    values: th.Tensor,
    entropy: th.Tensor,
    advantages: th.Tensor,
    returns: th.Tensor,
) -> A2CLoss:
    """Advantage actor-critic (the paper's section 3.1.2; Mnih et al. 2016), means over all rows.

    :param log_prob: log-probability of the taken actions, (n_rows,)
    :param values: value estimates, (n_rows,)
    :param entropy: entropy of the action distributions, (n_rows,), in nats
    :param advantages: eq. (3), or its lambda-weighted form, (n_rows,)
    :param returns: targets of the value function, (n_rows,)
    :raises ValueError: if a shape differs
    """
    _check_rows(log_prob=log_prob, values=values, entropy=entropy, advantages=advantages, returns=returns)
    return A2CLoss(
        policy_loss=-(advantages * log_prob).mean(),
        value_loss=F.mse_loss(returns, values),
        entropy_loss=-th.mean(entropy),
    )


def a2c_loss_per_task(
    task: th.Tensor,
    n_tasks: int,
    log_prob: th.Tensor,
    values: th.Tensor,
    entropy: th.Tensor,
    advantages: th.Tensor,
    returns: th.Tensor,
) -> A2CLoss:
    """The same terms as means over each task's rows, (n_tasks,); NaN for a task without rows.

    :param task: task id of each row, (n_rows,)
    """
    rows = th.stack((-advantages * log_prob, (returns - values) ** 2, -entropy), dim=1)
    sums = rows.new_zeros(n_tasks, 3).index_add_(0, task, rows)
    policy_loss, value_loss, entropy_loss = (sums / th.bincount(task, minlength=n_tasks).unsqueeze(1)).unbind(1)
    return A2CLoss(policy_loss, value_loss, entropy_loss)


def mean_per_task(task: th.Tensor, n_tasks: int, loss: th.Tensor) -> th.Tensor:
    """Means of a loss (n_rows,) over each task's rows, (n_tasks,); NaN for a task without rows."""
    return loss.new_zeros(n_tasks).index_add_(0, task, loss) / th.bincount(task, minlength=n_tasks)


def _check_rows(**tensors: th.Tensor) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) != 1 or any(len(shape) != 1 for shape in shapes.values()):
        raise ValueError(f"All of these must have the same shape (n_rows,), got {shapes}")


_NEAR_ZERO = 0.25
_SERIES = [1 / math.factorial(n) for n in range(2, 13)]  # what is left out is below 1e-14 of the sum
DistillLoss: TypeAlias = Literal["forward_kl", "reverse_kl", "mse"]


def gaussian_kl(mean_p: th.Tensor, log_std_p: th.Tensor, mean_q: th.Tensor, log_std_q: th.Tensor) -> th.Tensor:
    """KL(p ‖ q) of diagonal Gaussians in nats, summed over the action dimensions, (n_rows,).

    Written so that it keeps its digits near zero too, where the difference of large terms would not: the part of the
    log-stds has a relative error below 2e-6 in float32 and 1e-13 in float64. It is never negative.

    :param mean_p: (n_rows, action_dim)
    :param log_std_p: logarithm of the standard deviations, (n_rows, action_dim), or one row for all
    :param mean_q: (n_rows, action_dim)
    :param log_std_q: like ``log_std_p``
    :raises ValueError: if a shape differs
    """
    _check_gaussians(mean_p, log_std_p, mean_q, log_std_q)
    log_ratio = 2 * (log_std_p - log_std_q)
    distance = (mean_p - mean_q) * th.exp(-log_std_q)
    return 0.5 * (_expm1_less_x(log_ratio) + distance**2).sum(dim=-1)


def _expm1_less_x(x: th.Tensor) -> th.Tensor:
    """exp(x) - 1 - x; near zero by its series, since the difference would leave rounding only."""
    near = x.clamp(-_NEAR_ZERO, _NEAR_ZERO)  # elsewhere the series could overflow, and its gradient with it
    series = near.new_full((), _SERIES[-1])
    for coefficient in reversed(_SERIES[:-1]):
        series = coefficient + near * series
    return th.where(x.abs() < _NEAR_ZERO, near * near * series, th.expm1(x) - x)


def distill_loss(
    kind: DistillLoss,
    teacher_mean: th.Tensor,
    teacher_log_std: th.Tensor,
    student_mean: th.Tensor,
    student_log_std: th.Tensor,
) -> th.Tensor:
    """How far a student's action distribution is from its teacher's, of each row, (n_rows,).

    :param kind: ``"forward_kl"``, KL(teacher ‖ student): what the paper's text names, D_KL(T, S), and its authors'
        code computes; ``"reverse_kl"``, KL(student ‖ teacher): the paper's eq. (4) as printed, which has the inverse
        of the teacher's covariance in both terms; ``"mse"``, the squared errors of means and standard deviations
    :param teacher_mean: (n_rows, action_dim); the others alike, a log-std may be one row for all
    :raises ValueError: if a shape differs
    """
    if kind == "forward_kl":
        return gaussian_kl(teacher_mean, teacher_log_std, student_mean, student_log_std)
    if kind == "reverse_kl":
        return gaussian_kl(student_mean, student_log_std, teacher_mean, teacher_log_std)
    _check_gaussians(teacher_mean, teacher_log_std, student_mean, student_log_std)
    std_error = th.exp(student_log_std) - th.exp(teacher_log_std)
    return ((student_mean - teacher_mean) ** 2 + std_error**2).sum(dim=-1)


def _check_gaussians(mean_p: th.Tensor, log_std_p: th.Tensor, mean_q: th.Tensor, log_std_q: th.Tensor) -> None:
    shapes = [tuple(tensor.shape) for tensor in (mean_p, log_std_p, mean_q, log_std_q)]
    n_rows, action_dim = shapes[0] if len(shapes[0]) == 2 else (-1, -1)
    log_stds = {(action_dim,), (1, action_dim), (n_rows, action_dim)}
    if n_rows < 0 or shapes[2] != shapes[0] or not {shapes[1], shapes[3]} <= log_stds:
        raise ValueError(f"Means must be (n_rows, action_dim), log-stds alike or one row; got {shapes}")
