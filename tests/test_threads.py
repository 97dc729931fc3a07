import copy

import numpy as np
import pytest
import torch as th
from helpers.drift import DriftEnv, drift_tasks
from stable_baselines3 import PPO
from stable_baselines3.common.callbacks import BaseCallback
from threadpoolctl import threadpool_info

import sb3_multitask as mt
from sb3_multitask.process.threads import TorchThreads, n_cpus, physics_threads, threads_for_arrays


def blas_threads():
    return [pool["num_threads"] for pool in threadpool_info() if pool["user_api"] == "blas"]


@pytest.fixture
def two_torch_threads():
    before = th.get_num_threads()
    th.set_num_threads(2)
    yield
    th.set_num_threads(before)


@pytest.mark.usefixtures("two_torch_threads")
def test_torchs_number_governs_the_physics():
    assert physics_threads(None, 100) == min(2, physics_threads(100, 100))
    assert physics_threads(None, 1) == 1
    th.set_num_threads(1)
    assert physics_threads(None, 100) == 1


@pytest.mark.usefixtures("two_torch_threads")
@pytest.mark.parametrize(("engine", "expected"), [("fast", 1), ("torch", 1)])
def test_training_keeps_arrays_on_one_thread_and_puts_it_back(engine, expected):
    during = []

    class Watch(BaseCallback):
        def _on_step(self):
            during.append((th.get_num_threads(), *blas_threads(), physics_threads(None, 100)))
            return len(during) < 3

    before = blas_threads()
    env = mt.make_multitask_vec_env(drift_tasks(2), 1)
    mt.A2CMultiTask("MultiTaskMlpPolicy", env, engine=engine, device="cpu").learn(100, Watch())
    assert during[0][0] == expected
    assert set(during[0][1:-1]) == {1}
    assert during[0][-1] == physics_threads(None, 100)  # an evaluation in a callback gets all threads
    assert (th.get_num_threads(), set(blas_threads())) == (2, set(before))


@pytest.mark.usefixtures("two_torch_threads")
@pytest.mark.parametrize("batch_size", [60, 600, 2400])
def test_training_does_not_depend_on_the_number_of_threads(batch_size):
    """Neither the initial weights, nor minibatches in one part, with many rows or few, or in three."""
    weights = []
    for n_threads in (1, 2):
        th.set_num_threads(n_threads)
        env = mt.make_multitask_vec_env(drift_tasks(2), 2, seed=0)
        given = {"n_steps": 600, "batch_size": batch_size, "n_epochs": 1, "seed": 0}
        model = mt.PPOMultiTask("MultiTaskMlpPolicy", env, engine="fast", **given)
        weights += [model.policy.parameters_to_vector(), model.learn(2400).policy.parameters_to_vector()]
    np.testing.assert_array_equal(weights[:2], weights[2:])


@pytest.mark.usefixtures("two_torch_threads")
def test_a_model_that_has_learned_in_threads_can_be_copied():
    env = mt.make_multitask_vec_env(drift_tasks(2), 2, seed=0)
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", env, n_steps=100, seed=0, device="cpu").learn(800)
    copied = copy.deepcopy(model)
    np.testing.assert_array_equal(copied.policy.parameters_to_vector(), model.policy.parameters_to_vector())


@pytest.mark.usefixtures("two_torch_threads")
def test_the_number_of_threads_can_be_set():
    during = []
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", mt.make_multitask_vec_env(drift_tasks(2), 1), engine="torch")
    model.torch_threads = 2
    model.learn(10, lambda *_: during.append(th.get_num_threads()) or True)
    assert set(during) == {2}


@pytest.mark.usefixtures("two_torch_threads")
def test_any_algorithm_has_one_torch_thread_while_its_env_is_open(caplog):
    caplog.set_level("INFO", "sb3_multitask")
    during = []
    envs = [mt.make_multitask_vec_env(drift_tasks(2), 1) for _ in range(2)]
    for env in envs:
        model = PPO(mt.MultiTaskActorCriticPolicy, env, n_steps=8, batch_size=8, n_epochs=1, device="cpu")
        model.learn(16, lambda *_: during.append((th.get_num_threads(), physics_threads(None, 100))) or True)
    assert set(during) == {(1, min(2, n_cpus()))}
    assert [record.message.startswith("torch has 1 thread(s) instead of 2") for record in caplog.records] == [True] * 2
    envs[0].close()
    assert th.get_num_threads() == 1
    envs[1].close()
    assert th.get_num_threads() == 2


