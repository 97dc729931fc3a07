"""Losses as pure functions and values: tensors in, tensors out; arrays in, gradients out."""

from sb3_multitask.losses.terms import (
    A2CLoss,
    DistillLoss,
    a2c_loss,
    a2c_loss_per_task,
    distill_loss,
    gaussian_kl,
    mean_per_task,
)

__all__ = [
    "A2CLoss",
    "DistillLoss",
    "a2c_loss",
    "a2c_loss_per_task",
    "distill_loss",
    "gaussian_kl",
    "mean_per_task",
]
