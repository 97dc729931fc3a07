"""A run that is killed and started again ends as one that never stopped, bit for bit."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from helpers.drift import DriftEnv, ReachingEnv, drift_tasks, sized_tasks
from helpers.killed_runs import BODIES, TOTAL, KillAt, difference, killed_and_resumed, monitor_rows, run
from helpers.models import weights_equal
from stable_baselines3.common.callbacks import BaseCallback

import sb3_multitask as mt
from sb3_multitask.checkpoint import TrainingInterrupted
from sb3_multitask.checkpoint.format import list_checkpoints, read_latest, write_checkpoint


@pytest.mark.parametrize(
    ("backend", "schedule", "engine"),  # all twelve cases, with ten kills each, are in the slow test
    [("batch", "joint", "fast"), ("batch", "cycle", "torch"), ("dummy", "cycle", "fast")],
)
def test_resume_is_exact(tmp_path, backend, schedule, engine):
    different, _ = killed_and_resumed(tmp_path, [1234, 3210], backend=backend, task_schedule=schedule, engine=engine)
    assert different == []


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["fast", "torch"])
@pytest.mark.parametrize("schedule", ["joint", "cycle"])
@pytest.mark.parametrize("backend", ["batch", "dummy", "subproc"])
def test_resume_is_exact_after_ten_kills(tmp_path, backend, schedule, engine):
    steps = sorted(np.random.default_rng([len(backend), len(schedule), len(engine)]).integers(1, TOTAL, 10))
    different, _ = killed_and_resumed(tmp_path, steps, backend=backend, task_schedule=schedule, engine=engine)
    assert different == []


@pytest.mark.parametrize("env_id", ["Hopper-v5", "Ant-v5", "Humanoid-v5", "Pusher-v5"])
def test_resume_is_exact_with_early_termination_and_lagged_outputs(tmp_path, env_id):
    kwargs = {"tasks": [env_id], "n_envs": 1, "total": 300}
    a, b = tmp_path / "a", tmp_path / "b"
    uninterrupted = run(a, **kwargs)
    run(b, 251, **kwargs)
    resumed = run(b, **kwargs)
    assert weights_equal(uninterrupted, resumed)
    assert monitor_rows(a) == monitor_rows(b)


class RememberingEnv(DriftEnv):
    """Tells its state, so that it can be resumed though it is not MuJoCo's."""

    def get_state(self):
        return {"position": self.position, "speed": self.speed, "time": self.time}

    def set_state(self, state):
        self.position, self.speed, self.time = state["position"], state["speed"], state["time"]


def test_an_env_that_tells_its_state_is_resumed_exactly(tmp_path):
    tasks = [mt.Task(name, RememberingEnv, {"target": i, "horizon": 40}) for i, name in enumerate("AB")]
    a, b = tmp_path / "a", tmp_path / "b"
    uninterrupted = run(a, tasks=tasks, total=1000)
    run(b, 777, tasks=tasks, total=1000)
    assert weights_equal(uninterrupted, run(b, tasks=tasks, total=1000))


def test_an_env_that_does_not_is_announced(tmp_path):
    with pytest.warns(UserWarning, match=r"'A': DriftEnv.*get_state"):
        run(tmp_path, tasks=drift_tasks(2), total=100)


def test_a_wrapper_with_memory_is_announced(tmp_path):
    def make():
        return gym.wrappers.RecordEpisodeStatistics(gym.make("HalfCheetahSmallFoot-v0"))

    with pytest.warns(UserWarning, match="RecordEpisodeStatistics keeps .* and has no get_state"):
        run(tmp_path, tasks=[mt.Task("A", make)], total=20)


UNEQUAL = {"A": 1, "B": 3, "C": 2}
OF_SIZES = {
    "unequal copies": {"n_envs": UNEQUAL, "task_weights": {"A": 2.0}},
    "in turn": {"task_schedule": "cycle", "algorithm": mt.PPOMultiTask, "policy_kwargs": {"task_embedding": 2}},
    "one head": {"n_envs": UNEQUAL, "policy_kwargs": {"share": "all", "layer_norm": True}},
    "trpo": {"n_envs": UNEQUAL, "algorithm": mt.TRPOMultiTask},
}


