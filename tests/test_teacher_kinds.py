"""Teachers of every kind: off-policy actors, SB3's own models, and functions."""

import base64
import json
import pickle
import zipfile
from contextlib import nullcontext

import numpy as np
import pytest
import stand_in
import torch as th
from helpers.drift import DriftEnv, drift_tasks, recorded_tasks
from sb3_contrib import TQC, CrossQ
from stable_baselines3 import A2C, DDPG, PPO, SAC, TD3
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from stand_in import Payload

import sb3_multitask as mt
from sb3_multitask.distillation.policies import MIN_STD, ActorTeacher
from sb3_multitask.distillation.sources import policy_of
from sb3_multitask.readers import SavedActor, UnreadableFileError, read_sb3_actor, read_sb3_zip

HIGH = 2.0
OFF_POLICY = {"SAC": SAC, "TQC": TQC, "CrossQ": CrossQ, "TD3": TD3, "DDPG": DDPG}


def trained(algorithm, env=None, n_steps=40, net_arch=(8, 8), **kwargs):
    """A small model that has learned a little, so that no weight is its initial one."""
    if issubclass(algorithm, A2C | PPO):
        batches = {"batch_size": 16} if algorithm is PPO else {}
        env = env or DriftEnv(high=HIGH)
        return algorithm("MlpPolicy", env, seed=0, device="cpu", n_steps=16, **batches).learn(32)
    policy_kwargs = {"net_arch": list(net_arch), **kwargs.pop("policy_kwargs", {})}
    settings = {"learning_starts": 10, "buffer_size": 100, "batch_size": 8, "learning_rate": 0.01, **kwargs}
    env = env or DriftEnv(high=HIGH)
    return algorithm("MlpPolicy", env, seed=0, device="cpu", policy_kwargs=policy_kwargs, **settings).learn(n_steps)


@pytest.fixture(scope="module")
def models():
    return {name: trained(algorithm) for name, algorithm in OFF_POLICY.items()}


def raw(n=50, scale=2.0):
    return (scale * np.random.default_rng(0).normal(size=(n, 3))).astype(np.float32)


def read(source, action_dim=2, **kwargs):
    return policy_of(mt.Teacher(source, **kwargs), "A", action_dim)


# Actors of SB3


@pytest.mark.parametrize("name", OFF_POLICY)
def test_a_labels_mean_is_sb3s_deterministic_action_from_model_and_zip(tmp_path, models, name):
    models[name].save(tmp_path / "m")
    expected, _ = models[name].predict(raw(), deterministic=True)
    assert np.ptp(expected, axis=0).min() > 0.01
    from_model, from_zip = read(models[name]), read(tmp_path / "m.zip")
    atol = 1e-5 if name == "CrossQ" else 1e-6  # its normalisations are folded into the layers
    for policy in (from_model, from_zip, read(str(tmp_path / "m"))):
        np.testing.assert_allclose(policy.label(raw())[0], expected, atol=atol)
        assert policy.digest == from_model.digest
    assert read_sb3_actor(tmp_path / "m.zip").algorithm == name


@pytest.mark.parametrize("name", ["SAC", "TD3", "CrossQ"])
@pytest.mark.parametrize("net_arch", [[], [5]])
def test_actors_of_other_shapes_and_activations_are_read(name, net_arch):
    model = trained(OFF_POLICY[name], net_arch=net_arch, policy_kwargs={"activation_fn": th.nn.Tanh})
    expected, _ = model.predict(raw(), deterministic=True)
    np.testing.assert_allclose(read(model).label(raw())[0], expected, atol=1e-5)


def test_actions_are_scaled_to_bounds_that_are_not_symmetric(models):
    actor = read(models["TD3"]).actor
    low, high = np.float32([-1, 0]), np.float32([3, 10])
    other = SavedActor(actor.algorithm, actor.hidden, actor.mean, None, actor.activation, (low, high))
    symmetric = ActorTeacher(actor, None).label(raw())[0] / HIGH  # in [-1, 1]
    mean, log_std = ActorTeacher(other, None).label(raw())
    np.testing.assert_allclose(mean, low + (symmetric + 1) / 2 * (high - low), atol=1e-5)
    np.testing.assert_allclose(np.exp(log_std), np.broadcast_to([0.2, 0.5], mean.shape), rtol=1e-5)


