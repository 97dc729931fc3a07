"""Turn MuJoCo's own messages into warnings, so that they go neither to the terminal nor to ``MUJOCO_LOG.TXT``."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager

import mujoco

# Gymnasium's own half_cheetah.xml asks for it; MuJoCo 4.0 calls it deprecated at every compile.
_EXPECTED = ("settotalmass",)


@contextmanager
def mujoco_messages_as_warnings() -> Iterator[None]:
    """Turn MuJoCo's messages into Python warnings, except for those that are known to be harmless.

    By default MuJoCo prints a message to stderr and appends it to ``MUJOCO_LOG.TXT`` in the working folder.
    """
    messages: list[str] = []
    previous = mujoco.get_mju_user_warning()
    mujoco.set_mju_user_warning(messages.append)
    try:
        yield
    finally:
        mujoco.set_mju_user_warning(previous)
    for message in messages:
        if not any(expected in message for expected in _EXPECTED):
            warnings.warn(f"MuJoCo: {message}", RuntimeWarning, stacklevel=3)
