"""Adapters of the running robots, which observe their joints and are rewarded for their velocity along x."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import numpy as np

from sb3_multitask.process.kernels import load_kernels
from sb3_multitask.vec_env.adapters.base import Adapter, Outcome, State
from sb3_multitask.vec_env.infos import Columns


class _Terms(NamedTuple):
    """What a step gave: positions (n, up to 3), the others (n,), velocities in m/s."""

    rewards: np.ndarray
    x_velocity: np.ndarray
    forward: np.ndarray
    ctrl_cost: np.ndarray
    healthy: np.ndarray
    positions: np.ndarray


class _Runner(Adapter):
    """Robots that are rewarded for their velocity along x, minus the cost of control."""

    n_skipped_qpos = 1  # where the body is, hidden from the observation, since no task depends on it
    largest_qvel = np.inf  # of the observation

    def __init__(self, prototypes: Sequence[Any]) -> None:
        super().__init__(prototypes)
        n = len(prototypes)
        self.dt = self.per_row("dt")
        self.forward_weight = self.per_row("_forward_reward_weight")
        self.ctrl_weight = self.per_row("_ctrl_cost_weight", np.float32)  # Gymnasium multiplies float32 actions
        self.noise = [env._reset_noise_scale for env in prototypes]
        self.hide_position = self.only("_exclude_current_positions_from_observation")
        self.healthy_reward, self.terminates = np.zeros(n), np.zeros(n, dtype=bool)
        self.ranges = np.tile([-np.inf, np.inf], (n, 3, 1))
        """Within which robots are healthy: height, angle, and every other number of the state, (n_rows, 3, 2)."""
        self._of_rows: dict[tuple[int, int], tuple[np.ndarray, ...]] = {}

    def observe(self, state: State) -> np.ndarray:
        position = state.qpos[:, self.n_skipped_qpos :] if self.hide_position else state.qpos
        return np.concatenate((position, state.qvel), axis=1)

    def position(self, rows: slice, state: State) -> np.ndarray:  # noqa: ARG002
        return state.qpos[:, : self.n_skipped_qpos].copy()

    def is_healthy(self, rows: slice, state: State) -> np.ndarray:  # noqa: ARG002
        """Whether robots are within their ranges, (n_rows,)."""
        return np.ones(len(state.qpos), dtype=bool)

    def after_step(self, rows: slice, before: Any, live: State, actions: np.ndarray) -> tuple[np.ndarray, Outcome]:
        is_own = type(self).__module__ == __name__  # a user's subclass may compute something else
        kernels = load_kernels("vec_env") if is_own else None
        if kernels is None:
            return super().after_step(rows, before, live, actions)
        first = self.n_skipped_qpos if self.hide_position else 0
        parameters = self._of_rows.get((rows.start, rows.stop)) or self._parameters(rows)
        obs, terms, terminated = kernels.runner_step(
            live.qpos, live.qvel, before, actions, *parameters, first, self.largest_qvel
        )
        return obs, Outcome(terms[0], terminated, partial(self._columns_of_kernel, rows, before, terms))

    def _parameters(self, rows: slice) -> tuple[np.ndarray, ...]:
        """What the kernel reads of some rows."""
        weights = self.dt, self.forward_weight, self.ctrl_weight, self.healthy_reward
        block = np.stack(weights, axis=1, dtype=np.float64)[rows]
        self._of_rows[rows.start, rows.stop] = made = block, self.ranges[rows], self.terminates[rows]
        return made

    def outcome(self, rows: slice, before: np.ndarray, after: State, actions: np.ndarray) -> Outcome:
        x_velocity = (after.qpos[:, 0] - before[:, 0]) / self.dt[rows]
        forward = self.forward_weight[rows] * x_velocity
        ctrl_cost = self.ctrl_weight[rows] * np.add.reduce(np.square(actions), axis=1)
        is_healthy = self.is_healthy(rows, after)
        healthy = is_healthy * self.healthy_reward[rows]
        rewards = forward + healthy - ctrl_cost
        terms = _Terms(rewards, x_velocity, forward, ctrl_cost, healthy, after.qpos[:, :3])
        return Outcome(rewards, ~is_healthy & self.terminates[rows], partial(self._columns, rows, before, terms))

    def _columns_of_kernel(self, rows: slice, before: np.ndarray, terms: np.ndarray) -> Columns:
        rewards, x_velocity, forward, ctrl_cost, healthy, *positions = terms
        cost, xyz = ctrl_cost.astype(np.float32), np.stack(positions[: self.init_qpos.shape[1]], axis=1)
        return self._columns(rows, before, _Terms(rewards, x_velocity, forward, cost, healthy, xyz))

    def _columns(self, rows: slice, before: np.ndarray, terms: _Terms) -> Columns:
        of_position = self.reset_columns(rows, State(terms.positions, np.empty(0)))
        of_reward = {"reward_forward": terms.forward, "reward_ctrl": -terms.ctrl_cost}
        more = self.more_columns(rows, before, terms)
        return {**of_position, "x_velocity": terms.x_velocity, **of_reward, **more}

    def more_columns(self, rows: slice, before: np.ndarray, terms: _Terms) -> Columns:  # noqa: ARG002
        """Further arrays behind the infos of a step."""
        return {}

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

    def more_columns(self, rows: slice, before: np.ndarray, terms: _Terms) -> Columns:
        return {"y_velocity": (terms.positions[:, 1] - before[:, 1]) / self.dt[rows]}

    def reset_columns(self, rows: slice, state: State) -> Columns:  # noqa: ARG002
        xy = state.qpos[:, :2]
        distance = np.sqrt(np.vecdot(xy, xy))
        return {"x_position": xy[:, 0], "y_position": xy[:, 1], "distance_from_origin": distance}


class _Walker(_Runner):
    """Robots that must stay healthy: upright, and (Hopper) with a bounded state."""

    largest_qvel = 10.0

    def __init__(self, prototypes: Sequence[Any]) -> None:
        super().__init__(prototypes)
        self.healthy_reward = self.per_row("_healthy_reward")
        self.terminates = self.per_row("_terminate_when_unhealthy", bool)
        self.ranges[:, 0] = self.per_row("_healthy_z_range")
        self.ranges[:, 1] = self.per_row("_healthy_angle_range")

    def observe(self, state: State) -> np.ndarray:
        return super().observe(State(state.qpos, np.clip(state.qvel, -self.largest_qvel, self.largest_qvel)))

    def is_healthy(self, rows: slice, state: State) -> np.ndarray:
        low, high = self.ranges[rows, :2, 0], self.ranges[rows, :2, 1]
        height_and_angle = state.qpos[:, 1:3]
        return np.asarray(((low < height_and_angle) & (height_and_angle < high)).all(axis=1))

    def more_columns(self, rows: slice, before: np.ndarray, terms: _Terms) -> Columns:  # noqa: ARG002
        return {"reward_survive": terms.healthy}

    def reset_columns(self, rows: slice, state: State) -> Columns:
        height = state.qpos[:, 1] - self.init_qpos[rows, 1]
        return {"x_position": state.qpos[:, 0], "z_distance_from_origin": height}


class Walker2dAdapter(_Walker):
    """``Walker2d-v5``."""


class HopperAdapter(_Walker):
    """``Hopper-v5``."""

    def __init__(self, prototypes: Sequence[Any]) -> None:
        super().__init__(prototypes)
        self.ranges[:, 2] = self.per_row("_healthy_state_range")

    def is_healthy(self, rows: slice, state: State) -> np.ndarray:
        low, high = self.ranges[rows, 2, :1], self.ranges[rows, 2, 1:]
        numbers = np.concatenate((state.qpos[:, 2:], state.qvel), axis=1)
        return super().is_healthy(rows, state) & ((low < numbers) & (numbers < high)).all(axis=1)
