"""Simulations of one layout in one ``mujoco.batch.Batch``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import mujoco
import numpy as np
from gymnasium.utils import seeding

from sb3_multitask.envs.readings import WithReadings
from sb3_multitask.process.generators import generator_state, make_generator
from sb3_multitask.process.kernels import load_kernels
from sb3_multitask.process.mujoco_install import Batch
from sb3_multitask.vec_env.adapters import ADAPTERS, State, readings_of
from sb3_multitask.vec_env.backends import Info, Transitions
from sb3_multitask.vec_env.faults import FIRST_PHYSICS, LAST_PHYSICS, describe_physics
from sb3_multitask.vec_env.infos import ColumnInfos
from sb3_multitask.vec_env.mujoco_model import SharedModel
from sb3_multitask.vec_env.success import says_success, success_in
from sb3_multitask.vec_env.wrappers import time_limit_of

BATCH_IS_MISSING = Batch is None

_CONTACT_FORCES = "cfrc_ext"
_NO_STAGE = 0  # mjSTAGE_NONE: compute nothing more after a step, as in Gymnasium


class BatchRefusedError(ValueError):
    """MuJoCo's batch refuses a model; the message names the task and the reason."""


class SimulationGroup:
    """The simulations of consecutive tasks whose models have the same layout, in one batch."""

    def __init__(self, prototype: gym.Env[Any, Any], row: int) -> None:
        self.start, self.stop = row, row + 1
        self._key = _layout(prototype)
        self._envs = [prototype]

    def can_take(self, prototype: gym.Env[Any, Any]) -> bool:
        if _layout(prototype) != self._key:
            return False
        mine, model = (env.unwrapped.model for env in (self._envs[-1], prototype))  # type: ignore[attr-defined]
        return mine is model or _share_layout(mine, model)

    def take(self, prototype: gym.Env[Any, Any]) -> None:
        """Add a simulation with the parameters of ``prototype``."""
        self.stop += 1
        self._envs.append(prototype)

    def build(self, n_threads: int) -> None:
        unwrapped: list[Any] = [env.unwrapped for env in self._envs]
        n_sims = len(unwrapped)
        adapter_class = ADAPTERS[type(unwrapped[0])]
        with_forces = _CONTACT_FORCES in adapter_class.fields
        self.models = [env.model for env in unwrapped]
        try:
            self.batch = Batch(self.models[0], n_sims, min(n_threads, n_sims), persistent=with_forces)
            self.batch.set_models(self.models)
        except (mujoco.FatalError, ValueError) as e:
            raise BatchRefusedError(f"MuJoCo's batch refuses its model: {e}") from e
        rows = {id(model): row for row, model in reversed(list(enumerate(self.models)))}  # the first row of each model
        self._models = {str(row): SharedModel(self.models[row]) for row in rows.values()}
        self.adapter = adapter_class(unwrapped)
        self.readings = readings_of(unwrapped, self.batch)
        self.frame_skip: int = unwrapped[0].frame_skip
        self.max_episode_steps = np.array([_max_episode_steps(env) for env in self._envs])
        self.elapsed = np.zeros(n_sims, dtype=np.int64)
        self.generators: list[np.random.Generator | None] = [None] * n_sims
        # live, strided views of the state rows: copied before they are handed out
        self.qpos, self.qvel, self.ctrl = (self.batch.bind(name) for name in ("qpos", "qvel", "ctrl"))
        self._warnings = self.batch.warning[:, FIRST_PHYSICS : LAST_PHYSICS + 1, 1]  # live, too
        self.action_dim: int = self.ctrl.shape[1]
        self._ids = np.arange(n_sims, dtype=np.int32)
        self._bound = {name: self.batch.bind(name) for name in self.adapter.fields if name != _CONTACT_FORCES}
        # what Gymnasium would read now: the batch's own are those of its last call, whatever it was for
        self._fields = {name: array.copy() for name, array in self._bound.items()}
        self._forces = _ContactForces(self.batch, unwrapped) if with_forces else None
        if self._forces is not None:
            self._fields[_CONTACT_FORCES] = self._forces.make()
        self._views: dict[tuple[int, int], State] = {}
        self._says_success: bool | None = None  # not known before the first step

    def reset(self, ids: np.ndarray, seeds: Sequence[int | None]) -> tuple[np.ndarray, list[Info]]:
        """Start new episodes in the simulations ``ids``; return observations and reset infos."""
        self._start_episodes(ids, seeds)
        state = self._state(ids)
        infos = ColumnInfos(len(ids), lambda: self.adapter.reset_columns(slice(ids[0], ids[-1] + 1), state), [])
        for info in infos:
            del info["TimeLimit.truncated"]
        return self._observe(ids, state), list(infos)

    def _start_episodes(self, ids: np.ndarray, seeds: Sequence[int | None]) -> None:
        self.batch.reset(ids, stage=_NO_STAGE)
        for row, seed in zip(ids.tolist(), seeds, strict=True):
            generator = self.generators[row]
            if generator is None or seed is not None:
                generator = self.generators[row] = seeding.np_random(seed)[0]
            if self.readings is not None:
                self.readings.place(row, generator)
            self.qpos[row], self.qvel[row] = self.adapter.draw_reset(row, generator)
        self.batch.forward(ids)
        self.elapsed[ids] = 0
        self._keep_fields(ids)
        if self._forces is not None:
            self._fields[_CONTACT_FORCES][ids] = 0  # Gymnasium computes them after steps only

    def step(self, own: slice, actions: np.ndarray) -> Transitions:
        """Advance the simulations of ``own`` by one environment step; start new episodes where one ended."""
        ids = self._ids[own]
        live = self._live(own)
        before = self.adapter.position(own, live)
        self.ctrl[own] = actions
        self._advance(own)
        faults = self._failed(own)
        self._keep_fields(own)
        if self._forces is not None:
            self._forces.compute(ids, self._fields[_CONTACT_FORCES])
        obs, outcome = self.adapter.after_step(own, before, live, actions)
        if self.readings is not None:
            obs = self.readings.append(ids, obs)
        truncated, dones, ended = self._end_of_step(own, outcome.terminated)
        infos = ColumnInfos(len(obs), outcome.columns, ended.tolist())
        if self._says_success is None:  # the columns are the same in every step, and made where they are read
            self._says_success = says_success(infos.columns())
        success = success_in(infos.columns()) if self._says_success else None
        for i in infos.ended:
            infos[i]["TimeLimit.truncated"] = bool(truncated[i] and not outcome.terminated[i])
            infos[i]["terminal_observation"] = obs[i].copy()
        if infos.ended:
            ids = ended + own.start
            self._start_episodes(ids, [None] * len(ids))
            obs[ended] = self._observe(ids, self._now(ids))
        return Transitions(obs, outcome.rewards, dones, infos, faults, success)

    def _end_of_step(self, own: slice, terminated: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Count a step; return whether episodes reach their time limit, whether they end, and the rows of those."""
        kernels, elapsed, limits = load_kernels("vec_env"), self.elapsed[own], self.max_episode_steps[own]  # views
        if kernels is not None:
            truncated, dones, ended = kernels.end_of_step(elapsed, limits, terminated)
            return truncated, dones, ended
        elapsed += 1
        truncated = elapsed >= limits
        dones = terminated | truncated
        return truncated, dones, dones.nonzero()[0]

    def _live(self, own: slice) -> State:
        """Return views of the state of simulations, which their next step changes."""
        key = own.start, own.stop
        if key not in self._views:
            self._views[key] = self._now(own)
        return self._views[key]

    def _now(self, rows: slice | np.ndarray) -> State:
        """Return the state of simulations for use before their next step, since a slice selects views."""
        fields = {name: array[rows] for name, array in self._fields.items()}
        return State(self.qpos[rows], self.qvel[rows], fields)

    def _state(self, rows: slice | np.ndarray) -> State:
        """Return a copy of the state of simulations."""
        fields = {name: array[rows].copy() for name, array in self._fields.items()}
        return State(self.qpos[rows].copy(), self.qvel[rows].copy(), fields)

    def _observe(self, ids: np.ndarray, state: State) -> np.ndarray:
        obs = self.adapter.observe(state)
        return obs if self.readings is None else self.readings.append(ids, obs)

    def _keep_fields(self, rows: slice | np.ndarray) -> None:
        for name, bound in self._bound.items():
            self._fields[name][rows] = bound[rows]

    def get_state(self) -> dict[str, Any]:
        """Return the complete state, which determines the next steps of the simulations."""
        return {
            "state": self.batch.state.copy(),
            "warning": self.batch.warning.copy(),
            "elapsed": self.elapsed.copy(),
            "generators": [generator_state(generator) for generator in self.generators],
            "fields": {name: array.copy() for name, array in self._fields.items()},
            "adapter": self.adapter.get_state(),
            "models": {row: model.get_state() for row, model in self._models.items() if model.has_changed()},
        }

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore a state that :meth:`get_state` returned."""
        self.batch.state[...] = state["state"]
        self.batch.warning[...] = state["warning"]
        self.elapsed[...] = state["elapsed"]
        self.generators = [make_generator(generator) for generator in state["generators"]]
        for name, array in state.get("fields", {}).items():
            self._fields[name][...] = array
        self.adapter.set_state(state.get("adapter", {}))
        for row, model in self._models.items():
            model.set_state(state.get("models", {}).get(row))

    def _advance(self, own: slice) -> None:
        """Make the native call, without MuJoCo's messages on the terminal: its counters have the same information."""
        everything = own.stop - own.start == len(self._ids)
        previous = mujoco.get_mju_user_warning()
        mujoco.set_mju_user_warning(_ignore)
        try:
            self.batch.step(None if everything else self._ids[own], self.frame_skip, _NO_STAGE)
        finally:
            mujoco.set_mju_user_warning(previous)

    def _failed(self, own: slice) -> dict[int, str]:
        """Return the simulations of ``own`` that failed in their last step, by counters that a reset clears."""
        if not np.count_nonzero(self._warnings):
            return {}
        found = {row: describe_physics(counts) for row, counts in enumerate(self._warnings[own])}
        return {row: what for row, what in found.items() if what is not None}


class _ContactForces:
    """``cfrc_ext``, which MuJoCo computes only on demand, one simulation after the other."""

    def __init__(self, batch: Any, envs: Sequence[Any]) -> None:
        self.batch = batch
        self.models = [env.model for env in envs]
        self.n_obstacles = len(getattr(envs[0], "obstacles", ()))
        self.scratch = mujoco.MjData(self.models[0])

    def make(self) -> np.ndarray:
        return np.zeros((len(self.models), self.models[0].nbody, 6))

    def compute(self, ids: np.ndarray, forces: np.ndarray) -> None:
        """Write the forces of the simulations ``ids``; those on obstacles are 0, as in their environments."""
        n_robot = forces.shape[1] - self.n_obstacles
        for i in ids.tolist():
            self.batch.get_data(i, self.scratch)
            mujoco.mj_rnePostConstraint(self.models[i], self.scratch)
            forces[i, :n_robot] = self.scratch.cfrc_ext[:n_robot]


def _ignore(_message: str) -> None:
    """Drop a message of MuJoCo."""


def _layout(env: gym.Env[Any, Any]) -> tuple[Any, ...]:
    """Return a key that is equal for tasks that can share a batch and an adapter."""
    unwrapped: Any = env.unwrapped
    return (
        ADAPTERS[type(unwrapped)],
        _readings_key(unwrapped),
        unwrapped.frame_skip,
        ADAPTERS[type(unwrapped)].layout(unwrapped),
    )


def _share_layout(model: Any, other: Any) -> bool:
    """Return whether MuJoCo itself takes both models into one batch."""
    try:
        Batch(model, 2, 1).set_models([model, other])
    except (mujoco.FatalError, ValueError):
        return False
    return True


def _max_episode_steps(env: gym.Env[Any, Any]) -> int:
    """Return the time limit around an environment, in steps; the largest integer without one."""
    limit = time_limit_of(env)
    return int(np.iinfo(np.int64).max) if limit is None else limit


def _readings_key(env: Any) -> type | None:
    """Return a key of the readings: environments with different readings cannot share a group."""
    return type(env) if isinstance(env, WithReadings) else None
