"""How a model learns from teachers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.type_aliases import TensorDict

from sb3_multitask.algorithms.engine import check_learns_from_teachers
from sb3_multitask.algorithms.model_state import number_or_schedule
from sb3_multitask.algorithms.multitask_algorithm import MultiTaskAlgorithm
from sb3_multitask.algorithms.rollout_buffer import task_buffer
from sb3_multitask.distillation.settings import Coefficient, Coefficients, DistillationSettings
from sb3_multitask.distillation.sources import TeacherLike
from sb3_multitask.distillation.teacher_vec_env import TeachersInEnv
from sb3_multitask.distillation.teachers import Teachers
from sb3_multitask.envs.task_space import TaskSizes
from sb3_multitask.losses import DistillationLoss, DistillLoss, FeatureLoss, Loss
from sb3_multitask.policies.feature_maps import FeatureMaps

_COEFFICIENTS = ("distill_coef", "rl_coef", "critic_coef", "student_rollout_prob", "distill_features")
_MAPS = "feature_maps"
"""Key of the maps of feature regression in files and states; it is left out without them."""


class TaughtAlgorithm(MultiTaskAlgorithm, OnPolicyAlgorithm):
    """The part of an on-policy algorithm that has ``teachers``."""

    distils: ClassVar[bool] = True  # has `teachers`

    def learn_from(
        self,
        teachers: Mapping[str, TeacherLike] | None = None,
        distill_loss: DistillLoss = "forward_kl",
        distill_coef: Coefficient = 1.0,
        rl_coef: Coefficient | None = None,
        critic_coef: Coefficient | None = None,
        student_rollout_prob: Coefficient = 1.0,
        distill_features: Coefficient = 0.0,
    ) -> None:
        """Set how the model learns from teachers; before SB3's constructor.

        :raises ValueError: on settings of distillation without teachers
        """
        self.distill_loss: DistillLoss = distill_loss
        self.distill_coef, self.rl_coef, self.critic_coef = distill_coef, rl_coef, critic_coef
        self.student_rollout_prob, self.distill_features = student_rollout_prob, distill_features
        self._distillation: DistillationSettings | None = None
        if not teachers:
            self.distillation.check_without_teachers()
        self.teachers: Mapping[str, TeacherLike] | Teachers | None = teachers  # resolved when the env is known
        self.is_taught = bool(teachers)
        self._teaching: TeachersInEnv | None = None
        self.feature_dims: Sequence[int] | None = None  # units of the teachers' last hidden layers, if maps reach there
        self.feature_maps: FeatureMaps | None = None

    def _setup_model(self) -> None:
        _ = self.distillation  # checked
        super()._setup_model()
        if isinstance(self.teachers, Mapping):
            self._take_teachers(self.teachers)
        elif not (self.teachers is None or isinstance(self.teachers, Teachers)):
            raise TypeError(f"`teachers` must map tasks to teachers (got {self.teachers!r:.100})")
        if self.feature_dims is not None:
            self._make_feature_maps(self.feature_dims)

    def _take_teachers(self, teachers: Mapping[str, TeacherLike]) -> None:
        self.is_taught, self.teachers, self._teaching = bool(teachers), None, None
        if not teachers:
            return
        self.distillation.check_teachers_teach()
        check_learns_from_teachers(self)
        task_buffer(self.rollout_buffer, "hold what teachers would do")
        if self.task_names is None:
            raise ValueError("`teachers` need an env, whose tasks they teach: pass `env` too")
        sizes = TaskSizes.of(self.observation_space, self.action_space)
        self.teachers = Teachers(teachers, self.task_names, sizes, with_features=self.distillation.wants_features)
        dims, saved = self.teachers.feature_dims, self.feature_dims
        if dims is not None and saved is not None and dims != tuple(saved):
            raise ValueError(
                f"`teachers` have last hidden layers of {dims} units, and the maps of `distill_features` that are "
                f"saved with the model are for {tuple(saved)}: give teachers of these sizes, or distill_features=0"
            )
        self.feature_dims = dims or saved
        self._teaching = TeachersInEnv(self.teachers)

    def _make_feature_maps(self, dims: Sequence[int]) -> None:
        """Make the maps of feature regression, which the policy's optimizer moves."""
        if not self.policy.actor_features_dim:
            raise ValueError(
                "`distill_features` needs a student with a hidden layer, and `policy_kwargs` gives its actor none: "
                "net_arch and head_arch are empty for pi"
            )
        self.feature_maps = FeatureMaps(self.policy.actor_features_dim, dims).to(self.device)
        self.policy.optimizer.param_groups[0]["params"].extend(self.feature_maps.parameters())

    @property
    def distillation(self) -> DistillationSettings:
        """How the model learns from teachers, as its attributes say now."""
        own = (self.student_rollout_prob, self.distill_features)
        given = (self.distill_loss, self.distill_coef, self.rl_coef, self.critic_coef, *own)
        if self._distillation is None or self._distillation.given != given:
            self._distillation = DistillationSettings(*given)
        return self._distillation

    @property
    def rollout_by_teacher(self) -> bool:
        """Whether the actions of the latest rollout were the teachers'."""
        return self._teaching is not None and self._teaching.teachers_act

    def coefficients(self) -> Coefficients:
        """Weights of RL, of the critic and of distillation in this update."""
        progress = self._current_progress_remaining
        return self.distillation.at(progress, self._teaching is not None, self.rollout_by_teacher)

    @property
    def feature_coef(self) -> float:
        """Weight of feature regression in this update; 0 without teachers."""
        return 0.0 if self._teaching is None else self.distillation.feature_coef_at(self._current_progress_remaining)

    @property
    def regresses_features(self) -> bool:
        """Whether the teachers of this training tell their hidden layers, which maps may then have to reach."""
        return self._teaching is not None and self._teaching.teachers.feature_dims is not None

    @property
    def moves_actor(self) -> bool:
        """Whether a term of this update's loss is about the actor."""
        return self.coefficients().moves_actor or self.feature_coef > 0

    def with_teachers(self, loss: Loss, distill_coef: float) -> Sequence[Loss]:
        """The objective: a loss, and with teachers ``distill_coef`` times the distance from them.

        ``distill_features`` times the distance from their hidden layers is added too, while it is not 0.

        :raises ValueError: if ``distill_features`` was 0 when the model was made, and is not now
        """
        if self._teaching is None:
            return [loss]
        losses = [loss, DistillationLoss(self.distill_loss, distill_coef)]
        if (features := self.feature_coef) > 0:
            if self._teaching.teachers.feature_dims is None:
                raise ValueError(
                    f"`distill_features` is {features} now and was 0 when the model was made, so that it has no maps "
                    "to the teachers' hidden layers: give it to the constructor, or to `load`"
                )
            losses.append(FeatureLoss(features))
        return losses

    # Files and state

    def set_parameters(
        self,
        load_path_or_dict: str | TensorDict,
        exact_match: bool = True,
        device: th.device | str = "auto",
    ) -> None:
        """As :meth:`MultiTaskAlgorithm.set_parameters`; maps of feature regression that are not in it stay new.

        :raises ValueError: also on such maps for a model that has none, or that has maps to layers of other sizes
        """
        given: Any = load_path_or_dict
        if not isinstance(given, dict):
            given = load_from_zip_file(given, device=self.device, load_data=False)[1]
        if _MAPS in given and self.feature_maps is None:
            raise ValueError(
                "The parameters have the maps of a model that was trained with `distill_features`, and this model has "
                "none: make it with `distill_features` and `teachers`, or use transfer(model, source, tasks)"
            )
        if _MAPS in given:
            self._check_maps(given[_MAPS])
        maps, group = self.feature_maps, self.policy.optimizer.param_groups[0]
        if maps is None or _MAPS in given:
            super().set_parameters(load_path_or_dict, exact_match, device)
            return
        trained, self.feature_maps = group["params"], None
        group["params"] = trained[: -len(list(maps.parameters()))]
        try:
            super().set_parameters(load_path_or_dict, exact_match, device)
        finally:
            self.feature_maps = maps
            self.policy.optimizer.param_groups[0]["params"] = trained

    def _check_maps(self, given: Mapping[str, Any]) -> None:
        """Raise ValueError if maps lead to or from layers of other sizes than the model's own."""
        assert self.feature_maps is not None
        ours, theirs = (
            {name: tuple(numbers.shape) for name, numbers in maps.items()}
            for maps in (self.feature_maps.state_dict(), given)
        )
        different = [name for name in {**ours, **theirs} if ours.get(name) != theirs.get(name)]
        if different:
            name = different[0]
            raise ValueError(
                "The maps of `distill_features` are for other hidden layers of student or teachers: "
                f"{name} is {theirs.get(name)} there and {ours.get(name)} in the model. Nothing was changed"
            )

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, variables = super()._get_torch_save_params()
        return [*state_dicts, *([] if self.feature_maps is None else [_MAPS])], variables

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "teachers", "_teaching", "_distillation", _MAPS]

    def get_state(self) -> dict[str, Any]:
        state = super().get_state()
        if self.feature_maps is None:
            return state
        maps = {name: tensor.numpy(force=True).copy() for name, tensor in self.feature_maps.state_dict().items()}
        return {**state, _MAPS: maps}

    def set_state(self, state: dict[str, Any]) -> None:
        """As :meth:`MultiTaskAlgorithm.set_state`.

        :raises ValueError: also if only one of state and model has maps of feature regression, or theirs are for layers
            of other sizes
        """
        maps = self.feature_maps
        if (_MAPS in state) != (maps is not None):
            has, has_not = ("state", "model") if maps is None else ("model", "state")
            raise ValueError(f"The {has} has maps of `distill_features`, the {has_not} has none")
        if maps is not None:
            self._check_maps(state[_MAPS])
        bad = [name for name, array in state.get(_MAPS, {}).items() if not np.isfinite(array).all()]
        if bad:
            raise ValueError(f"The maps of `distill_features` {', '.join(bad)} are not finite")
        super().set_state(state)
        if maps is not None:
            maps.load_state_dict({name: th.from_numpy(array.copy()) for name, array in state[_MAPS].items()})

    def settings(self) -> dict[str, Any]:
        return {
            **super().settings(),
            "distill_loss": self.distill_loss,
            **{name: number_or_schedule(getattr(self, name)) for name in _COEFFICIENTS},
            "teachers": self.teachers.digests if isinstance(self.teachers, Teachers) else {},
        }
