"""Ways to make a process die or fail at a chosen moment."""

from __future__ import annotations

import os
import resource
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

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
        finally:
            sys.stdout.flush()
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
