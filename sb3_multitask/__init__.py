"""Multi-task reinforcement learning for Stable-Baselines3: one agent, one head per task."""

import sb3_multitask.process.mujoco_install  # noqa: F401 (before Gymnasium imports MuJoCo)

# isort: split
from sb3_multitask.agents import Agent, shared_agent
from sb3_multitask.agents.export import export_onnx, export_torch
from sb3_multitask.agents.files import load_agent, load_pretrained, save_agent
from sb3_multitask.algorithms.a2c import A2CMultiTask
from sb3_multitask.algorithms.ppo import PPOMultiTask
from sb3_multitask.algorithms.transfer import freeze, transfer
from sb3_multitask.algorithms.trpo import TRPOMultiTask
from sb3_multitask.checkpoint import CheckpointError, ResumableCheckpointCallback
from sb3_multitask.distillation.sources import Teacher
from sb3_multitask.envs import FlatObservation, Morphology, TaskEnv, TaskSetEnv, register_envs, sample_bodies
from sb3_multitask.evaluation.callback import MultiTaskEvalCallback
from sb3_multitask.evaluation.episodes import TaskEpisodesCallback
from sb3_multitask.evaluation.evaluate import evaluate_tasks
from sb3_multitask.evaluation.results import TaskResult
from sb3_multitask.evaluation.tensorboard import MultiTaskTensorBoardCallback
from sb3_multitask.experiments.schedules import PiecewiseConstant
from sb3_multitask.losses import Distral
from sb3_multitask.policies import MultiTaskActorCriticPolicy, SharedMlpExtractor
from sb3_multitask.tasks import TASK_SETS, Task
from sb3_multitask.vec_env import (
    MultiTaskVecEnv,
    MultiTaskVecNormalize,
    TaskCyclingVecEnv,
    TaskFault,
    WorkerError,
    check_adapter,
    make_multitask_vec_env,
    register_adapter,
)

__version__ = "0.1.0"

register_envs()

__all__ = [
    "TASK_SETS",
    "A2CMultiTask",
    "Agent",
    "CheckpointError",
    "Distral",
    "FlatObservation",
    "Morphology",
    "MultiTaskActorCriticPolicy",
    "MultiTaskEvalCallback",
    "MultiTaskTensorBoardCallback",
    "MultiTaskVecEnv",
    "MultiTaskVecNormalize",
    "PPOMultiTask",
    "PiecewiseConstant",
    "ResumableCheckpointCallback",
    "SharedMlpExtractor",
    "TRPOMultiTask",
    "Task",
    "TaskCyclingVecEnv",
    "TaskEnv",
    "TaskEpisodesCallback",
    "TaskFault",
    "TaskResult",
    "TaskSetEnv",
    "Teacher",
    "WorkerError",
    "check_adapter",
    "evaluate_tasks",
    "export_onnx",
    "export_torch",
    "freeze",
    "load_agent",
    "load_pretrained",
    "make_multitask_vec_env",
    "register_adapter",
    "sample_bodies",
    "save_agent",
    "shared_agent",
    "transfer",
]
