"""A Gymnasium MuJoCo environment whose model is edited in memory before it is compiled."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import mujoco
from gymnasium.envs.mujoco import MujocoEnv

from sb3_multitask.envs.morphology import Morphology

if TYPE_CHECKING:
    _Base = MujocoEnv
else:
    _Base = object


class EditedModel(_Base):
    """Mixin, put before one of Gymnasium's v5 classes: edits its MJCF, keeps everything else.

    The environment pickles and copies like its Gymnasium class, the edit included.
    """

    def __init__(self, *args: Any, morphology: Morphology | None = None, **kwargs: Any) -> None:
        self._morphology = morphology
        super().__init__(*args, **kwargs)
        self._ezpickle_kwargs: dict[str, Any]  # EzPickle rebuilds the environment from these
        self._ezpickle_kwargs["morphology"] = morphology

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        model = compile_model(self.fullpath, self._morphology)
        # What MujocoEnv does for its renderer: grow the offscreen framebuffer, never shrink it.
        offscreen = model.vis.global_
        offscreen.offwidth = max(offscreen.offwidth, self.width)
        offscreen.offheight = max(offscreen.offheight, self.height)
        return model, mujoco.MjData(model)


def compile_model(path: str, morphology: Morphology | None = None) -> mujoco.MjModel:
    """Compile the MJCF file at ``path`` after an edit.

    A model that fixes its total mass (half_cheetah.xml: 14 kg) keeps it: a smaller foot makes the torso heavier,
    as in the published bodies. The attribute is deprecated, so the same is done on the compiled model.
    """
    spec = mujoco.MjSpec.from_file(path)
    if morphology is not None:
        morphology.apply(spec)
    total_mass = spec.compiler.settotalmass  # kg; not positive: leave the masses alone
    spec.compiler.settotalmass = -1
    model = spec.compile()
    if total_mass > 0:
        mujoco.mj_setTotalmass(model, total_mass)
        mujoco.mj_setConst(model, mujoco.MjData(model))
    return model
