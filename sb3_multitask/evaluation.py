"""Evaluation with equal episodes for every task."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, Self, TypeAlias, cast

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecCheckNan, VecEnv, VecEnvWrapper, VecMonitor, VecNormalize

from sb3_multitask.agents import Agent, normalizer_state_of
from sb3_multitask.generators import global_states, set_global_states
from sb3_multitask.tasks import Task
from sb3_multitask.threads import one_thread_for_arrays
from sb3_multitask.vec_env import MultiTaskVecEnv, MultiTaskVecNormalize, TaskCyclingVecEnv
from sb3_multitask.vec_env.faults import OnFault, is_fault
from sb3_multitask.vec_env.schedule import layers_of, task_normalizer_of

Evaluable: TypeAlias = BaseAlgorithm | Agent
_TRANSPARENT = (TaskCyclingVecEnv, VecNormalize, VecCheckNan, VecMonitor)
Predict: TypeAlias = Callable[[Any], tuple[np.ndarray, Any]]


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
    model: Evaluable,
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

    :param model: an ``A2CMultiTask``, another SB3 model on a multi-task VecEnv, or an :class:`Agent`
    :param env: a ``MultiTaskVecEnv``, normalised or not, other than the model's own; ``None`` makes fresh copies of
        the model's tasks, with the ``on_fault`` of its env. An episode that is quarantined is played again, with a
        warning
    :param n_eval_episodes: episodes **per task** (the paper: 20)
    :param deterministic: the mean of the Gaussian instead of a sample (the paper: deterministic)
    :param seed: of the fresh envs, and of the samples if not deterministic
    :param max_episode_steps: an episode that lasts longer counts as it stands, with a warning
    :return: task name -> result, in the model's order

    Wrappers around ``env`` stay: an episode goes through them. Those of the training env are not around fresh copies of
    its tasks, which a warning says.

    :raises TypeError: if ``model`` is neither a model nor an agent
    :raises ValueError: on an env with other tasks, the model's own env, too few episodes, or a wrapper around an env
        without the normaliser that the model's observations need
    """
    if not isinstance(model, Evaluable):
        raise TypeError(
            f"`model` must be a model or an Agent (got {model!r:.100}); A2CMultiTask.load and load_agent read files"
        )
    for name, value in {"n_eval_episodes": n_eval_episodes, "max_episode_steps": max_episode_steps}.items():
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1 (got {value})")
    if env is None:
        training_env: Any = _training_env(model)
        if training_env is not None and (wrappers := _wrappers_of(training_env)):
            warnings.warn(
                f"The training env's {', '.join(wrappers)} is not around the envs of this evaluation; pass `env`.",
                stacklevel=2,
            )
        on_fault: OnFault = getattr(training_env and training_env.unwrapped, "on_fault", "stop")
        venv = MultiTaskVecEnv(tasks_of(model), min(n_eval_episodes, 5), seed=seed, training=False, on_fault=on_fault)
    else:
        venv = checked_env(model, env)
    try:
        with (
            _normalized_like(model, venv, env) as eval_env,
            _predicting(model, deterministic, seed) as predict,
            one_thread_for_arrays(),
        ):
            episodes = _run_episodes(predict, eval_env, n_eval_episodes, max_episode_steps)
    finally:
        if env is None:
            venv.close()
    return {task: TaskResult.of(task_episodes) for task, task_episodes in episodes.items()}


