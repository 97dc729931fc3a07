"""What ``train --optimize`` searches: the hyper-parameters of each algorithm."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import optuna
from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER

from sb3_multitask.algorithms.a2c import A2CMultiTask
from sb3_multitask.policies.arguments import ACTIVATIONS
from sb3_multitask.zoo.settings import ALGORITHMS

Values: TypeAlias = dict[str, Any]

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


_OURS: dict[type, Space] = {A2CMultiTask: Space(sample_a2c_mt, convert_a2c_mt)}
SPACES = {name: space for name in ALGORITHMS if (space := _space_of(name)) is not None}
"""Name of an algorithm -> what is searched for it."""
