"""Tasks: Gymnasium environments with names. This module does not import torch."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import gymnasium as gym

from sb3_multitask.process.mujoco_messages import mujoco_messages_as_warnings

EnvFactory: TypeAlias = Callable[..., gym.Env[Any, Any]]
EnvKwargs: TypeAlias = Mapping[str, Any] | Sequence[Mapping[str, Any]] | Callable[[int], Mapping[str, Any]]
"""Keyword arguments of an environment: one dict for all copies, or a list or a function of the copy's index."""


@dataclass(frozen=True)
class Task:
    """One task of a multi-task agent.

    :param name: the task's name in logs, files and results; short, since SB3's logger cuts long keys
    :param env_id: a registered Gymnasium id, ``"module:id"`` for an id that a module registers when it is imported, or
        a callable that makes the environment
    :param env_kwargs: keyword arguments for ``gymnasium.make`` or for the callable. For copies that differ: a list of
        dicts (copy ``i`` takes entry ``i``, modulo the list's length) or a function of the copy's index, such as
        ``lambda copy: {"seed": copy}``
    :raises ValueError: if ``name`` is empty or not a single line
    :raises TypeError: if a field has the wrong type
    """

    name: str
    env_id: str | EnvFactory
    env_kwargs: EnvKwargs = field(default_factory=dict, hash=False)

    def __post_init__(self) -> None:
        if not isinstance(self.name, str):
            raise TypeError(f"`name` of a task must be a string (got {self.name!r})")
        if not self.name.strip() or not self.name.isprintable():
            raise ValueError(f"`name` of a task must be a non-empty, printable string (got {self.name!r})")
        if not isinstance(self.env_id, str) and not callable(self.env_id):
            raise TypeError(
                f"`env_id` of task {self.name!r} must be a Gymnasium id or a callable that makes an "
                f"environment (got {self.env_id!r})"
            )
        kwargs: Any = self.env_kwargs
        is_list = isinstance(kwargs, Sequence) and not isinstance(kwargs, str) and len(kwargs) > 0
        if not (isinstance(kwargs, Mapping) or callable(kwargs) or is_list):
            raise TypeError(
                f"`env_kwargs` of task {self.name!r} must be a mapping, a list of mappings, or a function of the "
                f"copy's index (got {kwargs!r})"
            )
        if is_list and not all(isinstance(entry, Mapping) for entry in kwargs):
            raise TypeError(f"`env_kwargs` of task {self.name!r}: every entry must be a mapping (got {kwargs!r})")

    @property
    def copies_differ(self) -> bool:
        """Whether copies of the environment may differ: by their own arguments, or because a callable makes them."""
        return callable(self.env_id) or not isinstance(self.env_kwargs, Mapping)

    def kwargs_of(self, copy: int = 0) -> dict[str, Any]:
        """Return the keyword arguments of a copy of the environment.

        :param copy: its index, from 0
        :raises TypeError: if ``env_kwargs`` is a function that returns no mapping
        :raises RuntimeError: if the function fails; the message names the task and the copy
        """
        kwargs = self.env_kwargs
        if callable(kwargs):
            try:
                kwargs = kwargs(copy)
            except Exception as e:
                raise RuntimeError(
                    f"Task {self.name!r}: `env_kwargs` failed for copy {copy} ({type(e).__name__}: {e}). An evaluation "
                    "makes copies of its own, up to five: the function must know every copy, such as by copy % n."
                ) from e
        elif not isinstance(kwargs, Mapping):
            kwargs = kwargs[copy % len(kwargs)]
        if not isinstance(kwargs, Mapping):
            raise TypeError(
                f"`env_kwargs` of task {self.name!r} must return a mapping (got {kwargs!r} for copy {copy})"
            )
        return dict(kwargs)

    def make(self, render_mode: str | None = None, *, copy: int = 0, **kwargs: Any) -> gym.Env[Any, Any]:
        """Make the environment; ``kwargs`` override ``env_kwargs``.

        Meanwhile MuJoCo writes nothing to the terminal or to ``MUJOCO_LOG.TXT``.

        :param render_mode: Gymnasium's; ``None`` keeps that of ``env_kwargs``
        :param copy: index of the copy, from 0
        :raises RuntimeError: if making it fails; the message names the task
        """
        own = self.kwargs_of(copy)
        kwargs = {**own, **({} if render_mode is None else {"render_mode": render_mode}), **kwargs}
        try:
            with mujoco_messages_as_warnings():
                env = self.env_id(**kwargs) if callable(self.env_id) else gym.make(self.env_id, **kwargs)
        except Exception as e:
            raise RuntimeError(f"Task {self.name!r}: making its environment failed: {e}") from e
        if isinstance(env, gym.vector.VectorEnv):
            raise RuntimeError(
                f"Task {self.name!r}: its factory returned a {type(env).__name__} (num_envs={env.num_envs}). A task is "
                "one environment: make a single one, and `n_envs_per_task` says how many copies of it to run."
            )
        if not isinstance(env, gym.Env):
            raise RuntimeError(f"Task {self.name!r}: its factory returned {type(env).__name__}, not a gymnasium.Env")
        return env


