"""Losses as pure functions: tensors in, tensors out.

Rows are the transitions of one rollout, ``(n_rows,)`` with ``n_rows = n_steps * n_envs``.
"""

from __future__ import annotations

from dataclasses import dataclass

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


def _check_rows(**tensors: th.Tensor) -> None:
    shapes = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if len(set(shapes.values())) != 1 or any(len(shape) != 1 for shape in shapes.values()):
        raise ValueError(f"All of these must have the same shape (n_rows,), got {shapes}")
