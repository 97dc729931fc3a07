import inspect

import numpy as np
import pytest
import torch as th
from helpers.drift import DriftEnv, drift_tasks, sized_tasks
from helpers.models import make_model, weights_equal
from helpers.recordings import recorded, teacher_of
from hypothesis import given, settings
from hypothesis import strategies as st

import sb3_multitask as mt
from sb3_multitask.agents import agent_of
from sb3_multitask.algorithms.offline_rows import RowOrder
from sb3_multitask.evaluation.tensorboard import chart_layout, hyper_parameters
from sb3_multitask.losses import gaussian_kl
from sb3_multitask.vec_env import MultiTaskVecEnv

LOSSES = ["forward_kl", "reverse_kl", "mse", "nll"]


@pytest.fixture(scope="module")
def dataset():
    return recorded(n_steps=400)


def student(dataset, tasks=None, seed=0, **kwargs):
    return mt.PolicyDistillation("MultiTaskMlpPolicy", tasks or drift_tasks(2), dataset, seed=seed, **kwargs)


def kl_of(model, dataset, task):
    """KL(teacher || student) in nats, a mean over all rows of a task, by an agent of the student."""
    recording, agent = dataset.recordings[task], agent_of(model)
    mean, log_std = agent.distribution(recording.observations, agent.head_of(task))
    gaussians = (recording.teacher_mean, recording.teacher_log_std, mean, log_std)
    return gaussian_kl(*(th.tensor(np.array(array)) for array in gaussians)).mean().item()


# What is learned


@pytest.mark.parametrize("loss", LOSSES)
def test_the_student_becomes_like_its_teachers(dataset, loss):
    model = student(dataset, loss=loss, learning_rate=3e-3)
    before = [kl_of(model, dataset, task) for task in "AB"]
    model.learn(64 * 2 * 1200)
    after = [kl_of(model, dataset, task) for task in "AB"]
    assert max(after) < 0.2 < 0.2 * min(before)


def test_a_temperature_scales_the_stds_by_its_root(dataset):
    model = student(dataset, temperature=0.25, learning_rate=3e-3).learn(64 * 2 * 1200)
    np.testing.assert_allclose(model.policy.log_std.exp().detach(), 0.5 * 0.3, rtol=0.1)


def test_a_temperature_of_one_changes_nothing(dataset):
    first, second = (student(dataset, **kwargs).learn(1280) for kwargs in ({}, {"temperature": 1}))
    assert weights_equal(first, second)


def test_no_step_is_made_in_the_environments(dataset, monkeypatch):
    def never(*args):
        raise AssertionError

    monkeypatch.setattr(MultiTaskVecEnv, "step_async", never)
    model = student(dataset).learn(1280)
    assert (model.num_timesteps, model._n_updates) == (1280, 10)


@pytest.mark.parametrize("engine", ["torch", "fast"])
def test_the_critic_stays_as_it_is(dataset, engine):
    model = student(dataset, engine=engine)
    before = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    model.learn(1280)
    moved = {name for name, tensor in model.policy.state_dict().items() if not th.equal(tensor, before[name])}
    assert moved == {name for name in before if not name.startswith(("value_net", "mlp_extractor.value_net"))}


@pytest.mark.parametrize("engine", ["fast", "torch"])
def test_the_critic_stays_also_where_an_optimizer_remembers_it(dataset, tmp_path, engine):
    """Of PPO's zip the student takes weights and Adam's averages."""
    ppo = mt.PPOMultiTask("MultiTaskMlpPolicy", drift_tasks(2), n_steps=8, batch_size=16, seed=0).learn(64)
    ppo.save(tmp_path / "ppo")
    model = student(dataset, engine=engine)
    model.set_parameters(tmp_path / "ppo.zip")
    model.learn(1280)
    assert all(
        th.equal(parameter, dict(ppo.policy.named_parameters())[name]) == ("value" in name)
        for name, parameter in model.policy.named_parameters()
    )


