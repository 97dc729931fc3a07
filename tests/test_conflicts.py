"""``conflicts.npz`` of a run's folder: what it holds, that it stays small, and that a resumed run has the same."""

import contextlib
import json

import numpy as np
import pytest
from helpers.drift import ReachingEnv, drift_tasks
from helpers.killed_runs import KillAt, Killed
from stable_baselines3.common.callbacks import BaseCallback, CallbackList

import sb3_multitask as mt
from sb3_multitask.experiments import conflicts
from sb3_multitask.experiments.conflicts import Conflicts, ConflictsCallback, max_measurements, read_conflicts
from sb3_multitask.readers import UnreadableFileError

TASKS = [mt.Task(name, ReachingEnv, {"target": i / 3, "horizon": 5 + 2 * i}) for i, name in enumerate("ABC")]
ROLLOUT = 3 * 2 * 4  # tasks, copies, steps


def trained(folder, n=10, kill_at=10**9, freq=1, callbacks=(), every=2 * ROLLOUT):
    """A model after n rollouts, or until it is killed in the middle of one."""
    env = mt.make_multitask_vec_env(TASKS, 2, seed=0)
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=0, n_steps=4, conflict_freq=freq)
    checkpoints = mt.ResumableCheckpointCallback(folder / "checkpoints", every=every, verbose=0)
    kept = ConflictsCallback(folder / "conflicts.npz", every)
    with contextlib.suppress(Killed):
        model.learn(n * ROLLOUT, [kept, checkpoints, *callbacks, KillAt(kill_at)])
    return model


class Watch(BaseCallback):
    """Takes what the model measured, rollout by rollout."""

    def __init__(self):
        super().__init__()
        self.seen = {}

    def get_state(self):
        return {}

    def set_state(self, state):
        pass

    def _on_rollout_start(self):
        if self.model.conflict_cosines:
            self.seen.setdefault(self.model.combining.measured_at, self.model.conflict_cosines)

    def _on_step(self):
        return True

    def _on_training_end(self):
        self._on_rollout_start()


def test_the_file_holds_every_measurement(tmp_path):
    watch = Watch()
    trained(tmp_path, freq=3, callbacks=[watch])
    with np.load(tmp_path / "conflicts.npz") as arrays:
        assert arrays["timesteps"].tolist() == [3 * ROLLOUT, 6 * ROLLOUT, 9 * ROLLOUT] == list(watch.seen)
        assert arrays["task_names"].tolist() == ["A", "B", "C"]
        for net in ("actor", "critic"):
            expected = np.array([of_nets[net] for of_nets in watch.seen.values()], dtype=np.float32)
            np.testing.assert_array_equal(arrays[net], expected)


def test_the_file_is_written_while_training(tmp_path):
    trained(tmp_path, kill_at=5 * ROLLOUT + 1)  # written at 2 and 4 rollouts
    assert (read_conflicts(tmp_path / "conflicts.npz").timesteps / ROLLOUT).tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("most", [512, 4])
@pytest.mark.parametrize("kills", [[3.5], [0.5, 4.5, 4.6, 9.9]], ids=str)
def test_a_run_that_was_killed_has_the_file_of_one_that_was_not(tmp_path, monkeypatch, kills, most):
    """Whether or not measurements were dropped before, or after, the checkpoint."""
    monkeypatch.setattr(conflicts, "max_measurements", lambda _n_tasks: most)
    a, b = tmp_path / "uninterrupted", tmp_path / "killed"
    for rollouts in kills:
        trained(b, kill_at=int(rollouts * ROLLOUT))
    for folder in (a, b):
        trained(folder)
    assert (a / "conflicts.npz").read_bytes() == (b / "conflicts.npz").read_bytes()
    kept = (read_conflicts(a / "conflicts.npz").timesteps / ROLLOUT).tolist()
    assert kept == (list(range(1, 11)) if most == 512 else [1, 5, 9])


def test_a_second_learn_adds_to_the_first(tmp_path):
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", list(drift_tasks(2)), n_steps=4, conflict_freq=1, seed=0)
    kept = ConflictsCallback(tmp_path / "conflicts.npz")
    steps = model.n_steps * model.n_envs
    for reset in (True, False):
        model.learn(2 * steps, kept, reset_num_timesteps=reset)
    assert (read_conflicts(tmp_path / "conflicts.npz").timesteps / steps).tolist() == [1, 2, 3, 4]


@pytest.mark.parametrize("most", [1, 2, 7])
def test_kept_measurements_are_evenly_apart_and_few(tmp_path, monkeypatch, most):
    monkeypatch.setattr(conflicts, "max_measurements", lambda _n_tasks: most)
    trained(tmp_path, n=50)
    rollouts = read_conflicts(tmp_path / "conflicts.npz").timesteps // ROLLOUT
    assert rollouts[0] == 1
    assert most / 2 <= len(rollouts) <= most
    assert len(set(np.diff(rollouts))) <= 1


