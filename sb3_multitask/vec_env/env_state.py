"""The whole state of one Gymnasium environment, so that it can go on elsewhere to the same bits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv

from sb3_multitask.envs.morphology import Morphology
from sb3_multitask.generators import generator_state, make_generator
from sb3_multitask.plain import is_plain

_WRAPPERS: dict[type, tuple[str, ...]] = {
    gym.wrappers.TimeLimit: ("_elapsed_steps",),
    gym.wrappers.common.OrderEnforcing: ("_has_reset",),
    gym.wrappers.common.PassiveEnvChecker: ("checked_reset", "checked_step", "checked_render"),
    gym.wrappers.ClipAction: (),
    gym.wrappers.RescaleAction: (),
}
"""Wrappers whose state is known: class -> the attributes that hold it."""

_FIXED_MODELS = ("gymnasium.", "sb3_multitask.")
"""Packages whose environments never change their model."""

_STATE = int(mujoco.mjtState.mjSTATE_INTEGRATION)
_DERIVED = (
    *("xpos", "xquat", "xmat", "xipos", "ximat", "geom_xpos", "geom_xmat", "site_xpos", "site_xmat", "subtree_com"),
    *("cinert", "cvel", "cacc", "cfrc_int", "cfrc_ext", "qacc", "sensordata", "actuator_force"),
    *("qfrc_actuator", "qfrc_passive", "qfrc_constraint", "qfrc_bias"),
)
"""What MuJoCo computed in the last step and environments read before the next: not a function of the state alone."""


def wrappers_of(env: gym.Env[Any, Any]) -> Iterator[gym.Wrapper[Any, Any, Any, Any]]:
    """The wrappers around an environment, from the outside in."""
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env


def why_inexact(env: gym.Env[Any, Any]) -> str | None:
    """Why the state of an environment cannot be told in full; None if it can."""
    for layer in _layers(env):
        if _offers_state(layer) or type(layer) in _WRAPPERS:
            continue
        if not isinstance(layer, MujocoEnv):
            return f"{type(layer).__name__} has no get_state() and set_state(state)"
        kept = [name for name, value in _own_attributes(layer) if not _is_storable(value) and not _is_fixed(value)]
        if kept:
            return f"{type(layer).__name__} keeps {', '.join(kept)} and has no get_state() and set_state(state)"
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
            setattr(layer, name, value.copy() if isinstance(value, np.ndarray) else value)
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
            "attributes": {key: value for key, value in own.items() if is_plain(value)},
            "generators": {k: generator_state(v) for k, v in own.items() if isinstance(v, np.random.Generator)},
            "mujoco": _get_mujoco(layer),
        }
    known = _WRAPPERS.get(type(layer), ())
    return {"class": name, "attributes": {attribute: getattr(layer, attribute) for attribute in known}}


# scratch_data: what sensors compute in anew each time
_TAKEN_CARE_OF = ("model", "data", "mujoco_renderer", "spec", "scratch_data")


def _own_attributes(env: Any) -> Iterator[tuple[str, Any]]:
    """What a class keeps in Python beyond what Gymnasium takes care of."""
    for name, value in vars(env).items():
        if not name.startswith("_np_random") and name not in _TAKEN_CARE_OF:
            yield name, value


def _is_storable(value: Any) -> bool:
    return is_plain(value) or isinstance(value, np.random.Generator)


def _is_fixed(value: Any) -> bool:
    """What the constructor makes and nothing changes."""
    return isinstance(value, tuple | gym.Space | Mapping | Morphology) or callable(value)


def _get_mujoco(env: Any) -> dict[str, Any]:
    state = np.empty(mujoco.mj_stateSize(env.model, _STATE))
    mujoco.mj_getState(env.model, env.data, state, _STATE)
    saved = {"state": state, "derived": {name: getattr(env.data, name).copy() for name in _DERIVED}}
    if not type(env).__module__.startswith(_FIXED_MODELS):  # a class that may change its model, as for robustness
        saved["model"] = {name: array.copy() for name, array in _model_arrays(env.model)}
    return saved


def _model_arrays(model: Any) -> Iterator[tuple[str, np.ndarray]]:
    """The numbers of a model that may be written."""
    for name in dir(model):
        array = None if name.startswith("_") else getattr(model, name, None)
        if isinstance(array, np.ndarray) and array.dtype.kind == "f" and array.flags.writeable and array.size:
            yield name, array


def _set_mujoco(env: Any, saved: dict[str, Any]) -> None:
    for name, value in saved.get("model", {}).items():
        getattr(env.model, name)[...] = value
    mujoco.mj_setState(env.model, env.data, saved["state"], _STATE)
    for name, value in saved["derived"].items():
        getattr(env.data, name)[...] = value
