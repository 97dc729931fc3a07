"""Compiled loops do what the array operations beside them do, within rounding."""

import os
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch as th
from helpers.drift import drift_tasks
from helpers.models import make_model

import sb3_multitask as mt
from sb3_multitask.fast import kernels as of_nets
from sb3_multitask.fast.parameters import Layers
from sb3_multitask.losses import A2CLoss, GroupedOutputs, GroupedRows, Loss, PPOLoss
from sb3_multitask.losses import kernels as of_losses
from sb3_multitask.process import kernels as loading
from sb3_multitask.vec_env import kernels as of_vec_env
from sb3_multitask.vec_env.faults import LIMIT, bad_rows


@pytest.fixture
def without_kernels(monkeypatch):
    """Switch compiled loops off and on."""

    def switch(off):
        monkeypatch.setenv(loading.SWITCH, "0" if off else "1")
        loading.load_kernels.cache_clear()

    yield switch
    monkeypatch.undo()
    loading.load_kernels.cache_clear()


@pytest.mark.parametrize("settings", [{}, {"norm_obs": False}, {"norm_reward": False}, {"clip_obs": 0.5, "gamma": 0.5}])
@pytest.mark.parametrize("n_envs", [1, 3])
def test_a_normaliser_is_the_same(without_kernels, settings, n_envs):
    seen = []
    for off in (False, True):
        without_kernels(off)
        env = mt.make_multitask_vec_env(drift_tasks(3), n_envs, seed=0, normalize=settings)
        rng, rows = np.random.default_rng(0), [env.reset()["obs"]]
        for _ in range(60):
            obs, rewards, *_ = env.step(rng.normal(size=(3 * n_envs, 2)))
            assert (obs["obs"].dtype, rewards.dtype) == (env.observation_space["obs"].dtype, np.float32)
            rows += [obs["obs"], rewards]
        env.training = False
        rows += [env.step(np.zeros((3 * n_envs, 2)))[0]["obs"], env.obs_rms["obs"].mean, env.ret_rms.var]
        seen.append(rows)
    for one, other in zip(*seen, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("name", ["Hopper-v5", "Walker2d-v5", "Swimmer-v5", "HalfCheetah-v5"])
@pytest.mark.native
def test_planar_robots_are_the_same_bit_for_bit(without_kernels, name):
    seen = []
    for off in (False, True):
        without_kernels(off)
        env = mt.MultiTaskVecEnv([name], 3, backend="batch", seed=0)
        rng, rows = np.random.default_rng(0), [env.reset()["obs"]]
        for _ in range(80):
            obs, rewards, dones, infos = env.step(rng.uniform(-1, 1, (3, *env.action_space.shape)))
            rows += [
                obs["obs"],
                rewards,
                dones,
                *(np.array([info[key]]) for info in infos for key in ("x_velocity", "x_position")),
            ]
        seen.append((rows, [sorted(info) for info in infos], env.get_attr("spec")[0].id))
    assert seen[0][1:] == seen[1][1:]
    for one, other in zip(seen[0][0], seen[1][0], strict=True):
        np.testing.assert_array_equal(one, other)


def random_outputs(kept, seed=0):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: rng.normal(size=(3, *shape)).astype(np.float32)  # noqa: E731
    columns = {
        name: draw(7, dim) for name, dim in (("actions", 2), ("advantages", 1), ("returns", 1), ("old_values", 1))
    }
    taken = (rng.random((3, 7, 1)) < 0.7).astype(np.float32) if kept else None
    rows = GroupedRows(np.arange(3), **columns, old_log_prob=draw(7, 1) - 2, kept=taken)
    return rows, GroupedOutputs(rows, draw(7, 2), draw(1, 2) / 2, draw(7, 1))


@pytest.mark.parametrize("kept", [False, True])
@pytest.mark.parametrize(
    "loss",
    [A2CLoss(0.7, 0.1, 0.3), PPOLoss(0.2, None, 0.7, 0.1, 0.3), PPOLoss(0.1, 0.2), PPOLoss(1e-3, 1e-3)],
    ids=str,
)
def test_losses_are_the_same(loss, kept):
    rows, outputs = random_outputs(kept)
    (gradient, terms), (expected, expected_terms) = (
        loss.evaluate_groups(rows, outputs),
        Loss.evaluate_groups(loss, rows, outputs),
    )
    for name in ("mean", "log_std", "values"):
        np.testing.assert_allclose(getattr(gradient, name), getattr(expected, name), rtol=1e-4, atol=1e-6)
    assert terms.kind is expected_terms.kind
    np.testing.assert_allclose(terms.of_tasks, expected_terms.of_tasks, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("loss", [A2CLoss(), PPOLoss(), PPOLoss(clip_range_vf=0.2)], ids=str)
@pytest.mark.parametrize("where", ["advantages", "returns", "mean", "values"])
def test_nan_stays_nan(loss, where):
    rows, outputs = random_outputs(kept=False)
    (rows if hasattr(rows, where) else outputs).__dict__[where][1, 2, 0] = np.nan
    gradient, terms = loss.evaluate_groups(rows, outputs)
    assert np.isfinite(terms.of_tasks[[0, 2]]).all()
    assert np.isnan(terms.of_tasks[1]).any()
    flat = np.concatenate([gradient.mean.ravel(), gradient.values.ravel()])
    assert np.isnan(flat).any()


def test_nan_and_large_numbers_pass_through_the_nets():
    x = np.array([[np.nan], [1e30], [-1e30], [0.3]], np.float32)
    trunk = Layers([(np.ones((1, 1), np.float32), np.zeros(1, np.float32))])
    hidden, output = np.zeros((4, 1), np.float32), np.zeros((1, 4, 1), np.float32)
    head = Layers([(np.ones((1, 1, 1), np.float32), np.zeros((1, 1, 1), np.float32))])
    of_nets.forward(x, trunk.arrays, (hidden,), head.arrays, (output,))
    np.testing.assert_allclose(hidden[:, 0], np.tanh(x[:, 0]), atol=3e-7)
    np.testing.assert_array_equal(output[0], hidden)


def test_nan_passes_through_layer_norms_and_stays_in_its_row():
    x = np.array([[np.nan, 1.0], [0.5, -1.0]], np.float32)
    eye, zeros, ones = np.eye(2, dtype=np.float32), np.zeros(2, np.float32), np.ones(2, np.float32)
    trunk, head = Layers([(eye, zeros)], [(ones, zeros)]), Layers([(eye[None], zeros[None, None])])
    hidden, output = np.zeros((2, 2), np.float32), np.zeros((1, 2, 2), np.float32)
    of_nets.forward(x, trunk.arrays, (hidden,), head.arrays, (output,))
    assert np.isnan(hidden[0]).all()
    scaled = 0.75 / np.sqrt(0.75**2 + 1e-5)  # the mean is -0.25
    np.testing.assert_allclose(output[0, 1], np.tanh([scaled, -scaled]), atol=3e-7)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 2 * LIMIT])