@pytest.mark.parametrize("algorithm", [A2C, PPO])
def test_sb3s_own_on_policy_models_teach_as_they_are(algorithm):
    model = trained(algorithm)
    mean, log_std = read(model).label(raw())
    expected, _ = model.predict(raw(), deterministic=True)
    np.testing.assert_allclose(np.clip(mean, -HIGH, HIGH), expected, atol=1e-6)
    np.testing.assert_allclose(log_std[0], model.policy.log_std.detach().numpy(), rtol=1e-6)


# The Gaussian of a squashed one


def squashed(mean, log_std, action_bounds=((-2.0,), (2.0,))):
    """An actor whose mean and log-std before the tanh are the same for every observation."""
    zero = np.zeros((3, 1), dtype=np.float32)
    layers = ((zero, np.float32([number])) for number in (mean, log_std))
    return ActorTeacher(SavedActor("SAC", (), *layers, "ReLU", tuple(map(np.float32, action_bounds))), None)


@pytest.mark.parametrize("mean", [0.0, -0.7, 2.0])
@pytest.mark.parametrize("std", [0.05, 0.5, 2.0])
def test_a_labels_std_is_the_distance_of_its_actions_from_the_deterministic_one(mean, std):
    policy = squashed(mean, np.log(std))
    obs = np.zeros((200_000, 3), dtype=np.float32)
    noise = np.random.default_rng(0).standard_normal((len(obs), 1)).astype(np.float32)
    actions = policy.act(obs, noise)
    np.testing.assert_allclose(actions, 2 * np.tanh(mean + std * noise), atol=1e-5)
    label, log_std = (part[0, 0] for part in policy.label(obs[:1]))
    assert label == pytest.approx(2 * np.tanh(mean), abs=1e-6)
    measured = max(np.sqrt(np.mean((actions.astype(np.float64) - label) ** 2)), 2 * MIN_STD)
    assert np.exp(log_std) == pytest.approx(measured, rel=0.02)


def test_no_other_std_is_nearer_to_the_actions_in_forward_kl():
    """The cross entropy of the Gaussian under the teacher's actions is lowest at the label's std."""
    policy = squashed(0.5, 0.0)
    noise = np.random.default_rng(1).standard_normal((100_000, 1)).astype(np.float32)
    actions = policy.act(np.zeros((len(noise), 3)), noise).astype(np.float64)
    mean, log_std = (float(part[0, 0]) for part in policy.label(np.zeros((1, 3))))

    def cross_entropy(std):
        return np.log(std) + np.mean((actions - mean) ** 2) / (2 * std**2)

    assert cross_entropy(np.exp(log_std)) < min(cross_entropy(np.exp(log_std) * factor) for factor in (0.9, 1.1))


def test_a_small_std_is_that_of_first_order_and_a_saturated_one_has_a_floor():
    (log_std,) = squashed(0.3, np.log(0.02)).label(np.zeros((1, 3)))[1]
    assert np.exp(log_std) == pytest.approx(2 * 0.02 * (1 - np.tanh(0.3) ** 2), rel=1e-3)
    (log_std,) = squashed(20.0, -20.0).label(np.zeros((1, 3)))[1]
    assert np.exp(log_std) == pytest.approx(2 * MIN_STD, rel=1e-5)


def test_a_deterministic_teacher_acts_without_noise(models):
    policy = read(models["TD3"])
    noise = np.ones((50, 2), dtype=np.float32)
    np.testing.assert_array_equal(policy.act(raw(), noise), policy.label(raw())[0])
    assert not np.allclose(read(models["SAC"]).act(raw(), noise), read(models["SAC"]).label(raw())[0])


# Normalisers


