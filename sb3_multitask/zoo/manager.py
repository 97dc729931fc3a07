"""The zoo's experiment manager for several tasks: our VecEnv, normaliser and evaluation in its steps."""

from __future__ import annotations

import argparse
import copy
import dataclasses
import shlex
import shutil
import sys
from pathlib import Path
from pprint import pprint
from typing import Any

import optuna
from rl_zoo3.exp_manager import ExperimentManager
from rl_zoo3.utils import get_callback_list
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import CheckpointCallback, ProgressBarCallback
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnv

from sb3_multitask.algorithms import has_ability
from sb3_multitask.evaluation.callback import MultiTaskEvalCallback, Score
from sb3_multitask.evaluation.episodes import TaskEpisodesCallback
from sb3_multitask.storage.files import write_text
from sb3_multitask.storage.yaml_files import ConfigError, write_yaml
from sb3_multitask.task_schedules.base import one_task_at_a_time
from sb3_multitask.tasks import Task, resolve_tasks
from sb3_multitask.vec_env import MultiTaskVecEnv, MultiTaskVecNormalize
from sb3_multitask.zoo.normalization import EarlierModel, SaveStatistics, check_same_normalization
from sb3_multitask.zoo.search import SPACES, Values
from sb3_multitask.zoo.settings import (
    ALGORITHMS,
    check_hyperparameters,
    constructor_arguments,
    default_config,
    merged,
    read_hyperparameters,
    schedule_of,
)
from sb3_multitask.zoo.study import check_study
from sb3_multitask.zoo.trials import TrialCallback, hyperparameters_of_trial, pruning_breakdowns


