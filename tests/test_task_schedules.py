"""Schedules of tasks: their probabilities, and models that follow them."""

import contextlib
import json
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
from helpers.drift import ReachingEnv, drift_tasks, recorded_tasks
from helpers.killed_runs import KillAt, Killed
from helpers.models import weights_equal
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger

import sb3_multitask as mt
from sb3_multitask.checkpoint import CheckpointError
from sb3_multitask.checkpoint.format import read_checkpoint, write_checkpoint
from sb3_multitask.experiments.config import TrainConfig, make_config
from sb3_multitask.storage.yaml_files import ConfigError
from sb3_multitask.task_schedules import (
    LearningProgress,
    ShortfallSampling,
    TaskBandit,
    TaskSchedule,
    UniformSampling,
    make_task_schedule,
)
from sb3_multitask.zoo.settings import check_hyperparameters, constructor_arguments

NAMES = ("A", "B", "C", "D")
TARGETS = {"A": 100.0, "B": -50.0, "C": 3.0, "D": 0.0}
ALIKE = dict.fromkeys(NAMES, 10.0)


def shortfall(targets=TARGETS, **kwargs):
    return ShortfallSampling(targets, scales={"D": 20.0}, **kwargs)


MAKERS = {
    "uniform": UniformSampling,
    "shortfall": lambda **kwargs: shortfall(temperature=0.5, window=3, floor=0.1, **kwargs),
    "progress": lambda **kwargs: LearningProgress(window=2, **kwargs),
    "bandit": lambda **kwargs: TaskBandit(window=2, floor=0.2, **kwargs),
    "bandit of shortfall": lambda **kwargs: TaskBandit("shortfall", TARGETS, {"D": 20.0}, discount=0.9, **kwargs),
}
FLOORS = {"shortfall": 0.1, "progress": 0.2, "bandit": 0.2}
HISTORIES = st.lists(st.tuples(st.integers(0, 3), st.floats(-1e6, 1e6), st.booleans()), max_size=40)
"""What happens: task, the return of an episode, and whether it ends a visit."""


def begun(schedule, names=NAMES, seed=0):
    schedule.begin(names, seed)
    return schedule


def live(schedule, history):
    for task, episode_return, ends_visit in history:
        schedule.note_episode(task, episode_return, None)
        if ends_visit:
            schedule.note_visits([task])
    return schedule


@pytest.mark.parametrize("name", MAKERS)
@settings(deadline=None)
@given(history=HISTORIES, order=st.permutations(range(4)))
def test_probabilities_of_permuted_tasks_are_permuted(name, history, order):
    names = tuple(NAMES[i] for i in order)
    plain = live(begun(MAKERS[name]()), history).probabilities()
    place = {task: i for i, task in enumerate(order)}
    permuted = live(begun(MAKERS[name](), names), [(place[task], *rest) for task, *rest in history]).probabilities()
    np.testing.assert_allclose(permuted, plain[list(order)], atol=1e-9)


@pytest.mark.parametrize("name", MAKERS)
@settings(deadline=None)
@given(history=HISTORIES)
def test_probabilities_sum_to_one_and_keep_the_floor(name, history):
    p = live(begun(MAKERS[name]()), history).probabilities()
    assert p.sum() == pytest.approx(1)
    assert (p >= FLOORS.get(name, 0.0) / 4 - 1e-12).all()
    np.testing.assert_allclose(live(begun(MAKERS[name](mode="weights")), history).weights(), 4 * p)


@pytest.mark.parametrize(
    "make",
    [UniformSampling, LearningProgress, TaskBandit, lambda: ShortfallSampling(ALIKE), lambda: shortfall(floor=1.0)],
)
@settings(deadline=None)
@given(returns=st.lists(st.floats(-1e3, 1e3), max_size=30))
def test_equal_tasks_are_equally_probable(make, returns):
    history = [(task, one, True) for one in returns for task in range(4)]
    schedule = make()
    begun(schedule)
    for task, one, _ in history:
        schedule.note_episode(task, one, None)
    schedule.note_visits(range(4))
    np.testing.assert_allclose(schedule.probabilities(), 0.25)


