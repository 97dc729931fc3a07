"""Hopper with other bodies and gravity, with walls and stairs."""

from __future__ import annotations

from gymnasium.envs.mujoco.hopper_v5 import HopperEnv

from sb3_multitask.envs.edited_model import EditedModel
from sb3_multitask.envs.readings import WithReadings
from sb3_multitask.envs.terrain import WithSimpleWalls, WithStairs


class HopperBodyEnv(EditedModel, HopperEnv):
    """Gymnasium's ``Hopper-v5`` with another body or gravity.

    :param morphology: the body; ``None``: the unchanged one
    :param scales: factors by part, such as ``{"Foot": 0.8}``
    :param gravity: along z in m/s^2; ``None``: -9.81
    :param kwargs: arguments of ``Hopper-v5``
    """

    robot = "Hopper"


class HopperSensorEnv(WithReadings, HopperBodyEnv):
    """``Hopper-v5`` with ten readings that are 0."""


class HopperSimpleWallEnv(WithSimpleWalls, HopperBodyEnv):
    """``Hopper-v5`` with two low walls without friction."""


class HopperStairsEnv(WithStairs, HopperBodyEnv):
    """``Hopper-v5`` on stairs. In ``HopperStairs-v0`` the episode ends at a lean of 0.27 rad, instead of 0.2."""
