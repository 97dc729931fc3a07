"""The algorithm of ``docs/own_algorithm.md``, as a new developer would write it, has all powers."""

import contextlib
import re
from pathlib import Path

import numpy as np
import pytest
from helpers.drift import recorded_tasks
from helpers.killed_runs import KillAt, Killed
from helpers.models import weights_equal

import sb3_multitask as mt
from sb3_multitask.agents import agent_of

PAGE = Path(__file__).parents[1] / "docs" / "own_algorithm.md"
(BLOCK,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), flags=re.DOTALL)
CODE, _, _ = BLOCK.partition("\nmodel = ")


@pytest.fixture(scope="module")
def page():
    names = {"__name__": "page"}
    exec(compile(CODE, str(PAGE), "exec"), names)  # noqa: S102
    return names


def make(page, engine="auto", schedule="joint", **kwargs):
    env = mt.make_multitask_vec_env(recorded_tasks(), 2, seed=0)
    return page["HuberA2C"]("MultiTaskMlpPolicy", env, seed=0, engine=engine, task_schedule=schedule, **kwargs)


def test_it_is_one_file_of_under_60_lines():
    assert len(CODE.strip().splitlines()) < 60


@pytest.mark.parametrize("schedule", ["joint", "cycle"])
def test_it_trains_alike_on_both_engines_and_unlike_a2c(page, schedule):
    torch, fast, plain = (
        make(page, engine, schedule, max_value_error=error).learn(600).policy.parameters_to_vector()
        for engine, error in (("torch", 0.1), ("fast", 0.1), ("fast", 1e9))
    )
    np.testing.assert_allclose(fast, torch, atol=1e-4)
    a2c = mt.A2CMultiTask(
        "MultiTaskMlpPolicy", mt.make_multitask_vec_env(recorded_tasks(), 2, seed=0), seed=0, task_schedule=schedule
    )
    np.testing.assert_allclose(plain, a2c.learn(600).policy.parameters_to_vector(), atol=1e-5)  # A2CLoss is compiled
    assert np.abs(fast - plain).max() > 1e-3


def test_it_resumes_to_the_same_bits_and_only_with_its_own_setting(page, tmp_path):
    def train(folder, kill_at, **kwargs):
        tasks = [mt.Task(name, f"HalfCheetah{name}-v0") for name in ("SmallFoot", "BigFoot")]
        env = mt.make_multitask_vec_env(tasks, 1, seed=1)
        model = page["HuberA2C"]("MultiTaskMlpPolicy", env, seed=0, **kwargs)
        with contextlib.suppress(Killed):
            model.learn(600, [mt.ResumableCheckpointCallback(folder, every=100, verbose=0), KillAt(kill_at)])
        return model

    uninterrupted = train(tmp_path / "a", 10**9)
    train(tmp_path / "b", 333)
    with pytest.raises(mt.CheckpointError, match="max_value_error"):
        train(tmp_path / "b", 10**9, max_value_error=2.0)
    assert weights_equal(uninterrupted, train(tmp_path / "b", 10**9))


def test_it_distils(page):
    teacher = agent_of(make(page).learn(300))
    kls = []
    for n_steps in (30, 6000):
        student = make(page, teachers=dict.fromkeys(teacher.task_names, teacher), rl_coef=0.1).learn(n_steps)
        kls.append(student.logger.name_to_value["distill/A/kl"])
    assert kls[1] < kls[0]


def test_its_file_holds_its_argument(page, tmp_path):
    make(page, max_value_error=0.25).learn(60).save(tmp_path / "model")
    loaded = page["HuberA2C"].load(tmp_path / "model", env=mt.make_multitask_vec_env(recorded_tasks(), 2))
    assert loaded.max_value_error == 0.25
    loaded.learn(60)
