"""How many threads a run uses, in one number: torch's."""

from __future__ import annotations

import os
from contextlib import AbstractContextManager

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


def one_blas_thread() -> AbstractContextManager[object]:
    """Keep numpy's matrix products on one thread: at this size more threads only take turns with the physics'."""
    limits: AbstractContextManager[object] = threadpool_limits(limits=1, user_api="blas")
    return limits
