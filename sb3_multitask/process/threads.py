"""How many threads a run uses: torch's number governs all.

- **torch**: ``torch.set_num_threads(n)`` or the environment variable ``OMP_NUM_THREADS``; by default the cores.
- **Physics** (``backend="batch"``): the same number, unless ``n_threads`` says otherwise, and never more than the CPUs
  of this process. Results do not depend on it.
- **Arrays** while ``A2CMultiTask.learn`` runs the fast engine, and in evaluations: one thread each for numpy's BLAS and
  for torch.

So runs side by side, one per core, need one setting, ``OMP_NUM_THREADS=1`` or ``torch.set_num_threads(1)``. With the
torch engine another number of threads rounds differently, and training is chaotic: note it (a run's ``run.json`` does).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch as th
from threadpoolctl import threadpool_limits

_asked_for: ContextVar[int | None] = ContextVar("threads asked for, while torch is held at one", default=None)


def physics_threads(n_threads: int | None, n_sims: int) -> int:
    """Threads for the native physics.

    :param n_threads: asked for; ``None`` takes torch's number
    :param n_sims: simulations to share out; never more threads than these, nor than the CPUs of this process
    :raises ValueError: if ``n_threads`` is below 1
    """
    if n_threads is None:
        n_threads = _asked_for.get() or th.get_num_threads()
    if n_threads < 1:
        raise ValueError(f"`n_threads` must be at least 1 (got {n_threads})")
    return max(1, min(n_threads, n_sims, n_cpus()))


def n_cpus() -> int:
    """CPUs of this process, which in a container or under ``taskset`` are fewer than the machine's."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@contextmanager
def one_thread_for_arrays() -> Iterator[None]:
    """Keep numpy's matrix products and torch's operations on one thread each, and restore that afterwards.

    At this size more threads bring nothing, and those that wait for work spin on the cores that the physics needs:
    without this, the same training takes half as long again.
    """
    n_torch = th.get_num_threads()
    token = _asked_for.set(_asked_for.get() or n_torch)  # the outermost knows what was asked for
    with threadpool_limits(limits=1, user_api="blas"):
        th.set_num_threads(1)
        try:
            yield
        finally:
            th.set_num_threads(n_torch)
            _asked_for.reset(token)
