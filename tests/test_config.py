import time
from pathlib import Path

import pytest
import stand_in
from hypothesis import given, settings
from hypothesis import strategies as st

from sb3_multitask.experiments.config import (
    EvaluateConfig,
    TrainConfig,
    dump_config,
    load_config,
    make_config,
)
from sb3_multitask.experiments.grid import load_grid
from sb3_multitask.experiments.schedules import as_schedule
from sb3_multitask.storage.yaml_files import ConfigError


def write(tmp_path, text):
    path = tmp_path / "run.yml"
    path.write_text(text)
    return path


def test_a_config_is_read_with_yaml_12_numbers(tmp_path):
    path = write(
        tmp_path,
        "tasks: [Hopper-v5]\nlearning_rate: 1e-3\nnormalize: {clip_obs: 5}\npolicy_kwargs:\n  net_arch: {pi: [8]}\n",
    )
    config = load_config(TrainConfig, path)
    assert (config.tasks, config.learning_rate, config.normalize) == (("Hopper-v5",), 1e-3, {"clip_obs": 5})
    assert type(config.policy_kwargs["net_arch"]["pi"]) is list
    assert config.n_envs_per_task == 4


def test_overrides_win(tmp_path):
    assert load_config(TrainConfig, write(tmp_path, "seed: 1\n"), {"seed": 2}).seed == 2
    assert load_config(TrainConfig, write(tmp_path, "")) == TrainConfig()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "seed: 1\nlearning_rat: 0.1\n",
            r"run.yml:2: unknown key 'learning_rat'. Did you mean 'learning_rate'",
        ),
        ("default:\n  policy: MultiTaskMlpPolicy\n", "run.yml:1: 'default' .* rl_zoo3's format"),
        ("seed: 1\n\nn_steps: 0\n", r"run.yml:3: `n_steps`: .*greater than or equal to 1 \(got 0\)"),
        ("seed: 1\nseed: 2\n", "duplicate key"),
        ("tasks: HalfCheetahBody5\n", "run.yml:1: `tasks`: Unknown task set.*HalfCheetahBody6"),
        ("task_schedule: round\n", "`task_schedule`: must be joint, cycle, or a schedule.*got 'round'"),
        ("learning_rate: .nan\n", "`learning_rate"),
        ("learning_rate: lin_nan\n", "`learning_rate`: must be finite and not negative"),
        ("ent_coef: .nan\n", "`ent_coef`: .*finite"),
        ("init_tasks: {a: b}\n", "init_tasks says what to take over from init_from, which is not given"),
        ("n_timesteps: 100\nreport_at: [50, 200]\n", r"report_at must lie within n_timesteps 100 .got \[200\]"),
        (
            "tasks: {A: Hopper-v5}\nalso_on: {A: HopperBigFoot-v0}\n",
            "also_on needs other names than the run's own task: A",
        ),
        ("sequential: true\nscore: worst\n", "sequential training has no score"),
        ("seed: yes please\n", "`seed`: .*integer"),
        ("- seed\n", "must be a mapping"),
        ("seed: [1\n", "cannot read this config"),
        (f"seed: {stand_in.TAGS[0]}\n", "`seed`"),
    ],
)
def test_bad_configs_are_refused_with_the_line(tmp_path, text, message, monkeypatch):
    monkeypatch.setattr(stand_in, "BUILT", [])
    with pytest.raises(ConfigError, match=message):
        load_config(TrainConfig, write(tmp_path, text))
    assert not stand_in.BUILT


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"no.yml: cannot read"):
        load_config(TrainConfig, tmp_path / "no.yml")


@settings(deadline=None)
@given(
    st.fixed_dictionaries(
        {},
        optional={
            "seed": st.integers(0, 2**32),
            "learning_rate": st.floats(1e-9, 1.0),
            "gae_lambda": st.floats(0, 1),
            "ent_coef": st.floats(-1, 1),
            "normalize": st.booleans() | st.fixed_dictionaries({"clip_obs": st.floats(0.1, 10)}),
            "tasks": st.sampled_from(["HalfCheetahBody6", ("Hopper-v5", "Swimmer-v5")]),
            "policy_kwargs": st.sampled_from([{}, {"net_arch": {"pi": [8], "vf": []}, "log_std_mode": "shared"}]),
        },
    )
)
def test_a_written_config_reads_back_equal(tmp_path_factory, values):
    config = make_config(TrainConfig, values)
    path = tmp_path_factory.mktemp("config") / "run.yml"
    dump_config(config, path)
    assert load_config(TrainConfig, path) == config


