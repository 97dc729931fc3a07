"""Per-task keys in SB3's logger."""

from __future__ import annotations

from collections.abc import Iterable

from stable_baselines3.common.logger import HumanOutputFormat, Logger

_LONGEST_PREFIX_AND_KEY = len("rollout//explained_variance")


def make_room_for_tasks(logger: Logger, task_names: Iterable[str]) -> None:
    """Widen the logger's tables so that keys with task names are not cut.

    SB3 cuts keys at 36 characters and raises when two become equal, which long task names make happen.
    """
    needed = max(map(len, task_names), default=0) + _LONGEST_PREFIX_AND_KEY
    for output_format in logger.output_formats:
        if isinstance(output_format, HumanOutputFormat):
            output_format.max_length = max(output_format.max_length, needed)
