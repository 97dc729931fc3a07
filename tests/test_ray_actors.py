"""``backend="ray"``: the numbers of "dummy", and a named error within seconds if an actor or a node is lost."""

import copy
import importlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv
from helpers.drift import DriftEnv, ReachingEnv, drift_tasks
from helpers.faulty import make
from helpers.killed_runs import monitor_rows
from helpers.steps import step_on

import sb3_multitask as mt
from sb3_multitask.experiments.config import TrainConfig
from sb3_multitask.vec_env import ray_actors

WAIT = 30
"""Seconds within which a failure must be an error; Ray needs about ten of them to notice that a node is gone."""


def test_without_ray_the_error_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ImportError, match=r'backend="ray"` needs Ray: pip install \'sb3-multitask\[ray\]'):
        mt.MultiTaskVecEnv(drift_tasks(1), backend="ray")


@pytest.mark.parametrize("cpus", [-1, np.nan, np.inf])
def test_cpus_that_no_actor_can_reserve_are_refused(cpus):
    with pytest.raises(ValueError, match="`worker_cpus` must be"):
        mt.MultiTaskVecEnv(drift_tasks(1), backend="ray", worker_cpus=cpus)


def test_configs_know_the_backend():
    assert TrainConfig(tasks="HalfCheetahBody6", n_timesteps=1, backend="ray").backend == "ray"


@pytest.fixture(scope="module")
def ray_folder():
    """A folder for Ray's files, by which it finds a cluster of this machine: no other test must find one of these."""
    with tempfile.TemporaryDirectory(prefix="ray") as folder:  # a short path, since Ray's sockets lie in it
        yield folder


@pytest.fixture(scope="module")
def cluster(ray_folder):
    """A cluster of two nodes with two CPUs each; ``RAY_ADDRESS`` names it."""
    pytest.importorskip("ray")
    from ray.cluster_utils import Cluster

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_TMPDIR", ray_folder)
        patch.setenv("RAY_AUTH_MODE", "disabled")  # else a process that finds the cluster takes the token at home
        cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False})
        try:
            cluster.add_node(num_cpus=2)
            cluster.wait_for_nodes()
            patch.setenv("RAY_ADDRESS", cluster.address)
            yield cluster
        finally:
            cluster.shutdown()


@pytest.fixture(scope="module")
def connected(cluster):
    """This process is connected, as by its own ``ray.init``: a test need not wait for that, nor for idle workers."""
    import ray

    ray.init(log_to_driver=False)
    yield ray
    ray.shutdown()


def actors_of(env):
    """The id of its node and that of its process, for every actor."""
    import ray

    def where(_):
        return ray.get_runtime_context().get_node_id(), os.getpid()

    return ray.get([actor.__ray_call__.remote(where) for actor in env.sub_envs.backend.actors])


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def assert_ended(pids):
    deadline = time.monotonic() + 120  # where other tests keep the cores busy
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline, "an actor is left behind"
        time.sleep(0.05)


class Halving(gym.ActionWrapper):
    """Writes into the action."""

    def action(self, action):
        action *= 0.5
        return action


def varied_tasks():
    """Successes, early ends, broken sensors, physics, and a class that only this module has."""
    reaching = {"at": ((2,), ()), "terminate": True, "horizon": 5, "obs_dim": 17}

    def halving():
        return Halving(DriftEnv(obs_dim=17))

    tasks = [mt.Task("reaching", ReachingEnv, reaching), mt.Task("halving", halving)]
    return [mt.Task(task.name, padded(task)) for task in tasks] + ["HalfCheetahSmallFoot-v0"]


def padded(task):
    """A factory of the task's environment with the cheetah's actions."""

    def factory():
        env = gym.wrappers.TransformAction(task.make(), lambda a: a[:2], HalfCheetahEnv().action_space)
        return gym.wrappers.TransformObservation(env, np.float64, HalfCheetahEnv().observation_space)

    return factory


def without_times(infos):
    return [{**info, "episode": {**info["episode"], "t": 0}} if "episode" in info else info for info in infos]


