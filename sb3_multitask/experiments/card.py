"""A folder ready for a model hub: a run's agent, its config, and a model card that says what it is.

The card's front matter is that of Hugging Face (``library_name``, ``tags``, ``model-index``); the upload itself is
``hf upload <user>/<name> <folder>`` of huggingface_hub.
"""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from ruamel.yaml import YAML

from sb3_multitask.agent_files import SHARED_NAME, load_agent, save_agent
from sb3_multitask.agents import Agent
from sb3_multitask.evaluation import TaskResult
from sb3_multitask.experiments.algorithms import ALGORITHMS
from sb3_multitask.experiments.config import TrainConfig, load_config
from sb3_multitask.experiments.report.clips import render_clips
from sb3_multitask.experiments.report.tables import Table
from sb3_multitask.experiments.run_folder import RunFolder
from sb3_multitask.files import replacing, write_text
from sb3_multitask.films import NoRendererError

_CLIPS = "clips"


class _Run(NamedTuple):
    """What a finished run leaves, as far as the card tells it."""

    folder: RunFolder
    config: TrainConfig
    status: Mapping[str, Any]
    results: Mapping[str, Mapping[str, TaskResult]]
    agent: Agent

    @property
    def algorithm(self) -> str:
        return ALGORITHMS[self.config.algo].__name__

    @property
    def env_ids(self) -> dict[str, str]:
        """Id of the environment of everything that the agent was evaluated on."""
        return {task.name: str(task.env_id) for task in self.config.resolved_tasks()} | self.config.also_on


def write_card(run: str | Path, output: str | Path, clips: bool = True) -> None:
    """Make a folder with a run's agent, config, learning curves, clips and model card; ``load_agent`` reads it back.

    :param run: folder of a finished run, of any algorithm
    :param output: a new or empty folder, or that of an earlier card, which is replaced
    :param clips: film the agent on its tasks, where something can render
    :raises FileNotFoundError: if ``run`` is no run's folder
    :raises FileExistsError: if ``output`` holds something else than a card
    :raises ValueError: if the run is not finished
    :raises SaveError: if a file cannot be written
    """
    told, output = _read(RunFolder.existing(run)), Path(output)
    _make_room(output)
    save_agent(told.agent, output / SHARED_NAME)
    has_curves = told.folder.curves.exists()
    for file in (told.folder.config, *([told.folder.curves] if has_curves else [])):
        with replacing(output / file.name) as beside:
            shutil.copyfile(file, beside)
    films = _film(told, output) if clips else None
    parts = [
        _front_matter(told),
        _introduction(told),
        _returns(told),
        f"## Training returns\n\n![Training returns]({told.folder.curves.name})\n" if has_curves else "",
        _films(films, output),
        _usage(told),
        _training(told),
    ]
    write_text(output / "README.md", "\n".join(part for part in parts if part))


def _film(run: _Run, output: Path) -> dict[str, Path]:
    """Clips of the run's tasks; none where nothing can render."""
    try:
        return render_clips(output / SHARED_NAME, run.config.resolved_tasks(), output / _CLIPS)
    except NoRendererError:
        return {}


def _read(folder: RunFolder) -> _Run:
    status, results = folder.read_status(), folder.read_results()
    if status.get("status") != "finished" or "after" not in results:
        raise ValueError(
            f"{folder.path} is not finished (status: {status.get('status', 'unknown')}), and a card tells the returns "
            f"after training. Go on with: sb3-multitask train --resume {folder.path}"
        )
    config, agent = load_config(TrainConfig, folder.config), load_agent(folder.path)
    facts = {"returns": {task: round(result.mean_reward, 1) for task, result in results["after"].items()}}
    tasks = config.resolved_tasks() if agent.task_names == config.task_names else None  # a head for all of them
    return _Run(folder, config, status, results, replace(agent, facts={**agent.facts, **facts}, tasks=tasks))


def _make_room(output: Path) -> None:
    if output.exists() and (not output.is_dir() or (any(output.iterdir()) and not _is_card(output))):
        raise FileExistsError(f"{output} holds something else than a model card; choose another folder with --output")
    shutil.rmtree(output / _CLIPS, ignore_errors=True)
    (output / "learning_curves.png").unlink(missing_ok=True)


