"""Many runs with dependencies, in an order in which they can run.

A grid is a YAML file: presets (a config and its seeds) and runs (settings on top of the preset). Every run of every
preset and seed is one run folder, ``<folder>/<preset>/<run>/seed_<seed>``. A setting of the form ``run:<name>`` or
``run:<name>@<steps>`` names the folder of that run of the same preset and seed, or its agent at a reported budget, and
makes the run wait for it; ``run:<preset>/<name>`` is that run of another preset.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import Any

from pydantic import Field, NonNegativeInt

from sb3_multitask.agents import SHARED
from sb3_multitask.experiments.config import FolderName, TrainConfig, dump_config, load_config, make_config
from sb3_multitask.experiments.config_files import Config
from sb3_multitask.experiments.run_folder import RunFolder, folder_of_agent
from sb3_multitask.experiments.shipped import find_config, is_shipped
from sb3_multitask.storage.yaml_files import ConfigError, load_values
from sb3_multitask.tasks import did_you_mean

_REFERENCE = "run:"


class Preset(Config):
    """Settings that all runs share, and the seeds they run with."""

    config: str = Field(description="YAML file of a TrainConfig: in the grid's folder, or zoo_configs/<name>")
    seeds: tuple[NonNegativeInt, ...] = Field(min_length=1, description="Seeds of every run")
    runs: tuple[str, ...] = Field((), description="Only these runs of the grid; default: all")
    set: dict[str, Any] = Field({}, description="Settings on top of the config's")
    configs: dict[str, str] = Field({}, description="Run -> the config of this run, in place of `config`")


class GridConfig(Config):
    """A grid of runs."""

    folder: str = Field(description="Where the run folders go")
    presets: dict[FolderName, Preset] = Field(min_length=1, description="Name -> config and seeds")
    runs: dict[FolderName, dict[str, Any]] = Field(min_length=1, description="Name -> settings on top of the preset")


@dataclass(frozen=True)
class GridRun:
    """One run of a grid.

    :param key: ``<preset>/<run>/seed_<seed>``
    :param config: all its settings
    :param folder: its run folder
    :param needs: keys of the runs from which it starts
    :param agents_of: of these, the runs whose agent at a reported budget it uses, with that budget
    """

    key: str
    config: TrainConfig
    folder: Path
    needs: tuple[str, ...] = field(default=())
    agents_of: tuple[tuple[str, int], ...] = field(default=())


def load_grid(path: str | Path, folder: str | Path | None = None) -> list[GridRun]:
    """Read a grid. Runs are sorted by seed, so that seeds are complete early, and come after the runs they need.

    :param path: the YAML file
    :param folder: parent of the run folders; by default that of the file
    :raises ConfigError: on a bad file, a reference to a run or an agent that will not exist, runs that need each other,
        or a seed elsewhere than in `seeds`
    """
    path = Path(path)
    grid = load_config(GridConfig, path)
    root = Path(folder or grid.folder)
    runs: dict[str, GridRun] = {}
    for preset_name, preset in grid.presets.items():
        _check_preset(path, preset_name, preset, grid.runs)
        for seed in preset.seeds:
            for name in preset.runs or grid.runs:
                run = _make_run(path, grid, preset_name, name, seed, root)
                runs[run.key] = run
    _check_needs(path, runs)
    try:
        order = list(TopologicalSorter({run.key: run.needs for run in runs.values()}).static_order())
    except CycleError as e:
        raise ConfigError(f"{path}: these runs need each other: {' -> '.join(e.args[1])}") from e
    _check_tasks(path, runs)
    ranks = {key: rank for rank, key in enumerate(order)}
    seeds = {key: (list(grid.presets).index(key.split("/")[0]), run.config.seed) for key, run in runs.items()}
    return sorted(runs.values(), key=lambda run: (*seeds[run.key], bool(run.needs), ranks[run.key]))


def select(runs: list[GridRun], prefixes: Sequence[str]) -> list[GridRun]:
    """Return the runs whose keys begin with one of ``prefixes``, and the runs they need; all runs without prefixes.

    :raises ConfigError: if no key begins with a prefix
    """
    by_key = {run.key: run for run in runs}
    for prefix in prefixes:
        if not any(key.startswith(prefix) for key in by_key):
            raise ConfigError(f"No run's key begins with {prefix!r}.{did_you_mean(prefix, by_key)}")
    wanted = {key for key in by_key if not prefixes or key.startswith(tuple(prefixes))}
    todo = list(wanted)
    while todo:
        needed = set(by_key[todo.pop()].needs) - wanted
        wanted |= needed
        todo += needed
    return [run for run in runs if run.key in wanted]


def prepare(run: GridRun) -> RunFolder:
    """Make the run's folder with its config.

    :raises ConfigError: if the folder holds another config
    """
    folder = RunFolder(run.folder)
    if not folder.config.exists():
        folder.path.mkdir(parents=True, exist_ok=True)
        dump_config(run.config, folder.config)
        return folder
    if different := _other_settings(run):
        raise ConfigError(
            f"{folder.path} holds the run with other settings: {', '.join(different)}. Move it away, or give the grid "
            "another folder."
        )
    return folder


def _other_settings(run: GridRun) -> list[str]:
    """Return the settings in which the run in the folder differs, in words."""
    there = load_config(TrainConfig, RunFolder(run.folder).config)
    now, then = run.config.model_dump(), there.model_dump()
    names = [name for name in now if now[name] != then[name]]
    return [f"{name} ({then[name]!r:.60} there, {now[name]!r:.60} now)" for name in names]


def _make_run(path: Path, grid: GridConfig, preset_name: str, name: str, seed: int, root: Path) -> GridRun:
    preset = grid.presets[preset_name]
    needs: list[str] = []
    agents_of: list[tuple[str, int]] = []

    def resolve(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: resolve(item) for key, item in value.items()}
        if not isinstance(value, str) or not value.startswith(_REFERENCE):
            return value
        other, _, steps = value.removeprefix(_REFERENCE).partition("@")
        other_preset, _, other = other.rpartition("/")
        _check_name(path, other, grid.runs)
        needs.append(f"{other_preset or preset_name}/{other}/seed_{seed}")
        if steps:
            if not steps.isdigit():
                raise ConfigError(f"{path}: run {name!r}: {value!r} must end in @<steps>, a whole number")
            agents_of.append((needs[-1], int(steps)))
        folder = root / needs[-1]
        return str(folder / "agents" / steps if steps else folder)

    config_file = preset.configs.get(name, preset.config)
    beside = path.parent / config_file
    base = load_values(beside if beside.exists() or not is_shipped(config_file) else find_config(config_file))
    settings = {key: resolve(value) for key, value in {**base, **preset.set, **grid.runs[name]}.items()}
    key = f"{preset_name}/{name}/seed_{seed}"
    where = f"{path}: run {name!r} of preset {preset_name!r}"
    config = make_config(TrainConfig, {**settings, "seed": seed}, lambda _key: where)
    return GridRun(key, config, root / key, tuple(dict.fromkeys(needs)), tuple(agents_of))


def _check_preset(path: Path, preset_name: str, preset: Preset, known: Mapping[str, Any]) -> None:
    for name in preset.runs:
        _check_name(path, name, known)
    for name in preset.configs:
        _check_name(path, name, dict.fromkeys(preset.runs or known))
    for where, values in ((f"preset {preset_name!r}", preset.set), *((f"run {name!r}", known[name]) for name in known)):
        if "seed" in values:
            raise ConfigError(f"{path}: {where} sets a seed: a run's seed comes from its preset's `seeds`")


def _check_needs(path: Path, runs: Mapping[str, GridRun]) -> None:
    for run in runs.values():
        for key in run.needs:
            if key not in runs:
                raise ConfigError(f"{path}: {run.key} needs {key}, which is not among the grid's runs")
        for key, steps in run.agents_of:
            if steps not in (reported := runs[key].config.report_at):
                raise ConfigError(
                    f"{path}: {run.key} needs {key}'s agent at {steps} steps, which its report_at does not have: "
                    f"{', '.join(map(str, reported)) or 'none'}"
                )


def _check_tasks(path: Path, runs: Mapping[str, GridRun]) -> None:
    """Raise if a run uses a task of another run that the other run does not have."""
    tasks_of = {run.folder: run.config.task_names for run in runs.values()}
    with_shared_policy = {run.folder for run in runs.values() if run.config.algo_kwargs.get("distral")}
    for run in runs.values():
        config = run.config
        wanted = [(task, teacher, "teachers") for task, teacher in config.teachers.items()]
        if config.init_from is not None:
            names = config.init_tasks.values() or config.task_names
            wanted += [(task, config.init_from, "init_tasks" if config.init_tasks else "init_from") for task in names]
        for task, source, setting in wanted:
            folder = folder_of_agent(source)[0]
            tasks = tasks_of.get(folder, (task,))
            if setting == "init_tasks" and folder in with_shared_policy:
                tasks = (*tasks, SHARED)
            teaches_any = setting == "teachers" and len(tasks) == 1  # an agent with one head
            if task not in tasks and not teaches_any:
                raise ConfigError(
                    f"{path}: {run.key}: {setting} takes task {task!r} from {source}, which has: {', '.join(tasks)}"
                )


def _check_name(path: Path, name: str, runs: Mapping[str, Any]) -> None:
    if name not in runs:
        raise ConfigError(f"{path}: unknown run {name!r}.{did_you_mean(name, runs)} Runs: {', '.join(runs)}")


def statuses(runs: list[GridRun]) -> Iterator[tuple[GridRun, str]]:
    """Yield every run with its status: "waiting", "running", "finished", "interrupted", "failed", or "other settings".

    "other settings" means that the folder holds a run that the grid will not resume.
    """
    for run in runs:
        folder = RunFolder(run.folder)
        if folder.config.exists() and _other_settings(run):
            yield run, "other settings"
        else:
            yield run, str(folder.read_status().get("status", "waiting"))
