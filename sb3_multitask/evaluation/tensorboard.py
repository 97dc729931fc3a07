"""TensorBoard for several tasks: charts of all of them, hyper-parameters, films."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import HParam, TensorBoardOutputFormat

from sb3_multitask.agents import agent_of
from sb3_multitask.algorithms import arguments_of, has_ability, task_terms_of
from sb3_multitask.checkpoint.snapshot import descend
from sb3_multitask.evaluation.callback import MultiTaskEvalCallback
from sb3_multitask.evaluation.envs import tasks_of
from sb3_multitask.many_tasks import MANY, listed
from sb3_multitask.task_schedules import TaskSchedule

Layout = dict[str, dict[str, list[Any]]]
_NOT_HPARAMS = {"dataset", "env", "verbose", "tensorboard_log", "device", "teachers", "_init_setup_model"}
_VIDEO_SIZE = (192, 144)


class MultiTaskTensorBoardCallback(BaseCallback):
    """In TensorBoard, show one chart for all tasks, the hyper-parameters, and on request films.

    In the tab *Custom Scalars* the charts ``rollout``, ``train``, ``distill`` and ``eval`` have a line per task, and at
    most 20 lines: more tasks have several charts of each key, and of returns and lengths one of the means over the
    tasks. The tab *HParams* has the arguments of the algorithm and the returns of each task, of more than 20 tasks
    their mean. With ``video_freq`` the tab *Images* has a film of every task, from the untrained agent on,
    deterministic and at real-time speed. A separate process renders the films; they do not change the training.

    :param video_freq: **environment steps** (over all tasks) between two films of every task; ``None`` makes no films
    :param video_steps: environment steps of each task that a film lasts
    :param hparams: more hyper-parameters (numbers, texts, bools), on top of the algorithm's arguments
    :param verbose: SB3's
    :raises ValueError: if ``video_freq`` or ``video_steps`` is below 1; when training starts, if the model does not log
        to TensorBoard, or a task cannot be filmed
    :raises NoRendererError: when training starts, if films are requested and there is no renderer
    """

    def __init__(
        self,
        video_freq: int | None = None,
        video_steps: int = 100,
        hparams: Mapping[str, bool | float | str] | None = None,
        verbose: int = 0,
    ) -> None:
        for name, value in {"video_freq": video_freq, "video_steps": video_steps}.items():
            if value is not None and value < 1:
                raise ValueError(f"`{name}` must be at least 1 (got {value})")
        super().__init__(verbose)
        self.video_freq, self.video_steps = video_freq, video_steps
        self.hparams = dict(hparams or {})
        self._formats: list[TensorBoardOutputFormat] = []
        self._last_timesteps = 0

    def get_state(self) -> dict[str, Any]:
        """Return the next steps of films, for a checkpoint."""
        return {"last_timesteps": self._last_timesteps}

    def set_state(self, state: dict[str, Any]) -> None:
        """Restore a state that :meth:`get_state` returned."""
        self._last_timesteps = state["last_timesteps"]

    def _on_training_start(self) -> None:
        formats = self.logger.output_formats
        self._formats = [one for one in formats if isinstance(one, TensorBoardOutputFormat)]
        if not self._formats:
            raise ValueError(
                "MultiTaskTensorBoardCallback needs a model that logs to TensorBoard: make it with "
                '`tensorboard_log="folder"`, or give `model.set_logger` a logger with the format "tensorboard".'
            )
        root = self.locals.get("callback", self)
        eval_names = [one.log_name for one in descend(root) if isinstance(one, MultiTaskEvalCallback)]
        names = [task.name for task in tasks_of(self.model)]
        for one in self._formats:
            one.writer.add_custom_scalars(chart_layout(self.model, names, eval_names))
        metrics = dict.fromkeys(_metrics(self.model, names, eval_names), math.nan)
        self._write("hparams", HParam({**hyper_parameters(self.model, names), **self.hparams}, metrics))
        self._last_timesteps = self.num_timesteps
        if self.video_freq is not None:
            self._film()

    def _on_step(self) -> bool:
        if self.video_freq is not None:
            due = self.num_timesteps // self.video_freq > self._last_timesteps // self.video_freq
            self._last_timesteps = self.num_timesteps
            if due:
                self._film()
        return True

    def _write(self, key: str, value: Any) -> None:
        """Log at once, and not with SB3's next values."""
        for one in self._formats:
            one.write({key: value}, {key: ()}, self.num_timesteps)

    def _film(self) -> None:
        """Log ``video/<task>``.

        SB3's ``Video`` is not used: torch writes it with a module that moviepy 2 lacks, and fails silently.
        """
        from PIL import Image
        from tensorboard.compat.proto.summary_pb2 import Summary  # type: ignore[import-untyped]

        from sb3_multitask.evaluation.films import MAX_FPS, NoRendererError, Scene, film, gif_bytes, real_time_fps

        tasks = tasks_of(self.model)
        fps = real_time_fps(tasks)
        every = math.ceil(fps / MAX_FPS)
        scene = Scene(agent_of(self.model), tasks, self.video_steps, every=every, size=_VIDEO_SIZE)
        try:
            pictures = [[Image.fromarray(shot.image) for shot in shots] for shots in film(scene)]
        except NoRendererError as e:
            raise NoRendererError(f"`video_freq` asks for films. {e}") from e
        for task, of_task in zip(tasks, zip(*pictures, strict=True), strict=True):
            (width, height), content = of_task[0].size, gif_bytes(of_task, fps / every)
            picture = Summary.Image(height=height, width=width, colorspace=3, encoded_image_string=content)
            summary = Summary(value=[Summary.Value(tag=f"video/{task.name}", image=picture)])
            for one in self._formats:
                assert one.writer.file_writer is not None
                one.writer.file_writer.add_summary(summary, self.num_timesteps)
                one.writer.flush()


