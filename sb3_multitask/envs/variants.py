"""The table of the variants that Henderson et al. 2017 published as gym-extensions, and their registration."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym

from sb3_multitask.envs.morphology import PARTS, morphology_of
from sb3_multitask.tasks import NAMESPACE, TASK_SETS, set_id

SCALES = {"Small": 0.75, "Big": 1.25}
GRAVITIES = {"Half": -4.905, "ThreeQuarters": -7.3575, "OneAndQuarter": -12.2625, "OneAndHalf": -14.715}  # m/s^2
ANT_GRAVITIES = {"Mars": -3.711, "Half": -4.905, "OneAndHalf": -14.715}


@dataclass(frozen=True)
class Variant:
    """One registered environment.

    :param env_id: its published id
    :param robot: the robot of which it is a variant
    :param family: morphology, gravity, wall, sensor, stairs, maze, arm or standup_and_run
    :param entry_point: its class
    :param kwargs: arguments of the class
    """

    env_id: str
    robot: str
    family: str
    entry_point: str
    kwargs: dict[str, Any] = field(default_factory=dict, hash=False)

    @property
    def max_episode_steps(self) -> int:
        return 100 if self.family == "arm" else 1000

    @property
    def reward_threshold(self) -> float | None:
        return {"Hopper": 3800.0, "Ant": 3800.0, "HalfCheetah": 4800.0, "Pusher": 0.0, "Striker": 0.0}.get(self.robot)


_MODULES = {
    "Hopper": "hopper",
    "Walker2d": "walker2d",
    "HalfCheetah": "half_cheetah",
    "Humanoid": "humanoid",
    "HumanoidStandup": "humanoid",
    "HumanoidStandupAndRun": "humanoid",
    "Ant": "ant",
    "Pusher": "arms",
    "Striker": "arms",
}
_OBSTACLES = (
    ("Hopper", "SimpleWall", "wall"),
    ("Hopper", "Stairs", "stairs"),
    ("Walker2d", "Wall", "wall"),
    ("HalfCheetah", "Wall", "wall"),
    ("Humanoid", "Wall", "wall"),
    ("HumanoidStandupAndRun", "Wall", "wall"),
    ("Ant", "Maze", "maze"),
    ("HumanoidStandupAndRun", "", "standup_and_run"),
    ("Pusher", "MovingGoal", "arm"),
    ("Pusher", "LeftSide", "arm"),
    ("Pusher", "FullRange", "arm"),
    ("Striker", "MovingStart", "arm"),
)
_SENSORS = ("Hopper", "Walker2d", "HalfCheetah", "Humanoid", "HumanoidStandup", "HumanoidStandupAndRun")


def _variants() -> Iterator[Variant]:
    for robot, parts in PARTS.items():
        for part in parts:
            for size, scale in SCALES.items():
                body = {"morphology": morphology_of(robot, part, scale)}
                yield Variant(f"{robot}{size}{part}-v0", robot, "morphology", _class(robot, "Body"), body)
    for robot in (*PARTS, "Ant"):
        for name, gravity in (ANT_GRAVITIES if robot == "Ant" else GRAVITIES).items():
            yield Variant(f"{robot}Gravity{name}-v0", robot, "gravity", _class(robot, "Body"), {"gravity": gravity})
    for robot, name, family in _OBSTACLES:
        kwargs = {"healthy_angle_range": (-0.27, 0.27)} if family == "stairs" else {}
        yield Variant(f"{robot}{name}-v0", robot, family, _class(robot, name), kwargs)
    for robot in _SENSORS:
        yield Variant(f"{robot}WithSensor-v0", robot, "sensor", _class(robot, "Sensor"))


def _class(robot: str, name: str) -> str:
    return f"sb3_multitask.envs.{_MODULES[robot]}:{robot}{name}Env"


VARIANTS: dict[str, Variant] = {variant.env_id: variant for variant in _variants()}
"""Published id -> variant; all 77."""


OTHERS: dict[str, Variant] = {
    variant.env_id: variant
    for variant in (
        *(Variant(f"{robot}Body-v0", robot, "morphology", _class(robot, "Body")) for robot in (*PARTS, "Ant")),
        Variant("Striker-v0", "Striker", "arm", _class("Striker", "")),
    )
}
"""Other registered ids: bodies that ``scales`` (not Ant's), ``morphology`` and ``gravity`` define; Striker."""


def register_envs() -> None:
    """Register every variant under its published id and as ``MultiTask/<id>``; every set as ``MultiTask/<set>-v0``."""
    for variant in (*VARIANTS.values(), *OTHERS.values()):
        for env_id in (variant.env_id, f"{NAMESPACE}/{variant.env_id}"):
            if env_id not in gym.registry:
                gym.register(
                    id=env_id,
                    entry_point=variant.entry_point,
                    max_episode_steps=variant.max_episode_steps,
                    reward_threshold=variant.reward_threshold,
                    kwargs=variant.kwargs,
                )
    for name, tasks in TASK_SETS.items():
        if set_id(name) not in gym.registry:
            gym.register(
                id=set_id(name),
                entry_point="sb3_multitask.envs.task_set_env:TaskSetEnv",
                max_episode_steps=gym.spec(str(tasks[0].env_id)).max_episode_steps,  # all have the same
                kwargs={"tasks": name, "time_limits": False},
            )
