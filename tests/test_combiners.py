"""Gradient combiners, and how the gradients of tasks conflict."""

import sys

import numpy as np
import pytest
import torch as th
from helpers.drift import drift_tasks, recorded_tasks
from helpers.models import weights_equal
from stable_baselines3.common.logger import Logger
from test_fast import StopTraining

import sb3_multitask as mt
from sb3_multitask.algorithms.engine import TorchEngine
from sb3_multitask.checkpoint import CheckpointError
from sb3_multitask.combiners import (
    COMBINERS,
    Combiner,
    GradientCombining,
    Mean,
    PCGrad,
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


@pytest.mark.parametrize("name", ["mean", "pcgrad"])
def test_gradients_without_conflict_give_the_mean(name):
    combiner = COMBINERS[name]()
    for rows in (np.ones((4, 2)), np.eye(4) * [1, 2, 3, 4]):
        np.testing.assert_allclose(combiner.weights(rows @ rows.T), 0.25)


@pytest.mark.parametrize("name", ["mean", "pcgrad"])
def test_a_zero_gradient_changes_nothing(name):
    def combined(rows):
        combining = GradientCombining({"actor": COMBINERS[name]()}, len(rows))
        return combining.factors("actor", list(range(len(rows))), rows @ rows.T) @ rows

    rows = np.random.default_rng(3).normal(size=(2, 4))
    with_zero = np.stack([rows[0], np.zeros(4), rows[1]])
    np.testing.assert_allclose(combined(with_zero), combined(rows))


def test_combiners_see_a_gramian_of_trace_k_of_those_that_have_a_gradient():
    """However small gradients are: some aggregators of TorchJD give up below a norm of 0.01."""
    combiner = Fixed(0.5, 0.25)
    combining = GradientCombining({"critic": combiner}, 3)
    gramian = np.diag([3e-16, 0, 1e-16])
    np.testing.assert_allclose(combining.factors("critic", [0, 1, 2], gramian), [1, 1, 0.5])
    np.testing.assert_allclose(combiner.seen, np.diag([1.5, 0.5]))
    np.testing.assert_array_equal(combining.factors("actor", [0, 1, 2], gramian), 1)  # which is not combined


def test_fewer_than_two_gradients_and_gradients_that_are_not_finite_are_left_alone():
    combining = GradientCombining({"actor": Fixed(5.0)}, 2)
    for gramian in (np.diag([1.0, 0.0]), np.zeros((2, 2)), np.full((2, 2), np.nan)):
        np.testing.assert_array_equal(combining.factors("actor", [0, 1], gramian), 1)


@pytest.mark.parametrize("weights", [(1.0,), (1.0, np.nan)])
def test_weights_of_another_shape_or_not_finite_are_refused(weights):
    with pytest.raises(ValueError, match=r"weights\(\) of Fixed must return 2 finite numbers"):
        GradientCombining({"actor": Fixed(*weights)}, 2).factors("actor", [0, 1], np.eye(2))


def test_cosines_by_hand():
    rows = np.array([[1.0, 0.0], [-1.0, 1.0], [0.0, 0.0], [0.0, 2.0]])
    found, root = cosines(rows @ rows.T), 1 / np.sqrt(2)
    np.testing.assert_allclose(found[np.ix_([0, 1, 3], [0, 1, 3])], [[1, -root, 0], [-root, 1, root], [0, root, 1]])
    assert np.isnan(found[2]).all()
    assert pair_statistics(found) == pytest.approx((0, 1 / 3))
    assert pair_statistics(np.array([[1.0, np.nan], [np.nan, np.nan]])) is None


# The engines


@pytest.mark.parametrize("log_std_mode", ["per_task", "shared"])
@pytest.mark.parametrize("nets", [("actor",), ("actor", "critic")])
def test_both_engines_combine_the_contributions_of_the_tasks(log_std_mode, nets):
    """The shared gradient is that of losses weighted by k w_i; everything else is as without a combiner."""
    model = with_rollout(policy_kwargs={"log_std_mode": log_std_mode})
    fast, torch = model.numerics, TorchEngine(model)
    weights = np.array([0.5, 0.1, 0.9])
    for engine in (fast, torch):
        plain = gradients_of(model, engine)
        combined = gradients_of(model, engine, GradientCombining({net: Fixed(*weights) for net in nets}, 3))
        model.task_weights = dict(zip(model.task_names, (3 * weights).tolist(), strict=True))
        weighted = gradients_of(model, engine)
        model.task_weights = None
        shared = [name for net in nets for name in shared_names(model, net)]
        assert ("log_std" in shared) == (log_std_mode == "shared")
        for name, gradient in combined.items():
            expected = weighted if name in shared else plain
            np.testing.assert_allclose(gradient, expected[name], atol=1e-6, err_msg=f"{engine.name} {name}")
        assert any(np.abs(combined[name] - plain[name]).max() > 1e-4 for name in shared)


@pytest.mark.parametrize("settings", [{}, {"policy_kwargs": {"log_std_mode": "shared", "net_arch": [7, 5]}}])
@pytest.mark.parametrize("kernels", [True, False])
def test_both_engines_give_the_same_gramian(settings, kernels, monkeypatch):
    if not kernels:
        monkeypatch.setenv(loading.SWITCH, "0")
        loading.load_kernels.cache_clear()
    model = with_rollout(**settings)
    seen = []
    for engine in (model.numerics, TorchEngine(model)):
        combiners = {"actor": Fixed(1, 1, 1), "critic": Fixed(1, 1, 1)}
        gradients_of(model, engine, GradientCombining(combiners, 3))
        seen.append([combiner.seen for combiner in combiners.values()])
    for fast, torch in zip(*seen, strict=True):
        np.testing.assert_allclose(fast, torch, rtol=1e-3, atol=1e-5)
    loading.load_kernels.cache_clear()


@pytest.mark.parametrize(("algorithm", "kwargs"), ALGORITHMS)
def test_both_engines_train_alike(algorithm, kwargs):
    given = {**kwargs, "gradient_combiner": "pcgrad", "task_weights": {"A": 2.0}, "tasks": recorded_tasks()}
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
