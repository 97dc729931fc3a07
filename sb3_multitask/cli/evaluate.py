"""``sb3-multitask evaluate``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from rich.markup import escape

from sb3_multitask.cli.flags import with_flags_of
from sb3_multitask.cli.output import console, results_table
from sb3_multitask.cli.packages import GymPackagesOption, import_packages
from sb3_multitask.cli.trained import ModelArgument, PretrainedOption, load_trained, source_of
from sb3_multitask.experiments.config import EvaluateConfig, load_config, make_config

EXAMPLES = (
    "[bold]Examples[/bold]\n\n"
    "sb3-multitask evaluate runs/main\n\n"
    "sb3-multitask evaluate runs/main/best_model.zip --n-eval-episodes 50 --stochastic\n\n"
    "sb3-multitask evaluate --pretrained HalfCheetahBody6-vanilla\n\n"
    "sb3-multitask evaluate --config zoo_configs/evaluate.yml"
)


DeterministicOption: TypeAlias = Annotated[
    bool | None, typer.Option("--deterministic/--stochastic", help="The Gaussian's mean (default), or samples.")
]


@with_flags_of(EvaluateConfig, model=ModelArgument, deterministic=DeterministicOption)
def evaluate(
    given: dict[str, Any],
    pretrained: PretrainedOption = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with these settings: model, seed, ...")] = None,
    gym_packages: GymPackagesOption = None,
) -> None:
    """Return of a trained agent on each of its tasks."""
    from sb3_multitask.evaluation.evaluate import evaluate_tasks
    from sb3_multitask.experiments.shipped import find_config

    import_packages(gym_packages)
    model = source_of(given.get("model"), pretrained)
    settings = {**given, "model": model} if model is not None else given
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
    title = f"{escape(chosen.model)}, episodes per task: {chosen.n_eval_episodes}"
    console.print(results_table({"return": results}, title, "mt.evaluate_tasks returns all in Python"))
