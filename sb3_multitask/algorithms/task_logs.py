"""Per-task keys in SB3's logger, and what is said of a task that went wrong."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Never

import numpy as np
import torch as th
from stable_baselines3.common.logger import HumanOutputFormat, Logger

from sb3_multitask.losses import A2CLoss
from sb3_multitask.storage.csv_log import quote_keys

if TYPE_CHECKING:
    from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

_LONGEST_PREFIX_AND_KEY = len("rollout//explained_variance")


def make_room_for_tasks(logger: Logger, task_names: Iterable[str], prefix: str = "") -> None:
    """Widen the logger's tables so that keys with task names are not cut, and let its CSV quote commas in them.

    :param prefix: what stands before the task's name; what is before its first slash is a heading of the table
    SB3 cuts keys at 36 characters and raises when two become equal, which long task names make happen.
    """
    longest = max(map(len, task_names), default=0)
    needed = longest + _LONGEST_PREFIX_AND_KEY + len(prefix.partition("/")[2])
    quote_keys(logger)
    for output_format in logger.output_formats:
        if isinstance(output_format, HumanOutputFormat):
            output_format.max_length = max(output_format.max_length, needed)


def log_update(
    logger: Logger, names: Sequence[str], per_task: A2CLoss, present: Sequence[bool], terms: A2CLoss | None = None
) -> None:
    """Record the terms of the loss: SB3's keys, and the same for each task that took part.

    :param names: of all tasks
    :param per_task: means over each task's rows, (n_tasks,)
    :param present: whether a task took part, (n_tasks,)
    :param terms: means over all rows; by default those of ``per_task``, whose tasks have equally many rows
    """
    for term, means in vars(per_task).items():
        by_task = {name: mean for name, mean, here in zip(names, means.tolist(), present, strict=True) if here}
        pooled = sum(by_task.values()) / len(by_task) if terms is None else getattr(terms, term).item()
        logger.record(f"train/{term}", pooled)
        for name, mean in by_task.items():
            logger.record(f"train/{name}/{term}", mean)


def log_distillation(
    logger: Logger, names: Sequence[str], taught: dict[str, th.Tensor], present: Sequence[bool]
) -> None:
    """Record ``train/distill_loss`` and, of each task that took part, ``distill/<task>/loss`` and ``.../kl``.

    :param taught: ``loss`` and ``kl`` (teacher ‖ student, nats), each (n_tasks,); empty without teachers
    """
    for key, means in taught.items():
        by_task = {name: mean for name, mean, here in zip(names, means.tolist(), present, strict=True) if here}
        if key == "loss":
            logger.record("train/distill_loss", sum(by_task.values()) / len(by_task))
        for name, mean in by_task.items():
            logger.record(f"distill/{name}/{key}", mean)


def log_std(logger: Logger, names: Sequence[str], std: th.Tensor) -> None:
    """Record the standard deviation of the actions: SB3's key, and each task's if ``std`` is (n_tasks, action_dim)."""
    logger.record("train/std", std.mean().item())
    if std.ndim == 2:
        for name, mean in zip(names, std.mean(dim=1).tolist(), strict=True):
            logger.record(f"train/{name}/std", mean)


def episode_of(info: Mapping[str, Any]) -> dict[str, Any]:
    """An episode as its task's buffer keeps it: SB3's numbers, and ``success`` if the env says so."""
    episode = dict(info["episode"])
    if info.get("is_success") is not None:
        episode["success"] = float(info["is_success"])
    return episode


def log_episodes(logger: Logger, buffers: Mapping[str, Iterable[Mapping[str, Any]]]) -> list[dict[str, float]]:
    """Record the mean return and length of each task's latest episodes.

    :param buffers: task -> its latest episodes
    :return: the means ``r``, ``l`` and, of those that tell it, ``success`` of each task that has had an episode
    """
    means = []
    for name, episodes in buffers.items():
        keys = [key for key in ("r", "l", "success") if any(key in episode for episode in episodes)]
        mean = {key: float(np.mean([episode[key] for episode in episodes if key in episode])) for key in keys}
        if mean:
            logger.record(f"rollout/{name}/ep_rew_mean", mean["r"])
            logger.record(f"rollout/{name}/ep_len_mean", mean["l"])
            means.append(mean)
    return means


def log_last_update(model: OnPolicyAlgorithm) -> None:
    """Write a line with what the last update left in the log, which SB3 keeps for the next ``learn``.

    It stays there for that too, and for who reads ``model.logger.name_to_value`` after training.
    """
    logger, steps = model.logger, model.num_timesteps - model._num_timesteps_at_start
    if not (logger.name_to_value and steps):
        return
    parts: list[dict[str, Any]] = [logger.name_to_value, logger.name_to_count, logger.name_to_excluded]
    kept = [dict(part) for part in parts]
    model.dump_logs(steps // (model.n_steps * model.n_envs))
    for part, values in zip(parts, kept, strict=True):
        part.update(values)


def refuse_update(names: Sequence[str], per_task: A2CLoss, present: Sequence[bool]) -> Never:
    """Say whose loss is not finite; the weights are still as they were.

    :param per_task: means over each task's rows, (n_tasks,)
    :param present: whether a task took part, (n_tasks,)
    :raises RuntimeError: always
    """
    finite = th.isfinite(per_task.policy_loss) & th.isfinite(per_task.value_loss)
    guilty = [name for name, fine, here in zip(names, finite.tolist(), present, strict=True) if here and not fine]
    raise RuntimeError(
        f"The loss is not finite because of {', '.join(guilty) or 'the policy itself'}: NaN or infinite rewards, "
        "observations or weights. The update was not made."
    )
