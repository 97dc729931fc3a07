"""The gradient of the loss in closed form, and RMSprop's step.

With ``z = (a - mu) / sigma`` and N rows, the loss of ``losses.a2c_loss`` has the derivatives

    d/d mu        = -advantage / N * z / sigma
    d/d log sigma = -advantage / N * (z^2 - 1) - ent_coef / N       (per row; summed over the rows of a task)
    d/d value     = vf_coef * 2 / N * (value - return)

and, with a teacher (mu_t, sigma_t), each mean over the rows,

    KL(teacher || student)  d/d mu = (mu - mu_t) / sigma^2    d/d log sigma = 1 - (sigma_t^2 + (mu - mu_t)^2) / sigma^2
    KL(student || teacher)  d/d mu = (mu - mu_t) / sigma_t^2  d/d log sigma = sigma^2 / sigma_t^2 - 1
    MSE                     d/d mu = 2 (mu - mu_t)            d/d log sigma = 2 (sigma - sigma_t) sigma

and the chain rule through tanh layers does the rest.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import repeat

import numpy as np
import torch as th

from sb3_multitask.fast.nets import Tasks, heads_backward, trunk_backward
from sb3_multitask.fast.parameters import FlatParameters, Nets
from sb3_multitask.losses import A2CLoss, DistillLoss, distill_loss
from sb3_multitask.vec_env.task_major import by_step, by_task

_HALF_LOG_2_PI = 0.5 * np.log(2 * np.pi)


@dataclass
class Targets:
    """What the teachers would have done in a rollout: means and log-stds, each (k, T * m, action_dim)."""

    mean: np.ndarray
    log_std: np.ndarray
    kind: DistillLoss


@dataclass
class Rollout:
    """One rollout and what was computed while collecting it; T steps, n = k * m envs, k tasks.

    ``trunk_pi``: activations of the actor's trunk, each (T * n, dim); ``heads_pi``: of its heads, each
    (k, T * m, dim), the last being the means; ``trunk_vf``, ``heads_vf`` likewise for the critic.
    """

    tasks: Tasks
    k: int
    trunk_pi: list[np.ndarray]
    heads_pi: list[np.ndarray]
    trunk_vf: list[np.ndarray]
    heads_vf: list[np.ndarray]
    actions: np.ndarray  # (T, n, action_dim)
    advantages: np.ndarray  # (T, n)
    returns: np.ndarray  # (T, n)
    values: np.ndarray  # (T, n)
    targets: Targets | None = None
    keep: np.ndarray | None = None  # (T, n), which rows to learn from; None: all


@dataclass
class LossRows:
    """What the terms of an update's loss are computed from, if somebody asks: they are logged far less often.

    ``advantage``, ``error`` (value minus return): (k, T * m, 1); ``z_squared``: (k, T * m, action_dim); ``log_std``:
    (k, 1, action_dim), before the update; ``values``, ``returns``: (T, n).
    """

    tasks: Tasks
    n_tasks: int
    advantage: np.ndarray
    error: np.ndarray
    z_squared: np.ndarray
    log_std: np.ndarray
    values: np.ndarray
    returns: np.ndarray
    mean: np.ndarray  # (k, T * m, action_dim)
    targets: Targets | None
    kept: np.ndarray | None = None  # (k, T * m, 1), 1 or 0

    def distillation(self) -> dict[str, th.Tensor]:
        """Each task's distillation loss and KL(teacher || student), means over its rows; none without teachers."""
        if self.targets is None:
            return {}
        losses = {"loss": self.targets.kind, "kl": "forward_kl"}
        return {name: self._of_all_tasks(self._distill_per_task(kind)) for name, kind in losses.items()}

    def _distill_per_task(self, kind: str) -> np.ndarray:
        assert self.targets is not None
        log_std = np.broadcast_to(self.log_std, self.mean.shape)
        rows = (self.targets.mean, self.targets.log_std, self.mean, log_std)
        flat = (th.from_numpy(np.ascontiguousarray(array).reshape(-1, self.mean.shape[2])) for array in rows)
        losses: np.ndarray = distill_loss(kind, *flat).numpy().reshape(len(self.mean), -1)  # type: ignore[arg-type]
        return self._mean(losses[:, :, None])

    def per_task(self) -> A2CLoss:
        """The terms as means over each task's rows, (n_tasks,); NaN for a task that took no part."""
        per_action = self.log_std[:, 0] + _HALF_LOG_2_PI
        log_prob = -0.5 * self.z_squared.sum(axis=2, keepdims=True) - per_action.sum(axis=1)[:, None, None]
        policy_loss = -self._mean(self.advantage * log_prob)
        value_loss = self._mean(self.error * self.error)
        entropy_loss = -(0.5 + per_action).sum(axis=1)
        return A2CLoss(*map(self._of_all_tasks, (policy_loss, value_loss, entropy_loss)))

    def _mean(self, rows: np.ndarray) -> np.ndarray:
        """Mean of (k, T * m, 1) over each task's rows, (k,)."""
        if self.kept is None:
            return np.asarray(rows.mean(axis=(1, 2)))
        n_kept = self.kept.sum(axis=(1, 2))
        return np.asarray((rows * self.kept).sum(axis=(1, 2)) / np.where(n_kept > 0, n_kept, np.nan))

    def present(self) -> list[bool]:
        """Whether each task took part, (n_tasks,)."""
        here = np.zeros(self.n_tasks, dtype=bool)
        here[self.tasks] = True if self.kept is None else self.kept.any(axis=(1, 2))
        return here.tolist()

    def _of_all_tasks(self, values: np.ndarray) -> th.Tensor:
        everyone = np.full(self.n_tasks, np.nan, dtype=values.dtype)
        everyone[self.tasks] = values
        return th.from_numpy(everyone)


