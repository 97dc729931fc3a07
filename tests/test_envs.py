"""The bodies: published geometry and masses, on Gymnasium's own physics."""

import math
import pickle
import subprocess
import sys

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import sb3_multitask as mt
from sb3_multitask.envs import VARIANTS as PUBLISHED
from sb3_multitask.envs.half_cheetah import HalfCheetahBodyEnv
from sb3_multitask.process.mujoco_messages import mujoco_messages_as_warnings

# half_cheetah.xml, by hand: body -> geoms as (name, radius, half-length) in metres. Density is 1000 kg/m3 before the
# total is set to 14 kg, so only ratios matter.
RADIUS = 0.046
GEOMS = {
    "torso": [("torso", RADIUS, 0.5), ("head", RADIUS, 0.15)],
    "bthigh": [("bthigh", RADIUS, 0.145)],
    "bshin": [("bshin", RADIUS, 0.15)],
    "bfoot": [("bfoot", RADIUS, 0.094)],
    "fthigh": [("fthigh", RADIUS, 0.133)],
    "fshin": [("fshin", RADIUS, 0.106)],
    "ffoot": [("ffoot", RADIUS, 0.07)],
}
PARTS = {
    "Foot": ("bfoot", "ffoot"),
    "Leg": ("bshin", "fshin"),
    "Thigh": ("bthigh", "fthigh"),
    "Torso": ("torso",),
    "Head": ("head",),
}
VARIANTS = [(f"HalfCheetah{size}{part}-v0", part, scale) for part in PARTS for size, scale in
            (("Small", 0.75), ("Big", 1.25))]  # fmt: skip


def capsule_volume(radius: float, half_length: float) -> float:
    return math.pi * radius**2 * (2 * half_length + 4 / 3 * radius)


def expected_geom(name: str, radius: float, half_length: float, part: str, scale: float) -> tuple[float, float]:
    if name not in PARTS[part]:
        return radius, half_length
    # The torso is given by its end points: its length stays. Every other geom has radius and half-length scaled.
    return radius * scale, half_length if name == "torso" else half_length * scale


@pytest.mark.parametrize(("env_id", "part", "scale"), VARIANTS)
def test_geometry_and_masses_are_the_published_ones(env_id, part, scale):
    model = gym.make(env_id).unwrapped.model
    volumes = {}
    for body, geoms in GEOMS.items():
        volumes[body] = 0.0
        for name, *size in geoms:
            radius, half_length = expected_geom(name, *size, part, scale)
            np.testing.assert_allclose(model.geom(name).size[:2], [radius, half_length], rtol=1e-12)
            volumes[body] += capsule_volume(radius, half_length)
    for body, volume in volumes.items():
        assert model.body(body).mass[0] == pytest.approx(14 * volume / sum(volumes.values()), rel=1e-12)
    assert model.body_mass.sum() == pytest.approx(14, rel=1e-12)


def test_small_feet_make_the_torso_heavier():
    model = gym.make("HalfCheetahSmallFoot-v0").unwrapped.model
    assert model.body("bfoot").mass[0] == pytest.approx(0.503, abs=5e-4)  # kg; 1.095 before
    assert model.body("torso").mass[0] == pytest.approx(6.81, abs=5e-3)  # kg; 6.25 before


@pytest.mark.parametrize("morphology", [None, mt.Morphology(("ffoot", "torso"), 1.0)])
def test_scale_one_is_gymnasiums_half_cheetah_bit_for_bit(morphology):
    ours = HalfCheetahBodyEnv(morphology=morphology)
    with mujoco_messages_as_warnings():
        theirs = gym.make("HalfCheetah-v5").unwrapped
    rng = np.random.default_rng(0)
    for step in range(1000):
        if step % 400 == 0:
            np.testing.assert_array_equal(ours.reset(seed=step)[0], theirs.reset(seed=step)[0])
        action = rng.uniform(-1, 1, 6).astype(np.float32)
        (obs, reward, *_, info), (their_obs, their_reward, *_, their_info) = (
            ours.step(action),
            theirs.step(action),
        )
        np.testing.assert_array_equal(obs, their_obs)
        assert reward == their_reward
        assert info == their_info


# check_env advises against unbounded observations, which every MuJoCo env of Gymnasium has.
unbounded = pytest.mark.filterwarnings("ignore:.*A Box observation space m..imum value is")


# ... and against actions beyond 1, which Gymnasium's own Pusher has too.
beyond_one = pytest.mark.filterwarnings("ignore:.*For Box action spaces, we recommend")


@unbounded
@beyond_one
@pytest.mark.parametrize("env_id", PUBLISHED)
def test_gymnasiums_check_env_is_clean(env_id):
    check_env(gym.make(env_id).unwrapped, skip_render_check=True)


