"""What we rely on in SB3 and MuJoCo without their promising it; a failure here explains failures elsewhere."""

import inspect

import mujoco
import numpy as np
import torch as th
from gymnasium.envs.mujoco.mujoco_env import expand_model_path
from stable_baselines3 import A2C
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.distributions import DiagGaussianDistribution
from stable_baselines3.common.logger import HumanOutputFormat
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecNormalize

from sb3_multitask import A2CMultiTask
from sb3_multitask.envs.edited_model import compile_model


def test_our_constructor_has_all_of_a2cs_arguments_and_defaults():
    theirs = inspect.signature(A2C.__init__).parameters
    ours = inspect.signature(A2CMultiTask.__init__).parameters
    for name, parameter in theirs.items():
        assert ours[name].default == parameter.default, name
    extra = set(ours) - set(theirs)
    assert all(ours[name].default is not inspect.Parameter.empty for name in extra)  # load() leaves them out


def test_hooks_we_override_exist():
    for cls, names in {
        OnPolicyAlgorithm: ["_setup_model", "dump_logs", "collect_rollouts"],
        BaseAlgorithm: ["_wrap_env", "_setup_learn", "_update_info_buffer", "_get_policy_from_name"],
        VecNormalize: ["normalize_obs", "normalize_reward", "set_venv", "step_wait"],
    }.items():
        assert all(callable(getattr(cls, name)) for name in names)


def test_load_rebuilds_the_class_without_our_arguments():
    source = inspect.getsource(BaseAlgorithm.load)
    assert "_init_setup_model=False" in source
    assert "model.__dict__.update(data)" in source


def test_the_logger_cuts_long_keys():
    assert "max_length" in inspect.signature(HumanOutputFormat.__init__).parameters


def test_a_gaussian_takes_one_standard_deviation_a_row():
    dist = DiagGaussianDistribution(2).proba_distribution(th.zeros(3, 2), th.tensor([[0.0, 1], [2, 3], [4, 5]]))
    th.testing.assert_close(dist.distribution.stddev.log(), th.tensor([[0.0, 1], [2, 3], [4, 5]]))


def test_setting_the_total_mass_afterwards_is_the_same(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = expand_model_path("half_cheetah.xml")
    mujoco.set_mju_user_warning(lambda _message: None)
    try:
        deprecated = mujoco.MjModel.from_xml_path(path)
    finally:
        mujoco.set_mju_user_warning(None)
    ours = compile_model(path)
    for name in ("body_mass", "body_inertia", "body_ipos", "geom_size", "dof_invweight0", "body_invweight0"):
        np.testing.assert_array_equal(getattr(ours, name), getattr(deprecated, name))
