"""A study holds trials that can be compared: of one score, one budget and one config."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna

from sb3_multitask.storage.yaml_files import ConfigError

_SETTINGS = "settings"
"""The study's user attribute that says what its trials have in common."""


def check_study(storage: str, name: str, settings: Mapping[str, Any]) -> None:
    """Make a study, or see that one of this name holds trials that those to come can be compared with.

    :param storage: a journal, ``.log``, or a database's URL
    :param name: of the study
    :param settings: what all trials have in common
    :raises ConfigError: if the study's trials had other ones; names what differs
    """
    if storage.endswith(".log"):
        Path(storage).parent.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=open_storage(storage), study_name=name, load_if_exists=True, direction="maximize"
    )  # as the zoo will
    now = json.loads(json.dumps(settings, default=str))
    then = study.user_attrs.get(_SETTINGS)
    if then is None:  # new, or of a version that kept the score alone, with each trial
        scores = {trial.user_attrs.get("score") for trial in study.get_trials(deepcopy=False)} - {now["score"]}
        then = {**now, "score": sorted(map(str, scores))[0]} if scores else now
    if different := _differences(then, now):
        raise ConfigError(
            f"--study-name {name}: its trials, in {storage}, cannot be compared with these: {', '.join(different)}. "
            "Give the same settings, or another --study-name"
        )
    study.set_user_attr(_SETTINGS, now)


def open_storage(storage: str) -> Any:
    """What Optuna takes: a journal, ``.log``, as an object; a database by its URL."""
    if not storage.endswith(".log"):
        return storage
    backend = optuna.storages.journal.JournalFileBackend(storage)  # type: ignore[attr-defined]
    return optuna.storages.JournalStorage(backend)


def _differences(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[str]:
    """In words; those of mappings by their keys."""
    found = []
    for key in dict.fromkeys([*then, *now]):
        old, new = then.get(key), now.get(key)
        if old == new:
            continue
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += _differences(old, new)
        else:
            found.append(f"{key} ({old!r:.60} there, {new!r:.60} now)")
    return found
