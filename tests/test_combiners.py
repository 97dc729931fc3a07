"""Gradient combiners, and how the gradients of tasks conflict."""

import contextlib
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch as th
from helpers.drift import ReachingEnv, drift_tasks, recorded_tasks
from helpers.killed_runs import KillAt, Killed
from helpers.models import weights_equal
from PIL import Image
from stable_baselines3 import A2C
from stable_baselines3.common.logger import Logger, configure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from test_fast import StopTraining

import sb3_multitask as mt
from sb3_multitask.algorithms import MultiTaskOnPolicyAlgorithm, conflict_images
from sb3_multitask.algorithms.engine import TorchEngine
from sb3_multitask.checkpoint import CheckpointError
from sb3_multitask.combiners import (
    COMBINERS,
    Combiner,
    GradientCombining,
    MeanNorm,
    PCGrad,
    TorchJDCombiner,
    cosines,
    make_combiners,
    pair_statistics,
    pcgrad_weights,
)
from sb3_multitask.losses import A2CLoss
from sb3_multitask.policies.task_steps import shared_parameters
from sb3_multitask.process import kernels as loading

ALGORITHMS = [
    (mt.A2CMultiTask, {"n_steps": 8, "ent_coef": 0.01}),
    (mt.PPOMultiTask, {"n_steps": 16, "batch_size": 32, "n_epochs": 2, "ent_coef": 0.01}),
]
pytestmark = pytest.mark.filterwarnings("ignore:You are solving a parameterized problem")  # cvxpy, of Nash-MTL
CONFLICT = np.array([[1.0, 0.0], [-1.0, 1.0]])  # g_1 g_2 = -1, |g_1|^2 = 1, |g_2|^2 = 2


def made(algorithm=mt.A2CMultiTask, seed=0, tasks=None, n_envs=2, **kwargs):
    env = mt.make_multitask_vec_env(tasks or drift_tasks(3), n_envs, seed=seed)
    return algorithm("MultiTaskMlpPolicy", env, seed=seed, **kwargs)


def vector_of(model):
    return model.policy.parameters_to_vector()


def learned(algorithm=mt.A2CMultiTask, n=200, **kwargs):
    model = made(algorithm, **kwargs)
    model.learn(n)
    return vector_of(model)


def with_rollout(**kwargs):
    """A model with a rollout, before its update."""
    return made(**{"engine": "fast", "n_steps": 8, **kwargs}).learn(1, StopTraining())


def gradients_of(model, engine, combining=None):
    """The gradient of every parameter by an engine, whether it combines or not."""
    model.combining = combining
    (batch,) = engine.batches(model.rollout_buffer, None, normalize_advantage=False)
    engine.evaluate([A2CLoss(1.0, 0.01, 0.5)], batch)
    if isinstance(engine, TorchEngine):
        return {name: p.grad.numpy().copy() for name, p in model.policy.named_parameters()}
    parameters = engine.parameters
    return {
        name: parameters.gradient[parameters.offsets[p]].reshape(p.shape).copy()
        for name, p in model.policy.named_parameters()
    }


def shared_names(model, net):
    shared = {id(p) for p in shared_parameters(model.policy)[net]}
    return [name for name, p in model.policy.named_parameters() if id(p) in shared]


class Fixed(Combiner):
    """Weights that are given."""

    def __init__(self, *weights):
        super().__init__()
        self.given = np.array(weights)

    def weights(self, gramian):
        self.seen = gramian.copy()
        return self.given


def gramian_of(k=5, dim=3, seed=0):
    rows = np.random.default_rng(seed).normal(size=(k, dim))
    return rows @ rows.T


def test_pcgrad_by_hand():
    """g_1 = (1, 0) becomes g_1 + g_2 / 2 = (1/2, 1/2), and g_2 = (-1, 1) becomes g_2 + g_1 = (0, 1)."""
    weights = pcgrad_weights(CONFLICT @ CONFLICT.T, np.array([[0, 1], [1, 0]]))
    np.testing.assert_allclose(weights, [(1 + 1) / 2, (1 + 0.5) / 2])
    np.testing.assert_allclose(weights @ CONFLICT, np.array([0.5, 1.5]) / 2)


def test_pcgrad_is_the_same_without_numba(monkeypatch):
    gramian, order = gramian_of(7), np.random.default_rng(1).random((7, 7)).argsort(axis=1)
    compiled = pcgrad_weights(gramian, order)
    monkeypatch.setattr("sb3_multitask.combiners.pcgrad.load_kernels", lambda room: None)
    np.testing.assert_allclose(pcgrad_weights(gramian, order), compiled, rtol=1e-12)


def test_permuting_tasks_permutes_pcgrads_weights():
    rng = np.random.default_rng(2)
    gramian, order, p = gramian_of(6), rng.random((6, 6)).argsort(axis=1), rng.permutation(6)
    new = np.argsort(p)  # where each task went
    permuted = pcgrad_weights(gramian[np.ix_(p, p)], new[order[p]])
    np.testing.assert_allclose(permuted, pcgrad_weights(gramian, order)[p])


