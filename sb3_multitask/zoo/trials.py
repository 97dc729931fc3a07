"""The trials of ``train --optimize``: how one is evaluated, when it is pruned, and what an earlier one had."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pprint import pprint
from typing import Any

import optuna
from stable_baselines3.common.vec_env import VecEnv

from sb3_multitask.evaluation.callback import MultiTaskEvalCallback, Score
from sb3_multitask.storage.yaml_files import ConfigError
from sb3_multitask.vec_env.faults import TaskFault
from sb3_multitask.zoo.search import SPACES, Values
from sb3_multitask.zoo.study import open_storage


class TrialCallback(MultiTaskEvalCallback):
    """Evaluates a trial on every task and reports its score to Optuna, which may prune it.

    :param trial: the trial; its user attributes hold each task's latest mean return
    :param eval_env: see ``MultiTaskEvalCallback``, as for the other arguments
    :param score: what is reported and maximised, the ``"mean"`` over the tasks, the ``"worst"`` task, or the mean
        ``"success"`` rate
    """

    def __init__(self, eval_env: VecEnv, trial: optuna.Trial, score: Score, **kwargs: Any) -> None:
        super().__init__(eval_env, score=score, verbose=0, **kwargs)
        self.trial = trial
        self.is_pruned = False

    def _on_step(self) -> bool:
        n_before = len(self.evaluations_tasks)
        goes_on = super()._on_step()
        if len(self.evaluations_tasks) == n_before:
            return goes_on
        results = self.evaluations_tasks[-1]
        self.last_mean_reward = self.score_of(results)  # what the zoo's objective returns
        self.trial.set_user_attr("task_rewards", {task: result.mean_reward for task, result in results.items()})
        self.trial.report(self.last_mean_reward, n_before + 1)
        self.is_pruned = self.trial.should_prune()
        return goes_on and not self.is_pruned


@contextmanager
def pruning_breakdowns(sampled: Mapping[str, Any]) -> Iterator[None]:
    """Prune a trial whose training breaks down.

    Other errors come from the settings, would prune every trial, and end the study.

    :param sampled: the trial's hyper-parameters, which are printed
    :raises TrialPruned: then
    """
    try:
        yield
    except (AssertionError, ValueError, RuntimeError) as e:
        if not _is_breakdown(e):
            raise
        print(e, "Sampled hyperparams:", sep="\n")  # noqa: T201 (as the zoo does)
        pprint(sampled)  # noqa: T203
        raise optuna.TrialPruned from e


def _is_breakdown(error: Exception) -> bool:
    """Whether training came to numbers that are not finite: a task's, or a loss and actions, ours and torch's words."""
    return isinstance(error, TaskFault) or any(words in str(error) for words in ("not finite", "found invalid values"))


def hyperparameters_of_trial(algo: str, storage: str | None, study_name: str | None, number: int) -> Values:
    """The hyper-parameters of a trial of the study in a storage.

    :raises ConfigError: if there is no such trial
    """
    if not (storage and study_name):
        raise ConfigError("--trial-id needs --storage and --study-name, which say where the trial is")
    where = f"the study {study_name!r} in {storage}"
    try:
        if number >= 0:
            study = optuna.load_study(storage=open_storage(storage), study_name=study_name)
            return SPACES[algo].convert(study.trials[number].params)
    except KeyError as e:
        raise ConfigError(f"--storage, --study-name: there is no {where[4:]}, or it is not of {algo}") from e
    except IndexError:
        pass
    raise ConfigError(f"--trial-id must be the number of a trial of {where}, from 0 on (got {number})")
