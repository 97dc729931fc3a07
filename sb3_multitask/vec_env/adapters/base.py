"""Adapters tell the native backend about a family of environments.

An adapter turns the state of many simulations into observations, rewards, termination and ``info``, with the arithmetic
of Gymnasium's class, in its order and precision: tests compare them bit for bit. Parameters (such as
``ctrl_cost_weight``) are read from one prototype environment a task and kept per row, so that tasks that differ in them
share one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np

from sb3_multitask.vec_env.infos import Columns


@dataclass(slots=True)
class State:
    """Some simulations at one moment.

    :param qpos: (n_rows, nq)
    :param qvel: (n_rows, nv)
    :param fields: derived fields of MjData by name, (n_rows, ...), as Gymnasium reads them: after a step, those from
        the start of the last simulation step
    """

    qpos: np.ndarray
    qvel: np.ndarray
    fields: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(slots=True)
class Outcome:
    """The results of a step besides the observation: ``rewards`` (n_rows,) float64, ``terminated`` (n_rows,) bool.

    ``columns()`` makes the arrays behind ``info``, and is called only if an info is read.
    """

    rewards: np.ndarray
    terminated: np.ndarray
    columns: Callable[[], Columns]


class Adapter:
    """One environment family.

    :param prototypes: for every row, an unwrapped environment with its parameters
    """

    fields: ClassVar[tuple[str, ...]] = ()
    """Derived fields of MjData that the adapter reads; ``cfrc_ext`` costs a call for each simulation."""

    def __init__(self, prototypes: Sequence[Any]) -> None:
        self.prototypes = prototypes
        self.init_qpos, self.init_qvel = self.per_row("init_qpos"), self.per_row("init_qvel")

    def per_row(self, name: str, dtype: type = np.float64) -> np.ndarray:
        """Return an attribute of every row's prototype."""
        return np.array([getattr(env, name) for env in self.prototypes], dtype=dtype)

    def only(self, name: str) -> Any:
        """Return an attribute that all prototypes share."""
        (value,) = {getattr(env, name) for env in self.prototypes}
        return value

    @classmethod
    def layout(cls, prototype: Any) -> tuple[Any, ...]:
        """Return the parameters that determine the observation's shape: rows that differ in them need two adapters."""
        return (getattr(prototype, "_exclude_current_positions_from_observation", None),)

    def observe(self, state: State) -> np.ndarray:
        """Return observations (n_rows, obs_dim) float64, not views of the state."""
        raise NotImplementedError

    def position(self, rows: slice, state: State) -> np.ndarray | None:  # noqa: ARG002
        """Return the positions of the bodies, which :meth:`outcome` compares over a step; not a view of the state."""
        return None

    def outcome(self, rows: slice, before: Any, after: State, actions: np.ndarray) -> Outcome:
        """Return rewards, termination and infos.

        :param rows: their rows in the batch
        :param before: :meth:`position` before the step
        :param actions: (n_rows, nu) float32
        """
        raise NotImplementedError

    def after_step(self, rows: slice, before: Any, live: State, actions: np.ndarray) -> tuple[np.ndarray, Outcome]:
        """Observations and :meth:`outcome` of a step.

        :param live: views of the simulations, which the next step changes
        """
        fields = {name: array.copy() for name, array in live.fields.items()}
        after = State(live.qpos.copy(), live.qvel.copy(), fields)
        return self.observe(after), self.outcome(rows, before, after, actions)

    def draw_reset(self, row: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Draw ``qpos`` and ``qvel`` of a new episode as the environment does."""
        raise NotImplementedError

    def reset_columns(self, rows: slice, state: State) -> Columns:  # noqa: ARG002
        """Return the arrays behind the info of a reset."""
        return {}

    def get_state(self) -> dict[str, Any]:
        """Return the adapter's state of running episodes, for a checkpoint."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore a state that :meth:`get_state` returned."""