def test_a_column_that_was_distilled_counts_as_trained(dataset):
    options = {"policy_kwargs": {"share": "progressive"}}
    model = student(dataset.select(["A"]), drift_tasks(1), **options)
    assert model.policy.mlp_extractor.trained.tolist() == [0]
    assert model.learn(64).policy.mlp_extractor.trained.tolist() == [1]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("sized", [False, True])
def test_both_engines_make_the_same_updates(dataset, loss, sized):
    tasks, data = drift_tasks(2), dataset
    if sized:
        tasks = sized_tasks()
        teachers = {name: (lambda obs, n=n: (np.tile(obs[:, :1], n), 0.2)) for name, n in zip("ABC", (2, 3, 1))}  # noqa: B905
        data = mt.record(teachers, tasks, n_steps=60)
    first, second = (student(data, tasks, engine=engine, loss=loss).learn(64 * 40) for engine in ("torch", "fast"))
    assert (first.last_engine, second.last_engine) == ("torch", "fast")
    for ours, theirs in zip(first.policy.parameters(), second.policy.parameters(), strict=True):
        th.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    keys = {"train/distill_loss", "distill/A/kl", "distill/B/loss", "train/epochs"}
    values = [{key: model.logger.name_to_value[key] for key in keys} for model in (first, second)]
    assert values[0] == pytest.approx(values[1], rel=1e-3)


def test_the_padding_of_narrow_tasks_does_not_matter():
    """Whatever the networks give there, and whatever stands beside it."""
    teachers = {name: (lambda obs, n=n: (np.tile(obs[:, :1], n), 0.2)) for name, n in (("A", 2), ("B", 3), ("C", 1))}
    data = mt.record(teachers, sized_tasks(), n_steps=60)
    model = student(data, sized_tasks(), engine="torch", loss="mse")
    model.learn(192)
    gradient = model.policy.action_net.layers[0].weight.grad
    assert (gradient[2, :, 1:] == 0).all()
    assert (gradient[2, :, :1] != 0).any()
    assert (model.policy.log_std.grad[2, 1:] == 0).all()


def test_the_loss_that_is_logged_is_that_of_the_rows(dataset):
    """With one update of all rows, by the formula: KL of two Gaussians, its mean over the rows of each task."""
    n = dataset.recordings["A"].n_rows
    model = student(dataset, batch_size=n)
    kl = {task: kl_of(model, dataset, task) for task in "AB"}
    model.learn(2 * n)
    values = model.logger.name_to_value
    assert values["distill/A/kl"] == pytest.approx(kl["A"], rel=1e-4)
    assert values["train/distill_loss"] == pytest.approx((kl["A"] + kl["B"]) / 2, rel=1e-4)
    assert values["train/epochs"] == 1


# Rows and their order


