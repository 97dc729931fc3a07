"""Arms that push a cylinder or strike a ball: Pusher with other goals, and Striker."""

from __future__ import annotations

import math
from typing import Any, ClassVar

import mujoco
import numpy as np
from gymnasium import spaces, utils
from gymnasium.envs.mujoco import MujocoEnv
from gymnasium.envs.mujoco.pusher_v5 import PusherEnv

from sb3_multitask.envs.edited_model import EditedModel, compile_model

_PAN = "r_shoulder_pan_joint"
_MIN_DISTANCE = 0.17  # m, between the goal and the object that is pushed or struck
Range = tuple[float, float]


class _PusherWithGoal(EditedModel, PusherEnv):
    """``Pusher-v5`` with other initial states, which :meth:`draw_goal` defines."""

    robot = "Pusher"
    pan_range: ClassVar[Range | None] = None
    """Range of the shoulder's pan joint in rad; None keeps the model's."""

    def edit(self, spec: mujoco.MjSpec) -> None:
        super().edit(spec)
        if self.pan_range is not None:
            spec.joint(_PAN).range = self.pan_range

    def draw_goal(self, generator: np.random.Generator) -> tuple[np.ndarray, tuple[Range, Range]]:
        """Return the goal's (y, x) in m from its place in the model, and the ranges of the cylinder's (y, x)."""
        raise NotImplementedError

    def draw_state(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return positions and velocities that an episode begins with."""
        goal, ranges = self.draw_goal(generator)
        while True:
            cylinder = np.array([generator.uniform(*one) for one in ranges])
            if np.linalg.norm(cylinder - goal) > _MIN_DISTANCE:
                break
        qpos = self.init_qpos.copy()
        qpos[-4:-2], qpos[-2:] = cylinder, goal
        qvel = self.init_qvel + generator.uniform(-0.005, 0.005, self.model.nv)
        qvel[-4:] = 0
        return qpos, qvel

    def reset_model(self) -> Any:
        self.set_state(*self.draw_state(self.np_random))
        return self._get_obs()


class PusherMovingGoalEnv(_PusherWithGoal):
    """``Pusher-v5`` with a goal that is drawn for each episode, 0 to 0.2 m by -0.1 to 0.3 m from its usual place."""

    def draw_goal(self, generator: np.random.Generator) -> tuple[np.ndarray, tuple[Range, Range]]:
        goal = np.array([generator.uniform(-0.2, 0.0), generator.uniform(-0.1, 0.3)])
        return goal, _RIGHT[1]


class PusherLeftSideEnv(_PusherWithGoal):
    """``Pusher-v5`` with goal and cylinder on the arm's left side, and a shoulder that can turn there."""

    pan_range = (-0.854, 2.714602)

    def draw_goal(self, generator: np.random.Generator) -> tuple[np.ndarray, tuple[Range, Range]]:  # noqa: ARG002
        return _LEFT


class PusherFullRangeEnv(_PusherWithGoal):
    """``Pusher-v5`` on a side that is drawn for each episode; the shoulder turns as for the left side."""

    pan_range = (-0.854, 2.714602)

    def draw_goal(self, generator: np.random.Generator) -> tuple[np.ndarray, tuple[Range, Range]]:
        return _LEFT if generator.integers(2) == 0 else _RIGHT


_LEFT = np.array([-0.05, -1.123]), ((-0.3, 0.0), (-1.1, -0.8))
_RIGHT = np.array([0.0, 0.0]), ((-0.3, 0.0), (-0.2, 0.2))


class StrikerEnv(MujocoEnv, utils.EzPickle):
    """An arm strikes a ball towards a goal whose place is drawn for each episode.

    Gymnasium no longer has Striker. This one has the arm of its ``pusher_v5.xml`` with a paddle for a hand, stronger
    motors, a ball, and a goal with a back. They move on a table without gravity or friction.

    **Action** ``Box(-3, 3, (7,), float32)``: torques on the joints in N m.

    **Observation** ``Box(-inf, inf, (23,), float64)``: angles (rad) and velocities (rad/s) of the seven joints, and the
    positions (m) of the hand, the ball and the goal.

    **Reward** ``reward_dist + reward_ctrl + reward_near``, all in ``info``: -3 times the smallest distance (m) between
    ball and goal so far; -0.1 times the sum of the squared actions; and -0.5 times the distance (m) of the ball from
    the hand, or, once they have been within 0.1 m, from where the hand was when they last were.

    **Reset**: ball at (0.5, -0.175) m, goal 0.15 to 0.7 m by 0.1 to 1 m, at least 0.17 m apart; the goal faces the
    ball; joint velocities uniform in ±0.1 rad/s.

    :param kwargs: arguments of ``MujocoEnv``, such as ``render_mode``
    """

    metadata = {"render_modes": ["human", "rgb_array", "depth_array", "rgbd_tuple"]}  # noqa: RUF012
    strike_distance: ClassVar[float] = 0.1  # m

    def __init__(self, xml_file: str = "pusher_v5.xml", frame_skip: int = 5, **kwargs: Any) -> None:
        utils.EzPickle.__init__(self, xml_file, frame_skip, **kwargs)
        self._strike_position: np.ndarray | None = None
        self._nearest = math.inf
        kwargs = {"default_camera_config": {"trackbodyid": 0, "distance": 4.0}, **kwargs}
        space = spaces.Box(-np.inf, np.inf, (23,), np.float64)
        MujocoEnv.__init__(self, xml_file, frame_skip, observation_space=space, **kwargs)
        self.metadata = {**self.metadata, "render_fps": round(1.0 / self.dt)}

    def _initialize_simulation(self) -> tuple[mujoco.MjModel, mujoco.MjData]:
        model = compile_model(self.fullpath, _striker)
        offscreen = model.vis.global_
        offscreen.offwidth = max(offscreen.offwidth, self.width)
        offscreen.offheight = max(offscreen.offheight, self.height)
        return model, mujoco.MjData(model)

    def step(self, action: np.ndarray) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        self.do_simulation(action, self.frame_skip)
        hand, ball, goal = (self.get_body_com(name) for name in ("tips_arm", "object", "goal"))
        self._nearest = min(self._nearest, float(np.linalg.norm(ball - goal)))
        to_hand = np.linalg.norm(ball - hand)
        if to_hand < self.strike_distance:
            self._strike_position = hand.copy()
        near = to_hand if self._strike_position is None else np.linalg.norm(ball - self._strike_position)
        dist, ctrl, near = -3 * self._nearest, -0.1 * float(np.square(action).sum()), -0.5 * near
        if self.render_mode == "human":
            self.render()
        terms = {"reward_dist": dist, "reward_ctrl": ctrl, "reward_near": near}
        return self._get_obs(), float(dist + ctrl + near), False, False, terms

    def draw_state(self, generator: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        """Return positions and velocities that an episode begins with."""
        ball = self.draw_ball(generator)
        while True:
            goal = np.array([generator.uniform(0.15, 0.7), generator.uniform(0.1, 1.0)])
            if np.linalg.norm(ball - goal) > _MIN_DISTANCE:
                break
        qpos = self.init_qpos.copy()
        qpos[7:9] = ball[::-1]  # the ball slides along y, then along x
        qpos[9:11] = goal
        angle = -math.atan((ball[0] - goal[0]) / (ball[1] - goal[1] + 1e-8))
        qpos[12:16] = math.cos(angle / 2), 0, 0, math.sin(angle / 2)
        qvel = self.init_qvel + generator.uniform(-0.1, 0.1, self.model.nv)
        qvel[7:] = 0
        return qpos, qvel

    def draw_ball(self, generator: np.random.Generator) -> np.ndarray:  # noqa: ARG002
        """Return the initial position of the ball, (x, y) in m."""
        return np.array([0.5, -0.175])

    def reset_model(self) -> np.ndarray:
        self._nearest, self._strike_position = math.inf, None
        self.set_state(*self.draw_state(self.np_random))
        return self._get_obs()

    def _get_obs(self) -> np.ndarray:
        bodies = [self.get_body_com(name) for name in ("tips_arm", "object", "goal")]
        return np.concatenate((self.data.qpos[:7], self.data.qvel[:7], *bodies))


class StrikerMovingStartEnv(StrikerEnv):
    """:class:`StrikerEnv` with a ball whose start is drawn for each episode: 0.43 to 0.55 m by -0.3 to -0.05 m."""

    def draw_ball(self, generator: np.random.Generator) -> np.ndarray:
        return np.array([generator.uniform(0.43, 0.55), generator.uniform(-0.3, -0.05)])


def _delete(spec: mujoco.MjSpec, element: Any) -> None:
    """Remove a geom, or a body with its contents, from ``spec``."""
    if hasattr(spec, "delete"):
        spec.delete(element)
    elif isinstance(element, mujoco.MjsBody):  # MuJoCo before 3.3.4 has no MjSpec.delete
        spec.detach_body(element)
    else:
        element.delete()


def _striker(spec: mujoco.MjSpec) -> None:
    """Turn Gymnasium's pusher into a striker: a paddle for its hand, a ball for the cylinder, a goal with a back."""
    for geom in spec.geoms:
        geom.friction = [0.0, 0.0, 0.0]
    for actuator in spec.actuators:
        actuator.ctrlrange = [-3.0, 3.0]
    for tip in ("tip_arml", "tip_armr"):
        _delete(spec, spec.geom(tip))
    touchable = {"contype": 3, "conaffinity": 1, "friction": [0.0, 0.0, 0.0]}
    paddle = {"type": mujoco.mjtGeom.mjGEOM_BOX, "pos": [0.017, 0, 0], "size": [0.003, 0.12, 0.05]}
    spec.body("tips_arm").add_geom(name="paddle", density=300, condim=1, margin=0.002, **paddle, **touchable)
    for prongs in spec.body("r_wrist_roll_link").geoms[1:]:
        _delete(spec, prongs)  # keeps the bar across
    for name in ("object", "goal"):
        _delete(spec, spec.body(name))
    ball = spec.worldbody.add_body(name="object", pos=[0, 0, -0.27])
    ball.add_geom(
        type=mujoco.mjtGeom.mjGEOM_SPHERE, size=[0.05, 0, 0], density=300, condim=1, margin=0.002,
        contype=3, conaffinity=0, friction=[0.0, 0.0, 0.0],
    )  # fmt: skip
    for name, axis in (("obj_slidey", [0, 1, 0]), ("obj_slidex", [1, 0, 0])):
        ball.add_joint(
            name=name, type=mujoco.mjtJoint.mjJNT_SLIDE, axis=axis, damping=0.5, armature=0.1, range=[-10.3213, 10.3]
        )
    goal = spec.worldbody.add_body(name="goal", pos=[0, 0, -0.323])
    goal.add_freejoint(name="goal_free")
    goal.add_geom(
        type=mujoco.mjtGeom.mjGEOM_CYLINDER, size=[0.08, 0.001, 0], density=1e6, contype=0, conaffinity=0,
        rgba=[1, 0, 0, 1],
    )  # fmt: skip
    for angle in (-math.pi / 4, 0, math.pi / 4):
        goal.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX, size=[0.032, 0.001, 0.04], density=300, condim=1, margin=0.002,
            contype=0, conaffinity=2, friction=[0.0, 0.0, 0.0],  # ball and paddle; the table would kick it off
            pos=[-0.075 * math.sin(angle), 0.075 * math.cos(angle), 0.04],
            quat=[math.cos(angle / 2), 0, 0, math.sin(angle / 2)],
        )  # fmt: skip
