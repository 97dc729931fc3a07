"""Adapters of the native backend, one for each family of environments."""

from gymnasium.envs.mujoco.ant_v5 import AntEnv
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
from gymnasium.envs.mujoco.humanoid_v5 import HumanoidEnv
from gymnasium.envs.mujoco.humanoidstandup_v5 import HumanoidStandupEnv
from gymnasium.envs.mujoco.pusher_v5 import PusherEnv
from gymnasium.envs.mujoco.swimmer_v5 import SwimmerEnv
from gymnasium.envs.mujoco.walker2d_v5 import Walker2dEnv

from sb3_multitask.envs.ant import AntBodyEnv, AntMazeEnv
from sb3_multitask.envs.arms import (
    PusherFullRangeEnv,
    PusherLeftSideEnv,
    PusherMovingGoalEnv,
    StrikerEnv,
    StrikerMovingStartEnv,
)
from sb3_multitask.envs.half_cheetah import HalfCheetahBodyEnv, HalfCheetahSensorEnv, HalfCheetahWallEnv
from sb3_multitask.envs.hopper import HopperBodyEnv, HopperSensorEnv, HopperSimpleWallEnv, HopperStairsEnv
from sb3_multitask.envs.humanoid import (
    HumanoidBodyEnv,
    HumanoidSensorEnv,
    HumanoidStandupAndRunEnv,
    HumanoidStandupAndRunSensorEnv,
    HumanoidStandupAndRunWallEnv,
    HumanoidStandupSensorEnv,
    HumanoidWallEnv,
)
from sb3_multitask.envs.walker2d import Walker2dBodyEnv, Walker2dSensorEnv, Walker2dWallEnv
from sb3_multitask.vec_env.adapters.arms import PusherAdapter, StrikerAdapter
from sb3_multitask.vec_env.adapters.base import Adapter, Outcome, State
from sb3_multitask.vec_env.adapters.bodies import (
    AntAdapter,
    HumanoidAdapter,
    HumanoidStandupAdapter,
    HumanoidStandupAndRunAdapter,
)
from sb3_multitask.vec_env.adapters.readings import Readings, readings_of
from sb3_multitask.vec_env.adapters.registry import ADAPTERS, register_adapter
from sb3_multitask.vec_env.adapters.runners import HalfCheetahAdapter, HopperAdapter, SwimmerAdapter, Walker2dAdapter

_CLASSES: dict[type[Adapter], tuple[type, ...]] = {
    HalfCheetahAdapter: (
        HalfCheetahEnv,
        HalfCheetahBodyEnv,
        HalfCheetahSensorEnv,
        HalfCheetahWallEnv,
    ),
    HopperAdapter: (
        HopperEnv,
        HopperBodyEnv,
        HopperSensorEnv,
        HopperSimpleWallEnv,
        HopperStairsEnv,
    ),
    Walker2dAdapter: (Walker2dEnv, Walker2dBodyEnv, Walker2dSensorEnv, Walker2dWallEnv),
    SwimmerAdapter: (SwimmerEnv,),
    AntAdapter: (AntEnv, AntBodyEnv, AntMazeEnv),
    HumanoidAdapter: (
        HumanoidEnv,
        HumanoidBodyEnv,
        HumanoidSensorEnv,
        HumanoidWallEnv,
    ),
    HumanoidStandupAdapter: (HumanoidStandupEnv, HumanoidStandupSensorEnv),
    HumanoidStandupAndRunAdapter: (
        HumanoidStandupAndRunEnv,
        HumanoidStandupAndRunSensorEnv,
        HumanoidStandupAndRunWallEnv,
    ),
    PusherAdapter: (PusherEnv, PusherMovingGoalEnv, PusherLeftSideEnv, PusherFullRangeEnv),
    StrikerAdapter: (StrikerEnv, StrikerMovingStartEnv),
}
for _adapter, _classes in _CLASSES.items():
    for _class in _classes:
        register_adapter(_class, _adapter)

__all__ = ["ADAPTERS", "Adapter", "Outcome", "Readings", "State", "readings_of", "register_adapter"]
