"""The 77 environments of gym-extensions: that they are there, what they are made of, and what their sensors read."""

import math
import pickle

import gymnasium as gym
import mujoco
import numpy as np
import pytest
from helpers.steps import raw_steps

import sb3_multitask as mt
from sb3_multitask.envs import VARIANTS
from sb3_multitask.envs.gravity import Gravity
from sb3_multitask.envs.morphology import PARTS, morphology_of
from sb3_multitask.envs.obstacles import GROUP
from sb3_multitask.envs.terrain import maze_readings, strip_readings
from sb3_multitask.envs.variants import OTHERS
from sb3_multitask.envs.walls import BEAM_ANGLES
from sb3_multitask.vec_env.env_state import get_env_state, set_env_state, why_inexact

FAMILIES = {
    "morphology": 40, "gravity": 19, "wall": 5, "sensor": 6, "stairs": 1, "maze": 1, "arm": 4, "standup_and_run": 1,
}  # fmt: skip

OBSTACLES = ("wall", "stairs", "maze")


def make(env_id, **kwargs):
    env = gym.make(env_id, **kwargs).unwrapped
    env.reset(seed=0)
    return env


def test_there_are_77_under_two_names_each():
    families = [variant.family for variant in VARIANTS.values()]
    assert {family: families.count(family) for family in FAMILIES} == FAMILIES
    assert len(VARIANTS) == sum(FAMILIES.values()) == 77
    for env_id, variant in {**VARIANTS, **OTHERS}.items():
        for name in (env_id, f"MultiTask/{env_id}"):
            spec = gym.spec(name)
            assert spec.max_episode_steps == (100 if variant.family == "arm" else 1000)
            assert spec.entry_point == variant.entry_point
    assert gym.spec("HopperStairs-v0").reward_threshold == 3800
    assert gym.spec("Walker2dWall-v0").reward_threshold is None


@pytest.mark.parametrize("env_id", VARIANTS)
def test_seeds_fix_everything_and_pickles_are_the_same_environment(env_id):
    env = gym.make(env_id)
    action = np.asarray(env.action_space.high * 0.3, dtype=np.float32)

    def episode(one):
        obs, _ = one.reset(seed=3)
        steps = [one.step(action) for _ in range(4)]
        again, _ = one.reset()  # the next episode too
        return np.concatenate([obs, *(step[0] for step in steps), again, [step[1] for step in steps]])

    first = episode(env)
    np.testing.assert_array_equal(episode(env), first)
    np.testing.assert_array_equal(episode(pickle.loads(pickle.dumps(env.unwrapped))), first)
    assert np.isfinite(first).all()
    assert not np.array_equal(env.reset(seed=4)[0], env.reset(seed=3)[0])


# The native backend


def held_bit_for_bit(tasks, n_steps):
    """Steps of the native backend, each equal to the reference's; gives them with the reference's environments."""
    native, reference = (mt.MultiTaskVecEnv(tasks, 2, backend=backend) for backend in ("batch", "dummy"))
    steps = zip(raw_steps(native, n_steps, scale=0.4), raw_steps(reference, n_steps, scale=0.4), strict=True)
    (obs, infos), (their_obs, their_infos) = next(steps)
    np.testing.assert_array_equal(obs, their_obs)
    assert_same_infos(infos, their_infos)
    for mine, theirs in steps:
        np.testing.assert_array_equal(mine.obs, theirs.obs)
        np.testing.assert_array_equal(mine.rewards, theirs.rewards)
        np.testing.assert_array_equal(mine.dones, theirs.dones)
        assert_same_infos(mine.infos, theirs.infos)
        yield mine, [env.unwrapped for env in reference.sub_envs.backend.envs]
    native.close()


def assert_same_infos(infos, their_infos):
    for info, their_info in zip(infos, their_infos, strict=True):
        assert info.keys() == their_info.keys()
        for key, value in info.items():
            np.testing.assert_array_equal(value, their_info[key], err_msg=key)


