"""Properties that hold for whatever is put in: task sets, statistics per task, run folders, statistics of reports."""

import json

import gymnasium as gym
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import sb3_multitask as mt
from sb3_multitask.checkpoint.format import CheckpointError, list_checkpoints, read_checkpoint, save_step
from sb3_multitask.evaluation.evaluate import TaskResult
from sb3_multitask.experiments.config import TrainConfig, load_config, make_config
from sb3_multitask.experiments.monitor_files import read_monitor_files
from sb3_multitask.experiments.report import statistics
from sb3_multitask.experiments.run_folder import RunFolder
from sb3_multitask.experiments.scheduler import steps_so_far
from sb3_multitask.storage.yaml_files import ConfigError
from sb3_multitask.tasks import resolve_tasks
from sb3_multitask.vec_env.statistics import TaskMoments

settings.register_profile("ours", deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
settings.load_profile("ours")
NAMES = st.text(min_size=1, max_size=12).filter(lambda name: name.strip() and name.isprintable())
RETURNS = st.floats(-1e6, 1e6, allow_nan=False)


def outcome(kind, call):
    """What a call returns and no text, or None and the text of an error of one kind; any other is raised."""
    try:
        return call(), ""
    except kind as e:
        return None, str(e)


# Task sets


@given(st.lists(NAMES, min_size=1, max_size=6))
def test_tasks_come_in_the_given_order_or_are_refused_for_a_name_twice(names):
    tasks = [mt.Task(name, "Hopper-v5") for name in names]
    if len(set(names)) < len(names):
        with pytest.raises(ValueError, match="unique"):
            resolve_tasks(tasks)
    else:
        assert resolve_tasks(tasks) == tuple(tasks)


@given(st.text(max_size=20))
def test_a_string_that_is_no_task_is_one_clear_error(text):
    if text in mt.TASK_SETS or text in gym.registry:
        return
    with pytest.raises(ValueError, match="Unknown task set or environment id") as caught:
        resolve_tasks(text)
    assert repr(text) in str(caught.value)


# Statistics per task


@st.composite
def batches(draw):
    """Batches of n samples of k of 3 tasks: 2 columns and a return."""
    sizes = draw(st.lists(st.integers(1, 5), min_size=1, max_size=5))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    scale = draw(st.sampled_from([1e-3, 1.0, 1e4]))
    return [(rng.choice(3, rng.integers(1, 4), replace=False), scale * rng.normal(size=(n, 3, 3))) for n in sizes]


@given(batches())
def test_statistics_are_those_of_all_samples_at_once(updates):
    """However samples are split into batches: mean and variance of all (after an initial count of nearly nothing)."""
    moments = TaskMoments(3, 2, epsilon=1e-12)
    seen = {task: [] for task in range(3)}
    for tasks, batch in updates:
        moments.update(tasks, batch[:, : len(tasks)])
        for task, samples in zip(tasks, batch.swapaxes(0, 1), strict=False):
            seen[int(task)].append(samples)
    for task, samples in seen.items():
        if not samples:
            assert (moments.mean[task] == 0).all()
            assert (moments.var[task] == 1).all()
            continue
        rows = np.concatenate(samples)
        np.testing.assert_allclose(moments.mean[task], rows.mean(axis=0), rtol=1e-6, atol=1e-6 * np.abs(rows).max())
        np.testing.assert_allclose(
            moments.var[task], rows.var(axis=0), rtol=1e-4, atol=1e-9 + 1e-6 * np.abs(rows).max() ** 2
        )
        np.testing.assert_allclose(moments.count[task], len(rows))


@given(batches())
def test_a_task_is_touched_by_its_own_samples_only(updates):
    moments, alone = TaskMoments(3, 2), TaskMoments(3, 2)
    for tasks, batch in updates:
        moments.update(tasks, batch[:, : len(tasks)])
        mine = np.flatnonzero(tasks == 1)
        if len(mine):
            alone.update(np.array([1]), batch[:, mine])
    for part in ("mean", "var", "count"):
        np.testing.assert_array_equal(getattr(moments, part)[1], getattr(alone, part)[1])


# Run folders


@given(st.binary(max_size=200))
def test_whatever_stands_in_a_status_file_is_read_as_a_status_or_as_none(tmp_path, content):
    folder = RunFolder(tmp_path)
    folder.run.write_bytes(content)
    status = folder.read_status()
    assert isinstance(status, dict)
    try:
        expected = json.loads(content)
    except ValueError:
        expected = {}
    assert status == (expected if isinstance(expected, dict) else {})


@given(st.dictionaries(NAMES, st.lists(st.tuples(RETURNS, st.integers(1, 1000)), min_size=1, max_size=4), max_size=4))
def test_results_are_read_as_they_were_written(tmp_path, episodes):
    folder = RunFolder(tmp_path)
    results = {task: TaskResult.of(rows) for task, rows in episodes.items()}
    folder.write_results(before=results)
    assert folder.read_results() == {"before": results}


SAVED = '{"before": {"A": {"mean_reward": 1.0, "std_reward": 0.0, "episode_rewards": [1.0], "episode_lengths": [3]}}}'


@st.composite
def damaged(draw, content: bytes = SAVED.encode()):
    """A file of which a part was lost or replaced by something else."""
    start, stop = sorted(draw(st.tuples(*[st.integers(0, len(content))] * 2)))
    return content[:start] + draw(st.binary(max_size=8)) + content[stop:]


@given(st.one_of(damaged(), st.binary(max_size=100)))
def test_damaged_results_are_one_error_that_names_the_file(tmp_path, content):
    folder = RunFolder(tmp_path)
    folder.results.write_bytes(content)
    results, error = outcome(ValueError, folder.read_results)
    if error:
        assert str(folder.results) in error
    else:
        assert all(isinstance(result, TaskResult) for by_task in results.values() for result in by_task.values())


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"mean_reward": 1.0', '"mean_reward": 1.1'),
        ('"std_reward": 0.0', '"std_reward": null, "std_reward": "0"'),
        ("[1.0]", "[true]"),
        ("[1.0]", "[NaN]"),
        ("[1.0]", '["1.0"]'),
        ("[1.0]", "[1" + "0" * 400 + "]"),
        ("[3]", "[3.5]"),
        ("[3]", "[-3]"),
        ("[3]", "[" * 5000),
    ],
)
def test_results_that_are_not_those_of_their_episodes_are_refused(tmp_path, old, new):
    folder = RunFolder(tmp_path)
    folder.results.write_text(SAVED)
    assert folder.read_results()["before"]["A"].mean_reward == 1.0
    assert old in SAVED
    folder.results.write_text(SAVED.replace(old, new))
    with pytest.raises(ValueError, match=r"results\.json does not hold the results of a run"):
        folder.read_results()


