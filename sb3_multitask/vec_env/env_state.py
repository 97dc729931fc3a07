"""The whole state of one Gymnasium environment, so that it can go on elsewhere to the same bits."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium.envs.mujoco import MujocoEnv

from sb3_multitask.generators import generator_state, make_generator

_WRAPPERS: dict[type, tuple[str, ...]] = {
    gym.wrappers.TimeLimit: ("_elapsed_steps",),
    gym.wrappers.common.OrderEnforcing: ("_has_reset",),
    gym.wrappers.common.PassiveEnvChecker: ("checked_reset", "checked_step", "checked_render"),
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


def wrappers_of(env: gym.Env[Any, Any]) -> Iterator[gym.Wrapper[Any, Any, Any, Any]]:
    """The wrappers around an environment, from the outside in."""
    while isinstance(env, gym.Wrapper):
        yield env
        env = env.env


def why_inexact(env: gym.Env[Any, Any]) -> str | None:
    """Why the state of an environment cannot be told in full; None if it can."""
    for layer in _layers(env):
        if _offers_state(layer) or type(layer) in _WRAPPERS or isinstance(layer, MujocoEnv):
            continue
        return f"{type(layer).__name__} has no get_state() and set_state(state)"
    return None


def get_env_state(env: gym.Env[Any, Any]) -> dict[str, Any]:
    """Everything that decides what an environment does next, as far as it can be told (:func:`why_inexact`).

    MuJoCo's environments and Gymnasium's usual wrappers are known. Any other environment or wrapper takes part by
    ``get_state()``, which returns dicts, lists, plain values and arrays for itself and what it wraps, and
    ``set_state(state)``. Random numbers from ``self.np_random`` are taken care of.
    """
    generator = generator_state(env.unwrapped._np_random)
    return {"np_random": generator, "layers": [_layer_state(layer) for layer in _layers(env)]}


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
        if "mujoco" in saved:
            _set_mujoco(layer, saved["mujoco"])
    env.unwrapped._np_random = make_generator(state["np_random"])


class StatefulEnv(gym.Wrapper[Any, Any, Any, Any]):
    """Outermost wrapper in a worker process, through which the process outside reaches the state."""

    def why_inexact(self) -> str | None:
        return why_inexact(self.env)

    def get_env_state(self) -> dict[str, Any]:
        return get_env_state(self.env)

    def set_env_state(self, state: dict[str, Any]) -> None:
        set_env_state(self.env, state)


def _layers(env: gym.Env[Any, Any]) -> Iterator[Any]:
    """Wrappers and environment from the outside in, down to the first that tells the state of all it wraps."""
    for layer in (*wrappers_of(env), env.unwrapped):
        yield layer
        if _offers_state(layer):
            return


def _offers_state(layer: Any) -> bool:
    return callable(getattr(type(layer), "get_state", None)) and callable(getattr(type(layer), "set_state", None))


def _layer_state(layer: Any) -> dict[str, Any]:
    name = type(layer).__name__
    if _offers_state(layer):
        return {"class": name, "own": layer.get_state()}
    if isinstance(layer, MujocoEnv):
        return {"class": name, "attributes": _plain_attributes(layer), "mujoco": _get_mujoco(layer)}
    known = _WRAPPERS.get(type(layer), ())
    return {"class": name, "attributes": {attribute: getattr(layer, attribute) for attribute in known}}


def _plain_attributes(env: Any) -> dict[str, Any]:
    """Counters and arrays that a subclass keeps in Python."""
    plain = (bool, int, float, str, type(None), np.ndarray)
    return {
        name: value
        for name, value in vars(env).items()
        if isinstance(value, plain)
        and not name.startswith("_np_random")
        and not (isinstance(value, np.ndarray) and value.dtype.hasobject)
    }


def _get_mujoco(env: Any) -> dict[str, Any]:
    state = np.empty(mujoco.mj_stateSize(env.model, _STATE))
    mujoco.mj_getState(env.model, env.data, state, _STATE)
    return {"state": state, "derived": {name: getattr(env.data, name).copy() for name in _DERIVED}}


def _set_mujoco(env: Any, saved: dict[str, Any]) -> None:
    mujoco.mj_setState(env.model, env.data, saved["state"], _STATE)
    for name, value in saved["derived"].items():
        getattr(env.data, name)[...] = value
