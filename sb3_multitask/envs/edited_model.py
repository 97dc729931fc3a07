"""A Gymnasium MuJoCo environment whose model is edited in memory before it is compiled."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

import mujoco
from gymnasium.envs.mujoco import MujocoEnv

from sb3_multitask.envs.gravity import Gravity
from sb3_multitask.envs.morphology import Morphology, morphology_of

if TYPE_CHECKING:
    _Base = MujocoEnv
else:
    _Base = object


class EditedModel(_Base):
    """Mixin before one of Gymnasium's v5 classes: edits its MJCF and changes nothing else.

    The environment pickles and copies like its Gymnasium class, including the edit.

    :param args: arguments of the Gymnasium class
    :param morphology: the body; ``None``: the unchanged one
    :param scales: part -> factor, for the parts in :data:`~sb3_multitask.envs.morphology.PARTS`
    :param gravity: acceleration along z in m/s^2; ``None``: the model's own, -9.81
    :param kwargs: arguments of the Gymnasium class
    """

    robot: ClassVar[str]
    """Robot whose parts ``scales`` names."""

    def __init__(
        self,
        *args: Any,
        morphology: Morphology | None = None,
        scales: Mapping[str, float] | None = None,
        gravity: float | None = None,
        **kwargs: Any,
    ) -> None:
        if morphology is not None and not isinstance(morphology, Morphology):
            raise TypeError(f"`morphology` must be a Morphology (got {morphology!r})")
        if scales is not None and not isinstance(scales, Mapping):
            raise TypeError(f"`scales` must map parts to factors, such as {{'Foot': 0.8}} (got {scales!r})")
        edits: list[Morphology | Gravity] = [] if morphology is None else [morphology]
        edits += [morphology_of(self.robot, part, scale) for part, scale in (scales or {}).items()]
        if gravity is not None:
            edits.append(Gravity(gravity))
        self._edits = tuple(edits)
        super().__init__(*args, **kwargs)
        self._ezpickle_kwargs: dict[str, Any]  # EzPickle rebuilds the environment from these
        self._ezpickle_kwargs |= {"morphology": morphology, "scales": scales, "gravity": gravity}

    def edit(self, spec: mujoco.MjSpec) -> None:
        """Edit the model before it is compiled; subclasses add edits."""
        for edit in self._edits:
            edit.apply(spec)

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        model = compile_model(self.fullpath, self.edit)
        # As MujocoEnv does for its renderer: grow the offscreen framebuffer, never shrink it.
        offscreen = model.vis.global_
        offscreen.offwidth = max(offscreen.offwidth, self.width)
        offscreen.offheight = max(offscreen.offheight, self.height)
        return model, mujoco.MjData(model)


def compile_model(path: str, edit: Callable[[mujoco.MjSpec], None] = lambda _spec: None) -> mujoco.MjModel:
    """Compile the MJCF file at ``path`` after an edit.

    A model that fixes its total mass (half_cheetah.xml: 14 kg) keeps it: a smaller foot makes the torso heavier,
    as in the published bodies. The attribute is deprecated, so the same is done on the compiled model.
    """
    spec = mujoco.MjSpec.from_file(path)
    edit(spec)
    total_mass = spec.compiler.settotalmass  # kg; not positive: leave the masses alone
    spec.compiler.settotalmass = -1
    model = spec.compile()
    if total_mass > 0:
        mujoco.mj_setTotalmass(model, total_mass)
        mujoco.mj_setConst(model, mujoco.MjData(model))
    return model
