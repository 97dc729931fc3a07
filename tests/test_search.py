"""What ``train --optimize`` samples for PPOMultiTask is valid whatever the number of tasks and of their copies."""

import optuna
import pytest
import yaml
from helpers.drift import drift_tasks
from rl_zoo3.hyperparams_opt import HYPERPARAMS_SAMPLER

import sb3_multitask as mt
from sb3_multitask.zoo.search import NETS, SPACES
from sb3_multitask.zoo.settings import check_hyperparameters, constructor_arguments

PPO = SPACES["ppo_mt"]


def samples(n, n_envs, n_tasks, **others):
    """Trials of a fixed sampler, with their hyper-parameters."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    for _ in range(n):
        trial = study.ask()
        yield trial, PPO.sample(trial, 2, n_envs, {"n_tasks": n_tasks, **others})
        study.tell(trial, 0.0)


@pytest.mark.parametrize("schedule", ["joint", "cycle"])
@pytest.mark.parametrize(("n_tasks", "n_envs"), [(1, 1), (2, 3), (6, 4), (8, 5)])
def test_every_sample_makes_a_model(n_tasks, n_envs, schedule):
    """Without SB3's warning of a truncated minibatch, too: warnings are errors here."""
    env = mt.make_multitask_vec_env(drift_tasks(n_tasks), n_envs, seed=0, normalize=False)
    tasks_in_rollout = 1 if schedule == "cycle" else n_tasks
    batches = set()
    for trial, hyperparams in samples(60, n_envs, tasks_in_rollout):
        check_hyperparameters({"n_timesteps": 1, **hyperparams}, "ppo_mt")
        arguments = constructor_arguments({"policy": "MultiTaskMlpPolicy", **hyperparams})
        model = mt.PPOMultiTask(env=env, task_schedule=schedule, device="cpu", **arguments)
        rows = model.n_steps * model.n_envs
        assert model.n_envs == n_envs * tasks_in_rollout
        assert rows % model.batch_size == 0
        assert model.batch_size % tasks_in_rollout == 0
        assert model.batch_size // tasks_in_rollout <= trial.params["batch_rows_per_task"]
        assert trial.user_attrs["batch_size"] == model.batch_size
        batches.add(model.batch_size // tasks_in_rollout)
    assert {64, 128, 256, 512} <= batches
    env.close()


def test_samples_cover_the_space_and_a_trial_is_converted_from_what_it_keeps():
    nets, rates = set(), set()
    for trial, hyperparams in samples(40, 4, 6):
        assert PPO.convert(trial.params) == hyperparams == yaml.safe_load(yaml.safe_dump(hyperparams))
        assert hyperparams["policy_kwargs"].keys() == {"net_arch", "head_arch", "log_std_init"}
        nets.add(trial.params["net"])
        rates.add(type(hyperparams["learning_rate"]))
    assert nets == set(NETS)
    assert rates == {float, str}


def test_a_learning_rate_that_follows_the_kl_has_no_schedule():
    rates = [hyperparams["learning_rate"] for _, hyperparams in samples(20, 4, 6, desired_kl=0.01)]
    assert all(isinstance(rate, float) for rate in rates)


def test_a_minibatch_has_the_same_rows_of_each_task_whatever_their_number():
    few, many = ([h["batch_size"] / n for _, h in samples(20, 4, n)] for n in (2, 12))
    assert few == many


def test_a_study_of_an_earlier_version_goes_on():
    """Its trials were sampled from the zoo's space, and can still be trained."""
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    old = study.ask()
    HYPERPARAMS_SAMPLER["ppo"](old, 6, 4, {})
    study.tell(old, 0.0)
    converted = PPO.convert(old.params)
    assert converted["batch_size"] == 2 ** old.params["batch_size_pow"]
    assert converted["policy_kwargs"]["activation_fn"] in ("tanh", "relu")
    PPO.sample(study.ask(), 6, 4, {"n_tasks": 6})