def _run_episodes(
    predict: Predict, env: VecEnv, n_eval_episodes: int, max_episode_steps: int
) -> dict[str, list[tuple[float, int]]]:
    """(return, length) of ``n_eval_episodes`` episodes of each task.

    In rounds: every copy of every task plays one episode after a reset of all, whatever its length, so that short
    episodes are not favoured and one that never ends can be left behind.
    """
    venv = cast("MultiTaskVecEnv", env.unwrapped)
    episodes: dict[str, list[tuple[float, int]]] = {name: [] for name in venv.task_names}
    capped: set[str] = set()
    n_faults = dict(venv.fault_counts)
    while n_missing := n_eval_episodes - len(episodes[venv.task_names[0]]):
        wanted = np.tile(np.arange(venv.n_envs_per_task) < n_missing, venv.n_tasks)
        played = _run_round(predict, env, wanted, max_episode_steps)
        for row, (episode, ended) in played.items():
            name = venv.task_names[row // venv.n_envs_per_task]
            episodes[name].append(episode)
            if not ended:
                capped.add(name)
    faults = {name: count - n_faults[name] for name, count in venv.fault_counts.items() if count > n_faults[name]}
    if faults:
        counts = ", ".join(f"{name} ({count})" for name, count in faults.items())
        warnings.warn(f"Episodes with faults were played again: {counts}.", stacklevel=3)
    if capped:
        warnings.warn(
            f"Episodes of {', '.join(sorted(capped))} did not end within {max_episode_steps} steps "
            "(`max_episode_steps`); their returns count up to there.",
            stacklevel=3,
        )
    return episodes


def _run_round(
    predict: Predict, env: VecEnv, wanted: np.ndarray, max_episode_steps: int
) -> dict[int, tuple[tuple[float, int], bool]]:
    """One episode of every wanted row: row -> ((return, length), whether it ended by itself), rows ascending."""
    played: dict[int, tuple[tuple[float, int], bool]] = {}
    returns, begun = np.zeros(env.num_envs), np.zeros(env.num_envs, dtype=np.int64)
    running = wanted.copy()
    obs = env.reset()
    for length in range(1, max_episode_steps + 1):
        actions, _ = predict(obs)
        obs, rewards, dones, infos = env.step(actions)
        returns += rewards
        for row in (dones & running).nonzero()[0].tolist():
            if is_fault(infos[row]):  # quarantined: another episode takes the place of this one
                dones[row], returns[row], begun[row] = False, 0.0, length
                continue
            played[row] = ((float(infos[row]["episode"]["r"]), length - int(begun[row])), True)
        running &= ~dones
        if not running.any():
            break
    for row in running.nonzero()[0].tolist():
        played[row] = ((float(returns[row]), length - int(begun[row])), False)
    return dict(sorted(played.items()))


def tasks_of(model: Evaluable) -> tuple[Task, ...]:
    """The tasks of a model or an agent, in order.

    :raises ValueError: if it does not know them
    """
    tasks = getattr(model, "tasks", None) or getattr(_training_env(model), "tasks", None)
    if tasks is None:
        raise ValueError(
            "The model's tasks are not known, since it was not trained on a MultiTaskVecEnv, or is an agent whose file "
            "does not name their ids. Pass `env=make_multitask_vec_env(tasks, training=False)`."
        )
    return cast("tuple[Task, ...]", tasks)


def _training_env(model: Evaluable) -> VecEnv | None:
    return None if isinstance(model, Agent) else model.get_env()


def checked_env(model: Evaluable, env: VecEnv) -> MultiTaskVecEnv:
    """The MultiTaskVecEnv inside ``env``, if the model can be evaluated on it."""
    venv = env.unwrapped
    if not isinstance(venv, MultiTaskVecEnv):
        raise ValueError(f"`env` must be a MultiTaskVecEnv, normalised or not (got {env!r})")
    training_env = _training_env(model)
    if training_env is not None and training_env.unwrapped is venv:
        raise ValueError("`env` is the model's training env, which an evaluation would disturb; make another.")
    names = getattr(model, "task_names", None) or getattr(training_env, "task_names", None) or venv.task_names
    if tuple(names) != venv.task_names:
        raise ValueError(
            f"`env` must have the model's tasks, in their order.\n  model: {', '.join(names)}\n"
            f"  env:   {', '.join(venv.task_names)}"
        )
    return venv


def _wrappers_of(env: VecEnv) -> list[str]:
    """Names of the wrappers that may change what a policy sees or does."""
    return [
        type(layer).__name__
        for layer in layers_of(env)
        if isinstance(layer, VecEnvWrapper) and not isinstance(layer, _TRANSPARENT)
    ]


@contextmanager
def _normalized_like(model: Evaluable, venv: MultiTaskVecEnv, given: VecEnv | None) -> Iterator[VecEnv]:
    """``venv``, in the wrappers of ``given``, normalised as the model's observations are, with statistics that stay.

    A model that brings no statistics (another algorithm, loaded from a file) is given those of the env it came with.

    :raises ValueError: if the model or the env has a stock ``VecNormalize``, or a wrapper is around an env that does
        not normalise as the model does
    """
    wrappers = [] if given is None else _wrappers_of(given)
    if isinstance(model, Agent):
        if given is not None and wrappers and task_normalizer_of(given) is not None:
            raise ValueError(
                f"An agent brings its normaliser: pass an `env` with {', '.join(wrappers)} and without one"
            )
        yield given if given is not None and wrappers else venv
        return
    state = normalizer_state_of(model)
    if state is None and given is not None:
        normalizer = task_normalizer_of(given)
        state = None if normalizer is None or model.get_env() is not None else normalizer.get_statistics()
    if given is not None and wrappers:
        yield from _borrowed(given, state, wrappers)
    elif state is None:
        yield venv
    else:
        frozen = MultiTaskVecNormalize(venv, training=False, norm_reward=False)
        frozen.set_statistics(state)
        yield frozen


def _borrowed(env: VecEnv, state: dict[str, Any] | None, wrappers: Sequence[str]) -> Iterator[VecEnv]:
    """The env itself, its normaliser with other statistics for a while."""
    normalizer = task_normalizer_of(env)
    if (normalizer is None) != (state is None):
        does, does_not = ("model", "env") if normalizer is None else ("env", "model")
        raise ValueError(
            f"The {does} normalises its observations and the {does_not} does not; under {', '.join(wrappers)} the env "
            "must have a MultiTaskVecNormalize exactly if the model does"
        )
    if normalizer is None or state is None:
        yield env
        return
    mine, flags = normalizer.get_statistics(), (normalizer.training, normalizer.norm_reward)
    try:
        normalizer.set_statistics(state)
        normalizer.training, normalizer.norm_reward = False, False
        yield env
    finally:
        normalizer.set_statistics(mine)
        normalizer.training, normalizer.norm_reward = flags


@contextmanager
def _predicting(model: Evaluable, deterministic: bool, seed: int) -> Iterator[Predict]:
    """The model's ``predict``; all global random states and the policy's mode are put back afterwards."""
    states = global_states()
    try:
        yield from _predict_of(model, deterministic, seed)
    finally:
        set_global_states(states)


def _predict_of(model: Evaluable, deterministic: bool, seed: int) -> Iterator[Predict]:
    if isinstance(model, Agent):
        yield partial(model.predict, deterministic=deterministic, generator=np.random.default_rng(seed))
        return
    was_training = model.policy.training
    on_gpu = model.device.type == "cuda"
    with th.random.fork_rng(devices=[model.device] if on_gpu else []):
        th.default_generator.manual_seed(seed)  # th.manual_seed would seed every device, forked or not
        if on_gpu:
            th.cuda.manual_seed(seed)
        try:
            yield partial(model.predict, deterministic=deterministic)
        finally:
            model.policy.set_training_mode(was_training)
