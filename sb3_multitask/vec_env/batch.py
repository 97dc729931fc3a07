"""The native backend: all simulations of all tasks in one call of ``mujoco.batch``, on all cores."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import Any, Never, TypeAlias

import gymnasium as gym
import mujoco
import numpy as np

from sb3_multitask.envs.task_space import padded
from sb3_multitask.process.threads import physics_threads
from sb3_multitask.tasks import Task
from sb3_multitask.vec_env.adapters import ADAPTERS
from sb3_multitask.vec_env.backends import Info, Transitions
from sb3_multitask.vec_env.batch_group import BATCH_IS_MISSING, BatchRefusedError, SimulationGroup
from sb3_multitask.vec_env.copies import Copies
from sb3_multitask.vec_env.infos import JoinedInfos
from sb3_multitask.vec_env.success import NOT_SAID
from sb3_multitask.vec_env.wrappers import OrderEnforcing, PassiveEnvChecker, TimeLimit, kind_of, wrappers_of

_NO_ENVS = 'backend="batch" has no environment objects; make the VecEnv with backend="dummy"'
Prototypes: TypeAlias = tuple[Task, list[gym.Env[Any, Any]]]
_KNOWN_WRAPPERS = (TimeLimit, OrderEnforcing, PassiveEnvChecker)


def why_not_batch(prototypes: Sequence[Prototypes], render_mode: str | None) -> str | None:
    """Return why these tasks cannot run in a batch; None if they can."""
    if BATCH_IS_MISSING:
        return f"it needs mujoco.batch, which MuJoCo {mujoco.__version__} does not have (>= 3.17 does)"
    if render_mode is not None:
        return f"it has no environments to render (render_mode={render_mode!r})"
    for task, env in ((task, env) for task, envs in prototypes for env in envs):
        if type(env.unwrapped) not in ADAPTERS:
            name = type(env.unwrapped).__name__
            return f"it has no adapter for task {task.name!r} ({name}); sb3_multitask.register_adapter takes one"
        unknown = [type(wrapper).__name__ for wrapper in wrappers_of(env) if kind_of(wrapper) not in _KNOWN_WRAPPERS]
        if unknown:
            return f"task {task.name!r} is wrapped with {', '.join(unknown)}, which it would leave out"
    return None


def _joined_obs(parts: Sequence[np.ndarray]) -> np.ndarray:
    """Join the observations of several groups, padded to the widest."""
    width = max(obs.shape[1] for obs in parts)
    return np.concatenate([padded(obs, width) for obs in parts])


def _joined_success(steps: Sequence[Transitions]) -> np.ndarray | None:
    """Join what the rows of several groups say of success; None if no group says anything."""
    if all(step.success is None for step in steps):
        return None
    return np.concatenate(
        [np.full(len(step.dones), NOT_SAID, np.int8) if step.success is None else step.success for step in steps]
    )


_STATE = ("data", "np_random", "state", "unwrapped", "env")


class _StateError(NotImplementedError, AttributeError):
    """Raised for the state of an environment, which this backend does not have; ``has_attr`` is then false."""


class BatchBackend:
    """Steps every simulation in native code, bit for bit as Gymnasium's environments would.

    :param prototypes: every task with its environments: one for all copies, or one per copy
    :param copies: simulations of each task
    :param n_threads: threads for the physics; ``None`` takes torch's number
    """

    def __init__(self, prototypes: Sequence[Prototypes], copies: Copies, n_threads: int | None) -> None:
        self.copies = copies
        self.prototypes = [envs for _, envs in prototypes]
        self.names = [task.name for task, _ in prototypes]
        self.n_sims = copies.n_rows
        self.n_threads = physics_threads(n_threads, self.n_sims)
        self.groups = self._make_groups()
        self._places: dict[tuple[int, int], list[tuple[SimulationGroup, slice, slice]]] = {}
        self._actions: np.ndarray | None = None

    def _make_groups(self) -> list[SimulationGroup]:
        """Make one batch for each sequence of rows whose models have the same layout: usually one for all."""
        groups: list[SimulationGroup] = []
        for row in range(self.n_sims):
            prototype = self._prototype(row)
            if groups and groups[-1].can_take(prototype):
                groups[-1].take(prototype)
            else:
                groups.append(SimulationGroup(prototype, row))
        for group in groups:
            try:
                group.build(self.n_threads)
            except BatchRefusedError as e:
                raise BatchRefusedError(f"task {self.names[self.copies.place(group.start)[0]]!r}: {e}") from e
        return groups

    def _prototype(self, row: int) -> gym.Env[Any, Any]:
        task, index = self.copies.place(row)
        return self.prototypes[task][index % len(self.prototypes[task])]

    def _parts(self, rows: slice) -> list[tuple[SimulationGroup, slice, slice]]:
        """Return the groups that ``rows`` touches: (group, its own rows, their place within ``rows``)."""
        key = rows.start, rows.stop
        if key not in self._places:
            self._places[key] = list(self._find_parts(rows))
        return self._places[key]

    def _find_parts(self, rows: slice) -> Iterator[tuple[SimulationGroup, slice, slice]]:
        start, stop, _ = rows.indices(self.n_sims)
        for group in self.groups:
            first, last = max(start, group.start), min(stop, group.stop)
            if first < last:
                yield group, slice(first - group.start, last - group.start), slice(first - start, last - start)

    def reset(
        self,
        rows: slice,
        seeds: Sequence[int | None],
        options: Sequence[Info],
    ) -> tuple[np.ndarray, list[Info]]:
        if any(options):
            warnings.warn(
                f'The environments of backend="batch" have no reset options, so {next(filter(None, options))!r:.100} '
                'changes nothing. An environment that reads options runs on backend="dummy".',
                stacklevel=4,
            )
        obs, infos = [], []
        for group, own, place in self._parts(rows):
            group_obs, group_infos = group.reset(np.arange(own.start, own.stop), seeds[place])
            obs.append(group_obs)
            infos.extend(group_infos)
        return _joined_obs(obs), infos

    def reset_row(self, row: int) -> np.ndarray:
        obs, _ = self.reset(slice(row, row + 1), [None], [{}])
        return np.asarray(obs[0])

    def send(self, rows: slice, actions: np.ndarray) -> None:  # noqa: ARG002
        self._actions = np.asarray(actions, dtype=np.float32, order="C")

    def receive(self, rows: slice) -> Transitions:
        assert self._actions is not None
        parts = self._parts(rows)
        if not parts:
            raise RuntimeError("The VecEnv is closed; make another")
        if len(parts) == 1:
            group, own, _ = parts[0]
            return group.step(own, self._of_group(group, slice(None)))
        steps = [group.step(own, self._of_group(group, place)) for group, own, place in parts]
        return Transitions(
            _joined_obs([step.obs for step in steps]),
            np.concatenate([step.rewards for step in steps]),
            np.concatenate([step.dones for step in steps]),
            JoinedInfos([step.infos for step in steps]),
            {
                place.start + i: what
                for (*_, place), step in zip(parts, steps, strict=True)
                for i, what in step.faults.items()
            },
            _joined_success(steps),
        )

    def _of_group(self, group: SimulationGroup, place: slice) -> np.ndarray:
        """The actions for a group, without their padding."""
        assert self._actions is not None
        actions: np.ndarray = self._actions[place]
        return actions if actions.shape[1] == group.action_dim else np.ascontiguousarray(actions[:, : group.action_dim])

    def get_attr(self, row: int, name: str) -> Any:
        """Return an attribute of the row's prototype, which has the environment's parameters but not its state."""
        if name in _STATE or name.startswith(("_elapsed", "_has_reset")):
            raise _StateError(f"{name!r} cannot be read: {_NO_ENVS}")
        return self._prototype(row).get_wrapper_attr(name)

    def set_attr(self, row: int, name: str, value: Any) -> Never:
        raise NotImplementedError(f"{name!r} cannot be set: {_NO_ENVS}")

    def call(self, row: int, name: str, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Never:
        raise NotImplementedError(f"{name!r} cannot be called: {_NO_ENVS}")

    def is_wrapped(self, row: int, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]]) -> bool:
        wrappers = wrappers_of(self._prototype(row))
        return any(isinstance(wrapper, wrapper_class) for wrapper in wrappers)

    def why_inexact(self) -> list[str | None]:
        return [None] * self.n_sims

    def get_state(self) -> list[dict[str, Any]]:
        return [group.get_state() for group in self.groups]

    def set_state(self, state: list[dict[str, Any]]) -> None:
        for group, saved in zip(self.groups, state, strict=True):
            group.set_state(saved)

    def close(self) -> None:
        for envs in self.prototypes:
            for env in envs:
                env.close()
        self.groups, self._places = [], {}
