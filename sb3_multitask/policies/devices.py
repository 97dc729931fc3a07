"""Devices: nets of this size are fastest on the CPU."""

from __future__ import annotations

import warnings

import torch as th


def device_of(device: th.device | str) -> th.device | str:
    """The device that a model asks for; ``"auto"`` is the CPU, since nets of this size are fastest there."""
    return "cpu" if device == "auto" else device


def advise_cpu(device: object) -> None:
    """Warn of a device on which nets of this size are slower than on the CPU; SB3 knows its own policy only."""
    if isinstance(device, str | th.device) and (kind := th.device(device).type) in ("cuda", "mps", "xpu"):
        warnings.warn(
            f"The policy goes to the device {str(device)!r}: nets of this size train faster on the CPU, where "
            f'A2CMultiTask also has its fast engine. Take device="cpu"; SB3\'s "auto" is {kind} where there is one.',
            stacklevel=3,
        )
