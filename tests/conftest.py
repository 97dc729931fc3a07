"""Fixtures and hooks of the tests; what else they share is in helpers/."""

from __future__ import annotations

import pytest
import torch as th
from helpers.drift import drift_tasks

import sb3_multitask as mt
from sb3_multitask.process import kernels as loading
from sb3_multitask.vec_env.batch_group import BATCH_IS_MISSING

th.set_num_threads(1)  # tests run side by side, one per core


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    if config.option.basetemp is None:
        cache = config.rootpath / ".cache"
        cache.mkdir(exist_ok=True)  # pytest makes the last folder of a path only
        config.option.basetemp = str(cache / "tmp")
    if BATCH_IS_MISSING:
        config.addinivalue_line("filterwarnings", "ignore:The native backend is not used:UserWarning")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs the native backend where MuJoCo has none: what is so marked, and parameters "batch"."""
    if not BATCH_IS_MISSING:
        return
    for item in items:
        callspec = getattr(item, "callspec", None)
        values = () if callspec is None else map(str, callspec.params.values())
        if item.get_closest_marker("native") or "batch" in values:
            item.add_marker(pytest.mark.skip(reason="needs mujoco.batch (MuJoCo 3.17 or newer)"))


@pytest.fixture
def tasks() -> tuple[mt.Task, ...]:
    return drift_tasks()


@pytest.fixture
def venv(tasks: tuple[mt.Task, ...]):
    env = mt.make_multitask_vec_env(tasks, n_envs_per_task=2, seed=0)
    yield env
    env.close()


@pytest.fixture(params=["compiled", "arrays"])
def kernels(request, monkeypatch):
    """Run a test with compiled loops, and with the array operations beside them."""
    monkeypatch.setenv(loading.SWITCH, "0" if request.param == "arrays" else "1")
    loading.load_kernels.cache_clear()
    yield
    monkeypatch.undo()
    loading.load_kernels.cache_clear()
