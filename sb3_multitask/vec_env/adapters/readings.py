"""The readings of robots with sensors, for many simulations at once."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sb3_multitask.envs.obstacles import WithObstacles, robot_columns
from sb3_multitask.envs.readings import WithReadings
from sb3_multitask.envs.terrain import WithMaze
from sb3_multitask.envs.walls import BEAMS, OBSTACLES_ONLY, WithWall, beam_readings

_NO_STAGE_BUT_POSITIONS = 1  # mjSTAGE_POS


class Readings:
    """Append readings to observations, as :class:`~sb3_multitask.envs.readings.WithReadings` does.

    :param prototypes: for every row, an unwrapped environment; all of one class
    :param batch: the simulations
    """

    def __init__(self, prototypes: Sequence[Any], batch: Any) -> None:
        self.prototypes, self.prototype, self.batch = prototypes, prototypes[0], batch
        self.n_readings: int = self.prototype.n_readings
        self.seen: Any = slice(None)
        self.has_obstacles = isinstance(self.prototype, WithObstacles)
        if self.has_obstacles:
            self.seen = robot_columns(self.prototype.observation_structure, len(self.prototype.obstacles))
            self.mocap_pos = batch.bind("mocap_pos")
            self.xpos, self.xmat = batch.bind("xpos"), batch.bind("xmat")
            body = "torso" if isinstance(self.prototype, WithWall | WithMaze) else "foot"
            self.body = self.prototype.model.body(body).id

    def append(self, ids: np.ndarray, obs: np.ndarray) -> np.ndarray:
        """Return observations with the readings of the simulations ``ids`` appended.

        It also updates the derived fields of the batch to the present state.
        """
        return np.concatenate((obs[:, self.seen], self._read(ids)), axis=1)

    def place(self, row: int, generator: np.random.Generator) -> None:
        """Place the obstacles of a new episode."""
        if self.has_obstacles:
            self.mocap_pos[row] = self.prototypes[row].draw_obstacles(generator)

    def _read(self, ids: np.ndarray) -> np.ndarray:
        if not self.has_obstacles:
            return np.zeros((len(ids), self.n_readings))
        self.batch.forward(ids, stage=_NO_STAGE_BUT_POSITIONS)
        origins = self.xpos[ids, self.body]
        if not isinstance(self.prototype, WithWall):
            readings: np.ndarray = self.prototype.read(origins, self.mocap_pos[ids])
            return readings
        turns = self.xmat[ids, self.body].reshape(-1, 3, 3)
        directions = BEAMS @ turns.transpose(0, 2, 1)
        distances, _ = self.batch.ray(
            origins[:, None, :], directions, geomgroup=OBSTACLES_ONLY, flg_static=True, ids=ids
        )
        return beam_readings(distances)


def readings_of(prototypes: Sequence[Any], batch: Any) -> Readings | None:
    """Return an environment's readings."""
    return Readings(prototypes, batch) if isinstance(prototypes[0], WithReadings) else None
