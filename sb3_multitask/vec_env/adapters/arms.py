"""Adapters of the arms: Pusher and Striker."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from sb3_multitask.vec_env.adapters.base import Adapter, Outcome, State

_N_JOINTS = 7


def _norm(vectors: np.ndarray) -> np.ndarray:
    norm: np.ndarray = np.sqrt(np.vecdot(vectors, vectors))
    return norm


class _ArmAdapter(Adapter):
    fields = ("xpos",)

    def __init__(self, prototypes: Sequence[Any]) -> None:
        super().__init__(prototypes)
        self.ids = list(self.layout(prototypes[0]))
        self.never = np.zeros(len(prototypes), dtype=bool)

    @classmethod
    def layout(cls, prototype: Any) -> tuple[Any, ...]:
        return tuple(int(prototype.model.body(name).id) for name in ("tips_arm", "object", "goal"))

    def observe(self, state: State) -> np.ndarray:
        bodies = state.fields["xpos"][:, self.ids].reshape(len(state.qpos), -1)
        return np.concatenate((state.qpos[:, :_N_JOINTS], state.qvel[:, :_N_JOINTS], bodies), axis=1)

    def bodies(self, state: State) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return the positions of hand, object and goal, each (n_rows, 3)."""
        hand, thing, goal = (state.fields["xpos"][:, i] for i in self.ids)
        return hand, thing, goal

    def draw_reset(self, row: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        qpos, qvel = self.prototypes[row].draw_state(generator)
        return qpos, qvel


class PusherAdapter(_ArmAdapter):
    """``Pusher-v5``, and with other goals."""

    def __init__(self, prototypes: Sequence[Any]) -> None:
        super().__init__(prototypes)
        self.near_weight = self.per_row("_reward_near_weight")
        self.dist_weight = self.per_row("_reward_dist_weight")
        self.ctrl_weight = self.per_row("_reward_control_weight", np.float32)

    def outcome(self, rows: slice, before: Any, after: State, actions: np.ndarray) -> Outcome:  # noqa: ARG002
        hand, thing, goal = self.bodies(after)
        near = -_norm(thing - hand) * self.near_weight[rows]
        dist = -_norm(thing - goal) * self.dist_weight[rows]
        ctrl = -np.add.reduce(np.square(actions), axis=1) * self.ctrl_weight[rows]
        terms = {"reward_dist": dist, "reward_ctrl": ctrl, "reward_near": near}
        return Outcome(dist + ctrl + near, self.never[rows], lambda: terms)

    def draw_reset(self, row: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        if hasattr(self.prototypes[row], "draw_state"):
            return super().draw_reset(row, generator)
        while True:  # Pusher-v5: the goal stays at the origin
            cylinder = np.array([generator.uniform(-0.3, 0), generator.uniform(-0.2, 0.2)])
            if np.linalg.norm(cylinder) > 0.17:
                break
        qpos = self.init_qpos[row].copy()
        qpos[-4:-2], qpos[-2:] = cylinder, 0
        qvel = self.init_qvel[row] + generator.uniform(-0.005, 0.005, size=self.init_qvel.shape[1])
        qvel[-4:] = 0
        return qpos, qvel


class StrikerAdapter(_ArmAdapter):
    """:class:`~sb3_multitask.envs.arms.StrikerMovingStartEnv`."""

    def __init__(self, prototypes: Sequence[Any]) -> None:
        super().__init__(prototypes)
        n_rows = len(prototypes)
        self.strike_distance = self.per_row("strike_distance")
        self.nearest = np.full(n_rows, np.inf)
        self.has_struck = np.zeros(n_rows, dtype=bool)
        self.strike_position = np.zeros((n_rows, 3))

    def outcome(self, rows: slice, before: Any, after: State, actions: np.ndarray) -> Outcome:  # noqa: ARG002
        hand, ball, goal = self.bodies(after)
        self.nearest[rows] = np.minimum(self.nearest[rows], _norm(ball - goal))
        to_hand = _norm(ball - hand)
        strikes = to_hand < self.strike_distance[rows]
        self.strike_position[rows][strikes] = hand[strikes]
        self.has_struck[rows] |= strikes
        near = np.where(self.has_struck[rows], _norm(ball - self.strike_position[rows]), to_hand)
        dist, near = -3 * self.nearest[rows], -0.5 * near
        ctrl = -0.1 * np.add.reduce(np.square(actions), axis=1).astype(np.float64)
        terms = {"reward_dist": dist, "reward_ctrl": ctrl, "reward_near": near}
        return Outcome(dist + ctrl + near, self.never[rows], lambda: terms)

    def draw_reset(self, row: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        self.nearest[row], self.has_struck[row], self.strike_position[row] = np.inf, False, 0
        return super().draw_reset(row, generator)

    def get_state(self) -> dict[str, Any]:
        arrays = {"nearest": self.nearest, "has_struck": self.has_struck, "strike_position": self.strike_position}
        return {name: array.copy() for name, array in arrays.items()}

    def set_state(self, state: dict[str, Any]) -> None:
        for name, array in state.items():
            getattr(self, name)[...] = array
