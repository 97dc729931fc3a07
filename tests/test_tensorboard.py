"""What TensorBoard is given, read back from the event files."""

import io
import re

import numpy as np
import pytest
from helpers.drift import drawn_tasks, drift_tasks
from PIL import Image
from stable_baselines3 import PPO
from stable_baselines3.common.logger import configure
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.custom_scalar import layout_pb2
from tensorboard.plugins.hparams import plugin_data_pb2

import sb3_multitask as mt
from sb3_multitask.evaluation.films import NoRendererError, filming
from sb3_multitask.experiments.config import TrainConfig
from sb3_multitask.experiments.run_folder import RunFolder
from sb3_multitask.experiments.train import train_run
from sb3_multitask.task_schedules import UniformSampling

EVERYTHING = {"tensors": 0, "scalars": 0, "images": 0}


def events(folder):
    (file,) = folder.rglob("events.out.tfevents.*")
    accumulator = EventAccumulator(str(file), EVERYTHING)
    accumulator.Reload()
    return accumulator


def charts(accumulator):
    """(group, chart) -> patterns of tags."""
    (event,) = accumulator.Tensors("custom_scalars__config__")
    layout = layout_pb2.Layout.FromString(event.tensor_proto.string_val[0])
    return {
        (category.title, chart.title): list(chart.multiline.tag)
        for category in layout.category
        for chart in category.chart
    }


def plugin_data(accumulator, tag):
    content = accumulator.SummaryMetadata(tag).plugin_data.content
    return plugin_data_pb2.HParamsPluginData.FromString(content)


def trained(tmp_path, tasks, callback=None, with_eval=True, steps=600, **kwargs):
    env = mt.make_multitask_vec_env(tasks, 1, seed=0, normalize={"gamma": kwargs.get("gamma", 0.99)})
    kwargs = {"n_steps": 5, "seed": 0, "device": "cpu", "tensorboard_log": str(tmp_path), **kwargs}
    model = kwargs.pop("algorithm", mt.A2CMultiTask)(kwargs.pop("policy", "MultiTaskMlpPolicy"), env, **kwargs)
    callbacks = [callback or mt.MultiTaskTensorBoardCallback()]
    if with_eval:
        eval_env = mt.MultiTaskVecEnv(tasks, 1, seed=1)
        callbacks.append(mt.MultiTaskEvalCallback(eval_env, n_eval_episodes=1, eval_freq=300, verbose=0))
    model.learn(steps, callbacks, log_interval=5)
    env.close()
    return model, events(tmp_path)


def teachers(tasks):
    model = mt.A2CMultiTask("MultiTaskMlpPolicy", list(tasks), seed=1, device="cpu")
    return dict.fromkeys([task.name for task in tasks], model)


@pytest.mark.parametrize(
    ("kwargs", "groups"),
    [
        ({}, {"rollout", "train", "eval"}),
        ({"engine": "torch"}, {"rollout", "train", "eval"}),
        ({"policy_kwargs": {"log_std_mode": "shared"}}, {"rollout", "train", "eval"}),
        ({"teachers": teachers}, {"rollout", "train", "eval", "distill"}),
        ({"with_eval": False}, {"rollout", "train"}),
        ({"task_schedule": UniformSampling()}, {"rollout", "train", "eval", "schedule"}),
        ({"algorithm": PPO, "policy": mt.MultiTaskActorCriticPolicy, "n_steps": 64}, {"eval"}),
    ],
    ids=["fast", "torch", "shared std", "taught", "without evaluation", "task schedule", "ppo"],
)
def test_every_scalar_of_a_task_is_in_the_chart_of_all_tasks_and_nothing_else(tmp_path, kwargs, groups):
    tasks = drift_tasks()
    if "teachers" in kwargs:
        kwargs = {"teachers": kwargs["teachers"](tasks)}
    _, accumulator = trained(tmp_path, tasks, **kwargs)
    tags = accumulator.Tags()["scalars"]
    of_tasks = {tag for tag in tags if re.fullmatch(r"\w+/[ABC]/\w+", tag)}
    drawn = charts(accumulator)
    assert {group for group, _ in drawn} == groups
    shown = set()
    for (group, key), patterns in drawn.items():
        lines = [[tag for tag in tags if re.match(pattern, tag)] for pattern in patterns]
        assert lines == [[f"{group}/{name}/{key}"] for name in "ABC"]
        shown |= {tag for line in lines for tag in line}
    assert shown == of_tasks


def test_names_with_signs_are_shown(tmp_path):
    tasks = [
        mt.Task(name, task.env_id, task.env_kwargs) for name, task in zip(["A (1)", "A+"], drift_tasks(2), strict=True)
    ]
    _, accumulator = trained(tmp_path, tasks, with_eval=False, steps=200)
    patterns = charts(accumulator)["rollout", "ep_rew_mean"]
    tags = accumulator.Tags()["scalars"]
    assert [[tag for tag in tags if re.match(pattern, tag)] for pattern in patterns] == [
        ["rollout/A (1)/ep_rew_mean"],
        ["rollout/A+/ep_rew_mean"],
    ]