def test_a_direction_may_have_the_length_of_the_mean():
    """|0.5 g_1 + 0.5 g_2| = 1/2 and |3 g_1 + g_2| = |(2, 1)| = sqrt(5): weights are divided by 2 sqrt(5)."""
    weights = MeanNorm(Fixed(3.0, 1.0)).weights(CONFLICT @ CONFLICT.T)
    np.testing.assert_allclose(weights, np.array([3, 1]) / (2 * np.sqrt(5)))
    np.testing.assert_array_equal(MeanNorm(Fixed(0.0, 0.0)).weights(CONFLICT @ CONFLICT.T), 0)
    opposite = np.array([[1.0, -1.0], [-1.0, 1.0]])
    np.testing.assert_array_equal(MeanNorm(Fixed(1.0, 0.0)).weights(opposite), 0)


def test_a_scaled_combiner_is_its_inner_one_in_files_and_names():
    model = made(n_steps=8, gradient_combiner="pcgrad+mean_norm", seed=3)
    own, inner = model.combining.combiners["actor"], PCGrad()
    inner.begin(3, 0)
    assert own.settings() == {"class": "MeanNorm", "combiner": {"class": "PCGrad"}}
    assert own.combiner.get_state() == inner.get_state()
    own.weights(gramian_of())
    other = MeanNorm(PCGrad())
    other.begin(0, 0)
    other.set_state(own.get_state())
    np.testing.assert_array_equal(other.weights(gramian_of(seed=1)), own.weights(gramian_of(seed=1)))
    model.learn(48)
    with pytest.raises(TypeError, match=r"`combiner` must be a Combiner \(got 'pcgrad'\)"):
        MeanNorm("pcgrad")


@pytest.mark.parametrize("name", ["mean", "pcgrad", "mean+mean_norm"])
def test_gradients_without_conflict_give_the_mean(name):
    combiner = make_combiners(name)["actor"]
    for rows in (np.ones((4, 2)), np.eye(4) * [1, 2, 3, 4]):
        np.testing.assert_allclose(combiner.weights(rows @ rows.T), 0.25)


@pytest.mark.parametrize("name", ["mean", "pcgrad"])
def test_a_zero_gradient_changes_nothing(name):
    def combined(rows):
        combining = GradientCombining({"actor": COMBINERS[name]()}, len(rows))
        return combining.factors("actor", np.arange(len(rows)), rows @ rows.T) @ rows

    rows = np.random.default_rng(3).normal(size=(2, 4))
    with_zero = np.stack([rows[0], np.zeros(4), rows[1]])
    np.testing.assert_allclose(combined(with_zero), combined(rows))


def test_combiners_see_a_gramian_of_trace_k_of_those_that_have_a_gradient():
    """However small gradients are: some aggregators of TorchJD give up below a norm of 0.01."""
    combiner = Fixed(0.5, 0.25)
    combining = GradientCombining({"critic": combiner}, 3)
    gramian = np.diag([3e-16, 0, 1e-16])
    np.testing.assert_allclose(combining.factors("critic", np.arange(3), gramian), [1, 1, 0.5])
    np.testing.assert_allclose(combiner.seen, np.diag([1.5, 0.5]))
    np.testing.assert_array_equal(combining.factors("actor", np.arange(3), gramian), 1)  # which is not combined


def test_fewer_than_two_gradients_and_gradients_that_are_not_finite_are_left_alone():
    combining = GradientCombining({"actor": Fixed(5.0)}, 2)
    for gramian in (np.diag([1.0, 0.0]), np.zeros((2, 2)), np.full((2, 2), np.nan)):
        np.testing.assert_array_equal(combining.factors("actor", np.arange(2), gramian), 1)


@pytest.mark.parametrize("weights", [(1.0,), (1.0, np.nan)])
def test_weights_of_another_shape_or_not_finite_are_refused(weights):
    with pytest.raises(ValueError, match=r"weights\(\) of Fixed must return 2 finite numbers"):
        GradientCombining({"actor": Fixed(*weights)}, 2).factors("actor", np.arange(2), np.eye(2))


def test_cosines_by_hand():
    rows = np.array([[1.0, 0.0], [-1.0, 1.0], [0.0, 0.0], [0.0, 2.0]])
    found, root = cosines(rows @ rows.T), 1 / np.sqrt(2)
    np.testing.assert_allclose(found[np.ix_([0, 1, 3], [0, 1, 3])], [[1, -root, 0], [-root, 1, root], [0, root, 1]])
    assert np.isnan(found[2]).all()
    assert pair_statistics(found) == pytest.approx((0, 1 / 3))
    assert pair_statistics(np.array([[1.0, np.nan], [np.nan, np.nan]])) is None


# The engines


OPTIONS = [{}, {"log_std_mode": "shared", "net_arch": [7, 5]}, {"layer_norm": True, "value_norm": "popart"}]