@pytest.mark.parametrize("name", MAKERS)
@settings(deadline=None)
@given(history=HISTORIES, more=HISTORIES)
def test_a_restored_schedule_gives_the_same_sequence(name, history, more):
    def sequence(schedule):
        return [(schedule.next_task(), live(schedule, [event]).weights().tolist()) for event in [*more, (0, 1.0, True)]]

    schedule = live(begun(MAKERS[name](), seed=3), history)
    schedule.next_task()
    restored = begun(MAKERS[name](), seed=4)
    restored.set_state(json.loads(json.dumps(schedule.get_state())))
    assert restored.get_state() == schedule.get_state()
    assert sequence(restored) == sequence(schedule)


@pytest.mark.parametrize("name", MAKERS)
def test_states_and_settings_are_plain_values(tmp_path, name):
    schedule = live(begun(MAKERS[name]()), [(0, 1.0, True), (1, 2.0, True)])
    told = {"state": schedule.get_state(), "settings": schedule.settings()}
    write_checkpoint(tmp_path / "checkpoint", told)
    assert read_checkpoint(tmp_path / "checkpoint") == told == json.loads(json.dumps(told))


def test_a_state_does_not_change_with_its_schedule():
    schedule = begun(MAKERS["bandit"]())
    state = json.dumps(kept := schedule.get_state())
    schedule.next_task()
    live(schedule, [(0, 1.0, True)])
    assert json.dumps(kept) == state


def test_seeds_decide_the_sequence():
    first, again, other = (
        [schedule.next_task() for _ in range(50)]
        for schedule in (begun(UniformSampling(), seed=seed) for seed in (1, 1, 2))
    )
    assert first == again != other
    assert set(first) == {0, 1, 2, 3}


def test_a_begun_schedule_that_begins_again_forgets():
    schedule = live(begun(MAKERS["bandit"]()), [(i % 4, float(i), True) for i in range(20)])
    assert begun(schedule).get_state() == begun(MAKERS["bandit"]()).get_state()


def test_shortfall_is_the_formula_of_the_paper():
    schedule = begun(shortfall(temperature=0.5, window=2))
    for task, returns in enumerate([(0, 50, 100), (-100, -100), (3,), (-10,)]):
        for one in returns:
            schedule.note_episode(task, one, None)
    powers = np.exp(np.array([(100 - 75) / 100, (-50 + 100) / 50, 0, (0 + 10) / 20]) / 0.5)
    np.testing.assert_allclose(schedule.probabilities(), powers / powers.sum())


def test_a_task_without_an_episode_has_the_greatest_shortfall():
    schedule = begun(ShortfallSampling({"A": -1.0, "B": 5.0, "C": 1.0}, temperature=1.0), "ABC")
    np.testing.assert_allclose(schedule.probabilities(), 1 / 3)
    schedule.note_episode(0, -4.0, None)  # a shortfall of 3
    np.testing.assert_allclose(schedule.probabilities(), 1 / 3)
    schedule.note_episode(1, 5.0, None)  # 0
    powers = np.exp([3, 0, 3])
    np.testing.assert_allclose(schedule.probabilities(), powers / powers.sum())
    for _ in range(10):
        schedule.note_episode(0, -0.5, None)  # -0.5: above its target
    powers = np.exp([-0.5, 0, 1])
    np.testing.assert_allclose(schedule.probabilities(), powers / powers.sum())


def test_progress_is_the_change_of_the_mean_return_over_its_range():
    schedule = begun(LearningProgress(window=2, temperature=0.5, floor=0.2), "ABC")
    for returns in ((0, 1000, 0, 0, 1, 1), (10, 8, 6, 4), (5, 5, 5, 5)):
        task = {0: 0, 10: 1, 5: 2}[returns[0]]
        for one in returns:
            schedule.note_episode(task, one, None)
    powers = np.exp(np.array([1 / 1000, 4 / 6, 0]) / 0.5)
    np.testing.assert_allclose(schedule.probabilities(), 0.8 * powers / powers.sum() + 0.2 / 3)


@settings(deadline=None)
@given(scale=st.floats(1e-3, 1e3), offset=st.floats(-1e3, 1e3))
def test_progress_does_not_depend_on_the_scale_of_rewards(scale, offset):
    def probabilities(scale, offset):
        schedule = begun(LearningProgress(window=2), "AB")
        for i in range(9):
            schedule.note_episode(0, scale * i**2 + offset, None)
            schedule.note_episode(1, i % 3, None)
        return schedule.probabilities()

    np.testing.assert_allclose(probabilities(scale, offset), probabilities(1.0, 0.0), atol=1e-6)