@pytest.mark.slow
def test_all_numbers_are_those_of_dummy(connected, tmp_path):
    envs = []
    for backend, cpus in (("dummy", 1), ("ray", 0.5)):
        folder = tmp_path / backend / "monitor"
        kwargs = {"seed": 3, "monitor_dir": folder, "worker_cpus": cpus}
        envs.append(mt.MultiTaskVecEnv(varied_tasks(), 2, backend=backend, **kwargs))
    assert envs[1].backend == "ray"
    assert {node for node, _ in actors_of(envs[1])} == {node["NodeID"] for node in connected.nodes()}
    rng = np.random.default_rng(0)
    first, second = (env.reset() for env in envs)
    np.testing.assert_equal(second, first)
    for i in range(25):
        if i == 12:
            for env in envs:
                env.seed(5)
            first, second = (env.reset() for env in envs)
            np.testing.assert_equal(second, first)
        actions = rng.uniform(-1, 1, (6, 6)).astype(np.float32)
        (*first, infos), (*second, their_infos) = (env.step(actions.copy()) for env in envs)
        np.testing.assert_equal(second, first)
        np.testing.assert_equal(without_times(their_infos), without_times(infos))
    assert any("is_success" in info or "success" in info for info in infos)
    assert envs[1].env_is_wrapped(Halving) == [False, False, True, True, False, False]
    assert envs[1].reset_infos == envs[0].reset_infos
    rows = [monitor_rows(tmp_path / backend) for backend in ("dummy", "ray")]
    assert rows[0]
    assert rows[1] == rows[0]
    pids = [pid for _, pid in actors_of(envs[1])]
    for env in envs:
        env.close()
    assert connected.is_initialized()
    assert_ended(pids)


class NoisyCheetah(HalfCheetahEnv):
    """Draws from numpy's global generator at each step."""

    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, reward + np.random.uniform(), *rest  # noqa: NPY002


@pytest.mark.slow
def test_a_state_continues_elsewhere_to_the_same_bits(connected):
    first, second = (mt.MultiTaskVecEnv(mt.Task("A", NoisyCheetah), 2, backend="ray", seed=seed) for seed in (0, 1))
    assert first.why_inexact() is None
    for env in (first, second):
        env.reset()
    actions = np.random.default_rng(0).uniform(-1, 1, (25, 2, 6)).astype(np.float32)
    for action in actions[:5]:
        first.step(action)
    second.set_state(copy.deepcopy(first.get_state()))
    for action in actions[5:]:
        np.testing.assert_equal(second.step(action)[:3], first.step(action)[:3])
    for env in (first, second):
        env.close()


@pytest.mark.slow
@pytest.mark.parametrize("on_fault", ["stop", "quarantine"])
def test_faults_are_those_of_dummy(connected, on_fault):
    envs = [make("nan_obs", 1, on_fault, backend, normalize=False) for backend in ("dummy", "ray")]
    said = []
    for env in envs:
        env.reset()
        try:
            said.append([without_times(env.step(np.zeros((3, 2)))[3]) for _ in range(25)])
        except mt.TaskFault as fault:
            said.append(str(fault))
        env.close()
    assert (on_fault == "stop") == isinstance(said[0], str)
    np.testing.assert_equal(said[1], said[0])
    assert envs[1].fault_counts == envs[0].fault_counts


class Talkative(DriftEnv):
    def fail(self):
        raise RuntimeError("do not press")


@pytest.mark.slow
def test_attributes_and_calls_that_fail_end_no_actor(connected):
    env = mt.MultiTaskVecEnv([mt.Task("A", Talkative)], 1, seed=0, backend="ray")
    with pytest.raises(AttributeError, match="nonsense"):
        env.get_attr("nonsense")
    with pytest.raises(RuntimeError, match=r"'A'.* 0 raised(.|\n)*in fail(.|\n)*do not press"):
        env.env_method("fail")
    env.set_attr("horizon", 2)
    assert env.get_attr("horizon") == [2]
    env.reset()
    assert [env.step(np.zeros((1, 2)))[2][0] for _ in range(4)] == [False, True, False, True]
    env.step_async(np.ones((1, 2)))  # and Ctrl-C: nobody waits for the answer
    assert env.step(np.zeros((1, 2)))[2][0]
    env.close()
    with pytest.raises(mt.WorkerError, match="'A'.*all workers have been ended"):
        env.reset()


