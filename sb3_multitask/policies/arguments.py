"""Checks of the policy's arguments, which may have all forms that SB3's users write."""

from __future__ import annotations

import copy
import inspect
import math
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any, Literal, TypeAlias, get_args

import torch as th
from gymnasium import spaces
from torch import nn

from sb3_multitask.tasks import did_you_mean

NetArch: TypeAlias = Mapping[str, Sequence[int]] | Sequence[int]
"""Units of the layers, ``dict(pi=[...], vf=[...])``; a list applies to both."""
LogStdMode: TypeAlias = Literal["per_task", "state_dependent", "shared"]
LayerNormOf: TypeAlias = bool | Literal["critic"]
TaskEmbedding: TypeAlias = int | Literal["onehot"]
Share: TypeAlias = Literal["heads", "all", "progressive"]
ValueNorm: TypeAlias = Literal["popart"]
LOG_STD_BOUNDS = (-5.0, 1.0)
"""Default bounds of a state-dependent log-std."""
ACTIVATIONS: dict[str, type[nn.Module]] = {
    "tanh": nn.Tanh,
    "relu": nn.ReLU,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
}
"""Names of ``activation_fn`` in YAML files; agents support these activations."""


def checked_sizes(observation_space: spaces.Space[Any], action_space: spaces.Space[Any]) -> tuple[int, int]:
    """Return (obs_dim, n_tasks) of the policy's spaces.

    :raises ValueError: if observations have no task, or observations or actions are not flat
    """
    if not isinstance(action_space, spaces.Box) or len(action_space.shape) != 1:
        raise ValueError(f"MultiTaskActorCriticPolicy needs a flat Box action space, not {action_space}")
    if isinstance(observation_space, spaces.Dict) and set(observation_space.spaces) == {"obs", "task"}:
        obs, task = observation_space["obs"], observation_space["task"]
        if isinstance(obs, spaces.Box) and len(obs.shape) == 1 and isinstance(task, spaces.Discrete):
            return obs.shape[0], int(task.n)
    raise ValueError(
        "MultiTaskActorCriticPolicy needs observations Dict(obs=Box(obs_dim,), task=Discrete(n_tasks)), "
        f"not {observation_space}. sb3_multitask.make_multitask_vec_env(tasks) gives them; TaskEnv adds the task to "
        "one env."
    )


def check_log_std(mode: str, init: float, bounds: tuple[float, float]) -> None:
    """Raise on an unknown mode, or an initial log-std that is not a finite number within the bounds.

    :raises ValueError: names the argument, its value and the accepted values
    """
    if mode not in get_args(LogStdMode):
        raise ValueError(f"`log_std_mode` must be one of {', '.join(get_args(LogStdMode))} (got {mode!r})")
    if isinstance(init, bool) or not isinstance(init, Real) or not math.isfinite(init):
        raise ValueError(f"`log_std_init` must be a finite number (got {init!r})")
    if mode == "state_dependent" and not bounds[0] < init < bounds[1]:
        raise ValueError(f"`log_std_init` must lie within `log_std_bounds` {tuple(bounds)} (got {init})")


def check_layer_norm(layer_norm: object) -> None:
    """Raise on anything but the values of ``layer_norm``.

    :raises ValueError: names the argument, its value and the accepted values
    """
    if not isinstance(layer_norm, bool) and layer_norm != "critic":
        raise ValueError(f'`layer_norm` must be False, "critic" or True (got {layer_norm!r})')


def check_task_embedding(task_embedding: object) -> None:
    """Raise on anything but the values of ``task_embedding``.

    :raises ValueError: names the argument, its value and the accepted values
    """
    is_size = isinstance(task_embedding, int) and not isinstance(task_embedding, bool) and task_embedding >= 1
    if task_embedding is not None and task_embedding != "onehot" and not is_size:
        raise ValueError(
            f'`task_embedding` must be None, "onehot", or a whole number from 1, the size of a learned vector '
            f"(got {task_embedding!r})"
        )


def check_share(share: object) -> None:
    """Raise on anything but the values of ``share``.

    :raises ValueError: names the argument, its value and the accepted values
    """
    accepted = get_args(Share)
    if share not in accepted:
        hint = did_you_mean(share, accepted) if isinstance(share, str) else ""
        raise ValueError(f"`share` must be one of {', '.join(accepted)} (got {share!r}).{hint}")


