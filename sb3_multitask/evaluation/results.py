"""The results of an evaluation, by task."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

_MAX_RETURN = 1e300  # the variance of larger returns overflows


@dataclass(frozen=True)
class TaskResult:
    """Undiscounted returns of one task's evaluation episodes, in the units of its reward.

    :param mean_reward: mean return
    :param std_reward: standard deviation of the returns (population, as SB3 reports it)
    :param episode_rewards: return of each episode
    :param episode_lengths: steps of each episode
    """

    mean_reward: float
    std_reward: float
    episode_rewards: tuple[float, ...]
    episode_lengths: tuple[int, ...]

    @classmethod
    def of(cls, episodes: Sequence[tuple[float, int]]) -> Self:
        """Make a result of (return, length) of each episode."""
        rewards, lengths = zip(*episodes, strict=True)
        return cls(float(np.mean(rewards)), float(np.std(rewards)), tuple(rewards), tuple(lengths))

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """Make a result of the JSON of its ``dataclasses.asdict``.

        :raises ValueError: if its parts are not numbers, or its mean is not the mean of its episodes
        """
        rewards, lengths = fields["episode_rewards"], fields["episode_lengths"]
        if not all(type(r) in (int, float) and abs(r) <= _MAX_RETURN for r in rewards):
            raise ValueError("its returns are not finite numbers")
        if not all(type(n) is int and n >= 0 for n in lengths):
            raise ValueError("its lengths are no numbers of steps")
        result = cls.of(list(zip(map(float, rewards), lengths, strict=True)))
        for name in ("mean_reward", "std_reward"):
            said, found = fields.get(name), getattr(result, name)
            if said is not None and not (type(said) in (int, float) and np.isclose(said, found, rtol=1e-6, atol=1e-6)):
                raise ValueError(f"its {name} of {said!r:.50} is not that of its episodes, {found}")
        return result


class TaskResults(dict[str, TaskResult]):
    """Task name -> result; ``str`` makes a table."""

    def __str__(self) -> str:
        """Return a table: mean, standard deviation, number and mean length of each task's episodes; mean over tasks."""
        header = ("task", "mean return", "std", "episodes", "mean length")
        rows = [
            (
                name,
                f"{result.mean_reward:.1f}",
                f"{result.std_reward:.1f}",
                str(len(result.episode_rewards)),
                f"{np.mean(result.episode_lengths):.1f}",
            )
            for name, result in self.items()
        ]
        if len(rows) > 1:
            mean = np.mean([result.mean_reward for result in self.values()])
            rows.append(("mean over tasks", f"{mean:.1f}", "", "", ""))
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        lines = []
        for first, *others in (header, *rows):
            cells = [first.ljust(widths[0]), *(cell.rjust(n) for cell, n in zip(others, widths[1:], strict=True))]
            lines.append("  ".join(cells).rstrip())
        return "\n".join(lines)
