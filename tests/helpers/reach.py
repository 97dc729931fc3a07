"""A goal environment of MuJoCo, as Gymnasium-Robotics' Fetch: an arm of two links reaches for a point in the plane."""

from __future__ import annotations

from typing import Any, ClassVar

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium import spaces

import sb3_multitask as mt

_XML = """
<mujoco>
  <option timestep="0.01" gravity="0 0 0"/>
  <worldbody>
    <body>
      <joint name="shoulder" axis="0 0 1" damping="0.05" armature="0.01"/>
      <geom type="capsule" fromto="0 0 0 0.1 0 0" size="0.01" density="{density}" contype="0"/>
      <body pos="0.1 0 0">
        <joint name="elbow" axis="0 0 1" damping="0.05" armature="0.01" range="-150 150"/>
        <geom type="capsule" fromto="0 0 0 0.1 0 0" size="0.01" density="{density}" contype="0"/>
        <site name="finger" pos="0.1 0 0"/>
      </body>
    </body>
  </worldbody>
  <actuator>
    <motor joint="shoulder" gear="0.1"/>
    <motor joint="elbow" gear="0.1"/>
  </actuator>
</mujoco>
"""


class ReachEnv(gym.Env):
    """The finger is to be within ``tolerance`` metres of a goal in reach; 50 steps of 0.04 s.

    :param density: of the links, in kg/m^3
    :param sparse: the reward is 0 within the tolerance and -1 elsewhere, else -10 per metre of distance
    """

    metadata: ClassVar[dict[str, Any]] = {"render_modes": [], "render_fps": 25}
    tolerance = 0.02

    def __init__(self, density: float = 1000.0, sparse: bool = False) -> None:
        self.model = mujoco.MjModel.from_xml_string(_XML.format(density=density))
        self.data = mujoco.MjData(self.model)
        self.sparse, self.time = sparse, 0
        point = spaces.Box(-0.2, 0.2, (2,), dtype=np.float64)
        self.observation_space = spaces.Dict(
            {
                "observation": spaces.Box(-np.inf, np.inf, (6,), dtype=np.float64),
                "achieved_goal": point,
                "desired_goal": point,
            }
        )
        self.action_space = spaces.Box(-1, 1, (2,), dtype=np.float32)

    def _obs(self) -> dict[str, np.ndarray]:
        angles, speeds = self.data.qpos, self.data.qvel
        return {
            "observation": np.concatenate((np.cos(angles), np.sin(angles), 0.1 * speeds)),
            "achieved_goal": self.data.site("finger").xpos[:2].copy(),
            "desired_goal": self.goal.copy(),
        }

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None):
        super().reset(seed=seed)
        mujoco.mj_resetData(self.model, self.data)
        self.data.qpos[:] = self.np_random.uniform(-1, 1, 2)
        mujoco.mj_forward(self.model, self.data)
        angle, radius = self.np_random.uniform((-np.pi / 2, 0.08), (np.pi / 2, 0.18))
        self.goal = radius * np.array([np.cos(angle), np.sin(angle)])
        self.time = 0
        return self._obs(), {}

    def step(self, action: np.ndarray):
        self.data.ctrl[:] = np.clip(action, -1, 1)
        mujoco.mj_step(self.model, self.data, nstep=4)
        mujoco.mj_kinematics(self.model, self.data)
        self.time += 1
        obs = self._obs()
        info = {"is_success": self._distance(obs["achieved_goal"], obs["desired_goal"]) < self.tolerance}
        reward = float(self.compute_reward(obs["achieved_goal"], obs["desired_goal"], info))
        return obs, reward, False, self.time >= 50, info

    @staticmethod
    def _distance(achieved_goal: np.ndarray, desired_goal: np.ndarray) -> np.ndarray:
        return np.linalg.norm(achieved_goal - desired_goal, axis=-1)

    def compute_reward(self, achieved_goal: np.ndarray, desired_goal: np.ndarray, info: Any) -> np.ndarray:
        """Rewards of goals (..., 2), as hindsight relabelling asks for them: (...)."""
        distance = self._distance(achieved_goal, desired_goal)
        return -(distance >= self.tolerance).astype(float) if self.sparse else -10 * distance

    def get_state(self) -> dict[str, Any]:
        state = np.empty(mujoco.mj_stateSize(self.model, mujoco.mjtState.mjSTATE_INTEGRATION))
        mujoco.mj_getState(self.model, self.data, state, mujoco.mjtState.mjSTATE_INTEGRATION)
        return {"physics": state, "goal": self.goal.copy(), "time": self.time}

    def set_state(self, state: dict[str, Any]) -> None:
        mujoco.mj_setState(self.model, self.data, state["physics"], mujoco.mjtState.mjSTATE_INTEGRATION)
        mujoco.mj_forward(self.model, self.data)
        self.goal, self.time = state["goal"].copy(), state["time"]


def reach_tasks(**kwargs: Any) -> list[mt.Task]:
    """The arm with light links, and with heavy ones."""
    return [mt.Task("Light", ReachEnv, kwargs), mt.Task("Heavy", ReachEnv, {"density": 8000.0, **kwargs})]
