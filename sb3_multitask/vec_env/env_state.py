"""The whole state of one Gymnasium environment, so that it can go on elsewhere to the same bits."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv

from sb3_multitask.envs.morphology import Morphology
from sb3_multitask.generators import generator_state, make_generator
from sb3_multitask.plain import is_plain
from sb3_multitask.vec_env.mujoco_model import get_model_state, set_model_state, why_untold
from sb3_multitask.vec_env.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit, kind_of, wrappers_of

_WRAPPERS: dict[type, tuple[str, ...]] = {
    TimeLimit: ("_elapsed_steps",),
    OrderEnforcing: ("_has_reset",),
    PassiveEnvChecker: ("checked_reset", "checked_step", "checked_render"),
    gym.wrappers.ClipAction: (),
    gym.wrappers.RescaleAction: (),
}
"""Wrappers whose state is known: class -> the attributes that hold it."""

_STATE = int(mujoco.mjtState.mjSTATE_INTEGRATION)
_DERIVED = (
    *("xpos", "xquat", "xmat", "xipos", "ximat", "geom_xpos", "geom_xmat", "site_xpos", "site_xmat", "subtree_com"),
    *("cinert", "cvel", "cacc", "cfrc_int", "cfrc_ext", "qacc", "sensordata", "actuator_force"),
    *("qfrc_actuator", "qfrc_passive", "qfrc_constraint", "qfrc_bias"),
)
"""What MuJoCo computed in the last step and environments read before the next: not a function of the state alone."""


def why_inexact(env: gym.Env[Any, Any]) -> str | None:
    """Why the state of an environment cannot be told in full; None if it can."""
    for layer in _layers(env):
        if _offers_state(layer) or kind_of(layer) in _WRAPPERS:
            continue
        if not isinstance(layer, MujocoEnv):
            return f"{type(layer).__name__} has no get_state() and set_state(state)"
        kept = [name for name, value in _own_attributes(layer) if not _is_storable(value) and not _is_fixed(value)]
        if kept:
            return f"{type(layer).__name__} keeps {', '.join(kept)} and has no get_state() and set_state(state)"
        if (reason := why_untold(layer.model)) is not None:
            return f"{type(layer).__name__} {reason}"
    return None


def get_env_state(env: gym.Env[Any, Any]) -> dict[str, Any]:
    """Everything that decides what an environment does next, as far as it can be told (:func:`why_inexact`).

    MuJoCo's environments and Gymnasium's usual wrappers are known. Any other environment or wrapper takes part by
    ``get_state()``, which returns dicts, lists, plain values and arrays for itself and what it wraps, and
    ``set_state(state)``. Random numbers from ``self.np_random`` are taken care of.
    """
    return {
        "np_random": generator_state(env.unwrapped._np_random),
        "action_space": generator_state(env.unwrapped.action_space._np_random),
        "layers": [_layer_state(layer) for layer in _layers(env)],
    }


def set_env_state(env: gym.Env[Any, Any], state: dict[str, Any]) -> None:
    """Put back what :func:`get_env_state` gave, into an environment made in the same way."""
    for layer, saved in zip(_layers(env), state["layers"], strict=True):
        if saved["class"] != type(layer).__name__:
            raise ValueError(f"The state is of a {saved['class']}, the environment has a {type(layer).__name__}")
        if "own" in saved:
            layer.set_state(saved["own"])
            continue
        for name, value in saved["attributes"].items():
            setattr(layer, name, copy.deepcopy(value))
        for name, generator in saved.get("generators", {}).items():
            setattr(layer, name, make_generator(generator))
        if "mujoco" in saved:
            _set_mujoco(layer, saved["mujoco"])
    env.unwrapped._np_random = make_generator(state["np_random"])
    space: Any = env.unwrapped.action_space
    space._np_random = make_generator(state["action_space"])


def _layers(env: gym.Env[Any, Any]) -> Iterator[Any]:
    """Wrappers and environment from the outside in, down to the first that tells the state of all it wraps."""
    for layer in (*wrappers_of(env), env.unwrapped):
        yield layer
        if _offers_state(layer):
            return


def _offers_state(layer: Any) -> bool:
    get_state, set_state = (getattr(type(layer), name, None) for name in ("get_state", "set_state"))
    return callable(get_state) and callable(set_state) and set_state is not MujocoEnv.set_state


def _layer_state(layer: Any) -> dict[str, Any]:
    name = type(layer).__name__
    if _offers_state(layer):
        return {"class": name, "own": layer.get_state()}
    if isinstance(layer, MujocoEnv):
        own = dict(_own_attributes(layer))
        return {
            "class": name,
            "attributes": {key: copy.deepcopy(value) for key, value in own.items() if is_plain(value)},
            "generators": {k: generator_state(v) for k, v in own.items() if isinstance(v, np.random.Generator)},
            "mujoco": _get_mujoco(layer),
        }
    known = _WRAPPERS.get(kind_of(layer), ())
    return {"class": name, "attributes": {attribute: getattr(layer, attribute) for attribute in known}}


# scratch_data: what sensors compute in anew each time
_TAKEN_CARE_OF = ("model", "data", "mujoco_renderer", "spec", "scratch_data")


def _own_attributes(env: Any) -> Iterator[tuple[str, Any]]:
    """What a class keeps in Python beyond what Gymnasium takes care of."""
    for name, value in vars(env).items():
        if not name.startswith(("_np_random", "_ezpickle_")) and name not in _TAKEN_CARE_OF:
            yield name, value


def _is_storable(value: Any) -> bool:
    return is_plain(value) or isinstance(value, np.random.Generator)


def _is_fixed(value: Any) -> bool:
    """What the constructor makes and nothing changes."""
    return isinstance(value, gym.Space | Morphology | MappingProxyType) or callable(value) or _is_frozen(value)


def _is_frozen(value: Any) -> bool:
    """Whether a value that is no plain one is made of tuples, texts and the like to the last, and never drawn."""
    if isinstance(value, tuple):
        return all(_is_frozen(item) for item in value)
    return isinstance(value, str | Path | type | gym.Space | Morphology) or callable(value)


def _get_mujoco(env: Any) -> dict[str, Any]:
    state = np.empty(mujoco.mj_stateSize(env.model, _STATE))
    mujoco.mj_getState(env.model, env.data, state, _STATE)
    derived = {name: getattr(env.data, name).copy() for name in _DERIVED}
    return {"state": state, "derived": derived, "model": get_model_state(env.model)}


def _set_mujoco(env: Any, saved: dict[str, Any]) -> None:
    set_model_state(env.model, saved.get("model", {}))
    mujoco.mj_setState(env.model, env.data, saved["state"], _STATE)
    for name, value in saved["derived"].items():
        getattr(env.data, name)[...] = value