def test_tasks_with_few_episodes_have_the_greatest_progress():
    schedule = begun(LearningProgress(window=1, temperature=1.0, floor=0.0), "ABC")
    for one in (0, 4, 1):
        schedule.note_episode(0, one, None)
    schedule.note_episode(1, 100.0, None)
    np.testing.assert_allclose(schedule.probabilities(), 1 / 3)  # B and C as A
    schedule.note_episode(1, 100.0, None)
    powers = np.exp([0.75, 0, 0.75])
    np.testing.assert_allclose(schedule.probabilities(), powers / powers.sum())


def test_the_bandit_is_discounted_ucb():
    """Beside a computation of the paper's sums from the list of all rounds."""
    discount, exploration = 0.8, 0.3
    bandit = TaskBandit("shortfall", dict.fromkeys("ABC", 1.0), window=1, discount=discount, exploration=exploration)
    begun(bandit, "ABC")
    generator, rounds = np.random.default_rng(0), []
    for t in range(60):
        task = bandit.next_task()
        if t >= 3:
            age = np.array([discount ** (t - 1 - s) for s in range(t)])
            of_task = np.array([arm == np.arange(3) for arm, _ in rounds]).T
            counts = (of_task * age).sum(axis=1)
            pay = (of_task * age * [x for _, x in rounds]).sum(axis=1) / counts
            index = pay + 2 * np.sqrt(exploration * np.log(counts.sum()) / counts)
            assert task == index.argmax()
        episode = generator.normal([0.9, 0.2, 0.6][task], 0.1)
        bandit.note_episode(task, episode, None)
        bandit.note_visits([task])
        rounds.append((task, np.clip(1 - episode, 0, 1)))
    assert {task for task, _ in rounds[:3]} == {0, 1, 2}
    assert bandit.visits.argmax() == 1  # whose return is farthest from the target


def test_the_bandit_returns_to_a_task_that_was_not_visited_for_long():
    bandit = begun(TaskBandit(window=1, discount=0.5), "AB")
    bandit.note_visits([0])
    for _ in range(2000):
        bandit.note_visits([1])
    assert bandit.probabilities().tolist() == [1, 0]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: UniformSampling("all"), ValueError, r"`mode` must be one of next, weights \(got 'all'\)"),
        (lambda: ShortfallSampling("teachers"), TypeError, r"`targets` must map.*'teachers'.*evaluate_tasks"),
        (lambda: ShortfallSampling([1, 2]), TypeError, r"`targets` must map tasks to numbers"),
        (lambda: ShortfallSampling({"A": "3"}), ValueError, r"`targets` of 'A' must be a finite number \(got '3'\)"),
        (lambda: ShortfallSampling({"A": np.nan}), ValueError, r"`targets` of 'A' must be a finite number"),
        (lambda: ShortfallSampling({"A": 0}), ValueError, r"`targets` of 'A' is 0.*scales=\{'A': 100.0\}"),
        (lambda: ShortfallSampling({"A": 1}, scales={"A": 0}), ValueError, r"`scales of A` must be a positive"),
        (lambda: ShortfallSampling({"A": 1}, scales={"a": 1}), ValueError, r"'a', which is no task. Did you mean 'A'"),
        (lambda: ShortfallSampling({"A": 1}, temperature=0), ValueError, r"`temperature` must be a positive"),
        (lambda: ShortfallSampling({"A": 1}, floor=1.1), ValueError, r"`floor` must be a number from 0 to 1"),
        (lambda: LearningProgress(window=0), ValueError, r"`window` must be at least 1 \(got 0\)"),
        (lambda: LearningProgress(window=2.5), TypeError, r"`window` must be a whole number"),
        (lambda: TaskBandit("regret"), ValueError, r"`measure` must be one of progress, shortfall \(got 'regret'\)"),
        (lambda: TaskBandit("shortfall"), ValueError, r"needs `targets`"),
        (lambda: TaskBandit(targets={"A": 1}), ValueError, r"`targets` is for measure='shortfall'"),
        (lambda: TaskBandit(discount=0), ValueError, r"`discount` must be above 0"),
        (lambda: TaskBandit(exploration=-1), ValueError, r"`exploration` must be a finite number of at least 0"),
        (lambda: begun(ShortfallSampling({"A": 1.0})), ValueError, r"every task \(none for B, C, D\)"),
        (lambda: begun(ShortfallSampling({**ALIKE, "d": 1.0})), ValueError, r"'d', which is no task. Did you mean 'D'"),
        (UniformSampling().next_task, RuntimeError, r"UniformSampling has not begun"),
        (lambda: begun(LearningProgress()).note_episode(0, np.nan, None), ValueError, r"task 'A' is nan"),
        (
            lambda: begun(UniformSampling(), "AB").set_state(begun(UniformSampling()).get_state()),
            ValueError,
            r"4 tasks",
        ),
    ],
)
def test_bad_arguments_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize("probabilities", [[0.5, 0.6], [1.0], [-0.5, 1.5], [np.nan, 1.0], [[0.5, 0.5]]])
def test_probabilities_that_are_none_are_refused(probabilities):
    class Bad(TaskSchedule):
        def probabilities(self):
            return np.array(probabilities)

    for ask in (begun(Bad(), "AB").next_task, begun(Bad("weights"), "AB").weights):
        with pytest.raises(ValueError, match=r"probabilities\(\) of Bad must return 2 numbers"):
            ask()


