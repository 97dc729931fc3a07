"""The table of algorithms is the only place that knows which there are; elsewhere a class is asked what it can."""

import ast
import inspect
import sys
from pathlib import Path

import numpy as np
import pytest
import torch as th
from helpers.drift import drift_tasks
from helpers.models import is_finite, make_model
from helpers.programs import output_of
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.callbacks import BaseCallback

import sb3_multitask as mt
from sb3_multitask.agents import agent_of
from sb3_multitask.algorithms import ALGORITHMS, MultiTaskOnPolicyAlgorithm, arguments_of, has_ability, task_terms_of
from sb3_multitask.zoo.settings import ALGORITHMS as ZOO_ALGORITHMS

PACKAGE = Path(__file__).parents[1] / "sb3_multitask"
ABOVE = ("checkpoint", "evaluation", "experiments", "cli", "zoo")
CLASSES = {algorithm.__name__ for algorithm in ALGORITHMS.values()}
NAMES = {*ALGORITHMS, *ZOO_ALGORITHMS, *CLASSES}


def decisions(tree):
    """What an ``if`` may depend on, or a lookup: comparisons, cases, keys, and the classes of ``isinstance``."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Compare | ast.MatchValue):
            yield node
        elif isinstance(node, ast.Dict):
            yield from filter(None, node.keys)
        elif isinstance(node, ast.Subscript):
            yield node.slice
        elif isinstance(node, ast.Call) and getattr(node.func, "id", "") in ("isinstance", "issubclass"):
            yield node.args[1]


def named(node):
    """Algorithms that an expression names: by a text, or by their class where classes are compared."""
    for part in ast.walk(node):
        if isinstance(part, ast.Constant) and part.value in NAMES:
            yield part.value
        elif isinstance(part, ast.Name | ast.Attribute):
            yield from {getattr(part, "id", None), getattr(part, "attr", None)} & CLASSES


def test_nothing_decides_by_an_algorithms_name_or_class():
    found = [
        f"{path.relative_to(PACKAGE)}:{node.lineno}: {name}"
        for room in ABOVE
        for path in sorted((PACKAGE / room).rglob("*.py"))
        for node in decisions(ast.parse(path.read_text(encoding="utf-8")))
        for name in named(node)
    ]
    # what is searched for our algorithm: a space of hyper-parameters is the search's own, and needs optuna
    assert [place for place in found if not place.startswith("zoo/search.py")] == []


@pytest.mark.parametrize(
    ("code", "guilty"),
    [
        ("if algo != 'a2c_mt': pass", ["a2c_mt"]),
        ("x = model.last_engine if isinstance(model, A2CMultiTask) else None", ["A2CMultiTask"]),
        ("match algo:\n    case 'trpo': pass", ["trpo"]),
        ("bad = {'trpo_mt': ['ent_coef']}[algo]", ["trpo_mt"]),
        ("parser.add_argument('--algo', default='ppo')", []),
    ],
)
def test_such_a_decision_would_be_found(code, guilty):
    assert [name for node in decisions(ast.parse(code)) for name in named(node)] == guilty


@pytest.mark.parametrize("algorithm", [*ALGORITHMS.values(), A2C])
def test_a_class_that_distils_takes_teachers(algorithm):
    assert has_ability(algorithm, "distils") == ("teachers" in inspect.signature(algorithm).parameters)


def test_arguments_are_those_of_the_base_too_where_a_constructor_passes_them_on():
    class Own(mt.A2CMultiTask):
        def __init__(self, *args, beta=0.5, gae_lambda=0.95, **kwargs):
            super().__init__(*args, gae_lambda=gae_lambda, **kwargs)

    arguments = arguments_of(Own)
    assert set(arguments) == {*inspect.signature(mt.A2CMultiTask).parameters, "beta"}
    assert [arguments[name].default for name in ("beta", "gae_lambda", "gamma")] == [0.5, 0.95, 0.99]
    assert list(arguments_of(A2C)) == list(inspect.signature(A2C).parameters)


def test_what_stock_algorithms_do_not_say_they_cannot():
    abilities = ("resumable", "distils", "carries_statistics", "logs_tasks")
    assert [has_ability(mt.A2CMultiTask, ability) for ability in abilities] == [True] * 4
    assert [has_ability(PPO, ability) for ability in abilities] == [False] * 4
    assert task_terms_of(PPO) == ()


def test_an_algorithm_of_ones_own_has_the_zoos_name_of_its_row():
    assert ZOO_ALGORITHMS["ppo_mt"] is ALGORITHMS["ppo"]
    assert list(ZOO_ALGORITHMS) == ["a2c_mt", "ppo_mt", "trpo_mt"]


@pytest.mark.slow
def test_a_row_of_the_table_is_enough(tmp_path):
    code = """
