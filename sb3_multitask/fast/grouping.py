"""Rows in any order, as groups of equal size: what heads take."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Grouping:
    """How B rows of any order become k groups of m rows, the largest group's number.

    :param rows: the row of each place of a group, (k, m); a place too many repeats a row
    :param taken: 1 for places with a row of their own, else 0, (k, m, 1) float32; ``None`` if all have one
    """

    rows: np.ndarray
    taken: np.ndarray | None

    @classmethod
    def of(cls, tasks: np.ndarray, k: int, rows: np.ndarray) -> Grouping:
        """The grouping of rows by their tasks.

        :param tasks: of each row, from 0 to k - 1, (B,)
        :param rows: where each row stands in the rollout, (B,)
        """
        n = np.bincount(tasks, minlength=k)
        order = np.argsort(tasks.astype(np.int16), kind="stable")  # of 16 bits numpy makes a radix sort
        within = np.arange(n.max())
        # Places too many repeat the task's own last row: on a row of another task its head could overflow.
        places = np.minimum(within, np.maximum(n - 1, 0)[:, None])
        places += np.minimum(np.cumsum(n) - n, len(rows) - 1)[:, None]
        is_taken = within < n[:, None]
        return cls(rows[order[places]], None if is_taken.all() else is_taken[:, :, None].astype(np.float32))