@pytest.mark.parametrize(
    "name", ["unequal copies", *(pytest.param(name, marks=pytest.mark.slow) for name in list(OF_SIZES)[1:])]
)
def test_tasks_of_different_sizes_that_say_success_resume_exactly(tmp_path, name):
    at = {"A": ((1,), ()), "B": ((), (5, 3)), "C": ((2,), (1,), ())}
    tasks = [mt.Task(one.name, ReachingEnv, {**one.env_kwargs, "at": at[one.name]}) for one in sized_tasks()]
    on_rows = {} if "algorithm" not in OF_SIZES[name] else {"n_steps": 16, "batch_size": 16}
    kwargs = {"tasks": tasks, "total": 1600, **on_rows, **OF_SIZES[name]}
    different, _ = killed_and_resumed(tmp_path, [(777, 0.0), (1423, 0.02)], **kwargs)
    assert different == []
    with np.load(tmp_path / "killed" / "evaluations.npz") as evaluations:
        assert evaluations["task_successes"].shape == (1, 3, 1)


class Collector(BaseCallback):
    """Keeps something that cannot be stored."""

    def __init__(self):
        super().__init__()
        self.seen = [object()]
        self.total = 0.0

    def _on_step(self):
        self.total += float(np.sum(self.locals["rewards"]))
        return True


def test_callbacks_keep_their_numbers_and_what_they_lose_is_announced(tmp_path):
    totals = []
    for folder, kills in (("a", []), ("b", [700])):
        for step in [*kills, 10**9]:
            collector = Collector()
            with pytest.warns(UserWarning, match="Collector 1 keeps seen and has no get_state"):
                run(tmp_path / folder, step, total=1000, callbacks=[collector])
        totals.append(collector.total)
    assert totals[0] == totals[1] != 0


@pytest.mark.slow
@pytest.mark.parametrize("left_out", ["torch", pytest.param("env", marks=pytest.mark.native)])
def test_a_snapshot_without_one_generator_differs(tmp_path, left_out):
    a, b = tmp_path / "a", tmp_path / "b"
    uninterrupted = run(a, n_envs=1)
    run(b, 1700, n_envs=1)
    path, snapshot = read_latest(b / "checkpoints")
    if left_out == "torch":
        snapshot["generators"]["torch"] = th.Generator().manual_seed(99).get_state().numpy()
    else:
        snapshot["env"][1]["state"]["envs"][0]["generators"][0] = None
    shutil.rmtree(b / "checkpoints")
    write_checkpoint(path, snapshot)
    assert "weights" in difference(uninterrupted, run(b, n_envs=1), a, b)


def test_another_seed_differs_and_is_refused_by_the_checkpoint(tmp_path):
    assert not weights_equal(run(tmp_path / "a", total=500), run(tmp_path / "b", total=500, seed=1))
    with pytest.raises(mt.CheckpointError, match=r"of another run:\n  seed: 0 then, 1 now"):
        run(tmp_path / "a", total=600, seed=1)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"n_steps": 7}, "n_steps: 5 then, 7 now"),
        ({"tasks": BODIES[::-1]}, "task_names"),
        ({"task_schedule": "cycle"}, "task_schedule: 'joint' then, 'cycle' now"),
        ({"policy_kwargs": {"net_arch": {"pi": [8], "vf": [8]}}}, "weights"),
        pytest.param({"backend": "dummy"}, 'backend="batch"', marks=pytest.mark.native),
        ({"n_envs": 1}, "n_envs: 4 then, 2 now"),
    ],
)
def test_a_checkpoint_of_another_run_is_refused(tmp_path, changed, message):
    run(tmp_path, total=300)
    with pytest.raises(mt.CheckpointError, match=message):
        run(tmp_path, total=600, **changed)


def test_training_goes_on_longer_from_a_finished_run(tmp_path):
    run(tmp_path / "a", total=1000)
    assert weights_equal(run(tmp_path / "a", total=2000), run(tmp_path / "b", total=2000))


