"""Low walls, stairs and a maze, with readings that are a map of the robot's surroundings."""

from __future__ import annotations

import numpy as np

from sb3_multitask.envs.obstacles import Obstacle, WithObstacles

CELL = 0.5  # m, length of a cell of Hopper's strips


def strip_readings(x: np.ndarray, centres: np.ndarray, half_lengths: np.ndarray, n_cells: int) -> np.ndarray:
    """Return the number of obstacles that cover the centre of each cell of a strip that begins 0.5 m behind ``x``.

    :param x: position of the foot in m, (n_rows,)
    :param centres: of the obstacles in m, (n_rows, n_obstacles)
    :param half_lengths: of the obstacles in m, (n_obstacles,)
    :param n_cells: number of cells, of 0.5 m each
    :return: (n_rows, n_cells)
    """
    cells = x[:, None] - CELL + CELL * (np.arange(n_cells) + 0.5)
    away = np.abs(cells[:, :, None] - centres[:, None, :])
    return np.asarray((away <= half_lengths).sum(axis=2), dtype=np.float64)


def maze_readings(xy: np.ndarray, centres: np.ndarray, half_sizes: np.ndarray, half_width: float) -> np.ndarray:
    """Return the cells of a map, 2 m ahead and 5 m across, that hold a wall: (n_rows, 10), row by row of the map.

    A cell is a square of 1 m; its centre is 1 or 2 m ahead and 2, 1, 0, -1 or -2 m to the left. It reads 1 if a wall
    reaches into it, or if a part of it lies outside of the corridor.

    :param xy: position of the torso in m, (n_rows, 2)
    :param centres: of the walls across the corridor in m, (n_walls, 2)
    :param half_sizes: of these walls in m, (n_walls, 2)
    :param half_width: of the corridor around y = 0, in m
    """
    left, ahead = np.repeat(np.arange(2.0, -3.0, -1.0), 2), np.tile([1.0, 2.0], 5)
    cells = xy[:, None, :] + np.stack((ahead, left), axis=1)
    away = np.abs(cells[:, :, None, :] - centres)
    walled = (away < half_sizes + 0.5).all(axis=3).any(axis=2)
    return np.asarray(walled | (np.abs(cells[:, :, 1]) + 0.5 > half_width), dtype=np.float64)


class WithSimpleWalls(WithObstacles):
    """Mixin: two low walls without friction, at 2.8 m and 4 to 6 m behind the first, drawn at each reset.

    They are 0.18 m high and 0.5 m thick. Each of ten readings is 1 if a wall covers its cell of 0.5 m, else 0; the
    first cell begins 0.5 m behind the foot.
    """

    obstacles = tuple(Obstacle(f"wall {i}", (2.8 + 5 * i, 0.0, 0.06), (0.25, 0.4, 0.12), condim=1) for i in range(2))

    def draw_obstacles(self, generator: np.random.Generator) -> np.ndarray:
        positions = super().draw_obstacles(generator)
        positions[1, 0] = positions[0, 0] + 5 * generator.uniform(0.8, 1.2)
        return positions

    def readings(self) -> np.ndarray:
        foot = self.poses_now().body("foot").xpos
        return np.asarray(self.read(foot[None], self.data.mocap_pos[None])[0])

    def read(self, foot: np.ndarray, obstacles: np.ndarray) -> np.ndarray:
        """Return the readings of many rows: ``foot`` (n_rows, 3), ``obstacles`` (n_rows, n_obstacles, 3)."""
        half_lengths = np.array([wall.half_size[0] for wall in self.obstacles])
        return strip_readings(foot[:, 0], obstacles[:, :, 0], half_lengths, self.n_readings)


class WithStairs(WithObstacles):
    """Mixin: three stairs up and down again, 0.225, 0.375 and 0.525 m high, from 0.75 m to 5.25 m.

    Each of six readings is half the number of stairs that cover its cell of 0.5 m; the first cell begins 0.5 m behind
    the foot.
    """

    n_readings = 6
    highest_reading = 1.5
    obstacles = tuple(
        Obstacle(f"level {i}", (3.0, 0.0, 0.075 + 0.15 * i), (2.25 - 0.75 * i, 0.4, 0.15), condim=3) for i in range(3)
    )

    def readings(self) -> np.ndarray:
        foot = self.poses_now().body("foot").xpos
        return np.asarray(self.read(foot[None], self.data.mocap_pos[None])[0])

    def read(self, foot: np.ndarray, obstacles: np.ndarray) -> np.ndarray:
        """Return the readings of many rows: ``foot`` (n_rows, 3), ``obstacles`` (n_rows, n_obstacles, 3)."""
        half_lengths = np.array([level.half_size[0] for level in self.obstacles])
        return 0.5 * strip_readings(foot[:, 0], obstacles[:, :, 0], half_lengths, self.n_readings)


class WithMaze(WithObstacles):
    """Mixin: a corridor 6.5 m wide with five walls across it, open on alternate sides, every 5 m from 2.8 m on.

    Ten readings are a map of the cells of 1 m ahead of the torso and to its sides, see :func:`maze_readings`.
    """

    obstacles = (
        *(Obstacle(f"wall {i}", (2.8 + 5 * i, 1.5 * (-1) ** i, 2.5), (0.25, 2.0, 5.0), condim=1) for i in range(5)),
        *(Obstacle(f"side {i}", (10.0, 3.5 * (-1) ** i, 0.375), (20.0, 0.25, 0.75), condim=1) for i in range(2)),
    )

    def readings(self) -> np.ndarray:
        torso = self.poses_now().body("torso").xpos
        return np.asarray(self.read(torso[None], self.data.mocap_pos[None])[0])

    def read(self, torso: np.ndarray, _obstacles: np.ndarray) -> np.ndarray:
        """Return the readings of many rows: ``torso`` (n_rows, 3)."""
        *walls, side, _ = self.obstacles
        centres = np.array([wall.position[:2] for wall in walls])
        half_sizes = np.array([wall.half_size[:2] for wall in walls])
        return maze_readings(torso[:, :2], centres, half_sizes, side.position[1] - side.half_size[1])
