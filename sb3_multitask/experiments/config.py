"""What a run is: a frozen, validated config, and how it is read from YAML."""

from __future__ import annotations

import copy
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Annotated, Any, Literal, Self, TypeAlias, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from sb3_contrib import TRPO
from stable_baselines3 import PPO

from sb3_multitask.algorithms.a2c import A2CMultiTask
from sb3_multitask.algorithms.engine import EngineName as Engine
from sb3_multitask.algorithms.transfer import Frozen
from sb3_multitask.evaluation.callback import Score
from sb3_multitask.losses import DistillLoss
from sb3_multitask.losses.schedules import in_range
from sb3_multitask.policies import MultiTaskActorCriticPolicy
from sb3_multitask.policies.devices import device_of
from sb3_multitask.storage.yaml_files import ConfigError, read_yaml, write_yaml
from sb3_multitask.tasks import Task, did_you_mean, resolve_tasks
from sb3_multitask.vec_env.backends import BackendName
from sb3_multitask.vec_env.faults import OnFault
from sb3_multitask.vec_env.layers import TaskSchedule
from sb3_multitask.vec_env.normalize import MultiTaskVecNormalize

Schedulable: TypeAlias = float | str


FolderName: TypeAlias = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
"""A name that becomes a folder and cannot leave its parent."""


Algorithm: TypeAlias = Literal["a2c_mt", "ppo", "trpo"]
_SETTINGS = (
    *("policy_kwargs", "n_steps", "gamma", "gae_lambda", "ent_coef", "vf_coef", "max_grad_norm", "normalize_advantage"),
    "learning_rate",
)
_COEFFICIENTS = ("distill_coef", "rl_coef", "critic_coef", "student_rollout_prob")
SCHEDULES = ("learning_rate", "clip_range", "clip_range_vf", *_COEFFICIENTS)
"""Arguments of the algorithms that may be schedules."""
_ONLY_OURS = (
    *("task_schedule", "engine", "teachers", "distill_loss", *_COEFFICIENTS),
    *("init_from", "init_tasks", "freeze"),
)
_NOT_IN = {"trpo": ("ent_coef", "vf_coef", "max_grad_norm")}
_NOT_SEQUENTIAL = (
    *("task_schedule", "teachers", "init_from", "init_tasks", "freeze", "also_on", "report_at", "tensorboard"),
    *("eval_freq", "score", "checkpoint_freq", "keep_checkpoints"),
)


