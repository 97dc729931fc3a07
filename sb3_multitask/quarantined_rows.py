"""Rows of a rollout that an update leaves out, since a fault was quarantined there."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch as th


def rows_without_faults(faulty: Sequence[tuple[int, int]], episode_starts: np.ndarray) -> np.ndarray | None:
    """Which rows an update is made of, (n_steps, n_envs) bool; None for all.

    A fault takes with it the steps before it of the same episode, whose returns would have gone on through it.

    :param faulty: (step, env) of each fault
    :param episode_starts: (n_steps, n_envs)
    """
    if not faulty:
        return None
    keep = np.ones(episode_starts.shape[:2], dtype=bool)
    for step, i in faulty:
        starts = episode_starts[: step + 1, i].nonzero()[0]
        keep[(starts[-1] if len(starts) else 0) : step + 1, i] = False
    return keep


def only_rows(data: Any, targets: tuple[th.Tensor, th.Tensor] | None, rows: th.Tensor) -> tuple[Any, Any]:
    """A batch's samples, and the teachers' targets for them, of some rows only.

    :param data: SB3's ``DictRolloutBufferSamples``
    :param targets: the teachers' means and log-stds, (batch, action_dim) each
    :param rows: (batch,) bool
    """
    observations = {name: value[rows] for name, value in data.observations.items()}
    others = {name: getattr(data, name)[rows] for name in data._fields if name != "observations"}
    kept = data._replace(observations=observations, **others)
    return kept, None if targets is None else tuple(target[rows] for target in targets)
