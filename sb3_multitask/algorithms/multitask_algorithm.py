"""What any SB3 algorithm on several tasks shares: its tasks, its env and their statistics, its files and its state."""

from __future__ import annotations

import io
import pathlib
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, ClassVar, Self

import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.type_aliases import GymEnv, TensorDict
from stable_baselines3.common.vec_env import VecEnv

from sb3_multitask.agents.trained_files import model_zip
from sb3_multitask.algorithms import model_state
from sb3_multitask.algorithms.env_checks import (
    check_bounded_actions,
    check_same_layouts,
    layouts_of,
    print_layouts,
    warn_of_other_gamma,
)
from sb3_multitask.envs.observations import observation_dtype
from sb3_multitask.policies import MultiTaskActorCriticPolicy
from sb3_multitask.policies.checks import why_no_agent
from sb3_multitask.policies.devices import device_of
from sb3_multitask.storage.model_files import can_be_pickled, whole_zip
from sb3_multitask.tasks import Task, TasksLike, did_you_mean
from sb3_multitask.vec_env import MultiTaskVecNormalize, make_multitask_vec_env
from sb3_multitask.vec_env.layers import (
    check_same_tasks,
    check_task_observations,
    differs_in_type_only,
    task_names_of,
    task_normalizer_of,
)
from sb3_multitask.vec_env.saved_statistics import PREFIX, SavedStatistics, from_tensors


