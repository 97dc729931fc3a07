"""The environment in which the zoo's ``enjoy`` and ``record_video`` show a trained agent: its tasks in turn."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from huggingface_sb3 import EnvironmentName
from rl_zoo3.utils import create_test_env, get_latest_run_id, get_model_path
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper
from stable_baselines3.common.vec_env.base_vec_env import VecEnvStepReturn

from sb3_multitask.envs.task_env import TaskObs
from sb3_multitask.readers import ObsStatistics, read_vec_normalize
from sb3_multitask.readers.zoo_folder import ZooFolder
from sb3_multitask.tasks import resolve_tasks, task_set

_MAX_EPISODE_STEPS = 1000  # where an id does not say


def trained_folder(logs: str, algo: str, env_id: str, exp_id: int) -> ZooFolder | None:
    """The folder that the zoo would take for a training; None if there is none.

    :param exp_id: its number; 0: the latest, below 0: no folder of its own
    """
    env_name = EnvironmentName(env_id)
    number = exp_id or get_latest_run_id(os.path.join(logs, algo), env_name)
    path = Path(logs, algo, f"{env_name}_{number}") if number > 0 else Path(logs, algo)
    return ZooFolder(path, env_name) if (path / env_name / "args.yml").is_file() else None


def steps_of_a_tour(env_id: str, env_kwargs: Mapping[str, Any]) -> int:
    """How many steps one episode of each task takes at most, or of the one task in ``env_kwargs``."""
    longest = env_kwargs.get("max_episode_steps") or gym.spec(env_id).max_episode_steps or _MAX_EPISODE_STEPS
    return int(longest) * (1 if "task" in env_kwargs else len(resolve_tasks(env_id)))


class PlayVecEnv(VecEnvWrapper):
    """Environments whose task may change with every episode, normalised by it; tells each episode's return.

    Rewards are as they are.

    :param venv: observations ``{"obs": (num_envs, obs_dim), "task": (num_envs,)}``, monitored
    :param statistics: of the model's normaliser; ``None``: observations stay
    :param is_quiet: print nothing
    """

    def __init__(self, venv: VecEnv, statistics: ObsStatistics | None, is_quiet: bool = False) -> None:
        super().__init__(venv)
        self.statistics = statistics
        self.is_quiet = is_quiet
        self.returns: dict[str, list[float]] = {}

    def _normalized(self, obs: Any) -> TaskObs:
        if self.statistics is None:
            return dict(obs)
        rows = [self.statistics.normalize(row, int(task)) for row, task in zip(obs["obs"], obs["task"], strict=True)]
        return {**obs, "obs": np.stack(rows)}

    def reset(self) -> TaskObs:
        return self._normalized(self.venv.reset())

    def step_wait(self) -> VecEnvStepReturn:
        obs, rewards, dones, infos = self.venv.step_wait()
        for i in dones.nonzero()[0].tolist():
            task, episode = infos[i]["task"], infos[i]["episode"]
            self.returns.setdefault(task, []).append(float(episode["r"]))
            if not self.is_quiet:
                print(f"Task {task}: return {episode['r']:.1f} in {episode['l']} steps")  # noqa: T201
        return self._normalized(obs), rewards, dones, infos

    def close(self) -> None:
        """Close, and say each task's mean return if there was more than one task."""
        super().close()
        if len(self.returns) > 1 and not self.is_quiet:
            print("Mean return of each task (episodes):")  # noqa: T201
            for task, returns in self.returns.items():
                print(f"  {task}: {np.mean(returns):.1f} ({len(returns)})")  # noqa: T201
        self.returns = {}  # it may be closed twice


class Stage:
    """The zoo's functions for playing, with several tasks.

    :param env_kwargs: of the command line, on top of those that the agent was evaluated with
    :param is_quiet: print nothing but what the zoo prints
    """

    def __init__(self, env_kwargs: Mapping[str, Any], is_quiet: bool = False) -> None:
        self.env_kwargs = env_kwargs
        self.is_quiet = is_quiet
        self.model_path = ""
        self.env_name = ""

    def get_model_path(
        self, exp_id: int, folder: str, algo: str, env_name: Any, *args: Any, **kwargs: Any
    ) -> tuple[str, str, str]:
        """The zoo's, remembering the model whose statistics are needed."""
        found: tuple[str, str, str] = get_model_path(exp_id, folder, algo, env_name, *args, **kwargs)
        self.model_path, self.env_name = found[1], str(env_name)
        return found

    def create_test_env(
        self,
        env_id: str,
        *,
        stats_path: str | None = None,  # noqa: ARG002 (they are the model's, see `ZooFolder`)
        hyperparams: dict[str, Any] | None = None,  # noqa: ARG002 (the folder's, see `ZooFolder`)
        env_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> PlayVecEnv:
        """The zoo's, of one environment for all tasks, or of a single task's.

        :param env_kwargs: the zoo's reading of the folder, which differs between its programs: only how to render
        :raises FileNotFoundError: if the statistics are missing
        :raises ValueError: if the arguments of the environments are not known
        """
        wrapper = {} if task_set(env_id) else {"sb3_multitask.TaskEnv": {"task": env_id, "tasks": [env_id]}}
        rendering = {name: value for name, value in (env_kwargs or {}).items() if name == "render_mode"}
        model = Path(self.model_path)
        folder = ZooFolder(model.parent, self.env_name, model)
        shown = {**folder.env_kwargs, **self.env_kwargs, **rendering}
        env = create_test_env(env_id, hyperparams={"env_wrapper": wrapper or None}, env_kwargs=shown, **kwargs)
        path = folder.statistics
        return PlayVecEnv(env, None if path is None else read_vec_normalize(path), self.is_quiet)


@dataclass(frozen=True)
class LoadsWithoutEnv:
    """An algorithm for ``record_video``, which hands its env to ``load``: a model to look at needs none."""

    algorithm: type[OnPolicyAlgorithm]

    def load(self, path: str, env: Any = None, **kwargs: Any) -> OnPolicyAlgorithm:  # noqa: ARG002
        """The model, without an env."""
        return self.algorithm.load(path, **kwargs)
