"""A wall ahead of the robot, and ten beams that measure the distance to it."""

from __future__ import annotations

import math
from typing import ClassVar

import mujoco
import numpy as np

from sb3_multitask.envs.obstacles import GROUP, Obstacle, WithObstacles

BEAM_RANGE = 10.0  # m
BEAM_ANGLES = np.linspace(-math.pi / 4, math.pi / 4, 10)
"""Elevation of each beam over the torso's forward axis, in rad, the lowest first."""
BEAMS = np.stack((np.cos(BEAM_ANGLES), np.zeros(10), np.sin(BEAM_ANGLES)), axis=1)
"""Directions of the beams in the torso's frame, (10, 3)."""
OBSTACLES_ONLY = (np.arange(mujoco.mjNGROUP) == GROUP).astype(np.uint8)


def beam_readings(distances: np.ndarray) -> np.ndarray:
    """Return distances along the beams, in units of their range; 0 where nothing is hit, or nothing within the range.

    :param distances: (...,) in m, -1 where nothing is hit
    """
    return np.where((distances < 0) | (distances > BEAM_RANGE), 0.0, distances / BEAM_RANGE)


class WithWall(WithObstacles):
    """Mixin: a wall across the way, 1.8 to 3.8 m from the start, whose place is drawn at each reset.

    The robot must get over it: it is 0.375 m high and 0.4 m thick. Ten beams start at the torso, from 45 degrees below
    to 45 degrees above its forward axis. They read the distance to the wall in units of 10 m, and 0 if they miss it.
    """

    obstacles = (Obstacle("wall", (1.8, 0.0, 0.125), (0.2, 0.4, 0.25)),)
    wall_range: ClassVar[tuple[float, float]] = (1.8, 3.8)

    def draw_obstacles(self, generator: np.random.Generator) -> np.ndarray:
        positions = super().draw_obstacles(generator)
        positions[0, 0] = generator.uniform(*self.wall_range)
        return positions

    def readings(self) -> np.ndarray:
        poses = self.poses_now()
        torso = poses.body("torso")
        directions = BEAMS @ torso.xmat.reshape(3, 3).T
        distances = [self._cast(poses, torso.xpos, direction) for direction in directions]
        return beam_readings(np.array(distances))

    def _cast(self, poses: mujoco.MjData, origin: np.ndarray, direction: np.ndarray) -> float:
        hit = np.empty(1, dtype=np.int32)  # MuJoCo before 3.5 requires an array for the geom's id
        return float(mujoco.mj_ray(self.model, poses, origin, direction, OBSTACLES_ONLY, 1, -1, hit))
