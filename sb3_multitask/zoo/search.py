"""What ``train --optimize`` searches: the hyper-parameters of each algorithm."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import optuna
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER

from sb3_multitask.algorithms.a2c import A2CMultiTask
from sb3_multitask.algorithms.ppo import PPOMultiTask
from sb3_multitask.policies.arguments import ACTIVATIONS
from sb3_multitask.zoo.settings import ALGORITHMS

Values: TypeAlias = dict[str, Any]

NETS: dict[str, Values] = {
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
        "net": trial.suggest_categorical("net", list(NETS)),
    }
    hyperparams = convert_a2c_mt(sampled)
    _show(trial, hyperparams, "gamma", "gae_lambda")
    return hyperparams


def _show(trial: optuna.Trial, hyperparams: Values, *names: str) -> None:
    """Keep hyper-parameters that a trial's own numbers do not show."""
    for name in names:
        trial.set_user_attr(name, hyperparams[name])


def convert_a2c_mt(sampled: Values) -> Values:
    """What a trial sampled (its ``params``) as hyper-parameters, as they stand in a config."""
    values = dict(sampled)
    rate = values.pop("learning_rate")
    return {
        "learning_rate": f"lin_{rate}" if values.pop("lr_schedule") == "linear" else rate,
        "gamma": 1 - values.pop("one_minus_gamma"),
        "gae_lambda": 1 - values.pop("one_minus_gae_lambda"),
        "policy_kwargs": {**NETS[values.pop("net")], "log_std_init": values.pop("log_std_init")},
        **values,
    }


def sample_ppo_mt(
    trial: optuna.Trial,
    n_actions: int,  # noqa: ARG001 (the zoo's signature)
    n_envs: int,
    additional_args: Values,
) -> Values:
    """Hyper-parameters of ``PPOMultiTask`` for one trial.

    A minibatch is counted in rows of each task, so that a set of more tasks does not get noisier updates of each.
    ``batch_size`` divides the rollout. ``vf_coef`` and the activation stay as in the config.

    :param n_envs: copies of each task
    :param additional_args: ``n_tasks``, the tasks whose rows are in a rollout, by default 1, as with ``task_schedule:
        cycle``; ``desired_kl`` of the config, with which the learning rate has no schedule
    """
    n_tasks = additional_args.get("n_tasks", 1)
    schedules = ["constant", "linear"] if additional_args.get("desired_kl") is None else ["constant"]
    sampled = {
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 3e-3, log=True),
        "lr_schedule": trial.suggest_categorical("lr_schedule", schedules),
        "n_steps": trial.suggest_categorical("n_steps", [64, 128, 256, 512, 1024, 2048]),
        "batch_rows_per_task": trial.suggest_categorical("batch_rows_per_task", [32, 64, 128, 256, 512, 1024]),
        "n_epochs": trial.suggest_categorical("n_epochs", [1, 5, 10, 20]),
        "clip_range": trial.suggest_categorical("clip_range", [0.1, 0.2, 0.3, 0.4]),
        "one_minus_gamma": trial.suggest_float("one_minus_gamma", 0.003, 0.05, log=True),
        "one_minus_gae_lambda": trial.suggest_float("one_minus_gae_lambda", 0.01, 0.3, log=True),
        "ent_coef": trial.suggest_float("ent_coef", 1e-8, 3e-3, log=True),
        "max_grad_norm": trial.suggest_float("max_grad_norm", 0.3, 2.0),
        "log_std_init": trial.suggest_float("log_std_init", -2.5, 0.0),
        "net": trial.suggest_categorical("net", list(NETS)),
        # Fixed numbers, so that what a trial keeps is enough to convert it.
        "n_envs": trial.suggest_int("n_envs", n_envs, n_envs),
        "n_tasks": trial.suggest_int("n_tasks", n_tasks, n_tasks),
    }
    hyperparams = convert_ppo_mt(sampled)
    _show(trial, hyperparams, "gamma", "gae_lambda", "batch_size")
    return hyperparams


def convert_ppo_mt(sampled: Values) -> Values:
    """What a trial sampled (its ``params``) as hyper-parameters, as they stand in a config."""
    if "batch_size_pow" in sampled:  # a trial of an earlier version, whose space was the zoo's
        return _plain(HYPERPARAMS_CONVERTER["ppo"](sampled))
    values = dict(sampled)
    rows, n_tasks, n_envs = (values.pop(name) for name in ("batch_rows_per_task", "n_tasks", "n_envs"))
    rows_per_task = math.gcd(rows, values["n_steps"] * n_envs)  # no more than the rollout has, and in whole minibatches
    return convert_a2c_mt(values) | {"batch_size": rows_per_task * n_tasks}


def _plain(hyperparams: Values) -> Values:
    """The zoo's converted hyper-parameters with the activation by name, as in our configs."""
    names = {activation: name for name, activation in ACTIVATIONS.items()}
    policy_kwargs = dict(hyperparams["policy_kwargs"])
    policy_kwargs["activation_fn"] = names[policy_kwargs["activation_fn"]]
    return {**hyperparams, "policy_kwargs": policy_kwargs}


class Space(NamedTuple):
    """Hyper-parameters to search: how a trial samples them, and how what it kept (its ``params``) is converted."""

    sample: Callable[[optuna.Trial, int, int, Values], Values]
    convert: Callable[[Values], Values]


def _space_of(name: str) -> Space | None:
    """The space of an algorithm: ours, or the zoo's for the algorithm without ``_mt``; None if there is neither."""
    if own := _OURS.get(ALGORITHMS[name]):
        return own
    of_zoo = name.removesuffix("_mt")
    sample, convert = HYPERPARAMS_SAMPLER.get(of_zoo), HYPERPARAMS_CONVERTER.get(of_zoo)
    if sample is None or convert is None:
        return None
    return Space(lambda *args: _plain(sample(*args)), lambda sampled: _plain(convert(sampled)))


_OURS: dict[type, Space] = {
    A2CMultiTask: Space(sample_a2c_mt, convert_a2c_mt),
    PPOMultiTask: Space(sample_ppo_mt, convert_ppo_mt),
}
SPACES = {name: space for name in ALGORITHMS if (space := _space_of(name)) is not None}
"""Name of an algorithm -> what is searched for it."""
