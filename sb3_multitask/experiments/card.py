"""Make a folder for a model hub: a run's agent, its config, and a model card.

The card's front matter is that of Hugging Face (``library_name``, ``tags``, ``model-index``); the upload itself is
``hf upload <user>/<name> <folder>`` of huggingface_hub.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote

import numpy as np

from sb3_multitask.agents.files import save_agent
from sb3_multitask.agents.trained_files import SHARED_NAME
from sb3_multitask.evaluation.films import NoRendererError
from sb3_multitask.evaluation.results import TaskResult, mean_success_rate, percent
from sb3_multitask.experiments.card_sources import CardSource, read_source
from sb3_multitask.experiments.report.clips import render_clips
from sb3_multitask.experiments.report.tables import Table, brief_rows, markdown_text
from sb3_multitask.many_tasks import listed, shown_tasks, shown_words
from sb3_multitask.storage.files import write_text
from sb3_multitask.storage.yaml_files import yaml_text

_CLIPS, _CURVES = "clips", "learning_curves.png"


def write_card(run: str | Path, output: str | Path, clips: bool = True, n_eval_episodes: int | None = None) -> None:
    """Make a folder with a run's agent, config, learning curves, clips and model card; ``load_agent`` reads it back.

    :param run: folder of a finished run, of any algorithm, or another agent in it, such as ``RUN/best_model.zip`` or
        ``RUN/agents/best``; or a folder of rl_zoo3, whose last model is evaluated, or another model in it
    :param output: a new or empty folder, or the folder of an earlier card, which is replaced
    :param clips: film the agent on its tasks, if there is a renderer
    :param n_eval_episodes: episodes **per task** for an agent without stored returns (a run's best, or rl_zoo3's);
        ``None`` for 20
    :raises FileNotFoundError: if ``run`` is no run's folder
    :raises FileExistsError: if ``output`` holds something else than a card
    :raises ValueError: if the run is not finished, or has returns of its own where ``n_eval_episodes`` is given
    :raises SaveError: if a file cannot be written
    """
    output = Path(output)
    _check_output(output)
    source = read_source(Path(run), n_eval_episodes)
    _clear_output(output)
    save_agent(source.agent, output / SHARED_NAME)
    write_text(output / "config.yml", source.config)
    if source.draw_curves is not None:
        source.draw_curves(output / _CURVES)
    films = _film(source, output) if clips else None
    parts = [
        _front_matter(source),
        _introduction(source),
        _returns(source),
        f"## Training returns\n\n![Training returns]({_CURVES})\n" if source.draw_curves is not None else "",
        _films(films, output),
        _usage(source),
        f"## Training\n\n{source.training}",
    ]
    write_text(output / "README.md", "\n".join(part for part in parts if part))


def _film(run: CardSource, output: Path) -> dict[str, Path]:
    """Film clips of the run's tasks, of many those that the table shows; return none if there is no renderer."""
    shown = set(shown_tasks({task.name: _scores(run).get(task.name, np.nan) for task in run.tasks}))
    tasks = [task for task in run.tasks if task.name in shown]
    try:
        return render_clips(output / SHARED_NAME, tasks, output / _CLIPS)
    except NoRendererError:
        return {}


def _scores(run: CardSource) -> dict[str, float]:
    return {task: result.mean_reward for task, result in run.results["after"].items()}


def _check_output(output: Path) -> None:
    if output.exists() and (not output.is_dir() or (any(output.iterdir()) and not _is_card(output))):
        raise FileExistsError(f"{output} holds something else than a model card; choose another folder with --output")


def _clear_output(output: Path) -> None:
    shutil.rmtree(output / _CLIPS, ignore_errors=True)
    (output / _CURVES).unlink(missing_ok=True)


def _is_card(folder: Path) -> bool:
    return all((folder / name).is_file() for name in (f"{SHARED_NAME}.json", "README.md"))


def _front_matter(run: CardSource) -> str:
    """Return the front matter, which hubs index, between two lines of dashes."""
    tags = ["reinforcement-learning", "deep-reinforcement-learning", "multi-task", "stable-baselines3", "sb3-multitask"]
    kind = "reinforcement-learning"
    results = [
        {
            "task": {"type": kind, "name": kind},
            "dataset": {"type": run.env_ids[task], "name": task},
            "metrics": [
                {"type": name, "name": name, "value": value, "verified": False}
                for name, value in _metrics(result).items()
            ],
        }
        for task, result in run.results["after"].items()
    ]
    content = {
        "library_name": "stable-baselines3",
        "pipeline_tag": kind,
        "tags": [*tags, *dict.fromkeys(run.env_ids.values())],
        "model-index": [{"name": run.algorithm, "results": results}],
    }
    return f"---\n{yaml_text(content)}---\n"


