"""What stands in a zoo config and on the command line: plain values, of which nothing is executed."""

from __future__ import annotations

import argparse
import ast
import inspect
from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from sb3_multitask import algorithms
from sb3_multitask.experiments.algorithm_settings import check_sub_sampling
from sb3_multitask.experiments.schedules import SCHEDULES, as_schedule
from sb3_multitask.experiments.shipped import find_config, shipped_config
from sb3_multitask.policies import MultiTaskActorCriticPolicy
from sb3_multitask.policies.arguments import activation_class
from sb3_multitask.storage.yaml_files import ConfigError, load_values
from sb3_multitask.task_schedules import make_task_schedule
from sb3_multitask.tasks import TASK_SETS, did_you_mean, set_id
from sb3_multitask.vec_env import MultiTaskVecNormalize

_ONLINE = {
    name: algorithm
    for name, algorithm in algorithms.ALGORITHMS.items()
    if not algorithms.has_ability(algorithm, "offline")  # which needs a dataset
}
ALGORITHMS: dict[str, type[OnPolicyAlgorithm]] = {
    **{f"{name.removesuffix('_mt')}_mt": algorithm for name, algorithm in _ONLINE.items()},
    **{name: algorithm for name, algorithm in _ONLINE.items() if name.endswith("_mt")},
}
"""Name -> class: the table's, with ``_mt``, since the zoo has algorithms of its own that are called ``ppo``, ..."""

POLICY = "MultiTaskMlpPolicy"
_OF_THE_ZOO = ("n_timesteps", "n_envs", "normalize", "env_kwargs", "callback")
_SET_BY_FLAGS = ("env", "seed", "verbose", "device", "tensorboard_log", "_init_setup_model")
_CALLBACKS_FROM = ("stable_baselines3.", "sb3_contrib.", "rl_zoo3.callbacks.", "sb3_multitask.")


def default_config(algo: str) -> Path:
    """The config of an algorithm that comes with the package."""
    return shipped_config(f"{algo}.yml")


def read_hyperparameters(path: str | Path, env_id: str) -> dict[str, Any]:
    """The hyper-parameters for an environment in a zoo config: those of its id, or of ``default``.

    :param path: a YAML file, environment id -> hyper-parameters; ``zoo_configs/<name>`` comes with the package
    :raises ConfigError: if it is no YAML file, cannot be read, or has neither
    """
    if Path(path).suffix not in (".yml", ".yaml"):
        raise ConfigError(
            f"-conf must be a YAML file, .yml or .yaml (got {str(path)!r}): Python files and modules, which rl_zoo3 "
            "also takes, would be executed"
        )
    configs = load_values(find_config(path))
    if env_id not in configs and "default" not in configs:
        raise ConfigError(
            f"{path} has no hyper-parameters for {env_id!r}.{did_you_mean(env_id, configs)} "
            f"It has: {', '.join(configs)}"
        )
    values = configs.get(env_id, configs.get("default"))
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: {env_id}: must be a mapping `hyper-parameter: value` (got {values!r})")
    return values


