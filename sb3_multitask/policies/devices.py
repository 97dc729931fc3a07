"""Devices: networks of this size are fastest on the CPU."""

from __future__ import annotations

import warnings

import torch as th


def device_of(device: th.device | str) -> th.device | str:
    """Return the device of a model; ``"auto"`` is the CPU, where networks of this size are fastest."""
    return "cpu" if device == "auto" else device


def advise_cpu(device: object) -> None:
    """Warn of a device on which networks of this size are slower than on the CPU; SB3 warns for its own policy only."""
    if isinstance(device, str | th.device) and (kind := th.device(device).type) in ("cuda", "mps", "xpu"):
        warnings.warn(
            f"The policy goes to the device {str(device)!r}: nets of this size train faster on the CPU, where "
            f'A2C and PPO also have a fast engine. Take device="cpu"; SB3\'s "auto" is {kind} where there is one.',
            stacklevel=3,
        )
