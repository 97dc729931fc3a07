"""Faults of sub-environments: numbers and failures from which no algorithm must learn."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

import mujoco
import numpy as np

from sb3_multitask.process.kernels import load_kernels

OnFault: TypeAlias = Literal["stop", "quarantine"]
LIMIT = 1e15
"""Observations, rewards and actions beyond this are faults."""
MAX_CONSECUTIVE_FAULTS = 10
"""Consecutive faults after which a sub-environment is considered broken."""

PHYSICS = {
    int(mujoco.mjtWarning.mjWARN_BADQPOS): "NaN, infinite or huge positions",
    int(mujoco.mjtWarning.mjWARN_BADQVEL): "NaN, infinite or huge velocities",
    int(mujoco.mjtWarning.mjWARN_BADQACC): "NaN, infinite or huge accelerations",
    int(mujoco.mjtWarning.mjWARN_BADCTRL): "NaN or infinite controls (the action)",
}
"""MuJoCo's warnings of failed simulations, which MuJoCo resets by itself and reports in a counter only."""
FIRST_PHYSICS, LAST_PHYSICS = min(PHYSICS), max(PHYSICS)


class Fault(str):
    """A description, as ``info["fault"]`` of a quarantined step; it differs in type from an env's own "fault"."""

    __slots__ = ()


class TaskFault(RuntimeError):  # noqa: N818 (a fault of a task; users catch it by this name)
    """A sub-environment returned, or was given, numbers that cannot be learned from.

    :param task: name of the task
    :param env: index of the sub-environment
    :param step: step of its episode, the first being 1; 0 is the reset
    :param what: description of the fault
    """

    def __init__(self, task: str, env: int, step: int, what: str) -> None:
        super().__init__(f"Task {task!r} (sub-environment {env}) at step {step} of its episode: {what}")
        self.task, self.env, self.step, self.what = task, env, step, what

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.task, self.env, self.step, self.what)


class WorkerError(RuntimeError):
    """A worker of ``backend="subproc"`` or ``"ray"`` raised, died or does not reply; all workers have been ended."""


def bad_rows(kind: str, values: np.ndarray) -> dict[int, str]:
    """Return rows with numbers that are not finite or out of range, and a description of these.

    :param kind: such as "observation"
    :param values: (n_rows, ...)
    """
    kernels = load_kernels("vec_env")
    if kernels is not None and values.dtype.char in "fd" and kernels.are_in_range(values.ravel(), LIMIT):
        return {}
    size = np.abs(values)
    if not size.size or size.item(size.argmax()) < LIMIT:  # false for a NaN, at which argmax stops
        return {}
    flat = size.reshape(len(size), -1)
    rows = (~(flat < LIMIT)).any(axis=1).nonzero()[0].tolist()
    return {row: f"{_adjective(flat[row])} {kind}" for row in rows}


def _adjective(row: np.ndarray) -> str:
    if np.isnan(row).any():
        return "a NaN"
    return "an infinite" if np.isinf(row).any() else f"an out-of-range (beyond {LIMIT:.0e})"


def physics_fault(env: Any) -> str | None:
    """Return MuJoCo's failure in an environment's last step; None without a failure, or without MuJoCo in ``data``."""
    data = getattr(env.unwrapped, "data", None)
    if not isinstance(data, mujoco.MjData):
        return None
    counts = data.warning.number[FIRST_PHYSICS : LAST_PHYSICS + 1]
    fault = describe_physics(counts)
    if fault is not None:
        counts[:] = 0  # an environment's reset need not clear them, and later steps would then count as failed
    return fault


def describe_physics(counts: np.ndarray) -> str | None:
    """Describe MuJoCo's counters from ``FIRST_PHYSICS`` on; None if all are 0."""
    if not counts.any():
        return None
    return f"MuJoCo found {PHYSICS[FIRST_PHYSICS + int(counts.nonzero()[0][0])]} and has reset the simulation"


def is_fault(info: Mapping[str, Any]) -> bool:
    """Return whether a step's info belongs to a quarantined fault."""
    return isinstance(info.get("fault"), Fault)