@pytest.mark.native
@pytest.mark.parametrize(
    "env_id", [*VARIANTS, "Ant-v5", "Humanoid-v5", "HumanoidStandup-v5", "Pusher-v5", "Striker-v0"]
)
def test_the_native_backend_is_the_environment_bit_for_bit(env_id):
    limit = gym.spec(env_id).max_episode_steps
    n_steps = 210 if limit == 100 else 60  # the arms' episodes end at their limit only
    ends = sum(step.dones for step, _ in held_bit_for_bit([env_id], n_steps))
    assert (ends >= n_steps // limit).all()


def touches_an_obstacle(env):
    return any(GROUP in env.model.geom_group[contact.geom] for contact in env.data.contact)


@pytest.mark.native
@pytest.mark.parametrize(
    ("env_id", "x", "speed"),
    [
        ("HopperSimpleWall-v0", 2.2, 1.0),
        ("HopperStairs-v0", 0.4, 1.0),
        ("Walker2dWall-v0", 1.3, 1.0),
        ("HalfCheetahWall-v0", 0.8, 2.0),
        ("HumanoidWall-v0", 1.2, 2.0),
        ("HumanoidStandupAndRunWall-v0", 0.2, 2.0),
        ("AntMaze-v0", 1.4, 3.0),
    ],
)
def test_the_native_backend_is_the_environment_at_an_obstacle(env_id, x, speed):
    """Episodes begin at ``x``, before the first obstacle, and both copies run into it."""

    def before_it(**kwargs):
        env = gym.make(env_id, **kwargs)
        env.unwrapped.wall_range = (1.8, 1.8)
        env.unwrapped.init_qpos[0], env.unwrapped.init_qvel[0] = x, speed
        return env

    steps = held_bit_for_bit([mt.Task("before it", before_it)], 60)
    touched = np.array([[touches_an_obstacle(env) for env in envs] for _, envs in steps])
    assert not touched[0].any()
    assert touched.any(axis=0).all()


@pytest.mark.native
def test_robots_of_several_kinds_run_side_by_side():
    assert len(list(held_bit_for_bit(mt.TASK_SETS["HumanoidStandup3"], 30))) == 30


@pytest.mark.native
@pytest.mark.parametrize("env_id", ["HumanoidWall-v0", "AntMaze-v0", "StrikerMovingStart-v0", "HopperSimpleWall-v0"])
def test_a_snapshot_of_the_native_backend_goes_on_with_the_same_bits(env_id):
    first, second = (mt.MultiTaskVecEnv([env_id], 2, backend="batch") for _ in range(2))
    steps = list(raw_steps(first, 12, scale=0.4))
    state = first.sub_envs.backend.get_state()
    rng = np.random.default_rng(9)
    actions = rng.uniform(-0.4, 0.4, (40, 2, *first.action_space.shape)).astype(np.float32)

    def go_on(env):
        results = []
        for action in actions:
            env.sub_envs.backend.send(slice(0, 2), action)
            result = env.sub_envs.backend.receive(slice(0, 2))
            results.append(np.column_stack((result.obs, result.rewards, result.dones)))
        return np.array(results)

    expected = go_on(first)
    list(raw_steps(second, 3, seed=5))
    second.sub_envs.backend.set_state(state)
    np.testing.assert_array_equal(go_on(second), expected)
    assert len(steps) == 13


# Bodies and gravity, by hand


def capsule(radius, half_length):
    return math.pi * radius**2 * (2 * half_length + 4 / 3 * radius)


@pytest.mark.parametrize(
    ("robot", "part", "geom", "radius", "half_length"),
    [
        ("Hopper", "Foot", "foot_geom", 0.06, 0.195),  # hopper.xml
        ("Hopper", "Torso", "torso_geom", 0.05, 0.2),
        ("Walker2d", "Thigh", "thigh_left_geom", 0.05, 0.225),  # walker2d_v5.xml
    ],
)
@pytest.mark.parametrize(("size", "scale"), [("Small", 0.75), ("Big", 1.25)])
def test_a_published_limb_is_thicker_or_thinner_and_as_long(robot, part, geom, radius, half_length, size, scale):
    model = make(f"{robot}{size}{part}-v0").model
    np.testing.assert_allclose(model.geom(geom).size[:2], [radius * scale, half_length], rtol=1e-9)
    base = make(f"{robot}-v5").model
    mass = model.body_mass[model.geom(geom).bodyid[0]]
    base_mass = base.body_mass[base.geom(geom).bodyid[0]]
    own = capsule(radius * scale, half_length) / capsule(radius, half_length)
    assert mass / base_mass == pytest.approx(own, rel=1e-6)
    assert (mass > base_mass) == (scale > 1)
    np.testing.assert_array_equal(model.body_pos, base.body_pos)  # joints stay where they are


HUMANOID = {  # humanoid.xml: body -> geom -> radius and half-length in m; a sphere has no length
    "torso": {"torso1": (0.07, 0.07), "head": (0.09, 0.0), "uwaist": (0.06, 0.06)},
    "lwaist": {"lwaist": (0.06, 0.06)},
    "pelvis": {"butt": (0.09, 0.07)},
}
for side in ("right", "left"):
    HUMANOID |= {
        f"{side}_thigh": {f"{side}_thigh1": (0.06, math.hypot(0.01, 0.34) / 2)},
        f"{side}_shin": {f"{side}_shin1": (0.049, 0.15)},
        f"{side}_foot": {f"{side}_foot": (0.075, 0.0)},
        f"{side}_upper_arm": {f"{side}_uarm1": (0.04, 0.08 * math.sqrt(3))},
        f"{side}_lower_arm": {f"{side}_larm": (0.031, 0.08 * math.sqrt(3)), f"{side}_hand": (0.04, 0.0)},
    }


@pytest.mark.parametrize(
    ("part", "scaled"),
    [
        ("Foot", {"right_foot", "left_foot"}),
        ("Leg", {"right_shin1", "left_shin1"}),
        ("Thigh", {"right_thigh1", "left_thigh1", "butt"}),
        ("Torso", {"torso1", "uwaist", "lwaist"}),
        ("Head", {"head"}),
        ("Arm", {"right_uarm1", "right_larm", "left_uarm1", "left_larm"}),
        ("Hand", {"right_hand", "left_hand"}),
    ],
)
@pytest.mark.parametrize(("size", "scale"), [("Small", 0.75), ("Big", 1.25)])
def test_a_humanoids_part_is_thicker_or_thinner_and_weighs_what_it_holds(part, scaled, size, scale):
    """Of 1,000 kg/m^3; the other parts, lengths and joints are as they were."""
    model = make(f"Humanoid{size}{part}-v0").model
    for body, geoms in HUMANOID.items():
        expected = {geom: (r * (scale if geom in scaled else 1), half) for geom, (r, half) in geoms.items()}
        np.testing.assert_allclose(
            [model.geom(geom).size[:2] for geom in expected], list(expected.values()), rtol=1e-9, err_msg=body
        )
        mass = 1000 * sum(capsule(*radius_and_half_length) for radius_and_half_length in expected.values())
        assert model.body(body).mass[0] == pytest.approx(mass, rel=1e-9), body
    assert model.nbody == 1 + len(HUMANOID)
    np.testing.assert_array_equal(model.body_pos, make("Humanoid-v5").model.body_pos)


@pytest.mark.parametrize(
    ("env_id", "gravity"),
    [
        ("HopperGravityHalf-v0", -4.905),
        ("Walker2dGravityThreeQuarters-v0", -7.3575),
        ("HalfCheetahGravityOneAndQuarter-v0", -12.2625),
        ("HumanoidGravityOneAndHalf-v0", -14.715),
        ("AntGravityMars-v0", -3.711),
    ],
)
def test_a_robot_in_the_air_falls_with_the_published_gravity(env_id, gravity):
    """The centre of mass of whatever does not touch anything has the acceleration g, whatever the joints do."""
    env = make(env_id)
    assert env.model.opt.gravity.tolist() == [0, 0, gravity]
    qpos = env.init_qpos.copy()
    qpos[1 if env_id.startswith(("Hopper", "Walker2d", "HalfCheetah")) else 2] += 5
    env.set_state(qpos, np.zeros_like(env.init_qvel))
    mass = env.model.body_mass[:, None]

    def height():
        mujoco.mj_kinematics(env.model, env.data)
        mujoco.mj_comPos(env.model, env.data)
        return float((mass * env.data.xipos).sum(axis=0)[2] / mass.sum())

    n_steps, step = 20, env.model.opt.timestep
    before = height()
    mujoco.mj_step(env.model, env.data, n_steps)
    fallen = -gravity * (n_steps * step) ** 2 / 2
    if env.model.opt.integrator == mujoco.mjtIntegrator.mjINT_EULER:  # semi-implicit: the velocity comes first
        fallen *= 1 + 1 / n_steps
    assert before - height() == pytest.approx(fallen, rel=1e-3)


@pytest.mark.parametrize("gravity", [math.nan, math.inf])
def test_gravity_is_a_finite_number(gravity):
    with pytest.raises(ValueError, match="`gravity` must be a finite number"):
        Gravity(gravity)


# Walls, by hand


def place(env, wall_x, qpos=None):
    """The robot in its rest pose, the wall at ``wall_x``."""
    env.data.mocap_pos[0, 0] = wall_x
    env.set_state(env.init_qpos if qpos is None else qpos, np.zeros_like(env.init_qvel))
    return env._get_obs()[-10:]


def hand_worked(origin_z, wall_x, pitch=0.0):
    """A beam meets the front of the wall (at wall_x - 0.2, from -0.125 to 0.375 m), or its top from above."""
    readings = []
    for elevation in BEAM_ANGLES + pitch:
        front, slope = wall_x - 0.2, math.tan(elevation)
        at_front = origin_z + slope * front
        if -0.125 <= at_front <= 0.375:
            readings.append(front / math.cos(elevation) / 10)
        elif at_front > 0.375 and slope < 0 and (x := (0.375 - origin_z) / slope) <= wall_x + 0.2:
            readings.append(x / math.cos(elevation) / 10)
        else:
            readings.append(0.0)
    return readings


def test_beams_span_90_degrees():
    np.testing.assert_allclose(np.degrees(BEAM_ANGLES), np.arange(-45, 46, 10))


def test_one_beam_by_hand():
    """The torso is 0.7 m up. Of a wall at 2 m the front is 1.8 m away; the beam at -15 degrees comes in 0.22 m up."""
    readings = place(make("HalfCheetahWall-v0"), 2.0)
    assert readings[3] == pytest.approx(1.8 / math.cos(math.radians(15)) / 10)
    assert np.count_nonzero(readings) == 1


@pytest.mark.parametrize(
    ("env_id", "z"), [("HalfCheetahWall-v0", 0.7), ("Walker2dWall-v0", 1.25), ("HumanoidWall-v0", 1.4)]
)
@pytest.mark.parametrize("wall_x", [0.9, 1.8, 2.5, 3.8])
def test_beams_read_distances_worked_out_by_hand(env_id, z, wall_x):
    np.testing.assert_allclose(place(make(env_id), wall_x), hand_worked(z, wall_x), atol=1e-9)


@pytest.mark.parametrize("pitch", [-0.3, 0.2])
def test_beams_turn_with_the_torso(pitch):
    env = make("HalfCheetahWall-v0")
    qpos = env.init_qpos.copy()
    qpos[2] = pitch  # about y: positive is nose down
    np.testing.assert_allclose(place(env, 2.0, qpos), hand_worked(0.7, 2.0, -pitch), atol=1e-9)


@pytest.mark.parametrize("env_id", [env_id for env_id, variant in VARIANTS.items() if variant.family in OBSTACLES])
def test_obstacles_are_drawn_and_all_that_beams_see(env_id):
    model = make(env_id).model
    theirs = model.geom_group == GROUP
    assert theirs.sum() == model.nmocap
    assert GROUP < 3  # MuJoCo draws groups 0 to 2


def test_walls_out_of_range_or_behind_are_not_seen():
    env = make("HalfCheetahWall-v0")
    assert not place(env, 12.0).any()
    assert not place(env, -1.0).any()


def test_walls_are_placed_anew_by_the_environments_own_generator():
    env = make("Walker2dWall-v0")
    places = []
    for seed in (0, None, None, 0):
        env.reset(seed=seed)
        places.append(env.data.mocap_pos[0].tolist())
    assert places[0] == places[3]
    assert len({place[0] for place in places}) == 3
    assert all(1.8 <= x <= 3.8 and (y, z) == (0, 0.125) for x, y, z in places)


def test_a_wall_is_not_walked_through():
    """A cheetah that slides at 8 m/s is stopped where its front meets the wall, wherever that was put."""
    fronts = []
    for wall_x in (1.9, 3.7):
        env = make("HalfCheetahWall-v0")
        qvel = np.zeros_like(env.init_qvel)
        qvel[0] = 8.0
        env.data.mocap_pos[0, 0] = wall_x
        env.set_state(env.init_qpos, qvel)
        depth, contacts, furthest = 0.0, 0, -np.inf
        for _ in range(60):
            mujoco.mj_step(env.model, env.data)
            for contact in env.data.contact:
                if "wall" in {env.model.geom(i).name for i in contact.geom}:
                    depth, contacts = min(depth, contact.dist), contacts + 1
            furthest = max(furthest, env.data.qpos[0])
        assert contacts > 0
        assert depth > -0.1
        fronts.append(furthest - wall_x)
        assert furthest < wall_x  # the middle of the torso never gets past
    free = make("HalfCheetah-v5")
    free.set_state(free.init_qpos, qvel)
    mujoco.mj_step(free.model, free.data, 60)
    assert free.data.qpos[0] > 1.9  # it would have


def test_an_obstacle_weighs_nothing_and_is_not_observed():
    for env_id, base_id in (("HalfCheetahWall-v0", "HalfCheetah-v5"), ("HumanoidWall-v0", "Humanoid-v5")):
        env, base = make(env_id), make(base_id)
        np.testing.assert_allclose(env.model.body_mass[:-1], base.model.body_mass, rtol=1e-12)
        assert env.model.body_mass[-1] == 0
        np.testing.assert_array_equal(place(env, 3.0).shape, (10,))
        base.set_state(base.init_qpos, np.zeros_like(base.init_qvel))
        np.testing.assert_allclose(env._get_obs()[:-10], base._get_obs(), atol=1e-12)


@pytest.mark.parametrize("robot", ["Hopper", "Walker2d", "HalfCheetah", "Humanoid", "HumanoidStandup"])
def test_sensors_without_obstacles_read_zeros_and_change_nothing_else(robot):
    env, base = gym.make(f"{robot}WithSensor-v0"), gym.make(f"{robot}-v5")
    obs, _ = env.reset(seed=1)
    their_obs, _ = base.reset(seed=1)
    for _ in range(5):
        assert not obs[-10:].any()
        np.testing.assert_array_equal(obs[:-10], their_obs)
        action = base.action_space.sample()
        obs, reward, *_ = env.step(action)
        their_obs, their_reward, *_ = base.step(action)
        assert reward == their_reward


# Low walls, stairs, maze, by hand


def test_a_strip_by_hand():
    """Foot at 1 m: cells are centred at 0.75, 1.25, ...; walls from 1.8 to 2.3 and 0.9 to 1.3 cover 2.25 and 1.25."""
    readings = strip_readings(np.array([1.0]), np.array([[2.05, 1.1]]), np.array([0.25, 0.2]), 5)
    assert readings.tolist() == [[0, 1, 0, 1, 0]]
    assert not strip_readings(np.array([1.0]), np.array([[9.0, -9.0]]), np.array([0.25, 0.25]), 5).any()


def test_hopper_reads_low_walls():
    env = make("HopperSimpleWall-v0")
    first, second = env.data.mocap_pos[:, 0]
    assert first == 2.8
    assert 4 <= second - first <= 6
    qpos = env.init_qpos.copy()
    env.set_state(qpos, np.zeros_like(env.init_qvel))
    foot = env.data.body("foot").xpos[0]
    cells = foot - 0.5 + 0.5 * (np.arange(10) + 0.5)
    assert env._get_obs()[-10:].tolist() == [float(abs(x - first) <= 0.25 or abs(x - second) <= 0.25) for x in cells]
    assert env._get_obs()[-10:].sum() == 1
    tops = [env.data.mocap_pos[i, 2] + env.model.geom(f"wall {i}").size[2] for i in range(2)]
    np.testing.assert_allclose(tops, 0.18)
    assert env.model.geom("wall 0").condim == 1


def test_hopper_reads_stairs():
    """At 2.2 m cells are centred from 1.95 m to 4.45 m: under 1, 2, 3, 3, 2, 2 stairs, halved."""
    env = make("HopperStairs-v0")
    qpos = env.init_qpos.copy()
    qpos[0] = 2.2 - env.data.body("foot").xpos[0] + env.data.qpos[0]
    env.set_state(env.init_qpos, np.zeros_like(env.init_qvel))
    qpos[0] = 2.2 - env.data.body("foot").xpos[0]
    env.set_state(qpos, np.zeros_like(env.init_qvel))
    assert env.data.body("foot").xpos[0] == pytest.approx(2.2)
    assert env._get_obs()[-6:].tolist() == [1.0, 1.5, 1.5, 1.5, 1.0, 1.0]
    tops = [env.data.mocap_pos[i, 2] + env.model.geom(f"level {i}").size[2] for i in range(3)]
    np.testing.assert_allclose(tops, [0.225, 0.375, 0.525])


def test_hopper_may_lean_further_on_stairs():
    stairs, flat = make("HopperStairs-v0"), make("Hopper-v5")
    for env in (stairs, flat):
        qpos = env.init_qpos.copy()
        qpos[2] = 0.24
        env.set_state(qpos, np.zeros_like(env.init_qvel))
    assert stairs.is_healthy
    assert not flat.is_healthy


def test_a_map_by_hand():
    """A wall across the left half at 2 m, one behind, and the corridor's sides beyond the map, 3.25 m away."""
    walls, halves = np.array([[2.0, 1.5], [-3.0, 0.0]]), np.array([[0.25, 2.0], [0.25, 2.0]])
    (readings,) = maze_readings(np.array([[0.0, 0.0]]), walls, halves, 3.25)
    assert readings.reshape(5, 2).tolist() == [
        [0, 1],
        [0, 1],
        [0, 1],
        [0, 0],
        [0, 0],
    ]  # 2 to 0 m left; covers -0.5 to 3.5
    (nearer,) = maze_readings(np.array([[0.5, 0.0]]), walls, halves, 3.25)
    assert nearer.reshape(5, 2)[0].tolist() == [1, 1]  # from 1.25 to 1.75 m away, and the cells meet at 1.5 m


@pytest.mark.parametrize("side", [1, -1])
def test_what_lies_behind_the_corridors_side_is_a_wall(side):
    nothing = np.empty((0, 2))
    xy = np.stack((np.zeros(326), side * np.linspace(0, 3.25, 326)), axis=1)
    maps = maze_readings(xy, nothing, nothing, 3.25).reshape(-1, 5, 2)[:, ::side]
    assert (maps[:, :, 0] == maps[:, :, 1]).all()
    n_rows = maps[:, :, 0].sum(axis=1)
    assert n_rows[0] == 0
    assert n_rows[-1] == 3  # its own cell, half of which lies behind the side, and two more
    assert (np.diff(n_rows) >= 0).all()  # once seen, it stays as the robot comes nearer
    assert (np.diff(maps[:, :, 0], axis=1) <= 0).all()  # and there is nothing beyond it


def test_the_maze_is_open_on_alternate_sides():
    env = make("AntMaze-v0")
    assert env.data.mocap_pos[:5, 0].tolist() == [2.8, 7.8, 12.8, 17.8, 22.8]
    assert env.data.mocap_pos[:5, 1].tolist() == [1.5, -1.5, 1.5, -1.5, 1.5]
    assert env.data.mocap_pos[5:, 1].tolist() == [3.5, -3.5]
    assert env.observation_space.shape == (105 + 10,)


# Rewards, by hand


def test_standing_up_and_running_is_rewarded_by_its_five_terms():
    env = gym.make("HumanoidStandupAndRun-v0")
    env.reset(seed=0)
    unwrapped = env.unwrapped
    mass = unwrapped.model.body_mass

    def centre():
        return float(mass @ unwrapped.data.xipos[:, 0] / mass.sum())

    before, action = centre(), np.full(17, 0.2, dtype=np.float32)
    _, reward, terminated, _, info = env.step(action)
    forces = min(5e-7 * np.square(unwrapped.data.cfrc_ext).sum(), 10)
    expected = unwrapped.data.qpos[2] / 0.003 + 0.25 * (centre() - before) / 0.003 + 1 - 0.1 * 17 * 0.04 - forces
    assert reward == pytest.approx(expected, rel=1e-5)
    assert not terminated
    assert sum(value for key, value in info.items() if key.startswith("reward_")) == pytest.approx(reward)
    qpos = unwrapped.init_qpos.copy()
    qpos[2] = 1.5
    unwrapped.set_state(qpos, np.zeros_like(unwrapped.init_qvel))
    assert env.step(action)[4]["reward_alive"] == 5


def test_pushers_begin_where_they_should():
    sides = set()
    for env_id, low, high in (
        ("PusherMovingGoal-v0", (-0.2, -0.1), (0.0, 0.3)),
        ("PusherLeftSide-v0", (-0.05, -1.123), (-0.05, -1.123)),
    ):
        env = make(env_id)
        goals = np.array([env.reset()[0] is not None and env.data.qpos[-2:].copy() for _ in range(20)])
        assert (goals >= low).all()
        assert (goals <= high).all()
        assert len(np.unique(goals[:, 0])) == (20 if "Moving" in env_id else 1)
    env = make("PusherFullRange-v0")
    for _ in range(20):
        env.reset()
        goal, cylinder = env.data.qpos[-2:].copy(), env.data.qpos[-4:-2]
        sides.add(tuple(goal))
        assert np.linalg.norm(goal - cylinder) > 0.17
    assert sides == {(-0.05, -1.123), (0.0, 0.0)}
    assert env.model.joint("r_shoulder_pan_joint").range.tolist() == [-0.854, 2.714602]


def test_a_strike_is_remembered():
    """Before the strike the hand's distance counts, then that from where the hand was."""
    env = make("StrikerMovingStart-v0")
    assert 0.43 <= env.data.body("object").xpos[0] <= 0.55
    action = np.zeros(7, dtype=np.float32)
    _, reward, *_, info = env.step(action)
    hand, ball, goal = (env.data.body(name).xpos.copy() for name in ("tips_arm", "object", "goal"))
    assert info["reward_near"] == pytest.approx(-0.5 * np.linalg.norm(ball - hand))
    assert info["reward_dist"] == pytest.approx(-3 * np.linalg.norm(ball - goal))
    assert reward == pytest.approx(info["reward_dist"] + info["reward_near"])
    *_, costly = env.step(action + 2)
    assert costly["reward_ctrl"] == pytest.approx(-0.1 * 7 * 4)
    qpos = env.data.qpos.copy()
    qpos[7:9] = hand[1], hand[0]  # the ball under the hand
    env.set_state(qpos, np.zeros_like(env.init_qvel))
    under = np.linalg.norm(env.data.body("object").xpos - env.data.body("tips_arm").xpos)
    env.strike_distance = under + 0.01
    env.step(action)
    struck_at = env.data.body("tips_arm").xpos.copy()
    nearest = info["reward_dist"]
    qpos[7:9] = 5.0, 5.0
    env.set_state(qpos, np.zeros_like(env.init_qvel))
    *_, info = env.step(action)
    away = np.linalg.norm(env.data.body("object").xpos - struck_at)
    assert info["reward_near"] == pytest.approx(-0.5 * away, abs=0.01)
    assert info["reward_dist"] >= nearest


def test_the_ball_can_be_struck_and_meets_the_goals_back():
    model = make("Striker-v0").model
    ball = next(i for i in range(model.ngeom) if model.geom_bodyid[i] == model.body("object").id)
    paddle = model.geom("paddle").id
    backs = [
        i for i in range(model.ngeom) if model.geom_bodyid[i] == model.body("goal").id and model.geom_conaffinity[i]
    ]
    assert len(backs) == 3
    for other in (paddle, *backs):
        assert model.geom_contype[ball] & model.geom_conaffinity[other]


def test_the_goal_stays_where_it_is_until_the_ball_meets_its_back():
    env = make("StrikerMovingStart-v0")
    action = np.zeros(7, dtype=np.float32)
    goal = env.data.qpos[9:16].copy()
    for _ in range(50):
        env.step(action)
    np.testing.assert_allclose(env.data.qpos[9:16], goal, atol=1e-9)
    qpos, qvel = env.data.qpos.copy(), np.zeros(env.model.nv)
    to_goal = goal[:2] - np.array([qpos[8], qpos[7]])
    qpos[8], qpos[7] = goal[:2] - 0.15 * to_goal / np.linalg.norm(to_goal)
    qvel[8], qvel[7] = 2 * to_goal / np.linalg.norm(to_goal)
    env.set_state(qpos, qvel)
    for _ in range(10):
        env.step(action)
    assert np.linalg.norm(env.data.body("object").xpos[:2] - goal[:2]) < 0.1  # it did not roll on


# Task sets and sampled bodies


@pytest.mark.parametrize("name", mt.TASK_SETS)
def test_task_sets_share_their_spaces(name):
    tasks = mt.TASK_SETS[name]
    n = int("".join(filter(str.isdigit, name.replace("2d", ""))))
    assert len(tasks) == n
    spaces = [(gym.make(task.env_id).observation_space.shape, gym.make(task.env_id).action_space) for task in tasks]
    assert all(space == spaces[0] for space in spaces)


@pytest.mark.native
def test_sampled_bodies_are_reproducible_and_of_any_size():
    bodies = mt.sample_bodies("Hopper", 12, (0.8, 1.1), seed=1)
    assert mt.sample_bodies("Hopper", 5, (0.8, 1.1), seed=1) == bodies[:5]
    assert mt.sample_bodies("Hopper", 5, (0.8, 1.1), seed=2) != bodies[:5]
    factors = np.array([list(task.env_kwargs["scales"].values()) for task in bodies])
    assert factors.shape == (12, 4)
    assert ((factors >= 0.8) & (factors <= 1.1)).all()
    assert len(np.unique(factors)) == 48
    env = mt.make_multitask_vec_env(bodies, 1, seed=0)
    assert env.unwrapped.backend == "batch"
    model = bodies[3].make().unwrapped.model
    assert model.geom("foot_geom").size[0] == pytest.approx(0.06 * bodies[3].env_kwargs["scales"]["Foot"])


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"robot": "HalfCheeta"}, "Did you mean 'HalfCheetah'"),
        ({"n": 0}, "`n` must be an integer from 1 on"),
        ({"n": 2.5}, "`n` must be an integer from 1 on"),
        ({"n": True}, "`n` must be an integer from 1 on"),
        ({"seed": None}, "`seed` must be an integer from 0 on"),
        ({"seed": -1}, "`seed` must be an integer from 0 on"),
        ({"scale": 1.0}, "`scale` must be"),
        ({"scale": (1.2, 0.8)}, "`scale` must be"),
        ({"scale": (0.8, "1.2")}, "`scale` must be"),
        ({"scale": (0.0, 0.8)}, "`scale` must be"),
    ],
)
def test_bad_samples_are_refused(kwargs, message):
    with pytest.raises(ValueError, match=message):
        mt.sample_bodies(**kwargs)


