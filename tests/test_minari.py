"""Datasets of Minari; runs where the extra ``minari`` is installed."""

import numpy as np
import pytest
from gymnasium import spaces
from helpers.drift import drift_tasks
from helpers.recordings import recorded

import sb3_multitask as mt
from sb3_multitask.distillation.minari_datasets import _FACTS

pytest.importorskip("h5py")
minari = pytest.importorskip("minari")


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(tmp_path))


def test_a_dataset_comes_back_as_it_was():
    dataset = recorded(n_episodes=11)  # more than ten: names of episodes do not sort as numbers
    ids = mt.to_minari(dataset, "own/points-v0")
    assert ids == {"A": "own/points/A-v0", "B": "own/points/B-v0"}
    back = mt.from_minari(ids)
    assert back.digest == dataset.digest
    assert back.facts == dataset.facts


def test_minari_reads_what_was_written():
    dataset = recorded(n_episodes=3)
    of_minari = minari.load_dataset(mt.to_minari(dataset, "own/points-v0")["B"])
    recording = dataset.recordings["B"]
    assert (of_minari.total_episodes, of_minari.total_steps) == (3, recording.n_rows)
    for episode, rows in zip(of_minari, recording.slices(), strict=True):
        np.testing.assert_array_equal(episode.observations[:-1], recording.observations[rows])
        np.testing.assert_array_equal(episode.actions, recording.actions[rows].clip(-1, 1))
        assert all(of_minari.action_space.contains(action) for action in episode.actions)
        assert episode.truncations.tolist() == [*[False] * (len(episode) - 1), True]


def test_environments_are_recovered():
    tasks = [mt.Task("Cheap", "Swimmer-v5", {"ctrl_cost_weight": 0.5})]
    dataset = mt.record({"Cheap": lambda obs: 0 * obs[:, :2]}, tasks, n_steps=4, n_envs_per_task=2)
    ids = mt.to_minari(dataset, "own/swimmers-v1")
    env = minari.load_dataset(ids["Cheap"]).recover_environment()
    assert env.unwrapped._ctrl_cost_weight == 0.5
    env.close()
    (task,) = mt.from_minari(ids).tasks
    assert (task.name, task.env_id, task.env_kwargs["ctrl_cost_weight"]) == ("Cheap", "Swimmer-v5", 0.5)


@pytest.mark.filterwarnings("ignore:.* None")
def test_actions_alone_are_learned_by_their_likelihood():
    episode = minari.data_collector.EpisodeBuffer(
        observations=np.zeros((4, 3)),
        actions=np.ones((3, 2), np.float32),
        rewards=[1.0, 2.0, 3.0],
        terminations=[False] * 3,
        truncations=[False] * 3,  # as Minari lets an episode end
    )
    box = minari.load_dataset(mt.to_minari(recorded(n_episodes=1), "own/points-v0")["A"]).action_space
    space = spaces.Box(-np.inf, np.inf, (3,), np.float64)
    minari.create_dataset_from_buffers("other/point-v0", [episode], observation_space=space, action_space=box)
    dataset = mt.from_minari({"A": "other/point-v0"})
    recording = dataset.recordings["A"]
    assert not recording.has_labels
    assert recording.truncations.tolist() == [False, False, True]
    assert recording.returns().tolist() == [6]
    with pytest.raises(ValueError, match=r"`loss`='forward_kl' needs: take loss='nll'"):
        mt.PolicyDistillation("MultiTaskMlpPolicy", drift_tasks(1), dataset)
    model = mt.PolicyDistillation("MultiTaskMlpPolicy", drift_tasks(1), dataset, loss="nll", seed=0).learn(640)
    assert "distill/A/kl" not in model.logger.name_to_value


@pytest.mark.parametrize("dataset_id", ["points", "a-v0", "own points-v0", "own//points-v0", "/own-v0", 3])
def test_ids_that_minari_has_not_are_refused(dataset_id):
    with pytest.raises(ValueError, match="`dataset_id` must be a name"):
        mt.to_minari(recorded(n_episodes=1), dataset_id)


def test_a_dataset_is_not_overwritten():
    dataset = recorded(n_episodes=1)
    mt.to_minari(dataset, "own/points-v0")
    with pytest.raises(ValueError, match="has these datasets already: own/points/A-v0, own/points/B-v0"):
        mt.to_minari(dataset, "own/points-v0")
    assert set(minari.list_local_datasets()) == {"own/points/A-v0", "own/points/B-v0"}


def test_a_failure_leaves_nothing_behind(monkeypatch):
    """Minari alone leaves a dataset that is listed and has no episodes."""
    dataset, create = recorded(n_episodes=1), minari.create_dataset_from_buffers

    def fail_for_b(dataset_id, buffers, **kwargs):
        if "/B-" in dataset_id:
            buffers = [*buffers, "no buffer"]
        return create(dataset_id, buffers, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(minari, "create_dataset_from_buffers", fail_for_b)
        with pytest.raises(AttributeError):
            mt.to_minari(dataset, "own/points-v0")
    assert not minari.list_local_datasets()
    assert mt.from_minari(mt.to_minari(dataset, "own/points-v0")).digest == dataset.digest


def test_a_dataset_that_is_not_there_is_named():
    with pytest.raises(ValueError, match="Task 'A': Minari has no dataset 'own/nothing-v0'"):
        mt.from_minari({"A": "own/nothing-v0"})


@pytest.mark.parametrize(("given", "error"), [({}, ValueError), ("own/points-v0", TypeError)])
def test_tasks_are_named(given, error):
    with pytest.raises(error, match="`datasets` must"):
        mt.from_minari(given)


def test_damaged_facts_are_named():
    ids = mt.to_minari(recorded(n_episodes=1), "own/points-v0")
    for facts in ("[]", "{"):
        minari.load_dataset(ids["B"]).storage.update_metadata({_FACTS: facts})
        with pytest.raises(ValueError, match="Task 'B': the dataset own/points/B-v0 of Minari does not hold together"):
            mt.from_minari(ids)