@pytest.mark.parametrize(("n_tasks", "most"), [(2, 512), (32, 512), (50, 209), (181, 16), (500, 16)])
def test_the_number_of_measurements_is_bounded(n_tasks, most):
    assert max_measurements(n_tasks) == most
    assert n_tasks > 181 or 2 * most * n_tasks**2 * 4 <= 2**22  # bytes


def test_a_net_that_is_not_measured_is_nan(tmp_path):
    env = mt.make_multitask_vec_env(drift_tasks(2), 1, seed=0)
    net_arch = {"pi": [4], "vf": []}  # heads of the critic on the observation: tasks share nothing
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", env, policy_kwargs={"net_arch": net_arch}, conflict_freq=1, seed=0)
    model.learn(50, ConflictsCallback(tmp_path / "conflicts.npz"))
    found = read_conflicts(tmp_path / "conflicts.npz")
    assert np.isnan(found.cosines["critic"]).all()
    assert np.isnan(found.negative_shares["critic"]).all()
    assert np.isfinite(found.cosines["actor"]).all()


def test_a_callback_that_would_lack_measurements_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"`every` must be at least 1 \(got 0\)"):
        ConflictsCallback(tmp_path / "conflicts.npz", 0)
    with pytest.raises(ValueError, match="`conflict_freq` of at least 1"):
        trained(tmp_path, freq=0)
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", TASKS, conflict_freq=1, seed=0)
    callbacks = [mt.ResumableCheckpointCallback(tmp_path / "c", verbose=0), ConflictsCallback(tmp_path / "c.npz")]
    with pytest.raises(ValueError, match="must come before ResumableCheckpointCallback"):
        model.learn(10, callbacks)
    with pytest.raises(ValueError, match="must come before ResumableCheckpointCallback"):
        model.learn(10, CallbackList([callbacks[0], CallbackList([callbacks[1]])]))


# Reading


def write(path, cosines, **others):
    """A file of one net's measurements, (n, k, k), for both nets."""
    cosines = np.array(cosines, dtype=np.float32)
    n, k = cosines.shape[:2]
    arrays = {"timesteps": 10 * np.arange(1, n + 1), "task_names": list("ABCDEFGH"[:k])}
    np.savez(path, **{**arrays, "actor": cosines, "critic": -cosines, **others})
    return path


def of_pairs(ab, ac, bc):
    return [[1, ab, ac], [ab, 1, bc], [ac, bc, 1]]


def test_means_and_shares_by_hand(tmp_path):
    """C had no rows at first: only A and B are a pair."""
    none = np.nan
    first, second = of_pairs(-0.5, none, none), of_pairs(0.25, -0.25, 0.75)
    first[2][2] = none
    found = read_conflicts(write(tmp_path / "conflicts.npz", [first, second]))
    assert found.timesteps.tolist() == [10, 20]
    assert found.means["actor"].tolist() == [-0.5, 0.25]
    assert found.negative_shares["actor"].tolist() == [1, pytest.approx(1 / 3, abs=1e-6)]
    assert found.negative_shares["critic"].tolist() == [0, pytest.approx(2 / 3, abs=1e-6)]
    assert found.cosines["actor"].tolist() == of_pairs(-0.125, -0.25, 0.75)
    again = Conflicts.from_json(json.loads(json.dumps(found.to_json(), allow_nan=False)))
    np.testing.assert_equal(vars(again), vars(found))


def test_a_run_without_the_file_measured_nothing(tmp_path):
    assert read_conflicts(tmp_path / "conflicts.npz") is None


@pytest.mark.parametrize(
    "arrays",
    [
        {"timesteps": np.arange(3)},
        {"timesteps": np.array(2)},
        {"timesteps": np.array(["a", "b"])},
        {"task_names": np.array(["A", "B"])},
        {"actor": np.zeros((2, 3, 2))},
        {"critic": np.full((2, 3, 3), 1.5)},
        {"critic": np.full((2, 3, 3), np.inf)},
        {"actor": np.full((2, 3, 3), "a")},
    ],
    ids=lambda arrays: next(iter(arrays)),
)
def test_arrays_that_do_not_fit_are_one_error(tmp_path, arrays):
    path = write(tmp_path / "conflicts.npz", [of_pairs(0, 0, 0)] * 2, **arrays)
    with pytest.raises(UnreadableFileError, match=r"conflicts\.npz: holds no conflicts of gradients"):
        read_conflicts(path)


def test_a_damaged_file_is_named(tmp_path):
    path = write(tmp_path / "conflicts.npz", [of_pairs(0, 0, 0)])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(UnreadableFileError, match=r"conflicts\.npz"):
        read_conflicts(path)