def test_reward_terms_are_in_info_and_add_up():
    env = gym.make("HalfCheetahBigHead-v0")
    env.reset(seed=0)
    _, reward, _, _, info = env.step(np.full(6, 0.5, dtype=np.float32))
    assert reward == info["reward_forward"] + info["reward_ctrl"]
    assert info["reward_ctrl"] == pytest.approx(-0.1 * 6 * 0.25)


def test_episodes_are_truncated_after_1000_steps():
    env = gym.make("HalfCheetahBigLeg-v0")
    env.reset(seed=0)
    ends = [env.step(np.zeros(6, dtype=np.float32))[2:4] for _ in range(1000)]
    assert ends[-1] == (False, True)
    assert set(ends[:-1]) == {(False, False)}


def test_bodies_differ_and_seeds_fix_them():
    def rollout(env_id: str, seed: int) -> np.ndarray:
        env = gym.make(env_id)
        env.reset(seed=seed)
        return np.array([env.step(np.full(6, 0.3, dtype=np.float32))[0] for _ in range(20)])

    first = rollout("HalfCheetahSmallLeg-v0", 1)
    np.testing.assert_array_equal(first, rollout("HalfCheetahSmallLeg-v0", 1))
    assert not np.array_equal(first, rollout("HalfCheetahSmallLeg-v0", 2))
    assert not np.array_equal(first, rollout("HalfCheetahBigLeg-v0", 1))


def test_pickling_keeps_the_body():
    env = HalfCheetahBodyEnv(morphology=mt.Morphology(("torso",), 1.5), ctrl_cost_weight=0.2)
    copy = pickle.loads(pickle.dumps(env))
    np.testing.assert_array_equal(copy.model.geom_size, env.model.geom_size)
    assert copy._ctrl_cost_weight == 0.2


def test_radius_only_keeps_the_length():
    spec = mujoco.MjSpec.from_string(
        '<mujoco><worldbody><geom name="leg" type="capsule" size="0.1 0.4"/></worldbody></mujoco>'
    )
    mt.Morphology(("leg",), 0.5, radius_only=True).apply(spec)
    np.testing.assert_allclose(spec.geom("leg").size[:2], [0.05, 0.4])


def test_a_wrong_geom_is_an_error_that_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"'foot'.*'.foot'.*floor, torso, head"):
        HalfCheetahBodyEnv(morphology=mt.Morphology(("foot",), 0.75))


@pytest.mark.parametrize(("geoms", "scale", "message"), [
    ((), 1.0, "`geoms`"), ("ffoot", 1.0, "`geoms`"), (("a",), 0.0, "`scale`"), (("a",), math.nan, "`scale`"),
])  # fmt: skip
def test_morphology_checks_its_values(geoms, scale, message):
    with pytest.raises(ValueError, match=message):
        mt.Morphology(geoms, scale)


@unbounded
@pytest.mark.filterwarnings("ignore:.*is different from the unwrapped version")  # it is a wrapper
def test_task_env_carries_the_task():
    env = mt.TaskEnv(gym.make("HalfCheetahBigFoot-v0"), "BigFoot", ["SmallFoot", "BigFoot"])
    check_env(env, skip_render_check=True)
    obs, _ = env.reset(seed=0)
    assert obs["task"] == 1
    assert obs["obs"].dtype == np.float64  # as the body's own observations
    assert env.step(env.action_space.sample())[-1]["task"] == "BigFoot"
    with pytest.raises(ValueError, match="`task` must be one of"):
        mt.TaskEnv(gym.make("HalfCheetahBigFoot-v0"), "Foot", ["SmallFoot"])


@pytest.mark.slow
@pytest.mark.native
def test_nothing_is_printed_and_no_log_file_is_left(tmp_path):
    """Neither by our bodies nor by Gymnasium's HalfCheetah, whose file asks for what MuJoCo calls deprecated."""
    code = (
        "import sb3_multitask as mt\n"
        "env = mt.make_multitask_vec_env(['HalfCheetahSmallFoot-v0', 'HalfCheetah-v5'], 1, seed=0)\n"
        "env.reset(); env.step([env.action_space.sample()] * 2); env.close()\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    assert list(tmp_path.iterdir()) == []


def test_other_messages_of_mujoco_become_warnings():
    model = gym.make("HalfCheetahBigLeg-v0").unwrapped.model
    data = mujoco.MjData(model)
    data.qpos[0] = np.nan

    def step_quietly():
        with mujoco_messages_as_warnings():
            mujoco.mj_step(model, data)

    with pytest.warns(RuntimeWarning, match="MuJoCo: Nan, Inf or huge value in QPOS"):
        step_quietly()