LOST = {
    "raise": r"raised(.|\n)*the motor burnt out",
    "raise_in_reset": r"raised(.|\n)*the crane is stuck",
    "exit": r"died \(pid \d+ at .*\): The actor is dead",
    "die": r"died \(pid \d+ at .*\): The actor is dead",
    "hang": "did not answer within 2 s",
    "hang_in_reset": "did not answer within 2 s",
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", LOST)
def test_what_happens_to_an_actor_is_an_error_within_seconds(connected, kind):
    env = make(kind, n_envs=1, backend="ray", normalize=False, worker_timeout=2)
    pids = [pid for _, pid in actors_of(env)]
    env.reset()
    began = time.monotonic()
    with pytest.raises(mt.WorkerError, match=f"Task 'B': the worker of sub-environment 1 {LOST[kind]}"):
        step_on(env, 20)
    assert time.monotonic() - began < WAIT
    assert_ended(pids)
    env.close()  # a second time


@pytest.mark.slow
def test_closing_does_not_wait_for_an_actor_that_hangs(connected):
    env = make("hang", n_envs=1, backend="ray", normalize=False)
    pids = [pid for _, pid in actors_of(env)]
    env.reset()
    step_on(env, 9)  # B's first episode has 7 steps; it hangs at the third of the next
    env.step_async(np.zeros((3, 2)))  # B sleeps now
    began = time.monotonic()
    env.close()
    assert time.monotonic() - began < 12
    assert_ended(pids)


@pytest.mark.slow
def test_a_cluster_that_is_too_small_or_lacks_a_module_is_an_error(connected, tmp_path, monkeypatch):
    with pytest.raises(ValueError, match=r"1 CPU for each of 6 .* cluster has 4\..*worker_cpus=0.66"):
        mt.MultiTaskVecEnv(drift_tasks(3), 2, backend="ray")

    (tmp_path / "of_this_machine.py").write_text("from helpers.drift import DriftEnv\nclass Env(DriftEnv): pass\n")
    with monkeypatch.context() as patch:
        patch.syspath_prepend(tmp_path)
        of_this_machine = importlib.import_module("of_this_machine")
    with pytest.raises(mt.WorkerError, match=r"'A'(.|\n)*ModuleNotFoundError: No module named 'of_this_machine'"):
        mt.MultiTaskVecEnv([mt.Task("A", of_this_machine.Env)], 1, backend="ray")


@pytest.mark.slow
def test_an_actor_that_waits_for_a_cpu_is_an_error(connected, monkeypatch):
    env = mt.MultiTaskVecEnv(drift_tasks(1), 3, seed=0, backend="ray")
    monkeypatch.setattr(ray_actors, "START", 1)
    with pytest.raises(
        mt.WorkerError, match=r"'A': .* did not start within 1 s; [01] of the cluster's 4 CPUs are free"
    ):
        mt.MultiTaskVecEnv(drift_tasks(1), 2, backend="ray", worker_timeout=1)
    env.reset()
    env.close()


@pytest.mark.slow
def test_actors_make_what_only_this_process_has_registered(connected):
    gym.register("ForTests/Here-v0", entry_point=DriftEnv, max_episode_steps=4, disable_env_checker=True)
    try:
        env = mt.MultiTaskVecEnv(["ForTests/Here-v0"], 1, seed=0, backend="ray")
        env.reset()
        assert [bool(env.step(np.zeros((1, 2)))[2]) for _ in range(4)] == [False] * 3 + [True]
        env.close()
    finally:
        del gym.registry["ForTests/Here-v0"]


@pytest.mark.slow
@pytest.mark.parametrize("lost", ["killed", "unreachable"])
@pytest.mark.parametrize("first", ["step", "reset"])
def test_a_node_that_is_lost_is_an_error_within_seconds(cluster, connected, lost, first):
    node = cluster.add_node(num_cpus=2)
    cluster.wait_for_nodes()
    env = mt.MultiTaskVecEnv(drift_tasks(2), 3, seed=0, backend="ray", worker_timeout=60 if lost == "killed" else 2)
    where = actors_of(env)
    doomed = {row: pid for row, (node_id, pid) in enumerate(where) if node_id == node.node_id}
    assert 0 < len(doomed) < 6
    env.reset()
    step_on(env, 3)
    began = time.monotonic()
    raylet = node.all_processes["raylet"][0].process.pid
    if lost == "killed":
        cluster.remove_node(node, allow_graceful=False)
    else:
        for pid in (raylet, *doomed.values()):
            os.kill(pid, signal.SIGSTOP)

    def go_on():  # the processes of a node live for a moment longer than its raylet
        while time.monotonic() - began < WAIT:
            step_on(env, 1) if first == "step" else env.reset()

    with pytest.raises(mt.WorkerError) as error:
        go_on()
    assert time.monotonic() - began < WAIT
    said = str(error.value)
    task, rows = ("A", (0, 1, 2)) if "'A'" in said else ("B", (3, 4, 5))
    assert f"Task '{task}': " in said
    assert any(f" {row} " in said.replace(",", " ") for row in doomed if row in rows)
    env.close()
    if lost == "unreachable":
        for pid in (raylet, *doomed.values()):
            os.kill(pid, signal.SIGKILL)
        cluster.remove_node(node, allow_graceful=False)
    assert_ended(pid for _, pid in where)


SCRIPT = """
import signal, sys, time
import gymnasium as gym
import numpy as np
import ray
import sb3_multitask as mt

class Mine(gym.Wrapper):
    pass

def make():
    return Mine(gym.make("Pendulum-v1"))

def handler(*_):
    pass

signal.signal(signal.SIGTERM, handler)
env = mt.MultiTaskVecEnv([mt.Task("A", make), "Pendulum-v1"], 2, backend="ray", seed=0)  # without a main guard
other = mt.MultiTaskVecEnv([mt.Task("A", make)], 1, backend="ray", seed=0, training=False)
assert signal.getsignal(signal.SIGTERM) is handler
assert env.env_is_wrapped(Mine) == [True, True, False, False]
env.reset()
other.close()
assert ray.is_initialized()
env.step(np.ones((4, 1), np.float32))
if "wait" in sys.argv:
    pids = [actor.__ray_call__.remote(lambda _: __import__("os").getpid()) for actor in env.sub_envs.backend.actors]
    print(*ray.get(pids), flush=True)
    while True:
        env.step(np.ones((4, 1), np.float32))
env.close()
assert not ray.is_initialized()

ray.init(num_cpus=2, log_to_driver=False, logging_level="ERROR", include_dashboard=False)
env = mt.MultiTaskVecEnv(["Pendulum-v1"], 1, backend="ray", seed=0)
env.close()
assert ray.is_initialized()
env = mt.MultiTaskVecEnv(["Pendulum-v1"], 1, backend="ray", seed=0)
ray.shutdown()
try:
    env.reset()
except mt.WorkerError as e:
    print(e)
assert not ray.is_initialized()
env.close()
"""


@pytest.fixture
def script(tmp_path):
    """A script, and the environment variables with which it finds no cluster."""
    pytest.importorskip("ray")
    path = tmp_path / "train.py"
    path.write_text(SCRIPT)
    with tempfile.TemporaryDirectory(prefix="ray") as folder:
        variables = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
        yield path, {**variables, "RAY_TMPDIR": folder}


@pytest.mark.slow
def test_a_cluster_that_runs_on_this_machine_is_used_and_stays(cluster):
    script = """
import sb3_multitask as mt
env = mt.MultiTaskVecEnv(["Pendulum-v1"], 1, backend="ray", seed=0)
import ray
print(len(ray.nodes()))
env.close()
assert not ray.is_initialized()
"""
    variables = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    for _ in range(2):
        done = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, env=variables, check=False
        )
        assert (done.stderr, done.returncode) == ("", 0)
        assert int(done.stdout.split()[-1]) >= 2  # before it Ray may tell of nodes that died in other tests


