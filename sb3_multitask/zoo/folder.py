"""The folder that a training of rl_zoo3 left, read without executing anything in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import gymnasium as gym

from sb3_multitask.tasks import TASK_SETS, Task, resolve_tasks, set_id


@dataclass(frozen=True)
class ZooFolder:
    """Paths and small files of one training: ``logs/<algo>/<env name>_<number>/``.

    :param path: the folder
    :param env_name: the environment's id with ``-`` for ``/``; names the last model and the folder of settings
    """

    path: Path
    env_name: str

    @classmethod
    def at(cls, path: str | Path) -> ZooFolder | None:
        """The training in a folder; None if rl_zoo3 left none there."""
        path = Path(path)
        settings = sorted(path.glob("*/args.yml"))
        return cls(path, settings[0].parent.name) if settings else None

    @property
    def model(self) -> Path:
        """The last model.

        :raises FileNotFoundError: if the training did not end; names the models that are there
        """
        model = self.path / f"{self.env_name}.zip"
        if model.is_file():
            return model
        others = ", ".join(path.name for path in sorted(self.path.glob("*.zip"))) or "none"
        raise FileNotFoundError(
            f"{self.path} has no {model.name}, since its training did not end. Models in it, which can be given "
            f"themselves: {others}"
        )

    @property
    def statistics(self) -> Path | None:
        """The file of the last model's normaliser; None if its observations are not normalised."""
        normalize = self.hyperparameters.get("normalize")
        if isinstance(normalize, dict) and normalize.get("norm_obs") is False:
            return None
        return statistics_beside(self.path / f"{self.env_name}.zip", self.env_name)

    @cached_property
    def hyperparameters(self) -> dict[str, Any]:
        """What ``config.yml`` says.

        :raises ConfigError: if it cannot be read, or needs a loader that executes it, as what rl_zoo3 writes itself
        """
        return self._values("config.yml")

    @cached_property
    def arguments(self) -> dict[str, Any]:
        """The flags, as ``args.yml`` says; raises as :attr:`hyperparameters`."""
        return self._values("args.yml")

    @property
    def command(self) -> str:
        """What was started, without the folders that the interpreter lies in."""
        try:
            program, *flags = (self.path / self.env_name / "command.txt").read_text(encoding="utf-8").split()
        except (OSError, ValueError):
            return "unknown"
        return " ".join([Path(program).name, *flags])

    @property
    def env_id(self) -> str:
        """The environment's id.

        :raises ValueError: if none of that name is registered
        """
        for env_id in (*map(set_id, TASK_SETS), *gym.registry):
            if _dashed(env_id) == self.env_name:
                return env_id
        raise ValueError(f"{self.path}: no environment is registered that is called {self.env_name}")

    @property
    def tasks(self) -> tuple[Task, ...]:
        """What the agent's heads are for, with the arguments of the environments that it was evaluated on.

        :raises ValueError: if they are not known
        """
        kwargs = self.env_kwargs
        return tuple(Task(task.name, task.env_id, {**task.env_kwargs, **kwargs}) for task in resolve_tasks(self.env_id))

    @property
    def env_kwargs(self) -> dict[str, Any]:
        """The arguments of the environments that the agent was evaluated on: the config's, or those of the flags.

        :raises ValueError: if they are not known
        """
        kwargs = self.arguments.get("eval_env_kwargs")
        if kwargs is None:
            kwargs = self.hyperparameters.get("env_kwargs") or self.arguments.get("env_kwargs") or {}
        if not isinstance(kwargs, Mapping):
            raise ValueError(f"{self.path}: the arguments of the environments must be a mapping (got {kwargs!r})")
        return dict(kwargs)

    def _values(self, name: str) -> dict[str, Any]:
        from sb3_multitask.experiments.config import ConfigError, load_values  # which import the algorithms

        try:
            return load_values(self.path / self.env_name / name)
        except ConfigError as e:
            raise ConfigError(
                f"{e}. What rl_zoo3 writes for its own algorithms needs a loader that executes it. The model alone can "
                f"be read: {self.path / f'{self.env_name}.zip'}"
            ) from e


def statistics_beside(model_path: str | Path, env_name: str) -> Path | None:
    """The file of the normaliser that goes with a model of a zoo folder; None if there is none.

    Those of the moment: of the best model, of a checkpoint; else the folder's ``vecnormalize.pkl``.

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
