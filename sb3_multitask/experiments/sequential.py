"""Henderson et al.'s protocol: one head learns the tasks of a group in turn, and is evaluated on all of them.

What a task's head knows of the others is forgotten or kept here, and measured: with a head and statistics for each task
nothing could be forgotten. The normaliser's statistics continue from task to task, as the weights do.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing
from dataclasses import replace
from typing import Any

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_multitask.agents import agent_of
from sb3_multitask.agents.files import save_agent
from sb3_multitask.algorithms import has_ability
from sb3_multitask.algorithms.task_logs import log_last_update
from sb3_multitask.checkpoint import ResumableCheckpointCallback
from sb3_multitask.envs.flattening import layout_lines
from sb3_multitask.evaluation.evaluate import evaluate_tasks
from sb3_multitask.evaluation.results import TaskResult
from sb3_multitask.experiments.algorithms import make_algorithm, save_model
from sb3_multitask.experiments.config import TrainConfig
from sb3_multitask.experiments.progress import make_logger
from sb3_multitask.experiments.run_folder import RunFolder
from sb3_multitask.experiments.signals import Stop
from sb3_multitask.process.seeding import env_seed
from sb3_multitask.storage.files import file_name
from sb3_multitask.storage.yaml_files import ConfigError
from sb3_multitask.tasks import Task
from sb3_multitask.vec_env import MultiTaskVecEnv, make_multitask_vec_env
from sb3_multitask.vec_env.layers import task_normalizer_of

HEAD = "all"
"""Name of the only head."""


def train_in_turn(
    config: TrainConfig,
    folder: RunFolder,
    stop: Stop,
    progress_bar: bool,
    verbose: int,
    announce: Callable[[str], None],
) -> dict[str, object]:
    """Train on each task for its share of the steps; ``results.json`` gets the returns on all tasks after each.

    Every task has a folder of checkpoints. A run that was interrupted resumes from the newest: with the task that it
    was learning, at its step. The results of the earlier tasks are in its files.

    :return: facts of the run
    :raises ConfigError: if the tasks differ in size
    """
    tasks, newest = config.resolved_tasks(), folder.newest_checkpoint_in_turn()
    first, steps = newest or (0, 0)
    for task in tasks[0 if newest is None else first + 1 :]:  # begun after the checkpoint, so it begins again
        shutil.rmtree(folder.monitor / file_name(task.name), ignore_errors=True)
    env = _env_of(config, folder, 0)  # of which the model takes its spaces, whichever task it resumes with
    logger = make_logger(folder.progress, ["stdout"] if verbose else [], steps)
    try:
        model = make_algorithm(config, env, verbose)
        model.set_logger(logger)
        results: dict[str, Mapping[str, TaskResult]] = {**folder.read_results()}
        if "before" not in results:
            results["before"] = _evaluate(model, tasks, config)
            folder.write_results(**results)
        for i, task in enumerate(tasks[first:], first):
            if i:
                env = _next_env(model, config, folder, i)
            if verbose < 1:  # else the model has printed it
                layouts: Mapping[str, str] = getattr(env.unwrapped, "layouts", {})
                for line in layout_lines({task.name: layouts[HEAD]} if layouts else {}):
                    announce(line)
            what = "going on" if steps and i == first else f"training for {config.n_timesteps // len(tasks):,} steps"
            announce(f"{task.name} ({i + 1} of {len(tasks)}): {what} ...")
            _learn(model, config, folder, i, stop, progress_bar)
            results[f"after_{i + 1}"] = _evaluate(model, tasks, config)
            folder.write_results(**results)
            save_agent(replace(agent_of(model), tasks=None), folder.agents / f"after_{i + 1}")
            if i:  # the task's own checkpoints are enough from here on
                shutil.rmtree(folder.checkpoints_of_turn(i - 1), ignore_errors=True)
        results["after"] = results[f"after_{len(tasks)}"]
        folder.write_results(**results)
        save_model(model, folder)
        save_agent(replace(agent_of(model), tasks=None), folder.agents / "final")
    finally:
        logger.close()
        env.close()
    return {"algorithm": type(model).__name__}


def _learn(
    model: OnPolicyAlgorithm, config: TrainConfig, folder: RunFolder, turn: int, stop: Stop, progress_bar: bool
) -> None:
    """Train on the task of a turn, or resume this from its newest checkpoint."""
    per_task = config.n_timesteps // len(config.task_names)
    rollout = model.n_steps * model.n_envs
    model.num_timesteps = turn * -(-per_task // rollout) * rollout  # also of a model that resumes: its turns are whole
    callbacks: list[BaseCallback] = []
    with ExitStack() as stack:
        if has_ability(model, "resumable"):
            checkpoints = ResumableCheckpointCallback(
                folder.checkpoints_of_turn(turn), config.checkpoint_freq, config.keep_checkpoints, verbose=0
            )
            callbacks.append(checkpoints)
            stack.enter_context(stop.at_next_rollout(checkpoints.stop))
        model.learn(
            per_task,
            callbacks,
            reset_num_timesteps=turn == 0,
            progress_bar=progress_bar,
            log_interval=config.log_interval,
        )
    stop.raise_if_asked()  # a signal that came in the last rollout
    if not has_ability(model, "logs_tasks"):  # those that do have written it
        log_last_update(model)


def _env_of(config: TrainConfig, folder: RunFolder, index: int) -> VecEnv:
    task = config.resolved_tasks()[index]
    return make_multitask_vec_env(
        [Task(HEAD, task.env_id, task.env_kwargs)],
        config.n_envs_per_task,
        env_seed(config.seed, index),  # each task is the only one of its VecEnv
        config.backend,
        config.normalizer_kwargs(),
        monitor_dir=folder.monitor / file_name(task.name),
        on_fault=config.on_fault,
    )


def _next_env(model: OnPolicyAlgorithm, config: TrainConfig, folder: RunFolder, index: int) -> VecEnv:
    """The next task's env, in the place of the last one and with its statistics."""
    old: Any = model.get_env()
    env = _env_of(config, folder, index)
    before, after = task_normalizer_of(old), task_normalizer_of(env)
    if before is not None and after is not None:
        after.set_statistics(before.get_statistics())
    model.set_env(env)
    old.close()
    return env


def _check_sizes(model: OnPolicyAlgorithm, env: MultiTaskVecEnv, first: Task, task: Task) -> None:
    """Raise if a task has other sizes than the first: the head could not act in it.

    :raises ConfigError: names both
    """
    sides: Any = (model, env)
    ours, theirs = ((side.observation_space["obs"].shape[0], side.action_space.shape[0]) for side in sides)
    if ours != theirs:
        raise ConfigError(
            f"sequential training has one head, for tasks of one size: {task.name!r} has {theirs[0]} numbers in an "
            f"observation and {theirs[1]} in an action, {first.name!r} has {ours[0]} and {ours[1]}"
        )


def _evaluate(model: OnPolicyAlgorithm, tasks: tuple[Task, ...], config: TrainConfig) -> Mapping[str, TaskResult]:
    results = {}
    for task in tasks:
        alone = [Task(HEAD, task.env_id, task.env_kwargs)]
        n_envs = min(config.n_eval_episodes, 5)
        with closing(MultiTaskVecEnv(alone, n_envs, seed=0, training=False, on_fault=config.on_fault)) as env:
            _check_sizes(model, env, tasks[0], task)
            (results[task.name],) = evaluate_tasks(model, env, config.n_eval_episodes).values()
    return results
