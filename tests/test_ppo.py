"""PPO on several tasks: SB3's bits on torch, the same within rounding on the fast engine, and all powers of A2C."""

import inspect
import re

import numpy as np
import pytest
import torch as th
from helpers.drift import drift_tasks, recorded_tasks
from helpers.models import weights_equal
from sb3_contrib import TRPO
from stable_baselines3 import A2C, PPO

import sb3_multitask as mt
from sb3_multitask.agents import agent_of
from sb3_multitask.algorithms.engine import TorchEngine
from sb3_multitask.fast.grouping import Grouping
from sb3_multitask.fast.minibatches import PartMemory
from sb3_multitask.losses import PPOLoss

NAMES = ("A", "B", "C")
SETTINGS = [
    {},
    {"target_kl": 0.01, "learning_rate": 3e-3},
    {"clip_range_vf": 0.1, "ent_coef": 0.01},
    {"normalize_advantage": False, "batch_size": 24, "max_grad_norm": 0.05},
    {
        "policy_kwargs": {
            "log_std_mode": "shared",
            "net_arch": {"pi": [], "vf": [8]},
            "head_arch": {"pi": [6], "vf": []},
        }
    },
    {"policy_kwargs": {"optimizer_class": th.optim.RMSprop}},
    {"learning_rate": lambda remaining: 1e-3 * remaining, "clip_range": lambda remaining: 0.1 + 0.1 * remaining},
]


def make(engine="auto", schedule="joint", tasks=None, on_fault="stop", **kwargs):
    normalize = {"gamma": kwargs.get("gamma", 0.99)}
    env = mt.make_multitask_vec_env(tasks or recorded_tasks(), 2, seed=0, normalize=normalize, on_fault=on_fault)
    kwargs = {"n_steps": 16, "batch_size": 16, "n_epochs": 2, "seed": 0, **kwargs}
    return mt.PPOMultiTask("MultiTaskMlpPolicy", env, engine=engine, task_schedule=schedule, **kwargs)


def trained(n_rollouts, *args, **kwargs):
    """A model of each engine, trained on the same numbers."""
    models = []
    for engine in ("torch", "fast"):
        model = make(engine, *args, **kwargs)  # seeds the global generators
        models.append(model.learn(n_rollouts * model.n_steps * model.n_envs))
    return models


def largest_difference(a, b):
    return max((x - y).abs().max() for x, y in zip(a.policy.parameters(), b.policy.parameters(), strict=True))


@pytest.mark.native
@pytest.mark.parametrize("settings", [{}, {"target_kl": 0.01, "clip_range_vf": 0.2, "ent_coef": 0.01}])
def test_joint_on_torch_is_sb3s_ppo_bit_for_bit(settings):
    """200 updates on six bodies."""
    models = []
    for algorithm, extra in ((PPO, {}), (mt.PPOMultiTask, {"engine": "torch"})):
        env = mt.make_multitask_vec_env("HalfCheetahBody6", 2, seed=0)
        given = {"n_steps": 8, "batch_size": 32, "n_epochs": 2, "learning_rate": 1e-3, "seed": 0, "device": "cpu"}
        model = algorithm(mt.MultiTaskActorCriticPolicy, env, **given, **settings, **extra)
        models.append(model.learn(100 * 8 * 12))
    assert weights_equal(*models)
    theirs, mine = (model.logger.name_to_value for model in models)
    assert mine["train/approx_kl"] == pytest.approx(float(theirs["train/approx_kl"]), rel=1e-5)
    assert {key for key in theirs if key.startswith("train/")} <= set(mine)


