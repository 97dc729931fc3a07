"""Per-task keys in SB3's logger, and the error of an update that is not finite."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any, Never

import numpy as np
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.logger import HumanOutputFormat, Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_multitask.algorithms.rollout_buffer import TaskRolloutBuffer
from sb3_multitask.algorithms.task_table import TaskTableFormat, shorten_tables
from sb3_multitask.losses import Evaluation, Loss
from sb3_multitask.many_tasks import listed
from sb3_multitask.policies import MultiTaskActorCriticPolicy
from sb3_multitask.process.kernels import load_kernels
from sb3_multitask.storage.csv_log import quote_keys

_NOWHERE = ("",)  # SB3's way to say that a value is excluded from no output
_LONGEST_PREFIX_AND_KEY = len("rollout//explained_variance")


def make_room_for_tasks(
    logger: Logger, task_names: Collection[str], prefix: str = "", *, shorten: bool = False
) -> None:
    """Widen the logger's tables so that keys with task names are not cut, and let its CSV quote commas in them.

    :param prefix: what stands before the task's name; what is before its first slash is a heading of the table
    :param shorten: whether the table on stdout leaves out most rows of many tasks, as the logger's are that SB3 makes;
        a logger of the user's own keeps everything
    SB3 cuts keys at 36 characters and raises when two become equal, which long task names make happen.
    """
    longest = max(map(len, task_names), default=0)
    needed = longest + _LONGEST_PREFIX_AND_KEY + len(prefix.partition("/")[2])
    quote_keys(logger)
    if shorten:
        shorten_tables(logger)
    for output_format in logger.output_formats:
        if isinstance(output_format, HumanOutputFormat):
            output_format.max_length = max(output_format.max_length, needed)
        if isinstance(output_format, TaskTableFormat):
            output_format.know_tasks(task_names, logger)


def log_evaluation(
    logger: Logger, names: Sequence[str], evaluation: Evaluation, others: Mapping[str, float] | None = None
) -> None:
    """Record the terms of an objective: of all rows, and of each task that took part, under the keys of their losses.

    :param names: of all tasks
    :param others: what else is recorded of the update, by its keys
    """
    values = dict(others or {})
    for loss, pooled, of_tasks in evaluation.losses:
        values.update(_keyed(loss, pooled, of_tasks, names, evaluation.tasks))
    _record(logger, values)


def _keyed(
    loss: Loss, pooled: Any, of_tasks: np.ndarray, names: Sequence[str], tasks: Sequence[int]
) -> dict[str, float]:
    """The terms of a loss by their keys in the log."""
    values = {key: getattr(pooled, term) for term, key in loss.pooled_keys.items()}
    keys = _task_keys(loss.task_key, tuple(names), tuple(tasks), pooled._fields)
    values.update(zip(keys, of_tasks.T.ravel().tolist(), strict=True))
    return values


@lru_cache
def _task_keys(key: str, names: tuple[str, ...], tasks: tuple[int, ...], terms: tuple[str, ...]) -> list[str]:
    """The key of each term of each task, task by task within a term."""
    return [key.format(task=names[task], term=term) for term in terms for task in tasks]


def _record(logger: Logger, values: Mapping[str, float]) -> None:
    """Record several values in one go, since this runs at every update."""
    if type(logger).record is not Logger.record:
        for key, value in values.items():
            logger.record(key, value)
        return
    logger.name_to_value.update(values)
    logger.name_to_excluded.update(dict.fromkeys(values, _NOWHERE))


class UpdateLog:
    """The evaluations of an update of many minibatches, whose means are logged.

    As in SB3's PPO, means are over all minibatches, but those of ``approx_kl`` over the last epoch's.
    """

    def __init__(self) -> None:
        self._evaluations: list[Evaluation] = []
        self._epoch_start = 0
        self.last_kl = 0.0

    def begin_epoch(self) -> None:
        """Begin another pass over the rollout."""
        self._epoch_start = len(self._evaluations)

    def add(self, evaluation: Evaluation) -> None:
        """Take in a minibatch."""
        self._evaluations.append(evaluation)
        self.last_kl = evaluation.losses[0].pooled.approx_kl

    def record(self, logger: Logger, names: Sequence[str]) -> None:
        """Record the means, and the objective of the last minibatch.

        :param names: of all tasks
        """
        if not self._evaluations:
            return
        values: dict[str, float] = {}
        last = self._evaluations[-1].losses
        for i in range(len(last)):
            everything, latest = (
                _means(part, i, names) for part in (self._evaluations, self._evaluations[self._epoch_start :])
            )
            values.update((key, mean) for key, mean in everything.items() if not key.endswith("approx_kl"))
            values.update((key, mean) for key, mean in latest.items() if key.endswith("approx_kl"))
        _record(logger, values)
        logger.record("train/loss", sum(terms.weighted() for terms in last))


def _means(evaluations: Sequence[Evaluation], i: int, names: Sequence[str]) -> dict[str, float]:
    """The means over evaluations of the terms of their loss number ``i``, by the keys of the log."""
    if not evaluations:
        return {}
    loss, pooled, _ = evaluations[-1].losses[i]
    sums, counts = np.zeros((len(names), len(pooled))), np.zeros((len(names), 1))
    for evaluation in evaluations:
        sums[evaluation.tasks] += evaluation.losses[i].of_tasks
        counts[evaluation.tasks] += 1
    tasks = counts[:, 0].nonzero()[0]
    means = type(pooled)(*np.mean([evaluation.losses[i].pooled for evaluation in evaluations], axis=0).tolist())
    return _keyed(loss, means, sums[tasks] / counts[tasks], names, tasks.tolist())


def log_explained_variance(logger: Logger, names: Sequence[str], buffer: RolloutBuffer) -> None:
    """Record how much of the returns' variance the values explain: of all rows, and of each task's if it knows them."""
    if not isinstance(buffer, TaskRolloutBuffer):
        logger.record("train/explained_variance", explained_variance(buffer.values, buffer.returns))
        return
    values, returns, tasks = (buffer.by_step(name)[:, :, 0] for name in ("values", "returns", "task"))
    logger.record("train/explained_variance", explained_variance(values, returns))
    for present in np.unique(tasks[0]).tolist():
        rows = tasks[0] == present
        of_task = explained_variance(values[:, rows], returns[:, rows])
        logger.record(f"train/{names[present]}/explained_variance", of_task)


def log_std(logger: Logger, names: Sequence[str], policy: MultiTaskActorCriticPolicy) -> None:
    """Record the standard deviation of the actions: SB3's key, and each task's if it has its own."""
    _record(logger, stds(names, policy))


def stds(names: Sequence[str], policy: MultiTaskActorCriticPolicy) -> dict[str, float]:
    """The mean standard deviation of the actions by SB3's key, and of each task if it has its own.

    Tasks count their own actions, without padding.
    """
    if policy.log_std_mode == "state_dependent":
        return {}
    std: np.ndarray = np.exp(policy.task_log_std.numpy(force=True))
    if policy.log_std_mode == "per_task" and policy.sizes.has_padding:
        dims = policy.sizes.action_dims.tolist()
        sums = np.add.reduce(std * policy.sizes.action_mask, axis=-1).tolist()
        means = [total / dim for total, dim in zip(sums, dims, strict=True)]
    else:
        means = [total / std.shape[-1] for total in np.add.reduce(std, axis=-1).reshape(-1).tolist()]
    values = {"train/std": sum(means) / len(means)}
    if policy.log_std_mode == "per_task":
        values.update(zip(_std_keys(tuple(names)), means, strict=True))
    return values


@lru_cache
def _std_keys(names: tuple[str, ...]) -> list[str]:
    return [f"train/{name}/std" for name in names]


def explained_variance(values: np.ndarray, returns: np.ndarray) -> float:
    """How much of the returns' variance the values explain, at most 1, as SB3's of the same name; NaN without variance.

    :param values: of any shape
    :param returns: of the same shape
    """
    kernels = load_kernels("fast")
    if kernels is not None:
        return float(kernels.explained_variance(values.ravel(), returns.ravel()))
    spread, error = returns.ravel(), (returns - values).ravel()
    spread, error = spread - np.add.reduce(spread) / spread.size, error - np.add.reduce(error) / error.size
    variance = float(np.dot(spread, spread))
    return float("nan") if variance == 0 else 1 - float(np.dot(error, error)) / variance


def episode_of(info: Mapping[str, Any]) -> dict[str, Any]:
    """An episode as its task's buffer keeps it: SB3's numbers, and ``success`` if the env says so."""
    episode = dict(info["episode"])
    if info.get("is_success") is not None:
        episode["success"] = float(info["is_success"])
    return episode


def log_episodes(logger: Logger, buffers: Mapping[str, Iterable[Mapping[str, Any]]]) -> list[dict[str, float]]:
    """Record the mean return and length of each task's latest episodes, and their success rate where they say it.

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
            if "success" in mean:
                logger.record(f"rollout/{name}/success_rate", mean["success"])
            means.append(mean)
    return means


@contextmanager
def episodes_replaced(model: OnPolicyAlgorithm, means: Sequence[Mapping[str, float]]) -> Iterator[None]:
    """Let SB3's log average over tasks' means, as :func:`log_episodes` gives them, rather than over episodes."""
    all_episodes = model.ep_info_buffer, model.ep_success_buffer
    try:
        if means:
            model.ep_info_buffer = deque(dict(mean) for mean in means)
            model.ep_success_buffer = deque(mean["success"] for mean in means if "success" in mean)
        yield
    finally:
        model.ep_info_buffer, model.ep_success_buffer = all_episodes


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


def refuse_update(names: Sequence[str], evaluation: Evaluation) -> Never:
    """Report whose loss is not finite; the weights are still as they were.

    :param names: of all tasks
    :raises RuntimeError: always
    """
    guilty = [names[task] for task in evaluation.not_finite()]
    raise RuntimeError(
        f"The loss is not finite because of {listed(guilty) or 'the policy itself'}: NaN or infinite rewards, "
        "observations or weights. The update was not made."
    )
