"""Read the contents of a model card from the folder of one of our runs, or of one of rl_zoo3's."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

from sb3_multitask.agents import Agent
from sb3_multitask.agents.files import load_agent
from sb3_multitask.agents.trained_files import SHARED_NAME, run_of
from sb3_multitask.algorithms import ALGORITHMS
from sb3_multitask.evaluation.evaluate import evaluate_tasks
from sb3_multitask.evaluation.results import TaskResult
from sb3_multitask.experiments.config import TrainConfig, load_config
from sb3_multitask.experiments.plot import plot_runs, read_run
from sb3_multitask.experiments.run_folder import RunFolder
from sb3_multitask.readers.zoo_folder import ZooFolder
from sb3_multitask.storage.files import replacing
from sb3_multitask.storage.yaml_files import yaml_text
from sb3_multitask.tasks import Task

_N_EVAL_EPISODES = 20


class CardSource(NamedTuple):
    """The contents of a model card, from a finished training.

    ``results`` are by stage (``before``, ``after``) and task. ``env_ids`` are the environments of the evaluation, and
    ``tasks`` those of the training. ``config`` is YAML. ``draw_curves`` writes a picture of the training returns, if
    there are any. ``training`` is Markdown that describes the training.
    """

    algorithm: str
    agent: Agent
    tasks: tuple[Task, ...]
    tasks_name: str
    heads: str
    env_ids: Mapping[str, str]
    seed: int | str
    results: Mapping[str, Mapping[str, TaskResult]]
    config: str
    draw_curves: Callable[[Path], object] | None
    training: str


def read_source(folder: Path, n_eval_episodes: int | None = None) -> CardSource:
    """Read a card's contents from a folder; evaluate an agent without stored returns.

    :param folder: a run's folder, ours or rl_zoo3's, or an agent or model in it
    :param n_eval_episodes: episodes per task of that evaluation; ``None`` for 20
    :raises FileNotFoundError: if it is none of these
    :raises ValueError: if the run is not finished, cannot be read, or has returns of its own and
        ``n_eval_episodes`` is given
    """
    training = ZooFolder.at(folder)
    if training is not None:
        return _of_zoo(training, _N_EVAL_EPISODES if n_eval_episodes is None else n_eval_episodes)
    path, which = run_of(folder)
    run = RunFolder.existing(path)
    stage = "after" if which == "final" else which
    results = run.read_results()
    _check_is_finished(run, which, results)
    if stage in results and n_eval_episodes is not None:
        raise ValueError(
            f"`n_eval_episodes` is for folders of rl_zoo3 and agents without stored returns: the card of {folder} "
            f"uses the returns that the run holds (got {n_eval_episodes})"
        )
    return _of_run(run, folder, results, stage, _N_EVAL_EPISODES if n_eval_episodes is None else n_eval_episodes)


def _check_is_finished(folder: RunFolder, which: str, results: Mapping[str, object]) -> None:
    """Raise unless a run has the returns of its card. Agents before the last exist before the run has finished."""
    status = folder.read_status()
    if not status and (folder.path / f"{SHARED_NAME}.json").exists():
        raise ValueError(f"{folder.path} is a folder that `card` made; give the run that it was made from")
    if which == "final" and (status.get("status") != "finished" or "after" not in results):
        raise ValueError(
            f"{folder.path} is not finished (status: {status.get('status', 'unknown')}), and a card needs the returns "
            f"after training. Resume it with: sb3-multitask train --resume {folder.path}"
        )


def _of_run(
    folder: RunFolder, chosen: Path, results: Mapping[str, Mapping[str, TaskResult]], stage: str, n_episodes: int
) -> CardSource:
    config, agent = load_config(TrainConfig, folder.config), load_agent(chosen)
    tasks = config.resolved_tasks()
    has_heads = agent.task_names == config.task_names  # else one head for all tasks
    agent = replace(agent, tasks=tasks if has_heads else None)
    others = config.other_tasks()
    evaluated = "" if stage in results else f"The returns are of `{chosen.name}`, evaluated when this card was made.\n"
    after = results.get(stage) or evaluate_tasks(agent, [*tasks, *others.values()], n_eval_episodes=n_episodes)
    results = {**({"before": results["before"]} if "before" in results else {}), "after": after}
    return CardSource(
        algorithm=ALGORITHMS[config.algo].__name__,
        agent=_with_returns(agent, after),
        tasks=tasks,
        tasks_name=config.tasks if isinstance(config.tasks, str) else f"{len(tasks)} tasks",
        heads="one head that learned the tasks in turn" if config.sequential else "one head per task",
        env_ids=_env_ids(tasks) | config.also_on,
        seed=config.seed,
        results=results,
        config=folder.config.read_text(encoding="utf-8"),
        draw_curves=partial(_copy, folder.curves) if folder.curves.exists() else None,
        training=f"{_training_of_run(folder)}\n{evaluated}" if evaluated else _training_of_run(folder),
    )


def _training_of_run(folder: RunFolder) -> str:
    status = folder.read_status()
    versions = {**status.get("versions", {}), "python": status.get("python", "unknown")}
    revision = status.get("revision")
    listed = "\n".join(f"- {name} {version}" for name, version in versions.items())
    return (
        "```sh\nsb3-multitask train --config config.yml\n```\n\n"
        f"The run itself was started by `{status.get('command', 'unknown')}`, with\n\n{listed}\n"
        f"{f'- revision {revision} of the code' + chr(10) if revision else ''}"
    )


def _of_zoo(training: ZooFolder, n_eval_episodes: int) -> CardSource:
    agent, tasks = load_agent(training.chosen or training.path), training.tasks
    results = evaluate_tasks(agent, n_eval_episodes=n_eval_episodes)
    return CardSource(
        algorithm=str(agent.facts["algorithm"]),
        agent=_with_returns(agent, results),
        tasks=tasks,
        tasks_name=training.env_id,
        heads="one head per task",
        env_ids=_env_ids(tasks),
        seed=training.arguments.get("seed", "-"),
        results={"after": results},
        config=yaml_text({training.env_id: training.hyperparameters}),  # The file's own tags are dropped.
        draw_curves=_curves_of_zoo(training),
        training=_training_of_zoo(training),
    )


def _curves_of_zoo(training: ZooFolder) -> Callable[[Path], object] | None:
    try:
        read_run(training.path, "training")
    except FileNotFoundError:  # no episode ended
        return None
    return partial(_plot, training.path)


def _training_of_zoo(training: ZooFolder) -> str:
    began_with = training.arguments.get("trained_agent")
    went_on = f"It went on from `{began_with}`; the steps above are those since.\n\n" if began_with else ""
    which = "the last model" if training.chosen is None else f"`{training.chosen.name}`"
    return (
        "With [RL Baselines3 Zoo](https://rl-baselines3-zoo.readthedocs.io), by\n\n"
        f"```sh\n{training.command}\n```\n\n{went_on}"
        f"`config.yml` holds the hyper-parameters, for `-conf`. The returns are of {which}, evaluated when this "
        "card was made.\n"
    )


def _with_returns(agent: Agent, results: Mapping[str, TaskResult]) -> Agent:
    returns = {task: round(result.mean_reward, 1) for task, result in results.items()}
    return replace(agent, facts={**agent.facts, "returns": returns})


def _env_ids(tasks: tuple[Task, ...]) -> dict[str, str]:
    return {task.name: str(task.env_id) for task in tasks}


def _copy(picture: Path, output: Path) -> None:
    with replacing(output) as temporary:
        shutil.copyfile(picture, temporary)


def _plot(folder: Path, output: Path) -> None:
    plot_runs([folder], output, "training")
