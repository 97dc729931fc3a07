"""Workers of ``backend="subproc"`` that raise, die or hang are an error with the task's name, within seconds."""

import multiprocessing as mp
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from helpers.drift import DriftEnv
from helpers.faulty import make
from helpers.steps import step_on

import sb3_multitask as mt
from sb3_multitask.vec_env import subproc

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
    pids = [process.pid for process in env.sub_envs.backend.processes]
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
    os.kill(env.sub_envs.backend.processes[5].pid, signal.SIGKILL)
    with pytest.raises(mt.WorkerError, match=r"'C'.* 5 died \(exit code -9\)"):
        step_on(env, 3)
    assert not mp.active_children()


@pytest.mark.slow
def test_closing_does_not_wait_for_a_worker_that_hangs():
    env = make("hang", n_envs=1, backend="subproc", normalize=False, start_method="fork")
    env.reset()
    step_on(env, 9)  # B's first episode has 7 steps; it hangs at the third of the next
    env.step_async(np.zeros((3, 2)))  # B sleeps now
    began = time.monotonic()
    env.close()
    assert time.monotonic() - began < 12
    assert not mp.active_children()


def alone(factory, **kwargs):
    """One worker of one task, forked."""
    return mt.MultiTaskVecEnv([mt.Task("A", factory)], 1, seed=0, backend="subproc", start_method="fork", **kwargs)


def in_a_worker():
    return mp.parent_process() is not None


class Unsendable(DriftEnv):
    def step(self, action):
        *step, _ = super().step(action)
        return *step, {"callback": lambda: None}


def test_what_cannot_be_sent_is_told_with_its_traceback():
    env = alone(Unsendable)
    env.reset()
    with pytest.raises(mt.WorkerError, match=r"'A'.* 0 raised(.|\n)*pickle"):
        step_on(env, 1)
    assert not mp.active_children()


def test_a_worker_that_cannot_make_its_environment_says_why():
    def factory():
        if in_a_worker():
            raise RuntimeError("no licence left")
        return DriftEnv()

    with pytest.raises(mt.WorkerError, match=r"'A'(.|\n)*factory(.|\n)*no licence left"):
        alone(factory)
    assert not mp.active_children()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "message"), [("hang", "did not answer within 1 s"), ("die", r"died \(exit code -9\)")]
)
def test_a_worker_that_does_not_start_is_an_error(kind, message, monkeypatch):
    def factory():
        if in_a_worker():
            time.sleep(60) if kind == "hang" else os.kill(os.getpid(), signal.SIGKILL)
        return DriftEnv()

    monkeypatch.setattr(subproc, "START", 1)
    with pytest.raises(mt.WorkerError, match=f"Task 'A': .*{message}"):
        alone(factory, worker_timeout=1)
    assert not mp.active_children()


class Talkative(DriftEnv):
    def fail(self):
        raise RuntimeError("do not press")


def test_attributes_are_those_of_the_environment_and_a_missing_one_harms_nobody():
    env = alone(Talkative)
    with pytest.raises(AttributeError, match="nonsense"):
        env.get_attr("nonsense")
    env.set_attr("horizon", 2)
    env.reset()
    assert [env.step(np.zeros((1, 2)))[2][0] for _ in range(4)] == [False, True, False, True]
    with pytest.raises(RuntimeError, match=r"'A'.* 0 raised(.|\n)*in fail(.|\n)*do not press"):
        env.env_method("fail")
    env.reset()
    env.close()
    with pytest.raises(mt.WorkerError, match="'A'.*all workers have been ended"):
        env.reset()


@pytest.mark.slow
def test_an_answer_that_nobody_waited_for_is_not_taken_for_the_next():
    """As after Ctrl-C between the two halves of a step."""
    broken, whole = (make("", n_envs=1, backend=backend, normalize=False) for backend in ("subproc", "dummy"))
    for env in (broken, whole):
        env.reset()
    broken.step_async(np.ones((3, 2)))
    whole.step(np.ones((3, 2)))
    for ours, theirs in zip(broken.step(np.zeros((3, 2)))[:3], whole.step(np.zeros((3, 2)))[:3], strict=True):
        np.testing.assert_equal(ours, theirs)
    broken.close()


class Rude(DriftEnv):
    def close(self):
        if hasattr(self, "position"):  # was used
            raise RuntimeError("never")


