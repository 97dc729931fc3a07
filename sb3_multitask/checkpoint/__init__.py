"""Checkpoints from which training resumes to the same bits."""

from sb3_multitask.checkpoint.callback import ResumableCheckpointCallback, TrainingInterrupted
from sb3_multitask.checkpoint.format import CheckpointError

__all__ = ["CheckpointError", "ResumableCheckpointCallback", "TrainingInterrupted"]
