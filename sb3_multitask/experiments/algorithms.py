"""The algorithms a run can train with: ours, and others on the same policy and VecEnv."""

from __future__ import annotations

from sb3_contrib import TRPO
from stable_baselines3 import PPO
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_multitask.algorithms.a2c import A2CMultiTask
from sb3_multitask.algorithms.env_checks import warn_of_other_gamma
from sb3_multitask.experiments.config import TrainConfig
from sb3_multitask.experiments.run_folder import RunFolder
from sb3_multitask.policies import MultiTaskActorCriticPolicy
from sb3_multitask.storage.yaml_files import ConfigError
from sb3_multitask.vec_env.layers import task_normalizer_of

ALGORITHMS: dict[str, type[OnPolicyAlgorithm]] = {"a2c_mt": A2CMultiTask, "ppo": PPO, "trpo": TRPO}
"""By the name that a config has for them."""


def make_algorithm(config: TrainConfig, env: VecEnv, verbose: int) -> OnPolicyAlgorithm:
    """The model that a run trains.

    :raises ConfigError: on an argument that the algorithm does not have
    """
    kwargs = config.algorithm_kwargs()
    if config.algo != "a2c_mt":
        kwargs["policy"] = MultiTaskActorCriticPolicy
        warn_of_other_gamma(kwargs.get("gamma", 0.99), task_normalizer_of(env))  # A2CMultiTask looks itself
    try:
        return ALGORITHMS[config.algo](env=env, verbose=verbose, **kwargs)
    except (TypeError, AssertionError) as e:  # SB3 asserts, for one, the size of a batch
        if not config.algo_kwargs and isinstance(e, TypeError):
            raise
        raise ConfigError(f"algo_kwargs of algo {config.algo!r}: {e}") from e


def save_model(model: OnPolicyAlgorithm, folder: RunFolder) -> None:
    """Save a model; other algorithms' files do not hold the normaliser's statistics, which go beside them."""
    model.save(folder.model)
    normalizer = model.get_vec_normalize_env()
    if normalizer is not None and not isinstance(model, A2CMultiTask):
        normalizer.save(str(folder.vec_normalize))
