"""What the native backend must know of an environment family: one short adapter each.

An adapter turns the state arrays of many simulations into observations, rewards, termination and ``info``, with the
arithmetic of Gymnasium's class, in its order and precision: the tests hold each bit for bit against it. Parameters
(such as ``ctrl_cost_weight``) are read from one prototype environment a task and kept per row, so that tasks that
differ in them share one batch.

Shapes: ``qpos`` (n_rows, nq), ``qvel`` (n_rows, nv), ``actions`` (n_rows, nu) float32; ``rows`` is the slice of the
batch they belong to.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from gymnasium.envs.mujoco.hopper_v5 import HopperEnv
from gymnasium.envs.mujoco.swimmer_v5 import SwimmerEnv
from gymnasium.envs.mujoco.walker2d_v5 import Walker2dEnv

from sb3_multitask.envs.half_cheetah import HalfCheetahBodyEnv
from sb3_multitask.vec_env.infos import Columns


@dataclass
class Outcome:
    """What a step gives beside the observation: ``rewards`` (n_rows,) float64, ``terminated`` (n_rows,) bool.

    ``columns()`` makes the arrays behind ``info``, only if somebody looks at one.
    """

    rewards: np.ndarray
    terminated: np.ndarray
    columns: Callable[[], Columns]


class Adapter(Protocol):
    """One environment family."""

    def __init__(self, prototypes: Sequence[Any]) -> None:
        """``prototypes``: for every row, an unwrapped environment with its parameters."""

    def observe(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        """Observations (n_rows, obs_dim) float64, not views of the state."""

    def outcome(
        self, rows: slice, before: np.ndarray, qpos: np.ndarray, qvel: np.ndarray, actions: np.ndarray
    ) -> Outcome:
        """Rewards, termination and infos; ``before`` is ``qpos`` before the step."""

    def draw_reset(self, row: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """``qpos`` and ``qvel`` of a new episode, drawn as the environment draws them."""

    def reset_columns(self, rows: slice, qpos: np.ndarray) -> Columns:
        """The arrays behind the info of a reset."""


class _Runner:
    """Bodies rewarded for their velocity along x, less the cost of control."""

    n_skipped_qpos = 1  # hidden from the observation, since no task depends on where the body is
    init_qpos: np.ndarray
    init_qvel: np.ndarray

    def __init__(self, prototypes: Sequence[Any]) -> None:
        def per_row(name: str, dtype: type = np.float64) -> np.ndarray:
            return np.array([getattr(env, name) for env in prototypes], dtype=dtype)

        self.per_row = per_row
        self.init_qpos, self.init_qvel = per_row("init_qpos"), per_row("init_qvel")
        self.dt = per_row("dt")
        self.forward_weight = per_row("_forward_reward_weight")
        self.ctrl_weight = per_row("_ctrl_cost_weight", np.float32)  # Gymnasium multiplies float32 actions
        self.noise = [env._reset_noise_scale for env in prototypes]
        self.never = np.zeros(len(prototypes), dtype=bool)
        (self.hide_position,) = {env._exclude_current_positions_from_observation for env in prototypes}

    def observe(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        position = qpos[:, self.n_skipped_qpos :] if self.hide_position else qpos
        return np.concatenate((position, qvel), axis=1)

    def forward_and_ctrl(
        self, rows: slice, before: np.ndarray, qpos: np.ndarray, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Velocity along x (m/s), its reward, and the cost of control (float32)."""
        x_velocity = (qpos[:, 0] - before[:, 0]) / self.dt[rows]
        ctrl_cost = self.ctrl_weight[rows] * np.add.reduce(np.square(actions), axis=1)
        return x_velocity, self.forward_weight[rows] * x_velocity, ctrl_cost

    def outcome(
        self,
        rows: slice,
        before: np.ndarray,
        qpos: np.ndarray,
        qvel: np.ndarray,  # noqa: ARG002
        actions: np.ndarray,
    ) -> Outcome:
        x_velocity, forward, ctrl_cost = self.forward_and_ctrl(rows, before, qpos, actions)

        def columns() -> Columns:
            terms = {"reward_forward": forward, "reward_ctrl": -ctrl_cost}
            return {**self.reset_columns(rows, qpos), "x_velocity": x_velocity, **terms}

        return Outcome(forward - ctrl_cost, self.never[rows], columns)

    def draw_reset(self, row: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        noise = self.noise[row]
        qpos = self.init_qpos[row] + generator.uniform(-noise, noise, size=self.init_qpos.shape[1])
        qvel = self.init_qvel[row] + generator.uniform(-noise, noise, size=self.init_qvel.shape[1])
        return qpos, qvel

    def reset_columns(self, rows: slice, qpos: np.ndarray) -> Columns:  # noqa: ARG002
        return {"x_position": qpos[:, 0]}


class HalfCheetahAdapter(_Runner):
    """``HalfCheetah-v5`` and its bodies."""

    def draw_reset(self, row: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        noise = self.noise[row]
        qpos = self.init_qpos[row] + generator.uniform(-noise, noise, size=self.init_qpos.shape[1])
        qvel = self.init_qvel[row] + noise * generator.standard_normal(self.init_qvel.shape[1])
        return qpos, qvel


class SwimmerAdapter(_Runner):
    """``Swimmer-v5``."""

    n_skipped_qpos = 2

    def outcome(
        self,
        rows: slice,
        before: np.ndarray,
        qpos: np.ndarray,
        qvel: np.ndarray,
        actions: np.ndarray,
    ) -> Outcome:
        outcome = super().outcome(rows, before, qpos, qvel, actions)

        def columns() -> Columns:
            y_velocity = (qpos[:, 1] - before[:, 1]) / self.dt[rows]
            return {**outcome.columns(), "y_velocity": y_velocity}

        return Outcome(outcome.rewards, outcome.terminated, columns)

    def reset_columns(self, rows: slice, qpos: np.ndarray) -> Columns:  # noqa: ARG002
        xy = qpos[:, :2]
        distance = np.sqrt(np.vecdot(xy, xy))
        return {"x_position": xy[:, 0], "y_position": xy[:, 1], "distance_from_origin": distance}


class _Walker(_Runner):
    """Bodies that must stay healthy: upright, and (Hopper) with a bounded state."""

    def __init__(self, prototypes: Sequence[Any]) -> None:
        super().__init__(prototypes)
        self.healthy_reward = self.per_row("_healthy_reward")
        self.terminates = self.per_row("_terminate_when_unhealthy", bool)
        self.z_range = self.per_row("_healthy_z_range")
        self.angle_range = self.per_row("_healthy_angle_range")

    def observe(self, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        return super().observe(qpos, np.clip(qvel, -10, 10))

    def is_healthy(self, rows: slice, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:  # noqa: ARG002
        z, angle = qpos[:, 1], qpos[:, 2]
        (min_z, max_z), (min_angle, max_angle) = self.z_range[rows].T, self.angle_range[rows].T
        healthy: np.ndarray = (min_z < z) & (z < max_z) & (min_angle < angle) & (angle < max_angle)
        return healthy

    def outcome(
        self, rows: slice, before: np.ndarray, qpos: np.ndarray, qvel: np.ndarray, actions: np.ndarray
    ) -> Outcome:
        x_velocity, forward, ctrl_cost = self.forward_and_ctrl(rows, before, qpos, actions)
        is_healthy = self.is_healthy(rows, qpos, qvel)
        healthy = is_healthy * self.healthy_reward[rows]

        def columns() -> Columns:
            terms = {"reward_forward": forward, "reward_ctrl": -ctrl_cost, "reward_survive": healthy}
            return {**self.reset_columns(rows, qpos), "x_velocity": x_velocity, **terms}

        return Outcome(forward + healthy - ctrl_cost, ~is_healthy & self.terminates[rows], columns)

    def reset_columns(self, rows: slice, qpos: np.ndarray) -> Columns:
        height = qpos[:, 1] - self.init_qpos[rows, 1]
        return {"x_position": qpos[:, 0], "z_distance_from_origin": height}


class Walker2dAdapter(_Walker):
    """``Walker2d-v5``."""


class HopperAdapter(_Walker):
    """``Hopper-v5``."""

    def __init__(self, prototypes: Sequence[Any]) -> None:
        super().__init__(prototypes)
        self.state_range = self.per_row("_healthy_state_range")

    def is_healthy(self, rows: slice, qpos: np.ndarray, qvel: np.ndarray) -> np.ndarray:
        low, high = self.state_range[rows, :1], self.state_range[rows, 1:]
        state = np.concatenate((qpos[:, 2:], qvel), axis=1)
        return super().is_healthy(rows, qpos, qvel) & ((low < state) & (state < high)).all(axis=1)


ADAPTERS: dict[type, type[_Runner]] = {
    HalfCheetahEnv: HalfCheetahAdapter,
    HalfCheetahBodyEnv: HalfCheetahAdapter,
    HopperEnv: HopperAdapter,
    Walker2dEnv: Walker2dAdapter,
    SwimmerEnv: SwimmerAdapter,
}
"""Exact class of the unwrapped environment -> its adapter; a subclass may have changed anything."""