def test_a_finished_run_is_not_trained_on(tmp_path):
    first = run(tmp_path, total=1000)
    again = run(tmp_path, total=1000)
    assert again.num_timesteps == first.num_timesteps == 1000
    assert weights_equal(first, again)


def test_weights_that_are_not_finite_are_refused(tmp_path):
    run(tmp_path, total=500)
    path, snapshot = read_latest(tmp_path / "checkpoints")
    snapshot["policy"]["log_std"][0, 0] = np.nan
    shutil.rmtree(tmp_path / "checkpoints")
    write_checkpoint(path, snapshot)
    with pytest.raises(mt.CheckpointError, match=rf"{path.name}.*log_std.*not finite"):
        run(tmp_path, total=600)


def test_a_new_run_does_not_take_over_a_folder(tmp_path):
    run(tmp_path, total=300)
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", BODIES, device="cpu")
    with pytest.raises(ValueError, match="holds checkpoints already"):
        model.learn(100, mt.ResumableCheckpointCallback(tmp_path / "checkpoints", resume=False))


@pytest.mark.parametrize("name", ["every", "keep"])
def test_bad_arguments_are_refused(name):
    with pytest.raises(ValueError, match=rf"`{name}` must be at least 1 \(got 0\)"):
        mt.ResumableCheckpointCallback(**{name: 0})


def test_stopping_writes_a_checkpoint_first(tmp_path):
    checkpoints = mt.ResumableCheckpointCallback(tmp_path, every=10**6, verbose=0)

    class StopSoon(KillAt):
        def _on_step(self):
            if self.num_timesteps >= 42:
                checkpoints.stop("SIGTERM")
            return True

    model = mt.A2CMultiTask("MultiTaskMlpPolicy", BODIES, n_steps=5, device="cpu")
    with pytest.raises(TrainingInterrupted, match="SIGTERM: checkpoint at"):
        model.learn(1000, [checkpoints, StopSoon(0)])
    assert [int(path.name) for path in list_checkpoints(tmp_path)] == [model.num_timesteps]


# The command line


def start(folder, *args):
    command = [sys.executable, "-c", "from sb3_multitask.cli import main; main()", "train", "--no-progress", *args]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=folder)


ARGS = ("--tasks", ",".join(BODIES), "--n-timesteps", "400000", "--n-envs-per-task", "1")
SETTINGS = ("n_eval_episodes=1", "eval_freq=100000", "eval_episodes=1", "checkpoint_freq=2000")
SETTINGS = tuple(word for setting in SETTINGS for word in ("--set", setting))


def wait_for_checkpoint(folder, beyond=0):
    deadline = time.time() + 60
    while not any(int(path.name) > beyond for path in list_checkpoints(folder / "checkpoints")):
        assert time.time() < deadline, "no checkpoint was written"
        time.sleep(0.05)


