"""Ant with other gravity, and in a maze."""

from __future__ import annotations

from gymnasium.envs.mujoco.ant_v5 import AntEnv

from sb3_multitask.envs.edited_model import EditedModel
from sb3_multitask.envs.terrain import WithMaze


class AntBodyEnv(EditedModel, AntEnv):
    """Gymnasium's ``Ant-v5`` with another body or gravity.

    :param morphology: the body; ``None``: the unchanged one
    :param gravity: along z in m/s^2; ``None``: -9.81
    :param kwargs: arguments of ``Ant-v5``
    """

    robot = "Ant"


class AntMazeEnv(WithMaze, AntBodyEnv):
    """``Ant-v5`` in a corridor with walls across it."""
