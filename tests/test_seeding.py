import random

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from helpers.drift import DriftEnv, drift_tasks

import sb3_multitask as mt
from sb3_multitask.process.generators import seeded_globals
from sb3_multitask.process.seeding import env_seeds
from sb3_multitask.vec_env import seed_checks


def test_seeds_share_no_environment():
    """Of SB3's ``seed + i`` most environments of one seed have a generator of another's."""
    sets = [set(env_seeds(seed, 6, 16, training=training)) for seed in range(50) for training in (True, False)]
    assert all(len(one) == 6 * 16 for one in sets)
    assert len(set.union(*sets)) == sum(map(len, sets))


def test_the_seed_of_a_copy_does_not_depend_on_how_many_there_are():
    few, many = env_seeds(3, 2, 2), env_seeds(3, 3, 4)
    assert few == [many[0], many[1], many[4], many[5]]


def test_every_backend_and_view_gives_the_same_seeds():
    env = mt.MultiTaskVecEnv(drift_tasks(2), 2, seed=7)
    first = env.reset()["obs"]
    assert env.seed(7) == env_seeds(7, 2, 2)
    view = env.task_view(1)
    assert view.seed(7) == env_seeds(7, 2, 2)[2:]
    np.testing.assert_array_equal(view.reset()["obs"], first[2:])
    np.testing.assert_array_equal(env.reset()["obs"][:2], first[:2])  # seeded above, and not used by the view
    other = mt.MultiTaskVecEnv(drift_tasks(2), 2, seed=7, backend="subproc", start_method="fork")
    np.testing.assert_array_equal(other.reset()["obs"], first)
    other.close()


def test_an_evaluation_has_other_episodes_than_training_with_the_same_seed():
    starts = [
        mt.make_multitask_vec_env(drift_tasks(2), 2, seed=0, training=training, normalize=False).reset()["obs"]
        for training in (True, False, False)
    ]
    assert not np.isin(starts[0][:, 0], starts[1][:, 0]).any()
    np.testing.assert_array_equal(starts[1], starts[2])


@pytest.mark.parametrize("seed", [-1, 1.5, "1", True])
def test_what_is_no_seed_is_refused(seed):
    with pytest.raises(ValueError, match=rf"`seed`.*{seed}"):
        mt.MultiTaskVecEnv(drift_tasks(1), seed=seed)


class Careless(DriftEnv):
    """Draws its target from the global generators when it is made."""

    def __init__(self, **kwargs):
        target = random.random() + np.random.rand() + th.rand(()).item()  # noqa: NPY002, S311
        super().__init__(target=target, **kwargs)


@pytest.mark.parametrize("backend", ["dummy", "subproc"])
def test_global_generators_are_seeded_while_environments_are_made(backend):
    def targets(seed):
        kwargs = {"start_method": "fork"} if backend == "subproc" else {}
        env = mt.MultiTaskVecEnv([mt.Task("A", Careless)], 3, seed=seed, backend=backend, **kwargs)
        made = env.get_attr("target")
        env.close()
        return made

    np.random.seed(5)  # noqa: NPY002
    before = np.random.get_state(legacy=True)[1].copy()  # noqa: NPY002
    first = targets(0)
    assert len(set(first)) == 3
    assert targets(0) == first
    assert set(targets(1)).isdisjoint(first)
    np.testing.assert_array_equal(np.random.get_state(legacy=True)[1], before)  # noqa: NPY002


def test_without_a_seed_the_global_generators_are_left_alone():
    np.random.seed(5)  # noqa: NPY002
    with seeded_globals(None):
        drawn = np.random.rand()  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    assert np.random.rand() == drawn  # noqa: NPY002


class Ignoring(DriftEnv):
    """Obeys the seed that it is made with, not that of a reset."""

    def __init__(self, seed=0):
        super().__init__()
        self.own = np.random.default_rng(seed)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position, self.speed = self.own.normal(size=2)
        return self._obs(), {}


def test_copies_that_begin_alike_are_reported_once():
    env = mt.MultiTaskVecEnv([mt.Task("mine", Ignoring), *drift_tasks(1)], 3, seed=0)
    with pytest.warns(UserWarning, match="'mine'.*3 copies") as caught:
        env.reset()
    assert len(caught) == 1
    env.seed(1)
    env.reset()  # a second warning would be an error


