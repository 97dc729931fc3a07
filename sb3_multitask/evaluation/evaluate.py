"""Evaluation with equally many episodes for every task."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from typing import Any, NamedTuple, TypeAlias, cast

import numpy as np
from stable_baselines3.common.vec_env import VecEnv

from sb3_multitask.agents import Agent
from sb3_multitask.envs.task_space import TaskSizes, padded
from sb3_multitask.evaluation.envs import (
    Evaluable,
    checked_env,
    fresh_env,
    given_env,
    heads_of,
    normalized_like,
    sizes_of,
    tasks_of,
    training_env_of,
    wrappers_of,
)
from sb3_multitask.evaluation.results import TaskResult, TaskResults
from sb3_multitask.many_tasks import listed
from sb3_multitask.process.generators import seed_torch, seeded_globals
from sb3_multitask.process.threads import threads_for_arrays
from sb3_multitask.tasks import TasksLike, resolve_tasks
from sb3_multitask.vec_env import MultiTaskVecEnv
from sb3_multitask.vec_env.faults import is_fault
from sb3_multitask.vec_env.success import SUCCESS

Predict: TypeAlias = Callable[[Any], tuple[np.ndarray, Any]]


class Played(NamedTuple):
    """An episode: return, length in steps, whether it was successful (None: not said), whether it ended by itself."""

    total_reward: float
    length: int
    success: bool | None
    ended: bool = True


def evaluate_tasks(
    model: Evaluable,
    env: VecEnv | TasksLike | None = None,
    n_eval_episodes: int = 20,
    deterministic: bool = True,
    *,
    seed: int = 0,
    max_episode_steps: int = 100_000,
) -> dict[str, TaskResult]:
    """Evaluate a model on each of its tasks, over the same number of episodes for each.

    An evaluation does not change the training: neither its envs, nor its normaliser's statistics, nor any random
    generator, even if environments draw from the global ones. Observations are normalised with the model's statistics;
    returns are raw.

    :param model: an ``A2CMultiTask``, another SB3 model on a multi-task VecEnv, or an :class:`Agent`
    :param env: a ``MultiTaskVecEnv``, normalised or not, other than the model's own; or tasks, as
        ``make_multitask_vec_env`` takes them, for which new envs are made; or ``None`` for all of the model's tasks. A
        model with one head acts in any tasks; a model with several heads in those with the names or ids of its own
        tasks. New envs have the ``on_fault`` of the model's env. A quarantined episode is repeated, with a warning
    :param n_eval_episodes: episodes **per task** (the paper: 20)
    :param deterministic: the mean of the Gaussian instead of a sample (the paper: deterministic)
    :param seed: seed of the new envs, of the samples if not deterministic, and meanwhile of the global generators
    :param max_episode_steps: a longer episode is cut at this number of steps and counts so far, with a warning
    :return: task name -> result, in the order of the model's tasks, or of the given tasks; ``print`` shows a table

    Episodes go through the wrappers around ``env``. New envs do not have the wrappers of the training env, and a
    warning names these.

    :raises TypeError: if ``model`` is neither a model nor an agent
    :raises ValueError: on an env with other tasks, the model's own env, too few episodes, a wrapper around an env
        without the normaliser that the model's observations need, or tasks that the model has no head for
    """
    if not isinstance(model, Evaluable):
        raise TypeError(
            f"`model` must be a model or an Agent (got {model!r:.100}); A2CMultiTask.load and load_agent read files"
        )
    for name, value in {"n_eval_episodes": n_eval_episodes, "max_episode_steps": max_episode_steps}.items():
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1 (got {value})")
    given = given_env(env)
    if given is None and (wrappers := wrappers_of(training_env_of(model))):
        warnings.warn(
            f"The training env's {', '.join(wrappers)} is not around the envs of this evaluation; pass `env`.",
            stacklevel=2,
        )
    with ExitStack() as stack:
        stack.enter_context(seeded_globals(seed))
        heads = None
        if given is not None:
            venv = checked_env(model, given)
        else:
            tasks = tasks_of(model) if env is None else resolve_tasks(cast("TasksLike", env))
            heads = heads_of(model, tasks)
            venv = stack.enter_context(closing(fresh_env(model, tasks, heads, min(n_eval_episodes, 5), seed)))
        eval_env = stack.enter_context(normalized_like(model, venv, given, heads))
        predict = stack.enter_context(_predicting(model, deterministic, seed))
        if heads is not None:
            predict = _with_heads(predict, heads, sizes_of(model), eval_env)
        stack.enter_context(threads_for_arrays())
        episodes = _run_episodes(predict, eval_env, n_eval_episodes, max_episode_steps)
    return TaskResults({task: _result(played) for task, played in episodes.items()})


def _result(episodes: Sequence[Played]) -> TaskResult:
    returns = [(episode.total_reward, episode.length) for episode in episodes]
    return TaskResult.of(returns, [episode.success for episode in episodes])


def _run_episodes(
    predict: Predict, env: VecEnv, n_eval_episodes: int, max_episode_steps: int
) -> dict[str, list[Played]]:
    """Return ``n_eval_episodes`` episodes of each task.

    Episodes are played in rounds. In a round all copies are reset, and every copy of every task plays one episode of
    any length. So short episodes are not favoured, and an episode that never ends can be cut.
    """
    venv = cast("MultiTaskVecEnv", env.unwrapped)
    episodes: dict[str, list[Played]] = {name: [] for name in venv.task_names}
    capped: set[str] = set()
    n_faults = dict(venv.fault_counts)
    while True:
        n_missing = [n_eval_episodes - len(of_task) for of_task in episodes.values()]
        if not any(n_missing):
            break
        wanted = np.array([copy < n_missing[task] for task, copy in venv.copies.places()])
        played = _run_round(predict, env, wanted, max_episode_steps)
        for row, episode in played.items():
            name = venv.task_names[venv.task_ids[row]]
            episodes[name].append(episode)
            if not episode.ended:
                capped.add(name)
    faults = {name: count - n_faults[name] for name, count in venv.fault_counts.items() if count > n_faults[name]}
    if faults:
        counts = listed([f"{name} ({count})" for name, count in faults.items()])
        warnings.warn(f"Episodes with faults were played again: {counts}.", stacklevel=3)
    if capped:
        warnings.warn(
            f"Episodes of {listed(sorted(capped))} did not end within {max_episode_steps} steps "
            "(`max_episode_steps`); their returns count up to there.",
            stacklevel=3,
        )
    return episodes


def _run_round(predict: Predict, env: VecEnv, wanted: np.ndarray, max_episode_steps: int) -> dict[int, Played]:
    """Play one episode of every wanted row; row -> episode, rows ascending."""
    played: dict[int, Played] = {}
    returns, begun = np.zeros(env.num_envs), np.zeros(env.num_envs, dtype=np.int64)
    running = wanted.copy()
    obs = env.reset()
    for length in range(1, max_episode_steps + 1):
        actions, _ = predict(obs)
        obs, rewards, dones, infos = env.step(actions)
        returns += rewards
        for row in (dones & running).nonzero()[0].tolist():
            if is_fault(infos[row]):  # quarantined: another episode replaces this one
                dones[row], returns[row], begun[row] = False, 0.0, length
                continue
            info = infos[row]
            played[row] = Played(float(info["episode"]["r"]), length - int(begun[row]), info.get(SUCCESS))
        running &= ~dones
        if not running.any():
            break
    monitor = cast("MultiTaskVecEnv", env.unwrapped).monitor
    for row in running.nonzero()[0].tolist():
        success = monitor.success_so_far(row)
        played[row] = Played(float(returns[row]), length - int(begun[row]), success, ended=False)
    return dict(sorted(played.items()))


@contextmanager
def _predicting(model: Evaluable, deterministic: bool, seed: int) -> Iterator[Predict]:
    """Yield the model's ``predict``; restore its mode afterwards."""
    if isinstance(model, Agent):
        predict: Predict = partial(model.predict, deterministic=deterministic, generator=np.random.default_rng(seed))
        yield predict
        return
    was_training = model.policy.training
    seed_torch(seed)  # so that the samples do not depend on draws of the envs' constructors
    try:
        yield partial(model.predict, deterministic=deterministic)
    finally:
        model.policy.set_training_mode(was_training)


def _with_heads(predict: Predict, heads: np.ndarray, sizes: TaskSizes, env: VecEnv) -> Predict:
    """Return ``predict`` for an env of other tasks, whose ids index ``heads``, and which may be narrower or wider."""
    obs_dim: int = min(sizes.obs_dim, env.observation_space["obs"].shape[0])  # type: ignore[index]
    (action_dim,) = env.action_space.shape  # type: ignore[misc]

    def predict_heads(obs: dict[str, Any]) -> tuple[np.ndarray, Any]:
        own = padded(obs["obs"][..., :obs_dim], sizes.obs_dim)
        actions, state = predict({"obs": own, "task": heads[obs["task"]]})
        return padded(actions[..., :action_dim], action_dim), state

    return predict_heads