def _bodies(robot: str, *bodies: str) -> tuple[Task, ...]:
    return tuple(Task(body, f"{robot}{body}-v0") for body in bodies)


def _gravities(robot: str) -> tuple[Task, ...]:
    names = ("GravityHalf", "GravityThreeQuarters", "Earth", "GravityOneAndQuarter", "GravityOneAndHalf")
    return tuple(Task(name, f"{robot}-v5" if name == "Earth" else f"{robot}{name}-v0") for name in names)


_LIMBS = ("Foot", "Leg", "Thigh", "Torso")
_SMALL_THEN_BIG = tuple(f"{size}{limb}" for size in ("Small", "Big") for limb in _LIMBS)
_HUMANOID_ONLY = tuple(f"{size}{part}" for part in ("Head", "Arm", "Hand") for size in ("Small", "Big"))
TASK_SETS: dict[str, tuple[Task, ...]] = {
    # The paper's six, in the paper's order (section 4).
    "HalfCheetahBody6": _bodies(
        "HalfCheetah", "SmallFoot", "BigFoot", "SmallLeg", "SmallThigh", "SmallTorso", "BigTorso"
    ),
    # The groups of Henderson et al. 2017, in their order of training; their -v1 is Gymnasium's -v5 here.
    **{f"{robot}Gravity5": _gravities(robot) for robot in ("Hopper", "Walker2d", "HalfCheetah", "Humanoid")},
    **{f"{robot}Body8": _bodies(robot, *_SMALL_THEN_BIG) for robot in ("Hopper", "Walker2d", "HalfCheetah")},
    "HumanoidBody14": _bodies("Humanoid", *_SMALL_THEN_BIG, *_HUMANOID_ONLY),
    "HopperSensor2": (Task("Sensor", "HopperWithSensor-v0"), Task("Wall", "HopperSimpleWall-v0")),
    **{
        f"{robot}Sensor2": (Task("Sensor", f"{robot}WithSensor-v0"), Task("Wall", f"{robot}Wall-v0"))
        for robot in ("Walker2d", "HalfCheetah", "Humanoid")
    },
    "HumanoidStandup3": (
        Task("Run", "Humanoid-v5"),
        Task("Standup", "HumanoidStandup-v5"),
        Task("StandupAndRun", "HumanoidStandupAndRun-v0"),
    ),
    "HumanoidStandupSensor4": (
        Task("Run", "HumanoidWithSensor-v0"),
        Task("Standup", "HumanoidStandupWithSensor-v0"),
        Task("StandupAndRun", "HumanoidStandupAndRunWithSensor-v0"),
        Task("Wall", "HumanoidStandupAndRunWall-v0"),
    ),
    "Pusher2": (Task("Pusher", "Pusher-v5"), Task("MovingGoal", "PusherMovingGoal-v0")),
    "Striker2": (Task("Striker", "Striker-v0"), Task("MovingStart", "StrikerMovingStart-v0")),
}
"""Named sets: name -> tasks. The order is the order of the heads."""

NAMESPACE = "MultiTask"


def set_id(name: str) -> str:
    """Return the Gymnasium id of a task set: one environment that alternates between its tasks, see ``TaskSetEnv``."""
    return f"{NAMESPACE}/{name}-v0"


def task_set(name: str) -> tuple[Task, ...] | None:
    """Return the tasks of a set, by its name or its Gymnasium id; None if there is no such set."""
    return next((tasks for known, tasks in TASK_SETS.items() if name in (known, set_id(known))), None)


TasksLike: TypeAlias = str | Task | Sequence[str | Task] | Mapping[str, str]