@pytest.mark.usefixtures("two_torch_threads")
@pytest.mark.parametrize("given", [{"torch_threads": None}, {"training": False}])
def test_torchs_threads_can_be_left_alone(given):
    env = mt.make_multitask_vec_env(drift_tasks(2), 1, **given)
    env.reset()
    env.step(np.zeros((2, 2)))
    assert th.get_num_threads() == 2


@pytest.mark.usefixtures("two_torch_threads")
def test_a_number_of_torch_threads_that_the_user_sets_later_stays():
    env = mt.make_multitask_vec_env(drift_tasks(2), 1)
    env.reset()
    env.step(np.zeros((2, 2)))
    th.set_num_threads(3)
    env.step(np.zeros((2, 2)))
    assert physics_threads(None, 100) == min(3, n_cpus())
    env.close()
    env.close()
    assert th.get_num_threads() == 3
    with pytest.raises(ValueError, match=r"`torch_threads` must be a whole number of at least 1, or None \(got 0\)"):
        mt.make_multitask_vec_env(drift_tasks(2), 1, torch_threads=0)


@pytest.mark.usefixtures("two_torch_threads")
@pytest.mark.parametrize("closed_first", [0, 1])
def test_vec_envs_that_hold_torch_at_different_numbers_give_the_users_back(closed_first):
    holders = [TorchThreads(1), TorchThreads(3)]
    for holder in holders:
        holder.begin()
    assert (th.get_num_threads(), TorchThreads.users_number()) == (3, 2)
    holders.pop(closed_first).end()
    assert (th.get_num_threads(), TorchThreads.users_number()) == (holders[0].n_threads, 2)
    holders[0].end()
    assert th.get_num_threads() == 2


@pytest.mark.usefixtures("two_torch_threads")
def test_a_vec_env_that_was_left_open_has_no_say_once_the_user_has_set_a_number():
    left_open, later = TorchThreads(1), TorchThreads(1)
    left_open.begin()
    th.set_num_threads(2)
    later.begin()
    assert th.get_num_threads() == 1
    later.end()
    assert th.get_num_threads() == 2
    left_open.end()
    assert th.get_num_threads() == 2


@pytest.mark.usefixtures("two_torch_threads")
def test_a_vec_env_that_is_closed_while_a_model_learns_gives_the_users_number_back():
    holder = TorchThreads(1)
    holder.begin()
    with threads_for_arrays():
        holder.end()
        assert th.get_num_threads() == 1
    assert th.get_num_threads() == 2


@pytest.mark.parametrize("number", [0, True, 1.5, "2"])
def test_a_number_of_threads_that_is_none_is_refused_by_name(number):
    for refuse in (lambda: TorchThreads(number), lambda: threads_for_arrays(number).__enter__()):
        with pytest.raises(ValueError, match=r"`torch_threads` must be a whole number of at least 1.*\(got "):
            refuse()


@pytest.mark.usefixtures("two_torch_threads")
def test_threads_are_put_back_after_an_error():
    def fail():
        with threads_for_arrays():
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    assert th.get_num_threads() == 2


@pytest.mark.usefixtures("two_torch_threads")
def test_evaluations_keep_arrays_on_one_thread_and_physics_on_what_was_asked_for():
    threads = []

    class Watching(DriftEnv):
        def step(self, action):
            threads.append((th.get_num_threads(), physics_threads(None, 100)))
            return super().step(action)

    model = mt.A2CMultiTask("MultiTaskMlpPolicy", [mt.Task("watched", Watching)], device="cpu")
    mt.evaluate_tasks(model, n_eval_episodes=1)
    with threads_for_arrays():  # as within a training
        mt.evaluate_tasks(model, n_eval_episodes=1)
    assert set(threads) == {(1, physics_threads(None, 100))}
    assert th.get_num_threads() == 2