def test_parts_are_known_by_name():
    with pytest.raises(ValueError, match="Unknown part 'Feet'.*Foot"):
        morphology_of("Hopper", "Feet", 1.1)
    env = gym.make("MultiTask/Walker2dBody-v0", scales={"Foot": 1.2, "Leg": 0.9}, gravity=-5.0).unwrapped
    assert env.model.geom("foot_left_geom").size[0] == pytest.approx(0.06 * 1.2)
    assert env.model.opt.gravity[2] == -5
    for robot, parts in PARTS.items():
        geoms = {gym.make(f"{robot}-v5").unwrapped.model.geom(geom).id for part in parts.values() for geom in part}
        assert len(geoms) == sum(map(len, parts.values()))


@pytest.mark.parametrize("env_id", ["HumanoidWall-v0", "StrikerMovingStart-v0", "HopperSimpleWall-v0"])
def test_gymnasiums_environments_resume_exactly_too(env_id):
    env, other = (gym.make(env_id) for _ in range(2))
    assert why_inexact(env) is None
    actions = np.random.default_rng(0).uniform(-0.4, 0.4, (30, *env.action_space.shape)).astype(np.float32)
    env.reset(seed=0)
    other.reset(seed=1)
    for action in actions[:5]:
        env.step(action)
    set_env_state(other, get_env_state(env))
    for action in actions:
        mine, theirs = env.step(action), other.step(action)
        np.testing.assert_array_equal(mine[0], theirs[0])
        assert mine[1:3] == theirs[1:3]
    np.testing.assert_array_equal(env.reset()[0], other.reset()[0])


