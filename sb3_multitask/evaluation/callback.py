"""SB3's EvalCallback for several tasks."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeAlias, get_args

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_multitask.algorithms.task_logs import make_room_for_tasks
from sb3_multitask.evaluation.envs import checked_env
from sb3_multitask.evaluation.evaluate import evaluate_tasks
from sb3_multitask.evaluation.results import TaskResult, mean_success_rate
from sb3_multitask.storage.files import replacing
from sb3_multitask.vec_env.copies import Copies

Score: TypeAlias = Literal["mean", "worst", "success"]


class MultiTaskEvalCallback(EvalCallback):
    """SB3's ``EvalCallback`` with equally many episodes for every task, and per-task logs and files.

    It logs ``eval/<task>/mean_reward``, ``eval/<task>/mean_ep_length``, ``eval/worst_task_reward`` and SB3's own keys;
    of tasks that say success also ``eval/<task>/success_rate``, whose mean is ``eval/success_rate``.

    ``evaluations.npz`` has SB3's arrays (all tasks' episodes in one row), ``task_names``, and ``task_results`` and
    ``task_ep_lengths`` of shape (n_evaluations, n_tasks, n_eval_episodes). If a task says success, it has SB3's
    ``successes``, of the tasks that do, and ``task_successes``, of the same shape, NaN where nothing is said. If tasks
    have different numbers of environments in training, it has these as ``task_n_envs``, (n_tasks,).

    :param eval_env: a ``MultiTaskVecEnv``, normalised or not; it is evaluated with the model's statistics
    :param callback_on_new_best: called when a new best model is found
    :param callback_after_eval: called after every evaluation
    :param n_eval_episodes: episodes **per task**
    :param eval_freq: **environment steps** (over all tasks) between two evaluations
    :param log_path: folder for ``evaluations.npz``
    :param best_model_save_path: folder for ``best_model.zip``
    :param deterministic: the mean of the Gaussian instead of a sample
    :param score: criterion for the best model: the ``"mean"`` return over the tasks, that of the ``"worst"`` task, or
        the mean ``"success"`` rate over the tasks that say success; ``best_mean_reward`` holds its value. Of models
        with the same score the first is the best
    :param verbose: 1 prints each result
    :param log_name: first part of the log keys
    :raises ValueError: on an unknown score, or ``n_eval_episodes`` or ``eval_freq`` below 1; in an evaluation, if the
        score is ``"success"`` and no task says it
    """

    def __init__(
        self,
        eval_env: VecEnv,
        callback_on_new_best: BaseCallback | None = None,
        callback_after_eval: BaseCallback | None = None,
        n_eval_episodes: int = 5,
        eval_freq: int = 100_000,
        log_path: str | Path | None = None,
        best_model_save_path: str | Path | None = None,
        deterministic: bool = True,
        score: Score = "mean",
        verbose: int = 1,
        log_name: str = "eval",
    ) -> None:
        if score not in get_args(Score):
            raise ValueError(f"`score` must be one of {', '.join(get_args(Score))} (got {score!r})")
        for name, value in {"n_eval_episodes": n_eval_episodes, "eval_freq": eval_freq}.items():
            if value < 1:
                raise ValueError(f"`{name}` must be at least 1 (got {value})")
        super().__init__(
            eval_env,
            callback_on_new_best,
            callback_after_eval,
            n_eval_episodes,
            eval_freq,
            None if log_path is None else str(log_path),
            None if best_model_save_path is None else str(best_model_save_path),
            deterministic,
            verbose=verbose,
        )
        self.score = score
        self.log_name = log_name
        self.evaluations_tasks: list[dict[str, TaskResult]] = []
        self._last_timesteps = 0

    def _init_callback(self) -> None:
        with warnings.catch_warnings():
            # SB3 requires both envs to have one type, for its sync. Here evaluate_tasks transfers the statistics.
            warnings.filterwarnings("ignore", message="Training and eval env are not of the same type")
            super()._init_callback()

    def _on_training_start(self) -> None:
        self._last_timesteps = self.num_timesteps
        names = checked_env(self.model, self.eval_env).task_names
        make_room_for_tasks(self.logger, names, self.log_name, shorten=not self.model._custom_logger)

    def _on_step(self) -> bool:
        due = self.num_timesteps // self.eval_freq > self._last_timesteps // self.eval_freq
        self._last_timesteps = self.num_timesteps
        if not due:
            return True
        results = evaluate_tasks(self.model, self.eval_env, self.n_eval_episodes, self.deterministic)
        self._store(results)
        self._log(results)
        score = self.score_of(results)
        continue_training = True
        if score > self.best_mean_reward:
            continue_training = self._on_new_best(score)
        if self.callback is not None:
            continue_training = continue_training and self._on_event()
        return continue_training

    def score_of(self, results: Mapping[str, TaskResult]) -> float:
        """Return the score of an evaluation, see ``score``.

        :raises ValueError: if the score is ``"success"`` and no task says it
        """
        return score_of(self.score, results)

    def _store(self, results: dict[str, TaskResult]) -> None:
        self.evaluations_timesteps.append(self.num_timesteps)
        self.evaluations_tasks.append(results)
        rewards = [result.episode_rewards for result in results.values()]
        lengths = [result.episode_lengths for result in results.values()]
        self.evaluations_results.append(np.ravel(rewards).tolist())
        self.evaluations_length.append(np.ravel(lengths).tolist())
        history = [list(evaluation.values()) for evaluation in self.evaluations_tasks]
        successes = _successes(history)
        self.evaluations_successes = [] if successes is None else _of_saying_tasks(successes).tolist()
        if self.log_path is None:
            return
        others: dict[str, Any] = {}
        if successes is not None:
            others = {"successes": self.evaluations_successes, "task_successes": successes}
        copies: Copies | None = getattr(self.training_env.unwrapped, "copies", None)
        if copies is not None and not copies.are_equal:
            others["task_n_envs"] = np.array(copies.of_tasks)
        with replacing(f"{self.log_path}.npz") as temporary:
            np.savez(
                temporary,
                timesteps=self.evaluations_timesteps,
                results=self.evaluations_results,
                ep_lengths=self.evaluations_length,
                task_names=np.array(list(results)),
                task_results=[[result.episode_rewards for result in row] for row in history],
                task_ep_lengths=[[result.episode_lengths for result in row] for row in history],
                **others,
            )

    def get_state(self) -> dict[str, Any]:
        """Return all evaluations so far, for a checkpoint."""
        history = [{task: result.to_json() for task, result in row.items()} for row in self.evaluations_tasks]
        return {
            "best_mean_reward": float(self.best_mean_reward),
            "last_mean_reward": float(self.last_mean_reward),
            "last_timesteps": self._last_timesteps,
            "timesteps": list(self.evaluations_timesteps),
            "history": history,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore a state that :meth:`get_state` returned."""
        self.best_mean_reward, self.last_mean_reward = state["best_mean_reward"], state["last_mean_reward"]
        self._last_timesteps = state["last_timesteps"]
        self.evaluations_timesteps = list(state["timesteps"])
        self.evaluations_tasks = [
            {task: TaskResult.from_json(result) for task, result in row.items()} for row in state["history"]
        ]
        rows = [list(row.values()) for row in self.evaluations_tasks]
        self.evaluations_results = [np.ravel([result.episode_rewards for result in row]).tolist() for row in rows]
        self.evaluations_length = [np.ravel([result.episode_lengths for result in row]).tolist() for row in rows]
        successes = _successes(rows)
        self.evaluations_successes = [] if successes is None else _of_saying_tasks(successes).tolist()

    def _log(self, results: dict[str, TaskResult]) -> None:
        means = {task: result.mean_reward for task, result in results.items()}
        worst = min(means, key=lambda task: means[task])
        self.last_mean_reward = float(np.mean(list(means.values())))
        self.logger.record(f"{self.log_name}/mean_reward", self.last_mean_reward)
        self.logger.record(f"{self.log_name}/mean_ep_length", float(np.mean(self.evaluations_length[-1])))
        self.logger.record(f"{self.log_name}/worst_task_reward", means[worst])
        for task, result in results.items():
            self.logger.record(f"{self.log_name}/{task}/mean_reward", result.mean_reward)
            self.logger.record(f"{self.log_name}/{task}/mean_ep_length", float(np.mean(result.episode_lengths)))
            if result.success_rate is not None:
                self.logger.record(f"{self.log_name}/{task}/success_rate", result.success_rate)
        success_rate = mean_success_rate(results.values())
        if success_rate is not None:
            self.logger.record(f"{self.log_name}/success_rate", success_rate)
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)
        if self.verbose >= 1:
            print(  # noqa: T201
                f"Eval num_timesteps={self.num_timesteps}, mean over tasks={self.last_mean_reward:.2f}, "
                f"worst task={means[worst]:.2f} ({worst})"
                + ("" if success_rate is None else f", success rate={success_rate:.2f}")
            )

    def _on_new_best(self, score: float) -> bool:
        if self.verbose >= 1:
            print(f"New best {self.score} {'rate' if self.score == 'success' else 'reward'}!")  # noqa: T201
        self.best_mean_reward = score
        if self.best_model_save_path is not None:
            self.model.save(Path(self.best_model_save_path) / "best_model")
        return self.callback_on_new_best is None or self.callback_on_new_best.on_step()


