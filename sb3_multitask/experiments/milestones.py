"""The agents that a run stores during training: at reported budgets, with full evaluations, and the best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeAlias

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback

from sb3_multitask.agents import agent_of
from sb3_multitask.agents.files import save_agent
from sb3_multitask.evaluation.evaluate import evaluate_tasks
from sb3_multitask.evaluation.results import TaskResult
from sb3_multitask.experiments.run_folder import RunFolder
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


class MilestoneCallback(BaseCallback):
    """Evaluate fully and store the agent, at the first rollout start at or after each budget.

    :param folder: the run's folder; ``results.json`` gets the returns under the budget, ``agents/<budget>`` the agent
    :param budgets: environment steps over all tasks
    :param n_episodes: episodes per task
    :param also_on: see :func:`evaluate_fully`
    """

    def __init__(
        self, folder: RunFolder, budgets: Sequence[int], n_episodes: int, also_on: Mapping[str, OtherEnv]
    ) -> None:
        super().__init__()
        self.folder, self.budgets = folder, sorted(budgets)
        self.n_episodes, self.also_on = n_episodes, also_on
        self.n_done = 0

    def get_state(self) -> dict[str, Any]:
        """Return the number of budgets that were reached."""
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
        while self.n_done < len(self.budgets) and self.model.num_timesteps >= self.budgets[self.n_done]:
            budget = self.budgets[self.n_done]
            save_agent(agent_of(self.model), self.folder.agents / str(budget))
            results = self.folder.read_results()
            results[str(budget)] = evaluate_fully(self.model, self.n_episodes, self.also_on)
            self.folder.write_results(**results)
            self.n_done += 1


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