@pytest.mark.parametrize(
    ("env_id", "condim"),
    [
        ("HopperSimpleWall-v0", 1),
        ("HumanoidWall-v0", 1),
        ("HumanoidStandupAndRunWall-v0", 1),
        ("HopperStairs-v0", 3),
        ("Walker2dWall-v0", 3),
        ("HalfCheetahWall-v0", 3),
        ("AntMaze-v0", 3),  # its walls say 1; MuJoCo takes the larger of the two geoms', and Ant's is 3
    ],
)
def test_obstacles_have_the_friction_of_2017(env_id, condim):
    model = make(env_id).model
    walls = model.geom_group == GROUP
    robot = ~walls & (model.geom_bodyid != 0)
    assert set(np.maximum.outer(model.geom_condim[walls], model.geom_condim[robot]).ravel()) == {condim}
    assert not model.geom_priority.any()


def far_wall(**kwargs):
    env = gym.make("HalfCheetahWall-v0", **kwargs)
    env.unwrapped.wall_range = (9.0, 9.0)
    return env


def near_wall(**kwargs):
    env = gym.make("HalfCheetahWall-v0", **kwargs)
    env.unwrapped.wall_range = (1.8, 1.8)
    return env


@pytest.mark.native
def test_copies_that_factories_made_differ_on_the_native_backend_too():
    tasks = [mt.Task("near", near_wall), mt.Task("far", far_wall)]
    native, reference = (mt.MultiTaskVecEnv(tasks, 1, seed=0, backend=backend) for backend in ("batch", "dummy"))
    np.testing.assert_array_equal(native.reset()["obs"], reference.reset()["obs"])