@given(st.lists(st.integers(1, 30), min_size=1, max_size=4), st.integers(1, 40), st.integers(0, 9))
@settings(max_examples=50, deadline=None)
def test_every_epoch_of_a_task_has_each_of_its_rows_once(sizes, batch_size, seed):
    bounds = np.cumsum([0, *sizes])
    order = RowOrder(bounds, batch_size, seed)
    n_updates = -(-3 * max(sizes) // batch_size)
    updates = [order.rows(update).reshape(len(sizes), batch_size) for update in range(n_updates)]
    for task, size in enumerate(sizes):
        rows = np.concatenate([update[task] for update in updates])
        for epoch in range(len(rows) // size):
            assert sorted(rows[epoch * size : (epoch + 1) * size]) == list(range(bounds[task], bounds[task + 1]))
    again = RowOrder(bounds, batch_size, seed)
    np.testing.assert_array_equal(again.rows(n_updates - 1).reshape(len(sizes), -1), updates[-1])


def test_the_env_says_the_order_of_the_tasks(dataset):
    a, b = drift_tasks(2)
    model = student(dataset, (b, a), loss="forward_kl", learning_rate=3e-3).learn(64 * 2 * 600)
    assert model.dataset.task_names == ("B", "A")
    assert max(kl_of(model, dataset, task) for task in "AB") < 0.3


# Normalisation


def test_statistics_are_the_datasets_and_stay(dataset):
    model = student(dataset)
    for when in ("before", "after"):
        rms = model.get_normalizer_state()["obs_rms"]
        for i, recording in enumerate(dataset.recordings.values()):
            np.testing.assert_allclose(rms["mean"][i], recording.observations.mean(axis=0, dtype=float))
            np.testing.assert_allclose(rms["var"][i], recording.observations.var(axis=0, dtype=float))
            assert (rms["count"][i] == recording.n_rows).all()
        if when == "before":
            model.learn(1280)


def test_without_a_normaliser_observations_are_raw(dataset):
    env = mt.make_multitask_vec_env(drift_tasks(2), 1, normalize=False)
    model = student(dataset, env, learning_rate=3e-3).learn(64 * 2 * 600)
    assert model.get_normalizer_state() is None
    assert max(kl_of(model, dataset, task) for task in "AB") < 0.3


# Files, callbacks, further training


def test_agents_files_and_evaluations_are_those_of_other_models(dataset, tmp_path):
    model = student(dataset, policy_kwargs={"net_arch": [8]}).learn(1280)
    mt.save_agent(model, tmp_path / "agent")
    model.save(tmp_path / "model.zip")
    agent, loaded = mt.load_agent(tmp_path / "agent"), mt.PolicyDistillation.load(tmp_path / "model.zip")
    obs = {"obs": dataset.recordings["B"].observations[:5], "task": np.ones(5, int)}
    normalized = model.get_env().normalize_obs(obs)
    actions = model.predict(normalized, deterministic=True)[0]
    np.testing.assert_allclose(agent.predict(obs, deterministic=True)[0], actions, atol=1e-5)
    np.testing.assert_array_equal(loaded.predict(normalized, deterministic=True)[0], actions)
    assert set(mt.evaluate_tasks(loaded, n_eval_episodes=1)) == {"A", "B"}
    assert mt.load_agent(tmp_path / "model.zip").digest == agent.digest


def test_a_model_that_was_loaded_continues_with_its_dataset(dataset, tmp_path):
    whole, first = student(dataset).learn(2560), student(dataset).learn(1280)
    first.save(tmp_path / "model.zip")
    with pytest.raises(ValueError, match="has no dataset, which is not saved with it: load it with PolicyDistillation"):
        mt.PolicyDistillation.load(tmp_path / "model.zip", env=drift_tasks(2)).learn(1)
    loaded = mt.PolicyDistillation.load(tmp_path / "model.zip", env=drift_tasks(2), dataset=dataset)
    loaded.learn(1280, reset_num_timesteps=False)
    assert loaded._n_updates == 20
    for ours, theirs in zip(loaded.policy.parameters(), whole.policy.parameters(), strict=True):
        th.testing.assert_close(ours, theirs)


@pytest.mark.filterwarnings("ignore:.*get_state")
@pytest.mark.parametrize("engine", ["torch", "fast"])
def test_training_resumes_to_the_same_bits(dataset, tmp_path, engine):
    def run(n, name, seed=0):
        callback = mt.ResumableCheckpointCallback(tmp_path / name, every=640, verbose=0)
        return student(dataset, seed=seed, engine=engine).learn(n, callback)

    whole = run(2560, "whole")
    run(1280, "in_two")
    resumed = run(2560, "in_two")
    assert resumed._n_updates == 20
    assert weights_equal(whole, resumed)


@pytest.mark.filterwarnings("ignore:.*get_state")
def test_a_checkpoint_of_another_dataset_is_refused(dataset, tmp_path):
    student(dataset).learn(640, mt.ResumableCheckpointCallback(tmp_path, every=640, verbose=0))
    with pytest.raises(mt.CheckpointError, match="dataset:"):
        student(recorded(n_steps=40)).learn(1280, mt.ResumableCheckpointCallback(tmp_path, every=640, verbose=0))


def test_callbacks_count_rows(dataset):
    env = mt.make_multitask_vec_env(drift_tasks(2), 1, training=False, seed=1)
    callback = mt.MultiTaskEvalCallback(env, n_eval_episodes=1, eval_freq=1000, verbose=0)
    student(dataset).learn(2560, callback)
    assert callback.evaluations_timesteps == [1024, 2048]


def test_tensorboard_has_charts_of_the_distance_and_none_of_rollouts(dataset):
    model = student(dataset)
    layout = chart_layout(model, ["A", "B"], ["eval"])
    assert {group: list(charts) for group, charts in layout.items()} == {
        "train": ["std"],
        "distill": ["loss", "kl"],
        "eval": ["mean_reward", "mean_ep_length"],
    }
    found = hyper_parameters(model, ["A", "B"])
    assert (found["loss"], found["temperature"], found["batch_size"]) == ("forward_kl", 1.0, 64)
    assert "dataset" not in found


@pytest.mark.parametrize("algorithm", [mt.A2CMultiTask, mt.PPOMultiTask])
def test_reinforcement_learning_continues_after_a_transfer(dataset, algorithm):
    model = student(dataset).learn(1280)
    settings = {"n_steps": 8, "batch_size": 16} if algorithm is mt.PPOMultiTask else {}
    learner = algorithm("MultiTaskMlpPolicy", drift_tasks(2), seed=0, **settings)
    mt.transfer(learner, model, {"A": "A", "B": "B"})
    assert th.equal(learner.policy.action_net.layers[0].weight, model.policy.action_net.layers[0].weight)
    counts = learner.get_normalizer_state()["obs_rms"]["count"]
    assert (counts[:, 0] == [dataset.recordings[task].n_rows for task in "AB"]).all()
    learner.learn(128)


def test_frozen_layers_stay(dataset):
    model = student(dataset)
    mt.freeze(model, "trunk")
    before = model.policy.mlp_extractor.policy_net[0].weight.clone()
    model.learn(1280)
    assert th.equal(model.policy.mlp_extractor.policy_net[0].weight, before)


# What is refused


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"dataset": None}, ValueError, "`dataset` must be a TeacherDataset or its folder"),
        ({"dataset": 3}, TypeError, "`dataset` must be a TeacherDataset or its folder .got 3"),
        ({"dataset": "nowhere"}, ValueError, "nowhere holds no dataset"),
        ({"loss": "kl"}, ValueError, "`loss` must be one of forward_kl, reverse_kl, mse, nll .got 'kl'"),
        ({"temperature": 0}, ValueError, "`temperature` must be a positive, finite number .got 0"),
        ({"temperature": 2.0, "loss": "nll"}, ValueError, "`temperature`=2.0 .* `loss`='nll' has none"),
        ({"temperature": 2.0, "loss": "mse"}, ValueError, "`temperature`=2.0 .* `loss`='mse' has none"),
        ({"batch_size": 0}, ValueError, "`batch_size` must be at least 1 .got 0"),
        ({"batch_size": 8.0}, TypeError, "`batch_size` must be a whole number"),
        ({"engine": "slow"}, ValueError, "`engine` must be one of"),
        ({"env": drift_tasks(3)}, ValueError, r"tasks of the env; .*select(.|\n)*env: +A, B, C\n +dataset: A, B"),
        ({"env": drift_tasks(1)}, ValueError, r"tasks of the env(.|\n)*env: +A\n"),
        ({"env": drift_tasks(2, obs_dim=4)}, ValueError, "task 'A' has 3 numbers in an observation .* the env's has 4"),
        ({"env": drift_tasks(2, action_dim=1)}, ValueError, "2 in an action; the env's has 3 and 1"),
        ({"policy_kwargs": {"value_norm": "popart"}}, ValueError, "value_norm='popart'"),
        ({"policy_kwargs": {"share": "progressive"}}, ValueError, "PolicyDistillation learns all tasks at once"),
    ],
)
def test_other_arguments_are_refused(dataset, arguments, error, message):
    given = {"env": drift_tasks(2), "dataset": dataset, **arguments}
    with pytest.raises(error, match=message):
        mt.PolicyDistillation("MultiTaskMlpPolicy", **given)


