"""Bodies with other proportions, by editing a MuJoCo model before it is compiled."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco

from sb3_multitask.envs.number_checks import is_finite
from sb3_multitask.tasks import did_you_mean

PARTS: dict[str, dict[str, tuple[str, ...]]] = {
    "Hopper": {part: (f"{part.lower()}_geom",) for part in ("Foot", "Leg", "Thigh", "Torso")},
    "Walker2d": {
        **{part: (f"{part.lower()}_geom", f"{part.lower()}_left_geom") for part in ("Foot", "Leg", "Thigh")},
        "Torso": ("torso_geom",),
    },
    "HalfCheetah": {
        "Foot": ("ffoot", "bfoot"),
        "Leg": ("fshin", "bshin"),
        "Thigh": ("fthigh", "bthigh"),
        "Torso": ("torso",),
        "Head": ("head",),
    },
    "Humanoid": {
        "Foot": ("left_foot", "right_foot"),
        "Leg": ("right_shin1", "left_shin1"),
        "Thigh": ("right_thigh1", "left_thigh1", "butt"),
        "Torso": ("torso1", "uwaist", "lwaist"),
        "Head": ("head",),
        "Arm": ("right_uarm1", "right_larm", "left_uarm1", "left_larm"),
        "Hand": ("left_hand", "right_hand"),
    },
}
"""Robot -> part -> its geoms."""

RADIUS_ONLY = frozenset({"Hopper", "Walker2d", "Humanoid"})
"""Robots whose published bodies kept the lengths of scaled limbs, since these were given by end points."""


@dataclass(frozen=True)
class Morphology:
    """Scale the size of some geoms, as gym-extensions did (Henderson et al. 2017).

    The joints stay where they are; only the geoms (and with them masses, inertias and contacts) change.

    :param geoms: names of the geoms to scale
    :param scale: factor on every number of their ``size``, positive (radius and half-length of a capsule; a
        capsule given by ``fromto`` has a radius only, its length stays)
    :param radius_only: scale the radius alone, for models whose published ancestor gave the geom by ``fromto``
    :raises ValueError: if ``geoms`` is empty or ``scale`` is not a positive, finite number
    """

    geoms: tuple[str, ...]
    scale: float
    radius_only: bool = False

    def __post_init__(self) -> None:
        is_tuple = isinstance(self.geoms, tuple) and all(isinstance(name, str) for name in self.geoms)
        if not (is_tuple and self.geoms):
            raise ValueError(f"`geoms` must be a non-empty tuple of geom names (got {self.geoms!r})")
        if not (is_finite(self.scale) and self.scale > 0):
            raise ValueError(f"`scale` must be a positive, finite number (got {self.scale!r})")

    def apply(self, spec: mujoco.MjSpec) -> None:
        """Edit ``spec`` in place.

        :raises ValueError: if it has no geom of a given name; the message lists the known ones
        """
        known = {geom.name: geom for geom in spec.geoms if geom.name}
        for name in self.geoms:
            if name not in known:
                raise ValueError(
                    f"Model {spec.modelname!r} has no geom {name!r}.{did_you_mean(name, known)} "
                    f"Known geoms: {', '.join(known)}"
                )
            geom = known[name]
            size = geom.size.copy()
            size[: 1 if self.radius_only else None] *= self.scale
            geom.size = size


def morphology_of(robot: str, part: str, scale: float) -> Morphology:
    """Return a robot's body with one part scaled, as Henderson et al. scaled it.

    :param robot: one of :data:`PARTS`
    :param part: such as "Foot"
    :raises ValueError: on an unknown robot or part; the message lists the known ones
    """
    if robot == "Ant":
        raise ValueError("Ant has no parts that `scales` could name; give `morphology` a Morphology of its geoms")
    for name, value, known in (("robot", robot, PARTS), ("part", part, PARTS.get(robot, {}))):
        if value not in known:
            raise ValueError(f"Unknown {name} {value!r}.{did_you_mean(str(value), known)} Known: {', '.join(known)}")
    return Morphology(PARTS[robot][part], scale, radius_only=robot in RADIUS_ONLY)
