"""The normaliser's statistics beside a model in a zoo folder, or in the model's own file: kept, and gone on with."""

from __future__ import annotations

import os
from pathlib import Path
from typing import NamedTuple

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.save_util import load_from_zip_file

from sb3_multitask.algorithms import has_ability
from sb3_multitask.readers.zoo_folder import statistics_beside
from sb3_multitask.storage.yaml_files import ConfigError


class EarlierModel(NamedTuple):
    """The model that training goes on with (``-i``).

    :param path: its zip
    :param env_name: the environment's id with ``-`` for ``/``, which names the folder of settings beside it
    :param algorithm: its class
    """

    path: str
    env_name: str
    algorithm: type[BaseAlgorithm]

    @property
    def carries_statistics(self) -> bool:
        """Whether its own file holds its statistics, if it has any."""
        return has_ability(self.algorithm, "carries_statistics")

    @property
    def statistics_file(self) -> Path | None:
        """The file beside it that holds its statistics; None if it has none, or carries them."""
        return None if self.carries_statistics else statistics_beside(self.path, self.env_name)

    @property
    def is_normalized(self) -> bool:
        """Whether there are statistics of its normaliser."""
        if not self.carries_statistics:
            return self.statistics_file is not None
        saved, _, _ = load_from_zip_file(self.path, device="cpu")
        return any((saved or {}).get(name) is not None for name in ("normalizer_settings", "normalizer_state"))


def check_same_normalization(model: EarlierModel, normalize: bool) -> None:
    """Raise unless training normalises observations as that of an earlier model did.

    :raises ConfigError: says how to go on with it
    """
    if normalize == model.is_normalized:
        return
    if normalize:
        where = "in it" if model.carries_statistics else "as vecnormalize.pkl beside it"
        raise ConfigError(
            f"-i {model.path} has no statistics of a normaliser, {where}: if it was trained on raw observations, go on "
            "with -params normalize:false"
        )
    raise ConfigError(f"-i {model.path} was trained on normalised observations: go on with -params normalize:true")


class SaveStatistics(BaseCallback):
    """Save the normaliser as the zoo does, and once more for the best model alone."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def _on_step(self) -> bool:
        normalizer = self.model.get_vec_normalize_env()
        assert normalizer is not None
        self.folder.mkdir(parents=True, exist_ok=True)
        for name in ("vecnormalize.pkl", "best_model_vecnormalize.pkl"):
            normalizer.save(os.fspath(self.folder / name))
        return True
