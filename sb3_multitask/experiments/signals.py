"""Write a checkpoint on SIGTERM and Ctrl-C, then stop."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from sb3_multitask.checkpoint import TrainingInterrupted

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Stop:
    """Reaction to a signal: during training, stop at the next rollout; at any other time, stop at once.

    ``signum`` is the signal that was received, or None.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._ask: Callable[[str], None] | None = None

    @contextmanager
    def at_next_rollout(self, ask: Callable[[str], None]) -> Iterator[None]:
        """During training, call ``ask`` with the signal's name, which causes a checkpoint and an exception.

        A second signal stops at once.
        """
        self._ask = ask
        try:
            yield
        finally:
            self._ask = None

    def raise_if_asked(self) -> None:
        """Stop now if a signal was received and not yet handled.

        :raises TrainingInterrupted: in that case
        """
        if self.signum is not None:
            raise TrainingInterrupted(signal.Signals(self.signum).name)

    def __call__(self, signum: int, _frame: FrameType | None) -> None:
        is_first, self.signum = self.signum is None, signum
        name = signal.Signals(signum).name
        if self._ask is None or not is_first:
            raise TrainingInterrupted(name)
        self._ask(name)


@contextmanager
def stopping_on_signals() -> Iterator[Stop]:
    """Handle SIGINT and SIGTERM in the main thread; in other threads change nothing."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    previous = {signum: signal.signal(signum, stop) for signum in _SIGNALS}
    try:
        yield stop
    finally:
        for signum, handler in previous.items():
            signal.signal(signum, handler)
