"""Where a trained agent comes from: what evaluate and enjoy share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

ModelArgument: TypeAlias = Annotated[
    str | None,
    typer.Argument(
        help="A run's folder (rl_zoo3's too) or a model's zip in it, a zip of A2CMultiTask, or an agent's .safetensors."
    ),
]
PretrainedOption: TypeAlias = Annotated[
    str | None, typer.Option(metavar="NAME", help="An agent that comes with the package.")
]
_PRETRAINED = "pretrained:"
_AGENTS = {"model.zip": "final", "best_model.zip": "best"}
"""A run's models, and which of its agents they are."""


def source_of(model: str | None, pretrained: str | None) -> str | None:
    """The one that was given, as :func:`load_trained` takes it; None for none.

    :raises ValueError: if both were
    """
    if pretrained is None:
        return model
    if model is not None:
        raise ValueError("Give a model or --pretrained, not both")
    return f"{_PRETRAINED}{pretrained}"


def load_trained(source: str) -> Any:
    """What can be evaluated: a pretrained agent, an agent's files, or a model.

    :raises ValueError: if it does not know its tasks
    """
    from sb3_multitask import load_pretrained
    from sb3_multitask.evaluation_envs import tasks_of

    if source.startswith(_PRETRAINED):
        return load_pretrained(source.removeprefix(_PRETRAINED))
    trained = _load(Path(source))
    try:
        tasks_of(trained)
    except ValueError as e:
        raise ValueError(
            f"{source} does not say which environments its tasks are; give the folder of its training, or the model "
            "inside that folder"
        ) from e
    return trained


def _load(path: Path) -> Any:
    from sb3_multitask import A2CMultiTask, load_agent
    from sb3_multitask.readers.zoo_folder import ZooFolder

    # of another algorithm, whose model does not know its tasks; of `sb3-multitask card`, which has no model; of rl_zoo3
    if (path / "vecnormalize.pkl").exists() or (path / "agent.json").exists() or ZooFolder.at(path) is not None:
        return load_agent(path)
    agent = path.parent / "agents" / f"{_AGENTS.get(path.name)}.safetensors"
    if path.with_name("vecnormalize.pkl").exists() and agent.exists():
        return load_agent(agent)
    path = path / "model.zip" if path.is_dir() else path
    if not path.exists() and path.with_name(f"{path.name}.safetensors").exists():
        return load_agent(path)
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give a run's folder, a model.zip or an agent's .safetensors")
    return load_agent(path.with_suffix("")) if path.suffix == ".safetensors" else A2CMultiTask.load(path, device="cpu")
