"""Tasks that were learned one after the other: the returns on all tasks after each, from run folders.

A run learns its tasks in turn with ``sequential`` or with the schedule ``sequence``. A chain of runs does so too, if
each has one task, begins with the run before (``init_from``), and evaluates the tasks of all (``also_on``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from sb3_multitask.experiments.config import TrainConfig
from sb3_multitask.experiments.curves import Curve
from sb3_multitask.experiments.report import continual
from sb3_multitask.experiments.report.collect import Run, returns, select
from sb3_multitask.experiments.run_folder import folder_of_agent
from sb3_multitask.tasks import Task

_SHARES = {"heads": "a head for each task", "all": "one head", "progressive": "a column for each task"}


@dataclass(frozen=True)
class InTurn:
    """Tasks that were learned one after the other, with the same number of seeds for every number.

    :param name: of the run, or of the last run of a chain
    :param how: what the tasks share, in words
    :param tasks: in the order in which they were learned
    :param steps: environment steps over all tasks, as configured
    :param untrained: returns before all training, (n_seeds, n_tasks)
    :param matrix: returns on all tasks after each phase, (n_seeds, n_tasks, n_tasks): ``[:, i, j]`` is the return on
        task j after task i was learned
    :param areas: area between the learning curve of each task but the first and that of a run which learns it from
        scratch, (n_seeds, n_tasks - 1); NaN where one is missing
    """

    name: str
    how: str
    tasks: tuple[Task, ...]
    steps: int
    untrained: np.ndarray
    matrix: np.ndarray
    areas: np.ndarray

    @property
    def task_names(self) -> tuple[str, ...]:
        return tuple(task.name for task in self.tasks)


def learned_in_turn(runs: Sequence[Run], preset: str) -> list[InTurn]:
    """Return what the runs of a preset learned in turn, in the order of their names."""
    found = []
    chains = _chains(runs, preset)
    for name in dict.fromkeys(run.name for run in runs if run.preset == preset):
        seeds = select(runs, preset, name)
        if len(seeds[0].config.tasks_in_turn) > 1:
            found.append(_of_run(runs, seeds))
        elif name in chains:
            found.append(_of_chain(runs, chains[name]))
    return found


def _of_run(runs: Sequence[Run], seeds: Sequence[Run]) -> InTurn:
    config = seeds[0].config
    names = config.tasks_in_turn
    by_name = {task.name: task for task in config.resolved_tasks()}
    tasks = tuple(by_name[name] for name in names)
    share = "all" if config.sequential else config.policy_kwargs.get("share", "heads")
    matrix = np.stack([returns(seeds, stage, names) for stage in _stages(seeds[0])], axis=1)
    curves = [[_in_turn(run, i) for i in range(1, len(names))] for run in seeds]
    return InTurn(
        seeds[0].name,
        _SHARES.get(share, str(share)),
        tasks,
        config.n_timesteps,
        returns(seeds, "before", names),
        matrix,
        _areas(runs, seeds, tasks, curves),
    )


def _stages(run: Run) -> list[str]:
    """Return the stages of a run's results at the end of each task, in order; the last is that of the run."""
    n = len(run.config.tasks_in_turn)
    stages = [f"after_{i + 1}" for i in range(n - 1)]
    budgets = [str(budget) for budget in sorted(run.config.report_at) if budget < run.config.n_timesteps]
    if stages[0] not in run.results and len(budgets) == n - 1:  # of a version that had no results after each task
        stages = budgets
    return [*stages, "after"]


def _in_turn(run: Run, turn: int) -> Curve | None:
    """Return a task's evaluations in its turn, over the steps of the turn; None if turns are no equal shares."""
    config = run.config
    names = config.tasks_in_turn
    curve = run.curves().get(names[turn])
    if curve is None or not config.has_equal_turns:
        return None
    steps = curve[0] * len(config.task_names) - turn * config.n_timesteps / len(names)  # the curve has even shares
    within = (steps > 0) & (steps <= config.n_timesteps / len(names))
    return steps[within], curve[1][within]


# Chains of runs