def task_rows(log_std: np.ndarray, tasks: Tasks, k: int) -> np.ndarray:
    """log-std of the tasks, (k, 1, action_dim), from one vector per task or a shared one."""
    rows = log_std[tasks] if log_std.ndim == 2 else np.broadcast_to(log_std, (k, len(log_std)))
    return rows[:, None]


def a2c_gradient(
    weights: Nets,
    gradient: Nets,
    rollout: Rollout,
    ent_coef: float,
    vf_coef: float,
    normalize_advantage: bool,
    rl_coef: float = 1.0,
    distill_coef: float = 0.0,
) -> LossRows:
    """Write the gradient of the loss into ``gradient``; tasks that took no part keep what stands there.

    The loss is ``rl_coef * (policy loss + ent_coef * entropy loss) + vf_coef * value loss + distill_coef *
    distillation loss``.
    """
    n_steps, n_envs = rollout.advantages.shape
    n_rows, k, tasks, keep = n_steps * n_envs, rollout.k, rollout.tasks, rollout.keep
    n_learned = n_rows if keep is None else int(keep.sum())
    advantages = rollout.advantages
    if normalize_advantage and n_learned > 1:  # a single row has no spread, as in SB3's PPO
        learned = advantages if keep is None else advantages[keep]
        advantages = (advantages - learned.mean()) / (learned.std(ddof=1) + 1e-8)
    grouped = by_task(np.stack((advantages, rollout.values - rollout.returns), axis=2), k)  # (k, T * m, 2)
    kept = None if keep is None else by_task(keep[:, :, None].astype(grouped.dtype), k)
    if kept is not None:
        grouped *= kept
    advantage, error = grouped[:, :, :1], grouped[:, :, 1:]

    log_std = task_rows(weights.log_std, tasks, k)
    std = np.exp(log_std)
    z = (by_task(rollout.actions, k) - rollout.heads_pi[-1]) / std
    z_squared = z * z
    scaled = advantage * (-rl_coef / n_learned)  # -A / N
    d_mean = scaled * z
    d_mean /= std
    d_log_std = (scaled * (z_squared - 1)).sum(axis=1)
    d_log_std -= rl_coef * ent_coef * (z.shape[1] if kept is None else kept.sum(axis=1)) / n_learned
    if rollout.targets is not None:
        _add_distillation(d_mean, d_log_std, rollout, std, distill_coef / n_learned, kept)
    if weights.log_std.ndim == 2:
        gradient.log_std[tasks] = d_log_std
    else:
        np.sum(d_log_std, axis=0, out=gradient.log_std)

    d_latent = heads_backward(weights.head_pi, gradient.head_pi, rollout.heads_pi, d_mean, tasks)
    d_latent = by_step(d_latent, n_steps).reshape(n_rows, -1)
    trunk_backward(weights.trunk_pi, gradient.trunk_pi, rollout.trunk_pi, d_latent)

    d_value = error * (2 * vf_coef / n_learned)
    d_latent = heads_backward(weights.head_vf, gradient.head_vf, rollout.heads_vf, d_value, tasks)
    d_latent = by_step(d_latent, n_steps).reshape(n_rows, -1)
    trunk_backward(weights.trunk_vf, gradient.trunk_vf, rollout.trunk_vf, d_latent)

    return LossRows(
        tasks,
        len(weights.head_vf[-1][1]),
        advantage,
        error,
        z_squared,
        log_std.copy(),
        rollout.values,
        rollout.returns,
        rollout.heads_pi[-1],
        rollout.targets,
        kept,
    )


