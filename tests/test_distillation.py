"""Learning from teachers: both engines, every loss, and what is refused."""

import contextlib
import re

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from helpers.drift import recorded_tasks
from helpers.killed_runs import KillAt, Killed
from helpers.models import recorded_model, weights_equal
from stable_baselines3 import A2C
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

import sb3_multitask as mt
from sb3_multitask.agents import agent_of
from sb3_multitask.distillation.settings import Coefficients, DistillationSettings
from sb3_multitask.distillation.teachers import Teachers
from sb3_multitask.envs.task_space import TaskSizes
from sb3_multitask.losses import DistillationLoss

NAMES = ("A", "B", "C")


@pytest.fixture(scope="module")
def teacher():
    """An agent on three tasks whose policy is not the initial one."""
    env = mt.make_multitask_vec_env(recorded_tasks(), 2, seed=5)
    return agent_of(mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=9, device="cpu", learning_rate=0.01).learn(600))


def teachers(agent):
    return dict.fromkeys(NAMES, agent)


SETTINGS = [
    {},
    {"distill_loss": "reverse_kl"},
    {"distill_loss": "mse", "distill_coef": 0.5},
    {"rl_coef": 0.7, "ent_coef": 0.01},
    {"critic_coef": 1.0},
    {"rl_coef": lambda remaining: 1 - remaining, "distill_coef": lambda remaining: remaining},
    {"rl_coef": 0.3, "student_rollout_prob": 0.5},
    {"student_rollout_prob": 0.0},
    {"policy_kwargs": {"log_std_mode": "shared"}},
]


@pytest.mark.parametrize("schedule", ["joint", "cycle"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_50_updates_of_both_engines_agree(teacher, schedule, settings):
    models = []
    for engine in ("torch", "fast"):
        model = recorded_model(engine, schedule, teachers=teachers(teacher), **settings)
        model.learn(50 * 5 * model.n_envs)
        assert model.last_engine == engine
        models.append(model)
    for (name, a), b in zip(models[0].policy.named_parameters(), models[1].policy.parameters(), strict=True):
        assert (a - b).abs().max() < 1e-4, name
        states = [model.policy.optimizer.state[p]["square_avg"] for model, p in zip(models, (a, b), strict=True)]
        th.testing.assert_close(*states, rtol=1e-3, atol=1e-7)


def logged(engine, schedule, teacher, **settings):
    model = recorded_model(engine, schedule, teachers=teachers(teacher), **settings)
    model.learn(5 * 5 * model.n_envs * (3 if schedule == "cycle" else 1))
    return {key: value for key, value in model.logger.name_to_value.items() if "distill" in key}


@pytest.mark.parametrize("kind", ["forward_kl", "mse"])
@pytest.mark.parametrize("schedule", ["joint", "cycle"])
def test_logs_of_both_engines_agree(teacher, schedule, kind):
    fast, torch = (logged(engine, schedule, teacher, distill_loss=kind) for engine in ("fast", "torch"))
    assert set(fast) == {"train/distill_loss", *(f"distill/{name}/{key}" for name in NAMES for key in ("loss", "kl"))}
    for key, value in torch.items():
        assert fast[key] == pytest.approx(value, rel=1e-3), key
    if kind == "forward_kl":
        assert fast["distill/A/loss"] == fast["distill/A/kl"]


def test_a_student_becomes_like_its_teachers(teacher):
    kls = {}
    for n_updates in (1, 1000):
        model = recorded_model("fast", teachers=teachers(teacher))
        model.learn(5 * model.n_envs * n_updates)
        kls[n_updates] = np.array([model.logger.name_to_value[f"distill/{name}/kl"] for name in NAMES])
    assert (kls[1000] < 0.05 * kls[1]).all(), kls


def test_by_default_only_the_actor_learns(teacher):
    model = recorded_model("torch", teachers=teachers(teacher))
    before = {name: parameter.clone() for name, parameter in model.policy.named_parameters()}
    model.learn(300)
    for name, parameter in model.policy.named_parameters():
        assert th.equal(parameter, before[name]) == ("value" in name), name


@pytest.mark.parametrize("engine", ["fast", "torch"])
def test_one_task_has_one_teacher(engine, teacher):
    model = recorded_model(engine, tasks=recorded_tasks(1), teachers={"A": teacher})
    model.learn(600)
    assert model.logger.name_to_value["distill/A/kl"] > 0


class WhoActs(BaseCallback):
    """Keeps the actions of every rollout and whose they are."""

    def __init__(self):
        super().__init__()
        self.by_teacher, self.coefficients = [], []

    def _on_step(self):
        return True

    def _on_rollout_end(self):
        self.by_teacher.append(self.model.rollout_by_teacher)
        self.coefficients.append(self.model.coefficients())


@pytest.mark.parametrize("engine", ["fast", "torch"])
def test_teachers_rollouts_never_enter_the_rl_loss(teacher, engine):
    model = recorded_model(engine, teachers=teachers(teacher), rl_coef=0.4, student_rollout_prob=0.5)
    callback = WhoActs()
    model.learn(5 * model.n_envs * 60, callback)
    assert 15 < sum(callback.by_teacher) < 45
    for by_teacher, coefficients in zip(callback.by_teacher, callback.coefficients, strict=True):
        assert coefficients == (Coefficients(0, 0, 1) if by_teacher else Coefficients(0.4, 1, 1))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, (0, 0, 1)),
        ({"rl_coef": 0}, (0, 0, 1)),
        ({"rl_coef": 1}, (1, 1, 1)),
        ({"rl_coef": 1, "critic_coef": 0.5}, (1, 0.5, 1)),
        ({"critic_coef": 0.5}, (0, 0.5, 1)),
        ({"rl_coef": lambda remaining: 1 - remaining}, (0.75, 1, 1)),
        ({"distill_coef": lambda remaining: remaining}, (0, 0, 0.25)),
    ],
)
def test_default_coefficients(settings, expected):
    full = {"distill_loss": "mse", "distill_coef": 1.0, "rl_coef": None, "critic_coef": None} | settings
    assert (
        DistillationSettings(**full, student_rollout_prob=1.0).at(0.25, has_teachers=True, by_teacher=False) == expected
    )


