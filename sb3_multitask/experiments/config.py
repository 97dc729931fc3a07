"""What a run is: frozen, validated settings; :mod:`~sb3_multitask.experiments.config_files` reads them from YAML."""

from __future__ import annotations

import copy
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from inspect import signature
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self, TypeAlias

from pydantic import Field, PositiveInt, ValidationInfo, field_validator, model_validator
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_multitask.agents import SHARED
from sb3_multitask.algorithms import ALGORITHMS, arguments_of, has_ability
from sb3_multitask.algorithms.engine import EngineName
from sb3_multitask.algorithms.gradient_combiner import check_combining
from sb3_multitask.algorithms.task_schedule import check_weights_are_used
from sb3_multitask.algorithms.task_weights import checked_weights
from sb3_multitask.algorithms.transfer import Frozen
from sb3_multitask.evaluation.callback import Score
from sb3_multitask.experiments.algorithm_settings import (
    check_settings,
    check_sub_sampling,
    further_arguments,
    has_default,
    settings_of_algorithms,
    takes,
)
from sb3_multitask.experiments.config_files import Config, dump_config, load_config, make_config
from sb3_multitask.experiments.schedules import (
    COEFFICIENTS,
    Schedulable,
    checked_schedule,
    checked_schedules,
    is_constant,
    with_schedules,
)
from sb3_multitask.losses import DistillLoss
from sb3_multitask.policies import MultiTaskActorCriticPolicy
from sb3_multitask.policies.devices import device_of
from sb3_multitask.storage.yaml_files import ConfigError
from sb3_multitask.task_schedules import TaskSequence, make_task_schedule
from sb3_multitask.task_schedules.base import TaskSchedule, one_task_at_a_time
from sb3_multitask.tasks import Task, did_you_mean, resolve_tasks
from sb3_multitask.vec_env.backends import BackendName
from sb3_multitask.vec_env.copies import Copies
from sb3_multitask.vec_env.faults import OnFault
from sb3_multitask.vec_env.layers import ScheduleName
from sb3_multitask.vec_env.normalize import MultiTaskVecNormalize

__all__ = [
    "ConfigError",
    "DatasetConfig",
    "EvaluateConfig",
    "FolderName",
    "RecordConfig",
    "TrainConfig",
    "dump_config",
    "load_config",
    "make_config",
]

FolderName: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
"""A name that becomes a folder and cannot leave its parent."""

if TYPE_CHECKING:
    AlgorithmName: TypeAlias = str
else:
    AlgorithmName = Literal[tuple(ALGORITHMS)]

_NOT_SEQUENTIAL = (
    *("task_schedule", "teachers", "init_from", "init_tasks", "freeze", "also_on", "report_at", "tensorboard"),
    *("eval_freq", "score", "task_weights", "dataset"),
)


_ALGO = (
    "A2CMultiTask, PPOMultiTask, TRPOMultiTask or PolicyDistillation; defaults below are of a2c_mt, the others keep "
    "their own"
)


class DatasetConfig(Config):
    """A recording of teachers: arguments of ``mt.record``."""

    teachers: str | dict[str, str] = Field(
        description="Task -> run folder, zip, agent or pretrained:<name>; or one of these with a head for every task"
    )
    n_steps: PositiveInt | None = Field(None, description="Environment steps per task")
    n_episodes: PositiveInt | None = Field(None, description="Whole episodes per task, in place of n_steps")
    n_envs_per_task: PositiveInt = Field(4, description="Copies of each task that are played side by side")
    deterministic: bool = Field(default=False, description="The Gaussians' means, not samples")
    seed: int = Field(0, ge=0, description="Seed of the environments and of the samples")

    @model_validator(mode="after")
    def _is_bounded(self) -> Self:
        if (self.n_steps is None) == (self.n_episodes is None):
            raise ValueError(f"give one of n_steps and n_episodes (got {self.n_steps} and {self.n_episodes})")
        return self