@pytest.fixture(params=["compiled", "numpy"])
def kernels(request, monkeypatch):
    if request.param == "numpy":
        monkeypatch.setenv(loading.SWITCH, "0")
    loading.load_kernels.cache_clear()
    yield
    loading.load_kernels.cache_clear()


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("nets", [("actor",), ("actor", "critic")])
def test_both_engines_combine_the_contributions_of_the_tasks(options, nets):
    """The shared gradient is that of losses weighted by k w_i; everything else is as without a combiner."""
    model = with_rollout(policy_kwargs=options)
    fast, torch = model.numerics, TorchEngine(model)
    weights = np.array([0.5, 0.1, 0.9])
    for engine in (fast, torch):
        plain = gradients_of(model, engine)
        combined = gradients_of(model, engine, GradientCombining({net: Fixed(*weights) for net in nets}, 3))
        model.task_weights = dict(zip(model.task_names, (3 * weights).tolist(), strict=True))
        weighted = gradients_of(model, engine)
        model.task_weights = None
        shared = [name for net in nets for name in shared_names(model, net)]
        assert ("log_std" in shared) == ("log_std_mode" in options)
        for name, gradient in combined.items():
            expected = weighted if name in shared else plain
            np.testing.assert_allclose(gradient, expected[name], atol=1e-6, err_msg=f"{engine.name} {name}")
        assert any(np.abs(combined[name] - plain[name]).max() > 1e-4 for name in shared)


@pytest.mark.usefixtures("kernels")
@pytest.mark.parametrize("options", OPTIONS)
def test_both_engines_give_the_same_gramian(options):
    model = with_rollout(policy_kwargs=options)
    seen = []
    for engine in (model.numerics, TorchEngine(model)):
        combiners = {"actor": Fixed(1, 1, 1), "critic": Fixed(1, 1, 1)}
        gradients_of(model, engine, GradientCombining(combiners, 3))
        seen.append([combiner.seen for combiner in combiners.values()])
    for fast, torch in zip(*seen, strict=True):
        np.testing.assert_allclose(fast, torch, rtol=1e-3, atol=1e-5)


