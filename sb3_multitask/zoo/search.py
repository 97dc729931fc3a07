"""What ``train --optimize`` searches, and how its trials are evaluated."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import optuna
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER
from stable_baselines3.common.vec_env import VecEnv

from sb3_multitask.evaluation.callback import MultiTaskEvalCallback, Score
from sb3_multitask.policies.arguments import ACTIVATIONS

Values: TypeAlias = dict[str, Any]
Sampler: TypeAlias = Callable[[optuna.Trial, int, int, Values], Values]
Converter: TypeAlias = Callable[[Values], Values]

A2C_NETS: dict[str, Values] = {
    "paper": {"net_arch": {"pi": [64, 64], "vf": [64]}, "head_arch": {"pi": [], "vf": [64]}},
    "wide": {"net_arch": {"pi": [128, 128], "vf": [128]}, "head_arch": {"pi": [], "vf": [128]}},
    "own_layers": {"net_arch": {"pi": [64], "vf": [64]}, "head_arch": {"pi": [64], "vf": [64]}},
}
"""Name of a net in the search -> ``policy_kwargs``: shared layers, and layers of each task."""


def sample_a2c_mt(
    trial: optuna.Trial,
    n_actions: int,  # noqa: ARG001 (the zoo's signature)
    n_envs: int,  # noqa: ARG001
    additional_args: Values,  # noqa: ARG001
) -> Values:
    """Hyper-parameters of ``A2CMultiTask`` for one trial.

    Around what was found for six HalfCheetah bodies (``zoo_configs/tuned.yml``): short rollouts, no or little entropy
    bonus. The activation is always tanh and the optimizer RMSprop, so that every trial runs on the fast engine.
    """
    sampled = {
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 3e-3, log=True),
        "lr_schedule": trial.suggest_categorical("lr_schedule", ["constant", "linear"]),
        "n_steps": trial.suggest_categorical("n_steps", [5, 8, 16, 32]),
        "one_minus_gamma": trial.suggest_float("one_minus_gamma", 0.003, 0.05, log=True),
        "one_minus_gae_lambda": trial.suggest_float("one_minus_gae_lambda", 0.01, 0.3, log=True),
        "ent_coef": trial.suggest_float("ent_coef", 1e-8, 3e-3, log=True),
        "vf_coef": trial.suggest_float("vf_coef", 0.25, 1.0),
        "max_grad_norm": trial.suggest_float("max_grad_norm", 0.3, 2.0, log=True),
        "log_std_init": trial.suggest_float("log_std_init", -2.5, 0.0),
        "net": trial.suggest_categorical("net", list(A2C_NETS)),
    }
    hyperparams = convert_a2c_mt(sampled)
    for name in ("gamma", "gae_lambda"):
        trial.set_user_attr(name, hyperparams[name])
    return hyperparams


def convert_a2c_mt(sampled: Values) -> Values:
    """What a trial sampled (its ``params``) as hyper-parameters, as they stand in a config."""
    values = dict(sampled)
    rate = values.pop("learning_rate")
    return {
        "learning_rate": f"lin_{rate}" if values.pop("lr_schedule") == "linear" else rate,
        "gamma": 1 - values.pop("one_minus_gamma"),
        "gae_lambda": 1 - values.pop("one_minus_gae_lambda"),
        "policy_kwargs": {**A2C_NETS[values.pop("net")], "log_std_init": values.pop("log_std_init")},
        **values,
    }


def _plain(hyperparams: Values) -> Values:
    """The zoo's converted hyper-parameters with the activation by name, as in our configs."""
    names = {activation: name for name, activation in ACTIVATIONS.items()}
    policy_kwargs = dict(hyperparams["policy_kwargs"])
    policy_kwargs["activation_fn"] = names[policy_kwargs["activation_fn"]]
    return {**hyperparams, "policy_kwargs": policy_kwargs}


def _sampler_of(algo: str) -> Sampler:
    return lambda *args: _plain(HYPERPARAMS_SAMPLER[algo](*args))


def _converter_of(algo: str) -> Converter:
    return lambda sampled: _plain(HYPERPARAMS_CONVERTER[algo](sampled))


SAMPLERS: dict[str, Sampler] = {"a2c_mt": sample_a2c_mt, "ppo_mt": _sampler_of("ppo"), "trpo_mt": _sampler_of("trpo")}
CONVERTERS: dict[str, Converter] = {
    "a2c_mt": convert_a2c_mt,
    "ppo_mt": _converter_of("ppo"),
    "trpo_mt": _converter_of("trpo"),
}


class TrialCallback(MultiTaskEvalCallback):
    """Evaluates a trial on every task and reports its score to Optuna, which may prune it.

    :param trial: the trial; its user attributes hold each task's latest mean return
    :param eval_env: see ``MultiTaskEvalCallback``, as for the other arguments
    :param score: what is reported and maximised, the ``"mean"`` over the tasks or the ``"worst"`` task
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