def _is_card(folder: Path) -> bool:
    return all((folder / name).is_file() for name in (f"{SHARED_NAME}.json", "README.md"))


def _front_matter(run: _Run) -> str:
    """What hubs index, between two lines of dashes."""
    tags = ["reinforcement-learning", "deep-reinforcement-learning", "multi-task", "stable-baselines3", "sb3-multitask"]
    kind = "reinforcement-learning"
    results = [
        {
            "task": {"type": kind, "name": kind},
            "dataset": {"type": run.env_ids[task], "name": task},
            "metrics": [
                {
                    "type": "mean_reward",
                    "name": "mean_reward",
                    "value": f"{result.mean_reward:.2f} +/- {result.std_reward:.2f}",
                    "verified": False,
                }
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
    yaml, text = YAML(), io.StringIO()
    yaml.default_flow_style = False
    yaml.dump(content, text)
    return f"---\n{text.getvalue()}---\n"


def _introduction(run: _Run) -> str:
    config = run.config
    tasks = config.tasks if isinstance(config.tasks, str) else f"{len(config.task_names)} tasks"
    heads = "one head that learned the tasks in turn" if config.sequential else "one head per task"
    return (
        f"# {run.algorithm} on {tasks}\n\n"
        f"One agent for {', '.join(config.task_names)} ({heads}), trained with **sb3-multitask**, the multi-task "
        "extension of [Stable-Baselines3](https://stable-baselines3.readthedocs.io). "
        f"`{SHARED_NAME}.safetensors` and `{SHARED_NAME}.json` hold the policy with its normaliser: it takes raw "
        "observations. Nothing in them is executed when they are read.\n"
    )


def _returns(run: _Run) -> str:
    untrained, steps = run.results.get("before", {}), run.agent.facts["num_timesteps"]
    rows = [
        (
            task,
            f"`{run.env_ids[task]}`",
            f"{result.mean_reward:.1f} ± {result.std_reward:.1f}",
            f"{untrained[task].mean_reward:.1f}" if task in untrained else "-",
            str(len(result.episode_rewards)),
            str(run.config.seed),
            f"{steps:,}",
        )
        for task, result in run.results["after"].items()
    ]
    note = (
        "Undiscounted return per episode of the deterministic policy: mean ± standard deviation over the episodes, of "
        "one training run (its seed is in the table). Steps are environment steps of the training, over all tasks."
    )
    header = ("task", "environment", "return", "untrained", "episodes", "seed", "steps")
    return Table("returns", "Returns", note, header, rows).markdown()


def _films(films: Mapping[str, Path] | None, output: Path) -> str:
    """Clips of every task side by side; a line that says so where nothing could render, nothing if none were asked."""
    if films is None:
        return ""
    if not films:
        return "## Clips\n\nNone: nothing could render the environments where this card was made.\n"
    paths = {task: quote(path.relative_to(output).as_posix()) for task, path in films.items()}
    cells = [f"![{task}]({path})" for task, path in paths.items()]
    note = "The deterministic policy under way, at half speed."
    return Table("clips", "Clips", note, list(paths), [cells]).markdown()


def _usage(run: _Run) -> str:
    """Code that runs as it stands in the folder."""
    task, env_id = next(iter(run.env_ids.items()))
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
        f"env = gym.make({json.dumps(env_id)})\n"
        "obs, _ = env.reset(seed=0)\n"
        f'action, _ = agent.predict({{"obs": obs, "task": agent.head_of({json.dumps(task)})}}, deterministic=True)\n'
        f"{evaluation}```\n\n"
        "From the shell, in this folder: `sb3-multitask export . --output agent.onnx` writes it for other runtimes.\n"
    )


def _training(run: _Run) -> str:
    versions = {**run.status.get("versions", {}), "python": run.status.get("python", "unknown")}
    revision = run.status.get("revision")
    listed = "\n".join(f"- {name} {version}" for name, version in versions.items())
    return (
        "## Training\n\n"
        "```sh\nsb3-multitask train --config config.yml\n```\n\n"
        f"The run itself was started by `{run.status.get('command', 'unknown')}`, with\n\n{listed}\n"
        f"{f'- revision {revision} of the code' + chr(10) if revision else ''}"
    )