def test_parts_of_a_minibatch_add(monkeypatch):
    """Of 48 rows in parts of at most 20: the same weights are seen, and the same gradient is made, as in one part."""
    seen, gradients = [], []
    for chunk in (1024, 20):
        monkeypatch.setattr("sb3_multitask.fast.minibatches.CHUNK", chunk)
        model = with_rollout(policy_kwargs={"log_std_mode": "shared"})
        combiners = {"actor": Fixed(0.1, 0.7, 0.2), "critic": Fixed(0.5, 0.3, 0.2)}
        model.combining = GradientCombining(combiners, 3)
        np.random.seed(0)  # noqa: NPY002 (SB3's generator)
        (batch,) = model.numerics.batches(model.rollout_buffer, 48, normalize_advantage=True)
        assert len(batch) == -(-48 // chunk)
        model.numerics.evaluate([A2CLoss(1.0, 0.01, 0.5)], batch)
        seen.append([combiner.seen for combiner in combiners.values()])
        gradients.append(model.numerics.parameters.gradient.copy())
    np.testing.assert_allclose(*seen, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(*gradients, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("options", OPTIONS[::2])
@pytest.mark.parametrize(("algorithm", "kwargs"), ALGORITHMS)
def test_both_engines_train_alike(algorithm, kwargs, options):
    given = {**kwargs, "gradient_combiner": "pcgrad", "task_weights": {"A": 2.0}, "tasks": recorded_tasks()}
    given["policy_kwargs"] = options
    first, second = (learned(algorithm, engine=engine, **given) for engine in ("fast", "torch"))
    np.testing.assert_allclose(first, second, atol=5e-4)
    assert np.abs(first - learned(algorithm, engine="fast", **{**given, "gradient_combiner": None})).max() > 1e-4


@pytest.mark.parametrize(("algorithm", "kwargs"), ALGORITHMS)
def test_the_mean_is_no_combiner_within_rounding(algorithm, kwargs):
    for engine in ("fast", "torch"):
        plain = learned(algorithm, engine=engine, **kwargs)
        np.testing.assert_allclose(
            learned(algorithm, engine=engine, gradient_combiner="mean", **kwargs), plain, atol=5e-4
        )


@pytest.mark.parametrize(("algorithm", "kwargs"), ALGORITHMS)
@pytest.mark.parametrize("engine", ["fast", "torch"])
def test_measuring_changes_no_bit(algorithm, kwargs, engine):
    plain = learned(algorithm, engine=engine, **kwargs)
    np.testing.assert_array_equal(learned(algorithm, engine=engine, conflict_freq=1, **kwargs), plain)


# Beside other settings


@pytest.mark.parametrize("engine", ["fast", "torch"])
def test_conflicts_are_logged_every_so_many_rollouts(engine):
    model = made(engine=engine, n_steps=4, conflict_freq=2)
    model.set_logger(Logger(None, []))
    assert model.conflict_cosines == {}
    seen = []

    class Watch(StopTraining):
        def _on_rollout_start(self):
            seen.append("conflict/actor/cosine_mean" in self.model.logger.name_to_value)

        def _on_rollout_end(self):
            pass

    model.learn(3 * 24, Watch(), log_interval=None)
    assert seen == [False, False, True]
    for net, matrix in model.conflict_cosines.items():
        assert matrix.shape == (3, 3)
        np.testing.assert_allclose(matrix.diagonal(), 1, atol=1e-6)
        mean, share = pair_statistics(matrix)
        assert model.logger.name_to_value[f"conflict/{net}/cosine_mean"] == mean
        assert model.logger.name_to_value[f"conflict/{net}/negative_share"] == share
    assert set(model.conflict_cosines) == {"actor", "critic"}


def test_tensorboard_has_a_picture_of_the_cosines_and_other_logs_have_none(tmp_path, capsys):
    plain = learned(n=10 * 24, n_steps=4)
    model = made(n_steps=4, conflict_freq=2)
    formats = ["tensorboard", "csv", "json", "log", "stdout"]
    model.set_logger(configure(str(tmp_path), formats))
    with contextlib.closing(model.logger):
        model.learn(10 * 24, log_interval=2)
    np.testing.assert_array_equal(vector_of(model), plain)
    (file,) = tmp_path.glob("events.*")
    accumulator = EventAccumulator(str(file), {"images": 0, "scalars": 0})
    accumulator.Reload()
    assert accumulator.Tags()["images"] == ["conflict/cosines"]
    assert {"conflict/actor/cosine_mean", "conflict/critic/negative_share"} <= set(accumulator.Tags()["scalars"])
    pictures = accumulator.Images("conflict/cosines")
    assert [picture.step for picture in pictures] == [96, 144, 192, 240, 240]  # of the update before
    assert Image.open(io.BytesIO(pictures[0].encoded_image_string)).size == (pictures[0].width, pictures[0].height)
    texts = [(tmp_path / name).read_text() for name in ("progress.csv", "progress.json", "log.txt")]
    for text in (*texts, capsys.readouterr().out):
        assert "cosine_mean" in text
        assert "cosines" not in text


def test_pictures_are_of_new_cosines_and_at_most_a_hundred(tmp_path, monkeypatch):
    drawn = []

    def picture(combining, _names):
        drawn.append(combining.measured_at)
        return np.zeros((2, 2, 3), dtype=np.uint8)

    monkeypatch.setattr(conflict_images, "_picture", picture)
    model = made(n_steps=1, conflict_freq=3)
    model.set_logger(Logger(None, []))
    model.learn(60, log_interval=1)
    assert drawn == []  # without TensorBoard
    model.set_logger(configure(str(tmp_path), ["tensorboard"]))
    with contextlib.closing(model.logger):
        model.learn(60, log_interval=1)  # ten rollouts of six steps
        assert drawn == [18, 36, 54]
        drawn.clear()
        model.conflict_freq = 1
        model.learn(400 * 6, log_interval=1)
    assert 90 <= len(drawn) <= 100
    assert np.diff(drawn).min() >= 24


def test_matplotlib_is_not_imported_by_measuring():
    code = (
        "import sys, sb3_multitask as mt; from helpers.drift import drift_tasks; "
        "env = mt.make_multitask_vec_env(drift_tasks(2), 1, seed=0); "
        "mt.A2CMultiTask('MultiTaskMlpPolicy', env, conflict_freq=1).learn(100, log_interval=1); "
        "assert not [name for name in sys.modules if name.startswith('matplotlib')]"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@pytest.mark.parametrize("names", ["ABC", [f"task {i}" for i in range(25)], ["x" * 200, "$\\alpha", ""]])
def test_any_names_can_be_drawn(names):
    combining = GradientCombining({}, len(names))
    combining.measured_at = 0
    of_tasks = np.full((len(names), len(names)), np.nan)
    of_tasks[:2, :2] = [[1, -0.5], [-0.5, 1]]
    combining.cosines = {"critic": of_tasks}
    image = conflict_images._picture(combining, list(names))
    assert image.dtype == np.uint8
    for color in ([194, 56, 58], [5, 48, 97], [204, 204, 204]):  # of -0.5, of 1 and of NaN
        assert (image == color).all(axis=-1).any()


def test_both_engines_measure_the_same_cosines():
    fast, torch = (
        made(engine=engine, tasks=recorded_tasks(), conflict_freq=1).learn(30).conflict_cosines
        for engine in ("fast", "torch")
    )
    for net in ("actor", "critic"):
        np.testing.assert_allclose(fast[net], torch[net], atol=1e-4)


@pytest.mark.parametrize("engine", ["fast", "torch"])
def test_tasks_without_rows_are_left_out(engine):
    """A minibatch of two rows has at most two of three tasks."""
    model = made(mt.PPOMultiTask, engine=engine, n_steps=4, batch_size=2, gradient_combiner=PCGrad(), conflict_freq=1)
    model.learn(24)
    assert np.isfinite(vector_of(model)).all()
    missing = np.isnan(model.conflict_cosines["actor"].diagonal())
    assert missing.any()


@pytest.mark.parametrize("engine", ["fast", "torch"])
def test_quarantined_rows_have_no_part(engine):
    """All rows of a task are quarantined: the others are combined, and its head stays."""
    model = with_rollout(engine=engine)
    combiner = Fixed(0.2, 0.8)
    model.rollout_buffer.faults = [(step, env) for env in (2, 3) for step in range(8)]
    combined = gradients_of(model, model.numerics, GradientCombining({"actor": combiner}, 3))
    assert combiner.seen.shape == (2, 2)
    assert all(np.isfinite(gradient).all() for gradient in combined.values())


@pytest.mark.parametrize("engine", ["fast", "torch"])
def test_frozen_layers_have_no_part(engine):
    """The Gramian is of what is trained; nothing is combined where nothing is."""
    seen = []
    for frozen in ((), ("mlp_extractor.policy_net.0.weight",)):
        model = made(engine=engine, n_steps=8)
        model.frozen = frozen
        model.policy.set_frozen(frozen)
        before = model.policy.mlp_extractor.policy_net[0].weight.detach().clone()
        combiner = Fixed(0.1, 0.2, 0.7)
        model.combining = GradientCombining({"actor": combiner}, 3)
        model.learn(1)
        seen.append(combiner.seen)
        assert th.equal(before, model.policy.mlp_extractor.policy_net[0].weight) == bool(frozen)
    assert np.abs(seen[0] - seen[1]).max() > 1e-3


@pytest.mark.parametrize("engine", ["fast", "torch"])
def test_while_the_actor_is_held_the_critic_alone_is_combined(engine):
    teachers = {name: (lambda observations: np.zeros((len(observations), 2))) for name in "ABC"}
    kwargs = {"teachers": teachers, "rl_coef": 0.0, "distill_coef": 0.0, "critic_coef": 1.0}
    model = made(engine=engine, **kwargs, gradient_combiner="pcgrad", conflict_freq=1)
    actor = {name: p.detach().clone() for name, p in model.policy.named_parameters() if "value" not in name}
    model.learn(60)
    assert all(th.equal(p, actor[name]) for name, p in model.policy.named_parameters() if name in actor)
    assert set(model.conflict_cosines) == {"critic"}


def test_one_head_for_all_tasks_is_shared():
    model = made(policy_kwargs={"share": "all"}, gradient_combiner="pcgrad", conflict_freq=1)
    assert "action_net.layers.0.weight" in shared_names(model, "actor")
    assert model.learn(60).last_engine == "torch"


def test_target_kl_stops_before_the_step_as_without_a_combiner():
    model = made(mt.PPOMultiTask, n_steps=16, batch_size=32, target_kl=1e-9, gradient_combiner="pcgrad")
    model.learn(96)
    assert model._n_updates == 1


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("pcgrat", ValueError, r"must be one of mean, pcgrad, .*\(got 'pcgrat'\).*pcgrad"),
        ({"actr": "mean"}, ValueError, r"a combiner for 'actr', which is no net. Did you mean 'actor'"),
        ({"actor": 3}, TypeError, r"must be a name, a Combiner.*\(got 3\)"),
        (PCGrad, TypeError, r"make an object, PCGrad\(...\)"),
    ],
)
def test_other_combiners_are_refused(given, error, message):
    with pytest.raises(error, match=message):
        made(gradient_combiner=given)


@pytest.mark.parametrize("freq", [-1, 2.5, True])
def test_other_frequencies_are_refused(freq):
    with pytest.raises((TypeError, ValueError), match=rf"`conflict_freq` must be .*\(got {freq}\)"):
        made(conflict_freq=freq)


def test_one_task_at_a_time_has_no_conflicts():
    for kwargs in ({"gradient_combiner": "pcgrad"}, {"conflict_freq": 1}):
        with pytest.raises(ValueError, match=rf"`{next(iter(kwargs))}` needs .*`task_schedule` is 'cycle'"):
            made(task_schedule="cycle", **kwargs)
        with pytest.raises(ValueError, match=r"the only task is \('A',\)"):
            made(tasks=drift_tasks(1), **kwargs)


def test_nothing_to_combine_is_refused():
    with pytest.raises(ValueError, match=r"nothing to combine in the actor"):
        made(policy_kwargs={"net_arch": {"pi": [], "vf": [8]}}, gradient_combiner="mean")
    made(policy_kwargs={"net_arch": {"pi": [], "vf": [8]}}, gradient_combiner={"critic": "mean"}).learn(30)


def test_a_combiner_that_is_set_later_is_taken():
    model = made(n_steps=4).learn(24)
    model.gradient_combiner, model.conflict_freq = "pcgrat", 1
    with pytest.raises(ValueError, match="pcgrat"):
        model.learn(24)
    model.gradient_combiner = "pcgrad"
    model.learn(24)
    assert model.combining.combines("actor")
    assert model.conflict_cosines


def test_a_net_of_a_combiner_that_is_set_later_is_taken():
    model = made(gradient_combiner={"actor": "pcgrad"}).learn(30)
    model.gradient_combiner["critic"] = "mean"
    assert model.learn(30).combining.combines("critic")


@pytest.mark.parametrize("name", ["gradient_combiner", "conflict_freq"])
def test_what_is_set_later_is_checked(name):
    model = made(policy_kwargs={"net_arch": []})
    setattr(model, name, {"gradient_combiner": "pcgrad", "conflict_freq": 1}[name])
    with pytest.raises(ValueError, match=f"`{name}` has nothing to look at"):
        model.learn(30)
    model = mt.TRPOMultiTask("MultiTaskMlpPolicy", drift_tasks(3), n_steps=32)
    setattr(model, name, {"gradient_combiner": "pcgrad", "conflict_freq": 1}[name])
    with pytest.raises(ValueError, match=rf"The train\(\) of TRPOMultiTask ignores `{name}`"):
        model.learn(96)
    model = made()
    setattr(model, name, {"gradient_combiner": 3, "conflict_freq": -1}[name])
    with pytest.raises((TypeError, ValueError), match=rf"`{name}` must be .*\(got (3|-1)\)"):
        model.learn(30)


def test_a_combiner_keeps_its_memory_when_measuring_begins():
    models = []
    for freq in (0, 1):
        model = made(gradient_combiner="pcgrad").learn(60)
        model.conflict_freq = freq
        models.append(model.learn(60))
    assert weights_equal(*models)
    assert models[0].combining.get_state() == models[1].combining.get_state()


def test_another_combiner_begins_anew_and_an_equal_one_continues():
    model = made(gradient_combiner="pcgrad").learn(60)
    state = model.combining.get_state()
    model.gradient_combiner = PCGrad()
    assert model.learn(0).combining.get_state() == state
    model.gradient_combiner = "mean"
    assert model.learn(0).combining.settings()["actor"] == {"class": "Mean"}
    assert model.combining.get_state() != state


class WithSB3sTrain(MultiTaskOnPolicyAlgorithm, A2C):
    def __init__(self, policy, env, **kwargs):
        self.begin("joint", "auto", 5, **kwargs)
        self.learn_from()
        super().__init__(policy, self._env_of(env, 0.99))


@pytest.mark.parametrize("kwargs", [{"gradient_combiner": "pcgrad"}, {"conflict_freq": 1}])
def test_a_train_that_does_not_combine_is_refused(kwargs):
    with pytest.raises(ValueError, match=rf"The train\(\) of WithSB3sTrain ignores `{next(iter(kwargs))}`"):
        WithSB3sTrain("MultiTaskMlpPolicy", drift_tasks(3), **kwargs)


# Files and resume


def test_a_saved_model_continues_with_its_combiner(tmp_path):
    model = made(gradient_combiner={"actor": "pcgrad", "critic": None}).learn(60)
    model.save(tmp_path / "model")
    env = mt.make_multitask_vec_env(drift_tasks(3), 2)
    loaded = mt.A2CMultiTask.load(tmp_path / "model", env=env)
    assert loaded.combining.settings() == {"actor": {"class": "PCGrad"}}
    assert loaded.combining.get_state() == model.combining.get_state()
    with pytest.warns(UserWarning, match=r"trained with the gradient combiners .*PCGrad.*these are others"):
        mt.A2CMultiTask.load(tmp_path / "model", env=env, gradient_combiner="mean")


def test_an_object_is_not_in_the_file(tmp_path):
    model = made(gradient_combiner=Fixed(0.5, 0.2, 0.3)).learn(60)
    model.save(tmp_path / "model")
    assert isinstance(model.gradient_combiner, Fixed)
    env = mt.make_multitask_vec_env(drift_tasks(3), 2)
    loaded = mt.A2CMultiTask.load(tmp_path / "model", env=env)
    loaded.predict(env.reset())
    with pytest.raises(ValueError, match=r"load\(path, env=env, gradient_combiner=...\).*'Fixed'"):
        loaded.learn(60)
    loaded = mt.A2CMultiTask.load(tmp_path / "model", env=env, gradient_combiner=Fixed(0.5, 0.2, 0.3))
    assert loaded.combining.get_state() == model.combining.get_state()
    loaded.learn(60)


def test_a_file_without_its_object_keeps_the_objects_memory(tmp_path):
    model = made(gradient_combiner=PCGrad()).learn(60)
    model.save(tmp_path / "model")
    env = mt.make_multitask_vec_env(drift_tasks(3), 2)
    loaded = mt.A2CMultiTask.load(tmp_path / "model", env=env)
    loaded.save(tmp_path / "again")
    later = mt.A2CMultiTask.load(tmp_path / "again", env=env, gradient_combiner=PCGrad())
    assert later.combining.get_state() == model.combining.get_state()
    loaded.gradient_combiner = PCGrad()
    loaded.learn(0)
    assert loaded.combining.get_state() == model.combining.get_state()


@pytest.mark.parametrize("engine", ["fast", "torch"])
@pytest.mark.parametrize(("algorithm", "kwargs"), ALGORITHMS)
def test_a_run_that_resumes_makes_the_same_bits(tmp_path, algorithm, kwargs, engine):
    """PCGrad's random order is part of the state; another combiner is another run."""
    tasks = [mt.Task(name, ReachingEnv, {"target": i / 3, "horizon": 5 + 2 * i}) for i, name in enumerate("ABC")]

    def train(folder, kill_at=10**9, combiner="pcgrad"):
        model = made(algorithm, engine=engine, tasks=tasks, gradient_combiner=combiner, **kwargs)
        callbacks = [mt.ResumableCheckpointCallback(tmp_path / folder, every=100, verbose=0), KillAt(kill_at)]
        with contextlib.suppress(Killed):
            model.learn(576, callbacks)
        return model

    train("a", 400)
    resumed, uninterrupted = train("a"), train("b")
    assert weights_equal(resumed, uninterrupted)
    assert resumed.combining.get_state() == uninterrupted.combining.get_state()
    for other in (None, {"actor": "pcgrad"}, "mean"):
        with pytest.raises(CheckpointError, match=r"gradient_combiner: \{'actor': \{'class': 'PCGrad'"):
            train("b", combiner=other)


@pytest.mark.parametrize("other", [None, {"actor": "pcgrad"}])
def test_a_state_without_the_combiners_memory_is_refused(other):
    model, state = made(gradient_combiner="pcgrad"), made(gradient_combiner=other, seed=1).learn(30).get_state()
    before = vector_of(model)
    with pytest.raises(ValueError, match="another `gradient_combiner`, whose memory it lacks"):
        model.set_state(state)
    np.testing.assert_array_equal(vector_of(model), before)


def test_a_combiner_that_forgets_is_told():
    class Remembers(Fixed):
        def reset(self):
            self.seen = None

    assert "Remembers has reset() and no get_state()" in Remembers(1).why_inexact()
    assert PCGrad().why_inexact() is None


# TorchJD's


def test_without_torchjd_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "torchjd", None)
    monkeypatch.setitem(sys.modules, "torchjd.aggregation", None)
    with pytest.raises(ImportError, match=r"TorchJD for MGDAWeighting: pip install \"sb3-multitask\[combiners\]\""):
        made(gradient_combiner="mgda")


@pytest.fixture
def torchjd():
    return pytest.importorskip("torchjd.aggregation")


ALONE = ["aligned_mtl", "gradvac", "imtl_g", "mgda", "fairgrad"]
OF_TORCHJD = [name for name in COMBINERS if name not in ("mean", "pcgrad")]


def made_or_skipped(name):
    try:
        return COMBINERS[name]()
    except ImportError as missing:
        message = str(missing)
    assert name not in ALONE  # which need nothing more
    assert 'pip install "torchjd[' in message
    return pytest.skip(message)


@pytest.mark.parametrize("name", OF_TORCHJD)
def test_torchjds_give_the_mean_of_equal_gradients_and_permute(torchjd, name):
    combiner, rows = made_or_skipped(name), np.ones((4, 3))
    np.testing.assert_allclose(combiner.weights(rows @ rows.T) @ rows, 1, rtol=1e-3)
    if name == "gradvac":  # which draws an order
        return
    gramian, p = gramian_of(4, 6), np.array([2, 0, 3, 1])
    first = combiner.weights(gramian)
    combiner.reset()
    np.testing.assert_allclose(combiner.weights(gramian[np.ix_(p, p)]), first[p], atol=1e-4)


@pytest.mark.parametrize("name", OF_TORCHJD)
def test_torchjds_do_not_give_up_on_small_gradients(torchjd, name):
    """UPGrad would give the mean, and CAGrad 0, where the norm of all gradients together is below 0.01."""
    rows = np.array([[1.0, 0, 0], [-2, 1, 0], [0.5, 0.5, 1]])
    of_size = [
        GradientCombining({"actor": made_or_skipped(name)}, 3).factors("actor", np.arange(3), size**2 * (rows @ rows.T))
        for size in (1.0, 1e-6)
    ]
    np.testing.assert_allclose(of_size[1], of_size[0], rtol=1e-6)
    assert np.abs(of_size[0] - 1).max() > 1e-2


@pytest.mark.parametrize("name", OF_TORCHJD)
def test_torchjds_continue_from_their_state_and_leave_torchs_generator(torchjd, name):
    combiner, gramians = made_or_skipped(name), [gramian_of(k, 6, seed) for seed, k in enumerate((4, 4, 4))]
    combiner.begin(0)
    before = th.get_rng_state()
    combiner.weights(gramians[0])
    state = combiner.get_state()
    expected = [combiner.weights(gramian) for gramian in gramians[1:]]
    assert th.equal(th.get_rng_state(), before)
    other = made_or_skipped(name)
    other.begin(5)
    other.set_state(state)
    for gramian, weights in zip(gramians[1:], expected, strict=True):
        np.testing.assert_array_equal(other.weights(gramian), weights)
    assert combiner.why_inexact() is None


@pytest.mark.parametrize("name", OF_TORCHJD)
def test_torchjds_take_other_tasks(torchjd, name):
    """A memory of other tasks is not used: the weights are those of a combiner that has just begun."""
    combining = GradientCombining({"actor": made_or_skipped(name)}, 4)
    gramian = gramian_of(4, 6)
    combining.factors("actor", np.arange(4), gramian)
    state = combining.combiners["actor"].get_state()
    three = combining.factors("actor", np.array([0, 1, 3]), gramian[:3, :3])
    new = GradientCombining({"actor": made_or_skipped(name)}, 4)
    new.combiners["actor"].set_state({"generator": state["generator"]})
    np.testing.assert_allclose(three, new.factors("actor", np.array([0, 1, 3]), gramian[:3, :3]))


def test_pcgrad_is_torchjds_for_the_same_order(torchjd, monkeypatch):
    gramian, order = gramian_of(5), np.random.default_rng(6).random((5, 5)).argsort(axis=1)
    orders = iter(order)
    monkeypatch.setattr(th, "randperm", lambda n: th.from_numpy(next(orders)))
    theirs = torchjd.PCGradWeighting()(th.from_numpy(gramian))
    np.testing.assert_allclose(5 * pcgrad_weights(gramian, order), theirs.numpy(), rtol=1e-10)


def test_torchjds_objects_are_taken(torchjd):
    for given in (torchjd.MGDA(), torchjd.MGDAWeighting(), torchjd.FairGrad(alpha=2.0), torchjd.Random()):
        made(n_steps=4, gradient_combiner={"actor": given}).learn(48)
    settings = made(gradient_combiner=torchjd.FairGrad(alpha=2.0)).combining.settings()
    assert settings["actor"] == {"class": "FairGradWeighting", "alpha": 2.0, "max_iters": None}


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        *((name, "does not weigh") for name in ("GradDrop", "ConFIG")),  # which has a `weighting` of another purpose
        ("ExcessMTL", "ExcessMTLWeighting reads every number"),
        *((f"{name}Weighting", "needs the gradients of two batches") for name in ("MoDo", "SDMGrad")),
    ],
)
def test_what_is_no_function_of_the_gramian_is_refused(torchjd, name, reason):
    with pytest.raises(TypeError, match=rf"cannot be {name}.*{reason}"):
        made(gradient_combiner=getattr(torchjd, name)())


