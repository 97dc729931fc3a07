"""The complete state of one Gymnasium environment, from which another continues with the same bits."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Iterator
from pathlib import Path
from types import MappingProxyType
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv

from sb3_multitask.envs.flattening import FlatObservation
from sb3_multitask.envs.morphology import Morphology
from sb3_multitask.process.generators import generator_state, make_generator
from sb3_multitask.storage.plain import is_plain
from sb3_multitask.vec_env.mujoco_model import get_model_state, set_model_state, why_untold
from sb3_multitask.vec_env.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit, kind_of, wrappers_of

_WRAPPERS: dict[type, tuple[str, ...]] = {
    TimeLimit: ("_elapsed_steps",),
    OrderEnforcing: ("_has_reset",),
    PassiveEnvChecker: ("checked_reset", "checked_step", "checked_render"),
    gym.wrappers.ClipAction: (),
    gym.wrappers.RescaleAction: (),
    FlatObservation: (),
}
"""Known wrappers: class -> the attributes that hold its state."""

_STATE = int(mujoco.mjtState.mjSTATE_INTEGRATION)
_DERIVED = (
    *(
        "xpos",
        "xquat",
        "xmat",
        "xipos",
        "ximat",
        "xanchor",
        "xaxis",
        "geom_xpos",
        "geom_xmat",
        "site_xpos",
        "site_xmat",
    ),
    *("cam_xpos", "cam_xmat", "light_xpos", "light_xdir", "subtree_com", "subtree_linvel", "subtree_angmom"),
    *("cinert", "crb", "cdof", "cdof_dot", "cvel", "cacc", "cfrc_int", "cfrc_ext", "qacc", "qacc_smooth", "act_dot"),
    *("actuator_length", "actuator_velocity", "actuator_force", "ten_length", "ten_velocity", "sensordata", "energy"),
    *("qfrc_actuator", "qfrc_passive", "qfrc_spring", "qfrc_damper", "qfrc_gravcomp", "qfrc_fluid", "qfrc_smooth"),
    *("qfrc_constraint", "qfrc_bias", "qfrc_inverse", "solver_niter", "flexvert_xpos", "flexedge_length"),
)
"""Fields of the last step that environments read before the next one, and that do not follow from the state.