def test_bad_numbers_are_found(value):
    for dtype in (np.float32, np.float64):
        values = np.zeros((3, 4), dtype)
        assert of_vec_env.are_in_range(values.ravel(), LIMIT)
        values[1, 3] = value
        assert not of_vec_env.are_in_range(values.ravel(), LIMIT)
        assert list(bad_rows("reward", values)) == [1]
        assert list(bad_rows("reward", values[:, 3])) == [1]


@pytest.mark.parametrize("optimizer", ["RMSprop", "Adam"])
def test_optimizers_are_torchs(optimizer):
    rng = np.random.default_rng(0)
    weight = th.nn.Parameter(th.from_numpy(rng.normal(size=200).astype(np.float32)))
    mine, averages = weight.detach().clone().numpy(), [np.zeros(200, np.float32) for _ in range(2)]
    theirs = getattr(th.optim, optimizer)([weight], lr=1e-3)
    for step in range(1, 30):
        gradient = rng.normal(size=200).astype(np.float32)
        weight.grad = th.from_numpy(gradient.copy())
        theirs.step()
        if optimizer == "Adam":
            sizes = 1e-3 / (1 - 0.9**step), 0.9, 0.999, (1 - 0.999**step) ** 0.5, 1e-8
            of_nets.adam_step(mine, gradient, *averages, *sizes)
        else:
            of_nets.rmsprop_step(mine, gradient, averages[0], np.array([[0, 70], [70, 200]]), 1e-3, 0.99, 1e-8)
    np.testing.assert_allclose(mine, weight.detach().numpy(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("algorithm", [mt.A2CMultiTask, mt.PPOMultiTask])
@pytest.mark.parametrize("schedule", ["joint", "cycle"])
@pytest.mark.parametrize("options", [{}, {"layer_norm": True, "value_norm": "popart"}], ids=["plain", "norms"])
def test_a_training_is_the_same(without_kernels, algorithm, schedule, options):
    given = {"n_steps": 20, "seed": 0, "device": "cpu", "task_schedule": schedule}
    given |= {"batch_size": 60} if algorithm is mt.PPOMultiTask else {}
    weights = []
    for off in (False, True):
        without_kernels(off)
        env = mt.make_multitask_vec_env(drift_tasks(3), 2, seed=0)
        model = algorithm("MultiTaskMlpPolicy", env, engine="fast", policy_kwargs=options, **given).learn(1200)
        weights.append(model.policy.parameters_to_vector())
    np.testing.assert_allclose(weights[0], weights[1], atol=1e-4)
    assert (weights[0] != weights[1]).any()  # two ways that round differently


class OwnLoss(A2CLoss):
    """A user's, which computes in float64."""

    def output_gradient(self, rows, outputs):
        gradient = super().output_gradient(rows, outputs)
        return replace(gradient, mean=gradient.mean.astype(float), values=gradient.values.astype(float))


def test_a_loss_may_compute_in_float64():
    model = make_model(n_steps=8, engine="fast").learn(48)
    gradients = []
    for loss in (A2CLoss(), OwnLoss()):
        (batch,) = model.numerics.batches(model.rollout_buffer, None, normalize_advantage=False)
        model.numerics.evaluate([loss], batch)
        gradients.append(model.numerics.parameters.gradient.copy())
    np.testing.assert_allclose(*gradients, rtol=1e-4, atol=1e-6)


def test_whole_numbers_among_the_settings_compile_nothing_anew():
    def learn(number):
        one = number(1)
        given = {"gamma": one, "gae_lambda": one, "max_grad_norm": one, "vf_coef": one, "ent_coef": number(0)}
        make_model(engine="fast", normalize={"gamma": one, "epsilon": one}, **given).learn(60)
        kernels = of_nets.clip, of_nets.advantages, of_losses.a2c, of_vec_env.normalize_step
        return [len(kernel.signatures) for kernel in kernels]

    assert learn(float) == learn(int)


PATH = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])


