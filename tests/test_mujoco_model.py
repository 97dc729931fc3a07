"""Models that environments draw anew: domain randomisation, sleep, and models of other layouts."""

import copy

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium.envs.mujoco.half_cheetah_v5 import HalfCheetahEnv

import sb3_multitask as mt
from sb3_multitask.vec_env.mujoco_model import get_model_state, set_model_state, why_untold

OPTIONS = {
    "gravity": lambda rng: rng.uniform(-12, -2, 3) * [0, 0, 1],
    "wind": lambda rng: rng.uniform(-5, 5, 3),
    "timestep": lambda rng: rng.uniform(0.005, 0.01),
    "disableflags": lambda rng: int(rng.integers(2)) * int(mujoco.mjtDisableBit.mjDSBL_CONTACT),
    "disableactuator": lambda rng: int(rng.integers(2)),
    "viscosity": lambda rng: rng.uniform(0, 1),
    "iterations": lambda rng: int(rng.integers(1, 50)),
}
ARRAYS = {
    "geom_contype": lambda rng, a: rng.integers(0, 2, a.shape),
    "jnt_limited": lambda rng, a: rng.integers(0, 2, a.shape),
    "geom_friction": lambda rng, a: a * rng.uniform(0.5, 1.5, a.shape),
    "body_mass": lambda rng, a: a * rng.uniform(0.9, 1.1, a.shape),
    "actuator_gear": lambda rng, a: a * rng.uniform(0.5, 1.5),
    "dof_damping": lambda rng, a: a * rng.uniform(0.5, 1.5),
}


class Randomised(HalfCheetahEnv):
    """A cheetah that draws one quantity of its model, and a goal, at each reset."""

    def __init__(self, quantity, **kwargs):
        self.quantity, self.goal = quantity, (0.0, 0.0)
        super().__init__(**kwargs)

    def reset_model(self):
        if self.quantity in OPTIONS:
            value = OPTIONS[self.quantity](self.np_random)
            option = getattr(self.model.opt, self.quantity)
            if isinstance(option, np.ndarray):
                option[:] = value
            else:
                setattr(self.model.opt, self.quantity, value)
        else:
            array = getattr(self.model, self.quantity)
            array[...] = ARRAYS[self.quantity](self.np_random, array)
        self.goal = (self.np_random.uniform(), self.np_random.uniform())
        return super().reset_model()

    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, reward + self.goal[0], *rest


def played(env, n_steps, rng):
    steps = [env.step(rng.uniform(-1, 1, (env.num_envs, 6)))[:2] for _ in range(n_steps)]
    return [np.column_stack((obs["obs"], rewards)) for obs, rewards in steps]


@pytest.mark.parametrize("quantity", [*OPTIONS, *ARRAYS])
def test_a_state_holds_what_an_environment_drew_of_its_model(quantity):
    def make():
        return gym.wrappers.TimeLimit(Randomised(quantity), 20)

    env = mt.MultiTaskVecEnv([mt.Task("A", make)], 2, seed=0, backend="dummy")
    assert env.why_inexact() is None
    env.reset()
    rng = np.random.default_rng(0)
    played(env, 30, rng)
    state, draws = copy.deepcopy(env.get_state()), copy.deepcopy(rng)
    expected = played(env, 30, rng)
    other = mt.MultiTaskVecEnv([mt.Task("A", make)], 2, seed=1, backend="dummy")
    other.reset()
    other.set_state(state)
    np.testing.assert_array_equal(played(other, 30, draws), expected)
    env.set_state(state)  # also into the one that has gone on
    draws = copy.deepcopy(rng)
    assert np.isfinite(played(env, 1, draws)[0]).all()


