"""Other gravity, by editing a MuJoCo model before it is compiled."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco

from sb3_multitask.envs.number_checks import is_finite


@dataclass(frozen=True)
class Gravity:
    """Gravity along z, as in gym-extensions (Henderson et al. 2017).

    :param z: acceleration in m/s^2, negative downwards; the Earth's is -9.81
    :raises ValueError: if it is not a finite number
    """

    z: float

    def __post_init__(self) -> None:
        if not is_finite(self.z):
            raise ValueError(f"`gravity` must be a finite number in m/s^2, such as -9.81 (got {self.z!r})")

    def apply(self, spec: mujoco.MjSpec) -> None:
        """Edit ``spec`` in place."""
        spec.option.gravity = [0.0, 0.0, self.z]
