"""The results of an evaluation, by task."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np

from sb3_multitask.many_tasks import AT_EACH_END, gap, shown_tasks

_MAX_RETURN = 1e300  # the variance of larger returns overflows


@dataclass(frozen=True)
class TaskResult:
    """Undiscounted returns of one task's evaluation episodes, in the units of its reward, and their success.

    :param mean_reward: mean return
    :param std_reward: standard deviation of the returns (population, as SB3 reports it)
    :param episode_rewards: return of each episode
    :param episode_lengths: steps of each episode
    :param success_rate: share of the episodes with a successful step; ``None`` if the environment does not say success
    :param episode_successes: whether each episode was successful; ``None`` if the environment does not say it
    """

    mean_reward: float
    std_reward: float
    episode_rewards: tuple[float, ...]
    episode_lengths: tuple[int, ...]
    success_rate: float | None = None
    episode_successes: tuple[bool, ...] | None = None

    @classmethod
    def of(cls, episodes: Sequence[tuple[float, int]], successes: Sequence[bool | None] = ()) -> Self:
        """Make a result of (return, length) of each episode.

        :param successes: whether each episode was successful. One that says nothing was not, if another says it; empty,
            or without any that says it: the environment does not say success
        """
        rewards, lengths = zip(*episodes, strict=True)
        result = cls(float(np.mean(rewards)), float(np.std(rewards)), tuple(rewards), tuple(lengths))
        if all(success is None for success in successes):
            return result
        successful = tuple(bool(success) for _, success in zip(episodes, successes, strict=True))
        return replace(result, success_rate=float(np.mean(successful)), episode_successes=successful)

    def to_json(self) -> dict[str, Any]:
        """Return the fields as plain values; without those of success if the environment does not say it."""
        return {name: value for name, value in asdict(self).items() if value is not None}

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Make a result of what :meth:`to_json` returned.

        :raises ValueError: if its parts are not numbers, or its mean is not the mean of its episodes
        """
        rewards, lengths = fields["episode_rewards"], fields["episode_lengths"]
        if not all(type(r) in (int, float) and abs(r) <= _MAX_RETURN for r in rewards):
            raise ValueError("its returns are not finite numbers")
        if not all(type(n) is int and n >= 0 for n in lengths):
            raise ValueError("its lengths are no numbers of steps")
        successes = fields.get("episode_successes") or ()
        if not all(type(success) is bool for success in successes):
            raise ValueError("its successes are not true or false")
        result = cls.of(list(zip(map(float, rewards), lengths, strict=True)), successes)
        for name in ("mean_reward", "std_reward", "success_rate"):
            said, found = fields.get(name), getattr(result, name)
            if said is not None and not _is_close(said, found):
                raise ValueError(f"its {name} of {said!r:.50} is not that of its episodes, {found}")
        return result


def _is_close(said: Any, found: float | None) -> bool:
    if found is None or type(said) not in (int, float):
        return False
    return bool(np.isclose(said, found, rtol=1e-6, atol=1e-6))


def mean_success_rate(results: Iterable[TaskResult]) -> float | None:
    """Return the mean success rate of the tasks that say success; None if no task does."""
    rates = [result.success_rate for result in results if result.success_rate is not None]
    return float(np.mean(rates)) if rates else None


def percent(rate: float | None) -> str:
    """Return a success rate for a table; empty for a task that does not say success."""
    return "" if rate is None else f"{rate:.0%}"


class TaskResults(dict[str, TaskResult]):
    """Task name -> result; ``str`` makes a table."""

    def __str__(self) -> str:
        """Return a table: mean, standard deviation, number and mean length of each task's episodes; mean over tasks.

        It has a column of success rates if a task says success. Of more than 20 tasks it shows the ten with the lowest
        and the ten with the highest mean return; the dict and its means have all.
        """
        rows = [["task", "mean return", "std", "episodes", "mean length", "success"]]
        shown = shown_tasks({name: result.mean_reward for name, result in self.items()})
        for name in shown:
            result = self[name]
            length, n_episodes = f"{np.mean(result.episode_lengths):.1f}", str(len(result.episode_rewards))
            returns = [f"{result.mean_reward:.1f}", f"{result.std_reward:.1f}"]
            rows.append([name, *returns, n_episodes, length, percent(result.success_rate)])
        if len(shown) < len(self):
            rows.insert(1 + AT_EACH_END, [gap(len(self)), *[""] * (len(rows[0]) - 1)])
        mean_success = mean_success_rate(self.values())
        if len(self) > 1:
            mean = np.mean([result.mean_reward for result in self.values()])
            rows.append(["mean over tasks", f"{mean:.1f}", "", "", "", percent(mean_success)])
        if mean_success is None:
            rows = [row[:-1] for row in rows]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines = []
        for first, *others in rows:
            cells = [first.ljust(widths[0]), *(cell.rjust(n) for cell, n in zip(others, widths[1:], strict=True))]
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)