@pytest.mark.parametrize("backend", ["dummy", "subproc"])
def test_everything_is_closed_though_an_environment_refuses(backend, tmp_path, capfd):
    closed = []

    class Polite(DriftEnv):
        def close(self):
            closed.append(self)

    tasks = [mt.Task("A", Rude), mt.Task("B", Polite)]
    env = mt.MultiTaskVecEnv(tasks, 1, seed=0, backend=backend, start_method="fork", monitor_dir=tmp_path)
    env.reset()
    step_on(env, 8)
    n_prototypes = len(closed)
    if backend == "dummy":
        with pytest.raises(RuntimeError, match="never") as caught:
            env.close()
        assert "raised by the environment of task 'A' (sub-environment 0)" in caught.value.__notes__
        assert len(closed) > n_prototypes
    else:
        env.close()
    assert not mp.active_children()


TRAINER = """
import sys, time
sys.path[:0] = {path!r}
if __name__ == "__main__":
    import numpy as np
    import sb3_multitask as mt
    from helpers.faulty import FaultyEnv
    tasks = [mt.Task("A", FaultyEnv, {{"kind": "hang", "at": 1, "first_episode": 1}}), mt.Task("B", FaultyEnv)]
    env = mt.MultiTaskVecEnv(tasks, 2, backend="subproc", start_method={method!r})
    env.reset()
    env.step_async(np.zeros((4, 2)))  # those of A sleep now
    print(*(process.pid for process in env.sub_envs.backend.processes), flush=True)
    time.sleep(600)
"""


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="reads /proc")
@pytest.mark.parametrize(
    "start_method",
    ["fork", pytest.param("forkserver", marks=pytest.mark.slow), pytest.param("spawn", marks=pytest.mark.slow)],
)
def test_no_worker_outlives_a_trainer_that_is_killed(start_method, tmp_path):
    script = tmp_path / "trainer.py"
    script.write_text(TRAINER.format(path=[str(Path(__file__).parent)], method=start_method))
    trainer = subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, text=True)
    workers = [int(pid) for pid in trainer.stdout.readline().split()]
    assert len(workers) == 4
    assert all(map(is_alive, workers))
    trainer.kill()
    trainer.communicate()
    deadline = time.monotonic() + 10
    while any(map(is_alive, workers)):
        assert time.monotonic() < deadline, "a worker is left behind"
        time.sleep(0.05)


def test_a_call_that_fails_ends_no_worker():
    env = mt.MultiTaskVecEnv([mt.Task("A", DriftEnv)], 2, backend="subproc")
    env.reset()
    with pytest.raises(AttributeError, match="nope"):
        env.env_method("nope")
    with pytest.raises(RuntimeError, match=r"Task 'A': sub-environment 0 raised(.|\n)*TypeError"):
        env.env_method("step")
    env.step(np.zeros((2, 2)))
    env.close()


@pytest.mark.parametrize("start_method", ["forkserver", pytest.param("spawn", marks=pytest.mark.slow)])
def test_a_script_without_a_main_guard_is_told_what_to_write(start_method, tmp_path):
    script = tmp_path / "train.py"
    script.write_text(
        "import sb3_multitask as mt\n"
        "import gymnasium as gym\n"
        f'env = mt.MultiTaskVecEnv(["Pendulum-v1"], 2, backend="subproc", start_method="{start_method}")\n'
        "env.reset()\n"
    )
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert 'if __name__ == "__main__":' in done.stderr
    assert done.stderr.count("Traceback") == 1  # of the script itself, and none of its workers
    assert not done.stdout


@pytest.mark.slow
def test_a_script_whose_import_fails_in_workers_is_told_what_to_write(tmp_path):
    (tmp_path / "train.py").write_text(
        "import os\n"
        "import sb3_multitask as mt\n"
        f"os.mkdir({str(tmp_path / 'out')!r})\n"
        'mt.MultiTaskVecEnv(["Pendulum-v1"], 1, backend="subproc")\n'
    )
    done = subprocess.run([sys.executable, str(tmp_path / "train.py")], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "FileExistsError" in done.stderr
    assert 'if __name__ == "__main__":' in done.stderr.split("WorkerError")[-1]


def test_a_script_from_standard_input_is_told_to_become_a_file():
    script = 'import sb3_multitask as mt\nmt.MultiTaskVecEnv(["Pendulum-v1"], 1, backend="subproc")\n'
    done = subprocess.run([sys.executable, "-"], input=script, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "save it as a file" in done.stderr


@pytest.mark.parametrize("start_method", ["forkserver", "spawn"])
def test_workers_make_what_only_this_process_has_registered(start_method):
    gym.register("ForTests/Here-v0", entry_point=DriftEnv, max_episode_steps=4, disable_env_checker=True)
    try:
        env = mt.MultiTaskVecEnv(["ForTests/Here-v0"], 1, seed=0, backend="subproc", start_method=start_method)
        env.reset()
        assert [bool(env.step(np.zeros((1, 2)))[2]) for _ in range(4)] == [False] * 3 + [True]
        env.close()
    finally:
        del gym.registry["ForTests/Here-v0"]