@pytest.mark.native
@pytest.mark.parametrize("kwargs", [{"main_body": "torso"}, {"contact_force_range": np.array([-2.0, 2.0])}])
def test_other_settings_of_ant_run_natively(kwargs):
    native, reference = (
        mt.MultiTaskVecEnv([mt.Task("a", "Ant-v5", kwargs)], 2, seed=0, backend=backend)
        for backend in ("batch", "dummy")
    )
    for mine, theirs in zip(raw_steps(native, 30), raw_steps(reference, 30), strict=True):
        if not isinstance(mine, tuple):
            np.testing.assert_array_equal(mine.obs, theirs.obs)
            np.testing.assert_array_equal(mine.rewards, theirs.rewards)


def test_striker_takes_any_frame_skip():
    env = gym.make("Striker-v0", frame_skip=2)
    assert env.metadata["render_fps"] == 50


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"scales": 0.8}, TypeError, "`scales` must map parts to factors"),
        ({"scales": {"Foot": "big"}}, ValueError, "`scale` must be a positive, finite number"),
        ({"scales": {"Foot": True}}, ValueError, "`scale` must be a positive, finite number"),
        ({"gravity": "low"}, ValueError, "`gravity` must be a finite number"),
        ({"gravity": np.float32("nan")}, ValueError, "`gravity` must be a finite number"),
        ({"morphology": "Foot"}, TypeError, "`morphology` must be a Morphology"),
    ],
)
def test_bad_bodies_are_refused(kwargs, error, message):
    with pytest.raises(error, match=message):
        gym.make("MultiTask/HopperBody-v0", **kwargs)


def test_ant_has_no_named_parts():
    with pytest.raises(ValueError, match="Ant has no parts"):
        gym.make("MultiTask/AntBody-v0", scales={"Leg": 1.1})


@pytest.mark.parametrize("geoms", ["foot", (), (1,), ["foot"]])
def test_geoms_are_a_tuple_of_names(geoms):
    with pytest.raises(ValueError, match="`geoms` must be a non-empty tuple of geom names"):
        mt.Morphology(geoms, 1.1)


def test_numpys_numbers_are_numbers():
    env = gym.make("MultiTask/HopperBody-v0", scales={"Foot": np.float64(1.25)}, gravity=np.float32(-5)).unwrapped
    assert (env.model.geom("foot_geom").size[0], env.model.opt.gravity[2]) == (0.075, -5)


def test_making_a_task_says_nothing_and_leaves_nothing(tmp_path, monkeypatch, capfd):
    """MuJoCo calls an attribute of half_cheetah.xml deprecated, on the terminal and in a file."""
    monkeypatch.chdir(tmp_path)
    mt.Task("a", "HalfCheetah-v5").make().close()
    assert capfd.readouterr() == ("", "")
    assert not any(tmp_path.iterdir())