class Cheetah(HalfCheetahEnv):
    """A cheetah whose reward has a term that is read or drawn before the step."""

    def __init__(self, term):
        self.term, self._np_random_goal = term, 0.0
        super().__init__()

    def reset_model(self):
        self._np_random_goal = self.np_random.uniform()
        return super().reset_model()

    def step(self, action):
        extra = TERMS[self.term](self)
        obs, reward, *rest = super().step(action)
        return obs, reward + extra, *rest


TERMS = {
    "lengths of actuators": lambda env: env.data.actuator_length.sum(),
    "velocities of actuators": lambda env: env.data.actuator_velocity.sum(),
    "smooth forces": lambda env: env.data.qfrc_smooth.sum(),
    "a draw of the observation space": lambda env: np.tanh(env.observation_space.sample()).sum(),
    "an attribute named almost like Gymnasium's": lambda env: env._np_random_goal,
}


def continued_elsewhere(make_env, backend="dummy"):
    """Rewards of 20 steps, and of the same steps in another VecEnv that takes the state."""
    first, second = (mt.MultiTaskVecEnv(mt.Task("a", make_env), 2, backend=backend, seed=seed) for seed in (0, 1))
    try:
        for venv in (first, second):
            venv.reset()
        rng = np.random.default_rng(0)
        actions = rng.uniform(-1, 1, (25, 2, 6)).astype(np.float32)
        for action in actions[:5]:
            first.step(action)
        second.set_state(copy.deepcopy(first.get_state()))
        return [np.array([venv.step(action)[1] for action in actions[5:]]) for venv in (first, second)]
    finally:
        first.close()
        second.close()


@pytest.mark.parametrize("term", TERMS)
def test_what_an_environment_reads_before_a_step_is_in_the_state(term):
    np.testing.assert_array_equal(*continued_elsewhere(lambda: Cheetah(term)))


class NoisyCheetah(HalfCheetahEnv):
    """Draws from numpy's global generator at each step."""

    def step(self, action):
        obs, reward, *rest = super().step(action)
        return obs, reward + np.random.uniform(), *rest  # noqa: NPY002


@pytest.mark.slow
def test_the_state_of_a_worker_has_the_global_generators_of_its_process():
    np.testing.assert_array_equal(*continued_elsewhere(NoisyCheetah, "subproc"))


class Counter:
    """A function that counts its calls."""

    def __init__(self):
        self.n = 0

    def __call__(self, obs):
        self.n += 1
        return obs + self.n


def drawn_function(env):
    factor = env.np_random.uniform()
    return lambda obs: obs * factor


@pytest.mark.parametrize("make", [drawn_function, lambda _: Counter()], ids=["closure", "object"])
def test_functions_that_may_hold_what_was_drawn_make_a_state_inexact(make):
    class Env(HalfCheetahEnv):
        def reset_model(self):
            self.shown = make(self)
            return super().reset_model()

    venv = mt.MultiTaskVecEnv(mt.Task("a", Env), 1, backend="dummy")
    venv.reset()
    assert "Env keeps shown" in venv.why_inexact()


def test_ipc_makes_a_state_inexact():
    flag = getattr(mujoco.mjtEnableBit, "mjENBL_IPC", None)
    if flag is None:
        pytest.skip("this MuJoCo has no IPC")
    env = HalfCheetahEnv()
    env.model.opt.enableflags |= int(flag)
    assert "IPC" in why_untold(env.model)


def test_every_number_of_a_model_comes_back():
    model = HalfCheetahEnv().model
    state = get_model_state(model)
    changed = copy.copy(model)
    changed.opt.gravity[2], changed.opt.cone, changed.stat.meaninertia = -1, 1, 3.0
    changed.geom_contype[1], changed.jnt_limited[3], changed.tex_data[0] = 3, 0, 9
    set_model_state(changed, state)
    before, after = (np.empty(mujoco.mj_sizeModel(model), np.uint8) for _ in range(2))
    mujoco.mj_saveModel(model, None, before)
    mujoco.mj_saveModel(changed, None, after)
    np.testing.assert_array_equal(before, after)
    with pytest.raises(ValueError, match="another layout"):
        set_model_state(gym.make("Hopper-v5").unwrapped.model, state)