# Models

ALGORITHMS = [
    (mt.A2CMultiTask, {"n_steps": 8}),
    (mt.PPOMultiTask, {"n_steps": 16, "batch_size": 16, "n_epochs": 2}),
]


def made(algorithm=mt.A2CMultiTask, schedule="joint", tasks=None, n_envs=2, **kwargs):
    env = mt.make_multitask_vec_env(tasks or drift_tasks(3), n_envs, seed=0)
    return algorithm("MultiTaskMlpPolicy", env, seed=0, task_schedule=schedule, **kwargs)


class Turns(TaskSchedule):
    """The tasks in turn, as "cycle"."""

    def probabilities(self):
        return np.eye(self.n_tasks)[self.visits.sum() % self.n_tasks]


class Only(TaskSchedule):
    """One task in every update."""

    def __init__(self, task, mode="next"):
        super().__init__(mode)
        self.task = task

    def probabilities(self):
        return np.eye(self.n_tasks)[self.task]

    def settings(self):
        return {**super().settings(), "task": self.task}


class Witness(BaseCallback):
    """Remembers the tasks of each rollout."""

    def __init__(self):
        super().__init__()
        self.tasks = []

    def _on_rollout_end(self):
        self.tasks.append(np.unique(self.model.rollout_buffer.observations["task"]).astype(int).tolist())

    def _on_step(self):
        return True


@pytest.mark.parametrize(("algorithm", "kwargs"), [*ALGORITHMS, (mt.TRPOMultiTask, {"n_steps": 16, "batch_size": 16})])
def test_a_schedule_that_takes_turns_is_cycle_to_the_bit(algorithm, kwargs):
    cycle, turns = (made(algorithm, schedule, **kwargs).learn(288) for schedule in ("cycle", Turns()))
    assert weights_equal(cycle, turns)
    assert turns.task_schedule.visits.sum() == 288 // (kwargs["n_steps"] * 2)


@pytest.mark.parametrize(("algorithm", "kwargs"), ALGORITHMS)
@pytest.mark.parametrize("engine", ["fast", "torch"])
def test_uniform_weights_are_joint_to_the_bit(algorithm, kwargs, engine):
    joint, uniform = (
        made(algorithm, schedule, engine=engine, **kwargs).learn(288)
        for schedule in ("joint", UniformSampling("weights"))
    )
    assert weights_equal(joint, uniform)