def check_value_norm(value_norm: object, share: Share) -> None:
    """Raise on anything but the values of ``value_norm``, and where tasks share one value head.

    :raises ValueError: names the argument, its value and the accepted values
    """
    if value_norm not in (None, *get_args(ValueNorm)):
        hint = did_you_mean(value_norm, get_args(ValueNorm)) if isinstance(value_norm, str) else ""
        raise ValueError(f'`value_norm` must be None or "popart" (got {value_norm!r}).{hint}')
    if value_norm is not None and share == "all":
        raise ValueError(
            f"`value_norm={value_norm!r}` needs a value head for each task, whose output layer is rescaled with the "
            'task\'s statistics, and `share="all"` has one for all: use share="heads" or value_norm=None'
        )


def checked_arch(name: str, arch: NetArch | None, default: dict[str, list[int]]) -> dict[str, list[int]]:
    """Return the layer sizes of actor and critic; missing keys get the default, and a list applies to both, as in SB3.

    :raises ValueError: on anything else
    """
    given = arch
    if arch is None:
        return {key: list(sizes) for key, sizes in default.items()}
    if isinstance(arch, list | tuple) and len(arch) == 1 and isinstance(arch[0], Mapping):
        arch = arch[0]  # the form of SB3 before 1.8
    if isinstance(arch, list | tuple):
        arch = {"pi": arch, "vf": arch}
    lists = arch.values() if isinstance(arch, Mapping) else ()
    if not isinstance(arch, Mapping) or not set(arch) <= {"pi", "vf"} or not all(map(_is_sizes, lists)):
        raise ValueError(
            f"`{name}` must be a dict with the keys pi and vf, lists of layer sizes, such as dict(pi=[64, 64], "
            f"vf=[64]), or one list for both (got {given!r})"
        )
    if any(size < 1 for layers in lists for size in layers):
        raise ValueError(f"`{name}` must hold positive layer sizes (got {given!r})")
    return {key: [int(size) for size in layers] for key, layers in {**default, **arch}.items()}


def _is_sizes(layers: object) -> bool:
    return isinstance(layers, list | tuple) and all(
        isinstance(size, Integral) and not isinstance(size, bool) for size in layers
    )


def activation_class(activation_fn: object) -> Any:
    """Return the class of an activation, which may be given by its name, such as ``"relu"`` or ``"nn.ReLU"``.

    :raises ValueError: on an unknown name, or an object that makes no module when it is called
    """
    if isinstance(activation_fn, str):
        key = activation_fn.rpartition(".")[2].lower().replace("_", "")
        by_key = {name.replace("_", ""): found for name, found in ACTIVATIONS.items()}
        if key not in by_key:
            raise ValueError(
                f"`activation_fn` must be one of {', '.join(ACTIVATIONS)}, or a class of torch.nn "
                f"(got {activation_fn!r}).{did_you_mean(activation_fn.lower(), ACTIVATIONS)}"
            )
        return by_key[key]
    if not _makes_a_module(activation_fn):
        raise ValueError(
            f"`activation_fn` must be a class, such as torch.nn.ReLU, or one of {', '.join(ACTIVATIONS)} (got "
            f"{activation_fn!r}): each layer gets an activation of its own"
        )
    return activation_fn


def _makes_a_module(activation_fn: object) -> bool:
    """Return whether a call without arguments, as SB3's, makes an activation."""
    if isinstance(activation_fn, nn.Module) or not callable(activation_fn):
        return False
    try:
        return isinstance(activation_fn(), nn.Module)
    except Exception:  # such as the TypeError of torch.relu, a function of a tensor
        return False


def check_sb3s_keys(given: Mapping[str, Any]) -> None:
    """Raise on arguments of SB3's policies that would have no effect here.

    :param given: SB3's name -> value
    :raises ValueError: names the argument, its value and the alternative
    """
    for name, default in (("full_std", True), ("use_expln", False)):
        if bool(given[name]) is not default:
            raise ValueError(
                f"`{name}={given[name]!r}` is for gSDE, which is not supported here: leave it out, and use "
                "`log_std_mode` to choose how exploration is parameterised"
            )
    if given["squash_output"]:
        raise ValueError(
            f"`squash_output={given['squash_output']!r}` is not supported (SB3 has it with gSDE only): leave it out. "
            "Actions are drawn from a Gaussian and clipped to the bounds of the action space."
        )


