"""Workers of ``backend="subproc"`` that raise, die or hang are an error with the task's name, within seconds."""

import multiprocessing as mp
import os
import signal
import time

import numpy as np
import pytest
from faulty import make, step_on

import sb3_multitask as mt

WORKERS = {
    "raise": r"worker of sub-environment 1 raised(.|\n)*the motor burnt out",
    "raise_in_reset": r"worker of sub-environment 1 raised(.|\n)*the crane is stuck",
    "exit": r"worker of sub-environment 1 died \(exit code 7\)",
    "die": r"worker of sub-environment 1 died \(exit code -9\)",
    "hang": r"worker of sub-environment 1 did not answer within 2 s",
    "hang_in_reset": r"worker of sub-environment 1 did not answer within 2 s",
}


@pytest.mark.parametrize(
    "start_method",
    ["fork", pytest.param("forkserver", marks=pytest.mark.slow), pytest.param("spawn", marks=pytest.mark.slow)],
)
@pytest.mark.parametrize("kind", WORKERS)
def test_what_happens_to_a_worker_is_an_error_within_seconds(kind, start_method):
    env = make(kind, n_envs=1, backend="subproc", normalize=False, start_method=start_method, worker_timeout=2)
    pids = [process.pid for process in env._backend.processes]
    env.reset()
    began = time.monotonic()
    with pytest.raises(mt.WorkerError, match=rf"Task 'B': the {WORKERS[kind]}"):
        step_on(env, 20)
    assert time.monotonic() - began < 15
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    env.close()  # a second time


def test_a_worker_killed_from_outside_is_noticed():
    env = make("", n_envs=2, backend="subproc", normalize=False, start_method="fork")
    env.reset()
    os.kill(env._backend.processes[5].pid, signal.SIGKILL)
    with pytest.raises(mt.WorkerError, match=r"Task 'C': the worker of sub-environment 5 died \(exit code -9\)"):
        step_on(env, 3)
    assert not mp.active_children()


def test_closing_does_not_wait_for_a_worker_that_hangs():
    env = make("hang", n_envs=1, backend="subproc", normalize=False, start_method="fork")
    env.reset()
    for _ in range(11):
        env.step(np.zeros((3, 2)))
    env.step_async(np.zeros((3, 2)))  # B sleeps now
    began = time.monotonic()
    env.close()
    assert time.monotonic() - began < 12
    assert not mp.active_children()