def _metrics(result: TaskResult) -> dict[str, str]:
    metrics = {"mean_reward": f"{result.mean_reward:.2f} +/- {result.std_reward:.2f}"}
    return metrics if result.success_rate is None else {**metrics, "success_rate": f"{result.success_rate:.2f}"}


def _introduction(run: CardSource) -> str:
    names = listed([markdown_text(task.name) for task in run.tasks])
    return (
        f"# {run.algorithm} on {run.tasks_name}\n\n"
        f"One agent for {names} ({run.heads}), trained with **sb3-multitask**, "
        "the multi-task extension of [Stable-Baselines3](https://stable-baselines3.readthedocs.io). "
        f"`{SHARED_NAME}.safetensors` and `{SHARED_NAME}.json` hold the policy with its normaliser: it takes raw "
        "observations. Nothing in them is executed when they are read.\n"
    )


def _returns(run: CardSource) -> str:
    untrained, steps = run.results.get("before", {}), run.agent.facts.get("num_timesteps")
    say_success = mean_success_rate(run.results["after"].values()) is not None
    rows = {
        task: (
            markdown_text(task),
            f"`{run.env_ids[task]}`",
            f"{result.mean_reward:.1f} ± {result.std_reward:.1f}",
            f"{untrained[task].mean_reward:.1f}" if task in untrained else "-",
            *([percent(result.success_rate) or "-"] if say_success else []),
            str(len(result.episode_rewards)),
            str(run.seed),
            "-" if steps is None else f"{steps:,}",
        )
        for task, result in run.results["after"].items()
    }
    scores = _scores(run)
    note = (
        "Undiscounted return per episode of the deterministic policy: mean ± standard deviation over the episodes, of "
        "one training run (its seed is in the table). Steps are environment steps of the training, over all tasks."
    )
    if say_success:
        note += " Success: the share of the episodes with a successful step."
    if words := shown_words(len(rows)):
        note += f" Shown are {words}, whose mean is {np.mean(list(scores.values())):.1f}; this file's header has all."
    success = ["success"] if say_success else []
    header = ("task", "environment", "return", "untrained", *success, "episodes", "seed", "steps")
    return Table("returns", "Returns", note, header, brief_rows(rows, scores)).markdown()


def _films(films: Mapping[str, Path] | None, output: Path) -> str:
    """Return Markdown of every task's clip side by side, a line if there was no renderer, or nothing without clips."""
    if films is None:
        return ""
    if not films:
        return "## Clips\n\nNone: nothing could render the environments where this card was made.\n"
    paths = {task: quote(path.relative_to(output).as_posix()) for task, path in films.items()}
    names = [markdown_text(task) for task in paths]
    cells = [f"![{name}]({path})" for name, path in zip(names, paths.values(), strict=True)]
    note = "The deterministic policy under way, at half speed."
    return Table("clips", "Clips", note, names, [cells]).markdown()


def _usage(run: CardSource) -> str:
    """Return code that runs in the folder without changes."""
    task, env_id = next(iter(run.env_ids.items()))
    kwargs = next((one.kwargs_of() for one in run.tasks if one.name == task), {})
    arguments = f", **{kwargs!r}" if kwargs else ""
    names = "agent.task_names" if run.agent.n_tasks > 1 else f"[{_literal(task)}]"
    evaluation = (
        "for task, result in mt.evaluate_tasks(agent, n_eval_episodes=5).items():\n"
        '    print(f"{task}: {result.mean_reward:.1f}")\n'
        if run.agent.tasks is not None
        else ""
    )
    return (
        "## Use\n\n"
        "```python\nimport gymnasium as gym\n\nimport sb3_multitask as mt  # registers the environments\n\n"
        'agent = mt.load_agent(".")  # this folder; from a hub: huggingface_hub.snapshot_download("<user>/<name>")\n'
        f"env = mt.TaskEnv(gym.make({_literal(env_id)}{arguments}), {_literal(task)}, {names})\n"
        "obs, _ = env.reset(seed=0)  # the environment's, flat, and the task\n"
        "action, _ = agent.predict(obs, deterministic=True)\n"
        f"{evaluation}```\n\n"
        "From the shell, in this folder: `sb3-multitask export . --output agent.onnx` writes it for other runtimes.\n"
    )


def _literal(text: str) -> str:
    """Return a text as a Python string in double quotes."""
    return json.dumps(text, ensure_ascii=False)
