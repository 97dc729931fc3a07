"""Train one run: config in, run folder out."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import cast

from stable_baselines3.common.logger import configure

from sb3_multitask.a2c_multitask import A2CMultiTask
from sb3_multitask.evaluation import MultiTaskEvalCallback, TaskResult, evaluate_tasks
from sb3_multitask.experiments.config import TrainConfig, dump_config
from sb3_multitask.experiments.curves import draw_learning_curves, read_training_returns
from sb3_multitask.experiments.run_folder import RunFolder
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

    :param progress_bar: show SB3's progress bar
    :param verbose: 1 prints SB3's log tables and each evaluation
    :param announce: called with what is being done
    :return: ``"before"`` and ``"after"`` -> task -> result
    """
    dump_config(config, folder.config)
    folder.write_status("running")
    try:
        results = _train(config, folder, progress_bar, verbose, announce)
    except KeyboardInterrupt:
        folder.write_status("interrupted")
        raise
    except BaseException as e:
        folder.write_status("failed", reason=f"{type(e).__name__}: {e}")
        raise
    return results


def _train(
    config: TrainConfig, folder: RunFolder, progress_bar: bool, verbose: int, announce: Callable[[str], None]
) -> Results:
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
        log_formats = [
            "csv",
            *(["stdout"] if verbose else []),
            *(["tensorboard"] if config.tensorboard else []),
        ]
        model.set_logger(configure(str(folder.path), log_formats))
        announce("Evaluating the untrained agent ...")
        before = evaluate_tasks(model, n_eval_episodes=config.n_eval_episodes)
        callback = None
        if config.eval_freq:
            callback = MultiTaskEvalCallback(
                eval_env,
                n_eval_episodes=config.eval_episodes,
                eval_freq=config.eval_freq,
                log_path=folder.path,
                best_model_save_path=folder.path,
                score=config.score,
                verbose=verbose,
            )
        announce(f"Training for {config.n_timesteps:,} steps ...")
        try:
            model.learn(config.n_timesteps, callback, log_interval=config.log_interval, progress_bar=progress_bar)
        finally:
            model.save(folder.model)
        announce("Evaluating the trained agent ...")
        after = evaluate_tasks(model, n_eval_episodes=config.n_eval_episodes)
        venv = cast("MultiTaskVecEnv", env.unwrapped)
        ran_with = {"engine": model.last_engine, "backend": venv.backend, "physics_threads": venv.n_threads}
    finally:
        env.close()
        eval_env.close()
    results = {"before": before, "after": after}
    folder.write_results(**results)
    folder.write_status("finished", **ran_with)
    draw_learning_curves(
        read_training_returns(folder.monitor),
        config.task_names,
        folder.curves,
        f"One agent, {len(config.task_names)} tasks (seed {config.seed}, {config.task_schedule})",
    )
    return results
