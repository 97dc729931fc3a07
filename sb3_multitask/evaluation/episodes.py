"""A2CMultiTask's log of every task's episodes, for other algorithms on a multi-task VecEnv."""

from __future__ import annotations

from collections import deque
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback

from sb3_multitask.algorithms.task_logs import episode_of, log_episodes, make_room_for_tasks


class TaskEpisodesCallback(BaseCallback):
    """Log returns and lengths of each task's latest episodes, and turn SB3's own keys into means over the tasks.

    SB3's ``rollout/ep_rew_mean`` is the mean of the latest episodes in the order of the environments. With many
    environments these all belong to the last tasks.

    :param until_restored: whether the means stay after training until ``restore()``, for a last line of the log
    """

    def __init__(self, until_restored: bool = False) -> None:
        super().__init__()
        self.until_restored = until_restored
        self._tasks: dict[str, deque[dict[str, Any]]] = {}
        self._all: tuple[Any, Any] | None = None  # SB3's own buffers, while means replace them

    def _on_training_start(self) -> None:
        names: tuple[str, ...] = self.training_env.unwrapped.task_names  # type: ignore[attr-defined]
        self._tasks = {name: deque(maxlen=self.model._stats_window_size) for name in names}
        make_room_for_tasks(self.logger, names, shorten=not self.model._custom_logger)

    def _on_rollout_start(self) -> None:
        if self._all is not None:
            (self.model.ep_info_buffer, self.model.ep_success_buffer), self._all = self._all, None

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            if "episode" in info and "task" in info:
                self._tasks[info["task"]].append(episode_of(info))
        return True

    def _on_rollout_end(self) -> None:
        if means := log_episodes(self.logger, self._tasks):
            self._all = self.model.ep_info_buffer, self.model.ep_success_buffer
            self.model.ep_info_buffer = deque(means)
            self.model.ep_success_buffer = deque(mean["success"] for mean in means if "success" in mean)

    def _on_training_end(self) -> None:
        if not self.until_restored:
            self.restore()

    def restore(self) -> None:
        """Restore the model's own buffers, after the last line of the log."""
        self._on_rollout_start()