class TrainConfig(Config):
    """One training run. Names are rl-zoo's and SB3's where they have one; unset values keep the algorithm's default."""

    tasks: str | tuple[str, ...] | dict[str, str] = Field(
        "HalfCheetahBody6", description="A task set, an id, a list of ids, or names with their ids"
    )
    env_kwargs: dict[str, Any] = Field(
        {}, description="Arguments of the environments: of all, and under a task's name of this one alone"
    )
    n_timesteps: int = Field(1_000_000, ge=1, description="Environment steps over all tasks")
    n_envs_per_task: PositiveInt | dict[str, PositiveInt] = Field(
        4, description="Copies of each task; {a: 8, b: 2} for each by its name"
    )
    seed: int = Field(0, ge=0, description="Seed of envs, weights and actions")
    task_schedule: ScheduleName | dict[str, dict[str, Any]] = Field(
        "joint",
        description="joint: all tasks in one update; cycle: one after the other; or {progress: {window: 10}}, ...",
    )
    algo: AlgorithmName = Field("a2c_mt", description=_ALGO)
    algo_kwargs: dict[str, Any] = Field({}, description="Further arguments of the algorithm, such as batch_size")
    sequential: bool = Field(default=False, description="One head learns the tasks in turn, n_timesteps over all")
    engine: EngineName = Field("auto", description="What computes actions and updates")
    backend: BackendName = Field("auto", description="What runs the environments")
    on_fault: OnFault = Field("stop", description="What a NaN, a failed simulation, ... does: stop or quarantine")
    normalize: bool | dict[str, Any] = Field(
        default=True, description="Normalise, or MultiTaskVecNormalize's arguments"
    )
    policy: str = Field("MultiTaskMlpPolicy", description="Policy alias")
    policy_kwargs: dict[str, Any] = Field({}, description="net_arch, head_arch, log_std_mode, ...")
    learning_rate: Schedulable = Field(
        7e-4, description="The learning rate; `lin_7e-4` falls to 0, `{0: 7e-4, 0.5: 1e-4}` steps down halfway"
    )
    n_steps: int = Field(5, ge=1, description="Steps per rollout and env (t_max)")
    gamma: float = Field(0.99, ge=0, le=1, description="Discount factor")
    gae_lambda: float = Field(1.0, ge=0, le=1, description="Bias against variance of the advantages")
    ent_coef: float = Field(0.0, description="Coefficient of the entropy bonus")
    vf_coef: float = Field(0.5, ge=0, description="Coefficient of the value loss")
    max_grad_norm: float = Field(0.5, gt=0, description="Gradient clipping")
    normalize_advantage: bool = Field(default=False, description="Standardise the advantages of each update")
    task_weights: dict[str, float] = Field({}, description="Task -> weight of its losses; others have 1")
    teachers: dict[str, str] = Field(
        {}, description="Task -> run folder, zip, agent or pretrained:<name> to learn from"
    )
    distill_loss: DistillLoss = Field("forward_kl", description="KL(teacher || student), the reverse, or mse")
    distill_coef: Schedulable = Field(1.0, description="Coefficient of the distillation loss")
    rl_coef: Schedulable | None = Field(None, description="Coefficient of RL; default: 0 with teachers, else 1")
    critic_coef: Schedulable | None = Field(
        None, description="Coefficient of the critic; default: 0 with teachers and no RL, else 1"
    )
    student_rollout_prob: Schedulable = Field(1.0, description="How often the student acts, not the teacher")
    distill_features: Schedulable = Field(
        0.0, description="Coefficient of Actor-Mimic's regression of the teachers' hidden layers"
    )
    dataset: str | DatasetConfig | None = Field(
        None,
        description="With algo policy_distillation: folder of recorded teachers, or {teachers: ..., n_steps: ...} to "
        "record them first",
    )
    init_from: str | None = Field(None, description="Run folder or zip (trusted: unpickled) to begin with")
    init_tasks: dict[str, str] = Field({}, description="With init_from: task -> the source's task; default: same names")
    freeze: Frozen = Field("nothing", description="What is not trained: trunk, all_but_last, nothing")
    also_on: dict[FolderName, str] = Field({}, description="Other envs, name -> id, to evaluate the (only) head on")
    report_at: tuple[int, ...] = Field((), description="Steps at which to evaluate fully and to keep the agent")
    log_interval: int = Field(100, ge=1, description="Updates between two lines of the log")
    eval_freq: int = Field(200_000, ge=0, description="Environment steps between evaluations; 0: only at the ends")
    eval_episodes: int = Field(5, ge=1, description="Episodes per task while training")
    n_eval_episodes: int = Field(20, ge=1, description="Episodes per task before and after training")
    score: Score = Field(
        "mean", description="What makes a model the best: mean return, the worst task's, or mean success rate"
    )
    checkpoint_freq: int = Field(100_000, ge=1, description="Environment steps between checkpoints")
    keep_checkpoints: int = Field(2, ge=1, description="How many of the newest checkpoints to keep")
    tensorboard: bool = Field(default=False, description="Also write TensorBoard files (needs the extra [extra])")
    device: str = Field("cpu", description="torch device; nets of this size are fastest on the CPU")

    @field_validator("tasks")
    @classmethod
    def _known_tasks(cls, tasks: str | tuple[str, ...] | dict[str, str]) -> str | tuple[str, ...] | dict[str, str]:
        resolve_tasks(tasks, import_modules=False)
        return tasks

    @field_validator("also_on")
    @classmethod
    def _known_envs(cls, also_on: dict[str, str]) -> dict[str, str]:
        if also_on:
            resolve_tasks(also_on, import_modules=False)
        return also_on

    @field_validator("policy_kwargs")
    @classmethod
    def _known_to_policy(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        _check_arguments(kwargs, MultiTaskActorCriticPolicy)
        return kwargs

    @field_validator("normalize")
    @classmethod
    def _known_to_normalizer(cls, normalize: bool | dict[str, Any]) -> bool | dict[str, Any]:
        if isinstance(normalize, dict):
            _check_arguments(normalize, MultiTaskVecNormalize)
        return normalize

    @field_validator("task_schedule", mode="before")
    @classmethod
    def _is_schedule_of_tasks(cls, task_schedule: Any) -> Any:
        make_task_schedule(task_schedule)
        return task_schedule

    @field_validator("learning_rate", *COEFFICIENTS, mode="before")
    @classmethod
    def _number_or_schedule(cls, value: Any, info: ValidationInfo) -> Any:
        return checked_schedule(value, info.field_name or "")

    @field_validator("algo_kwargs")
    @classmethod
    def _schedules_of_algorithm(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        return checked_schedules(kwargs)

    @model_validator(mode="after")
    def _algorithm_has_it(self) -> Self:
        check_settings(self.algo, [name for name in _OF_ALGORITHMS if name in self.model_fields_set])
        policy = type(self).model_fields["policy"].default
        is_given = self.policy != policy or "policy" in self.algo_kwargs
        if is_given and policy not in self._algorithm.policy_aliases:  # SB3's own, whose policies know no tasks
            raise ValueError(f"algo {self.algo!r} runs with {policy} only")
        if has_ability(self._algorithm, "offline") and self.dataset is None:
            raise ValueError(
                f"algo {self.algo!r} needs a dataset: a folder that `sb3-multitask record` wrote, or {{teachers: ..., "
                "n_steps: ...}"
            )
        check_sub_sampling(self._algorithm, self.algo_kwargs)
        return self

    @model_validator(mode="after")
    def _can_be_sequential(self) -> Self:
        if self.sequential:
            fields = type(self).model_fields
            bad = [name for name in _NOT_SEQUENTIAL if getattr(self, name) not in (fields[name].default, 0)]
            if bad:
                raise ValueError(f"sequential training has no {', '.join(bad)}")
            if not 2 <= len(self.task_names) <= self.n_timesteps:
                raise ValueError("sequential training needs at least two tasks, and a step for each")
            if not is_constant(self.learning_rate):
                raise ValueError(
                    "sequential training needs a constant learning_rate: each task would have its own ramp"
                )
        return self

    @model_validator(mode="after")
    def _one_head_elsewhere(self) -> Self:
        if self.also_on and len(self.task_names) != 1:
            raise ValueError("also_on evaluates the head of a single task on other envs; this run has several tasks")
        if twice := set(self.also_on) & set(self.task_names):
            raise ValueError(f"also_on needs other names than the run's own task: {', '.join(twice)}")
        return self

    @model_validator(mode="after")
    def _numbers_are_of_tasks(self) -> Self:
        checked_weights(self.task_weights, self.task_names)
        copies = Copies.of(self.n_envs_per_task, self.task_names)
        schedule = make_task_schedule(self.task_schedule)
        if isinstance(schedule, TaskSchedule):
            schedule.begin(self.task_names, self.seed)  # checks the tasks in its arguments
            check_weights_are_used(
                schedule, self._algorithm.__name__, weighs_tasks=has_ability(self._algorithm, "weighs_tasks")
            )
        differ = isinstance(self.n_envs_per_task, dict) if self.sequential else not copies.are_equal
        if differ and (self.sequential or one_task_at_a_time(schedule)):
            raise ValueError(
                f"n_envs_per_task must be one number where one task learns at a time (got {self.n_envs_per_task})"
            )
        self._check_combining("one task learns at a time" if self.sequential or one_task_at_a_time(schedule) else None)
        return self

    def _check_combining(self, one_task: str | None) -> None:
        """Raise ValueError unless the run can combine gradients, or measure conflicts, as it is to."""
        if takes(self._algorithm, "gradient_combiner"):
            try:
                given, freq = self.algo_kwargs.get("gradient_combiner"), self.algo_kwargs.get("conflict_freq", 0)
                check_combining(given, freq, self.task_names, one_task)
            except TypeError as e:
                raise ValueError(str(e)) from e

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> Self:
        for name in self._env_names:
            if not isinstance(self.env_kwargs.get(name, {}), dict):
                raise ValueError(f"env_kwargs of task {name!r} must be a mapping (got {self.env_kwargs[name]!r})")
        if self.init_tasks and self.init_from is None:
            raise ValueError("init_tasks says what to take over from init_from, which is not given")
        known = (*self.task_names, *((SHARED,) if self.algo_kwargs.get("distral") else ()))
        if unknown := set(self.init_tasks) - set(known):
            raise ValueError(f"init_tasks must name tasks of the run, {known} (got {', '.join(unknown)})")
        if self.teachers and set(self.teachers) != set(self.task_names):
            raise ValueError(f"teachers must be one for every task, {self.task_names} (got {tuple(self.teachers)})")
        late = [budget for budget in self.report_at if not 0 < budget <= self.n_timesteps]
        if late:
            raise ValueError(f"report_at must lie within n_timesteps {self.n_timesteps} (got {late})")
        return self

    @property
    def _algorithm(self) -> type[OnPolicyAlgorithm]:
        return ALGORITHMS[self.algo]

    @property
    def is_resumable(self) -> bool:
        """Whether an interrupted run resumes from a checkpoint, to the same bits; others are started over."""
        return has_ability(self._algorithm, "resumable")

    def resolved_tasks(self) -> tuple[Task, ...]:
        """The tasks, in order, with the arguments of their environments."""
        return self._with_kwargs(resolve_tasks(self.tasks, import_modules=False))

    def other_tasks(self) -> dict[str, Task]:
        """The envs of ``also_on``, by name."""
        others = resolve_tasks(self.also_on, import_modules=False) if self.also_on else ()
        return {task.name: task for task in self._with_kwargs(others)}

    def _with_kwargs(self, tasks: Sequence[Task]) -> tuple[Task, ...]:
        names = self._env_names
        common = {key: value for key, value in self.env_kwargs.items() if key not in names}
        return tuple(
            replace(task, env_kwargs={**task.kwargs_of(), **common, **self.env_kwargs.get(task.name, {})})
            for task in tasks
        )

    @property
    def _env_names(self) -> tuple[str, ...]:
        return (*self.task_names, *self.also_on)

    @property
    def task_names(self) -> tuple[str, ...]:
        return tuple(task.name for task in resolve_tasks(self.tasks, import_modules=False))

    def normalizer_kwargs(self) -> bool | dict[str, Any]:
        """``normalize`` of ``make_multitask_vec_env``: rewards are discounted as the algorithm's."""
        if self.normalize is False:
            return False
        return {"gamma": self.gamma, **(self.normalize if isinstance(self.normalize, dict) else {})}

    @property
    def tasks_in_turn(self) -> tuple[str, ...]:
        """The tasks that are learned one after the other, in this order; empty if tasks are learned in another way."""
        if self.sequential:
            return self.task_names
        schedule = make_task_schedule(self.task_schedule)
        if not isinstance(schedule, TaskSequence):
            return ()
        return self.task_names if schedule.tasks is None else schedule.tasks

    @property
    def has_equal_turns(self) -> bool:
        """Whether tasks that are learned in turn divide the steps equally."""
        schedule = make_task_schedule(self.task_schedule)
        return bool(self.tasks_in_turn) and (not isinstance(schedule, TaskSequence) or schedule.n_updates is None)

    @property
    def name(self) -> str:
        """A name for the run's folder: letters, digits, and ``._-``, so that it stays in its parent."""
        name = self.tasks if isinstance(self.tasks, str) else f"{len(self.tasks)}_tasks"
        return re.sub(r"[^A-Za-z0-9_-]+", "_", name)

    def algorithm_kwargs(self) -> dict[str, Any]:
        """The part that goes to the algorithm."""
        common = {"policy": self.policy, "seed": self.seed, "device": device_of(self.device)}
        arguments, left_out = arguments_of(self._algorithm), self.left_out()
        names = [name for name in _OF_ALGORITHMS if name in arguments and name not in left_out]
        own = {name: copy.deepcopy(getattr(self, name)) for name in names}  # SB3 writes into policy_kwargs
        if "task_schedule" in own:
            own["task_schedule"] = make_task_schedule(self.task_schedule)
        return {**common, **with_schedules(own), **with_schedules(self.algo_kwargs)}

    def left_out(self) -> Collection[str]:
        """Settings that stay at the algorithm's own default, which is another, and those that it does not have.

        They are not written either, since what is set would not be left to the algorithm.
        """
        fields = type(self).model_fields
        return [
            name
            for name in _OF_ALGORITHMS
            if name not in self.model_fields_set
            and not (takes(self._algorithm, name) and has_default(self._algorithm, name, fields[name].default))
        ]

    @classmethod
    def place_of(cls, key: str, values: Mapping[str, Any]) -> str | None:
        """Further arguments of the algorithm go below ``algo_kwargs``."""
        algo = values.get("algo", cls.model_fields["algo"].default)
        if isinstance(algo, str) and algo in ALGORITHMS and key in further_arguments(ALGORITHMS[algo]):
            return f"{key!r} is an argument of the algorithm; write algo_kwargs: {{{key}: {values[key]}}}"
        return super().place_of(key, values)


_OF_ALGORITHMS = settings_of_algorithms(TrainConfig.model_fields)


class RecordConfig(DatasetConfig):
    """A recording of teachers on tasks: ``sb3-multitask record``."""

    tasks: str | tuple[str, ...] | dict[str, str] | None = Field(
        None, description="A task set, an id, a list of ids, or names with their ids; default: those of the one agent"
    )
    env_kwargs: dict[str, Any] = Field(
        {}, description="Arguments of the environments: of all, and under a task's name of this one alone"
    )

    @model_validator(mode="after")
    def _tasks_are_known(self) -> Self:
        self.resolved_tasks()
        return self

    def resolved_tasks(self) -> tuple[Task, ...] | None:
        """The tasks, in order, with the arguments of their environments; None for those of the one agent."""
        if self.tasks is None:
            if self.env_kwargs:
                raise ValueError("env_kwargs are arguments of tasks, which are not given")
            return None
        return TrainConfig(tasks=self.tasks, env_kwargs=self.env_kwargs).resolved_tasks()


class EvaluateConfig(Config):
    """One evaluation of a trained agent."""

    model: str = Field(description="A run's folder, a zip or an agent in it, or `pretrained:<name>`")
    n_eval_episodes: int = Field(20, ge=1, description="Episodes per task")
    seed: int = Field(0, ge=0, description="Seed of the evaluation's environments")
    deterministic: bool = Field(default=True, description="The Gaussian's mean, or samples")


def _check_arguments(given: Mapping[str, Any], of: type) -> None:
    known = list(signature(of).parameters)
    for name in given:
        if name not in known:
            raise ValueError(f"unknown argument {name!r}.{did_you_mean(name, known)}")