@pytest.mark.slow
def test_a_script_without_a_cluster_starts_ray_and_ends_it(script):
    path, variables = script
    done = subprocess.run([sys.executable, str(path)], capture_output=True, text=True, env=variables, check=False)
    assert done.returncode == 0, done.stderr
    assert (
        done.stdout
        == "Task 'Pendulum-v1': the worker of sub-environment 0 was ended by ray.shutdown(); close the VecEnv first\n"
    )
    assert not done.stderr


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGKILL])
def test_no_actor_outlives_a_trainer_that_is_stopped(script, signum):
    path, variables = script
    command = [sys.executable, str(path), "wait"]
    trainer = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=variables)
    try:
        pids = [int(pid) for pid in trainer.stdout.readline().split()]
        assert len(pids) == 4
        trainer.send_signal(signum)
        try:
            _, err = trainer.communicate(timeout=WAIT)
        except subprocess.TimeoutExpired:  # an interrupt may come while Python cannot raise it, as in a destructor
            trainer.send_signal(signum)
            _, err = trainer.communicate(timeout=WAIT)
    finally:
        trainer.kill()
    assert trainer.returncode != 0
    assert ("KeyboardInterrupt" in err) == (signum == signal.SIGINT)
    assert_ended(pids)


def test_a_cluster_without_the_token_is_told_apart_from_an_actor_that_died():
    lost = "The actor died.\n\tpid: 7\n\tip: 10.0.0.2\nIt is dead because {}.\nThe worker ended. Some common causes are"
    assert (
        ray_actors._death(RuntimeError(lost.format("it was killed"))) == "died (pid 7 at 10.0.0.2): The worker ended."
    )
    refused = ray_actors._death(RuntimeError(lost.format("all references to the actor were removed")))
    assert "set RAY_AUTH_MODE=disabled" in refused
