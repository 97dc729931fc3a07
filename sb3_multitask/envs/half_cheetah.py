"""HalfCheetah with other bodies and gravity, and with a wall."""

from __future__ import annotations

from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv

from sb3_multitask.envs.edited_model import EditedModel
from sb3_multitask.envs.readings import WithReadings
from sb3_multitask.envs.walls import WithWall


class HalfCheetahBodyEnv(EditedModel, HalfCheetahEnv):
    """Gymnasium's ``HalfCheetah-v5`` with a :class:`~sb3_multitask.envs.morphology.Morphology`.

    The cheetah runs along x in a vertical plane; each step lasts 0.05 s (5 simulation steps of 0.01 s); episodes
    are truncated after 1,000 steps and never terminate early. The total mass is 14 kg for every body.

    **Action** ``Box(-1, 1, (6,), float32)``: torques on back thigh, shin, foot, front thigh, shin, foot, in units
    of the motors' gears (120, 90, 60, 120, 60, 30 N m).

    **Observation** ``Box(-inf, inf, (17,), float64)``:

    ===== ======================================================= ========
    index quantity                                                unit
    ===== ======================================================= ========
    0     height of the torso over its start                      m
    1     pitch of the torso                                      rad
    2-7   joint angles: back thigh, shin, foot, then front        rad
    8     forward velocity of the torso                           m/s
    9     vertical velocity of the torso                          m/s
    10    pitch rate of the torso                                 rad/s
    11-16 joint velocities, in the order of the angles            rad/s
    ===== ======================================================= ========

    **Reward** ``reward_forward + reward_ctrl``, both in ``info``: forward velocity over the step (m/s), and
    -0.1 times the sum of the squared actions.

    **Reset**: positions uniform in ±0.1, velocities normal with standard deviation 0.1, around rest.

    **Versions**: ``-v0``, the published bodies (Henderson et al. 2017) on Gymnasium's v5 class. The published ones
    also observed the torso's position (20 numbers).

    :param morphology: the body; ``None`` is the unchanged one, bit for bit ``HalfCheetah-v5``
    :param scales: factors by part, such as ``{"Foot": 0.8}``
    :param gravity: along z in m/s^2; ``None``: -9.81
    :param kwargs: arguments of ``HalfCheetah-v5``, such as ``render_mode`` or ``ctrl_cost_weight``
    """

    robot = "HalfCheetah"


class HalfCheetahSensorEnv(WithReadings, HalfCheetahBodyEnv):
    """``HalfCheetah-v5`` with ten readings that are 0."""


class HalfCheetahWallEnv(WithWall, HalfCheetahBodyEnv):
    """``HalfCheetah-v5`` with a wall and ten beams."""