def _add_distillation(
    d_mean: np.ndarray,
    d_log_std: np.ndarray,
    rollout: Rollout,
    std: np.ndarray,
    coef: float,
    kept: np.ndarray | None,
) -> None:
    """Add the gradient of ``coef`` times the sum of the (kept) rows' distillation losses."""
    targets = rollout.targets
    assert targets is not None
    distance = rollout.heads_pi[-1] - targets.mean
    teacher_std = np.exp(targets.log_std)
    if targets.kind == "forward_kl":
        variance = std * std
        by_mean = distance / variance
        by_log_std = 1 - (teacher_std * teacher_std + distance * distance) / variance
    elif targets.kind == "reverse_kl":
        variance = teacher_std * teacher_std
        by_mean = distance / variance
        by_log_std = std * std / variance - 1
    else:
        by_mean = 2 * distance
        by_log_std = 2 * (std - teacher_std) * std
    if kept is not None:
        by_mean, by_log_std = by_mean * kept, by_log_std * kept
    d_mean += coef * by_mean
    d_log_std += coef * by_log_std.sum(axis=1)


def clip_gradient(gradient: np.ndarray, max_norm: float) -> float:
    """Scale the gradient to at most ``max_norm``, as torch's ``clip_grad_norm_``; return its norm before."""
    with np.errstate(over="ignore"):  # an infinite norm is the caller's to refuse
        norm = float(np.sqrt(np.dot(gradient, gradient)))
    scale = max_norm / (norm + 1e-6)
    if scale < 1:
        gradient *= scale
    return norm


def rmsprop_step(
    parameters: FlatParameters, lr: float, alpha: float, eps: float, present: Sequence[bool] | None = None
) -> None:
    """One step of torch's RMSprop, by its own operations on the flat tensors; frozen parameters are left out.

    :param present: whether each task took part, (n_tasks,); ``None``: all did. Heads of the others stay as they are,
        and so do the averages of their gradients, which are 0
    """
    decays: Iterable[th.Tensor | float] = repeat(alpha) if present is None else parameters.decays(alpha, present)
    for (weights, gradient, average, scratch), decay in zip(parameters.trainable, decays, strict=False):
        average.mul_(decay).addcmul_(gradient, gradient, value=1 - alpha)
        weights.addcdiv_(gradient, th.sqrt(average, out=scratch).add_(eps), value=-lr)
    parameters.count_step()