Contacts are not among them: a checkpoint does not hold the contacts that an environment reads *before* it steps.
"""


def why_inexact(env: gym.Env[Any, Any]) -> str | None:
    """Return why the state of an environment cannot be read completely; None if it can."""
    for layer in _layers(env):
        if _offers_state(layer) or kind_of(layer) in _WRAPPERS:
            continue
        if not isinstance(layer, MujocoEnv | gym.Wrapper):
            return f"{type(layer).__name__} has no get_state() and set_state(state)"
        kept = [name for name, value in _own_attributes(layer) if not _is_storable(value) and not _is_fixed(value)]
        if kept:
            return f"{type(layer).__name__} keeps {', '.join(kept)} and has no get_state() and set_state(state)"
        if isinstance(layer, MujocoEnv) and (reason := why_untold(layer.model)) is not None:
            return f"{type(layer).__name__} {reason}"
    return None


def get_env_state(env: gym.Env[Any, Any]) -> dict[str, Any]:
    """Return the state that determines an environment's next steps, as far as it is known (:func:`why_inexact`).

    MuJoCo's environments and Gymnasium's usual wrappers are known, and wrappers that keep plain values only. Any other
    environment or wrapper takes part by ``get_state()``, which returns dicts, lists, plain values and arrays for itself
    and what it wraps, and ``set_state(state)``. The generator ``self.np_random`` is part of the state.
    """
    return {
        "np_random": generator_state(env.unwrapped._np_random),
        "action_space": generator_state(env.unwrapped.action_space._np_random),
        "observation_space": generator_state(env.unwrapped.observation_space._np_random),
        "observation_parts": [generator_state(part._np_random) for part in _parts_of(env.unwrapped.observation_space)],
        "layers": [_layer_state(layer) for layer in _layers(env)],
    }


def set_env_state(env: gym.Env[Any, Any], state: dict[str, Any]) -> None:
    """Restore a state that :func:`get_env_state` returned, in an environment made in the same way."""
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
    _set_generators(env, state)


def _set_generators(env: gym.Env[Any, Any], state: dict[str, Any]) -> None:
    """Restore the generators of an environment and its spaces; older checkpoints lack some of them."""
    env.unwrapped._np_random = make_generator(state["np_random"])
    spaces: dict[str, Any] = {name: getattr(env.unwrapped, name) for name in ("action_space", "observation_space")}
    for name, space in spaces.items():
        if name in state:
            space._np_random = make_generator(state[name])
    if "observation_parts" in state:
        parts = _parts_of(env.unwrapped.observation_space)
        for part, generator in zip(parts, state["observation_parts"], strict=True):
            part._np_random = make_generator(generator)


def _parts_of(space: gym.Space[Any]) -> Iterator[Any]:
    """Yield the parts of a dictionary or a tuple: an environment may draw its goal from the space of the goal."""
    if isinstance(space, gym.spaces.Dict | gym.spaces.Tuple):
        for part in space.spaces.values() if isinstance(space, gym.spaces.Dict) else space.spaces:
            yield part
            yield from _parts_of(part)


def _layers(env: gym.Env[Any, Any]) -> Iterator[Any]:
    """Yield wrappers and environment from the outside in, down to the first whose state includes all it wraps."""
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
    if kind_of(layer) in _WRAPPERS:
        return {"class": name, "attributes": {known: getattr(layer, known) for known in _WRAPPERS[kind_of(layer)]}}
    own = dict(_own_attributes(layer))
    state = {
        "class": name,
        "attributes": {key: copy.deepcopy(value) for key, value in own.items() if is_plain(value)},
        "generators": {k: generator_state(v) for k, v in own.items() if isinstance(v, np.random.Generator)},
    }
    return {**state, "mujoco": _get_mujoco(layer)} if isinstance(layer, MujocoEnv) else state


_RESTORED_SEPARATELY = ("model", "data", "mujoco_renderer", "spec")
_OF_GYMNASIUM = ("_np_random", "_np_random_seed", "_ezpickle_args", "_ezpickle_kwargs")
_OF_WRAPPERS = ("env", "_action_space", "_observation_space", "_metadata", "_cached_spec", "_saved_kwargs")


def _own_attributes(env: Any) -> Iterator[tuple[str, Any]]:
    """Yield the attributes of a class in Python that Gymnasium's state does not include."""
    if isinstance(env, gym.Wrapper):
        yield from ((name, value) for name, value in vars(env).items() if name not in _OF_WRAPPERS)
        return
    if not isinstance(env, MujocoEnv):
        return
    for name, value in vars(env).items():
        # an MjData besides the environment's own is scratch memory of sensors
        is_scratch = name == "scratch_data" and isinstance(value, mujoco.MjData)
        if name not in (*_RESTORED_SEPARATELY, *_OF_GYMNASIUM) and not is_scratch:
            yield name, value


def _is_storable(value: Any) -> bool:
    return is_plain(value) or isinstance(value, np.random.Generator)


def _is_fixed(value: Any) -> bool:
    """Return whether a value is made by the constructor and never changes."""
    return isinstance(value, gym.Space | Morphology | MappingProxyType) or _is_frozen(value)


def _is_frozen(value: Any) -> bool:
    """Return whether a value consists of tuples, texts and other immutable values, which are never drawn."""
    if isinstance(value, tuple):
        return all(_is_frozen(item) for item in value)
    return isinstance(value, str | Path | type | gym.Space | Morphology) or _is_stateless(value)


def _is_stateless(value: Any) -> bool:
    """Return whether a value is a function without state; an object with ``__call__`` may have state."""
    function = getattr(value, "__func__", value)  # of methods
    if not inspect.isroutine(function):
        return isinstance(value, np.ufunc)
    return not (getattr(function, "__closure__", None) or getattr(function, "__defaults__", None))


def _get_mujoco(env: Any) -> dict[str, Any]:
    state = np.empty(mujoco.mj_stateSize(env.model, _STATE))
    mujoco.mj_getState(env.model, env.data, state, _STATE)
    derived = {name: getattr(env.data, name).copy() for name in _DERIVED if hasattr(env.data, name)}
    return {"state": state, "derived": derived, "model": get_model_state(env.model)}


def _set_mujoco(env: Any, saved: dict[str, Any]) -> None:
    set_model_state(env.model, saved.get("model", {}))
    mujoco.mj_setState(env.model, env.data, saved["state"], _STATE)
    for name, value in saved["derived"].items():
        getattr(env.data, name)[...] = value