@pytest.mark.parametrize("algorithm", [SAC, TD3, A2C])
def test_a_normaliser_comes_with_the_model_or_is_given(tmp_path, algorithm):
    env = VecNormalize(DummyVecEnv([lambda: DriftEnv(scale=30.0)]))
    model = trained(algorithm, env)
    model.save(tmp_path / "m.zip")
    env.save(str(tmp_path / "vn.pkl"))
    env.training = False
    expected, _ = model.predict(env.normalize_obs(raw(scale=30)), deterministic=True)
    for policy in (
        read(model),
        read(tmp_path / "m.zip", normalizer=tmp_path / "vn.pkl"),
        read(tmp_path / "m.zip", normalizer=env),
    ):
        np.testing.assert_allclose(np.clip(policy.label(raw(scale=30))[0], -1, 1), expected, atol=1e-6)
    with nullcontext() if algorithm is not A2C else pytest.warns(UserWarning, match="statistics are not in its zip"):
        alone = read(tmp_path / "m.zip")
    assert np.abs(alone.label(raw(scale=30))[0] - expected).max() > 0.01
    (tmp_path / "m.zip").rename(tmp_path / "model.zip")  # a run's folder
    (tmp_path / "vn.pkl").rename(tmp_path / "vecnormalize.pkl")
    np.testing.assert_allclose(np.clip(read(tmp_path).label(raw(scale=30))[0], -1, 1), expected, atol=1e-6)
    env.norm_obs = False
    np.testing.assert_allclose(read(model).label(raw())[0], alone.label(raw())[0])


def test_a_folder_of_rl_zoo3_teaches_with_its_statistics(tmp_path):
    env = VecNormalize(DummyVecEnv([lambda: DriftEnv(scale=30.0)]))
    model = trained(SAC, env)
    folder = tmp_path / "sac" / "Drift-v0_1"
    settings = folder / "Drift-v0"
    settings.mkdir(parents=True)
    model.save(folder / "Drift-v0.zip")
    env.save(str(settings / "vecnormalize.pkl"))
    (settings / "args.yml").write_text("env: Drift-v0\n")
    (settings / "config.yml").write_text("normalize: true\n")
    expected, _ = model.predict(env.normalize_obs(raw()), deterministic=True)
    for path in (folder, folder / "Drift-v0.zip"):
        np.testing.assert_allclose(read(path).label(raw())[0], expected, atol=1e-6)
    (settings / "vecnormalize.pkl").unlink()
    with pytest.raises(ValueError, match=r"The teacher of task 'A' cannot be read: .*normaliser.*missing"):
        read(folder)


# Functions


def towards(target):
    return lambda obs: np.full((len(obs), 2), target) - 0.1 * obs[:, :2]


def with_std(obs):
    return towards(0.3)(obs), 0.2


def student(algorithm=mt.A2CMultiTask, tasks=None, **kwargs):
    env = mt.make_multitask_vec_env(tasks or recorded_tasks(), 2, seed=0)
    return algorithm("MultiTaskMlpPolicy", env, seed=0, device="cpu", **kwargs)


def student_of(teacher, **kwargs):
    return student(tasks=recorded_tasks(1), teachers={"A": teacher}, **kwargs)


def targets_of(teacher, **kwargs):
    model = student_of(teacher, **kwargs).learn(20)
    mean, log_std = model.rollout_buffer.targets
    return mean, np.exp(log_std)


def test_a_functions_actions_have_a_tenth_of_half_the_range_as_std():
    mean, std = targets_of(towards(0.5))
    assert mean.shape == (5, 2, 2)
    assert np.ptp(mean) > 0
    np.testing.assert_allclose(std, 0.1, rtol=1e-6)
    np.testing.assert_allclose(targets_of(mt.Teacher(towards(0.5), std=0.4))[1], 0.4, rtol=1e-6)
    np.testing.assert_allclose(targets_of(mt.Teacher(towards(0.5), std=(0.4, 0.1)))[1][0, 0], [0.4, 0.1], rtol=1e-6)


def test_a_function_that_gives_a_std_has_it_unless_another_is_given():
    np.testing.assert_allclose(targets_of(with_std)[1], 0.2, rtol=1e-6)
    np.testing.assert_allclose(targets_of(mt.Teacher(with_std, std=0.05))[1], 0.05, rtol=1e-6)