@pytest.mark.parametrize("backend", ["batch", "dummy"])
def test_models_that_somebody_else_writes_to_are_part_of_the_state(backend):
    """A curriculum's callback, for example."""
    tasks = ["HalfCheetah-v5", "HalfCheetahBigLeg-v0"]
    make = lambda seed: mt.MultiTaskVecEnv(tasks, 2, seed=seed, backend=backend)  # noqa: E731
    env = make(0)
    env.reset()
    at_first = env.get_state()
    for model in env.get_attr("model"):
        model.opt.gravity[2] = -3.0
        model.geom_contype[2] = 0
    played(env, 3, np.random.default_rng(0))
    state = copy.deepcopy(env.get_state())
    expected = played(env, 20, np.random.default_rng(1))
    other = make(1)
    other.reset()
    other.set_state(state)
    np.testing.assert_array_equal(played(other, 20, np.random.default_rng(1)), expected)
    env.set_state(at_first)
    assert all(model.opt.gravity[2] == -9.81 for model in env.get_attr("model"))


def edited(**changes):
    """A factory of cheetahs with an edited XML."""

    def make():
        spec = mujoco.MjSpec.from_file(HalfCheetahEnv().fullpath)
        spec.compiler.settotalmass = -1
        for change in changes.values():
            change(spec)
        env = HalfCheetahEnv()
        env.model = spec.compile()
        env.data = mujoco.MjData(env.model)
        return gym.wrappers.TimeLimit(env, 15)

    return make


def delay(spec):
    spec.actuators[0].delay, spec.actuators[0].nsample = 0.02, 3


def sleep(spec):
    spec.option.enableflags |= mujoco.mjtEnableBit.mjENBL_SLEEP


@pytest.mark.native
@pytest.mark.skipif(not hasattr(mujoco.MjSpec().add_actuator(), "delay"), reason="MuJoCo has no delayed actuators")
def test_models_of_other_layouts_run_in_batches_of_their_own_bit_for_bit():
    tasks = [mt.Task("plain", edited()), mt.Task("delayed", edited(delay=delay)), mt.Task("again", edited())]
    envs = {backend: mt.MultiTaskVecEnv(tasks, 2, seed=3, backend=backend) for backend in ("auto", "dummy")}
    assert envs["auto"].backend == "batch"
    for env in envs.values():
        env.reset()
    runs = [played(env, 40, np.random.default_rng(0)) for env in envs.values()]
    np.testing.assert_array_equal(*runs)


@pytest.mark.native
@pytest.mark.skipif(not hasattr(mujoco.mjtEnableBit, "mjENBL_SLEEP"), reason="MuJoCo has no sleep")
def test_what_mujocos_batch_refuses_runs_on_dummy_and_is_refused_by_name():
    tasks = [mt.Task("plain", edited()), mt.Task("sleepy", edited(sleep=sleep))]
    with pytest.warns(UserWarning, match=r"'sleepy'.*dummy"):
        env = mt.MultiTaskVecEnv(tasks, 1, seed=0)
    assert env.backend == "dummy"
    assert "sleepy" in env.backend_reason
    assert "sleep" in env.why_inexact()
    with pytest.raises(ValueError, match=r"batch.*'sleepy'"):
        mt.MultiTaskVecEnv(tasks, 1, seed=0, backend="batch")


@pytest.mark.skipif(hasattr(mujoco.MjOption(), "apirate"), reason="this MuJoCo has it")
def test_a_state_of_another_mujoco_is_refused():
    """MuJoCo 3.3 had ``opt.apirate``."""
    model = gym.make("HalfCheetah-v5").unwrapped.model
    with pytest.raises(ValueError, match=r"another version of MuJoCo.*opt.apirate \(100.0"):
        set_model_state(model, {"opt.apirate": 100.0})
