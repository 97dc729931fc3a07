"""The connection of this process to a Ray cluster; needs the extra ``ray``."""

from __future__ import annotations

import logging
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import ClassVar


def import_ray(what: str) -> ModuleType:
    """Import Ray, whose usage statistics stay off unless ``RAY_USAGE_STATS_ENABLED`` says otherwise.

    :param what: what needs it, for the error
    :raises ImportError: without Ray
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError as e:
        raise ImportError(f"{what} needs Ray: pip install 'sb3-multitask[ray]'") from e
    return ray


class RayConnection:
    """A use of Ray by this process, from its construction to :meth:`close`.

    If Ray is initialised already, it is used as it is and stays. Else the first use connects to the cluster at
    ``RAY_ADDRESS`` or one that ``ray start`` began on this machine, or starts Ray on this machine, and the last
    :meth:`close` undoes that.

    :param what: what needs Ray, for the error
    :raises ImportError: without Ray
    :raises ConnectionError: if there is no cluster at ``RAY_ADDRESS``
    """

    _users: ClassVar[int] = 0
    _made: ClassVar[tuple[str, str] | None] = None  # the connection that was made here
    _has_started: ClassVar[bool] = False

    def __init__(self, what: str) -> None:
        self.ray = import_ray(what)
        cls = type(self)
        if not self.ray.is_initialized():
            with _signals_kept():
                cls._has_started = _connect(self.ray)
            cls._users, cls._made = 0, self._current()
        self._own = self._current()
        self._is_ours = self._own == cls._made
        cls._users += self._is_ours

    @property
    def has_started(self) -> bool:
        """Whether this package has started Ray itself, on this machine only."""
        return self._is_ours and self._has_started

    @property
    def is_open(self) -> bool:
        """Whether this process is still connected as it was at the beginning."""
        return bool(self.ray.is_initialized()) and self._current() == self._own

    def _current(self) -> tuple[str, str]:
        """Identify what this process is connected to: jobs are numbered, so those of two clusters may be equal."""
        context = self.ray.get_runtime_context()
        return context.get_node_id(), context.get_job_id()

    def close(self) -> None:
        """End the use."""
        cls = type(self)
        if not self._is_ours:
            return
        self._is_ours = False
        if not self.is_open:  # somebody has shut Ray down, and perhaps connected to it again
            return
        cls._users -= 1
        if cls._users == 0:
            self.ray.shutdown()


def _connect(ray: ModuleType) -> bool:
    """Connect to a cluster or start one; return whether it was started."""
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if (os.environ.get("RAY_ADDRESS") or "local") == "local":
        try:
            ray.init(resources={}, include_dashboard=False, **quiet)
        except ValueError:  # Ray takes `resources` only for a new cluster: `ray start` has begun one on this machine
            pass
        else:
            return True
    ray.init(**quiet)
    return False


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Restore the handler of SIGTERM, which ``ray.init`` replaces, if it is not the default one."""
    handler = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        is_main = threading.current_thread() is threading.main_thread()
        if is_main and handler not in (None, signal.SIG_DFL):
            signal.signal(signal.SIGTERM, handler)
