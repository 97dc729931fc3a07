"""How many threads a run uses, in one number: torch's."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch as th
from threadpoolctl import threadpool_limits


def physics_threads(n_threads: int | None, n_sims: int) -> int:
    """Threads for the native physics.

    :param n_threads: asked for; ``None`` takes torch's number (``torch.set_num_threads``, ``OMP_NUM_THREADS``), so
        that one setting governs both and runs side by side with one thread each leave each other alone
    :param n_sims: simulations to share out; never more threads than these, nor than the CPUs of this process
    :raises ValueError: if ``n_threads`` is below 1
    """
    if n_threads is None:
        n_threads = th.get_num_threads()
    if n_threads < 1:
        raise ValueError(f"`n_threads` must be at least 1 (got {n_threads})")
    cpus = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(n_threads, n_sims, cpus))


@contextmanager
def one_thread_for_arrays() -> Iterator[None]:
    """Keep numpy's matrix products and torch's operations on one thread each, and put that back afterwards.

    At this size more threads bring nothing, and those that wait for work spin on the cores that the physics needs:
    without this, the same training takes half as long again.
    """
    n_torch = th.get_num_threads()
    with threadpool_limits(limits=1, user_api="blas"):
        th.set_num_threads(1)
        try:
            yield
        finally:
            th.set_num_threads(n_torch)