class TrainConfig(BaseModel):
    """One training run. Names are rl-zoo's and SB3's where they have one; unset values keep A2C's defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False)

    tasks: str | tuple[str, ...] | dict[str, str] = Field(
        "HalfCheetahBody6", description="A task set, an id, a list of ids, or names with their ids"
    )
    env_kwargs: dict[str, Any] = Field(
        {}, description="Arguments of the environments: of all, and under a task's name of this one alone"
    )
    n_timesteps: int = Field(1_000_000, ge=1, description="Environment steps over all tasks")
    n_envs_per_task: int = Field(4, ge=1, description="Copies of each task")
    seed: int = Field(0, ge=0, description="Seed of envs, weights and actions")
    task_schedule: TaskSchedule = Field("joint", description="All tasks in one update, or one after the other")
    algo: Algorithm = Field("a2c_mt", description="A2CMultiTask, or SB3's PPO or sb3-contrib's TRPO on the same policy")
    algo_kwargs: dict[str, Any] = Field({}, description="Further arguments of the algorithm, such as batch_size")
    sequential: bool = Field(default=False, description="One head learns the tasks in turn, n_timesteps over all")
    engine: Engine = Field("auto", description="What computes actions and updates")
    backend: BackendName = Field("auto", description="What runs the environments")
    on_fault: OnFault = Field("stop", description="What a NaN, a failed simulation, ... does: stop or quarantine")
    normalize: bool | dict[str, Any] = Field(
        default=True, description="Normalise, or MultiTaskVecNormalize's arguments"
    )
    policy: str = Field("MultiTaskMlpPolicy", description="Policy alias")
    policy_kwargs: dict[str, Any] = Field({}, description="net_arch, head_arch, log_std_mode, ...")
    learning_rate: Schedulable = Field(7e-4, description="RMSprop's learning rate; `lin_7e-4` falls to 0")
    n_steps: int = Field(5, ge=1, description="Steps per rollout and env (t_max)")
    gamma: float = Field(0.99, ge=0, le=1, description="Discount factor")
    gae_lambda: float = Field(1.0, ge=0, le=1, description="Bias against variance of the advantages")
    ent_coef: float = Field(0.0, description="Coefficient of the entropy bonus")
    vf_coef: float = Field(0.5, ge=0, description="Coefficient of the value loss")
    max_grad_norm: float = Field(0.5, gt=0, description="Gradient clipping")
    normalize_advantage: bool = Field(default=False, description="Standardise the advantages of each update")
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
    init_from: str | None = Field(None, description="Run folder or zip (trusted: unpickled) to begin with")
    init_tasks: dict[str, str] = Field({}, description="With init_from: task -> the source's task; default: same names")
    freeze: Frozen = Field("nothing", description="What is not trained: trunk, all_but_last, nothing")
    also_on: dict[FolderName, str] = Field({}, description="Other envs, name -> id, to evaluate the (only) head on")
    report_at: tuple[int, ...] = Field((), description="Steps at which to evaluate fully and to keep the agent")
    log_interval: int = Field(100, ge=1, description="Updates between two lines of the log")
    eval_freq: int = Field(200_000, ge=0, description="Environment steps between evaluations; 0: only at the ends")
    eval_episodes: int = Field(5, ge=1, description="Episodes per task while training")
    n_eval_episodes: int = Field(20, ge=1, description="Episodes per task before and after training")
    score: Score = Field("mean", description="What makes a model the best")
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

    @field_validator("learning_rate", "distill_coef", "rl_coef", "critic_coef", "student_rollout_prob")
    @classmethod
    def _number_or_schedule(cls, value: float | str | None) -> float | str | None:
        _check_schedule(value)
        return value

    @field_validator("algo_kwargs")
    @classmethod
    def _schedules_of_algorithm(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        for name, value in kwargs.items():
            if name in SCHEDULES:
                try:
                    _check_schedule(value)
                except ValueError as e:
                    raise ValueError(f"{name} {e}") from e
            elif isinstance(value, str) and value.startswith("lin_"):
                raise ValueError(f"{name} takes no schedule (got {value!r}); those that do: {', '.join(SCHEDULES)}")
        return kwargs

    @model_validator(mode="after")
    def _algorithm_has_it(self) -> Self:
        if self.algo != "a2c_mt":
            bad = [name for name in _ONLY_OURS if name in self.model_fields_set]
            bad += [name for name in _NOT_IN.get(self.algo, ()) if name in self.model_fields_set]
            if bad:
                raise ValueError(f"algo {self.algo!r} has no {', '.join(bad)}")
            if self.policy != type(self).model_fields["policy"].default or "policy" in self.algo_kwargs:
                raise ValueError(f"algo {self.algo!r} runs with MultiTaskMlpPolicy only")
        if self.algo == "trpo":
            check_sub_sampling(self.algo_kwargs)
        if self.sequential:
            fields = type(self).model_fields
            bad = [name for name in _NOT_SEQUENTIAL if getattr(self, name) not in (fields[name].default, 0)]
            if bad:
                raise ValueError(f"sequential training has no {', '.join(bad)}")
            if not 2 <= len(self.task_names) <= self.n_timesteps:
                raise ValueError("sequential training needs at least two tasks, and a step for each")
            if _parse_schedule(self.learning_rate)[1]:
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
    def _nothing_is_ignored(self) -> Self:
        for name in self._env_names:
            if not isinstance(self.env_kwargs.get(name, {}), dict):
                raise ValueError(f"env_kwargs of task {name!r} must be a mapping (got {self.env_kwargs[name]!r})")
        if self.init_tasks and self.init_from is None:
            raise ValueError("init_tasks says what to take over from init_from, which is not given")
        if unknown := set(self.init_tasks) - set(self.task_names):
            raise ValueError(f"init_tasks must name tasks of the run, {self.task_names} (got {', '.join(unknown)})")
        if self.teachers and set(self.teachers) != set(self.task_names):
            raise ValueError(f"teachers must be one for every task, {self.task_names} (got {tuple(self.teachers)})")
        late = [budget for budget in self.report_at if not 0 < budget <= self.n_timesteps]
        if late:
            raise ValueError(f"report_at must lie within n_timesteps {self.n_timesteps} (got {late})")
        return self

    @property
    def is_resumable(self) -> bool:
        """Whether an interrupted run resumes from a checkpoint, to the same bits; others are started over."""
        return self.algo == "a2c_mt" and not self.sequential

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
    def name(self) -> str:
        """A name for the run's folder: letters, digits, and ``._-``, so that it stays in its parent."""
        name = self.tasks if isinstance(self.tasks, str) else f"{len(self.tasks)}_tasks"
        return re.sub(r"[^A-Za-z0-9_-]+", "_", name)

    def algorithm_kwargs(self) -> dict[str, Any]:
        """The part that goes to the algorithm."""
        common = {"policy": self.policy, "seed": self.seed, "device": device_of(self.device)}
        if self.algo != "a2c_mt":  # what is not set has defaults of its own
            return {
                **common,
                **self._values(name for name in _SETTINGS if name in self.model_fields_set),
            } | _with_schedules(self.algo_kwargs)
        names = (*_SETTINGS, "task_schedule", "engine", "distill_loss", *_COEFFICIENTS)
        return {**common, **self._values(names), "teachers": self.teachers or None, **_with_schedules(self.algo_kwargs)}

    def _values(self, names: Iterable[str]) -> dict[str, Any]:
        own = {name: copy.deepcopy(getattr(self, name)) for name in names}  # SB3 writes into policy_kwargs
        return _with_schedules(own)


