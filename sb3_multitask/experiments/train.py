"""Train one run: config in, run folder out."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from typing import Any, Literal, TypeAlias, cast

from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_multitask.agents import agent_of
from sb3_multitask.agents.files import save_agent
from sb3_multitask.agents.trained_files import model_zip
from sb3_multitask.algorithms import MultiTaskOnPolicyAlgorithm, has_ability
from sb3_multitask.algorithms.task_logs import log_last_update
from sb3_multitask.algorithms.transfer import freeze, transfer
from sb3_multitask.checkpoint import ResumableCheckpointCallback
from sb3_multitask.checkpoint.format import read_latest
from sb3_multitask.envs.flattening import layout_lines
from sb3_multitask.evaluation.callback import MultiTaskEvalCallback, score_of
from sb3_multitask.evaluation.episodes import TaskEpisodesCallback
from sb3_multitask.evaluation.results import TaskResult
from sb3_multitask.evaluation.tensorboard import MultiTaskTensorBoardCallback
from sb3_multitask.experiments.algorithms import make_algorithm, save_model
from sb3_multitask.experiments.config import TrainConfig, dump_config, load_config
from sb3_multitask.experiments.conflicts import ConflictsCallback
from sb3_multitask.experiments.curves import RunCurves, draw_learning_curves, read_training_returns
from sb3_multitask.experiments.datasets import dataset_of_run
from sb3_multitask.experiments.milestones import (
    BestAgentCallback,
    MilestoneCallback,
    TurnCallback,
    evaluate_fully,
    other_env,
)
from sb3_multitask.experiments.progress import make_logger
from sb3_multitask.experiments.run_folder import RunFolder
from sb3_multitask.experiments.sequential import train_in_turn
from sb3_multitask.experiments.signals import Stop, stopping_on_signals
from sb3_multitask.process.kernels import COMPILING
from sb3_multitask.storage.files import SaveError
from sb3_multitask.storage.yaml_files import ConfigError
from sb3_multitask.vec_env import MultiTaskVecEnv, make_multitask_vec_env

Earlier: TypeAlias = Literal["set_aside", "remove", "refuse"]
Results = Mapping[str, Mapping[str, TaskResult]]


def train_run(
    config: TrainConfig,
    folder: RunFolder,
    progress_bar: bool = False,
    verbose: int = 0,
    announce: Callable[[str], None] = lambda _text: None,
    earlier: Earlier = "set_aside",
) -> Results:
    """Train as ``config`` says and leave everything in ``folder``.

    A run that was interrupted in the folder, however hard, is resumed from its newest checkpoint, to the same bits;
    SIGTERM and Ctrl-C leave a checkpoint and the status "interrupted". One that cannot be resumed
    (``can_resume``) is started over.

    :param progress_bar: show SB3's progress bar
    :param verbose: 1 prints SB3's log tables and each evaluation
    :param announce: called with what is being done
    :param earlier: what happens to the outputs of a run that is started over: ``"set_aside"`` moves them into
        ``earlier_<number>``, ``"remove"`` deletes them, ``"refuse"`` keeps them and raises
    :return: ``"before"`` and ``"after"`` -> task -> result
    :raises FolderInUseError: if another process works in the folder
    :raises FileExistsError: with ``earlier="refuse"``, if the run would be started over and has outputs
    """
    with folder.locked(), stopping_on_signals() as stop:
        if folder.read_status().get("status") == "finished":
            announce(f"{folder.path} is finished already")
            return folder.read_results()
        if not folder.config.exists():
            dump_config(config, folder.config)
        elif load_config(TrainConfig, folder.config) != config:
            raise ConfigError(f"{folder.config} is the config of another run; choose another folder")
        resumes = can_resume(config, folder)
        if not resumes:
            _start_over(config, folder, earlier, announce)
        clock = _Clock(folder.read_status() if resumes else {})
        folder.write_status("running", seed=config.seed, **clock.read())
        try:
            if config.is_resumable:
                folder.checkpoints.mkdir(exist_ok=True)  # before anything else: see `lacks_checkpoints`
            if config.sequential:
                facts = train_in_turn(config, folder, stop, progress_bar, verbose, announce)
            else:
                facts = _train(config, folder, stop, progress_bar, verbose, announce)
                training = read_training_returns(folder.monitor)
                if training:  # else no episode has ended
                    draw_learning_curves(
                        {folder.path.name: RunCurves(training)},
                        config.task_names,
                        folder.curves,
                        f"One agent, {len(config.task_names)} tasks (seed {config.seed}, {config.algo})",
                    )
        except KeyboardInterrupt as e:
            reason = str(e) or "KeyboardInterrupt"
            with suppress(SaveError):
                folder.write_status("interrupted", seed=config.seed, reason=reason, **clock.read())
            raise
        except BaseException as e:
            with suppress(SaveError):  # on a disk that is full, say what failed first
                folder.write_status("failed", seed=config.seed, reason=f"{type(e).__name__}: {e}", **clock.read())
            raise
        folder.write_status("finished", seed=config.seed, **facts, **clock.read())
        return folder.read_results()


def can_resume(config: TrainConfig, folder: RunFolder) -> bool:
    """Return whether an interrupted run resumes to the same bits; an earlier version may have left no checkpoints."""
    return config.is_resumable and not folder.lacks_checkpoints


def _start_over(config: TrainConfig, folder: RunFolder, earlier: Earlier, announce: Callable[[str], None]) -> None:
    """Make room in a folder for a run that cannot be resumed."""
    if earlier == "refuse" and (outputs := folder.outputs()):
        why = "it has" if config.is_resumable else f"a run with algo {config.algo!r} has"
        raise FileExistsError(
            f"{folder.path} was interrupted and cannot be resumed ({why} no checkpoints). What it left is "
            f"kept: {', '.join(path.name for path in outputs)}. Start it over with --set-aside, which moves this into "
            "earlier_<number>, or with --overwrite, which deletes it"
        )
    if earlier == "remove":
        folder.remove_outputs()
    elif (aside := folder.set_aside()) is not None:
        announce(f"Starting over; what the earlier attempt left is in {aside}")


class _Clock:
    """Time that a run took so far; what a session that was killed took is not known and left out."""

    def __init__(self, status: Mapping[str, Any]) -> None:
        wall, cpu = (status.get(name, 0) for name in ("wall_seconds", "cpu_seconds"))
        self.wall = (wall if isinstance(wall, int | float) else 0.0) - time.monotonic()
        self.cpu = (cpu if isinstance(cpu, int | float) else 0.0) - time.process_time()

    def read(self) -> dict[str, float]:
        return {
            "wall_seconds": round(self.wall + time.monotonic(), 1),
            "cpu_seconds": round(self.cpu + time.process_time(), 1),
        }


def _learn(model: OnPolicyAlgorithm, config: TrainConfig, callbacks: list[BaseCallback], progress_bar: bool) -> None:
    """The training alone, with each task and the last update in the log, whether or not the algorithm logs them."""
    if has_ability(model, "logs_tasks"):
        model.learn(config.n_timesteps, callbacks, log_interval=config.log_interval, progress_bar=progress_bar)
        return
    episodes = TaskEpisodesCallback(until_restored=True)
    every = [*callbacks, episodes]
    model.learn(config.n_timesteps, every, log_interval=config.log_interval, progress_bar=progress_bar)
    log_last_update(model)
    episodes.restore()


def _train(
    config: TrainConfig,
    folder: RunFolder,
    stop: Stop,
    progress_bar: bool,
    verbose: int,
    announce: Callable[[str], None],
) -> dict[str, object]:
    """Everything between the statuses "running" and "finished"; facts of the run for the latter."""
    tasks = config.resolved_tasks()
    env = make_multitask_vec_env(
        tasks,
        config.n_envs_per_task,
        config.seed,
        config.backend,
        config.normalizer_kwargs(),
        monitor_dir=folder.monitor,
        on_fault=config.on_fault,
    )
    eval_envs: list[VecEnv] = []
    try:
        eval_envs.append(
            MultiTaskVecEnv(
                tasks,
                config.eval_episodes,
                backend=config.backend,
                seed=config.seed,
                training=False,
                on_fault=config.on_fault,
            )
        )
        model = make_algorithm(
            config, env, verbose, dataset_of_run(config, folder, announce, progress_bar=progress_bar)
        )
        if has_ability(model, "carries_statistics"):
            _begin_with(model, config)
        others = config.other_tasks()
        eval_envs += [other_env(model, other, config.eval_episodes, config.seed) for other in others.values()]
        newest = read_latest(folder.checkpoints)
        if newest is None:  # rows of an attempt that was killed before its first checkpoint
            shutil.rmtree(folder.monitor, ignore_errors=True)
        results = folder.read_results()
        _announce_first(model, env, verbose, announce)
        if "before" not in results:
            announce("Evaluating the untrained agent ...")
            results["before"] = evaluate_fully(model, config.n_eval_episodes, others)
            folder.write_results(**results)
        _check_score(config, results["before"])
        formats = [*(["stdout"] if verbose else []), *(["tensorboard"] if config.tensorboard else [])]
        model.set_logger(make_logger(folder.progress, formats, 0 if newest is None else int(newest[0].name)))
        start = "Training for" if newest is None else f"Going on from {newest[0]} of"
        announce(f"{start} {config.n_timesteps:,} steps ...")
        callbacks = _evaluations(config, folder, eval_envs, verbose)
        if config.tensorboard:
            callbacks.append(_tensorboard(config))
        with ExitStack() as stack:
            if has_ability(model, "resumable"):
                checkpoints = ResumableCheckpointCallback(
                    folder.checkpoints, config.checkpoint_freq, config.keep_checkpoints, verbose=0
                )
                callbacks.insert(0, checkpoints)
                stack.enter_context(stop.at_next_rollout(checkpoints.stop))
            if getattr(model, "conflict_freq", 0):  # before the checkpoints, which then hold the last measurement
                callbacks.insert(0, ConflictsCallback(folder.conflicts, config.checkpoint_freq))
            stack.callback(model.logger.close)
            _learn(model, config, callbacks, progress_bar)
        stop.raise_if_asked()  # a signal that came in the last rollout
        save_model(model, folder)
        save_agent(agent_of(model), folder.agents / "final")
        announce("Evaluating the trained agent ...")
        results = folder.read_results()
        results["after"] = evaluate_fully(model, config.n_eval_episodes, others)
        folder.write_results(**results)
        venv = cast("MultiTaskVecEnv", env.unwrapped)
        engine = getattr(model, "last_engine", None)
        return {"engine": engine, "backend": venv.backend, "physics_threads": venv.n_threads}
    finally:
        with ExitStack() as stack:  # all of them, also if one raises
            for an_env in (*eval_envs, env):
                stack.callback(an_env.close)


def _announce_first(model: OnPolicyAlgorithm, env: VecEnv, verbose: int, announce: Callable[[str], None]) -> None:
    """Announce how observations are flattened, unless the model has printed it, and that kernels are compiled."""
    if verbose < 1:
        for line in layout_lines(cast("MultiTaskVecEnv", env.unwrapped).layouts):
            announce(line)
    if isinstance(model, MultiTaskOnPolicyAlgorithm) and model.compiles_first():
        announce(COMPILING)


def _tensorboard(config: TrainConfig) -> BaseCallback:
    n_envs = config.n_envs_per_task
    return MultiTaskTensorBoardCallback(hparams={"n_envs_per_task": n_envs if isinstance(n_envs, int) else str(n_envs)})


def _check_score(config: TrainConfig, before: Mapping[str, TaskResult]) -> None:
    """Raise ConfigError before the training if the tasks cannot be scored as the config says."""
    if config.eval_freq:
        try:
            score_of(config.score, {name: before[name] for name in config.task_names})
        except ValueError as e:
            raise ConfigError(f"score: {e}") from e


def _begin_with(model: Any, config: TrainConfig) -> None:
    """Weights, statistics and freezing that training begins with."""
    if config.init_from is not None:
        try:
            path = model_zip(config.init_from)
        except FileNotFoundError as e:
            raise ConfigError(f"init_from: {e}") from e
        source = type(model).load(path, device="cpu")
        try:
            transfer(model, source, config.init_tasks or {name: name for name in config.task_names})
        except ValueError as e:
            raise ConfigError(f"init_from {config.init_from}: {e}") from e
    freeze(model, config.freeze)


def _evaluations(
    config: TrainConfig, folder: RunFolder, eval_envs: Sequence[VecEnv], verbose: int
) -> list[BaseCallback]:
    """Callbacks that evaluate: now and then on the run's own tasks and on other envs, fully at the milestones."""
    callbacks: list[BaseCallback] = []
    if config.eval_freq:
        callbacks += [
            MultiTaskEvalCallback(
                eval_env,
                None if name else BestAgentCallback(folder.agents / "best"),
                n_eval_episodes=config.eval_episodes,
                eval_freq=config.eval_freq,
                log_path=folder.path / f"on_{name}" if name else folder.path,
                best_model_save_path=None if name else folder.path,
                score=config.score,
                verbose=verbose,
                log_name=f"eval_on_{name}" if name else "eval",
            )
            for name, eval_env in zip(("", *config.also_on), eval_envs, strict=True)
        ]
    if config.report_at:
        callbacks.append(MilestoneCallback(folder, config.report_at, config.n_eval_episodes, config.other_tasks()))
    if len(config.tasks_in_turn) > 1:
        callbacks.append(TurnCallback(folder, config.n_eval_episodes, config.other_tasks()))
    return callbacks