def test_facts_of_a_status_that_are_of_another_kind_are_left_out(tmp_path):
    folder = RunFolder(tmp_path)
    sound = {"status": "finished", "cpu_seconds": 3.5, "versions": {"numpy": "2"}, "revision": None}
    damaged = {"command": 3, "wall_seconds": "x", "reason": [], "python": {}, "host": None}
    folder.run.write_text(json.dumps(sound | damaged))
    assert folder.read_status() == sound
    folder.run.write_text(json.dumps({"status": 1, "cpu_seconds": float("nan"), "wall_seconds": True, "versions": "2"}))
    assert folder.read_status() == {}
    folder.run.write_text("[" * 100_000)
    assert folder.read_status() == {}


MONITOR = b'#{"t_start": 0.0, "env_id": "X"}\nr,l,t,task\n1.5,7,0.1,A\n-1234.5,10,0.25,A\n2.0,3,0.5,A\n'


@given(damaged(MONITOR))
@pytest.mark.filterwarnings("ignore:.*damaged row")
def test_damaged_monitor_files_and_logs_are_read_as_far_as_they_are_whole(tmp_path, content):
    (tmp_path / "0.monitor.csv").write_bytes(content)
    (episodes,) = read_monitor_files(tmp_path)
    assert len(episodes) <= len(content.splitlines())
    assert all(np.isfinite(episode.total_reward) and episode.length > 0 for episode in episodes)
    (tmp_path / "progress.csv").write_bytes(content.replace(b"r,l", b"time/total_timesteps,l"))
    assert steps_so_far(tmp_path) >= 0


@given(st.data())
def test_a_damaged_checkpoint_is_refused_or_as_it_was(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("checkpoints")
    state = {"numbers": np.arange(3.0), "word": "a"}
    save_step(folder, 1, state, keep=1)
    (checkpoint,) = list_checkpoints(folder)
    file = checkpoint / data.draw(st.sampled_from(sorted(path.name for path in checkpoint.iterdir())))
    content = file.read_bytes()
    changed = data.draw(damaged(content))
    file.write_bytes(changed)
    if changed == content:
        np.testing.assert_equal(read_checkpoint(checkpoint), state)
    else:
        with pytest.raises(CheckpointError, match=checkpoint.name):
            read_checkpoint(checkpoint)


# Configs

VALUES = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(-10, 10**7), st.floats(), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=6), inner, max_size=3)),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(sorted(TrainConfig.model_fields)), VALUES, max_size=4))
def test_whatever_values_a_config_is_given_it_is_valid_or_one_clear_error(values):
    config, error = outcome(ConfigError, lambda: make_config(TrainConfig, values))
    if error:
        assert any(name in error for name in values)
    else:
        assert isinstance(config, TrainConfig)


@given(st.text(max_size=60))
def test_whatever_text_a_config_file_holds_it_is_read_or_one_clear_error(tmp_path, text):
    path = tmp_path / "config.yml"
    path.write_text(text, encoding="utf-8")
    config, error = outcome(ConfigError, lambda: load_config(TrainConfig, path))
    assert str(path) in error if error else isinstance(config, TrainConfig)


# Statistics of reports


@given(st.lists(st.lists(RETURNS, min_size=3, max_size=3), min_size=2, max_size=5))
@settings(max_examples=25)
def test_estimates_lie_in_their_intervals_and_do_not_depend_on_the_order_of_seeds(rows):
    scores = np.array(rows)
    for statistic in (statistics.mean, statistics.interquartile_mean, statistics.median_task, statistics.worst_task):
        estimate, again = statistic(scores), statistic(scores[::-1])
        tolerance = 1e-6 * max(np.abs(scores).max(), 1)
        assert estimate.low - tolerance <= estimate.high
        assert scores.min() - tolerance <= estimate.value <= scores.max() + tolerance
        assert estimate.value == pytest.approx(again.value, abs=tolerance)
    better = statistics.probability_of_improvement(scores, scores[::-1])
    assert better.value == pytest.approx(0.5)
    assert statistics.probability_of_improvement(scores + 1e7, scores).value == 1
