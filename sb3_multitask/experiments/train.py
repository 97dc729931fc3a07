"""Train one run: config in, run folder out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_multitask.a2c_multitask import A2CMultiTask
from sb3_multitask.checkpoint import ResumableCheckpointCallback
from sb3_multitask.checkpoint.format import read_latest
from sb3_multitask.evaluation import MultiTaskEvalCallback, TaskResult, evaluate_tasks
from sb3_multitask.experiments.config import TrainConfig, dump_config
from sb3_multitask.experiments.curves import draw_learning_curves, read_training_returns
from sb3_multitask.experiments.progress import make_logger
from sb3_multitask.experiments.run_folder import RunFolder
from sb3_multitask.experiments.signals import Stop, stopping_on_signals
from sb3_multitask.vec_env import MultiTaskVecEnv, make_multitask_vec_env

Results = Mapping[str, Mapping[str, TaskResult]]


def train_run(
    config: TrainConfig,
    folder: RunFolder,
    progress_bar: bool = False,
    verbose: int = 0,
    announce: Callable[[str], None] = lambda _text: None,
) -> Results:
    """Train as ``config`` says and leave everything in ``folder``.

    A folder in which this run was interrupted, however hard, is gone on with from its newest checkpoint, to the same
    bits. SIGTERM and Ctrl-C leave a checkpoint and the status "interrupted".

    :param progress_bar: show SB3's progress bar
    :param verbose: 1 prints SB3's log tables and each evaluation
    :param announce: called with what is being done
    :return: ``"before"`` and ``"after"`` -> task -> result
    :raises FolderInUseError: if another process works in the folder
    """
    with folder.locked(), stopping_on_signals() as stop:
        if folder.read_status().get("status") == "finished":
            announce(f"{folder.path} is finished already")
            return folder.read_results()
        dump_config(config, folder.config)
        folder.write_status("running", seed=config.seed)
        try:
            facts = _train(config, folder, stop, progress_bar, verbose, announce)
        except KeyboardInterrupt as e:
            folder.write_status("interrupted", seed=config.seed, reason=str(e) or "KeyboardInterrupt")
            raise
        except BaseException as e:
            folder.write_status("failed", seed=config.seed, reason=f"{type(e).__name__}: {e}")
            raise
        draw_learning_curves(
            read_training_returns(folder.monitor),
            config.task_names,
            folder.curves,
            f"One agent, {len(config.task_names)} tasks (seed {config.seed}, {config.task_schedule})",
        )
        folder.write_status("finished", seed=config.seed, **facts)
        return folder.read_results()


def _train(
    config: TrainConfig,
    folder: RunFolder,
    stop: Stop,
    progress_bar: bool,
    verbose: int,
    announce: Callable[[str], None],
) -> dict[str, object]:
    """Everything between the statuses "running" and "finished"; facts of the run for the latter."""
    normalize = config.normalize
    if normalize is not False:
        normalize = {"gamma": config.gamma, **(normalize if isinstance(normalize, dict) else {})}
    env = make_multitask_vec_env(
        config.tasks,
        config.n_envs_per_task,
        config.seed,
        config.backend,
        normalize,
        monitor_dir=folder.monitor,
    )
    eval_env = make_multitask_vec_env(
        config.tasks, config.eval_episodes, config.seed + 10_000, config.backend, normalize=False
    )
    try:
        model = A2CMultiTask(env=env, verbose=verbose, **config.algorithm_kwargs())
        newest = read_latest(folder.checkpoints)
        others = [*(["stdout"] if verbose else []), *(["tensorboard"] if config.tensorboard else [])]
        model.set_logger(make_logger(folder.progress, others, 0 if newest is None else int(newest[0].name)))
        results = folder.read_results()
        if "before" not in results:
            announce("Evaluating the untrained agent ...")
            results["before"] = evaluate_tasks(model, n_eval_episodes=config.n_eval_episodes)
            folder.write_results(**results)
        checkpoints = ResumableCheckpointCallback(
            folder.checkpoints, config.checkpoint_freq, config.keep_checkpoints, verbose=0
        )
        if newest is None:
            announce(f"Training for {config.n_timesteps:,} steps ...")
        else:
            announce(f"Going on from {newest[0]} of {config.n_timesteps:,} steps ...")
        with stop.at_next_rollout(checkpoints.stop):
            model.learn(
                config.n_timesteps,
                [checkpoints, *_evaluations(config, folder, eval_env, verbose)],
                log_interval=config.log_interval,
                progress_bar=progress_bar,
            )
        model.save(folder.model)
        announce("Evaluating the trained agent ...")
        results["after"] = evaluate_tasks(model, n_eval_episodes=config.n_eval_episodes)
        folder.write_results(**results)
        venv = cast("MultiTaskVecEnv", env.unwrapped)
        return {"engine": model.last_engine, "backend": venv.backend, "physics_threads": venv.n_threads}
    finally:
        env.close()
        eval_env.close()


def _evaluations(config: TrainConfig, folder: RunFolder, eval_env: VecEnv, verbose: int) -> list[BaseCallback]:
    if not config.eval_freq:
        return []
    return [
        MultiTaskEvalCallback(
            eval_env,
            n_eval_episodes=config.eval_episodes,
            eval_freq=config.eval_freq,
            log_path=folder.path,
            best_model_save_path=folder.path,
            score=config.score,
            verbose=verbose,
        )
    ]
