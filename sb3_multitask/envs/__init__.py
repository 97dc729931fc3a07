"""Gymnasium environments: other bodies and gravity, walls, stairs, arms; and the wrapper that adds the task."""

from sb3_multitask.envs.flattening import FlatObservation
from sb3_multitask.envs.morphology import Morphology
from sb3_multitask.envs.sample import sample_bodies
from sb3_multitask.envs.task_env import TaskEnv
from sb3_multitask.envs.task_set_env import TaskSetEnv
from sb3_multitask.envs.variants import VARIANTS, register_envs

__all__ = ["VARIANTS", "FlatObservation", "Morphology", "TaskEnv", "TaskSetEnv", "register_envs", "sample_bodies"]