def test_a_given_std_replaces_that_of_an_agent_and_changes_the_digest(models):
    plain, given = student_of(models["SAC"]), student_of(mt.Teacher(models["SAC"], std=0.3))
    assert plain.teachers.digests != given.teachers.digests
    np.testing.assert_allclose(targets_of(mt.Teacher(models["SAC"], std=0.3))[1], 0.3, rtol=1e-6)
    agent = student(tasks=recorded_tasks(1))
    np.testing.assert_allclose(targets_of(mt.Teacher(agent, std=0.3))[1], 0.3, rtol=1e-6)


def test_a_function_sees_raw_observations_and_cannot_change_them():
    seen = []

    def meddling(obs):
        seen.append(obs.copy())
        actions = towards(0.0)(obs)
        obs[:] = np.nan
        return actions

    model = student(tasks=recorded_tasks(1, scale=50.0), teachers={"A": meddling}, student_rollout_prob=0.0).learn(100)
    assert all(obs.shape[1] == 3 and np.isfinite(obs).all() for obs in seen)
    assert max(np.abs(obs).max() for obs in seen) > 20  # not normalised
    assert np.isfinite(model.rollout_buffer.observations["obs"]).all()


class Sent(BaseCallback):
    """The actions that the env received."""

    def __init__(self):
        super().__init__()
        self.actions = []

    def _on_training_start(self):
        inner = self.training_env.unwrapped
        send = inner.step_async
        inner.step_async = lambda actions: (self.actions.append(np.array(actions)), send(actions))

    def _on_step(self):
        return True


@pytest.mark.parametrize("engine", ["fast", "torch"])
def test_in_their_rollouts_teachers_take_their_own_actions(engine, models):
    """A function's and TD3's are those of their labels; the label's std is no noise."""
    sent, drift = Sent(), recorded_tasks(2)
    given = {"A": mt.Teacher(towards(0.25), std=5.0), "B": mt.Teacher(models["TD3"], std=5.0)}
    model = student(tasks=drift, teachers=given, student_rollout_prob=0.0, engine=engine).learn(20, sent)
    mean = np.clip(model.rollout_buffer.targets[0], -1, 1)
    np.testing.assert_allclose(np.array(sent.actions)[-5:], mean, atol=1e-6)


# Learning from them


@pytest.mark.parametrize("engine", ["fast", "torch"])
@pytest.mark.parametrize("algorithm", [mt.A2CMultiTask, mt.PPOMultiTask])
def test_a_student_of_mixed_teachers_becomes_like_them(algorithm, engine, models):
    tasks = drift_tasks(4, high=HIGH)
    like_an_agent = mt.Teacher(student(tasks=drift_tasks(1, high=HIGH)), std=0.4)
    given = {"A": models["SAC"], "B": models["TD3"], "C": with_std, "D": like_an_agent}
    settings = {"learning_rate": 0.01, "n_steps": 16, "student_rollout_prob": 0.5, "engine": engine}
    if algorithm is mt.PPOMultiTask:
        settings |= {"batch_size": 64, "n_epochs": 4}
    kls = []
    for n_updates in (1, 60 if algorithm is mt.A2CMultiTask else 20):
        model = student(algorithm, tasks, teachers=given, **settings).learn(16 * 8 * n_updates)
        assert model.last_engine == engine
        kls.append(np.array([model.logger.name_to_value[f"distill/{task.name}/kl"] for task in tasks]))
    assert (kls[1] < 0.5 * kls[0]).all(), kls


def test_teachers_in_place_of_those_that_were_not_saved(tmp_path, models):
    model = student_of(models["DDPG"]).learn(20)
    model.save(tmp_path / "student")
    again = mt.A2CMultiTask.load(tmp_path / "student", env=model.env, device="cpu", teachers={"A": with_std})
    assert "distill/A/kl" in again.learn(20).logger.name_to_value


# What is refused