def resolve_tasks(tasks: TasksLike, *, import_modules: bool = True) -> tuple[Task, ...]:
    """Turn a set's name, an id, a task, a list of these, or names with their ids into tasks.

    :param tasks: for example ``"HalfCheetahBody6"`` (or the set's id, ``"MultiTask/HalfCheetahBody6-v0"``),
        ``"Hopper-v5"``, ``["Hopper-v5", Task("Heavy", make_heavy_hopper)]`` or ``{"Hopper": "Hopper-v5"}``. The name of
        a bare id is the id, without the module before a colon
    :param import_modules: import the modules that ids name, as ``gymnasium.make`` does. False for tasks from a file,
        whose modules must have been imported before
    :raises ValueError: unknown set or id (with the closest match), a module that cannot or may not be imported, no
        task, or a name twice
    :raises TypeError: if an entry is neither an id nor a task
    """
    if isinstance(tasks, Mapping):
        tasks = [Task(name, env_id) for name, env_id in tasks.items()]
    entries = [tasks] if isinstance(tasks, str | Task) else list(tasks)
    resolved = tuple(task for entry in entries for task in _resolve_entry(entry, import_modules))
    if not resolved:
        raise ValueError("`tasks` must hold at least one task (got none)")
    duplicates = sorted(name for name, count in Counter(task.name for task in resolved).items() if count > 1)
    if duplicates:
        raise ValueError(
            f"Task names must be unique (twice or more: {', '.join(duplicates)}). "
            "Give a task another name with Task(name, env_id)."
        )
    return resolved


def _resolve_entry(entry: str | Task, import_modules: bool) -> tuple[Task, ...]:
    if isinstance(entry, str) and (tasks := task_set(entry)) is not None:
        return tasks
    if isinstance(entry, Task):
        if isinstance(entry.env_id, str):
            _check_id(entry.env_id, import_modules)
        return (entry,)
    if not isinstance(entry, str):
        raise TypeError(f"A task must be a Gymnasium id or a Task (got {entry!r})")
    _check_id(entry, import_modules)
    return (Task(registered_id(entry), entry),)


def registered_id(env_id: str) -> str:
    """Return an environment's id without the module that registers it."""
    return env_id.rpartition(":")[2]


def _check_id(env_id: str, import_modules: bool) -> None:
    """Raise if ``env_id`` is not registered, with the closest known id."""
    module, colon, name = env_id.rpartition(":")
    if colon and module not in sys.modules:
        if not import_modules:
            raise ValueError(
                f"{env_id!r} names the module {module!r}, which is not imported because a file says so: import it "
                f"first, on the command line with --gym-packages {module}"
            )
        import_env_module(module, f"Unknown task set or environment id {env_id!r}")
    try:
        gym.spec(name)
    except gym.error.Error as e:
        known = [*TASK_SETS, *gym.registry]
        raise ValueError(
            f"Unknown task set or environment id {env_id!r}.{did_you_mean(name, known)} "
            f"Task sets: {', '.join(TASK_SETS)}; environment ids: those of gymnasium.registry, and with the module "
            "that registers them 'my_package:My/Arm-v0' (on the command line also --gym-packages my_package)."
        ) from e


def import_env_module(module: str, where: str) -> None:
    """Import a module that registers environments.

    :param where: the file or argument that names the module, for the error
    :raises ValueError: if it cannot be imported
    """
    if not all(part.isidentifier() for part in module.split(".")):
        raise ValueError(f"{where}: {module!r} is not the name of a module")
    try:
        importlib.import_module(module)
    except Exception as e:  # users' code may raise anything
        raise ValueError(
            f"{where}: the module {module!r} cannot be imported ({type(e).__name__}: {e}). Install it, or put the "
            "folder that it lies in on PYTHONPATH"
        ) from e


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """Return `` Did you mean 'x'?`` for the closest known name, or an empty string."""
    by_lower = {candidate.lower(): candidate for candidate in known}
    close = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.5)
    return f" Did you mean {by_lower[close[0]]!r}?" if close else ""


def check_tasks(name: str, values: Mapping[str, float], task_names: Sequence[str], *, of_all: bool) -> None:
    """Raise unless the keys of a mapping are tasks.

    :param of_all: whether every task must be among them
    :raises ValueError: on an unknown task, or a missing one
    """
    for task in values:
        if task not in task_names:
            raise ValueError(
                f"`{name}` has a number for {task!r}, which is no task.{did_you_mean(str(task), task_names)} "
                f"Tasks: {', '.join(task_names)}"
            )
    missing = [task for task in task_names if task not in values]
    if of_all and missing:
        raise ValueError(f"`{name}` must have a number for every task (none for {', '.join(missing)})")