def test_without_teachers_the_loss_is_a2cs():
    settings = DistillationSettings("mse", 1.0, None, None, 1.0)
    assert settings.at(0.5, has_teachers=False, by_teacher=False) == Coefficients(1, 1, 0)


def test_teachers_see_observations_through_their_own_normaliser(teacher):
    """Whatever the student's statistics: the targets are the teacher's policy on raw observations."""
    raw = np.random.default_rng(0).normal(size=(3, 4, teacher.obs_dim)) * 5
    space = gym.spaces.Box(-np.inf, np.inf, (teacher.obs_dim,))
    observation_space = gym.spaces.Dict(obs=space, task=gym.spaces.Discrete(3))
    sizes = TaskSizes.of(observation_space, gym.spaces.Box(-1, 1, (teacher.action_dim,)))
    means, _ = Teachers(teachers(teacher), NAMES, sizes).targets(np.arange(3), raw.swapaxes(0, 1))
    for task in range(3):
        observation = {"obs": raw[task], "task": np.full(4, task)}
        actions, _ = teacher.predict(observation, deterministic=True)
        np.testing.assert_allclose(np.clip(means[:, task], -1, 1), actions, rtol=1e-6)


def test_the_resume_of_a_distillation_is_exact(tmp_path, teacher):
    tasks = [mt.Task(name, f"HalfCheetah{name}-v0") for name in ("SmallFoot", "BigFoot")]
    env = mt.make_multitask_vec_env(tasks, 1, seed=5)
    cheetah = agent_of(mt.A2CMultiTask("MultiTaskMlpPolicy", env, seed=9, device="cpu"))

    def train(folder, kill_at):
        env = mt.make_multitask_vec_env(tasks, 2, seed=1)
        model = mt.A2CMultiTask(
            "MultiTaskMlpPolicy",
            env,
            seed=0,
            device="cpu",
            task_schedule="cycle",
            teachers={task.name: cheetah for task in tasks},
            rl_coef=lambda remaining: 1 - remaining,
            student_rollout_prob=lambda remaining: 1 - 0.5 * remaining,
        )
        with contextlib.suppress(Killed):
            model.learn(1000, [mt.ResumableCheckpointCallback(folder, every=150, verbose=0), KillAt(kill_at)])
        return model

    uninterrupted = train(tmp_path / "a", 10**9)
    train(tmp_path / "b", 567)
    assert weights_equal(uninterrupted, train(tmp_path / "b", 10**9))


# What is refused


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"distill_loss": "kl"}, "`distill_loss` must be one of forward_kl, reverse_kl, mse"),
        ({"distill_coef": -1}, "`distill_coef` must be at least 0"),
        ({"student_rollout_prob": 1.5}, "`student_rollout_prob` must lie between 0 and 1"),
        ({"rl_coef": 0.5, "student_rollout_prob": 0}, "`rl_coef`=0.5 asks for RL on the student's rollouts"),
        (
            {"critic_coef": 0.5, "student_rollout_prob": 0},
            "`critic_coef`=0.5 asks for a critic on the student's rollouts",
        ),
        ({"distill_coef": 0}, "`distill_coef`=0 leaves a student with `teachers` nothing to learn from"),
    ],
)
def test_settings_that_make_no_sense_are_refused(teacher, settings, message):
    with pytest.raises(ValueError, match=message):
        recorded_model("auto", teachers=teachers(teacher), **settings)