@pytest.mark.parametrize(
    ("gives", "error", "message"),
    [
        (lambda obs: np.zeros(2), ValueError, r"actions of shape \(2,\) for .*shape \(10, 3\).*\(10, 2\)"),
        (lambda obs: np.zeros((len(obs), 3)), ValueError, r"actions of shape \(10, 3\)"),
        (lambda obs: np.full((len(obs), 2), np.nan), ValueError, "actions that are not finite in 10 of 10 rows"),
        (lambda obs: (np.zeros((len(obs), 2)), 0.0), ValueError, r"stds that are not positive \(the lowest: 0"),
        (lambda obs: (np.zeros((len(obs), 2)), np.ones(3)), TypeError, r"stds as numbers of shape \(10, 2\)"),
        (lambda obs: (np.zeros((len(obs), 2)), None), ValueError, "ndarray, NoneType.*deterministic=True"),
        (lambda obs: None, ValueError, r"actions of shape \(\)"),
        (lambda obs: "left", TypeError, "actions as numbers.*left"),
    ],
)
def test_what_a_function_returns_is_checked(gives, error, message):
    with pytest.raises(error, match=f"The teacher of task 'A' .*{message}"):
        student_of(gives).learn(20)


def test_an_error_of_a_function_names_the_task():
    def broken(obs):
        raise KeyError("weights")

    with pytest.raises(KeyError) as e:
        student_of(broken).learn(20)
    assert "in the teacher of task 'A', for observations (10, 3)" in e.value.__notes__[0]


@pytest.mark.parametrize(
    ("std", "error"),
    [
        *((bad, ValueError) for bad in (0, -1.0, np.nan, np.inf, (0.1, 0.0), ())),
        *((bad, TypeError) for bad in ("0.1", True, [[0.1]], [[0.1], 2], {"A": 0.1})),
    ],
)
def test_a_std_is_positive_numbers(std, error):
    with pytest.raises(error, match="`std` must be"):
        mt.Teacher(with_std, std=std)


def test_what_is_no_teacher_is_refused(models):
    for source in (3, DriftEnv, None):
        with pytest.raises(TypeError, match="`source` must be an agent, a model, the path of one, or a function"):
            mt.Teacher(source)
    with pytest.raises(TypeError, match="SACPolicy, a module of torch"):
        mt.Teacher(models["SAC"].policy)
    with pytest.raises(TypeError, match="The teacher of task 'A': .*a module of torch"):
        student_of(models["SAC"].policy)
    with pytest.raises(TypeError, match="`normalizer` must be a VecNormalize or the path"):
        mt.Teacher(with_std, normalizer=3)
    with pytest.raises(ValueError, match="has 3 numbers, its actions have 2"):
        student_of(mt.Teacher(with_std, std=(1, 2, 3)))
    for source in (with_std, student(tasks=recorded_tasks(1))):
        with pytest.raises(ValueError, match="`normalizer` is for models of SB3; the teacher of task 'A' is a"):
            student_of(mt.Teacher(source, normalizer="vecnormalize.pkl"))
    with pytest.raises(ValueError, match=r"observations of size 3 .*; the student has 5 and 2"):
        student(tasks=recorded_tasks(1, obs_dim=5), teachers={"A": models["TD3"]})


def test_gsde_is_refused_with_a_way_out():
    for algorithm in (SAC, PPO):
        model = algorithm("MlpPolicy", DriftEnv(), use_sde=True, device="cpu")
        with pytest.raises(ValueError, match=r"gSDE.*lambda obs: model\.predict\(obs, deterministic=True\)\[0\]"):
            student_of(model)
        mean, _ = targets_of(lambda obs, model=model: model.predict(obs, deterministic=True)[0])
        assert np.isfinite(mean).all()


def test_a_policy_that_is_no_mlp_is_refused():
    class Square(th.nn.ReLU):
        pass

    model = SAC("MlpPolicy", DriftEnv(), device="cpu", policy_kwargs={"activation_fn": Square})
    with pytest.raises(ValueError, match="The teacher of task 'A' cannot be read: the SAC: its activation_fn"):
        student_of(model)
    with pytest.raises(ValueError, match="activation_fn must be one of .*Softsign"):
        student_of(SAC("MlpPolicy", DriftEnv(), device="cpu", policy_kwargs={"activation_fn": th.nn.Softsign}))