@pytest.mark.parametrize(("algorithm", "kwargs"), ALGORITHMS)
@pytest.mark.parametrize("engine", ["fast", "torch"])
def test_weights_of_a_schedule_are_task_weights(algorithm, kwargs, engine):
    kwargs = {"engine": engine, **kwargs}
    schedule = made(algorithm, Only(1, "weights"), task_weights={"B": 2.0}, **kwargs).learn(288)
    fixed = made(algorithm, task_weights={"A": 0.0, "B": 6.0, "C": 0.0}, **kwargs).learn(288)
    assert weights_equal(schedule, fixed)
    assert schedule.task_schedule.visits.tolist() == [schedule.num_timesteps // (6 * schedule.n_steps)] * 3


@pytest.mark.parametrize(("algorithm", "kwargs"), ALGORITHMS)
@pytest.mark.parametrize("engine", ["fast", "torch"])
def test_rollouts_show_the_tasks_that_are_drawn(algorithm, kwargs, engine):
    model, witness = made(algorithm, UniformSampling(), engine=engine, **kwargs), Witness()
    model.learn(480, witness)
    expected = begun(UniformSampling(), model.task_names)
    assert witness.tasks == [[expected.next_task()] for _ in witness.tasks]
    assert np.bincount(np.ravel(witness.tasks), minlength=3).tolist() == model.task_schedule.visits.tolist()
    assert len({task for (task,) in witness.tasks}) == 3


@pytest.mark.parametrize("schedule", [LearningProgress(window=2), TaskBandit(window=2)])
def test_both_engines_follow_the_same_sequence(schedule):
    witnesses = [Witness(), Witness()]
    for witness, engine in zip(witnesses, ("fast", "torch"), strict=True):
        made(schedule=schedule, tasks=recorded_tasks(), engine=engine, n_steps=8).learn(600, witness)
    assert witnesses[0].tasks == witnesses[1].tasks


def test_only_the_task_that_is_shown_learns():
    model = made(schedule=Only(2), n_steps=8)
    before = model.policy.log_std.detach().clone()
    model.learn(100)
    assert model.num_timesteps == 112  # whole rollouts, no whole cycles
    assert (model.policy.log_std != before).any(dim=1).tolist() == [False, False, True]


def test_schedules_are_told_of_every_episode_with_raw_returns():
    class Listening(UniformSampling):
        def begin(self, task_names, seed):
            super().begin(task_names, seed)
            self.episodes = []

        def note_episode(self, task, episode_return, success):
            self.episodes.append((self.task_names[task], episode_return, success))

    model = made(schedule=Listening("weights"), n_steps=8)
    model.learn(480)
    heard = {name: [r for task, r, _ in model.task_schedule.episodes if task == name] for name in "ABC"}
    assert heard == {name: [episode["r"] for episode in model.task_ep_info_buffers[name]] for name in "ABC"}
    assert {success for *_, success in model.task_schedule.episodes} == {None}


def test_episodes_of_teachers_say_nothing_of_the_student():
    for by_student, n_known in ((1.0, 3), (0.0, 0)):
        teachers = {name: (lambda observations: np.zeros((len(observations), 2))) for name in "ABC"}
        schedule = ShortfallSampling(dict.fromkeys("ABC", 1.0), mode="weights")
        model = made(schedule=schedule, teachers=teachers, student_rollout_prob=by_student).learn(600)
        returns = model.task_schedule.get_state()["returns"]
        assert sum(bool(of_task) for of_task in returns) == n_known


def test_models_copy_the_schedule_that_they_are_given():
    schedule = LearningProgress()
    models = [made(schedule=schedule).learn(60) for _ in range(2)]
    assert weights_equal(*models)
    assert schedule.n_tasks == 0
    assert models[0].task_schedule is not models[1].task_schedule


def test_a_second_learn_continues_with_the_schedule():
    model, witness = made(schedule=Turns(), n_steps=8), Witness()
    model.learn(16, witness)
    model.learn(16, witness, reset_num_timesteps=False)
    model.learn(16, witness)  # resets the env, but not what the schedule knows
    assert witness.tasks == [[0], [1], [2]]


@pytest.mark.parametrize("mode", ["next", "weights"])
def test_the_log_has_probabilities_and_visits(mode):
    model = made(schedule=UniformSampling(mode), n_steps=8)
    model.set_logger(Logger(None, []))
    lines = []
    model.logger.dump = lambda *_, **__: lines.append(dict(model.logger.name_to_value))
    model.learn(480, log_interval=1)
    assert [lines[-1][f"schedule/{name}/probability"] for name in "ABC"] == pytest.approx([1 / 3] * 3)
    n_updates = 480 // (model.n_envs * 8)
    visits = [lines[-1][f"schedule/{name}/visits"] for name in "ABC"]
    assert visits == [n_updates] * 3 if mode == "weights" else sum(visits) == n_updates


def test_trpo_takes_no_weights():
    with pytest.raises(ValueError, match=r"UniformSampling\(mode='weights'\), and the update of TRPOMultiTask cannot"):
        made(mt.TRPOMultiTask, UniformSampling("weights"))


@pytest.mark.parametrize(
    ("schedule", "error", "message"),
    [
        ("round", ValueError, r"`task_schedule` must be one of joint, cycle or an object .* \(got 'round'\)"),
        (None, ValueError, r"\(got None\)"),
        (UniformSampling, TypeError, r"make an object, UniformSampling\(...\)"),
        ({"uniform": {}}, TypeError, r"make_task_schedule"),
        (ShortfallSampling({"A": 1.0}), ValueError, r"`targets` must have a number for every task \(none for B, C\)"),
    ],
)
def test_other_schedules_are_refused(schedule, error, message):
    with pytest.raises(error, match=message):
        made(schedule=schedule)


OF_THREE = {"A": 1.0, "B": 2.0, "C": 3.0}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("joint", ShortfallSampling(OF_THREE, mode="weights")),
        ("joint", "cycle"),
        ("joint", UniformSampling()),
        (UniformSampling(), "joint"),
        (UniformSampling(mode="weights"), "joint"),
        ("joint", "joined"),
    ],
)
def test_a_schedule_that_is_changed_without_its_env_is_refused(before, after):
    model = made(schedule=before).learn(60)
    model.task_schedule = after
    with pytest.raises(ValueError, match=r"`task_schedule` is now .*, and the env of the model was set with .*set_env"):
        model.learn(60, reset_num_timesteps=False)


