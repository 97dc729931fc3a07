"""Families of bodies of any size, for scaling studies and for tests on bodies that were not trained on."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from sb3_multitask.envs.morphology import PARTS
from sb3_multitask.envs.number_checks import is_finite, is_integer
from sb3_multitask.tasks import Task, did_you_mean


def sample_bodies(
    robot: str = "HalfCheetah", n: int = 48, scale: tuple[float, float] = (0.75, 1.25), seed: int = 0
) -> tuple[Task, ...]:
    """Return bodies with a factor for each part, drawn uniformly.

    :param robot: HalfCheetah, Hopper, Walker2d or Humanoid
    :param n: number of bodies; a larger family starts with the bodies of a smaller one
    :param scale: lowest and highest factor
    :param seed: seed of the draws
    :return: tasks ``Body000``, ``Body001``, ... with plain arguments, so that files can hold them
    :raises ValueError: on an unknown robot, ``n`` below 1, a seed below 0, or factors that are not positive and in
        order
    """
    if robot not in PARTS:
        raise ValueError(f"Unknown robot {robot!r}.{did_you_mean(str(robot), PARTS)} Known: {', '.join(PARTS)}")
    for name, value, lowest in (("n", n, 1), ("seed", seed, 0)):
        if not is_integer(value) or value < lowest:
            raise ValueError(f"`{name}` must be an integer from {lowest} on (got {value!r})")
    if not (isinstance(scale, Sequence) and len(scale) == 2 and all(is_finite(factor) for factor in scale)):
        raise ValueError(f"`scale` must be a lowest and a highest factor (got {scale!r})")
    low, high = scale
    if not 0 < low <= high:
        raise ValueError(f"`scale` must be a lowest and a highest positive factor (got {scale!r})")
    factors = np.random.default_rng(seed).uniform(low, high, (n, len(PARTS[robot])))
    return tuple(
        Task(f"Body{i:03d}", f"MultiTask/{robot}Body-v0", {"scales": dict(zip(PARTS[robot], row, strict=True))})
        for i, row in enumerate(factors.tolist())
    )
