"""The model that a run trains, and the files that it leaves."""

from __future__ import annotations

from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_multitask.algorithms import ALGORITHMS, has_ability
from sb3_multitask.algorithms.env_checks import warn_of_other_gamma
from sb3_multitask.distillation.dataset import TeacherDataset
from sb3_multitask.experiments.config import TrainConfig
from sb3_multitask.experiments.run_folder import RunFolder
from sb3_multitask.policies import MultiTaskActorCriticPolicy
from sb3_multitask.storage.yaml_files import ConfigError
from sb3_multitask.vec_env.layers import task_normalizer_of


def make_algorithm(
    config: TrainConfig, env: VecEnv, verbose: int, dataset: TeacherDataset | None = None
) -> OnPolicyAlgorithm:
    """The model that a run trains.

    :param dataset: that it learns from, if it learns offline
    :raises ConfigError: on an argument that the algorithm does not have
    """
    algorithm, kwargs = ALGORITHMS[config.algo], config.algorithm_kwargs()
    if kwargs["policy"] == TrainConfig.model_fields["policy"].default:  # a name that SB3's own algorithms do not know
        kwargs["policy"] = MultiTaskActorCriticPolicy
    if not has_ability(algorithm, "carries_statistics"):  # those that do look at the env's normaliser themselves
        warn_of_other_gamma(kwargs.get("gamma", 0.99), task_normalizer_of(env))
    if dataset is not None:
        kwargs["dataset"] = dataset
    try:
        return algorithm(env=env, verbose=verbose, **kwargs)
    except (TypeError, AssertionError) as e:  # SB3 asserts, for one, the size of a batch
        if not config.algo_kwargs and isinstance(e, TypeError):
            raise
        raise ConfigError(f"algo_kwargs of algo {config.algo!r}: {e}") from e


def save_model(model: OnPolicyAlgorithm, folder: RunFolder) -> None:
    """Save a model; the normaliser's statistics go beside it if its file does not hold them."""
    model.save(folder.model)
    normalizer = model.get_vec_normalize_env()
    if normalizer is not None and not has_ability(model, "carries_statistics"):
        normalizer.save(str(folder.vec_normalize))