def score_of(score: Score, results: Mapping[str, TaskResult]) -> float:
    """Return the score of an evaluation.

    :raises ValueError: if the score is ``"success"`` and no task says it
    """
    if score == "success":
        rate = mean_success_rate(results.values())
        if rate is None:
            raise ValueError(
                "`score` is 'success', and no task says whether its steps are successful (True or False in "
                "info['is_success'] or info['success']); take 'mean' or 'worst'"
            )
        return rate
    means = [result.mean_reward for result in results.values()]
    return float(np.mean(means) if score == "mean" else np.min(means))


def _successes(history: Sequence[Sequence[TaskResult]]) -> np.ndarray | None:
    """Return successes, (n_evaluations, n_tasks, n_eval_episodes), NaN where nothing is said; None if nothing is."""
    if all(result.episode_successes is None for row in history for result in row):
        return None
    return np.array(
        [[result.episode_successes or [np.nan] * len(result.episode_rewards) for result in row] for row in history],
        dtype=float,
    )


def _of_saying_tasks(successes: np.ndarray) -> np.ndarray:
    """Return SB3's array of successes, (n_evaluations, n_episodes): bools of the tasks that say success.

    It holds numbers, with NaN, if a task says it in some evaluations only.
    """
    of_tasks = successes[:, ~np.isnan(successes).all(axis=(0, 2))].reshape(len(successes), -1)
    return of_tasks if np.isnan(of_tasks).any() else of_tasks.astype(bool)