def test_the_same_seed_with_another_start_is_reported_once():
    env = mt.MultiTaskVecEnv([mt.Task("mine", Ignoring), *drift_tasks(1)], 1, seed=0)
    env.reset()
    env.seed(0)
    with pytest.warns(UserWarning, match="'mine'.*same seed"):
        env.reset()
    env.seed(0)
    env.reset()


class StartsAt(DriftEnv):
    """Begins where it is told to, with noise by its seed."""

    def __init__(self, where=0.0, shift=0.0):
        super().__init__()
        self.where = np.sum(where) + shift

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.position += self.where + (options or {}).get("shift", 0.0)
        return self._obs(), {}


def changed(env):
    env.set_attr("where", 3.0)


def with_options(env):
    env.set_options({"shift": 1.0})


LARGE = [np.zeros(2000), np.zeros(2000)]
LARGE[1][1000] = 1.0  # which its text does not show


@pytest.mark.parametrize(
    ("first", "then"),
    [
        pytest.param({"do": changed}, {}, id="attribute"),
        pytest.param({"do": with_options}, {}, id="options"),
        pytest.param({}, {"do": with_options}, id="options later"),
        pytest.param({"where": LARGE[0]}, {"where": LARGE[1]}, id="large arrays"),
        pytest.param({}, {"entry_point": lambda **kwargs: StartsAt(shift=1.0, **kwargs)}, id="registered anew"),
    ],
)
def test_what_obeys_its_seed_is_not_reported(first, then):
    for case in (first, then):
        gym.register("ForTests/Obeys-v0", entry_point=case.get("entry_point", StartsAt), disable_env_checker=True)
        kwargs = {name: value for name, value in case.items() if name == "where"}
        try:
            env = mt.MultiTaskVecEnv([mt.Task("mine", "ForTests/Obeys-v0", kwargs)], 2, seed=6)
            case.get("do", lambda _env: None)(env)
            env.reset()  # a warning would be an error
        finally:
            del gym.registry["ForTests/Obeys-v0"]
    seed_checks._starts_in_this_process.clear()


def test_an_environment_that_is_made_again_is_compared_with_the_one_before():
    gym.register("ForTests/Ignoring-v0", entry_point=lambda: Ignoring(seed=None), disable_env_checker=True)
    try:
        make = lambda: mt.MultiTaskVecEnv(["ForTests/Ignoring-v0"], 2, seed=4)  # noqa: E731
        make().reset()
        with pytest.warns(UserWarning, match="same seed"):
            make().reset()
    finally:
        del gym.registry["ForTests/Ignoring-v0"]
        seed_checks._starts_in_this_process.clear()


def test_environments_that_were_changed_may_begin_otherwise():
    env = mt.MultiTaskVecEnv(drift_tasks(1), 2, seed=0)
    env.reset()
    env.set_attr("scale", 3.0)
    env.seed(0)
    env.reset()


@pytest.mark.parametrize("kwargs", [lambda copy: {"seed": copy}, [{"seed": i} for i in range(3)]])
@pytest.mark.parametrize("backend", ["auto", "subproc"])
def test_copies_of_a_task_have_arguments_of_their_own(kwargs, backend):
    more = {"start_method": "fork"} if backend == "subproc" else {}
    env = mt.MultiTaskVecEnv([mt.Task("mine", Ignoring, kwargs)], 3, seed=0, backend=backend, **more)
    starts = env.reset()["obs"]
    expected = [np.random.default_rng(i).normal(size=2)[0] for i in range(3)]
    np.testing.assert_allclose(starts[:, 0], expected, rtol=1e-6)
    env.close()


def test_a_list_of_arguments_begins_again_where_it_ends():
    task = mt.Task("A", DriftEnv, [{"target": 0.1}, {"target": 0.2}])
    env = mt.MultiTaskVecEnv([task], 5, seed=0)
    assert env.get_attr("target") == [0.1, 0.2, 0.1, 0.2, 0.1]


@pytest.mark.parametrize("kwargs", [3, [], [1], "seed"])
def test_what_are_no_arguments_is_refused(kwargs):
    with pytest.raises(TypeError, match="`env_kwargs` of task 'A'"):
        mt.Task("A", DriftEnv, kwargs)
