"""Checkpoints from which training goes on to the same bits."""

from sb3_multitask.checkpoint.callback import ResumableCheckpointCallback, TrainingInterrupted
from sb3_multitask.checkpoint.format import CheckpointError

__all__ = ["CheckpointError", "ResumableCheckpointCallback", "TrainingInterrupted"]