@pytest.mark.parametrize("schedule", ["joint", "cycle"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_50_updates_of_both_engines_agree(schedule, settings):
    torch, fast = trained(25, schedule, **settings)
    assert (torch.last_engine, fast.last_engine) == ("torch", "fast")
    assert fast._n_updates == torch._n_updates
    assert largest_difference(torch, fast) < 1e-4
    for mine, theirs in zip(fast.policy.parameters(), torch.policy.parameters(), strict=True):
        my_state, their_state = (m.policy.optimizer.state[p] for m, p in ((fast, mine), (torch, theirs)))
        assert set(my_state) <= set(their_state)
        if "exp_avg" in my_state:  # RMSprop does not look at the count
            assert my_state["step"] == their_state["step"]
    mine, theirs = fast.logger.name_to_value, torch.logger.name_to_value
    assert mine.keys() == theirs.keys()
    for key in mine:
        if key.startswith("train/"):
            assert mine[key] == pytest.approx(float(theirs[key]), rel=2e-2, abs=2e-4), key


@pytest.mark.parametrize(("ours", "theirs"), [(mt.A2CMultiTask, A2C), (mt.PPOMultiTask, PPO), (mt.TRPOMultiTask, TRPO)])
def test_arguments_and_defaults_are_sb3s(ours, theirs):
    for method in ("__init__", "learn"):
        mine, sb3s = (inspect.signature(getattr(of, method)).parameters for of in (ours, theirs))
        named = {name: one.default for name, one in sb3s.items() if name != "tb_log_name"}
        named |= {"rms_prop_eps": mine["rms_prop_eps"].default} if "rms_prop_eps" in named else {}  # None, if not given
        assert {name: mine[name].default for name in named} == named
        assert [name for name in mine if name in sb3s] == list(sb3s)


def test_what_is_logged_of_each_task():
    logged = make().learn(200).logger.name_to_value
    for name in NAMES:
        for term in ("policy_loss", "value_loss", "approx_kl", "clip_fraction", "explained_variance", "entropy_loss"):
            assert np.isfinite(logged[f"train/{name}/{term}"]), term
    assert {"train/policy_gradient_loss", "train/clip_range", "train/loss", "train/learning_rate"} <= set(logged)


@pytest.mark.parametrize("normalize", [False, True])
def test_gradients_of_a_minibatch_are_autograds(normalize):
    model = make("fast", clip_range_vf=0.1)
    model.learn(96)
    fast, torch = model.numerics, TorchEngine(model)
    objective = [PPOLoss(0.05, 0.1, ent_coef=0.01)]
    buffer = model.rollout_buffer
    for start in range(3):
        batches = []
        for engine in (fast, torch):
            np.random.seed(start)  # noqa: NPY002
            batches.append(next(engine.batches(buffer, 11, normalize)))
            engine.evaluate(objective, batches[-1])
            if engine is fast:
                gradient = fast.parameters.gradient.copy()
        for parameter, place in fast.parameters.offsets.items():
            expected = parameter.grad.flatten().numpy()
            assert np.abs(gradient[place] - expected).max() <= 1e-5 * max(np.abs(expected).max(), 1e-3)


def test_a_grouping_holds_every_row_once():
    rng = np.random.default_rng(0)
    for k, n in ((1, 5), (3, 7), (6, 64), (4, 4)):
        tasks, rows = rng.integers(0, k, n), rng.permutation(1000)[:n]
        grouping = Grouping.of(tasks, k, rows)
        taken = np.ones(grouping.rows.shape, bool) if grouping.taken is None else grouping.taken[:, :, 0] > 0
        assert sorted(grouping.rows[taken].tolist()) == sorted(rows.tolist())
        for task in range(k):
            of_task = set(rows[tasks == task].tolist())
            assert set(grouping.rows[task][taken[task]].tolist()) == of_task
            assert not of_task or set(grouping.rows[task].tolist()) == of_task  # what is repeated is the task's own


# The rate that follows the divergence


def test_the_rate_follows_the_measured_divergence():
    rates = {}
    for desired in (1e-6, 10.0):
        model = make(desired_kl=desired, learning_rate=1e-3).learn(200)
        rates[desired] = model.policy.optimizer.param_groups[0]["lr"]
        assert model.logger.name_to_value["train/learning_rate"] == rates[desired]
    assert rates[1e-6] < 1e-4
    assert rates[10.0] == 1e-2


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"desired_kl": 0}, "`desired_kl` must be a positive, finite number"),
        ({"target_kl": -0.01}, r"`target_kl` must be a positive, finite number \(got -0.01"),
        ({"clip_range": -0.1}, r"`clip_range` must be at least 0 .*\(got -0.1"),
        ({"clip_range_vf": 0}, r"`clip_range_vf` must be positive .*\(got 0"),
        ({"desired_kl": 0.01, "target_kl": 0.02}, "`desired_kl`=0.01 .* `target_kl`=0.02"),
        ({"desired_kl": 0.01, "learning_rate": lambda _: 1e-3}, "`learning_rate` is a number"),
        ({"batch_size": 1}, "`batch_size` must be at least 2"),
        ({"batch_size": 0, "normalize_advantage": False}, "`batch_size` must be at least 1"),
        ({"n_epochs": 0}, "`n_epochs` must be at least 1"),
        ({"n_steps": 0}, "`n_steps` must be at least 1"),
        ({"distill_coef": 2.0}, "`distill_coef`=2.0 is for distillation"),
        ({"engine": "faster"}, "`engine` must be one of auto, fast, torch"),
    ],
)
def test_settings_that_make_no_sense_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        make(**settings)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("clip_range", v) for v in ("lin_0.2", {0: 0.2, 0.5: 0.1}, None)),
        *(("clip_range_vf", "0.2"), ("learning_rate", "3e-4"), ("rl_coef", "lin_1.0"), ("critic_coef", {0: 1.0})),
        *(("desired_kl", "0.01"), ("desired_kl", True), ("target_kl", "0.1")),
        *(("batch_size", 100.0), ("n_epochs", 1.5), ("n_steps", "8")),
    ],
)
def test_what_has_another_type_is_refused_by_name(name, value):
    with pytest.raises(TypeError, match=rf"`{name}` must be .*\(got {re.escape(repr(value))}\)"):
        make(**{name: value})


@pytest.mark.parametrize(
    "settings", [{"desired_kl": -1}, {"batch_size": 1}, {"n_epochs": 0}, {"n_steps": 0}, {"clip_range_vf": 0}]
)
def test_what_is_given_to_load_is_checked_too(tmp_path, settings):
    make().save(tmp_path / "model")
    with pytest.raises(ValueError, match=rf"`{next(iter(settings))}` must be .*\(got "):
        mt.PPOMultiTask.load(tmp_path / "model", **settings)


