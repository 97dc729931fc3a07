"""The callback of SB3, SBX and sb3_multitask that follows the training return."""

from __future__ import annotations

from stable_baselines3.common.callbacks import BaseCallback

from benchmarks.contenders.progress import Progress


class ProgressCallback(BaseCallback):
    """Tell a :class:`Progress` about steps and episodes; stop the training when it is over.

    :param task: the name of the only task; None takes each episode's own
    """

    def __init__(self, progress: Progress, task: str | None = None) -> None:
        super().__init__()
        self.progress = progress
        self.task = task

    def _on_step(self) -> bool:
        self.progress.step(self.num_timesteps)
        if self.locals["dones"].any():
            for info in self.locals["infos"]:
                if "episode" in info:
                    self.progress.episode(self.task or info["task"], info["episode"]["r"])
            self.progress.check()
        return not self.progress.is_over
