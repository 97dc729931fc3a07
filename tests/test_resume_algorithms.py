"""PPO and TRPO that are killed and started again end as those that never stopped, bit for bit."""

import pytest
from helpers.killed_runs import BODIES, killed_and_resumed, random_kills

import sb3_multitask as mt
from sb3_multitask.agents import agent_of
from sb3_multitask.task_schedules import TaskBandit

pytestmark = pytest.mark.native

SHORT = {"total": 2000, "n_envs": 1, "n_steps": 50, "batch_size": 25}  # an episode of each task
PPO = {**SHORT, "algorithm": mt.PPOMultiTask, "n_epochs": 3}
TRPO = {**SHORT, "algorithm": mt.TRPOMultiTask, "n_critic_updates": 2}


def falls(start):
    return lambda remaining: start * remaining


CASES = {
    "joint": {},
    "cycle": {"task_schedule": "cycle"},
    "target_kl": {"target_kl": 0.002, "learning_rate": 1e-3},
    "schedules": {"clip_range": falls(0.3), "clip_range_vf": falls(0.5), "learning_rate": falls(1e-3)},
    "desired_kl": {"desired_kl": 5e-4, "learning_rate": 1e-3},
    "desired_kl in cycle": {"desired_kl": 5e-4, "learning_rate": 1e-3, "task_schedule": "cycle"},
    "teachers": {"student_rollout_prob": 0.5, "rl_coef": 0.5, "distill_coef": falls(1.0)},
    "task schedule": {"task_schedule": TaskBandit("shortfall", dict.fromkeys(BODIES, 1000.0), window=1)},
    "distral": {"distral": mt.Distral(0.1, 0.02, "2col")},
    "distral in cycle": {"distral": mt.Distral(0.1, 0.02), "task_schedule": "cycle"},
    "teachers in cycle": {"student_rollout_prob": falls(0.9), "rl_coef": 0.5, "task_schedule": "cycle"},
}
"""What a resume of PPO may lose: stopped epochs, schedules, adapted learning rates, who acts, whose turn it is."""


def case(name):
    """The settings of a case, with teachers if it has some."""
    settings = {**PPO, **CASES[name]}
    if "rl_coef" in settings:
        teacher = agent_of(mt.A2CMultiTask("MultiTaskMlpPolicy", BODIES, seed=3, device="cpu"))
        settings["teachers"] = dict.fromkeys(BODIES, teacher)
    return settings


def is_what_it_says(name, model):
    """Whether a run did what its case is about."""
    n_rollouts = model.num_timesteps // (model.n_steps * model.n_envs)
    if "target_kl" in name:
        return n_rollouts < model._n_updates < n_rollouts * model.n_epochs
    if "desired_kl" in name:
        return model.policy.optimizer.param_groups[0]["lr"] < model.learning_rate / 1.4  # it may return to its start
    return model._n_updates == n_rollouts * model.n_epochs


@pytest.mark.parametrize(
    ("name", "engine"),  # all cases on both engines, killed twenty times, are in the slow test
    [
        ("cycle", "fast"),
        ("schedules", "fast"),
        ("desired_kl", "fast"),
        ("teachers", "fast"),
        pytest.param("target_kl", "torch", marks=pytest.mark.slow),
        pytest.param("distral", "torch", marks=pytest.mark.slow),
    ],
)
def test_ppo_resumes_exactly(tmp_path, name, engine):
    different, model = killed_and_resumed(tmp_path, [(777, 0.0), (1610, 0.05)], **case(name), engine=engine)
    assert different == []
    assert is_what_it_says(name, model)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "engine"),
    [(name, engine) for name in CASES for engine in ("fast", "torch") if (engine, "distral") != ("fast", name[:7])],
)
def test_ppo_resumes_exactly_after_twenty_kills(tmp_path, name, engine):
    kills = random_kills(20, len(name), len(engine), total=SHORT["total"])
    different, model = killed_and_resumed(tmp_path, kills, **case(name), engine=engine)
    assert different == []
    assert is_what_it_says(name, model)


@pytest.mark.parametrize("n_kills", [2, pytest.param(20, marks=pytest.mark.slow)])
@pytest.mark.parametrize("schedule", ["joint", pytest.param("cycle", marks=pytest.mark.slow)])
def test_trpo_resumes_exactly(tmp_path, schedule, n_kills):
    kills = random_kills(n_kills, n_kills, total=SHORT["total"])
    different, _ = killed_and_resumed(tmp_path, kills, **TRPO, task_schedule=schedule)
    assert different == []
