"""Evaluation with equal episodes for every task."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Self, TypeAlias, cast, get_args

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback, EvalCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_multitask.files import replacing
from sb3_multitask.task_logging import make_room_for_tasks
from sb3_multitask.tasks import Task
from sb3_multitask.vec_env import MultiTaskVecEnv, MultiTaskVecNormalize
from sb3_multitask.vec_env.schedule import task_normalizer_of

Score: TypeAlias = Literal["mean", "worst"]


@dataclass(frozen=True)
class TaskResult:
    """Undiscounted returns of one task's evaluation episodes, in the units of its reward.

    :param mean_reward: mean return
    :param std_reward: standard deviation of the returns (population, as SB3 reports it)
    :param episode_rewards: return of each episode
    :param episode_lengths: steps of each episode
    """

    mean_reward: float
    std_reward: float
    episode_rewards: tuple[float, ...]
    episode_lengths: tuple[int, ...]

    @classmethod
    def of(cls, episodes: Sequence[tuple[float, int]]) -> Self:
        """From (return, length) of each episode."""
        rewards, lengths = zip(*episodes, strict=True)
        return cls(float(np.mean(rewards)), float(np.std(rewards)), tuple(rewards), tuple(lengths))

    @classmethod
    def from_json(cls, fields: Mapping[str, Any]) -> Self:
        """From what ``dataclasses.asdict`` made of one, by way of JSON."""
        return cls.of(list(zip(fields["episode_rewards"], fields["episode_lengths"], strict=True)))


def evaluate_tasks(
    model: BaseAlgorithm,
    env: VecEnv | None = None,
    n_eval_episodes: int = 20,
    deterministic: bool = True,
    *,
    seed: int = 0,
    max_episode_steps: int = 100_000,
) -> dict[str, TaskResult]:
    """Return of a model on each of its tasks, over the same number of episodes for each.

    Nothing of the training is touched: its envs, its normaliser's statistics, and all random numbers stay as they
    are. Observations are normalised with the model's statistics; returns are raw.

    :param model: an ``A2CMultiTask``, or another SB3 model on a multi-task VecEnv
    :param env: a ``MultiTaskVecEnv``, normalised or not, other than the model's own; ``None`` makes fresh copies of
        the model's tasks
    :param n_eval_episodes: episodes **per task** (the paper: 20)
    :param deterministic: the mean of the Gaussian instead of a sample (the paper: deterministic)
    :param seed: of the fresh envs, and of the samples if not deterministic
    :param max_episode_steps: an episode that lasts longer counts as it stands, with a warning
    :return: task name -> result, in the model's order
    :raises ValueError: on an env with other tasks, the model's own env, or too few episodes
    """
    if n_eval_episodes < 1:
        raise ValueError(f"`n_eval_episodes` must be at least 1 (got {n_eval_episodes})")
    if env is None:
        venv = MultiTaskVecEnv(_tasks_of(model), min(n_eval_episodes, 5), seed=seed)
    else:
        venv = _checked_env(model, env)
    eval_env = _normalized_like(model, venv, env)
    try:
        with _untouched(model, seed):
            episodes = _run_episodes(model, eval_env, n_eval_episodes, deterministic, max_episode_steps)
    finally:
        if env is None:
            eval_env.close()
    return {task: TaskResult.of(task_episodes) for task, task_episodes in episodes.items()}


def _run_episodes(
    model: BaseAlgorithm, env: VecEnv, n_eval_episodes: int, deterministic: bool, max_episode_steps: int
) -> dict[str, list[tuple[float, int]]]:
    """(return, length) of ``n_eval_episodes`` episodes of each task.

    In rounds: every copy of every task plays one episode after a reset of all, whatever its length, so that short
    episodes are not favoured and one that never ends can be left behind.
    """
    venv = cast("MultiTaskVecEnv", env.unwrapped)
    episodes: dict[str, list[tuple[float, int]]] = {name: [] for name in venv.task_names}
    capped: set[str] = set()
    while n_missing := n_eval_episodes - len(episodes[venv.task_names[0]]):
        wanted = np.tile(np.arange(venv.n_envs_per_task) < n_missing, venv.n_tasks)
        played = _run_round(model, env, wanted, deterministic, max_episode_steps)
        for row, (episode, ended) in played.items():
            name = venv.task_names[row // venv.n_envs_per_task]
            episodes[name].append(episode)
            if not ended:
                capped.add(name)
    if capped:
        warnings.warn(
            f"Episodes of {', '.join(sorted(capped))} did not end within {max_episode_steps} steps "
            "(`max_episode_steps`); their returns count up to there.",
            stacklevel=3,
        )
    return episodes


def _run_round(
    model: BaseAlgorithm, env: VecEnv, wanted: np.ndarray, deterministic: bool, max_episode_steps: int
) -> dict[int, tuple[tuple[float, int], bool]]:
    """One episode of every wanted row: row -> ((return, length), whether it ended by itself), rows ascending."""
    played: dict[int, tuple[tuple[float, int], bool]] = {}
    returns = np.zeros(env.num_envs)
    running = wanted.copy()
    obs = env.reset()
    for length in range(1, max_episode_steps + 1):
        actions, _ = model.predict(obs, deterministic=deterministic)  # type: ignore[arg-type]
        obs, rewards, dones, infos = env.step(actions)
        returns += rewards
        for row in (dones & running).nonzero()[0].tolist():
            played[row] = ((float(infos[row]["episode"]["r"]), length), True)
        running &= ~dones
        if not running.any():
            break
    for row in running.nonzero()[0].tolist():
        played[row] = ((float(returns[row]), length), False)
    return dict(sorted(played.items()))


def _tasks_of(model: BaseAlgorithm) -> tuple[Task, ...]:
    tasks = getattr(model, "tasks", None) or getattr(model.get_env(), "tasks", None)
    if tasks is None:
        raise ValueError(
            "The model's tasks are not known, since it was not trained on a MultiTaskVecEnv. "
            "Pass `env=make_multitask_vec_env(tasks, training=False)`."
        )
    return cast("tuple[Task, ...]", tasks)


def _checked_env(model: BaseAlgorithm, env: VecEnv) -> MultiTaskVecEnv:
    """The MultiTaskVecEnv inside ``env``, if the model can be evaluated on it."""
    venv = env.unwrapped
    if not isinstance(venv, MultiTaskVecEnv):
        raise ValueError(f"`env` must be a MultiTaskVecEnv, normalised or not (got {env!r})")
    training_env = model.get_env()
    if training_env is not None and training_env.unwrapped is venv:
        raise ValueError("`env` is the model's training env, which an evaluation would disturb; make another.")
    names = getattr(model, "task_names", None) or getattr(training_env, "task_names", None) or venv.task_names
    if tuple(names) != venv.task_names:
        raise ValueError(
            f"`env` must have the model's tasks, in their order.\n  model: {', '.join(names)}\n"
            f"  env:   {', '.join(venv.task_names)}"
        )
    return venv


def _normalized_like(model: BaseAlgorithm, venv: MultiTaskVecEnv, given: VecEnv | None) -> VecEnv:
    """``venv`` normalised as the model's observations are, with raw rewards and statistics that stay.

    A model that brings no statistics (another algorithm, loaded from a file) is given those of the env it came with.

    :raises ValueError: if the model or the env has a stock ``VecNormalize``
    """
    state = normalizer_state_of(model)
    if state is None and given is not None:
        normalizer = task_normalizer_of(given)
        state = None if normalizer is None or model.get_env() is not None else normalizer.get_statistics()
    if state is None:
        return venv
    frozen = MultiTaskVecNormalize(venv, training=False, norm_reward=False)
    frozen.set_statistics(state)
    return frozen


def normalizer_state_of(model: BaseAlgorithm) -> dict[str, Any] | None:
    """The statistics that a model's observations are normalised with, or None.

    :raises ValueError: if they are a stock ``VecNormalize``'s
    """
    env = model.get_env()
    normalizer = None if env is None else task_normalizer_of(env)
    return getattr(model, "normalizer_state", None) if normalizer is None else normalizer.get_statistics()


@contextmanager
def _untouched(model: BaseAlgorithm, seed: int) -> Iterator[None]:
    """Put back torch's random state and the policy's mode afterwards."""
    was_training = model.policy.training
    on_gpu = model.device.type == "cuda"
    with th.random.fork_rng(devices=[model.device] if on_gpu else []):
        th.default_generator.manual_seed(seed)  # th.manual_seed would seed every device, forked or not
        if on_gpu:
            th.cuda.manual_seed(seed)
        try:
            yield
        finally:
            model.policy.set_training_mode(was_training)


class MultiTaskEvalCallback(EvalCallback):
    """SB3's ``EvalCallback`` with equal episodes for every task, and per-task logs and files.

    Logs ``eval/<task>/mean_reward``, ``eval/<task>/mean_ep_length`` and ``eval/worst_task_reward`` beside SB3's own
    keys. ``evaluations.npz`` has SB3's arrays (all tasks' episodes in one row) and ``task_names``,
    ``task_results`` and ``task_ep_lengths`` of shape (n_evaluations, n_tasks, n_eval_episodes).

    :param eval_env: a ``MultiTaskVecEnv``, normalised or not; it is evaluated with the model's statistics
    :param callback_on_new_best: called when a new best model is found
    :param callback_after_eval: called after every evaluation
    :param n_eval_episodes: episodes **per task**
    :param eval_freq: **environment steps** (over all tasks) between two evaluations
    :param log_path: folder for ``evaluations.npz``
    :param best_model_save_path: folder for ``best_model.zip``
    :param deterministic: the mean of the Gaussian instead of a sample
    :param score: what makes a model the best, the ``"mean"`` over the tasks or the ``"worst"`` task;
        ``best_mean_reward`` holds it
    :param verbose: 1 prints each result
    :param log_name: first part of the log keys
    :raises ValueError: on an unknown score, or ``n_eval_episodes`` or ``eval_freq`` below 1
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
            # SB3 wants both envs of one type, for its sync; statistics are handed over by evaluate_tasks here.
            warnings.filterwarnings("ignore", message="Training and eval env are not of the same type")
            super()._init_callback()

    def _on_training_start(self) -> None:
        self._last_timesteps = self.num_timesteps
        make_room_for_tasks(self.logger, _checked_env(self.model, self.eval_env).task_names)

    def _on_step(self) -> bool:
        due = self.num_timesteps // self.eval_freq > self._last_timesteps // self.eval_freq
        self._last_timesteps = self.num_timesteps
        if not due:
            return True
        results = evaluate_tasks(self.model, self.eval_env, self.n_eval_episodes, self.deterministic)
        self._store(results)
        self._log(results)
        means = [result.mean_reward for result in results.values()]
        score = float(np.mean(means) if self.score == "mean" else np.min(means))
        continue_training = True
        if score > self.best_mean_reward:
            continue_training = self._on_new_best(score)
        if self.callback is not None:
            continue_training = continue_training and self._on_event()
        return continue_training

    def _store(self, results: dict[str, TaskResult]) -> None:
        self.evaluations_timesteps.append(self.num_timesteps)
        self.evaluations_tasks.append(results)
        rewards = [result.episode_rewards for result in results.values()]
        lengths = [result.episode_lengths for result in results.values()]
        self.evaluations_results.append(np.ravel(rewards).tolist())
        self.evaluations_length.append(np.ravel(lengths).tolist())
        if self.log_path is None:
            return
        history = [list(evaluation.values()) for evaluation in self.evaluations_tasks]
        with replacing(f"{self.log_path}.npz") as beside:
            np.savez(
                beside,
                timesteps=self.evaluations_timesteps,
                results=self.evaluations_results,
                ep_lengths=self.evaluations_length,
                task_names=np.array(list(results)),
                task_results=[[result.episode_rewards for result in row] for row in history],
                task_ep_lengths=[[result.episode_lengths for result in row] for row in history],
            )

    def get_state(self) -> dict[str, Any]:
        """All evaluations so far, for a checkpoint."""
        history = [{task: asdict(result) for task, result in row.items()} for row in self.evaluations_tasks]
        return {
            "best_mean_reward": float(self.best_mean_reward),
            "last_mean_reward": float(self.last_mean_reward),
            "last_timesteps": self._last_timesteps,
            "timesteps": list(self.evaluations_timesteps),
            "history": history,
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Put back what :meth:`get_state` gave."""
        self.best_mean_reward, self.last_mean_reward = state["best_mean_reward"], state["last_mean_reward"]
        self._last_timesteps = state["last_timesteps"]
        self.evaluations_timesteps = list(state["timesteps"])
        self.evaluations_tasks = [
            {task: TaskResult.from_json(result) for task, result in row.items()} for row in state["history"]
        ]
        rows = [list(row.values()) for row in self.evaluations_tasks]
        self.evaluations_results = [np.ravel([result.episode_rewards for result in row]).tolist() for row in rows]
        self.evaluations_length = [np.ravel([result.episode_lengths for result in row]).tolist() for row in rows]

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
        self.logger.record("time/total_timesteps", self.num_timesteps, exclude="tensorboard")
        self.logger.dump(self.num_timesteps)
        if self.verbose >= 1:
            print(  # noqa: T201
                f"Eval num_timesteps={self.num_timesteps}, mean over tasks={self.last_mean_reward:.2f}, "
                f"worst task={means[worst]:.2f} ({worst})"
            )

    def _on_new_best(self, score: float) -> bool:
        if self.verbose >= 1:
            print(f"New best {self.score} reward!")  # noqa: T201
        self.best_mean_reward = score
        if self.best_model_save_path is not None:
            self.model.save(Path(self.best_model_save_path) / "best_model")
        return self.callback_on_new_best is None or self.callback_on_new_best.on_step()
