"""Vectorised environments over several tasks."""

from sb3_multitask.vec_env.adapters import register_adapter
from sb3_multitask.vec_env.check_adapter import check_adapter
from sb3_multitask.vec_env.cycling import TaskCyclingVecEnv
from sb3_multitask.vec_env.faults import TaskFault, WorkerError
from sb3_multitask.vec_env.make import make_multitask_vec_env
from sb3_multitask.vec_env.multitask_vec_env import MultiTaskVecEnv
from sb3_multitask.vec_env.normalize import MultiTaskVecNormalize
from sb3_multitask.vec_env.task_view import TaskView

__all__ = [
    "MultiTaskVecEnv",
    "MultiTaskVecNormalize",
    "TaskCyclingVecEnv",
    "TaskFault",
    "TaskView",
    "WorkerError",
    "check_adapter",
    "make_multitask_vec_env",
    "register_adapter",
]