def check_names(given: Mapping[str, Any], policy_class: type) -> None:
    """Raise on names that the policy's constructor does not have.

    :raises ValueError: on ``use_sde``, an argument of the algorithm
    :raises TypeError: names the argument and the closest one
    """
    parameters = inspect.signature(policy_class).parameters
    if "use_sde" in given:
        raise ValueError(
            f"`policy_kwargs` must not hold `use_sde` (got {given['use_sde']!r}): gSDE is not supported here. Use "
            "`log_std_mode` to choose how exploration is parameterised"
        )
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    known = [name for name in parameters if name not in ("observation_space", "action_space", "lr_schedule", "use_sde")]
    for name in given:
        if name not in known:
            raise TypeError(
                f"`policy_kwargs` must be arguments of {policy_class.__name__} (got {name!r})."
                f"{did_you_mean(str(name), known)} Known: {', '.join(known)}"
            )


def check_optimizer_kwargs(optimizer_class: type[th.optim.Optimizer], kwargs: Mapping[str, Any] | None) -> None:
    """Raise on keyword arguments that an optimizer does not have, or that are set elsewhere.

    :raises ValueError: names the argument and the known ones
    """
    if not callable(optimizer_class):
        raise ValueError(
            f"`optimizer_class` must be a class of torch.optim, such as torch.optim.Adam (got {optimizer_class!r}); "
            "in a config, `algo_kwargs: {use_rms_prop: false}` is A2C with Adam"
        )
    parameters = inspect.signature(optimizer_class).parameters
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    known = [name for name in parameters if name not in ("params", "lr")]
    for name in kwargs or {}:
        if name == "lr":
            raise ValueError("`optimizer_kwargs` must not hold 'lr': the rate is the algorithm's `learning_rate`")
        if name not in known:
            raise ValueError(
                f"`optimizer_kwargs` must be arguments of {optimizer_class.__name__} (got {name!r})."
                f"{did_you_mean(str(name), known)} Known: {', '.join(known)}"
            )


def a2c_policy_kwargs(given: Mapping[str, Any] | None, use_rms_prop: bool, rms_prop_eps: float) -> dict[str, Any]:
    """Return a copy of A2C's ``policy_kwargs``, completed with the RMSprop of SB3's A2C.

    SB3 writes into the dict that it gets, and drops ``optimizer_kwargs`` without an ``optimizer_class``.

    :raises ValueError: if ``rms_prop_eps`` would be ignored, or contradicts ``optimizer_kwargs``
    """
    kwargs = copy.deepcopy(dict(given or {}))
    if isinstance(kwargs.get("activation_fn"), str):
        kwargs["activation_fn"] = activation_class(kwargs["activation_fn"])  # files store the class's name
    own = kwargs.get("optimizer_kwargs")
    if own is not None and not isinstance(own, Mapping):
        raise ValueError(f"`optimizer_kwargs` must be a dict of the optimizer's arguments (got {own!r})")
    is_default = rms_prop_eps == DEFAULT_RMS_PROP_EPS
    if not use_rms_prop or "optimizer_class" in kwargs:
        if not is_default:
            raise ValueError(
                f"`rms_prop_eps={rms_prop_eps!r}` is for the RMSprop that A2C makes itself, and "
                f"{'`optimizer_class` is given' if 'optimizer_class' in kwargs else '`use_rms_prop` is False'}: give "
                'policy_kwargs={"optimizer_kwargs": {"eps": ...}}'
            )
        return kwargs
    own = dict(own or {})
    if not is_default and own.get("eps", rms_prop_eps) != rms_prop_eps:
        raise ValueError(f"`rms_prop_eps={rms_prop_eps!r}` and optimizer_kwargs' eps={own['eps']!r} differ: give one")
    kwargs["optimizer_class"] = th.optim.RMSprop
    kwargs["optimizer_kwargs"] = {"alpha": 0.99, "eps": rms_prop_eps, "weight_decay": 0, **own}
    return kwargs


DEFAULT_RMS_PROP_EPS = 1e-5