@pytest.mark.parametrize(
    ("name", "value", "error", "message"),
    [
        ("dataset", "nowhere", ValueError, "nowhere holds no dataset"),
        ("dataset", 3, TypeError, "`dataset` must be a TeacherDataset or its folder .got 3"),
        ("batch_size", 0, ValueError, "`batch_size` must be at least 1 .got 0"),
        ("loss", "kl", ValueError, "`loss` must be one of forward_kl, reverse_kl, mse, nll .got 'kl'"),
        ("temperature", -1, ValueError, "`temperature` must be a positive, finite number .got -1"),
    ],
)
def test_attributes_that_were_set_are_checked_as_arguments(dataset, name, value, error, message):
    model = student(dataset)
    setattr(model, name, value)
    with pytest.raises(error, match=message):
        model.learn(128)


def test_a_temperature_that_was_set_has_an_effect_or_is_refused(dataset):
    model = student(dataset, loss="nll")
    model.temperature = 0.5
    with pytest.raises(ValueError, match="`temperature`=0.5 .* `loss`='nll' has none"):
        model.learn(128)


def test_a_dataset_that_was_set_teaches_each_task_its_own(dataset):
    """Tasks go by their names, not by their places."""
    model, other = student(dataset), student(dataset)
    other.dataset = dataset.select(["B", "A"])
    assert weights_equal(model.learn(640), other.learn(640))
    other.dataset = dataset.select(["B"])
    with pytest.raises(ValueError, match=r"tasks of the env(.|\n)*dataset: B"):
        other.learn(128)