class MultiTaskAlgorithm(BaseAlgorithm):
    """Stands before an algorithm of SB3 among the bases of a class, which then takes envs of several tasks.

    The normaliser's statistics belong to the model: they are saved with it, and an env takes them over.
    """

    carries_statistics: ClassVar[bool] = True  # its file holds those of its normaliser
    resumable: ClassVar[bool] = True  # to the same bits, from get_state()
    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MultiTaskMlpPolicy": MultiTaskActorCriticPolicy}
    live_settings: ClassVar[tuple[str, ...]] = ("gamma",)  # which a callback may change while training
    gamma: float
    policy: Any  # a MultiTaskActorCriticPolicy
    last_engine: str | None = None  # what the latest learn() ran on

    def _begin_with_tasks(self) -> None:
        """Set what a model has beside SB3's attributes; before SB3's constructor."""
        self.tasks: tuple[Task, ...] | None = None
        self.task_names: tuple[str, ...] | None = None
        self.obs_dtype = "float32"  # of observations before they are normalised
        self.layouts: dict[str, str] = {}  # task -> how its observations are flattened, if they are
        self.normalizer_state: dict[str, Any] | None = None
        self.normalizer_settings: dict[str, Any] | None = None  # of its rewards
        self.why_no_agent: str | None = None  # of a file, for who reads only its weights
        self.frozen: tuple[str, ...] = ()  # names of parameters that are not trained

    # The env: its tasks and its normaliser

    def _env_of(self, env: GymEnv | TasksLike | None, gamma: float) -> Any:
        """The env to hand to SB3's constructor."""
        if env is None:
            return None
        venv = self._wrap_env(env, normalize={"gamma": gamma})
        check_bounded_actions(venv.action_space, venv)
        return venv

    @staticmethod
    def _wrap_env(
        env: GymEnv | TasksLike,
        verbose: int = 0,
        monitor_wrapper: bool = True,
        normalize: bool | dict[str, Any] = True,
    ) -> VecEnv:
        if isinstance(env, str | Task | Sequence | Mapping):
            return make_multitask_vec_env(env, normalize=normalize)
        check_task_observations(env)
        return BaseAlgorithm._wrap_env(env, verbose, monitor_wrapper)

    def _as_trained_in(self, env: VecEnv) -> VecEnv:
        """The env in the form that the algorithm trains in."""
        return env

    def _setup_model(self) -> None:
        if self.task_names is not None:
            self.task_names = tuple(self.task_names)  # a list if read from a file
        if self.env is not None:
            self._check_env(self.env, self.normalizer_state)
            self.env = self._as_trained_in(self.env)
            self.n_envs = self.env.num_envs
            self._adopt_env(self.env)
        super()._setup_model()  # type: ignore[safe-super]  # of the algorithm that comes next among the bases
        self.policy.set_frozen(self.frozen)

    def _check_env(self, env: VecEnv, state: dict[str, Any] | None) -> None:
        """Raise if an env is not one for this model, whose statistics are ``state``; changes nothing."""
        check_same_tasks(self.task_names, task_names_of(env))
        check_same_layouts(self.layouts, layouts_of(env))
        normalizes = task_normalizer_of(env) is not None
        if state is not None and not normalizes:
            raise ValueError(
                "The model was trained on normalised observations, and this env does not normalise: make it with "
                "make_multitask_vec_env(tasks, normalize=True)."
            )
        if state is None and normalizes and self.num_timesteps > 0:
            raise ValueError(
                "The model was trained on raw observations, and this env normalises: make it with "
                "make_multitask_vec_env(tasks, normalize=False). (Or its file has no statistics, because another "
                "algorithm or `exclude` left them out: then train it again, or hand over what VecNormalize saved.)"
            )

    def _adopt_env(self, env: VecEnv) -> None:
        """Give the env's normaliser the model's statistics, and the model the env's tasks."""
        self._vec_normalize_env = task_normalizer_of(env)
        warn_of_other_gamma(self.gamma, self._vec_normalize_env)
        if self.normalizer_state is not None and self._vec_normalize_env is not None:
            self._vec_normalize_env.set_statistics(self.normalizer_state)
        self.task_names = task_names_of(env)
        self.tasks = getattr(env, "tasks", None)
        self.layouts = layouts_of(env)
        if self.verbose >= 1:
            print_layouts(env)
        self.obs_dtype = observation_dtype(env.unwrapped.observation_space["obs"].dtype).name  # type: ignore[index]

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """Set the env; its normaliser, if any, takes over the model's statistics.

        :raises ValueError: if it has other tasks or another order, or normalises where the model's did not, or the
            other way round
        """
        state = self.get_normalizer_state()
        normalizes = state is not None or self.num_timesteps == 0
        settings = self._normalizer_settings() or {"gamma": self.gamma}
        env = self._wrap_env(env, self.verbose, normalize=settings if normalizes else False)
        self._check_env(env, state)
        if self.num_timesteps == 0 and state is not None and state["obs_rms"]["count"].max() < 1:
            state = None  # nothing is known yet: the env keeps its own statistics
        if differs_in_type_only(self.observation_space, env.observation_space):
            self.observation_space = env.observation_space
        super().set_env(self._as_trained_in(env), force_reset)  # refuses without a change
        self.normalizer_state = state
        assert self.env is not None
        self._adopt_env(self.env)

    # Statistics

    def get_normalizer_state(self) -> dict[str, Any] | None:
        """The statistics that travel with the model: its env's, or those it was loaded with; None without."""
        normalizer = self.get_vec_normalize_env()
        return normalizer.get_statistics() if isinstance(normalizer, MultiTaskVecNormalize) else self.normalizer_state

    def _normalizer_settings(self) -> dict[str, Any] | None:
        """How the env's normaliser treats rewards, for one like it; without an env what the model was loaded with."""
        normalizer = self.get_vec_normalize_env()
        if normalizer is None:
            return self.normalizer_settings
        return {name: getattr(normalizer, name) for name in ("norm_reward", "clip_reward", "gamma")}

    def set_parameters(
        self,
        load_path_or_dict: str | TensorDict,
        exact_match: bool = True,
        device: th.device | str = "auto",
    ) -> None:
        """SB3's: weights and optimizer from a file or from ``get_parameters``.

        A file of a multi-task model brings its normaliser's statistics too; a dict has none.

        :raises ValueError: if the file's model has another set or order of tasks, or is normalised where this is not
        """
        device = self.device if device == "auto" else device
        if not isinstance(load_path_or_dict, dict):
            saved = _read_zip(load_path_or_dict, device)
            if self.task_names is not None:
                check_same_tasks(saved.get("task_names"), self.task_names)
            if (state := saved.get("normalizer_state")) is not None:
                if self.env is not None:
                    self._check_env(self.env, state)
                super().set_parameters(load_path_or_dict, exact_match, device)
                normalizer = None if self.env is None else task_normalizer_of(self.env)
                self.normalizer_state = state
                if normalizer is not None:
                    normalizer.set_statistics(state)
                return
        super().set_parameters(load_path_or_dict, exact_match, device)

    # Files

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """Save the model as SB3 does, with its ordered task names and its normaliser's statistics.

        The tasks themselves are saved too, for ``evaluate_tasks(model)``, unless a factory cannot be pickled. A file
        that is there is replaced only by a whole one.

        :raises SaveError: if it cannot be written; an earlier file is unchanged
        :raises TypeError: if an attribute of the model cannot be stored; names it
        """
        self.normalizer_state, self.normalizer_settings = self.get_normalizer_state(), self._normalizer_settings()
        self.why_no_agent = why_no_agent(self.policy)
        exclude = [] if exclude is None else list(exclude)
        self.policy.statistics = SavedStatistics.of(None if "normalizer_state" in exclude else self.normalizer_state)
        if not can_be_pickled(self.tasks):
            exclude.append("tasks")
        if isinstance(path, io.IOBase):
            super().save(path, exclude, include)
            return
        with whole_zip(path, self.__dict__.keys() - set(self._excluded_save_params()), self) as file:
            super().save(file, exclude, include)

    def _get_torch_save_params(self) -> tuple[list[str], list[str]]:
        state_dicts, variables = super()._get_torch_save_params()
        return state_dicts, [*variables, *(PREFIX + name for name in vars(self.policy.statistics))]

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "normalizer_state"]  # which `policy.statistics` has as tensors

    @classmethod
    def load(
        cls,
        path: str | pathlib.Path | io.BufferedIOBase,
        env: GymEnv | TasksLike | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Load a model; SB3's arguments. A normalised ``env`` takes over the statistics from the file.

        ``path`` may also be a run's folder, or one of its agents whose model stands beside it.
        An ``env`` made from tasks treats rewards as the model's did.

        Like every ``load`` of SB3's this unpickles, which runs code that the file may bring: load only files that you
        trust. ``sb3_multitask.readers.read_sb3_zip`` reads the weights of others.

        :raises FileNotFoundError: if there is no such model
        :raises ValueError: if ``env`` has another set or order of tasks than the model; shows both
        """
        device = device_of(device)
        if isinstance(path, str | pathlib.Path) and not pathlib.Path(path).is_file():
            path = model_zip(path)
        saved = _read_zip(path, device, custom_objects)
        state = saved.get("normalizer_state")
        if env is not None:
            normalize: bool | dict[str, Any] = False
            if state is not None:
                normalize = saved.get("normalizer_settings") or {"gamma": saved.get("gamma")}
                normalize |= {"gamma": kwargs["gamma"]} if "gamma" in kwargs else {}
            env = cls._wrap_env(env, normalize=normalize)
            check_same_tasks(saved.get("task_names"), task_names_of(env))
            if differs_in_type_only(saved.get("observation_space"), env.observation_space):
                custom_objects = {**(custom_objects or {}), "observation_space": env.observation_space}
        kwargs = {"normalizer_state": state, **kwargs}
        return super().load(path, env, device, custom_objects, print_system_info, force_reset, **kwargs)

    def _get_policy_from_name(self, policy_name: str) -> type[BasePolicy]:
        if policy_name not in self.policy_aliases:
            known = ", ".join(self.policy_aliases)
            raise ValueError(
                f"Unknown policy {policy_name!r}.{did_you_mean(policy_name, self.policy_aliases)} Known: {known}, "
                "or pass a subclass of MultiTaskActorCriticPolicy."
            )
        return super()._get_policy_from_name(policy_name)

    # State: a checkpoint at the start of a rollout holds it, and what resumes from it makes the same bits

    def settings(self) -> dict[str, Any]:
        """What makes it the same training, as plain values; a subclass adds its own arguments."""
        return model_state.settings_of(self)

    def get_state(self) -> dict[str, Any]:
        """Copy everything that training changes, but for the env: dicts, lists, plain values and arrays."""
        return model_state.state_of(self)

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_state` gave.

        :raises ValueError: if weights are not finite; nothing is changed then
        """
        model_state.set_state_of(self, state)


def _read_zip(
    path: str | pathlib.Path | io.BufferedIOBase,
    device: th.device | str,
    custom_objects: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """The attributes in a model's zip, with its statistics, which files of 0.1.0 hold among the others."""
    saved, _, variables = load_from_zip_file(path, device=device, custom_objects=custom_objects)
    if isinstance(path, io.IOBase):
        path.seek(0)
    statistics = from_tensors(variables)
    return {**(saved or {}), **({} if statistics is None else {"normalizer_state": statistics})}
