"""Bad numbers stop training with the task's name, before anything is learned from them."""

import multiprocessing as mp
import pickle

import numpy as np
import pytest
import torch as th
from helpers.drift import DriftEnv
from helpers.faulty import KINDS, FaultyEnv, make
from helpers.models import is_finite, model_on, weights_equal
from helpers.steps import step_on
from sb3_contrib import TRPO
from stable_baselines3 import A2C, PPO

import sb3_multitask as mt
from sb3_multitask.vec_env.faults import LIMIT, bad_rows


@pytest.mark.parametrize("engine", ["fast", "torch"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_bad_number_stops_with_task_env_and_step_and_leaves_the_weights(kind, engine):
    model = model_on(make(kind), engine=engine)
    step = 7 if kind == "nan_last_obs" else 3  # B's episodes have 7 steps
    with pytest.raises(mt.TaskFault, match=rf"'B'.* 2\) at step {step} .*{KINDS[kind]}") as caught:
        model.learn(10_000)
    assert (caught.value.task, caught.value.env, caught.value.step) == ("B", 2, step)
    assert is_finite(model)
    n_before = 7 + step - 1  # B's first episode, and what came before the fault
    clean = model_on(make("", seed=0), engine=engine).learn(n_before // 5 * 5 * 6)
    assert weights_equal(model, clean)  # as if it had stopped at the last whole rollout


@pytest.mark.parametrize("kind", ["nan_obs", "inf_reward"])
def test_a_bad_number_of_a_worker_stops_too(kind):
    env = make(kind, backend="subproc", n_envs=1, start_method="fork")
    with pytest.raises(mt.TaskFault, match="Task 'B'"):
        model_on(env).learn(1000)
    env.close()
    assert not mp.active_children()


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e30])
def test_a_bad_action_never_reaches_an_environment(value):
    env = make("", normalize=False)
    env.reset()
    actions = np.zeros((6, 2))
    actions[4, 1] = value
    with pytest.raises(mt.TaskFault, match=r"Task 'C' \(sub-environment 4\) at step 1 .* action"):
        env.step(actions)


def test_weights_that_diverged_are_an_error_with_the_tasks():
    model = model_on(make(""))
    with th.no_grad():
        model.policy.action_net.layers[-1].bias[1] = np.nan
    with pytest.raises(mt.TaskFault, match="Task 'B'.*a NaN action"):
        model.learn(100)


@pytest.mark.parametrize("engine", ["fast", "torch"])
def test_a_loss_that_diverges_trips_a_guard(engine):
    model = model_on(make("", normalize=False), engine=engine)
    with th.no_grad():
        model.policy.value_net.layers[-1].bias[2] = np.nan
    before = {name: tensor.clone() for name, tensor in model.policy.state_dict().items()}
    with pytest.raises(RuntimeError, match=r"not finite.*\bC\b"):
        model.learn(100)
    assert all(th.equal(before[name].nan_to_num(), t.nan_to_num()) for name, t in model.policy.state_dict().items())


def test_a_fault_can_be_pickled():
    fault = pickle.loads(pickle.dumps(mt.TaskFault("B", 2, 3, "a NaN reward")))
    assert (fault.task, fault.env, fault.step, fault.what) == ("B", 2, 3, "a NaN reward")


def test_what_is_bad():
    values = np.array([[0.0, 1.0], [np.nan, 1.0], [np.inf, np.nan], [1.0, -np.inf], [LIMIT, 0.0], [-0.99 * LIMIT, 0.0]])
    assert bad_rows("thing", values) == {
        1: "a NaN thing", 2: "a NaN thing", 3: "an infinite thing", 4: "an out-of-range (beyond 1e+15) thing",
    }  # fmt: skip
    assert bad_rows("thing", np.zeros((0, 3))) == {}


@pytest.mark.parametrize("engine", ["fast", "torch"])
def test_a_gradient_that_overflows_trips_the_guard_too(engine):
    """The loss is finite, and the square of the gradient's norm is not."""
    model = model_on(make("", normalize=False), engine=engine)
    with th.no_grad():
        model.policy.value_net.layers[-1].weight[2] = 1e15  # times an error of 1e15, and that squared
    before = model.policy.parameters_to_vector()
    with pytest.raises(RuntimeError, match="The update was not made"):
        model.learn(30)
    np.testing.assert_array_equal(model.policy.parameters_to_vector(), before)


@pytest.mark.parametrize("algorithm", ["a2c_mt", "a2c", "ppo", "trpo"])
def test_weights_that_diverged_are_an_error_with_the_task_on_torch(algorithm):
    env = make("", on_fault="quarantine")
    classes = {"a2c": A2C, "ppo": PPO, "trpo": TRPO}
    if algorithm == "a2c_mt":
        model = model_on(env, engine="torch")
    else:
        sizes = {} if algorithm == "a2c" else {"batch_size": 60}
        model = classes[algorithm](mt.MultiTaskActorCriticPolicy, env, n_steps=10, device="cpu", **sizes)
    with th.no_grad():
        model.policy.action_net.layers[-1].bias[1] = np.nan
    with pytest.raises(ValueError, match=r"task 1 .*not finite"):
        model.learn(100)


class OddEnv(DriftEnv):
    """Gives something at step 3 that is no observation or no reward."""

    def __init__(self, kind, **kwargs):
        super().__init__(**kwargs)
        self.kind = kind

    def step(self, action):
        obs, reward, *rest = super().step(action)
        if self.time == 3 and self.kind == "reward":
            return obs, None, *rest
        if self.time == 3:
            obs = {"short": obs[:1], "scalar": obs[0], "nothing": None, "words": np.array(["a", "b", "c"], object)}[
                self.kind
            ]
        return obs, reward, *rest


@pytest.mark.parametrize("backend", ["dummy", "subproc"])
@pytest.mark.parametrize("kind", ["short", "scalar", "nothing", "words", "reward"])
def test_what_is_no_observation_or_no_reward_is_an_error_of_its_task(kind, backend):
    """A single observation of another shape would be broadcast without a word."""
    odd = [mt.Task("A", DriftEnv), mt.Task("B", OddEnv, {"kind": kind})]
    env = mt.MultiTaskVecEnv(odd, 1, seed=0, backend=backend, start_method="fork")
    env.reset()
    step_on(env, 2)
    with pytest.raises((ValueError, TypeError, mt.WorkerError)) as caught:
        step_on(env, 1)
    text = "\n".join([str(caught.value), *getattr(caught.value, "__notes__", ())])
    assert "ask 'B'" in text
    assert "reward must be one number" in text if kind == "reward" else "is none of the environment's Box" in text
    env.close()


@pytest.mark.parametrize("on_fault", ["stop", "quarantine"])
def test_a_bad_first_observation_never_reaches_the_statistics(on_fault):
    """Also if it comes from the reset that training begins with."""
    first = [mt.Task("A", DriftEnv), mt.Task("B", FaultyEnv, {"kind": "nan_reset", "first_episode": 1, "every": 5})]
    env = mt.MultiTaskVecNormalize(mt.MultiTaskVecEnv(first, 2, seed=0, on_fault=on_fault))
    if on_fault == "stop":
        with pytest.raises(mt.TaskFault, match=r"'B'.* 2\) at step 0 .*NaN obs"):
            model_on(env).learn(100)
    else:
        model = model_on(env).learn(1000)
        assert is_finite(model)
        assert env.unwrapped.fault_counts["A"] == 0
        assert env.unwrapped.fault_counts["B"] > 10
    assert np.isfinite(env.obs_rms["obs"].mean).all()
