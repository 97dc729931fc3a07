"""Which task is trained on next, or how much each counts in an update: seeded objects that know no env and no model."""

from sb3_multitask.task_schedules.bandit import TaskBandit
from sb3_multitask.task_schedules.base import Mode, TaskSchedule
from sb3_multitask.task_schedules.sampling import LearningProgress, ShortfallSampling, UniformSampling
from sb3_multitask.task_schedules.sequence import TaskSequence
from sb3_multitask.task_schedules.settings import TASK_SCHEDULES, make_task_schedule

__all__ = [
    "TASK_SCHEDULES",
    "LearningProgress",
    "Mode",
    "ShortfallSampling",
    "TaskBandit",
    "TaskSchedule",
    "TaskSequence",
    "UniformSampling",
    "make_task_schedule",
]