def finish(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


@pytest.mark.slow
def test_a_run_of_the_command_line_survives_signals_and_kills(tmp_path):
    folder = tmp_path / "run"
    process = start(tmp_path, *ARGS, *SETTINGS, "--run-dir", "run")
    wait_for_checkpoint(folder)
    code, _, err = finish(start(tmp_path, "--resume", "run"))  # a second process in the folder
    assert code == 2
    assert f"in use by another process (pid {process.pid} on" in err

    process.send_signal(signal.SIGTERM)
    code, out, err = finish(process)
    assert code == 128 + signal.SIGTERM, err
    assert "sb3-multitask train --resume run" in out
    status = json.loads((folder / "run.json").read_text())
    assert status["status"] == "interrupted"
    first_session = status["wall_seconds"]
    assert first_session > 0
    newest = int(list_checkpoints(folder / "checkpoints")[0].name)

    process = start(tmp_path, "--resume", "run")
    wait_for_checkpoint(folder, beyond=newest)
    process.send_signal(signal.SIGINT)
    code, _, err = finish(process)
    assert code == 128 + signal.SIGINT, err
    newest = int(list_checkpoints(folder / "checkpoints")[0].name)

    process = start(tmp_path, "--resume", "run")
    wait_for_checkpoint(folder, beyond=newest)
    process.kill()
    process.communicate()
    assert json.loads((folder / "run.json").read_text())["status"] == "running"  # nobody could say otherwise
    process = start(tmp_path, "--resume", "run")  # the dead owner's lock is free
    wait_for_checkpoint(folder, beyond=int(list_checkpoints(folder / "checkpoints")[0].name))
    os.kill(process.pid, signal.SIGTERM)
    assert finish(process)[0] == 128 + signal.SIGTERM
    assert json.loads((folder / "run.json").read_text())["wall_seconds"] > first_session  # sessions add up


@pytest.mark.slow
def test_a_resumed_run_of_the_command_line_has_the_same_results(tmp_path):
    args = [*ARGS, *SETTINGS, "--n-timesteps", "30000"]
    assert finish(start(tmp_path, *args, "--run-dir", "a"))[0] == 0
    process = start(tmp_path, *args, "--run-dir", "b")
    wait_for_checkpoint(tmp_path / "b")
    process.kill()
    process.communicate()
    code, out, err = finish(start(tmp_path, "--resume", "b"))
    assert code == 0, err
    assert "Going on from" in out
    assert (tmp_path / "a/results.json").read_text() == (tmp_path / "b/results.json").read_text()
    assert monitor_rows(tmp_path / "a") == monitor_rows(tmp_path / "b")
    code, out, _ = finish(start(tmp_path, "--resume", "b"))
    assert code == 0
    assert "finished already" in out


@pytest.mark.slow
def test_resume_needs_a_run_and_no_other_settings(tmp_path):
    code, _, err = finish(start(tmp_path, "--resume", "nowhere"))
    assert code == 2
    assert "nowhere is no run's folder" in err
    code, _, err = finish(start(tmp_path, "--resume", "nowhere", "--seed", "3"))
    assert code == 2
    assert "leave out the other settings" in err


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"critic_coef": 0.1}, "critic_coef: None then, 0.1 now"),
        ({"rl_coef": lambda _: 0.5}, "rl_coef: None then, 'a schedule' now"),
        ({"rms_prop_eps": 1e-2}, "optimizer_settings"),
        ({"policy_kwargs": {"log_std_init": -1.0}}, "log_std_init"),
        ({"normalize": {"norm_reward": False}}, "normalizer"),
        ({"normalize": {"clip_obs": 1.0}}, "normalizer"),
        ({"on_fault": "quarantine"}, "on_fault: 'stop' then, 'quarantine' now"),
    ],
)
@pytest.mark.filterwarnings("ignore:A run that resumes from a checkpoint")
def test_other_settings_are_another_run(tmp_path, changed, named):
    def train(normalize=True, on_fault="stop", **kwargs):
        env = mt.make_multitask_vec_env(drift_tasks(2), 2, seed=0, normalize=normalize, on_fault=on_fault)
        model = mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=0, device="cpu", **kwargs)
        return model.learn(200, mt.ResumableCheckpointCallback(tmp_path, every=40, verbose=0))

    train()
    with pytest.raises(mt.CheckpointError, match=f"of another run:\n  {named}"):
        train(**changed)
    train()


def test_a_run_that_was_killed_before_it_removed_the_oldest_does_so_when_it_goes_on(tmp_path):
    run(tmp_path)
    kept = [path.name for path in list_checkpoints(tmp_path / "checkpoints")]
    newest, older = sorted(kept, reverse=True)
    shutil.copytree(tmp_path / "checkpoints" / older, tmp_path / "checkpoints" / "000000000200")
    run(tmp_path)
    assert [path.name for path in list_checkpoints(tmp_path / "checkpoints")] == kept
    assert newest == f"{TOTAL:012d}"


def test_an_optimizer_with_several_betas_is_gone_on_with(tmp_path):
    adam = {"use_rms_prop": False, "policy_kwargs": {"optimizer_class": th.optim.Adam}}
    run(tmp_path, step=1000, **adam)
    model = run(tmp_path, **adam)
    assert model.num_timesteps == TOTAL
