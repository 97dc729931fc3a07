"""Read the folder of a training of rl_zoo3 without executing anything in it."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from pathlib import Path
from typing import Any

import gymnasium as gym

from sb3_multitask.storage.yaml_files import ConfigError, load_values
from sb3_multitask.tasks import TASK_SETS, Task, resolve_tasks, set_id

_NO_OBS = re.compile(r"\bnorm_obs['\"]?\s*[=:]\s*False\b")
"""A pattern in the Python text that rl_zoo3 may write as ``normalize``, which is not executed here."""
_WRAPPERS = ("env_wrapper", "vec_env_wrapper", "frame_stack")


@dataclass(frozen=True)
class ZooFolder:
    """Paths and small files of one training: ``logs/<algo>/<env name>_<number>/``.

    :param path: the folder
    :param env_name: the environment's id with ``-`` for ``/``; names the last model and the folder of settings
    :param chosen: a model in it, such as the best or a checkpoint; ``None`` for the last
    """

    path: Path
    env_name: str
    chosen: Path | None = None

    @classmethod
    def at(cls, path: str | Path) -> ZooFolder | None:
        """Return the training in a folder, or the training of a zip in it; None if it is not rl_zoo3's.

        None as well if the settings next to a zip are not its own or cannot be read: the zip can still be read alone.
        """
        path = Path(path)
        chosen = path if path.suffix == ".zip" and not path.is_dir() else None
        settings = sorted((path.parent if chosen else path).glob("*/args.yml"))
        if not settings:
            return None
        training = cls(settings[0].parents[1], settings[0].parent.name, chosen)
        if chosen is None:
            return training
        try:
            arguments, _ = training.arguments, training.hyperparameters
        except ConfigError:
            return None
        return training if _dashed(str(arguments.get("env"))) == training.env_name else None

    @property
    def model(self) -> Path:
        """Path of the chosen model, or of the last.

        :raises FileNotFoundError: if the training did not end; names the existing models
        """
        model = self.chosen or self.path / f"{self.env_name}.zip"
        if self.chosen is not None or model.is_file():
            return model
        others = ", ".join(path.name for path in sorted(self.path.glob("*.zip"))) or "none"
        raise FileNotFoundError(
            f"{self.path} has no {model.name}: its training did not end, or the file was not copied along. Models in "
            f"it, which can be given themselves: {others}"
        )

    @property
    def statistics(self) -> Path | None:
        """The file of the model's normaliser; None if its observations are not normalised.

        :raises FileNotFoundError: if observations are normalised and the file is missing
        """
        normalize = self.hyperparameters.get("normalize", False)
        if normalize is False or (isinstance(normalize, dict) and normalize.get("norm_obs") is False):
            return None
        if isinstance(normalize, str) and _NO_OBS.search(normalize):
            return None
        path = statistics_beside(self.model, self.env_name)
        if path is None:
            raise FileNotFoundError(f"The statistics of the normaliser of {self.model} are missing (vecnormalize.pkl)")
        return path

    @cached_property
    def hyperparameters(self) -> dict[str, Any]:
        """Contents of ``config.yml``.

        :raises ConfigError: if it cannot be read
        """
        return self._values("config.yml")

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """The flags, from ``args.yml``; raises as :attr:`hyperparameters`."""
        return self._values("args.yml")

    @property
    def command(self) -> str:
        """The training's command line: the interpreter without its folder, and the seed even if it was drawn."""
        try:
            program, *flags = shlex.split((self.path / self.env_name / "command.txt").read_text(encoding="utf-8"))
        except (OSError, ValueError):
            return "unknown"
        seed = self.arguments.get("seed")
        if seed is not None and ("--seed", str(seed)) not in pairwise(flags):
            flags += ["--seed", str(seed)]
        return shlex.join([Path(program).name, *flags])

    @property
    def env_id(self) -> str:
        """The environment's id.

        :raises ValueError: if no environment of this name is registered
        """
        for env_id in (*map(set_id, TASK_SETS), *gym.registry):
            if _dashed(env_id) == self.env_name:
                return env_id
        raise ValueError(f"{self.path}: no environment is registered that is called {self.env_name}")

    @property
    def own_id(self) -> str:
        """The environment's id in the training, registered here or not."""
        env_id = self.arguments.get("env")
        return env_id if isinstance(env_id, str) and _dashed(env_id) == self.env_name else self.env_name

    @property
    def wrapper(self) -> str | None:
        """The environment's wrapper, from ``config.yml``; None without one."""
        layers = {name: self.hyperparameters.get(name) for name in _WRAPPERS}
        return ", ".join(f"{name}: {layer}" for name, layer in layers.items() if layer) or None

    @property
    def tasks_of_one_head(self) -> tuple[Task, ...] | None:
        """As :attr:`tasks`, but None if the environment is not registered, or was inside a wrapper.

        The ids of rl_zoo3's agents often no longer exist, or a wrapper made the observations.
        """
        registered = any(_dashed(env_id) == self.env_name for env_id in gym.registry)
        return self.tasks if registered and self.wrapper is None else None

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks of the agent's heads, with the arguments of the environments of its evaluations.

        :raises ValueError: if they are not known
        """
        kwargs = self.env_kwargs
        return tuple(
            Task(task.name, task.env_id, {**task.kwargs_of(), **kwargs}) for task in resolve_tasks(self.env_id)
        )

    @property
    def env_kwargs(self) -> dict[str, Any]:
        """The arguments of the environments of its evaluations: from the config, or from the flags.

        :raises ValueError: if they are not known
        """
        kwargs = self.arguments.get("eval_env_kwargs")
        if kwargs is None:
            kwargs = self.hyperparameters.get("env_kwargs") or self.arguments.get("env_kwargs") or {}
        if not isinstance(kwargs, Mapping):
            raise ValueError(f"{self.path}: the arguments of the environments must be a mapping (got {kwargs!r})")
        return dict(kwargs)

    def _values(self, name: str) -> dict[str, Any]:
        try:
            return load_values(self.path / self.env_name / name)
        except ConfigError as e:
            raise ConfigError(f"{e}. The model alone can be read: {self.path / f'{self.env_name}.zip'}") from e


def statistics_beside(model_path: str | Path, env_name: str) -> Path | None:
    """Return the file of the normaliser that goes with a model of a zoo folder; None if there is none.

    The best model and checkpoints have their own files; the other models use the folder's ``vecnormalize.pkl``.

    :param env_name: the id with dashes, which is the name of the folder's sub-folder
    """
    path = Path(model_path)
    folder = path.parent / env_name
    candidates = [
        folder / f"{path.stem}_vecnormalize.pkl",
        path.with_name(path.stem.replace("rl_model_", "rl_model_vecnormalize_") + ".pkl"),
        folder / "vecnormalize.pkl",
    ]
    return next((candidate for candidate in candidates if candidate.is_file()), None)


def _dashed(env_id: str) -> str:
    return env_id.replace("/", "-")