class EvaluateConfig(BaseModel):
    """One evaluation of a trained agent."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: str = Field(description="A run's folder, a zip or an agent in it, or `pretrained:<name>`")
    n_eval_episodes: int = Field(20, ge=1, description="Episodes per task")
    seed: int = Field(0, ge=0, description="Seed of the evaluation's environments")
    deterministic: bool = Field(default=True, description="The Gaussian's mean, or samples")


_MESSAGES = {
    "tuple_type": "must be a list, such as [a, b]",
    "dict_type": "must be names with values, such as {key: value}",
    "extra_forbidden": "unknown key",
}
"""Of pydantic's errors that speak of Python."""
Config = TypeVar("Config", bound=BaseModel)


def load_config(kind: type[Config], path: str | Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a YAML file into a config. Nothing in the file is executed.

    :param kind: the config's class, such as ``TrainConfig``
    :param path: a YAML 1.2 file with the config's keys
    :param overrides: values that replace the file's, such as the command line's
    :raises ConfigError: unreadable file, duplicate or unknown key (with the closest one), bad value; with the line
    """
    values, lines = read_yaml(Path(path))
    return make_config(
        kind,
        {**values, **(overrides or {})},
        where=lambda key: f"{path}:{lines[key]}" if key in lines else str(path),
    )


def make_config(kind: type[Config], values: Mapping[str, Any], where: Any = lambda _key: "config") -> Config:
    """Validate ``values``; see :func:`load_config` for what it raises."""
    for key in values:
        if key not in kind.model_fields:
            known = kind.model_fields
            if isinstance(values[key], Mapping) and "policy" in values[key]:
                raise ConfigError(
                    f"{where(key)}: {key!r} with a policy below it is rl_zoo3's format, for "
                    "`python -m sb3_multitask.zoo train -conf`. Configs of `sb3-multitask train` have no such level."
                )
            if kind is TrainConfig and key in _further_arguments(values.get("algo")):
                raise ConfigError(
                    f"{where(key)}: {key!r} is an argument of the algorithm; write "
                    f"algo_kwargs: {{{key}: {values[key]}}}"
                )
            raise ConfigError(
                f"{where(key)}: unknown key {key!r}.{did_you_mean(str(key), known)} Known keys: {', '.join(known)}"
            )
    try:
        return kind(**values)
    except ValidationError as e:
        problems = []
        for error in e.errors(include_url=False):
            key = str(error["loc"][0]) if error["loc"] else "config"
            message = _MESSAGES.get(error["type"], error["msg"].removeprefix("Value error, "))
            path = ".".join(map(str, error["loc"]))
            problem = f"`{path}`: {message} (got {error['input']!r:.300})" if path else message
            problems.append(f"{where(key)}: {problem}")
        raise ConfigError("\n".join(dict.fromkeys(problems))) from e


def _further_arguments(algo: object) -> set[str]:
    """Arguments of an algorithm that are no setting of their own."""
    others: dict[object, type] = {"ppo": PPO, "trpo": TRPO}
    return set(signature(others.get(algo, A2CMultiTask)).parameters) - {"env", "verbose", "_init_setup_model"}


def _check_arguments(given: Mapping[str, Any], of: type) -> None:
    known = list(signature(of).parameters)
    for name in given:
        if name not in known:
            raise ValueError(f"unknown argument {name!r}.{did_you_mean(name, known)}")


def dump_config(config: TrainConfig, path: Path) -> None:
    """Write a config as YAML that :func:`load_config` reads back to an equal one.

    All settings are written, but for those that are left to another algorithm's own defaults.
    """
    exclude = set() if config.algo == "a2c_mt" else {*_ONLY_OURS, *_SETTINGS} - config.model_fields_set
    write_yaml(path, config.model_dump(mode="json", exclude=exclude))


def _parse_schedule(value: float | str) -> tuple[float, bool]:
    """``0.1`` -> (0.1, False), constant; ``"lin_0.1"`` -> (0.1, True), falling to 0 with the remaining progress."""
    text = str(value)
    try:
        return float(text.removeprefix("lin_")), text.startswith("lin_")
    except ValueError as e:
        raise ValueError("must be a number, or lin_<number> for one that falls to 0 (as in rl-zoo)") from e


def as_schedule(value: float | str | None) -> Any:
    """What SB3 takes: a number, or a function of the remaining progress (of ``lin_<number>``); ``None`` stays.

    :raises ValueError: if it is neither
    """
    if value is None:
        return None
    number, falls = _parse_schedule(value)
    return (lambda progress_remaining: number * in_range(progress_remaining)) if falls else number


def check_sub_sampling(arguments: Mapping[str, Any]) -> None:
    """Raise on an argument of sb3-contrib's TRPO with which its ``train`` fails.

    :raises ValueError: if the batch is to be sub-sampled: TRPO takes slices of the observations, and ours are a dict
    """
    factor = arguments.get("sub_sampling_factor", 1)
    if factor != 1:
        raise ValueError(
            f"sub_sampling_factor must be 1 (got {factor!r}): sb3-contrib's TRPO cannot sub-sample observations that "
            "are dicts, and multi-task ones are. For updates from fewer rows take a smaller n_steps"
        )


def _check_schedule(value: Any) -> None:
    if value is not None:
        number, _ = _parse_schedule(value)
        if not 0 <= number < math.inf:
            raise ValueError("must be finite and not negative")


def _with_schedules(values: Mapping[str, Any]) -> dict[str, Any]:
    """Arguments of an algorithm with ``lin_<number>`` as a function, wherever a schedule is taken."""
    return {name: as_schedule(value) if name in SCHEDULES else value for name, value in values.items()}
