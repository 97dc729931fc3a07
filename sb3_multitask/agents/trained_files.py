"""Find trained agents and models by name, in the same way for all commands and functions.

A name is a run's folder, ours or rl_zoo3's, or a folder that ``sb3-multitask card`` made; a zip, such as
``RUN/best_model.zip``; an agent's files, such as ``RUN/agents/best``, with or without an ending; or
``pretrained:<name>``.
"""

from __future__ import annotations

from pathlib import Path

from sb3_multitask.readers.zoo_folder import ZooFolder

PRETRAINED = "pretrained:"
SHARED_NAME = "agent"
"""Name, without ending, of an agent's files in a folder of ``sb3-multitask card``."""
_AGENTS = {"model.zip": "final", "best_model.zip": "best"}
"""Names of a run's models -> names of their agents."""
NAMES = (
    "a run's folder (rl_zoo3's too), a zip such as RUN/best_model.zip, an agent's files such as RUN/agents/best, or "
    "pretrained:NAME"
)
"""For messages."""


def locate(path: str | Path) -> Path:
    """Return the path of a name: an agent's files, without their ending; a zip; or rl_zoo3's folder, unchanged.

    For a zip in one of our run folders it is the agent that was saved with it, which has tasks and statistics.
    """
    path = Path(path)
    if path.is_dir():
        if ZooFolder.at(path) is not None:
            return path
        stems = (path / "agents" / "final", path / SHARED_NAME)
        return next((stem for stem in stems if _is_agent(stem)), path / "model.zip")
    if path.suffix in (".safetensors", ".json"):
        return path.with_suffix("")
    if path.suffix != ".zip" and not _is_agent(path):
        path = _with_ending(path)
    return saved_agent_of_zip(path) or path


def model_zip(path: str | Path) -> Path:
    """Return the zip of an algorithm, with critic and optimizer, that has a name.

    :raises FileNotFoundError: if there is none
    """
    path = Path(path)
    if path.suffix in (".safetensors", ".json"):
        path = path.with_suffix("")
    by_agent = {agent: name for name, agent in _AGENTS.items()}
    if path.is_dir():
        found = path / "model.zip"
    elif path.parent.name == "agents" and path.name in by_agent:
        found = path.parents[1] / by_agent[path.name]
    else:
        found = path if path.suffix == ".zip" else _with_ending(path)
    if found.is_file():
        return found
    if path.is_file() or _is_agent(path):
        raise FileNotFoundError(
            f"{path} is an agent without a model: it has no statistics of returns. Give a run's folder or a zip"
        )
    raise FileNotFoundError(f"{found} does not exist; give a run's folder, or a zip such as RUN/best_model.zip")


def run_of(path: str | Path) -> tuple[Path, str]:
    """Return the folder of the run that a path is in, and the name of its agent: "final", "best", or a budget."""
    path = Path(path)
    if path.suffix in (".safetensors", ".json"):
        path = path.with_suffix("")
    if not path.is_dir():
        path = _with_ending(path)
    if path.suffix == ".zip":
        return path.parent, _AGENTS.get(path.name, path.stem)
    return (path.parents[1], path.name) if path.parent.name == "agents" else (path, "final")


def saved_agent_of_zip(path: Path) -> Path | None:
    """Return the agent that a run saved with one of its zips; None without one."""
    agent = path.parent / "agents" / _AGENTS.get(path.name, "")
    return agent if (path.parent / "config.yml").exists() and path.name in _AGENTS and _is_agent(agent) else None


def _is_agent(stem: Path) -> bool:
    return stem.with_name(f"{stem.name}.json").is_file()


def _with_ending(path: Path) -> Path:
    """Add ``.zip`` to a path without an ending, as SB3's ``load`` does."""
    zipped = path.with_name(f"{path.name}.zip")
    return zipped if zipped.is_file() else path
