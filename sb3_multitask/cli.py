"""The command line: ``sb3-multitask train|evaluate``."""

from __future__ import annotations

import signal
import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

app = typer.Typer(
    help="Multi-task reinforcement learning for Stable-Baselines3: one agent, one head per task.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
console = Console()


class GridEngine(StrEnum):
    """Where the runs of a grid run."""

    LOCAL = "local"
    RAY = "ray"


class ExportFormat(StrEnum):
    """What an exported policy is written as."""

    ONNX = "onnx"
    TORCH = "torch"


_PRETRAINED = "pretrained:"


@app.callback()
def _main() -> None:
    """Subcommands below; each has its own --help."""


@app.command(
    epilog=(
        "[bold]Examples[/bold]\n\n"
        "sb3-multitask train --config zoo_configs/quickstart.yml\n\n"
        "sb3-multitask train --tasks HalfCheetahBody6 --n-timesteps 1000000 --seed 1\n\n"
        "sb3-multitask train --tasks HalfCheetahBigLeg-v0,HalfCheetah-v5 --set ent_coef=0.001\n\n"
        "sb3-multitask train --resume runs/HalfCheetahBody6_1"
    )
)
def train(
    config: Annotated[Path | None, typer.Option(help="YAML file with the run's settings (see zoo_configs/).")] = None,
    tasks: Annotated[str | None, typer.Option(help="A task set, or ids separated by commas.")] = None,
    n_timesteps: Annotated[int | None, typer.Option(help="Environment steps over all tasks.")] = None,
    n_envs_per_task: Annotated[int | None, typer.Option(help="Copies of each task.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of envs, weights and actions.")] = None,
    task_schedule: Annotated[str | None, typer.Option(help="joint or cycle.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="Any other setting of the config; may be repeated."),
    ] = None,
    run_dir: Annotated[Path | None, typer.Option(help="Folder of the run; default: runs/<tasks>_<number>.")] = None,
    resume: Annotated[
        Path | None,
        typer.Option(metavar="RUN", help="Go on with an interrupted run from its newest checkpoint, to the same bits."),
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace the run in --run-dir.")] = False,
    progress: Annotated[bool, typer.Option(help="Show a progress bar.")] = True,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Print SB3's log and each evaluation.")] = False,
) -> None:
    """Train one agent on several tasks; everything about the run goes into its folder."""
    from sb3_multitask.experiments.config import TrainConfig, load_config, make_config
    from sb3_multitask.experiments.run_folder import RunFolder
    from sb3_multitask.experiments.train import train_run

    overrides = {
        "tasks": _split_tasks(tasks),
        "n_timesteps": n_timesteps,
        "n_envs_per_task": n_envs_per_task,
        "seed": seed,
        "task_schedule": task_schedule,
    }
    overrides = {key: value for key, value in overrides.items() if value is not None}
    overrides |= _parse_settings(settings or [])
    if resume is not None:
        if overrides or config or run_dir or overwrite:
            raise ValueError("--resume goes on with the run's own config: leave out the other settings")
        folder = RunFolder.existing(resume)
        run_config = load_config(TrainConfig, folder.config)
    else:
        run_config = (
            load_config(TrainConfig, config, overrides) if config is not None else make_config(TrainConfig, overrides)
        )
        folder = RunFolder.create(run_dir, run_config.name, overwrite)
    console.print(f"Run folder: [bold]{escape(str(folder.path))}[/bold]")
    try:
        results = train_run(run_config, folder, progress, verbose=int(verbose), announce=console.print)
    except KeyboardInterrupt as e:
        console.print(
            f"Interrupted ({escape(str(e))}). Go on with: sb3-multitask train --resume {escape(str(folder.path))}",
            soft_wrap=True,
        )
        raise typer.Exit(_exit_code(e)) from None
    console.print(_results_table(results, f"Return per episode, {run_config.n_eval_episodes} episodes each"))
    curves = f"Learning curves: [bold]{escape(str(folder.curves))}[/bold]; " if folder.curves.exists() else ""
    console.print(f"{curves}Model: [bold]{escape(str(folder.model))}[/bold]", soft_wrap=True)


@app.command(
    epilog=(
        "[bold]Examples[/bold]\n\n"
        "sb3-multitask grid zoo_configs/paper_grid.yml\n\n"
        "sb3-multitask grid zoo_configs/paper_grid.yml --only tuned/vanilla --processes 4\n\n"
        "sb3-multitask grid zoo_configs/paper_grid.yml --engine ray\n\n"
        "sb3-multitask grid zoo_configs/paper_grid.yml --dry-run"
    )
)
def grid(
    config: Annotated[Path, typer.Argument(help="YAML file of the grid (see zoo_configs/paper_grid.yml).")],
    folder: Annotated[Path | None, typer.Option(help="Where the run folders go; default: what the file says.")] = None,
    processes: Annotated[
        int | None, typer.Option(min=1, help="Runs at a time; default: one per core, or as many as the cluster takes.")
    ] = None,
    engine: Annotated[
        GridEngine,
        typer.Option(help="Processes of this machine, or tasks of the Ray cluster at RAY_ADDRESS (extra: ray)."),
    ] = GridEngine.LOCAL,
    only: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KEY", help="Only runs whose key (<preset>/<run>/seed_<n>) begins so, and what they need."
        ),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs and their status; start nothing.")] = False,
) -> None:
    """Run a grid of experiments; started again after a kill, it goes on with what is missing."""
    from sb3_multitask.experiments.grid import load_grid, select, statuses
    from sb3_multitask.experiments.scheduler import run_grid
    from sb3_multitask.threads import n_cpus

    runs = select(load_grid(config, folder), only or [])
    if dry_run:
        table = Table(title=escape(str(config)))
        for column in ("run", "steps", "status", "needs"):
            table.add_column(column)
        for run, status in statuses(runs):
            table.add_row(escape(run.key), f"{run.config.n_timesteps:,}", status, escape(", ".join(run.needs)))
        console.print(table)
        return
    try:
        if engine is GridEngine.RAY:
            from sb3_multitask.experiments.ray_engine import ray_cluster

            with ray_cluster() as launch:
                outcome = run_grid(runs, launch, processes or len(runs), console)
        else:
            from sb3_multitask.experiments.local_engine import LocalJob

            outcome = run_grid(runs, LocalJob, processes or n_cpus(), console)
    except KeyboardInterrupt as e:
        console.print(f"Interrupted ({escape(str(e))}). Go on with the same command.", soft_wrap=True)
        raise typer.Exit(_exit_code(e)) from None
    console.print(f"{len(outcome.finished)} of {len(runs)} runs finished")
    for key, reason in outcome.failed.items():
        console.print(f"[red]failed[/red] {escape(key)}: {escape(reason)}", soft_wrap=True)
    for key in outcome.left_out:
        console.print(f"left out, since a run it needs failed: {escape(key)}", soft_wrap=True)
    if not outcome.is_complete:
        raise typer.Exit(1)


@app.command(epilog="[bold]Example[/bold]\n\nsb3-multitask report runs/paper --output results/paper")
def report(
    runs: Annotated[Path, typer.Argument(help="Folder of a grid's runs.")],
    output: Annotated[Path | None, typer.Option(help="Where the report goes; default: <runs>/report.")] = None,
    clips: Annotated[bool, typer.Option(help="Film the best multi-task agent of each preset.")] = True,
) -> None:
    """Tables, learning curves and one page from the run folders of a grid."""
    from sb3_multitask.experiments.report import write_report

    output = output or runs / "report"
    missing = write_report(runs, output, clips)
    if missing:
        console.print(f"{len(missing)} runs are not finished, and not in the report (such as {escape(missing[0])})")
    console.print(f"Report: [bold]{escape(str(output / 'report.html'))}[/bold]", soft_wrap=True)


@app.command(
    epilog=(
        "[bold]Examples[/bold]\n\n"
        "sb3-multitask evaluate runs/main\n\n"
        "sb3-multitask evaluate runs/main/best_model.zip --n-eval-episodes 50 --stochastic\n\n"
        "sb3-multitask evaluate --pretrained HalfCheetahBody6-vanilla\n\n"
        "sb3-multitask evaluate --config zoo_configs/evaluate.yml"
    )
)
def evaluate(
    model: Annotated[
        str | None, typer.Argument(help="A run's folder, a model.zip of A2CMultiTask, or an agent's .safetensors.")
    ] = None,
    pretrained: Annotated[
        str | None, typer.Option(metavar="NAME", help="An agent that comes with the package.")
    ] = None,
    config: Annotated[Path | None, typer.Option(help="YAML file with these settings: model, seed, ...")] = None,
    n_eval_episodes: Annotated[int | None, typer.Option(help="Episodes per task; default: 20.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of the evaluation's environments; default: 0.")] = None,
    deterministic: Annotated[
        bool | None, typer.Option("--deterministic/--stochastic", help="The Gaussian's mean (default), or samples.")
    ] = None,
) -> None:
    """Return of a trained agent on each of its tasks."""
    from sb3_multitask.evaluation import evaluate_tasks
    from sb3_multitask.experiments.config import EvaluateConfig, load_config, make_config

    if pretrained is not None:
        if model is not None:
            raise ValueError("Give a model or --pretrained, not both")
        model = f"{_PRETRAINED}{pretrained}"
    settings = {"model": model, "n_eval_episodes": n_eval_episodes, "seed": seed, "deterministic": deterministic}
    settings = {key: value for key, value in settings.items() if value is not None}
    if config is None and model is None:
        raise ValueError(
            "Give a run's folder or a model.zip, --pretrained NAME, or --config FILE.yml with the key `model`"
        )
    chosen = load_config(EvaluateConfig, config, settings) if config else make_config(EvaluateConfig, settings)
    results = evaluate_tasks(
        _load(chosen.model),
        n_eval_episodes=chosen.n_eval_episodes,
        deterministic=chosen.deterministic,
        seed=chosen.seed,
    )
    console.print(
        _results_table({"return": results}, f"{escape(chosen.model)}, {chosen.n_eval_episodes} episodes per task")
    )


@app.command(
    epilog=(
        "[bold]Examples[/bold]\n\n"
        "sb3-multitask export runs/main --output agent.onnx\n\n"
        "sb3-multitask export --pretrained HalfCheetahBody6-vanilla --format torch --output agent.pt2"
    )
)
def export(
    source: Annotated[
        Path | None, typer.Argument(help="A run's folder, a zip of A2CMultiTask, A2C or PPO, or an agent's file.")
    ] = None,
    pretrained: Annotated[
        str | None, typer.Option(metavar="NAME", help="An agent that comes with the package.")
    ] = None,
    file_format: Annotated[
        ExportFormat, typer.Option("--format", help="ONNX (needs the extra: export), or a torch.export program.")
    ] = ExportFormat.ONNX,
    output: Annotated[Path | None, typer.Option(help="File to write; default: agent.onnx or agent.pt2.")] = None,
) -> None:
    """Write a deterministic policy with its normaliser as a file that runs without this package."""
    from sb3_multitask import export_onnx, export_torch, load_agent, load_pretrained

    if source is not None and pretrained is None:
        agent = load_agent(source)
    elif source is None and pretrained is not None:
        agent = load_pretrained(pretrained)
    else:
        raise ValueError("Give a run's folder or an agent's file, or --pretrained NAME, and not both")
    write, name = {ExportFormat.ONNX: (export_onnx, "agent.onnx"), ExportFormat.TORCH: (export_torch, "agent.pt2")}[
        file_format
    ]
    output = output or Path(name)
    write(agent, output)
    console.print(f"{len(agent.task_names)} tasks: [bold]{escape(str(output))}[/bold]", soft_wrap=True)


@app.command(
    epilog=(
        "[bold]Example[/bold]\n\nsb3-multitask card runs/main --output cheetahs\n\n"
        "hf upload <user>/cheetahs cheetahs  (of huggingface_hub)"
    )
)
def card(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    output: Annotated[Path | None, typer.Option(help="Folder to make; default: <run>/card.")] = None,
    clips: Annotated[bool, typer.Option(help="Film the agent on its tasks.")] = True,
) -> None:
    """Make a folder with a run's agent and its model card, ready for a model hub."""
    from sb3_multitask.experiments.card import write_card

    output = output or run / "card"
    write_card(run, output, clips)
    console.print(f"Model card: [bold]{escape(str(output / 'README.md'))}[/bold]", soft_wrap=True)


def _load(model: str) -> Any:
    """What can be evaluated: a pretrained agent, an agent's files, or a model."""
    from sb3_multitask import A2CMultiTask, load_agent, load_pretrained

    if model.startswith(_PRETRAINED):
        return load_pretrained(model.removeprefix(_PRETRAINED))
    path = Path(model)
    # of another algorithm, whose model does not know its tasks; or of `sb3-multitask card`, which has no model
    if (path / "vecnormalize.pkl").exists() or (path / "agent.json").exists():
        return load_agent(path)
    path = path / "model.zip" if path.is_dir() else path
    if not path.exists():
        raise FileNotFoundError(f"{path} does not exist; give a run's folder, a model.zip or an agent's .safetensors")
    return load_agent(path.with_suffix("")) if path.suffix == ".safetensors" else A2CMultiTask.load(path, device="cpu")


def _exit_code(interrupt: KeyboardInterrupt) -> int:
    """What shells expect of a process that a signal ended: 128 and the signal's number."""
    name = str(interrupt).partition(":")[0]
    return 128 + (signal.Signals[name] if name in signal.Signals.__members__ else signal.SIGINT)


def _split_tasks(tasks: str | None) -> str | tuple[str, ...] | None:
    return tuple(tasks.split(",")) if tasks is not None and "," in tasks else tasks


def _parse_settings(settings: list[str]) -> dict[str, Any]:
    """``["ent_coef=0.01"]`` -> values, read as YAML."""
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError

    parsed = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise ValueError(f"--set needs KEY=VALUE (got {setting!r})")
        try:
            parsed[key.strip()] = YAML(typ="safe").load(value)
        except YAMLError as e:
            raise ValueError(f"--set {setting!r}: the value is no YAML: {e}") from e
    return parsed


def _results_table(results: Any, title: str) -> Table:
    """Tasks as rows, moments (before, after) as columns: mean ± standard deviation over episodes."""
    table = Table(title=title, caption="mean ± standard deviation over episodes")
    table.add_column("task")
    for moment in results:
        table.add_column(moment, justify="right")
    columns = list(results.values())
    for task in columns[0]:
        table.add_row(task, *(f"{c[task].mean_reward:.1f} ± {c[task].std_reward:.1f}" for c in columns))
    means = [sum(r.mean_reward for r in column.values()) / len(column) for column in columns]
    table.add_section()
    table.add_row("mean over tasks", *(f"{mean:.1f}" for mean in means))
    return table


def main() -> None:
    """Run the command line; what a user did wrong is one message, not a traceback."""
    try:
        app()
    except (ValueError, TypeError, OSError, RuntimeError, ImportError) as e:
        Console(stderr=True, soft_wrap=True).print(f"[red]Error:[/red] {escape(str(e))}", highlight=False)
        sys.exit(2)
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
