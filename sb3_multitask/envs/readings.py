"""Environments with readings of obstacles, appended to the observation."""

from __future__ import annotations

from typing import Any, ClassVar

import mujoco
import numpy as np
from gymnasium import spaces

from sb3_multitask.envs.edited_model import EditedModel


class WithReadings(EditedModel):
    """Mixin: appends ``n_readings`` numbers to the observation, here zeros, since there are no obstacles.

    So an agent can be trained without obstacles first, with the same observation.
    """

    n_readings: ClassVar[int] = 10
    highest_reading: ClassVar[float] = 1.0

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.scratch_data: mujoco.MjData | None = None
        super().__init__(*args, **kwargs)
        base = self.observation_space
        assert isinstance(base, spaces.Box)
        self.observation_space = spaces.Box(
            np.append(base.low, np.zeros(self.n_readings)),
            np.append(base.high, np.full(self.n_readings, self.highest_reading)),
            dtype=np.float64,
        )

    def _get_obs(self) -> np.ndarray:
        return np.append(self.base_observation(), self.readings())

    def base_observation(self) -> np.ndarray:
        """Return the robot's observation without readings."""
        obs: np.ndarray = super()._get_obs()  # type: ignore[misc]  # of the Gymnasium class
        return obs

    def readings(self) -> np.ndarray:
        """Return the present readings of the sensors, (n_readings,)."""
        return np.zeros(self.n_readings)

    def poses_now(self) -> mujoco.MjData:
        """Compute the poses of all bodies from the present joint positions.

        After a step ``data.xpos`` is one simulation step old. Gymnasium's MuJoCo environments compute their rewards
        from it, so the present kinematics are computed separately.
        """
        if self.scratch_data is None:
            self.scratch_data = mujoco.MjData(self.model)
        self.scratch_data.qpos[:] = self.data.qpos
        self.scratch_data.mocap_pos[:] = self.data.mocap_pos
        mujoco.mj_kinematics(self.model, self.scratch_data)
        return self.scratch_data
