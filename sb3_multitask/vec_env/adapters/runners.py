"""Adapters of the running robots, which observe their joints and are rewarded for their velocity along x."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sb3_multitask.vec_env.adapters.base import Adapter, Outcome, State
from sb3_multitask.vec_env.infos import Columns


class _Runner(Adapter):
    """Robots that are rewarded for their velocity along x, minus the cost of control."""

    n_skipped_qpos = 1  # where the body is, hidden from the observation, since no task depends on it

    def __init__(self, prototypes: Sequence[Any]) -> None:
        super().__init__(prototypes)
        self.dt = self.per_row("dt")
        self.forward_weight = self.per_row("_forward_reward_weight")
        self.ctrl_weight = self.per_row("_ctrl_cost_weight", np.float32)  # Gymnasium multiplies float32 actions
        self.noise = [env._reset_noise_scale for env in prototypes]
        self.never = np.zeros(len(prototypes), dtype=bool)
        self.hide_position = self.only("_exclude_current_positions_from_observation")

    def observe(self, state: State) -> np.ndarray:
        position = state.qpos[:, self.n_skipped_qpos :] if self.hide_position else state.qpos
        return np.concatenate((position, state.qvel), axis=1)

    def position(self, rows: slice, state: State) -> np.ndarray:  # noqa: ARG002
        return state.qpos[:, : self.n_skipped_qpos].copy()

    def forward_and_ctrl(
        self, rows: slice, before: np.ndarray, after: State, actions: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the velocity along x (m/s), its reward, and the cost of control (float32)."""
        x_velocity = (after.qpos[:, 0] - before[:, 0]) / self.dt[rows]
        ctrl_cost = self.ctrl_weight[rows] * np.add.reduce(np.square(actions), axis=1)
        return x_velocity, self.forward_weight[rows] * x_velocity, ctrl_cost

    def outcome(self, rows: slice, before: np.ndarray, after: State, actions: np.ndarray) -> Outcome:
        x_velocity, forward, ctrl_cost = self.forward_and_ctrl(rows, before, after, actions)

        def columns() -> Columns:
            terms = {"reward_forward": forward, "reward_ctrl": -ctrl_cost}
            return {**self.reset_columns(rows, after), "x_velocity": x_velocity, **terms}

        return Outcome(forward - ctrl_cost, self.never[rows], columns)

    def draw_reset(self, row: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        noise = self.noise[row]
        qpos = self.init_qpos[row] + generator.uniform(-noise, noise, size=self.init_qpos.shape[1])
        qvel = self.init_qvel[row] + generator.uniform(-noise, noise, size=self.init_qvel.shape[1])
        return qpos, qvel

    def reset_columns(self, rows: slice, state: State) -> Columns:  # noqa: ARG002
        return {"x_position": state.qpos[:, 0]}


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

    def outcome(self, rows: slice, before: np.ndarray, after: State, actions: np.ndarray) -> Outcome:
        outcome = super().outcome(rows, before, after, actions)

        def columns() -> Columns:
            y_velocity = (after.qpos[:, 1] - before[:, 1]) / self.dt[rows]
            return {**outcome.columns(), "y_velocity": y_velocity}

        return Outcome(outcome.rewards, outcome.terminated, columns)

    def reset_columns(self, rows: slice, state: State) -> Columns:  # noqa: ARG002
        xy = state.qpos[:, :2]
        distance = np.sqrt(np.vecdot(xy, xy))
        return {"x_position": xy[:, 0], "y_position": xy[:, 1], "distance_from_origin": distance}


class _Walker(_Runner):
    """Robots that must stay healthy: upright, and (Hopper) with a bounded state."""

    def __init__(self, prototypes: Sequence[Any]) -> None:
        super().__init__(prototypes)
        self.healthy_reward = self.per_row("_healthy_reward")
        self.terminates = self.per_row("_terminate_when_unhealthy", bool)
        self.z_range = self.per_row("_healthy_z_range")
        self.angle_range = self.per_row("_healthy_angle_range")

    def observe(self, state: State) -> np.ndarray:
        return super().observe(State(state.qpos, np.clip(state.qvel, -10, 10)))

    def is_healthy(self, rows: slice, state: State) -> np.ndarray:
        z, angle = state.qpos[:, 1], state.qpos[:, 2]
        (min_z, max_z), (min_angle, max_angle) = self.z_range[rows].T, self.angle_range[rows].T
        healthy: np.ndarray = (min_z < z) & (z < max_z) & (min_angle < angle) & (angle < max_angle)
        return healthy

    def outcome(self, rows: slice, before: np.ndarray, after: State, actions: np.ndarray) -> Outcome:
        x_velocity, forward, ctrl_cost = self.forward_and_ctrl(rows, before, after, actions)
        is_healthy = self.is_healthy(rows, after)
        healthy = is_healthy * self.healthy_reward[rows]

        def columns() -> Columns:
            terms = {"reward_forward": forward, "reward_ctrl": -ctrl_cost, "reward_survive": healthy}
            return {**self.reset_columns(rows, after), "x_velocity": x_velocity, **terms}

        return Outcome(forward + healthy - ctrl_cost, ~is_healthy & self.terminates[rows], columns)

    def reset_columns(self, rows: slice, state: State) -> Columns:
        height = state.qpos[:, 1] - self.init_qpos[rows, 1]
        return {"x_position": state.qpos[:, 0], "z_distance_from_origin": height}


class Walker2dAdapter(_Walker):
    """``Walker2d-v5``."""


class HopperAdapter(_Walker):
    """``Hopper-v5``."""

    def __init__(self, prototypes: Sequence[Any]) -> None:
        super().__init__(prototypes)
        self.state_range = self.per_row("_healthy_state_range")

    def is_healthy(self, rows: slice, state: State) -> np.ndarray:
        low, high = self.state_range[rows, :1], self.state_range[rows, 1:]
        numbers = np.concatenate((state.qpos[:, 2:], state.qvel), axis=1)
        return super().is_healthy(rows, state) & ((low < numbers) & (numbers < high)).all(axis=1)