@pytest.mark.parametrize("name", ["distill_coef", "rl_coef", "critic_coef", "student_rollout_prob"])
@pytest.mark.parametrize("value", ["lin_1.0", {0: 0.0, 0.5: 1.0}, True, [1.0]])
def test_a_coefficient_of_another_type_is_refused_by_name(teacher, name, value):
    with pytest.raises(TypeError, match=rf"`{name}` must be .* a schedule: .*\(got {re.escape(repr(value))}\)"):
        recorded_model("auto", teachers=teachers(teacher), **{name: value})


def test_teachers_must_fit_the_tasks(teacher):
    with pytest.raises(ValueError, match=r"one teacher for every task.*\n  tasks:    A, B, C\n  teachers: A, B"):
        recorded_model("auto", teachers={"A": teacher, "B": teacher})
    with pytest.raises(ValueError, match="teachers: A, B, C, D"):
        recorded_model("auto", teachers={**teachers(teacher), "D": teacher})
    with pytest.raises(ValueError, match="The teacher of task 'D': No head for task 'D'"):
        recorded_model("auto", tasks=[mt.Task("D", task.env_id) for task in recorded_tasks(1)], teachers={"D": teacher})
    tasks = recorded_tasks(obs_dim=5)
    with pytest.raises(ValueError, match=r"observations of size 3 .* size 2; the student has 5 and 2"):
        recorded_model("auto", tasks=tasks, teachers=teachers(teacher))
    with pytest.raises(TypeError, match="The teacher of task 'A': `source` must be an agent.*got 3"):
        recorded_model("auto", teachers={**teachers(teacher), "A": 3})


def test_a_teacher_that_cannot_be_read_is_named(tmp_path, teacher):
    with pytest.raises(ValueError, match="The teacher of task 'B' cannot be read: .*nowhere"):
        recorded_model("auto", teachers={**teachers(teacher), "B": tmp_path / "nowhere"})


def test_a_teacher_whose_statistics_are_not_finite_is_named(teacher):
    model = recorded_model("auto")
    model.get_vec_normalize_env().obs_rms["obs"].mean[1, 0] = np.nan
    with pytest.raises(ValueError, match=r"The teacher of task 'B' cannot be read: .*not finite"):
        recorded_model("auto", teachers={**teachers(teacher), "B": model})


def test_learn_after_load_needs_the_teachers(tmp_path, teacher):
    model = recorded_model("auto", teachers=teachers(teacher)).learn(60)
    model.save(tmp_path / "model")
    env = mt.make_multitask_vec_env(recorded_tasks(), 2, seed=0)
    with pytest.raises(ValueError, match="learned from teachers, which are not saved with it"):
        mt.A2CMultiTask.load(tmp_path / "model", env=env, device="cpu").learn(60)
    again = mt.A2CMultiTask.load(tmp_path / "model", env=env, device="cpu", teachers=teachers(teacher))
    assert "distill/A/kl" in again.learn(60).logger.name_to_value
    alone = mt.A2CMultiTask.load(tmp_path / "model", env=env, device="cpu", teachers={})
    assert "distill/A/kl" not in alone.learn(60).logger.name_to_value


# Teachers from files


def test_teachers_come_from_models_zips_agents_and_sb3(tmp_path):
    env_id = "HalfCheetahSmallFoot-v0"
    task = [mt.Task("SmallFoot", env_id)]
    ours = mt.A2CMultiTask("MultiTaskMlpPolicy", mt.make_multitask_vec_env(task, 2, seed=0), seed=0, device="cpu")
    ours.learn(100)
    ours.save(tmp_path / "ours")
    mt.save_agent(ours, tmp_path / "agent")
    given = {"model": ours, "zip": tmp_path / "ours.zip", "agent": str(tmp_path / "agent"), "loaded": agent_of(ours)}
    digests = {}
    for name, teacher in given.items():
        student = mt.A2CMultiTask("MultiTaskMlpPolicy", task, teachers={"SmallFoot": teacher}, device="cpu")
        digests[name] = student.teachers.digests["SmallFoot"]
    assert len(set(digests.values())) == 1

    sb3_env = VecNormalize(make_vec_env(env_id, 1, seed=0))
    A2C("MlpPolicy", sb3_env, seed=0, device="cpu").learn(100).save(tmp_path / "sb3")
    sb3_env.save(str(tmp_path / "vn.pkl"))
    agent = mt.load_agent(tmp_path / "sb3.zip", normalizer=tmp_path / "vn.pkl")
    model = A2C.load(tmp_path / "sb3.zip", device="cpu")
    raw = np.random.default_rng(0).normal(size=(5, 17)).astype(np.float32)
    expected, _ = model.predict(sb3_env.normalize_obs(raw), deterministic=True)
    actions, _ = agent.predict({"obs": raw, "task": np.zeros(5)}, deterministic=True)
    np.testing.assert_allclose(actions, expected, atol=1e-6)
    student = mt.A2CMultiTask("MultiTaskMlpPolicy", task, teachers={"SmallFoot": agent}, device="cpu")
    assert "distill/SmallFoot/kl" in student.learn(100).logger.name_to_value


