"""``sb3-multitask evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape

from sb3_multitask.cli.output import console, results_table
from sb3_multitask.cli.packages import GymPackagesOption, import_packages
from sb3_multitask.cli.trained import ModelArgument, PretrainedOption, load_trained, source_of

EXAMPLES = (
    "[bold]Examples[/bold]\n\n"
    "sb3-multitask evaluate runs/main\n\n"
    "sb3-multitask evaluate runs/main/best_model.zip --n-eval-episodes 50 --stochastic\n\n"
    "sb3-multitask evaluate --pretrained HalfCheetahBody6-vanilla\n\n"
    "sb3-multitask evaluate --config zoo_configs/evaluate.yml"
)


def evaluate(
    model: ModelArgument = None,
    pretrained: PretrainedOption = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with these settings: model, seed, ...")] = None,
    n_eval_episodes: Annotated[int | None, typer.Option(help="Episodes per task; default: 20.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the evaluation's environments; default: 0.")] = None,
    deterministic: Annotated[
        bool | None, typer.Option("--deterministic/--stochastic", help="The Gaussian's mean (default), or samples.")
    ] = None,
    gym_packages: GymPackagesOption = None,
) -> None:
    """Return of a trained agent on each of its tasks."""
    from sb3_multitask.evaluation.evaluate import evaluate_tasks
    from sb3_multitask.experiments.config import EvaluateConfig, load_config, make_config
    from sb3_multitask.experiments.shipped import find_config

    import_packages(gym_packages)
    model = source_of(model, pretrained)
    settings = {"model": model, "n_eval_episodes": n_eval_episodes, "seed": seed, "deterministic": deterministic}
    settings = {key: value for key, value in settings.items() if value is not None}
    if config is None and model is None:
        raise ValueError(
            "Give a run's folder or a model.zip, --pretrained NAME, or --config FILE.yml with the key `model`"
        )
    chosen = (
        load_config(EvaluateConfig, find_config(config), settings) if config else make_config(EvaluateConfig, settings)
    )
    results = evaluate_tasks(
        load_trained(chosen.model),
        n_eval_episodes=chosen.n_eval_episodes,
        deterministic=chosen.deterministic,
        seed=chosen.seed,
    )
    console.print(
        results_table({"return": results}, f"{escape(chosen.model)}, episodes per task: {chosen.n_eval_episodes}")
    )
