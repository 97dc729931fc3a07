"""The agents that a run stores during training: at reported budgets and after each task, evaluated, and the best."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias, cast

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from sb3_multitask.agents import agent_of
from sb3_multitask.agents.files import save_agent
from sb3_multitask.evaluation.evaluate import evaluate_tasks
from sb3_multitask.evaluation.results import TaskResult
from sb3_multitask.experiments.run_folder import RunFolder
from sb3_multitask.task_schedules import TaskSequence
from sb3_multitask.tasks import EnvFactory, Task
from sb3_multitask.vec_env import MultiTaskVecEnv

OtherEnv: TypeAlias = str | EnvFactory | Task


def evaluate_fully(model: BaseAlgorithm, n_episodes: int, also_on: Mapping[str, OtherEnv]) -> dict[str, TaskResult]:
    """Evaluate the model on its tasks, and its only head on other envs.

    :param n_episodes: episodes per task
    :param also_on: name -> id, factory or task of the other envs, whose observations are normalised with the statistics
        of the model's task
    """
    results = evaluate_tasks(model, n_eval_episodes=n_episodes)
    for name, other in also_on.items():
        with closing(other_env(model, other, min(n_episodes, 5))) as env:
            (results[name],) = evaluate_tasks(model, env, n_episodes).values()
    return results


def other_env(model: BaseAlgorithm, other: OtherEnv, n_envs: int, seed: int = 0) -> MultiTaskVecEnv:
    """Make another env in place of the model's only task, for the same head and statistics."""
    env: Any = model.get_env()
    (name,) = env.task_names
    task = replace(other, name=name) if isinstance(other, Task) else Task(name, other)
    return MultiTaskVecEnv([task], n_envs, seed=seed, training=False, on_fault=env.unwrapped.on_fault)


class StageCallback(BaseCallback, ABC):
    """Evaluate fully and store the agent at stages of the training, at the first rollout start at or after each.

    :param folder: the run's folder; ``results.json`` gets the returns under the stage, ``agents/<stage>`` the agent
    :param n_episodes: episodes per task
    :param also_on: see :func:`evaluate_fully`
    """

    def __init__(self, folder: RunFolder, n_episodes: int, also_on: Mapping[str, OtherEnv]) -> None:
        super().__init__()
        self.folder = folder
        self.n_episodes, self.also_on = n_episodes, also_on
        self.n_done = 0

    @abstractmethod
    def _reached(self) -> str | None:
        """Return the stage after ``n_done`` others, if training has reached it."""

    def get_state(self) -> dict[str, Any]:
        """Return the number of stages that were reached."""
        return {"n_done": self.n_done}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore a state that :meth:`get_state` returned."""
        self.n_done = state["n_done"]

    def _on_rollout_start(self) -> None:
        self._report()

    def _on_training_end(self) -> None:
        self._report()

    def _on_step(self) -> bool:
        return True

    def _report(self) -> None:
        while (stage := self._reached()) is not None:
            save_agent(agent_of(self.model), self.folder.agents / stage)
            results = self.folder.read_results()
            results[stage] = evaluate_fully(self.model, self.n_episodes, self.also_on)
            self.folder.write_results(**results)
            self.n_done += 1


class MilestoneCallback(StageCallback):
    """Evaluate fully and store the agent at budgets.

    :param folder: see :class:`StageCallback`; a stage is named by its budget
    :param budgets: environment steps over all tasks
    :param n_episodes: see :class:`StageCallback`
    :param also_on: see :class:`StageCallback`
    """

    def __init__(
        self, folder: RunFolder, budgets: Sequence[int], n_episodes: int, also_on: Mapping[str, OtherEnv]
    ) -> None:
        super().__init__(folder, n_episodes, also_on)
        self.budgets = sorted(budgets)

    def _reached(self) -> str | None:
        budgets = self.budgets[self.n_done :]
        return str(budgets[0]) if budgets and self.model.num_timesteps >= budgets[0] else None


class TurnCallback(StageCallback):
    """Evaluate fully and store the agent when the turn of each task of a :class:`TaskSequence` but the last has ended.

    A stage is ``after_<i>``, with i from 1. The last turn ends with the run, whose results are ``after``.
    """

    def _reached(self) -> str | None:
        schedule = cast("TaskSequence", self.model.task_schedule)  # type: ignore[attr-defined]
        ends = schedule.ends[self.n_done : -1]
        return f"after_{self.n_done + 1}" if ends and schedule.visits.sum() >= ends[0] else None


class BestAgentCallback(BaseCallback):
    """Store the agent of ``best_model.zip`` with its statistics, for every algorithm.

    :param path: path of the agent's files, without an ending
    """

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path

    def _on_step(self) -> bool:
        save_agent(agent_of(self.model), self.path)
        return True
