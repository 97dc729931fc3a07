"""Threads that share the parts of a minibatch."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from sb3_multitask.process.threads import physics_threads

P = ParamSpec("P")
T = TypeVar("T")


class Workers:
    """As many threads as the physics has; numpy lets go of Python's lock in its long operations.

    Threads without work wait without spinning. Which thread computes a part does not matter to the result. A copy has
    threads of its own, which it starts when it needs them.
    """

    def __init__(self) -> None:
        self._pool: ThreadPoolExecutor | None = None

    def __reduce__(self) -> tuple[type[Workers], tuple[()]]:
        return type(self), ()

    def map(self, function: Callable[P, T], *items: Sequence[object]) -> list[T]:
        """``list(map(function, *items))``."""
        n_threads = 1 if len(items[0]) == 1 else physics_threads(None, len(items[0]))
        if n_threads == 1:
            return list(map(function, *items))
        if self._pool is None:
            self._pool = ThreadPoolExecutor(n_threads, thread_name_prefix="sb3-multitask update")
        return list(self._pool.map(function, *items))
