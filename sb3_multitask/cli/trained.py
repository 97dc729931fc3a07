"""Where a trained agent comes from: what evaluate and enjoy share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer

ModelArgument: TypeAlias = Annotated[
    str | None,
    typer.Argument(
        help="A run's folder (rl_zoo3's too), a zip or an agent in it, a zip of a multi-task model, or an agent's file."
    ),
]
PretrainedOption: TypeAlias = Annotated[
    str | None, typer.Option(metavar="NAME", help="An agent that comes with the package.")
]


def source_of(model: str | None, pretrained: str | None) -> str | None:
    """The one that was given, as :func:`load_trained` takes it; None for none.

    :raises ValueError: if both were
    """
    if pretrained is None:
        return model
    from sb3_multitask.agents.trained_files import PRETRAINED

    if model is not None:
        raise ValueError("Give a model or --pretrained, not both")
    return f"{PRETRAINED}{pretrained}"


def load_trained(source: str) -> Any:
    """What can be evaluated: a pretrained agent, an agent's files, or a model.

    :raises ValueError: if it does not know its tasks
    """
    from sb3_multitask import load_pretrained
    from sb3_multitask.agents.trained_files import PRETRAINED
    from sb3_multitask.evaluation.envs import tasks_of

    if source.startswith(PRETRAINED):
        return load_pretrained(source.removeprefix(PRETRAINED))
    trained = _load(Path(source))
    try:
        tasks_of(trained)
    except ValueError as e:
        raise ValueError(_no_tasks(source)) from e
    return trained


def _no_tasks(source: str | Path) -> str:
    return (
        f"{source} does not say which environments its tasks are; give the folder of its training, or the model inside "
        "that folder"
    )


def _load(path: Path) -> Any:
    """A model, if its file holds its tasks and statistics, or an agent."""
    from sb3_multitask import load_agent
    from sb3_multitask.agents.trained_files import NAMES, locate, model_zip
    from sb3_multitask.algorithms import ALGORITHMS, has_ability
    from sb3_multitask.readers import UnreadableFileError, read_sb3_zip
    from sb3_multitask.readers.zoo_folder import ZooFolder

    with_tasks = (algorithm for algorithm in ALGORITHMS.values() if has_ability(algorithm, "carries_statistics"))
    algorithms = {algorithm.__name__: algorithm for algorithm in with_tasks}
    if path.is_dir() or path.suffix == ".zip" or locate(path).suffix == ".zip":
        try:
            model = model_zip(path)
            algorithm = algorithms.get(read_sb3_zip(model).algorithm)
            if ZooFolder.at(path) is None and algorithm is not None:
                return algorithm.load(model, device="cpu")
            if locate(path) == model and ZooFolder.at(path) is None:
                raise ValueError(_no_tasks(path))  # another algorithm's zip alone names none
        except (FileNotFoundError, UnreadableFileError):
            pass  # no model, or one that load_agent has words for
    try:
        return load_agent(path)
    except UnreadableFileError:
        if locate(path).suffix == "" and not path.exists():
            raise FileNotFoundError(f"{path} does not exist; give {NAMES}") from None
        raise
