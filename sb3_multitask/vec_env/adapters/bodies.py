"""Adapters of the robots with many bodies, whose rewards count contact forces: Ant and the Humanoids."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sb3_multitask.envs.humanoid import UPRIGHT
from sb3_multitask.vec_env.adapters.base import Adapter, Outcome, State
from sb3_multitask.vec_env.infos import Columns


def _flat_sum(squares: np.ndarray) -> np.ndarray:
    """Return the sum of each row's numbers, in the order in which numpy sums a single row."""
    total: np.ndarray = np.add.reduce(np.ascontiguousarray(squares).reshape(len(squares), -1), axis=1)
    return total


def _distance(qpos: np.ndarray) -> np.ndarray:
    xy = np.ascontiguousarray(qpos[:, :2])
    distance: np.ndarray = np.sqrt(np.vecdot(xy, xy))
    return distance


class AntAdapter(Adapter):
    """``Ant-v5``."""

    fields = ("xpos", "cfrc_ext")

    def __init__(self, prototypes: Sequence[Any]) -> None:
        super().__init__(prototypes)
        self.dt = self.per_row("dt")
        self.forward_weight = self.per_row("_forward_reward_weight")
        self.ctrl_weight = self.per_row("_ctrl_cost_weight", np.float32)  # Gymnasium multiplies float32 actions
        self.contact_weight = self.per_row("_contact_cost_weight")
        self.force_range = self.per_row("_contact_force_range")
        self.healthy_reward = self.per_row("_healthy_reward")
        self.z_range = self.per_row("_healthy_z_range")
        self.terminates = self.per_row("_terminate_when_unhealthy", bool)
        self.noise = [env._reset_noise_scale for env in prototypes]
        self.main_body = prototypes[0].model.body(prototypes[0]._main_body).id
        self.hide_position = self.only("_exclude_current_positions_from_observation")
        self.shows_forces = self.only("_include_cfrc_ext_in_observation")

    @classmethod
    def layout(cls, prototype: Any) -> tuple[Any, ...]:
        main_body = prototype.model.body(prototype._main_body).id
        forces = tuple(float(bound) for bound in prototype._contact_force_range)
        return (*super().layout(prototype), prototype._include_cfrc_ext_in_observation, main_body, forces)

    def _forces(self, state: State) -> np.ndarray:
        low, high = self.force_range[0]
        return np.asarray(np.clip(state.fields["cfrc_ext"], low, high))

    def observe(self, state: State) -> np.ndarray:
        position = state.qpos[:, 2:] if self.hide_position else state.qpos
        parts = [position, state.qvel]
        if self.shows_forces:
            parts.append(self._forces(state)[:, 1:].reshape(len(position), -1))
        return np.concatenate(parts, axis=1)

    def position(self, rows: slice, state: State) -> np.ndarray:  # noqa: ARG002
        return state.fields["xpos"][:, self.main_body, :2].copy()

    def outcome(self, rows: slice, before: np.ndarray, after: State, actions: np.ndarray) -> Outcome:
        moved = self.position(rows, after) - before
        velocity = moved / self.dt[rows, None]
        forward = velocity[:, 0] * self.forward_weight[rows]
        z, (low, high) = after.qpos[:, 2], self.z_range[rows].T
        finite = np.isfinite(after.qpos).all(axis=1) & np.isfinite(after.qvel).all(axis=1)
        is_healthy = finite & (low <= z) & (z <= high)
        healthy = is_healthy * self.healthy_reward[rows]
        ctrl_cost = self.ctrl_weight[rows] * _flat_sum(np.square(actions))
        contact_cost = self.contact_weight[rows] * _flat_sum(np.square(self._forces(after)))

        def columns() -> Columns:
            velocities = {"x_velocity": velocity[:, 0], "y_velocity": velocity[:, 1]}
            terms = {"reward_forward": forward, "reward_ctrl": -ctrl_cost, "reward_contact": -contact_cost}
            return {**self.reset_columns(rows, after), **velocities, **terms, "reward_survive": healthy}

        rewards = (forward + healthy) - (ctrl_cost + contact_cost)
        return Outcome(rewards, ~is_healthy & self.terminates[rows], columns)

    def draw_reset(self, row: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        noise = self.noise[row]
        qpos = self.init_qpos[row] + generator.uniform(-noise, noise, size=self.init_qpos.shape[1])
        qvel = self.init_qvel[row] + noise * generator.standard_normal(self.init_qvel.shape[1])
        return qpos, qvel

    def reset_columns(self, rows: slice, state: State) -> Columns:  # noqa: ARG002
        qpos = state.qpos
        return {"x_position": qpos[:, 0], "y_position": qpos[:, 1], "distance_from_origin": _distance(qpos)}


_PARTS = ("cinert", "cvel", "qfrc_actuator", "cfrc_ext")
_FIRST = {"cinert": 1, "cvel": 1, "qfrc_actuator": 6, "cfrc_ext": 1}  # without the world, and the free joint


class _HumanoidAdapter(Adapter):
    fields = (*_PARTS, "xipos", "ten_length", "ten_velocity")

    def __init__(self, prototypes: Sequence[Any]) -> None:
        super().__init__(prototypes)
        self.noise = [env._reset_noise_scale for env in prototypes]
        self.ctrl_weight = self.per_row("_ctrl_cost_weight")
        self.hide_position = self.only("_exclude_current_positions_from_observation")
        self.shown = [part for part in _PARTS if self.only(f"_include_{part}_in_observation")]
        self.mass = np.array([env.model.body_mass for env in prototypes])[:, :, None]
        self.total_mass = np.array([np.sum(env.model.body_mass) for env in prototypes])[:, None]

    @classmethod
    def layout(cls, prototype: Any) -> tuple[Any, ...]:
        return (*super().layout(prototype), *(getattr(prototype, f"_include_{part}_in_observation") for part in _PARTS))

    def observe(self, state: State) -> np.ndarray:
        n_rows = len(state.qpos)
        parts = [state.qpos[:, 2:] if self.hide_position else state.qpos, state.qvel]
        parts += [state.fields[part][:, _FIRST[part] :].reshape(n_rows, -1) for part in self.shown]
        return np.concatenate(parts, axis=1)

    def mass_centre(self, rows: slice, state: State) -> np.ndarray:
        """Return the centre of mass of the whole robot along x and y, (n_rows, 2)."""
        weighted = self.mass[rows] * state.fields["xipos"]
        centre: np.ndarray = (np.add.reduce(weighted, axis=1) / self.total_mass[rows])[:, :2]
        return centre

    def draw_reset(self, row: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        noise = self.noise[row]
        qpos = self.init_qpos[row] + generator.uniform(-noise, noise, size=self.init_qpos.shape[1])
        qvel = self.init_qvel[row] + generator.uniform(-noise, noise, size=self.init_qvel.shape[1])
        return qpos, qvel

    def ctrl_cost(self, rows: slice, actions: np.ndarray) -> np.ndarray:
        return np.asarray(self.ctrl_weight[rows] * _flat_sum(np.square(actions.astype(np.float64))))

    def tendons(self, state: State) -> Columns:
        return {"tendon_length": state.fields["ten_length"], "tendon_velocity": state.fields["ten_velocity"]}


def _impact(weight: np.ndarray, bounds: np.ndarray, state: State) -> np.ndarray:
    cost = weight * _flat_sum(np.square(state.fields["cfrc_ext"]))
    return np.asarray(np.clip(cost, bounds[:, 0], bounds[:, 1]))


class HumanoidAdapter(_HumanoidAdapter):
    """``Humanoid-v5``."""

    def __init__(self, prototypes: Sequence[Any]) -> None:
        super().__init__(prototypes)
        self.dt = self.per_row("dt")
        self.forward_weight = self.per_row("_forward_reward_weight")
        self.contact_weight = self.per_row("_contact_cost_weight")
        self.contact_range = self.per_row("_contact_cost_range")
        self.healthy_reward = self.per_row("_healthy_reward")
        self.z_range = self.per_row("_healthy_z_range")
        self.terminates = self.per_row("_terminate_when_unhealthy", bool)

    def position(self, rows: slice, state: State) -> np.ndarray:
        return self.mass_centre(rows, state)

    def outcome(self, rows: slice, before: np.ndarray, after: State, actions: np.ndarray) -> Outcome:
        velocity = (self.mass_centre(rows, after) - before) / self.dt[rows, None]
        forward = self.forward_weight[rows] * velocity[:, 0]
        z, (low, high) = after.qpos[:, 2], self.z_range[rows].T
        is_healthy = (low < z) & (z < high)
        healthy = is_healthy * self.healthy_reward[rows]
        ctrl_cost = self.ctrl_cost(rows, actions)
        contact_cost = _impact(self.contact_weight[rows], self.contact_range[rows], after)

        def columns() -> Columns:
            velocities = {"x_velocity": velocity[:, 0], "y_velocity": velocity[:, 1]}
            terms = {"reward_forward": forward, "reward_ctrl": -ctrl_cost, "reward_contact": -contact_cost}
            return {**self.reset_columns(rows, after), **velocities, **terms, "reward_survive": healthy}

        rewards = (forward + healthy) - (ctrl_cost + contact_cost)
        return Outcome(rewards, ~is_healthy & self.terminates[rows], columns)

    def reset_columns(self, rows: slice, state: State) -> Columns:  # noqa: ARG002
        qpos = state.qpos
        place = {"x_position": qpos[:, 0], "y_position": qpos[:, 1], "distance_from_origin": _distance(qpos)}
        return {**place, **self.tendons(state)}


class HumanoidStandupAdapter(_HumanoidAdapter):
    """``HumanoidStandup-v5``."""

    def __init__(self, prototypes: Sequence[Any]) -> None:
        super().__init__(prototypes)
        self.timestep = np.array([env.model.opt.timestep for env in prototypes])
        self.impact_weight = self.per_row("_impact_cost_weight")
        self.impact_range = self.per_row("_impact_cost_range")
        self.never = np.zeros(len(prototypes), dtype=bool)

    def terms(self, rows: slice, state: State, actions: np.ndarray) -> Columns:
        """Return the terms of the reward that are in ``info``."""
        return {
            "reward_linup": (state.qpos[:, 2] - 0) / self.timestep[rows],
            "reward_quadctrl": -self.ctrl_cost(rows, actions),
            "reward_impact": -_impact(self.impact_weight[rows], self.impact_range[rows], state),
        }

    def outcome(self, rows: slice, before: Any, after: State, actions: np.ndarray) -> Outcome:  # noqa: ARG002
        terms = self.terms(rows, after, actions)
        rewards = terms["reward_linup"] + terms["reward_quadctrl"] + terms["reward_impact"] + 1
        return Outcome(rewards, self.never[rows], lambda: {**self.reset_columns(rows, after), **terms})

    def reset_columns(self, rows: slice, state: State) -> Columns:
        qpos = state.qpos
        height = qpos[:, 2] - self.init_qpos[rows, 2]
        place = {"x_position": qpos[:, 0], "y_position": qpos[:, 1], "z_distance_from_origin": height}
        return {**place, **self.tendons(state)}


class HumanoidStandupAndRunAdapter(HumanoidStandupAdapter):
    """:class:`~sb3_multitask.envs.humanoid.HumanoidStandupAndRunEnv`."""

    def position(self, rows: slice, state: State) -> np.ndarray:
        return self.mass_centre(rows, state)

    def outcome(self, rows: slice, before: Any, after: State, actions: np.ndarray) -> Outcome:
        terms = self.terms(rows, after, actions)
        moved = self.mass_centre(rows, after)[:, 0] - before[:, 0]
        forward = 0.25 * moved / self.timestep[rows]
        low, high = UPRIGHT
        z = after.qpos[:, 2]
        alive = np.where((low <= z) & (z <= high), 5.0, 1.0)
        rewards = terms["reward_linup"] + forward + alive + terms["reward_quadctrl"] + terms["reward_impact"]
        more = {"reward_forward": forward, "reward_alive": alive}
        return Outcome(rewards, self.never[rows], lambda: {**self.reset_columns(rows, after), **terms, **more})