def test_preferences_are_of_any_type_and_need_all_tasks(torchjd):
    given = torchjd.AlignedMTL(pref_vector=th.tensor([1.0, 2.0, 3.0]))
    made(gradient_combiner=given).learn(30)
    assert given.pref_vector.dtype == th.float32  # of the copy
    model = made(mt.PPOMultiTask, n_steps=4, batch_size=2, gradient_combiner=given)
    with pytest.raises(RuntimeError, match=r"`gradient_combiner`: TorchJD's AlignedMTL.* of 2 tasks .*`pref_vector`"):
        model.learn(24)


def test_a_weighting_of_rows_gets_rows(torchjd):
    """A matrix with the Gramian in its place: the weighting of an aggregator gives what the aggregator gives."""
    made_or_skipped("nash_mtl")
    aggregator, gramian = torchjd.NashMTL(3, max_norm=0.0), gramian_of(3, 6)
    first, second = (TorchJDCombiner(given).weights(gramian) for given in (aggregator, aggregator.weighting))
    np.testing.assert_allclose(first, second, rtol=1e-6)
    rows = np.random.default_rng(0).normal(size=(3, 6))
    expected = torchjd.NashMTL(3, max_norm=0.0).weighting(th.from_numpy(rows)).numpy()
    np.testing.assert_allclose(second, expected / expected.sum(), rtol=1e-4)


def test_the_combiner_of_the_page_works():
    page = (Path(__file__).parents[1] / "docs" / "combiners.md").read_text(encoding="utf-8")
    (block,) = [block for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL) if "class " in block]
    names = {"__name__": "page"}
    exec(compile(block.partition("\nmodel = ")[0], "combiners.md", "exec"), names)  # noqa: S102
    own = names["EqualNorms"]()
    np.testing.assert_allclose(own.weights(np.diag([1.0, 9.0])), [1, 1 / 3])
    assert own.settings() == {"class": "EqualNorms", "power": 1.0}
    made(gradient_combiner=own).learn(60)
