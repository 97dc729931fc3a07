"""A module that registers environments when it is imported, as people's own packages do."""

import gymnasium as gym
from helpers.drift import DriftEnv, ReachingEnv
from helpers.reach import ReachEnv

for name in ("Own/Arm-v0", "Own/HeavyArm-v0"):
    gym.register(name, DriftEnv, disable_env_checker=True)
gym.register("Own/Reach-v0", ReachingEnv, kwargs={"at": ((1,),), "horizon": 4}, disable_env_checker=True)
gym.register("Own/Miss-v0", ReachingEnv, kwargs={"horizon": 4}, disable_env_checker=True)
for name in ("Own/Goal-v0", "Own/OtherGoal-v0"):
    gym.register(name, ReachEnv, disable_env_checker=True)