def test_configs_are_frozen():
    with pytest.raises(ValueError, match="frozen"):
        TrainConfig().seed = 3


def test_algorithm_arguments_are_sb3s_defaults():
    import inspect

    from stable_baselines3 import A2C

    defaults = {name: p.default for name, p in inspect.signature(A2C.__init__).parameters.items()}
    kwargs = TrainConfig().algorithm_kwargs()
    for name in ("learning_rate", "n_steps", "gamma", "gae_lambda", "ent_coef", "vf_coef", "max_grad_norm"):
        assert kwargs[name] == defaults[name]


def test_the_shipped_configs_are_valid():
    folder = Path(__file__).parents[1] / "zoo_configs"
    paths = sorted(folder.glob("*.yml"))
    assert len(paths) >= 3
    for path in paths:
        if path.name.endswith("_grid.yml"):
            assert load_grid(path)
        elif not path.name.endswith("_mt.yml"):  # rl-zoo's format: tests/test_zoo.py
            load_config(EvaluateConfig if path.name == "evaluate.yml" else TrainConfig, path)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"policy_kwargs": {"log_std_mod": "shared"}}, "`policy_kwargs`: unknown argument 'log_std_mod'. Did you mean"),
        ({"normalize": {"gama": 1}}, "unknown argument 'gama'. Did you mean 'gamma'"),
        ({"tasks": "Hopper-v5", "also_on": {"Other": "Hoper-v5"}}, "`also_on`.*Did you mean 'Hopper-v5'"),
    ],
)
def test_arguments_that_nobody_takes_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        make_config(TrainConfig, settings)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 3000, "nested too deeply"),
        ("a: " + "{a: " * 3000, "nested too deeply"),
        ("- " * 20_000, "nested too deeply|cannot read"),
        ("x: [1, 2]\n" + "# filler\n" * 10_000, "larger than 64 KiB"),
        (
            "a0: &a0 [1, 2]\n" + "".join(f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 12)),
            "holds more than 20000 values",
        ),
        ("seed: " + "9" * 5000, "cannot read this config"),
        ("seed: !!timestamp x", "cannot read this config|seed"),
    ],
    ids=["brackets", "braces", "dashes", "size", "aliases", "digits", "tag"],
)
def test_a_file_that_would_take_long_to_read_is_one_quick_error(tmp_path, text, message):
    (tmp_path / "run.yml").write_text(text)
    start = time.perf_counter()
    with pytest.raises(ConfigError, match=rf"run\.yml.*({message})"):
        load_config(TrainConfig, tmp_path / "run.yml")
    assert time.perf_counter() - start < 5


def test_linear_schedules_end_at_zero():
    rate = as_schedule("lin_3e-4")
    assert [rate(1.0), rate(0.5), rate(0.0), rate(-0.4), rate(1.4)] == [3e-4, 1.5e-4, 0.0, 0.0, 3e-4]


def test_an_argument_of_the_algorithm_is_shown_its_place():
    with pytest.raises(ConfigError, match=r"'clip_range'.*algo_kwargs: \{clip_range: lin_0.2\}"):
        make_config(TrainConfig, {"algo": "ppo", "clip_range": "lin_0.2"})
    with pytest.raises(ConfigError, match="unknown key 'clip_range'"):  # A2C has none
        make_config(TrainConfig, {"clip_range": "lin_0.2"})


def test_numbers_and_weights_of_tasks(tmp_path):
    tasks = {"a": "Hopper-v5", "b": "Swimmer-v5"}
    given = {"tasks": tasks, "n_envs_per_task": {"a": 2, "b": 1}, "task_weights": {"b": 3}}
    config = make_config(TrainConfig, given)
    dump_config(config, tmp_path / "config.yml")
    assert load_config(TrainConfig, tmp_path / "config.yml") == config
    assert config.algorithm_kwargs()["task_weights"] == {"b": 3}
    for bad, message in [
        ({"n_envs_per_task": {"a": 2}}, r"none for b"),
        ({"n_envs_per_task": {"a": 2, "b": 0}}, r"greater than 0"),
        ({"task_schedule": "cycle"}, r"must be one number where one task learns at a time"),
        ({"task_weights": {"c": 1.0}}, r"'c', which is no task"),
        ({"task_weights": {"a": -1.0}}, r"at least 0"),
        ({"algo": "trpo"}, r"'trpo' has no task_weights"),
    ]:
        with pytest.raises(ConfigError, match=message):
            make_config(TrainConfig, {**given, **bad})
