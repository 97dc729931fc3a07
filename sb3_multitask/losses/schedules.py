"""The remaining progress that schedules are functions of: 1 at the start of training, 0 at its end."""

from __future__ import annotations


def in_range(progress_remaining: float) -> float:
    """The remaining progress, kept within [0, 1].

    SB3's falls below 0 in the last update wherever rollouts do not divide ``total_timesteps``, and with it what a
    schedule makes of it: a learning rate ``7e-4 * progress`` would climb the loss.
    """
    return min(max(progress_remaining, 0.0), 1.0)
