"""What the native backend must know of an environment family.

An adapter turns the state of many simulations into observations, rewards, termination and ``info``, with the arithmetic
of Gymnasium's class, in its order and precision: the tests hold each bit for bit against it. Parameters (such as
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
    :param fields: derived fields of MjData by name, (n_rows, ...), each as Gymnasium would read it: after a step those
        of the last simulation step's begin
    """

    qpos: np.ndarray
    qvel: np.ndarray
    fields: Mapping[str, np.ndarray] = field(default_factory=dict)


@dataclass(slots=True)
class Outcome:
    """What a step gives beside the observation: ``rewards`` (n_rows,) float64, ``terminated`` (n_rows,) bool.

    ``columns()`` makes the arrays behind ``info``, only if somebody looks at one.
    """

    rewards: np.ndarray
    terminated: np.ndarray
    columns: Callable[[], Columns]


class Adapter:
    """One environment family.

    :param prototypes: for every row, an unwrapped environment with its parameters
    """

    fields: ClassVar[tuple[str, ...]] = ()
    """Derived fields of MjData that it reads; ``cfrc_ext`` costs a call for each simulation."""

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
        """Parameters that decide the observation's shape: rows that differ in them cannot share an adapter."""
        return (getattr(prototype, "_exclude_current_positions_from_observation", None),)

    def observe(self, state: State) -> np.ndarray:
        """Return observations (n_rows, obs_dim) float64, not views of the state."""
        raise NotImplementedError

    def position(self, rows: slice, state: State) -> np.ndarray | None:  # noqa: ARG002
        """Where the bodies are, which :meth:`outcome` compares with where they were; not a view of the state."""
        return None

    def outcome(self, rows: slice, before: Any, after: State, actions: np.ndarray) -> Outcome:
        """Rewards, termination and infos.

        :param rows: which rows of the batch they are
        :param before: :meth:`position` at the step's begin
        :param actions: (n_rows, nu) float32
        """
        raise NotImplementedError

    def draw_reset(self, row: int, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """``qpos`` and ``qvel`` of a new episode, drawn as the environment draws them."""
        raise NotImplementedError

    def reset_columns(self, rows: slice, state: State) -> Columns:  # noqa: ARG002
        """Return the arrays behind the info of a reset."""
        return {}

    def get_state(self) -> dict[str, Any]:
        """Return what it keeps of episodes under way, for a checkpoint."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore what :meth:`get_state` gave."""