# Teachers


@pytest.fixture(scope="module")
def teachers():
    agent = agent_of(make(learning_rate=0.01).learn(600))
    return dict.fromkeys(NAMES, agent)


@pytest.mark.parametrize("schedule", ["joint", "cycle"])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"rl_coef": 0.5, "distill_loss": "reverse_kl"},
        {"rl_coef": 0.5, "student_rollout_prob": 0.5},
        {"rl_coef": lambda remaining: float(remaining < 0.5), "critic_coef": 1.0, "distill_coef": 0.3},
    ],
)
def test_both_engines_agree_with_teachers(teachers, schedule, settings):
    torch, fast = trained(12, schedule, teachers=teachers, **settings)
    assert largest_difference(torch, fast) < 1e-4


def test_a_student_becomes_like_its_teachers_with_rl_on(teachers):
    kls = []
    for n_steps in (96, 20_000):
        model = make(teachers=teachers, rl_coef=0.1, seed=3).learn(n_steps)
        kls.append(np.mean([model.logger.name_to_value[f"distill/{name}/kl"] for name in NAMES]))
    assert kls[1] < 0.5 * kls[0]


def test_targets_stay_beside_their_rows_in_every_minibatch(teachers):
    model = make("fast", teachers=teachers)
    model.learn(96)
    raw_free = model.rollout_buffer.targets
    for (part,) in model.numerics.batches(model.rollout_buffer, 7, normalize_advantage=False):
        batch, _ = part(PartMemory(model.numerics.parameters.another_gradient()))
        taken = np.ones(batch.advantages.shape[:2], bool) if batch.kept is None else batch.kept[:, :, 0] > 0
        flat = raw_free[0].reshape(-1, 2)
        actions = model.rollout_buffer.by_step("actions").reshape(-1, 2)
        for action, mean in zip(batch.actions[taken], batch.teacher_mean[taken], strict=True):
            (row,) = (actions == action).all(axis=1).nonzero()[0]
            np.testing.assert_array_equal(flat[row], mean)


# Faults, resume, files


@pytest.mark.parametrize("schedule", ["joint", "cycle"])
def test_both_engines_leave_the_same_rows_out(schedule):
    def flawed(i):
        class Flawed(type(recorded_tasks()[i].make())):
            def step(self, action):
                obs, *rest = super().step(action)
                return (obs * np.nan if self.time == 3 else obs), *rest

        return mt.Task(NAMES[i], Flawed, {"horizon": 5 + 2 * i})

    tasks = [flawed(0), *recorded_tasks()[1:]]
    torch, fast = trained(12, schedule, tasks, on_fault="quarantine")
    for model in (torch, fast):
        assert model.get_env().unwrapped.fault_counts["A"] > 0
    assert largest_difference(torch, fast) < 1e-4


@pytest.mark.filterwarnings("ignore:A run that resumes")
def test_a_checkpoint_of_other_settings_is_refused(tmp_path):
    callback = mt.ResumableCheckpointCallback(tmp_path, every=50, verbose=0)
    make().learn(200, callback)
    with pytest.raises(mt.CheckpointError, match=r"batch_size.*16 then, 8 now"):
        make(batch_size=8).learn(400, mt.ResumableCheckpointCallback(tmp_path, every=50, verbose=0))


def test_saved_and_loaded_with_another_number_of_envs(tmp_path):
    model = make(desired_kl=0.02).learn(200)
    model.save(tmp_path / "model")
    env = mt.make_multitask_vec_env(recorded_tasks(), 3, seed=0)
    loaded = mt.PPOMultiTask.load(tmp_path / "model", env=env)
    assert loaded.desired_kl == 0.02
    assert weights_equal(model, loaded)
    for mine, theirs in zip(loaded.get_normalizer_state()["obs_rms"].values(),
                            model.get_normalizer_state()["obs_rms"].values(), strict=True):  # fmt: skip
        np.testing.assert_array_equal(mine, theirs)
    loaded.learn(200)
    agent = mt.load_agent(tmp_path / "model.zip")
    assert agent.task_names == NAMES
    assert agent.facts["algorithm"] == "PPOMultiTask"


def test_transfer_and_freezing_go_between_algorithms():
    source, model = make().learn(200), make(seed=1)
    mt.transfer(model, source, {name: name for name in NAMES})
    assert weights_equal(source, model)
    mt.freeze(model, "trunk")
    trunk = [p.clone() for p in model.policy.mlp_extractor.parameters()]
    model.learn(200)
    assert all(th.equal(a, b) for a, b in zip(trunk, model.policy.mlp_extractor.parameters(), strict=True))
    a2c = mt.A2CMultiTask("MultiTaskMlpPolicy", mt.make_multitask_vec_env(drift_tasks(3), 2, seed=0))
    mt.transfer(a2c, source, {name: name for name in NAMES})
    assert weights_equal(source, a2c)
