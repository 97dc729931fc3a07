"""The number of threads of a run. torch's number determines all others.

- **torch**: ``torch.set_num_threads(n)`` or the environment variable ``OMP_NUM_THREADS``; by default the cores.
- **Physics** (``backend="batch"``): the same number, or ``n_threads`` if it is given, and never more than the CPUs of
  this process. Results do not depend on it.
- **torch** from the first step of a VecEnv for training on, until it is closed: ``torch_threads`` of the VecEnv, by
  default one, whichever algorithm trains on it.
- **Arrays** while a multi-task model learns, and in evaluations: one thread each for numpy's BLAS and for torch
  (``model.torch_threads``). Minibatches of many rows are shared among as many threads as the physics has.

To run several runs side by side, one per core, set ``OMP_NUM_THREADS=1`` or ``torch.set_num_threads(1)``. With the
torch engine another number of threads rounds differently, and training is chaotic. So the number belongs to the
settings of a run; ``run.json`` has it.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import ClassVar

import torch as th
from threadpoolctl import threadpool_limits

_LOGGER = logging.getLogger("sb3_multitask")
_requested: ContextVar[int | None] = ContextVar("threads asked for, while torch is held at one", default=None)


def physics_threads(n_threads: int | None, n_sims: int) -> int:
    """Return the number of threads for the native physics.

    It is at most the number of simulations and the number of CPUs of this process.

    :param n_threads: the requested number; ``None`` takes torch's number
    :param n_sims: number of simulations
    :raises ValueError: if ``n_threads`` is below 1
    """
    if n_threads is None:
        n_threads = _requested.get() or TorchThreads.users_number()
    if n_threads < 1:
        raise ValueError(f"`n_threads` must be at least 1 (got {n_threads})")
    return max(1, min(n_threads, n_sims, n_cpus()))


class TorchThreads:
    """Holds torch at a number of threads while somebody trains on a VecEnv, with any algorithm.

    torch's threads that wait spin. Where anything else runs on one of two cores, SB3's PPO on 6 x 16 environments falls
    from 18,300 to 1,200 steps/s with two of them, and with one it stays at 17,400.

    :param n_threads: torch's number from :meth:`begin` to :meth:`end`; ``None`` leaves it alone
    """

    _holding: ClassVar[list[TorchThreads]] = []
    _held_at: ClassVar[int] = 0  # torch's number as it was set here last
    _users: ClassVar[int] = 1  # and as it was before

    def __init__(self, n_threads: int | None) -> None:
        if n_threads is not None:
            _check_number(n_threads, ", or None")
        self.n_threads = n_threads
        self._was_asked = n_threads is None

    @classmethod
    def is_held(cls) -> bool:
        """Whether torch has the number that was set here: nobody has set another since."""
        return bool(cls._holding) and th.get_num_threads() == cls._held_at

    @classmethod
    def users_number(cls) -> int:
        """Torch's number as the user has set it, last or before it was held."""
        return cls._users if cls.is_held() else th.get_num_threads()

    def begin(self) -> None:
        """Hold torch, once; a model that holds it itself is left alone."""
        if self._was_asked or _requested.get():
            return
        assert self.n_threads is not None
        cls = type(self)
        if not self.is_held():  # the user has set a number since those that are open began
            self._holding.clear()
        self._was_asked, cls._users = True, self.users_number()
        if not self._holding and self._users == self.n_threads:
            return  # there is nothing to give back
        self._holding.append(self)
        self.set_again()
        if self._users != self.n_threads:
            _LOGGER.info(
                "torch has %d thread(s) instead of %d while this VecEnv is open (torch_threads=None leaves it alone)",
                self.n_threads,
                self._users,
            )

    @classmethod
    def set_again(cls) -> None:
        """Set the number of the VecEnv that began last among those that are open; without one, the user's."""
        cls._held_at = number = cls._holding[-1].n_threads or 1 if cls._holding else cls._users
        th.set_num_threads(number)

    def end(self) -> None:
        """Give the user's number back, unless another VecEnv holds torch, or the user has set a number since.

        While a model holds torch itself, nothing is set: it gives back what is right when it ends.
        """
        if self not in self._holding:
            return
        is_held = self.is_held()
        self._holding.remove(self)
        if is_held and not _requested.get():
            self.set_again()


def _check_number(n_threads: object, or_what: str = "") -> None:
    """Raise ValueError unless ``torch_threads`` is a whole number of threads."""
    if not isinstance(n_threads, int) or isinstance(n_threads, bool) or n_threads < 1:
        raise ValueError(f"`torch_threads` must be a whole number of at least 1{or_what} (got {n_threads!r})")


def n_cpus() -> int:
    """Return the number of CPUs of this process: in a container or under ``taskset`` fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def threads_for_arrays(n_threads: int = 1) -> Iterator[None]:
    """Limit numpy's matrix products and torch's operations to some threads each; restore the numbers afterwards.

    At this size more threads are not faster, and threads that wait for work spin on the cores that the physics needs:
    without this limit, the same training takes half as long again.

    :raises ValueError: if ``n_threads``, a model's ``torch_threads``, is not a whole number of at least 1
    """
    _check_number(n_threads)
    n_torch, is_held = th.get_num_threads(), TorchThreads.is_held() and not _requested.get()
    requested = _requested.get() or TorchThreads.users_number()  # the outermost block sees the user's number
    token = _requested.set(requested)
    try:
        with threadpool_limits(limits=n_threads, user_api="blas"):
            th.set_num_threads(n_threads)
            yield
    finally:
        _requested.reset(token)
        if is_held:  # perhaps by a VecEnv that has been closed since
            TorchThreads.set_again()
        else:
            th.set_num_threads(n_torch)