def test_set_env_takes_a_changed_schedule():
    model = made(schedule=ShortfallSampling(OF_THREE, mode="weights")).learn(60)
    assert model.loss_weights is not None
    env = mt.make_multitask_vec_env(drift_tasks(3), 2)
    model.task_schedule = "joint"
    model.set_env(env)
    assert model.learn(60).loss_weights is None
    model.task_schedule = ShortfallSampling(OF_THREE, mode="weights")
    model.set_env(env)
    assert model.learn(60).task_schedule.visits.tolist() == [2, 2, 2]
    model.task_schedule = "joined"
    with pytest.raises(ValueError, match=r"`task_schedule` must be one of .*got 'joined'"):
        model.set_env(env)


def test_a_state_without_the_schedules_memory_is_refused():
    model, state = made(schedule=UniformSampling("weights")), made().get_state()
    with pytest.raises(ValueError, match="another `task_schedule`, whose memory it lacks"):
        model.set_state(state)


def test_next_needs_equal_copies_and_weights_do_not():
    with pytest.raises(ValueError, match="as many copies of every task"):
        made(schedule=UniformSampling(), n_envs={"A": 1, "B": 2, "C": 1})
    made(schedule=UniformSampling("weights"), n_envs={"A": 1, "B": 2, "C": 1}).learn(40)


def test_a_cycling_env_shows_any_task():
    env = mt.make_multitask_vec_env(drift_tasks(3), 2, seed=0).cycling()
    env.reset()
    assert env.next_task(2)["task"].tolist() == [2, 2]
    assert env.next_task(2)["task"].tolist() == [2, 2]
    assert env.next_task()["task"].tolist() == [0, 0]
    with pytest.raises(IndexError, match=r"`task` must be from 0 to 2 \(got 3\)"):
        env.next_task(3)


# Files

SCHEDULES = {
    "shortfall": ShortfallSampling(dict.fromkeys("ABC", 3.0), temperature=1.0),
    "progress": LearningProgress(window=2),
    "bandit": TaskBandit(window=2),
    "weights": LearningProgress(window=2, mode="weights"),
}


def resumable_tasks():
    return [mt.Task(name, ReachingEnv, {"target": i / 3, "horizon": 5 + 2 * i}) for i, name in enumerate("ABC")]