def merged(values: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """``others`` over ``values``, ``policy_kwargs`` by their keys."""
    both = {**values, **others}
    old, new = values.get("policy_kwargs"), others.get("policy_kwargs")
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        both["policy_kwargs"] = {**old, **new}
    return both


def check_hyperparameters(values: Mapping[str, Any], algo: str) -> None:
    """Raise unless all hyper-parameters are known, and those that are plain values here are.

    :raises ConfigError: says which, and what is accepted
    """
    known = [name for name in algorithms.arguments_of(ALGORITHMS[algo]) if name not in _SET_BY_FLAGS]
    _check_keys(values, [*_OF_THE_ZOO, *known], f"hyper-parameter of {algo}")
    if "n_timesteps" not in values:
        raise ConfigError("`n_timesteps` is missing: environment steps over all tasks")
    if values.get("policy", POLICY) != POLICY:
        raise ConfigError(f"`policy` of {algo} must be {POLICY} (got {values['policy']!r})")
    for name in ("policy_kwargs", "env_kwargs", "teachers"):
        if not isinstance(values.get(name) or {}, dict):
            raise ConfigError(_must_be_a_mapping(name, values[name]))
    if not isinstance(values.get("normalize", False), bool | dict):
        raise ConfigError(_must_be_a_mapping("normalize", values["normalize"], "true, false or "))
    if isinstance(values.get("normalize"), dict):
        arguments = list(inspect.signature(MultiTaskVecNormalize).parameters)[1:]
        _check_keys(values["normalize"], arguments, "argument of MultiTaskVecNormalize in `normalize`")
    _check_callbacks(values.get("callback"))
    schedule_of(values)
    try:
        check_sub_sampling(ALGORITHMS[algo], values)
    except ValueError as e:
        raise ConfigError(str(e)) from e


def schedule_of(values: Mapping[str, Any]) -> Any:
    """The ``task_schedule`` of hyper-parameters as an algorithm takes it; "joint" if they have none.

    :raises ConfigError: if it is none
    """
    given = values.get("task_schedule", "joint")
    try:
        return make_task_schedule(given)
    except ValueError as e:
        raise ConfigError(f"`task_schedule`: {e} (got {given!r})") from e


def _must_be_a_mapping(name: str, value: Any, others: str = "") -> str:
    hint = " (strings, which rl_zoo3 would execute as Python, are not taken)" if isinstance(value, str) else ""
    return f"`{name}` must be {others}a mapping, such as {{key: value}} (got {value!r}){hint}"


def _check_keys(values: Mapping[str, Any], known: Sequence[str], what: str) -> None:
    for key in values:
        if key not in known:
            raise ConfigError(f"Unknown {what}: {key!r}.{did_you_mean(key, known)} Known: {', '.join(known)}")


def _check_callbacks(callbacks: Any) -> None:
    """Only callbacks of known packages: the zoo imports and calls whatever name stands in a config."""
    entries = callbacks if isinstance(callbacks, list) else [] if callbacks is None else [callbacks]
    for entry in entries:
        name = next(iter(entry)) if isinstance(entry, dict) and entry else entry
        if not (isinstance(name, str) and name.startswith(_CALLBACKS_FROM) and _is_callback(name)):
            raise ConfigError(
                f"`callback` must be a callback of {', '.join(prefix.rstrip('.') for prefix in _CALLBACKS_FROM)}, with "
                f"its module, such as stable_baselines3.common.callbacks.LogEveryNTimesteps (got {entry!r}): a config "
                "must not name other code to run"
            )


def _is_callback(name: str) -> bool:
    """Whether a module of a known package has a callback of this name; imports the module."""
    module, _, attribute = name.rpartition(".")
    try:
        found = getattr(import_module(module), attribute, None)
    except ImportError:
        return False
    return isinstance(found, type) and issubclass(found, BaseCallback)


def constructor_arguments(values: Mapping[str, Any]) -> dict[str, Any]:
    """Hyper-parameters as an algorithm takes them: schedules, the policy's class, the activation's class.

    :raises ConfigError: on a schedule or an activation that is none
    """
    arguments = dict(values)
    if "task_schedule" in arguments:
        arguments["task_schedule"] = schedule_of(arguments)
    for name in SCHEDULES:
        if name in arguments:
            try:
                arguments[name] = as_schedule(arguments[name])
            except ValueError as e:
                raise ConfigError(f"`{name}` {e} (got {arguments[name]!r})") from e
    if arguments.get("policy") == POLICY:
        arguments["policy"] = MultiTaskActorCriticPolicy
    if arguments.get("policy_kwargs"):
        arguments["policy_kwargs"] = {**arguments["policy_kwargs"]}
        activation = arguments["policy_kwargs"].get("activation_fn")
        if isinstance(activation, str):
            try:
                arguments["policy_kwargs"]["activation_fn"] = activation_class(activation)
            except ValueError as e:
                raise ConfigError(str(e)) from e
    return arguments


class StorePlainDict(argparse.Action):
    """``key:value ...`` into a dict, values read as Python literals or as YAML, where the zoo would evaluate them."""

    def __call__(
        self,
        parser: argparse.ArgumentParser,  # noqa: ARG002 (argparse's signature)
        namespace: argparse.Namespace,
        values: Any,
        option_string: str | None = None,
    ) -> None:
        parsed = {}
        for argument in values:
            key, colon, value = argument.partition(":")
            if not colon:
                raise argparse.ArgumentError(self, f"needs key:value (got {argument!r})")
            try:
                parsed[key] = _plain_value(value)
            except YAMLError as e:
                raise argparse.ArgumentError(self, f"{option_string} {argument!r}: the value is no YAML: {e}") from e
        setattr(namespace, self.dest, parsed)


def _plain_value(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError):
        return YAML(typ="safe").load(text)


def check_env_id(env_id: str, registered: Sequence[str]) -> None:
    """Raise unless an id is registered; rl_zoo3's own message would not know the sets by their names.

    :raises ConfigError: with the closest id
    """
    if env_id in TASK_SETS:
        raise ConfigError(f"--env takes Gymnasium ids; that of the task set {env_id} is {set_id(env_id)}")
    if env_id not in registered:
        sets = ", ".join(map(set_id, TASK_SETS))
        raise ConfigError(
            f"Unknown environment id {env_id!r}.{did_you_mean(env_id, registered)} Task sets: {sets}; others: those of "
            "gymnasium.registry"
        )