def test_hyper_parameters_stand_beside_the_returns_of_each_task(tmp_path):
    callback = mt.MultiTaskTensorBoardCallback(hparams={"note": "first"})
    kwargs = {"learning_rate": lambda progress: 1e-3 * progress, "gamma": 0.9, "task_schedule": "cycle"}
    model, accumulator = trained(tmp_path, drift_tasks(), callback, **kwargs)
    start = plugin_data(accumulator, "_hparams_/session_start_info").session_start_info.hparams
    values = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.items()}
    expected = {
        "algorithm": "A2CMultiTask",
        "tasks": "A, B, C",
        "learning_rate": 1e-3,
        "gamma": 0.9,
        "task_schedule": "cycle",
        "n_envs": model.n_envs,
        "note": "first",
        "normalize_advantage": False,
    }
    assert {name: values[name] for name in expected} == expected
    assert not {"env", "teachers", "tensorboard_log", "verbose"} & set(values)
    experiment = plugin_data(accumulator, "_hparams_/experiment").experiment
    metrics = [metric.name.tag for metric in experiment.metric_infos]
    assert {"eval/worst_task_reward", *(f"eval/{name}/mean_reward" for name in "ABC")} < set(metrics)
    assert set(metrics) <= set(accumulator.Tags()["scalars"])  # TensorBoard takes their values from there


@pytest.mark.slow
def test_films_of_each_task_come_when_they_are_due(tmp_path):
    callback = mt.MultiTaskTensorBoardCallback(video_freq=100, video_steps=4)
    _, accumulator = trained(tmp_path, drawn_tasks(), callback, with_eval=False, steps=150)
    assert accumulator.Tags()["images"] == ["video/A", "video/B"]
    for tag in ("video/A", "video/B"):
        images = accumulator.Images(tag)
        assert [image.step for image in images] == [0, 100]
        for image in images:
            with Image.open(io.BytesIO(image.encoded_image_string)) as gif:
                assert (gif.size, gif.n_frames) == ((30, 20), 4)
    assert not [tag for tag in accumulator.Tags()["scalars"] if "video" in tag]


@pytest.mark.slow
def test_training_is_the_same_with_and_without(tmp_path):
    callback = mt.MultiTaskTensorBoardCallback(video_freq=10_000, video_steps=2)
    model, _ = trained(tmp_path / "a", drawn_tasks(), callback, steps=60)
    other = mt.A2CMultiTask(
        "MultiTaskMlpPolicy", mt.make_multitask_vec_env(drawn_tasks(), 1, seed=0), n_steps=5, seed=0, device="cpu"
    )
    other.learn(60, log_interval=5)
    for a, b in zip(model.policy.parameters(), other.policy.parameters(), strict=True):
        np.testing.assert_array_equal(a.detach(), b.detach())


def test_without_a_log_it_is_an_error(tmp_path):
    for logger in (None, configure(str(tmp_path), ["csv"])):
        model = mt.A2CMultiTask("MultiTaskMlpPolicy", drift_tasks(), device="cpu")
        if logger is not None:
            model.set_logger(logger)
        with pytest.raises(ValueError, match='needs a model that logs to TensorBoard: make it with `tensorboard_log="'):
            model.learn(30, mt.MultiTaskTensorBoardCallback())
        model.logger.close()


def test_films_that_cannot_be_are_an_error_before_training(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="'rgb_array'"):
        trained(tmp_path / "a", drift_tasks(), mt.MultiTaskTensorBoardCallback(video_freq=100))
    monkeypatch.setattr(filming, "find_renderer", lambda: None)
    monkeypatch.setenv("MUJOCO_GL", "off")
    with pytest.raises(NoRendererError, match="`video_freq`"):
        trained(tmp_path / "b", ["HalfCheetah-v5"], mt.MultiTaskTensorBoardCallback(video_freq=100))
    assert events(tmp_path / "b").Tags()["scalars"] == []


def test_train_uses_it_when_the_config_asks_for_tensorboard(tmp_path):
    tasks = {"First": "InvertedPendulum-v5", "Second": "InvertedPendulum-v5"}
    few = {"n_timesteps": 400, "eval_freq": 200, "n_eval_episodes": 1, "eval_episodes": 1, "log_interval": 10}
    config = TrainConfig(tasks=tasks, n_envs_per_task=1, tensorboard=True, **few)
    train_run(config, RunFolder.create(tmp_path / "run", "x"))
    accumulator = events(tmp_path / "run")
    assert charts(accumulator)["eval", "mean_reward"] == ["eval/First/mean_reward", "eval/Second/mean_reward"]
    start = plugin_data(accumulator, "_hparams_/session_start_info").session_start_info.hparams
    assert start["n_envs_per_task"].number_value == 1
    assert [event.step for event in accumulator.Scalars("eval/First/mean_reward")] == [200, 400]


@pytest.mark.parametrize("kwargs", [{"video_freq": 0}, {"video_steps": 0}])
def test_arguments_that_cannot_be_are_refused(kwargs):
    with pytest.raises(ValueError, match=f"`{next(iter(kwargs))}` must be at least 1 .got 0."):
        mt.MultiTaskTensorBoardCallback(**kwargs)
