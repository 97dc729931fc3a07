"""Gymnasium environments: bodies with other proportions, and the wrapper that adds the task."""

from sb3_multitask.envs.morphology import Morphology
from sb3_multitask.envs.task_env import TaskEnv
from sb3_multitask.envs.variants import BODIES, register_envs

__all__ = ["BODIES", "Morphology", "TaskEnv", "register_envs"]
