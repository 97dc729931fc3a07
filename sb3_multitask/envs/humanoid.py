"""Humanoid with other bodies and gravity, with a wall, and one that must stand up and run."""

from __future__ import annotations

from typing import Any

import numpy as np
from gymnasium.envs.mujoco.humanoid_v5 import HumanoidEnv, mass_center
from gymnasium.envs.mujoco.humanoidstandup_v5 import HumanoidStandupEnv

from sb3_multitask.envs.edited_model import EditedModel
from sb3_multitask.envs.readings import WithReadings
from sb3_multitask.envs.walls import WithWall

UPRIGHT = (1.0, 2.0)
"""Lowest and highest torso in m of a humanoid that counts as standing."""


class HumanoidBodyEnv(EditedModel, HumanoidEnv):
    """Gymnasium's ``Humanoid-v5`` with another body or gravity.

    :param morphology: the body; ``None``: the unchanged one
    :param scales: factors by part, such as ``{"Foot": 0.8}``
    :param gravity: along z in m/s^2; ``None``: -9.81
    :param kwargs: arguments of ``Humanoid-v5``
    """

    robot = "Humanoid"


class HumanoidSensorEnv(WithReadings, HumanoidBodyEnv):
    """``Humanoid-v5`` with ten readings that are 0."""


class HumanoidWallEnv(WithWall, HumanoidBodyEnv):
    """``Humanoid-v5`` with a wall and ten beams."""


class HumanoidStandupSensorEnv(WithReadings, HumanoidStandupEnv):
    """``HumanoidStandup-v5`` with ten readings that are 0."""

    robot = "Humanoid"


class HumanoidStandupAndRunEnv(EditedModel, HumanoidStandupEnv):
    """A humanoid that starts on its back and is rewarded for standing up and for running.

    Bodies, actions, observations and resets are those of ``HumanoidStandup-v5``; episodes do not end early. The
    **reward** is the sum of these terms, all in ``info``:

    =================== ===================================================================================
    ``reward_linup``    height of the torso (m) over the simulation's time step (0.003 s)
    ``reward_forward``  0.25 times how far the centre of mass moved along x (m), over the same time step
    ``reward_alive``    5 while the torso is between 1 and 2 m high, else 1
    ``reward_quadctrl`` -0.1 times the sum of the squared controls
    ``reward_impact``   -5e-7 times the sum of the squared contact forces, at least -10
    =================== ===================================================================================
    """

    robot = "Humanoid"

    def step(self, action: np.ndarray) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        before = mass_center(self.model, self.data)[0]
        obs, _, terminated, truncated, info = super().step(action)  # type: ignore[no-untyped-call]
        forward = 0.25 * (mass_center(self.model, self.data)[0] - before) / self.model.opt.timestep
        low, high = UPRIGHT
        alive = 5.0 if low <= self.data.qpos[2] <= high else 1.0
        reward = info["reward_linup"] + forward + alive + info["reward_quadctrl"] + info["reward_impact"]
        return obs, reward, terminated, truncated, {**info, "reward_forward": forward, "reward_alive": alive}


class HumanoidStandupAndRunSensorEnv(WithReadings, HumanoidStandupAndRunEnv):
    """:class:`HumanoidStandupAndRunEnv` with ten readings that are 0."""


class HumanoidStandupAndRunWallEnv(WithWall, HumanoidStandupAndRunEnv):
    """:class:`HumanoidStandupAndRunEnv` with a wall and ten beams."""