def chart_layout(model: BaseAlgorithm, task_names: Sequence[str], eval_names: Sequence[str] = ()) -> Layout:
    """Return charts with a line per task, as ``SummaryWriter.add_custom_scalars`` takes them.

    :param model: the model that logs
    :param task_names: names of its tasks
    :param eval_names: ``log_name`` of each ``MultiTaskEvalCallback``
    """
    keys: dict[str, Sequence[str]] = {}
    if has_ability(model, "logs_tasks"):
        has_std = getattr(model.policy, "log_std_mode", None) == "per_task"
        if not has_ability(model, "offline"):
            keys["rollout"] = ("ep_rew_mean", "ep_len_mean")
        keys["train"] = (*task_terms_of(model), *(["std"] if has_std else []))
    if isinstance(getattr(model, "task_schedule", None), TaskSchedule):
        keys["schedule"] = ("probability", "visits")
    is_taught = has_ability(model, "distils") and getattr(model, "is_taught", False)
    if is_taught or has_ability(model, "offline"):
        keys["distill"] = ("loss", "kl")
    keys |= dict.fromkeys(eval_names, ("mean_reward", "mean_ep_length"))
    layout: Layout = {}
    for group, of_group in keys.items():
        layout[group] = {}
        for key in of_group:
            if len(task_names) > MANY and group in ("rollout", *eval_names):
                overall = ("mean_reward", "worst_task_reward") if key == "mean_reward" else (key,)
                layout[group][f"{key}, of all tasks"] = _chart(f"{group}/{one}" for one in overall)
            for title, names in _charts_of_tasks(key, task_names):
                layout[group][title] = _chart(f"{group}/{name}/{key}" for name in names)
    return layout


def _chart(tags: Iterable[str]) -> list[Any]:
    return ["Multiline", [re.escape(tag) for tag in tags]]  # TensorBoard interprets tags as regular expressions


def _charts_of_tasks(key: str, names: Sequence[str]) -> Iterator[tuple[str, Sequence[str]]]:
    """Yield the title and the tasks of every chart of a key: of at most 20 lines."""
    if len(names) <= MANY:
        yield key, names
        return
    for start in range(0, len(names), MANY):
        some = names[start : start + MANY]
        yield f"{key}, tasks {start + 1} to {start + len(some)}", some


def hyper_parameters(model: BaseAlgorithm, task_names: Sequence[str]) -> dict[str, bool | float | str]:
    """Return the arguments of a model that it stores; schedules by their initial values."""
    found: dict[str, bool | float | str] = {
        "algorithm": type(model).__name__,
        "tasks": listed(task_names),
        "n_envs": model.n_envs,
    }
    for name in arguments_of(type(model)):
        value = getattr(model, name, None)
        if name in _NOT_HPARAMS or value is None:
            continue
        if isinstance(value, type):
            value = value.__name__
        elif callable(value) and not hasattr(value, "parameters"):
            value = float(value(1.0))
        found[name] = value if isinstance(value, bool | int | float | str) else str(value)
    return found


def _metrics(model: BaseAlgorithm, task_names: Sequence[str], eval_names: Sequence[str]) -> list[str]:
    """Return the tags by which runs are compared; those of single tasks, unless there are more than 20."""
    if len(task_names) > MANY:
        task_names = ()
    of_tasks = [f"rollout/{name}/ep_rew_mean" for name in task_names] if has_ability(model, "logs_tasks") else []
    metrics = ["train/distill_loss"] if has_ability(model, "offline") else ["rollout/ep_rew_mean", *of_tasks]
    for group in eval_names:
        metrics += [f"{group}/mean_reward", f"{group}/worst_task_reward"]
        metrics += [f"{group}/{name}/mean_reward" for name in task_names]
    return metrics
