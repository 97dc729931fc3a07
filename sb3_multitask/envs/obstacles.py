"""Boxes in the way of a robot."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import mujoco
import numpy as np
from gymnasium import spaces

from sb3_multitask.envs.readings import WithReadings

GROUP = 2
"""Geom group of all obstacles, and of nothing else: beams see this group. Groups from 3 on are not drawn by default."""


@dataclass(frozen=True)
class Obstacle:
    """A box that stands still during an episode; a reset may move it.

    It is a mocap body: robots would pass through a geom of the world that is moved, since MuJoCo does not expect that.
    It has no mass, so that in a model with a fixed total mass the robot keeps all of it.

    :param name: name of its body
    :param position: its centre, (x, y, z) in m
    :param half_size: half of its edges, (x, y, z) in m, as in MuJoCo's sizes of boxes
    :param condim: MuJoCo's dimension of its contacts, 1 without friction and 3 with, unless the robot's geom has a
        larger one; ``None`` takes the default of the robot's model
    :param rgba: colour
    """

    name: str
    position: tuple[float, float, float]
    half_size: tuple[float, float, float]
    condim: int | None = None
    rgba: tuple[float, float, float, float] = (1.0, 0.0, 1.0, 1.0)

    def add_to(self, spec: mujoco.MjSpec) -> None:
        """Add the obstacle to a model that is not yet compiled."""
        body = spec.worldbody.add_body(name=self.name, pos=self.position, mocap=True)
        geom = body.add_geom(
            name=self.name,
            type=mujoco.mjtGeom.mjGEOM_BOX,
            size=self.half_size,
            mass=0.0,
            contype=1,
            conaffinity=1,
            group=GROUP,
            rgba=self.rgba,
        )
        if self.condim is not None:
            geom.condim = self.condim


class WithObstacles(WithReadings):
    """Mixin: boxes that a robot must pass.

    They are the model's last bodies. In Gymnasium's classes that observe all bodies (Ant, Humanoid), observations and
    rewards leave them out, so that the observation is that of the same robot with sensors and without obstacles.
    """

    obstacles: ClassVar[tuple[Obstacle, ...]]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._seen: np.ndarray | None = None
        super().__init__(*args, **kwargs)
        self._seen = robot_columns(getattr(self, "observation_structure", {}), len(self.obstacles))
        space = self.observation_space
        assert isinstance(space, spaces.Box)
        kept = np.append(self._seen, np.ones(self.n_readings, dtype=bool))
        self.observation_space = spaces.Box(space.low[kept], space.high[kept], dtype=np.float64)

    def edit(self, spec: mujoco.MjSpec) -> None:
        super().edit(spec)
        for obstacle in self.obstacles:
            obstacle.add_to(spec)

    def draw_obstacles(self, generator: np.random.Generator) -> np.ndarray:  # noqa: ARG002
        """Return the positions of the obstacles of an episode, (n_obstacles, 3) in m."""
        return np.array([obstacle.position for obstacle in self.obstacles])

    def reset_model(self) -> Any:
        self.data.mocap_pos[:] = self.draw_obstacles(self.np_random)
        return super().reset_model()

    def base_observation(self) -> np.ndarray:
        obs = super().base_observation()
        assert self._seen is not None
        return np.asarray(obs[self._seen])

    def _step_mujoco_simulation(self, ctrl: np.ndarray, n_frames: int) -> None:
        super()._step_mujoco_simulation(ctrl, n_frames)  # type: ignore[no-untyped-call]
        self.data.cfrc_ext[-len(self.obstacles) :] = 0


_NUMBERS_A_BODY = {"cinert": 10, "cvel": 6, "cfrc_ext": 6}


def robot_columns(structure: dict[str, int], n_obstacles: int) -> np.ndarray:
    """Return a mask of the numbers of an observation that are not an obstacle's, (obs_dim,) bool.

    :param structure: Gymnasium's ``observation_structure``: part -> number of values, in their order
    """
    columns = []
    for part, size in structure.items():
        if part != "skipped_qpos":
            n_theirs = n_obstacles * _NUMBERS_A_BODY.get(part, 0) if size else 0
            columns.append(np.arange(size) < size - n_theirs)
    return np.concatenate(columns)