def test_a_checkpoint_with_other_teachers_is_refused(tmp_path, teacher):
    def train(agent):
        model = recorded_model("auto", teachers=teachers(agent))
        with pytest.warns(UserWarning, match="RecordedEnv has no get_state"):
            model.learn(120, mt.ResumableCheckpointCallback(tmp_path, every=60, verbose=0))

    train(teacher)
    other = agent_of(recorded_model("auto"))
    with pytest.raises(mt.CheckpointError, match="teachers"):
        train(other)


def test_coefficients_never_see_progress_out_of_range(teacher):
    """Where a rollout does not divide the total, the last update pushed a student away from its teacher."""
    asked = []

    def falling(progress_remaining):
        asked.append(progress_remaining)
        return progress_remaining

    student = recorded_model(
        "auto", teachers=teachers(teacher), distill_coef=falling, rl_coef=falling, student_rollout_prob=falling
    )
    student.learn(100)
    assert min(asked) == 0.0
    assert max(asked) <= 1.0


@pytest.mark.parametrize(
    ("name", "schedule", "gives"),
    [
        ("distill_coef", lambda p: p - 0.5, r"-0\.\d+ at the remaining progress 0"),
        ("rl_coef", lambda _: None, "None at"),
        ("student_rollout_prob", lambda p: 2 - p, r"1\.\d+ at .* at most 1"),
    ],
)
def test_a_schedule_that_leaves_its_range_is_refused_by_name(teacher, name, schedule, gives):
    student = recorded_model("auto", teachers=teachers(teacher), **{name: schedule})
    with pytest.raises(ValueError, match=rf"`{name}` is a schedule that gives {gives}"):
        student.learn(100)


class StepsOfItsOwn(BaseCallback):
    """Steps the training env for itself, as an evaluation does; keeps the actions that the env received."""

    def __init__(self, where):
        super().__init__()
        self.where, self.received = where, []

    def _steps(self, where):
        if where != self.where:
            return
        env, inner = self.training_env, self.training_env.unwrapped
        send = inner.step_async
        inner.step_async = lambda actions: (self.received.append(actions), send(actions))
        env.reset()
        env.step(np.full((env.num_envs, 2), -0.5, dtype=np.float32))
        del inner.step_async

    def _on_rollout_start(self):
        self._steps("start")

    def _on_step(self):
        self._steps("step")
        return True

    def _on_rollout_end(self):
        self._steps("end")


@pytest.mark.parametrize("where", ["start", "step", "end"])
@pytest.mark.parametrize("engine", ["fast", "torch"])
def test_steps_of_a_callback_are_its_own(teacher, engine, where):
    """Neither do the teachers act in them, nor do they become rows of the rollout."""
    callback = StepsOfItsOwn(where)
    model = recorded_model(engine, teachers=teachers(teacher), student_rollout_prob=0.0).learn(90, callback)
    assert len(callback.received) >= 3
    assert (np.array(callback.received) == -0.5).all()
    assert model.rollout_buffer.targets[0].shape == (5, 6, 2)


@pytest.mark.parametrize("schedule", ["joint", "cycle"])
def test_teachers_alone_are_an_objective(teacher, schedule):
    """Without a term of the critic, whose nets stay as they are; the same on both engines."""

    class Distilled(mt.A2CMultiTask):
        def train(self):
            self._update_learning_rate(self.policy.optimizer)
            for batch in self.numerics.batches(self.rollout_buffer, None, self.normalize_advantage):
                self.numerics.evaluate([DistillationLoss("forward_kl", 1.0)], batch)
                assert self.numerics.step(self.max_grad_norm)
            self.next_task()

    weights = []
    for engine in ("fast", "torch"):
        env = mt.make_multitask_vec_env(recorded_tasks(), 2, seed=0)
        settings = {"engine": engine, "task_schedule": schedule, "teachers": teachers(teacher)}
        model = Distilled("MultiTaskMlpPolicy", env, seed=0, device="cpu", **settings)
        before = model.policy.value_net.layers[0].weight.clone()
        model.learn(300)
        assert th.equal(model.policy.value_net.layers[0].weight, before)
        weights.append(model.policy.parameters_to_vector())
    np.testing.assert_allclose(*weights, atol=1e-5)