@pytest.mark.parametrize("engine", ["fast", "torch"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_a_resumed_run_makes_the_same_bits(tmp_path, name, engine):
    def train(folder, kill_at=10**9):
        model = made(schedule=SCHEDULES[name], tasks=resumable_tasks(), n_steps=8, engine=engine)
        witness = Witness()
        with contextlib.suppress(Killed):
            model.learn(960, [mt.ResumableCheckpointCallback(folder, every=100, verbose=0), witness, KillAt(kill_at)])
        return model

    train(tmp_path / "a", 500)
    resumed, uninterrupted = train(tmp_path / "a"), train(tmp_path / "b")
    assert weights_equal(resumed, uninterrupted)
    assert resumed.task_schedule.get_state() == uninterrupted.task_schedule.get_state()
    assert resumed.num_timesteps == uninterrupted.num_timesteps


def test_a_schedule_that_does_not_tell_what_it_remembers_is_inexact(tmp_path):
    class Forgetful(UniformSampling):
        def note_episode(self, task, episode_return, success):
            self.latest = task

    assert [make().why_inexact() for make in MAKERS.values()] == [None] * len(MAKERS)
    with pytest.warns(UserWarning, match=r"Forgetful notes what happens and has no get_state\(\)"):
        made(schedule=Forgetful(), tasks=resumable_tasks()).learn(
            60, mt.ResumableCheckpointCallback(tmp_path / "checkpoints", 30)
        )


@pytest.mark.filterwarnings("ignore:A run that resumes")
def test_a_run_with_another_schedule_is_another_run(tmp_path):
    def train(schedule, total):
        made(schedule=schedule, n_steps=8).learn(total, mt.ResumableCheckpointCallback(tmp_path / "checkpoints", 32))

    train(LearningProgress(), 96)
    for other in ("cycle", UniformSampling(), LearningProgress(floor=0.3)):
        with pytest.raises(CheckpointError, match=r"task_schedule: \{'class': 'LearningProgress'"):
            train(other, 192)


@pytest.mark.parametrize("mode", ["next", "weights"])
def test_a_file_has_the_state_of_a_schedule_and_not_its_class(tmp_path, mode):
    def schedule():
        return TaskBandit(window=2, mode=mode, floor=0.5)

    model = made(schedule=schedule(), n_steps=8)
    model.learn(480)
    state = model.task_schedule.get_state()
    model.save(tmp_path / "model")
    assert model.task_schedule.get_state() == state
    data = json.loads(zipfile.ZipFile(tmp_path / "model.zip").read("data"))
    assert data["task_schedule"] == schedule().settings()
    assert data["schedule_state"] == {"settings": schedule().settings(), "state": state}  # plain, so nothing is pickled

    env = mt.make_multitask_vec_env(drift_tasks(3), 2)
    with pytest.raises(ValueError, match=r"schedule TaskBandit, which is not saved .*task_schedule=TaskBandit\(...\)"):
        mt.A2CMultiTask.load(tmp_path / "model", env=env).learn(10)
    loaded = mt.A2CMultiTask.load(tmp_path / "model", env=env, task_schedule=schedule())
    assert loaded.task_schedule.get_state() == state
    loaded.learn(10, reset_num_timesteps=False)
    assert loaded.task_schedule.visits.sum() > sum(state["visits"])
    with pytest.warns(UserWarning, match="begins without what that one knew"):
        other = mt.A2CMultiTask.load(tmp_path / "model", env=env, task_schedule=UniformSampling(mode))
    assert other.task_schedule.visits.sum() == 0
    assert mt.A2CMultiTask.load(tmp_path / "model", env=env, task_schedule="joint").learn(10).num_timesteps > 0


def test_files_without_an_env_keep_the_state_too(tmp_path):
    model = made(schedule=LearningProgress(), n_steps=8)
    model.learn(96)
    model.save(tmp_path / "first")
    for i, arguments in enumerate(({}, {"task_schedule": LearningProgress()})):
        path = tmp_path / f"again {i}"
        mt.A2CMultiTask.load(tmp_path / "first", **arguments).save(path)
        env = mt.make_multitask_vec_env(drift_tasks(3), 2)
        again = mt.A2CMultiTask.load(path, task_schedule=LearningProgress())
        again.set_env(env)
        assert again.task_schedule.get_state() == model.task_schedule.get_state()
    assert set(mt.evaluate_tasks(mt.A2CMultiTask.load(tmp_path / "first"), n_eval_episodes=1)) == set("ABC")
    assert mt.load_agent(tmp_path / "first.zip").task_names == ("A", "B", "C")


# Configs

CONFIG = {"tasks": {"a": "HalfCheetah-v5", "b": "Hopper-v5"}}


def test_configs_name_schedules_with_their_arguments(tmp_path):
    targets = {"a": 3000, "b": 2000}
    values = {**CONFIG, "task_schedule": {"shortfall": {"targets": targets, "temperature": 0.1}}}
    config = make_config(TrainConfig, values)
    (first, second) = (config.algorithm_kwargs()["task_schedule"] for _ in range(2))
    assert first is not second
    assert first.settings() == ShortfallSampling(targets, 0.1).settings()
    mt.experiments.config.dump_config(config, tmp_path / "config.yml")
    assert mt.experiments.config.load_config(TrainConfig, tmp_path / "config.yml") == config
    plain = {"n_timesteps": 1, "task_schedule": {"bandit": {"window": 3}}}
    check_hyperparameters(plain, "ppo_mt")
    assert constructor_arguments(plain)["task_schedule"].settings() == TaskBandit(window=3).settings()
    assert make_task_schedule("cycle") == "cycle"


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("round", r"must be joint, cycle, or a schedule"),
        ("uniform", r"'uniform' alone is written \{uniform: \{\}\}"),
        ({"progress": {}, "uniform": {}}, r"must be joint, cycle, or a schedule"),
        ({"shortfal": {}}, r"unknown schedule 'shortfal'. Did you mean 'shortfall'"),
        ({"progress": None}, r"progress must have a mapping of arguments"),
        ({"progress": {"windows": 3}}, r"progress has no argument 'windows'. Did you mean 'window'"),
        ({"progress": {"window": 0}}, r"progress: `window` must be at least 1"),
        ({"shortfall": {}}, r"shortfall: .*targets"),
    ],
)
def test_bad_schedules_in_configs_are_refused(value, message):
    with pytest.raises(ConfigError, match=rf"`task_schedule.*{message}"):
        make_config(TrainConfig, {**CONFIG, "task_schedule": value})
    with pytest.raises(ConfigError, match=rf"`task_schedule`: .*{message}"):
        check_hyperparameters({"n_timesteps": 1, "task_schedule": value}, "a2c_mt")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"task_schedule": {"shortfall": {"targets": {"a": 1.0}}}}, r"every task \(none for b\)"),
        ({"algo": "trpo", "task_schedule": {"uniform": {"mode": "weights"}}}, r"TRPOMultiTask cannot weigh"),
        ({"n_envs_per_task": {"a": 1, "b": 2}, "task_schedule": {"uniform": {}}}, r"must be one number where one task"),
        ({"sequential": True, "task_schedule": {"uniform": {}}}, r"sequential training has no task_schedule"),
    ],
)
def test_schedules_that_do_not_fit_a_run_are_refused(values, message):
    with pytest.raises(ConfigError, match=message):
        make_config(TrainConfig, {**CONFIG, **values})


# A schedule of one's own

PAGE = Path(__file__).parents[1] / "docs" / "task_schedules.md"


def test_the_schedule_of_the_page_works_and_resumes(tmp_path):
    (block,) = [block for block in re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL) if "class " in block]
    code, _, _ = block.partition("\nmodel = ")
    names = {"__name__": "page"}
    exec(compile(code, str(PAGE), "exec"), names)  # noqa: S102
    own = names["WorstSuccess"]()
    begun(own, "ABC")
    np.testing.assert_allclose(own.probabilities(), 1 / 3)
    for task, success in ((0, 1.0), (1, 0.0), (2, 1.0)):
        own.note_episode(task, 0.0, success)
    assert own.probabilities().argmax() == 1
    other = begun(names["WorstSuccess"](), "ABC", seed=5)
    other.set_state(json.loads(json.dumps(own.get_state())))
    assert [other.next_task() for _ in range(20)] == [own.next_task() for _ in range(20)]
    assert names["WorstSuccess"](step=0.5).settings() != own.settings()
    assert made(schedule=names["WorstSuccess"](), n_steps=8).learn(96).task_schedule.visits.sum() == 6