def test_an_actor_is_no_agent_and_the_error_says_what_it_can_do(tmp_path, models):
    models["TQC"].save(tmp_path / "m")
    for reader in (mt.load_agent, read_sb3_zip):
        with pytest.raises(UnreadableFileError, match=r"model of TQC .*can only teach \(teachers=\{task: path\}\)"):
            reader(tmp_path / "m.zip")
    trained(A2C).save(tmp_path / "a2c")
    assert read_sb3_actor(tmp_path / "a2c.zip") is None


def test_a_hostile_actor_does_not_run(tmp_path, models, monkeypatch):
    monkeypatch.setattr(stand_in, "BUILT", [])
    models["SAC"].save(tmp_path / "m")
    path = changed(tmp_path / "m.zip", tmp_path / "hostile.zip", lambda w: w.update({"actor.mu.bias": Payload()}))
    with pytest.raises(UnreadableFileError, match="its weights cannot be read"):
        read_sb3_actor(path)
    pickled = {":serialized:": base64.b64encode(pickle.dumps(Payload())).decode(), ":type:": "<class 'dict'>"}
    path = changed(tmp_path / "m.zip", tmp_path / "hostile.zip", policy_kwargs=pickled, learning_rate=pickled)
    assert read_sb3_actor(path).digest == read_sb3_actor(tmp_path / "m.zip").digest
    assert not stand_in.BUILT


def changed(path, target, edit=None, **data):
    """A copy of a zip with other weights or settings."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(target, "w") as new:
        new.writestr("data", json.dumps({**json.loads(old.read("data")), **data}))
        with old.open("policy.pth") as file:
            weights = th.load(file, weights_only=True)
        if edit is not None:
            edit(weights)
        with new.open("policy.pth", "w") as file:
            th.save(weights, file)
    return target


def renamed(weights):
    for part in ("weight", "bias"):
        weights[f"actor.latent_pi.3.{part}"] = weights.pop(f"actor.latent_pi.2.{part}")


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda w: w["actor.mu.bias"].fill_(float("nan")), r"not finite: actor\.mu\.bias"),
        (lambda w: w.pop("actor.log_std.bias"), r"actor lacks actor\.log_std\.bias"),
        (lambda w: w.update({"actor.mu.weight": th.zeros(2, 5)}), r"layers do not fit \(8 outputs before 5 inputs"),
        (lambda w: w.update({"actor.mu.bias": th.zeros(3)}), r"actor\.mu has weights \[8, 2\] and biases \[3\]"),
        (lambda w: w.update({"actor.latent_pi.0.weight": th.zeros(8, 4)}), r"observation_space has the shape \[3\]"),
        (lambda w: w.update({"actor.features_extractor.cnn.0.weight": th.zeros(2)}), "no MlpPolicy.*cnn"),
        (renamed, "layers between that are not linear"),
        (lambda w: [w.pop(name) for name in list(w) if "actor." in name], "no weights"),
    ],
)
def test_an_actors_file_that_does_not_fit_is_refused_with_its_name(tmp_path, models, edit, message):
    models["SAC"].save(tmp_path / "m")
    with pytest.raises(UnreadableFileError, match=rf"changed\.zip: .*{message}"):
        read_sb3_actor(changed(tmp_path / "m.zip", tmp_path / "changed.zip", edit))


def test_an_actors_policy_class_of_ones_own_is_refused(tmp_path, models):
    models["SAC"].save(tmp_path / "m")
    mine = {"__module__": "mine.policies", "make_actor": "<function>"}
    path = changed(tmp_path / "m.zip", tmp_path / "changed.zip", policy_class=mine)
    with pytest.raises(UnreadableFileError, match="its class overrides `make_actor`"):
        read_sb3_actor(path)


def test_an_actors_zip_that_is_cut_is_refused_with_its_name(tmp_path, models):
    models["SAC"].save(tmp_path / "m")
    content = (tmp_path / "m.zip").read_bytes()
    for n_bytes in range(0, len(content), len(content) // 50):
        (tmp_path / "cut.zip").write_bytes(content[:n_bytes])
        with pytest.raises(UnreadableFileError, match=r"cut\.zip: "):
            read_sb3_actor(tmp_path / "cut.zip")
