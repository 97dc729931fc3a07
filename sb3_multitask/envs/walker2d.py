"""Walker2d with other bodies and gravity, and with a wall."""

from __future__ import annotations

from gymnasium.envs.mujoco.walker2d_v5 import Walker2dEnv

from sb3_multitask.envs.edited_model import EditedModel
from sb3_multitask.envs.readings import WithReadings
from sb3_multitask.envs.walls import WithWall


class Walker2dBodyEnv(EditedModel, Walker2dEnv):
    """Gymnasium's ``Walker2d-v5`` with another body or gravity.

    :param morphology: the body; ``None``: the unchanged one
    :param scales: factors by part, such as ``{"Foot": 0.8}``
    :param gravity: along z in m/s^2; ``None``: -9.81
    :param kwargs: arguments of ``Walker2d-v5``
    """

    robot = "Walker2d"


class Walker2dSensorEnv(WithReadings, Walker2dBodyEnv):
    """``Walker2d-v5`` with ten readings that are 0."""


class Walker2dWallEnv(WithWall, Walker2dBodyEnv):
    """``Walker2d-v5`` with a wall and ten beams."""