class MultiTaskExperimentManager(ExperimentManager):
    """``ExperimentManager`` of rl_zoo3 for an agent with several tasks.

    What differs: ``n_envs`` and ``--n-eval-envs`` are copies **per task**, ``--eval-episodes`` is per task, the VecEnv
    is a ``MultiTaskVecEnv`` (native where it can; ``--vec-env subproc``: processes), the normaliser a
    ``MultiTaskVecNormalize``, evaluations a ``MultiTaskEvalCallback``, and configs hold plain values. Statistics are
    saved beside every model, not only for the last one.

    :param args: the parsed command line
    :param algo: a name of ``settings.ALGORITHMS``
    :param env_id: a set's id, such as ``MultiTask/HalfCheetahBody6-v0``, or that of a single task
    :param score: what makes a model the best and a trial good: the ``"mean"`` over the tasks, the ``"worst"`` task, or
        the mean ``"success"`` rate
    :param others: rl_zoo3's arguments
    :raises ConfigError: on what cannot be done with several tasks
    """

    def __init__(
        self, args: argparse.Namespace, algo: str, env_id: str, *others: Any, score: Score = "mean", **kwargs: Any
    ) -> None:
        super().__init__(args, algo, env_id, *others, **kwargs)
        self.tasks = resolve_tasks(env_id)
        self.score: Score = score
        self.config = kwargs.get("config") or str(default_config(algo))
        self._gamma = 0.99
        self._n_rows = 1  # of the model's VecEnv
        self._is_my_folder = False
        self._plain_hyperparams: Values = {}
        if self.n_jobs != 1:
            raise ConfigError(
                f"--n-jobs must be 1 (got {self.n_jobs}): its threads would share torch's settings. For several "
                "workers start the command several times with the same --storage and --study-name."
            )

    def setup_experiment(self) -> tuple[BaseAlgorithm, Values] | None:
        """The zoo's; if it fails, no folder is left, which a later ``enjoy`` would take for the latest run."""
        try:
            return super().setup_experiment()
        except BaseException:
            if self._is_my_folder and not (Path(self.params_path) / "args.yml").exists():
                shutil.rmtree(self.save_path, ignore_errors=True)
            raise

    # Hyper-parameters: plain values, read and checked by settings

    def read_hyperparameters(self) -> tuple[Values, Values]:
        """Hyper-parameters for the environment, and a copy to be saved: a trial's and the flags' replace the file's."""
        print(f"Loading hyperparameters from: {self.config}")  # noqa: T201 (as the zoo does)
        values = read_hyperparameters(self.config, self.env_name.gym_id)
        if self.trial_id is not None:
            trial = hyperparameters_of_trial(self.algo, self.storage, self.study_name, self.trial_id)
            values = merged(values, trial)
        values = merged(values, self.custom_hyperparams or {})
        if "env_kwargs" in values and self.env_kwargs:
            values["env_kwargs"] = self.env_kwargs
        check_hyperparameters(values, self.algo)
        values = dict(sorted(values.items()))
        self._plain_hyperparams = copy.deepcopy(values)
        if self.verbose > 0:
            pprint(values)  # noqa: T203
        return values, copy.deepcopy(values)

    def _preprocess_hyperparams(self, hyperparams: Values) -> Any:
        if self._eval_env_kwargs_args is None:  # the zoo would leave those of a config out
            self.eval_env_kwargs = hyperparams.get("env_kwargs") or self.env_kwargs
        self._gamma = hyperparams.get("gamma", self._gamma)
        is_cycling = one_task_at_a_time(schedule_of(hyperparams))
        policy = hyperparams.pop("policy", "MultiTaskMlpPolicy")
        values, *rest = super()._preprocess_hyperparams(hyperparams)
        self._n_rows = self.n_envs * (1 if is_cycling else len(self.tasks))
        if "task" in {**self.env_kwargs, **self.eval_env_kwargs}:
            raise ConfigError(
                "env_kwargs `task` is for enjoy and record_video: training is on all tasks of the set. For a single "
                "one give --env its own id."
            )
        return constructor_arguments({**values, "policy": policy}), *rest

    @staticmethod
    def _preprocess_schedules(hyperparams: Values) -> Values:
        return hyperparams  # by constructor_arguments

    # Environments

    def create_envs(self, n_envs: int, eval_env: bool = False, no_log: bool = False) -> VecEnv:
        """All tasks, ``n_envs`` copies of each, normalised if the config says so.

        :param n_envs: copies per task
        :param eval_env: raw rewards, frozen statistics, seeds of its own
        :param no_log: write no monitor files
        """
        venv = MultiTaskVecEnv(
            self._tasks_with(self.eval_env_kwargs if eval_env else self.env_kwargs),
            n_envs,
            backend="subproc" if self.vec_env_class is SubprocVecEnv else "auto",
            seed=self.seed,
            training=not eval_env,
            monitor_dir=None if eval_env or no_log else self.save_path,
        )
        if self.verbose > 0 and not self.optimize_hyperparameters:
            print(f"{venv.n_tasks} tasks x {n_envs} environments, backend {venv.backend!r}")  # noqa: T201
        return self._maybe_normalize(venv, eval_env)

    def _tasks_with(self, env_kwargs: Values) -> tuple[Task, ...]:
        return tuple(dataclasses.replace(task, env_kwargs={**task.kwargs_of(), **env_kwargs}) for task in self.tasks)

    def _maybe_normalize(self, env: VecEnv, eval_env: bool) -> VecEnv:
        if not self.normalize:
            return env
        kwargs = {"gamma": self._gamma, **self.normalize_kwargs}
        if eval_env:
            kwargs |= {"norm_reward": False, "training": False}
        normalized = MultiTaskVecNormalize(env, **kwargs)
        if self.continue_training and (path := self._model_to_go_on_with.statistics_file) is not None:
            saved = MultiTaskVecNormalize.load(str(path), env)
            normalized.set_statistics(saved.get_statistics())
        return normalized

    def _preprocess_normalization(self, hyperparams: Values) -> Values:
        normalize = hyperparams.pop("normalize", False)
        self.normalize_kwargs = dict(normalize) if isinstance(normalize, dict) else {}
        self.normalize = normalize is not False
        if self.continue_training:
            check_same_normalization(self._model_to_go_on_with, self.normalize)
        return hyperparams

    @property
    def _model_to_go_on_with(self) -> EarlierModel:
        return EarlierModel(self.trained_agent, self.env_name, ALGORITHMS[self.algo])

    # Callbacks

    def create_callbacks(self) -> None:
        """The zoo's progress bar, checkpoints and evaluation, with its files; frequencies in environment steps."""
        if self.show_progress:
            self.callbacks.append(ProgressBarCallback())
        if not has_ability(ALGORITHMS[self.algo], "logs_tasks"):
            self.callbacks.append(TaskEpisodesCallback())
        if self.save_freq > 0:
            save_freq = max(self.save_freq // self._n_rows, 1)
            self.callbacks.append(
                CheckpointCallback(save_freq, self.save_path, save_vecnormalize=self.normalize, verbose=1)
            )
        if self.eval_freq > 0 and not self.optimize_hyperparameters:
            self.callbacks.append(
                MultiTaskEvalCallback(
                    self.create_envs(self.n_eval_envs, eval_env=True),
                    callback_on_new_best=SaveStatistics(Path(self.params_path)) if self.normalize else None,
                    n_eval_episodes=self.n_eval_episodes,
                    eval_freq=self.eval_freq,
                    log_path=self.save_path,
                    best_model_save_path=self.save_path,
                    deterministic=self.deterministic_eval,
                    score=self.score,
                    verbose=min(self.verbose, 1),
                )
            )

    # Files

    def create_log_folder(self) -> None:
        """The run's folder; none for a search, which leaves no model (the zoo's ``enjoy`` would take it for a run)."""
        if not self.optimize_hyperparameters:
            self._is_my_folder = not Path(self.save_path).exists()
            super().create_log_folder()  # type: ignore[no-untyped-call]

    def _save_config(self, saved_hyperparams: Values) -> None:
        """The zoo's three files, in plain YAML: nothing in them needs an unsafe loader."""
        folder = Path(self.params_path)
        write_yaml(folder / "config.yml", dict(sorted(saved_hyperparams.items())))
        write_yaml(folder / "args.yml", dict(sorted({**vars(self.args), "score": self.score}.items())))
        write_text(folder / "command.txt", shlex.join(sys.orig_argv))
        print(f"Log path: {self.save_path}")  # noqa: T201

    # Tuning

    def hyperparameters_optimization(self) -> None:
        """The zoo's search, each trial evaluated on every task.

        :raises ConfigError: if the study holds trials of another score, budget or config, or nothing is searched for
            the algorithm
        """
        if self.algo not in SPACES:
            raise ConfigError(f"--optimize has nothing to search for {self.algo}; it has for {', '.join(SPACES)}")
        if self.storage is not None and self.study_name is not None:
            check_study(self.storage, self.study_name, self._settings_of_trials())
        super().hyperparameters_optimization()

    def _settings_of_trials(self) -> Values:
        """What all trials of a study have in common; what they sample replaces the hyper-parameters here."""
        hyperparams = {name: value for name, value in self._plain_hyperparams.items() if name != "n_timesteps"}
        return {
            "algo": self.algo,
            "env": self.env_name.gym_id,
            "score": self.score,
            "n_timesteps": self.n_timesteps,
            "n_evaluations": self.n_evaluations,
            "eval_episodes": self.n_eval_episodes,
            "trained_agent": self.trained_agent,
            "env_kwargs": self.env_kwargs,
            "eval_env_kwargs": self.eval_env_kwargs,
            "hyperparameters": hyperparams,
        }

    def objective(self, trial: optuna.Trial) -> float:
        """A trial's final score.

        :raises TrialPruned: if training breaks down, or Optuna said so
        """
        sampled = self._sample(trial)
        env = self.create_envs(self.n_envs, no_log=True)
        eval_env = self.create_envs(self.n_eval_envs, eval_env=True)
        evaluation = self._trial_callback(eval_env, trial)
        try:
            with pruning_breakdowns(sampled):
                model = ALGORITHMS[self.algo](
                    env=env,
                    seed=None,  # Trials are not seeded, as in the zoo.
                    verbose=self.verbose if self.verbose >= 2 else 0,
                    device=self.device,
                    **{**self._hyperparams, **constructor_arguments(sampled)},
                )
                model.learn(self.n_timesteps, [*get_callback_list({"callback": self.specified_callbacks}), evaluation])
        finally:
            env.close()
            eval_env.close()
        if evaluation.is_pruned:
            raise optuna.TrialPruned
        return float(evaluation.last_mean_reward)

    def _sample(self, trial: optuna.Trial) -> Values:
        """A trial's hyper-parameters; what they leave open of ``policy_kwargs`` stays as in the config."""
        trial.set_user_attr("score", self.score)
        n_tasks = self._n_rows // self.n_envs  # in a rollout
        facts = {"n_tasks": n_tasks, "desired_kl": self._hyperparams.get("desired_kl")}
        sampled = SPACES[self.algo].sample(trial, self.n_actions, self.n_envs, facts)
        self._gamma = sampled.get("gamma", self._gamma)
        return merged({"policy_kwargs": self._hyperparams.get("policy_kwargs")}, sampled)

    def _trial_callback(self, eval_env: VecEnv, trial: optuna.Trial) -> TrialCallback:
        path, saved = None, None
        if self.optimization_log_path is not None:
            path = Path(self.optimization_log_path, f"trial_{trial.number}")
            saved = SaveStatistics(path / self.env_name) if self.normalize else None  # where -i looks for them
        return TrialCallback(
            eval_env,
            trial,
            self.score,
            callback_on_new_best=saved,
            best_model_save_path=path,
            log_path=path,
            n_eval_episodes=self.n_eval_episodes,
            eval_freq=max(self.n_timesteps // self.n_evaluations, 1),
            deterministic=self.deterministic_eval,
        )
