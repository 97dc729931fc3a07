"""The number of threads of a run. torch's number determines all others.

- **torch**: ``torch.set_num_threads(n)`` or the environment variable ``OMP_NUM_THREADS``; by default the cores.
- **Physics** (``backend="batch"``): the same number, or ``n_threads`` if it is given, and never more than the CPUs of
  this process. Results do not depend on it.
- **Arrays** while a multi-task model learns, and in evaluations: one thread each for numpy's BLAS and for torch
  (``model.torch_threads``). Minibatches of many rows are shared among as many threads as the physics has.

To run several runs side by side, one per core, set ``OMP_NUM_THREADS=1`` or ``torch.set_num_threads(1)``. With the
torch engine another number of threads rounds differently, and training is chaotic. So the number belongs to the
settings of a run; ``run.json`` has it.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch as th
from threadpoolctl import threadpool_limits

_requested: ContextVar[int | None] = ContextVar("threads asked for, while torch is held at one", default=None)


def physics_threads(n_threads: int | None, n_sims: int) -> int:
    """Return the number of threads for the native physics.

    It is at most the number of simulations and the number of CPUs of this process.

    :param n_threads: the requested number; ``None`` takes torch's number
    :param n_sims: number of simulations
    :raises ValueError: if ``n_threads`` is below 1
    """
    if n_threads is None:
        n_threads = _requested.get() or th.get_num_threads()
    if n_threads < 1:
        raise ValueError(f"`n_threads` must be at least 1 (got {n_threads})")
    return max(1, min(n_threads, n_sims, n_cpus()))


def n_cpus() -> int:
    """Return the number of CPUs of this process: in a container or under ``taskset`` fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def threads_for_arrays(n_threads: int = 1) -> Iterator[None]:
    """Limit numpy's matrix products and torch's operations to some threads each; restore the numbers afterwards.

    At this size more threads are not faster, and threads that wait for work spin on the cores that the physics needs:
    without this limit, the same training takes half as long again.
    """
    n_torch = th.get_num_threads()
    token = _requested.set(_requested.get() or n_torch)  # the outermost block sees the user's number
    with threadpool_limits(limits=n_threads, user_api="blas"):
        th.set_num_threads(n_threads)
        try:
            yield
        finally:
            th.set_num_threads(n_torch)
            _requested.reset(token)