def python(code, **environment):
    command = [sys.executable, "-W", "error", "-c", textwrap.dedent(code)]
    done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_package_is_imported_without_numba():
    assert python("import sys, sb3_multitask; print('numba' in sys.modules)").strip() == "False"


SHORT = """
    import logging, sys
    logging.basicConfig(level=logging.INFO, stream=sys.stdout, format="%(message)s")
    import sb3_multitask as mt
    from helpers.drift import drift_tasks
    {before}
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", drift_tasks(2), engine="fast", seed=0).learn(100)
"""


def test_without_numba_a_line_says_so_once():
    code = SHORT.format(before="sys.modules['numba'] = None")
    said = python(code, PYTHONPATH=PATH)
    assert said.count("Small array operations are not compiled") == 1


@pytest.mark.slow
def test_a_line_says_that_kernels_are_compiled_and_only_then(tmp_path):
    environment = {"NUMBA_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": PATH}
    code = """
        import sb3_multitask as mt
        from helpers.drift import drift_tasks
        mt.A2CMultiTask("MultiTaskMlpPolicy", drift_tasks(2), verbose=1, seed=0, device="cpu").learn(20)
        mt.A2CMultiTask("MultiTaskMlpPolicy", drift_tasks(2), verbose=1, seed=0, device="cpu").learn(20)
    """
    assert python(code, **environment).count(loading.COMPILING) == 1
    assert loading.COMPILING not in python(code, **environment)
    environment["NUMBA_CACHE_DIR"] = str(tmp_path / "another")
    for folder, n_lines in (("cold", 1), ("warm", 0)):
        arguments = [
            "--tasks",
            "Pendulum-v1",
            "--n-timesteps",
            "40",
            "--no-progress",
            "--run-dir",
            str(tmp_path / folder),
        ]
        command = [sys.executable, "-m", "sb3_multitask.cli", "train", *arguments]
        done = subprocess.run(command, env={**os.environ, **environment}, capture_output=True, text=True, check=True)
        assert done.stdout.count(loading.COMPILING) == n_lines


@pytest.mark.slow
def test_two_processes_that_start_together_share_an_empty_cache(tmp_path):
    environment = {"NUMBA_CACHE_DIR": str(tmp_path), "PYTHONPATH": PATH}
    command = [sys.executable, "-c", textwrap.dedent(SHORT.format(before=""))]
    both = [
        subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        for _ in range(2)
    ]
    said = [process.communicate(timeout=300) for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert "Compiling kernels of sb3_multitask.fast.kernels, once" in said[0][0] + said[1][0]
    assert "Compiling" not in python(SHORT.format(before=""), **environment)
