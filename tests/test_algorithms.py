"""The table of algorithms is the only place that knows which there are; elsewhere a class is asked what it can."""

import ast
import inspect
import sys
from pathlib import Path

import pytest
from helpers.programs import output_of
from stable_baselines3 import A2C, PPO

import sb3_multitask as mt
from sb3_multitask.algorithms import ALGORITHMS, arguments_of, has_ability, task_terms_of
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
assert config.is_resumable and config.left_out() == ["gae_lambda"]
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
