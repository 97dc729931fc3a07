"""Ways to make a process die or fail at a chosen moment."""

from __future__ import annotations

import itertools
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

_NOBODY = 65534
BOUNDARIES = [
    (Path, "mkdir"),
    (Path, "write_bytes"),
    (Path, "replace"),
    (Path, "unlink"),
    (Path, "rmdir"),
    (os, "fsync"),
]


def in_child(work: Callable[[], Any]) -> int:
    """Run ``work`` in a forked process; its exit code: 0, 1 for an exception, 9 if it was killed."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            work()
            code = 0
        except BaseException:
            traceback.print_exc()  # which nobody else prints
        finally:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def killed_at(boundary: int, work: Callable[[], Any]) -> Callable[[], Any]:
    """``work``, but the process is killed before its call number ``boundary`` to the file system."""
    count = 0

    def counted(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal count
            count += 1
            if count == boundary:
                os.kill(os.getpid(), signal.SIGKILL)
            return original(*args, **kwargs)

        return call

    def run() -> Any:
        for owner, name in BOUNDARIES:
            setattr(owner, name, counted(getattr(owner, name)))
        return work()

    return run


def with_file_size_limit(n_bytes: int, work: Callable[[], Any]) -> Callable[[], Any]:
    """``work`` where no file may grow beyond ``n_bytes``: a full disk, without filling one."""

    def run() -> Any:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, n_bytes))
        return work()

    return run


def as_nobody(work: Callable[[], Any]) -> Callable[[], Any]:
    """``work`` as a user whom permissions bind: nobody, if this is root."""

    def run() -> Any:
        if os.geteuid() == 0:
            os.setgroups([])
            os.setgid(_NOBODY)
            os.setuid(_NOBODY)
        return work()

    return run


def jumping_clock(monkeypatch: Any) -> None:
    """Make the wall clock jump: back by a day at every third call, forward by a little more at every seventh."""
    now, calls = time.time(), itertools.count(1)

    def jumping() -> float:
        nonlocal now
        n = next(calls)
        now += 0.01 - 86_400 * (n % 3 == 0) + 200_000 * (n % 7 == 0)
        return now

    monkeypatch.setattr(time, "time", jumping)
    monkeypatch.setattr(time, "time_ns", lambda: int(jumping() * 1e9))
