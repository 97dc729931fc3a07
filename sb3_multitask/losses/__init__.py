"""Losses: pure functions of tensors, and values that know their terms in torch and their gradient in numpy.

Rows are the transitions of one rollout, ``(n_rows,)`` with ``n_rows = n_steps * n_envs``.
"""

from sb3_multitask.losses.a2c import A2CLoss, A2CTerms, a2c_loss
from sb3_multitask.losses.distillation import DistillationLoss, DistillationTerms, DistillLoss, distill_loss
from sb3_multitask.losses.distral import Distral, DistralLoss, DistralTerms
from sb3_multitask.losses.features import FeatureLoss, FeatureTerms, feature_distance
from sb3_multitask.losses.gaussians import gaussian_kl
from sb3_multitask.losses.grouped import GroupedOutputs, GroupedRows, OutputGradient
from sb3_multitask.losses.loss import Evaluation, Loss, LossTerms, Outputs, Samples
from sb3_multitask.losses.ppo import PPOLoss, PPOTerms

__all__ = [
    "A2CLoss",
    "A2CTerms",
    "DistillLoss",
    "DistillationLoss",
    "DistillationTerms",
    "Distral",
    "DistralLoss",
    "DistralTerms",
    "Evaluation",
    "FeatureLoss",
    "FeatureTerms",
    "GroupedOutputs",
    "GroupedRows",
    "Loss",
    "LossTerms",
    "OutputGradient",
    "Outputs",
    "PPOLoss",
    "PPOTerms",
    "Samples",
    "a2c_loss",
    "distill_loss",
    "feature_distance",
    "gaussian_kl",
]