import sb3_multitask as mt
from sb3_multitask.algorithms import ALGORITHMS

class PPOMultiTask(mt.A2CMultiTask):
    def __init__(self, *args, clip_range=0.2, gae_lambda=0.95, **kwargs):
        super().__init__(*args, gae_lambda=gae_lambda, **kwargs)
        self.clip_range = clip_range

ALGORITHMS["ppo_mt"] = PPOMultiTask

from sb3_multitask.experiments.config import TrainConfig, load_config, make_config
from sb3_multitask.experiments.run_folder import RunFolder
from sb3_multitask.experiments.train import train_run
from sb3_multitask.cli.trained import load_trained
from sb3_multitask.zoo.search import SPACES
from sb3_multitask.zoo.settings import ALGORITHMS as of_zoo

tasks = {"A": "Swimmer-v5", "B": "Swimmer-v5"}
short = {"n_timesteps": 40, "n_envs_per_task": 1, "n_eval_episodes": 1, "eval_freq": 0}
settings = {"tasks": tasks, "algo": "ppo_mt", "env_kwargs": {"max_episode_steps": 20}, **short}
config = make_config(TrainConfig, {**settings, "algo_kwargs": {"clip_range": 0.1}, "freeze": "trunk"})
assert config.is_resumable and config.left_out() == ["gae_lambda", "dataset"]
folder = RunFolder.create("run", "run", False)
assert set(train_run(config, folder)["after"]) == {"A", "B"}
assert load_config(TrainConfig, folder.config) == config
assert not folder.vec_normalize.exists() and folder.checkpoints.exists()
assert of_zoo["ppo_mt"] is PPOMultiTask and of_zoo["trpo_mt"] is ALGORITHMS["trpo"] and "ppo_mt" in SPACES
try:
    make_config(TrainConfig, {**settings, "clip_range": 0.1})
except ValueError as e:
    print(e)
"""
    output = output_of([sys.executable, "-W", "ignore", "-c", code], tmp_path, None)
    assert "algo_kwargs: {clip_range: 0.1}" in output


@pytest.mark.parametrize("engine", ["fast", "torch"])
def test_a_state_is_a_copy_that_later_training_leaves_as_it_is(engine):
    """Also where it is taken in the middle of training, on either engine; a model that has not trained has one, too."""

    class Keeps(BaseCallback):
        def _on_rollout_start(self):
            if self.num_timesteps == 60:
                self.state, self.weights = self.model.get_state(), self.model.policy.parameters_to_vector().copy()

        def _on_step(self):
            return True

    model, callback = make_model(engine=engine), Keeps()
    first, initial = model.get_state(), model.policy.parameters_to_vector().copy()
    model.learn(180, callback)
    other = make_model(seed=5, engine=engine)
    for one in (model, other):  # the latter has not trained
        one.set_state(callback.state)
        np.testing.assert_array_equal(one.policy.parameters_to_vector(), callback.weights)
        assert one.num_timesteps == 60
        assert list(one.task_ep_info_buffers["A"]) == callback.state["episodes"]["tasks"]["A"] != []
    model.set_state(first)
    np.testing.assert_array_equal(model.policy.parameters_to_vector(), initial)


class WithSB3sTrain(MultiTaskOnPolicyAlgorithm, PPO):
    """PPO on the mixin, without a ``train`` that uses ``numerics``."""

    def __init__(self, policy, env, teachers=None, n_steps=8, gamma=0.99, **kwargs):
        self.begin("joint", "auto", n_steps)
        self.learn_from(teachers)
        super().__init__(policy, self._env_of(env, gamma), n_steps=n_steps, gamma=gamma, batch_size=16, **kwargs)


def test_sb3s_train_runs_on_torch_whatever_the_optimizer():
    """The fast engine leaves no log-probabilities, which that of PPO reads."""
    kwargs = {"optimizer_class": th.optim.RMSprop}
    model = WithSB3sTrain("MultiTaskMlpPolicy", drift_tasks(2), policy_kwargs=kwargs, seed=0).learn(64)
    assert model.last_engine == "torch"
    assert is_finite(model)


def test_sb3s_train_would_ignore_teachers():
    teacher = agent_of(make_model())
    with pytest.raises(ValueError, match="WithSB3sTrain .*`teachers`"):
        WithSB3sTrain("MultiTaskMlpPolicy", drift_tasks(3), dict.fromkeys(teacher.task_names, teacher))