def _chains(runs: Sequence[Run], preset: str) -> dict[str, list[tuple[list[Run], str]]]:
    """Return the name of the last run -> the chain to it, whose runs of the same seeds are beside each other.

    A member of a chain is (runs, one per seed; the stage of its results at which the next run began). A chain that is
    the beginning of a longer one is left out.
    """
    found: dict[str, list[tuple[str, str]]] = {}
    for run in (select(runs, preset, name)[0] for name in dict.fromkeys(r.name for r in runs if r.preset == preset)):
        chain = _chain_to(run, runs)
        if len(chain) > 1 and _evaluate_the_same(chain):
            found[run.name] = [(member.name, stage) for member, stage in chain]
    begun = {name for chain in found.values() for name, _ in chain[:-1]}
    chains: dict[str, list[tuple[list[Run], str]]] = {}
    for last, members in found.items():
        of_names = [select(runs, preset, name) for name, _ in members]
        seeds = set.intersection(*({run.seed for run in side} for side in of_names))
        if last not in begun and seeds:
            sides = [[run for run in side if run.seed in seeds] for side in of_names]
            chains[last] = [(side, stage) for side, (_, stage) in zip(sides, members, strict=True)]
    return chains


def _chain_to(last: Run, runs: Sequence[Run]) -> list[tuple[Run, str]]:
    """Return the runs that led to a run, the first one first, each with the stage at which the next one began."""
    of_places: dict[tuple[str, ...], Run] = {
        (run.preset, run.name, f"seed_{run.seed}"): run for run in runs if run.preset == last.preset
    }
    chain = [(last, "after")]
    while (source := chain[0][0].config.init_from) is not None:
        folder, stage = folder_of_agent(source)
        before = of_places.get(folder.parts[-3:])
        if before is None or any(before is run for run, _ in chain):
            return []
        chain.insert(0, (before, stage))
    return chain


def _evaluate_the_same(chain: Sequence[tuple[Run, str]]) -> bool:
    """Return whether the runs have one task each, all different, and evaluate the tasks of all."""
    configs = [run.config for run, _ in chain]
    own = [config.resolved_tasks() for config in configs]
    names = {config.task_names[0] for config in configs}
    if any(len(tasks) != 1 for tasks in own) or len(names) < len(chain):
        return False
    tasks = {of_run[0].name: of_run[0] for of_run in own}
    known = [{**config.other_tasks(), config.task_names[0]: mine[0]} for config, mine in zip(configs, own, strict=True)]
    return all(of_run.get(name) == task for of_run in known for name, task in tasks.items())


def _of_chain(runs: Sequence[Run], chain: Sequence[tuple[list[Run], str]]) -> InTurn:
    sides = [side for side, _ in chain]
    tasks = tuple(side[0].config.resolved_tasks()[0] for side in sides)
    names = [task.name for task in tasks]
    last = sides[-1][0]
    frozen = "" if last.config.freeze == "nothing" else f", freeze: {last.config.freeze}"
    curves = [
        [run.curves().get(run.config.task_names[0]) for run in of_seed] for of_seed in zip(*sides[1:], strict=True)
    ]
    return InTurn(
        last.name,
        f"one head, a run for each task{frozen}",
        tasks,
        sum(int(stage) if stage.isdigit() else side[0].config.n_timesteps for side, stage in chain),
        returns(sides[0], "before", names),
        np.stack([returns(side, stage, names) for side, stage in chain], axis=1),
        _areas(runs, sides[-1], tasks, curves),
    )


def _areas(
    runs: Sequence[Run], seeds: Sequence[Run], tasks: Sequence[Task], curves: Sequence[Sequence[Curve | None]]
) -> np.ndarray:
    """Return the areas between curves of all tasks but the first and from scratch, (n_seeds, n_tasks - 1)."""
    areas = np.full((len(seeds), len(tasks) - 1), np.nan)
    for i, task in enumerate(tasks[1:]):
        scratch = {run.seed: run.curves().get(task.name) for run in _alone(runs, seeds[0].preset, task)}
        for row, run in enumerate(seeds):
            mine, theirs = curves[row][i], scratch.get(run.seed)
            if mine is not None and theirs is not None:
                areas[row, i] = continual.area_transfer(mine, theirs)
    return areas


def _alone(runs: Sequence[Run], preset: str, task: Task) -> list[Run]:
    """Return the first runs of a preset that learn one task alone, from scratch and from returns."""
    for name in dict.fromkeys(run.name for run in runs if run.preset == preset):
        seeds = select(runs, preset, name)
        config = seeds[0].config
        if config.init_from is None and not has_teachers(config) and config.resolved_tasks() == (task,):
            return seeds
    return []


def has_teachers(config: TrainConfig) -> bool:
    """Return whether a run learns from teachers, as they act or as they were recorded."""
    return bool(config.teachers) or config.dataset is not None
