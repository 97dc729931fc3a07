"""The order of a rollout's rows: step by step, as from a VecEnv, or task by task, as for heads."""

from __future__ import annotations

import numpy as np


def by_task(rows: np.ndarray, k: int) -> np.ndarray:
    """(n_steps, k * m, dim) -> (k, n_steps * m, dim)."""
    n_steps, n_rows, dim = rows.shape
    grouped = rows.reshape(n_steps, k, n_rows // k, dim).transpose(1, 0, 2, 3)
    return grouped.reshape(k, n_steps * (n_rows // k), dim)


def by_step(grouped: np.ndarray, n_steps: int) -> np.ndarray:
    """(k, n_steps * m, dim) -> (n_steps, k * m, dim), the inverse of :func:`by_task`."""
    k, n, dim = grouped.shape
    m = n // n_steps
    return grouped.reshape(k, n_steps, m, dim).transpose(1, 0, 2, 3).reshape(n_steps, k * m, dim)
