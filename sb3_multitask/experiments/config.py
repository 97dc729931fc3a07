"""What a run is: a frozen, validated config, and how it is read from YAML."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator
from ruamel.yaml import YAML
from ruamel.yaml.comments import CommentedMap
from ruamel.yaml.error import YAMLError

from sb3_multitask.a2c_multitask import Engine
from sb3_multitask.evaluation import Score
from sb3_multitask.files import replacing
from sb3_multitask.tasks import did_you_mean, resolve_tasks
from sb3_multitask.vec_env.backends import BackendName
from sb3_multitask.vec_env.schedule import TaskSchedule


class ConfigError(ValueError):
    """A config that cannot be used; the message says where, what and what is accepted."""


class TrainConfig(BaseModel):
    """One training run. Names are rl-zoo's and SB3's where they have one; unset values keep A2C's defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    tasks: str | tuple[str, ...] = Field("HalfCheetahBody6", description="A task set, an id, or a list of ids")
    n_timesteps: int = Field(1_000_000, ge=1, description="Environment steps over all tasks")
    n_envs_per_task: int = Field(4, ge=1, description="Copies of each task")
    seed: int = Field(0, ge=0, description="Seed of envs, weights and actions")
    task_schedule: TaskSchedule = Field("joint", description="All tasks in one update, or one after the other")
    engine: Engine = Field("auto", description="What computes actions and updates")
    backend: BackendName = Field("auto", description="What runs the environments")
    normalize: bool | dict[str, Any] = Field(
        default=True, description="Normalise, or MultiTaskVecNormalize's arguments"
    )
    policy: str = Field("MultiTaskMlpPolicy", description="Policy alias")
    policy_kwargs: dict[str, Any] = Field({}, description="net_arch, head_arch, log_std_mode, ...")
    learning_rate: float = Field(7e-4, gt=0, description="RMSprop's learning rate")
    n_steps: int = Field(5, ge=1, description="Steps per rollout and env (t_max)")
    gamma: float = Field(0.99, ge=0, le=1, description="Discount factor")
    gae_lambda: float = Field(1.0, ge=0, le=1, description="Bias against variance of the advantages")
    ent_coef: float = Field(0.0, description="Coefficient of the entropy bonus")
    vf_coef: float = Field(0.5, ge=0, description="Coefficient of the value loss")
    max_grad_norm: float = Field(0.5, gt=0, description="Gradient clipping")
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
    def _known_tasks(cls, tasks: str | tuple[str, ...]) -> str | tuple[str, ...]:
        resolve_tasks(tasks)
        return tasks

    @property
    def task_names(self) -> tuple[str, ...]:
        return tuple(task.name for task in resolve_tasks(self.tasks))

    @property
    def name(self) -> str:
        """A name for the run's folder: letters, digits, and ``._-``, so that it stays in its parent."""
        name = self.tasks if isinstance(self.tasks, str) else f"{len(self.tasks)}_tasks"
        return re.sub(r"[^A-Za-z0-9_-]+", "_", name)

    def algorithm_kwargs(self) -> dict[str, Any]:
        """The part that goes to ``A2CMultiTask``."""
        names = (
            "policy policy_kwargs learning_rate n_steps gamma gae_lambda ent_coef vf_coef max_grad_norm seed device "
            "task_schedule engine"
        )
        return {name: getattr(self, name) for name in names.split()}


class EvaluateConfig(BaseModel):
    """One evaluation of a trained agent."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())

    model: str = Field(description="A run's folder, or a model.zip of A2CMultiTask")
    n_eval_episodes: int = Field(20, ge=1, description="Episodes per task")
    seed: int = Field(0, ge=0, description="Seed of the evaluation's environments")
    deterministic: bool = Field(default=True, description="The Gaussian's mean, or samples")


Config = TypeVar("Config", TrainConfig, EvaluateConfig)


def load_config(kind: type[Config], path: str | Path, overrides: Mapping[str, Any] | None = None) -> Config:
    """Read a YAML file into a config. Nothing in the file is executed.

    :param kind: ``TrainConfig`` or ``EvaluateConfig``
    :param path: a YAML 1.2 file with the config's keys
    :param overrides: values that replace the file's, such as the command line's
    :raises ConfigError: unreadable file, duplicate or unknown key (with the closest one), bad value; with the line
    """
    path = Path(path)
    try:
        with path.open(encoding="utf-8") as file:
            content = YAML(typ="rt").load(file)
    except (OSError, UnicodeDecodeError, YAMLError) as e:
        raise ConfigError(f"{path}: cannot read this config: {e}") from e
    if content is None:
        content = CommentedMap()
    if not isinstance(content, CommentedMap):
        raise ConfigError(f"{path}: a config must be a mapping `key: value` (got a {type(content).__name__})")
    lines = {key: content.lc.key(key)[0] + 1 for key in content}
    values = {**_plain(content), **(overrides or {})}
    return make_config(kind, values, where=lambda key: f"{path}:{lines[key]}" if key in lines else str(path))


def make_config(kind: type[Config], values: Mapping[str, Any], where: Any = lambda _key: "config") -> Config:
    """Validate ``values``; see :func:`load_config` for what it raises."""
    for key in values:
        if key not in kind.model_fields:
            known = kind.model_fields
            raise ConfigError(
                f"{where(key)}: unknown key {key!r}.{did_you_mean(str(key), known)} Known keys: {', '.join(known)}"
            )
    try:
        return kind(**values)
    except ValidationError as e:
        problems = []
        for error in e.errors(include_url=False):
            key = str(error["loc"][0])
            message = error["msg"].removeprefix("Value error, ")
            problems.append(f"{where(key)}: `{key}`: {message} (got {error['input']!r})")
        raise ConfigError("\n".join(dict.fromkeys(problems))) from e


def dump_config(config: TrainConfig, path: Path) -> None:
    """Write a config as YAML that :func:`load_config` reads back to an equal one."""
    yaml = YAML()
    yaml.default_flow_style = False
    with replacing(path) as beside, beside.open("w", encoding="utf-8") as file:
        yaml.dump(config.model_dump(mode="json"), file)


def _plain(value: Any) -> Any:
    """Ruamel's round-trip types as Python's own."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_plain(item) for item in value]
    for kind in (bool, int, float, str):
        if isinstance(value, kind):
            return kind(value)
    return value
