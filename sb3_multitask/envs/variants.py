"""The table of variants: one line a body, registered with Gymnasium."""

from __future__ import annotations

from itertools import product

import gymnasium as gym

from sb3_multitask.envs.morphology import Morphology

SMALL, BIG = 0.75, 1.25  # Henderson et al. 2017: minus and plus 25%

HALF_CHEETAH_PARTS: dict[str, tuple[str, ...]] = {
    "Foot": ("ffoot", "bfoot"),
    "Leg": ("fshin", "bshin"),
    "Thigh": ("fthigh", "bthigh"),
    "Torso": ("torso",),
    "Head": ("head",),
}

BODIES: dict[str, tuple[str, Morphology]] = {
    f"HalfCheetah{prefix}{part}-v0": ("HalfCheetah", Morphology(geoms, scale))
    for (part, geoms), (prefix, scale) in product(HALF_CHEETAH_PARTS.items(), {"Small": SMALL, "Big": BIG}.items())
}
"""Gymnasium id -> (robot, body)."""

_ROBOTS = {
    "HalfCheetah": {
        "entry_point": "sb3_multitask.envs.half_cheetah:HalfCheetahBodyEnv",
        "max_episode_steps": 1000,
        "reward_threshold": 4800.0,
    },
}


def register_envs() -> None:
    """Register every variant, once."""
    for env_id, (robot, morphology) in BODIES.items():
        if env_id not in gym.registry:
            gym.register(id=env_id, kwargs={"morphology": morphology}, **_ROBOTS[robot])  # type: ignore[arg-type]