def test_an_env_that_is_refused_goes_on_learning_statistics(dataset):
    env = mt.make_multitask_vec_env(drift_tasks(3), 2, seed=0)
    with pytest.raises(ValueError, match="tasks of the env"):
        student(dataset, env)
    assert env.training


def test_another_algorithms_schedule_is_refused(dataset, tmp_path):
    make_model(drift_tasks(2), task_schedule="cycle").learn(20).save(tmp_path / "model")
    given = {"path": tmp_path / "model", "env": drift_tasks(2), "dataset": dataset}
    with pytest.raises(ValueError, match="`task_schedule` is 'cycle', and PolicyDistillation learns all tasks at once"):
        mt.PolicyDistillation.load(**given).learn(128)
    assert mt.PolicyDistillation.load(**given, task_schedule="joint").learn(128).num_timesteps == 128


def test_numbers_that_are_not_finite_are_refused(dataset):
    model = student(dataset, engine="fast")
    model.policy.log_std.data[1] = -100.0  # its square leaves float32
    with np.errstate(all="ignore"), pytest.raises(RuntimeError, match="The loss is not finite because of B"):
        model.learn(128)


def test_online_distillation_has_no_likelihood():
    with pytest.raises(ValueError, match="`distill_loss` must be one of forward_kl, reverse_kl, mse .got 'nll'"):
        make_model(drift_tasks(1), teachers={"A": teacher_of("A")}, distill_loss="nll")


def test_every_argument_is_documented():
    documentation = inspect.getdoc(mt.PolicyDistillation)
    for name in ("dataset", "batch_size", "loss", "temperature", "engine", "learning_rate"):
        assert f":param {name}:" in documentation


def test_other_observations_are_normalised_as_the_agents_see_them():
    """An observation that never changes has a variance of 0 and stays finite."""

    class StillEnv(DriftEnv):
        def _obs(self):
            return np.array([*super()._obs()[:2], 1.0])

    tasks = [mt.Task("A", StillEnv)]
    data = mt.record({"A": teacher_of("A")}, tasks, n_steps=40)
    model = student(data, tasks).learn(640)
    assert all(th.isfinite(parameter).all() for parameter in model.policy.parameters())
