"""Policy distillation (Rusu et al. 2016): a student learns from a dataset of its teachers, without env steps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, TypeAlias

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, CallbackList, ConvertCallback, ProgressBarCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_multitask.algorithms import task_logs
from sb3_multitask.algorithms.columns import note_column
from sb3_multitask.algorithms.engine import EngineName
from sb3_multitask.algorithms.env_checks import check_choices, check_counts, check_positive, check_same_layouts
from sb3_multitask.algorithms.offline_rows import OfflineRows, RowOrder
from sb3_multitask.algorithms.on_policy import MultiTaskOnPolicyAlgorithm
from sb3_multitask.distillation.dataset import TeacherDataset
from sb3_multitask.envs.task_space import TaskSizes
from sb3_multitask.losses import DistillationLoss, Evaluation, Loss
from sb3_multitask.losses.likelihood import LikelihoodLoss
from sb3_multitask.policies.devices import device_of
from sb3_multitask.policies.task_steps import forget_critic
from sb3_multitask.tasks import TasksLike
from sb3_multitask.vec_env.layers import task_normalizer_of

OfflineLoss: TypeAlias = Literal["forward_kl", "reverse_kl", "mse", "nll"]
DatasetLike: TypeAlias = TeacherDataset | str | Path
"""A dataset, or the folder that it was saved to."""


class PolicyDistillation(MultiTaskOnPolicyAlgorithm):
    """Distillation of recorded teachers into one student (Rusu et al. 2016, https://arxiv.org/abs/1511.06295).

    The student learns from a dataset that :func:`sb3_multitask.record` made. ``learn`` makes no environment steps: its
    ``total_timesteps`` counts **rows of the dataset** that are learned from, each as often as it is. Callbacks,
    evaluations, logs, files and exact resume are those of the other algorithms, with rows in place of steps. The env
    says what the tasks are, and is what evaluations copy.

    Every update takes ``batch_size`` rows of each task, so that tasks count equally however much of them was recorded.
    Each task's rows are passed through in epochs of its own, in an order that the seed and the number of updates
    decide.

    If the env normalises observations, the statistics of every task are those of its rows in the dataset. They stay as
    they are (the normaliser's ``training`` becomes False), and are the model's, its files' and its agents'. A
    ``transfer`` into the model replaces them.

    The actor alone learns. The critic keeps the weights with which it began: before RL, ``transfer`` the student into
    an ``A2CMultiTask`` or ``PPOMultiTask`` and warm its critic up.

    :param policy: as of ``A2CMultiTask``. A student smaller than its teachers is ``policy_kwargs={"net_arch": [32]}``
    :param env: as of ``A2CMultiTask``; such as ``dataset.tasks``. Its tasks are the dataset's, in any order
    :param dataset: the recorded teachers, or their folder. It is not saved with the model: pass it to ``load`` to
        continue
    :param learning_rate: of Adam, unless ``policy_kwargs`` say another optimizer; may be a schedule
    :param batch_size: rows **of each task** in an update
    :param loss: ``"forward_kl"``, KL(teacher || student), the paper's; ``"reverse_kl"``; ``"mse"``, the squared errors
        of means and standard deviations; ``"nll"``, the negative log-likelihood of the recorded actions. See
        ``losses.distill_loss`` and ``losses.likelihood``
    :param temperature: of the teachers, for the two KLs: their std is multiplied by its square root, which is the
        paper's softmax temperature for Gaussians, see ``losses.likelihood.log_std_at_temperature``. Below 1 it sharpens
    :param max_grad_norm: gradient clipping
    :param engine: ``"torch"``, ``"fast"`` or ``"auto"``, as of ``A2CMultiTask``
    :raises TypeError: if a number is of another type
    :raises ValueError: without a dataset; on an unknown loss, a temperature without effect, a dataset of other tasks or
        sizes, or one without the teachers' Gaussians for another loss than ``"nll"``
    """

    offline: ClassVar[bool] = True  # learns from a dataset, which it needs
    distils: ClassVar[bool] = False  # from `teachers` that label rollouts
    weighs_tasks: ClassVar[bool] = False
    has_numerics: ClassVar[bool] = False  # that would update `value_norm`: it learns no values
    live_settings: ClassVar[tuple[str, ...]] = ("max_grad_norm",)
    task_terms: ClassVar[tuple[str, ...]] = ()

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | TasksLike | None,
        dataset: DatasetLike | None = None,
        learning_rate: float | Schedule = 1e-3,
        batch_size: int = 64,
        loss: OfflineLoss = "forward_kl",
        temperature: float = 1.0,
        max_grad_norm: float = 0.5,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        engine: EngineName = "auto",
        _init_setup_model: bool = True,
    ) -> None:
        if dataset is None and _init_setup_model:
            raise ValueError("`dataset` must be a TeacherDataset or its folder, such as mt.record makes (got None)")
        self.dataset: DatasetLike | None = dataset
        self.batch_size, self.loss, self.temperature = batch_size, loss, temperature
        self.order_seed = int(np.random.SeedSequence().generate_state(1)[0] if seed is None else seed)
        self._rows: OfflineRows | None = None
        self._order: RowOrder | None = None
        self.begin("joint", engine, 1)
        self.learn_from()
        super().__init__(
            policy,
            self._env_of(env, 0.99),
            learning_rate,
            n_steps=1,
            gamma=0.99,
            gae_lambda=1.0,
            ent_coef=0.0,
            vf_coef=0.0,
            max_grad_norm=max_grad_norm,
            use_sde=False,
            sde_sample_freq=-1,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device_of(device),
            _init_setup_model=_init_setup_model,
        )

    def _setup_model(self) -> None:
        self._check_arguments()
        super()._setup_model()

    def _check_arguments(self) -> None:
        """Check the arguments, also those that ``load`` was given or that were set since; read the dataset."""
        check_counts(batch_size=self.batch_size)
        check_choices(loss=(self.loss, OfflineLoss))
        check_positive(temperature=self.temperature)
        if self.temperature != 1 and self.loss not in ("forward_kl", "reverse_kl"):
            raise ValueError(
                f"`temperature`={self.temperature} is the teachers' in a KL; `loss`={self.loss!r} has none"
            )
        if isinstance(self.dataset, str | Path):
            self.dataset = TeacherDataset.load(self.dataset)
        if not (self.dataset is None or isinstance(self.dataset, TeacherDataset)):
            raise TypeError(f"`dataset` must be a TeacherDataset or its folder (got {self.dataset!r:.100})")

    def _adopt_env(self, env: VecEnv) -> None:
        is_new = self.normalizer_state is None
        super()._adopt_env(env)
        self._rows = None
        if self.dataset is not None:
            self.dataset = self._checked(self._known_dataset)
        if (normalizer := task_normalizer_of(env)) is None:
            return
        normalizer.training = False
        if self.dataset is not None and is_new:
            normalizer.set_statistics(self._statistics(normalizer.get_statistics()))

    # The dataset

    @property
    def _known_dataset(self) -> TeacherDataset:
        assert isinstance(self.dataset, TeacherDataset)
        return self.dataset

    @property
    def _sizes(self) -> TaskSizes:
        return TaskSizes.of(self.observation_space, self.action_space)

    def _checked(self, dataset: TeacherDataset) -> TeacherDataset:
        """Return the dataset with its tasks in the env's order.

        :raises ValueError: if its tasks or their sizes are others, or it lacks what the loss needs; names both sides
        """
        names, sizes = self.task_names or (), self._sizes
        if set(names) != set(dataset.task_names):
            raise ValueError(
                "`dataset` must have the tasks of the env; dataset.select([...]) leaves some out.\n"
                f"  env:     {', '.join(names)}\n  dataset: {', '.join(dataset.task_names)}"
            )
        for i, name in enumerate(names):
            recording = dataset.recordings[name]
            ours, theirs = (sizes.obs_dims[i], sizes.action_dims[i]), (recording.obs_dim, recording.action_dim)
            if ours != theirs:
                raise ValueError(
                    f"The dataset's task {name!r} has {theirs[0]} numbers in an observation and {theirs[1]} in an "
                    f"action; the env's has {ours[0]} and {ours[1]}"
                )
            if self.loss != "nll" and not recording.has_labels:
                raise ValueError(
                    f"The dataset has actions of task {name!r}, but not the Gaussians of a teacher, which "
                    f"`loss`={self.loss!r} needs: take loss='nll'"
                )
        layouts = dataset.facts.get("layouts")
        check_same_layouts(layouts if isinstance(layouts, Mapping) else {}, self.layouts)
        return dataset if dataset.task_names == names else dataset.select(names)

    def _statistics(self, state: dict[str, Any]) -> dict[str, Any]:
        """Return a normaliser's statistics with those of the dataset's observations.

        :param state: as ``get_statistics`` gives it
        """
        obs_rms = {part: array.copy() for part, array in state["obs_rms"].items()}
        for i, recording in enumerate(self._known_dataset.recordings.values()):
            rows = recording.observations.astype(np.float64)
            for part, values in (("mean", rows.mean(axis=0)), ("var", rows.var(axis=0)), ("count", len(rows))):
                obs_rms[part][i, : recording.obs_dim] = values
        return {**state, "obs_rms": obs_rms}

    def _prepare(self) -> tuple[OfflineRows, RowOrder]:
        """Return the rows as the policy takes them, and their order; made when learning begins."""
        if self._rows is None or self._order is None:
            normalizer = None if self.env is None else task_normalizer_of(self.env)
            normalize = (lambda obs: obs) if normalizer is None else normalizer.normalize_obs
            self._rows = OfflineRows.of(self._known_dataset, self._sizes, normalize, self.temperature)
            self._order = RowOrder(self._rows.bounds, self.batch_size, self.order_seed)
        return self._rows, self._order

    @property
    def _rows_per_update(self) -> int:
        return self.batch_size * len(self.task_names or ())

    # Training

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 100,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train on the dataset; SB3's arguments, with rows in place of environment steps.

        :param total_timesteps: rows of the dataset over all tasks, a lower bound: ``n * dataset.n_rows`` are n epochs
            of tasks with as many rows each
        :param log_interval: updates between two lines of the log; ``None``: no lines
        :param tb_log_name: of TensorBoard's folder; ``None``: the algorithm's name
        :raises TypeError: as the constructor, if an attribute was set since
        :raises ValueError: if the model has no env or no dataset; as the constructor, if an attribute was set since
        """
        self._check_arguments()
        if self.env is not None and self.dataset is None:
            raise ValueError(
                "The model has no dataset, which is not saved with it: load it with PolicyDistillation.load(path, "
                "env=env, dataset=dataset)"
            )
        if self.task_schedule != "joint":  # of a file of another algorithm
            raise ValueError(
                f"`task_schedule` is {self.task_schedule!r:.100}, and PolicyDistillation learns all tasks at once: "
                'load the model with task_schedule="joint", or transfer what it learned to a new one'
            )
        if self.env is not None:
            self.dataset = self._checked(self._known_dataset)
        return super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        self._rows = None  # a transfer may have brought other statistics
        forget_critic(self.policy)  # weights of another algorithm may have brought its optimizer's memory
        return super()._setup_learn(*args, **kwargs)

    def _init_callback(self, callback: MaybeCallback, progress_bar: bool = False) -> BaseCallback:
        if progress_bar:
            callback = CallbackList(callback) if isinstance(callback, list) else callback
            callback = callback if isinstance(callback, BaseCallback) else ConvertCallback(callback)
            callback = CallbackList([callback, _RowsProgressBar(self._rows_per_update)])
        return super()._init_callback(callback)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Count the rows of the next update, and call callbacks; nothing is played."""
        callback.on_rollout_start()  # may restore a checkpoint
        self.num_timesteps += self._rows_per_update
        no_rows: dict[str, Any] = {"infos": [], "dones": np.zeros(0, dtype=bool), "rewards": np.zeros(0, np.float32)}
        given = {"env": env, "callback": callback, "rollout_buffer": rollout_buffer, "n_rollout_steps": n_rollout_steps}
        callback.update_locals({"self": self, **given, **no_rows})
        if not callback.on_step():
            return False
        callback.on_rollout_end()
        return True

    def objective(self) -> Loss:
        """The loss of an update."""
        return LikelihoodLoss(1.0) if self.loss == "nll" else DistillationLoss(self.loss, 1.0)

    def train(self) -> None:
        """One gradient step on ``batch_size`` rows of each task."""
        self._update_learning_rate(self.policy.optimizer)
        rows, order = self._prepare()
        batch = self.numerics.batch_of(rows, order.rows(self._n_updates))
        evaluation = self.numerics.evaluate([self.objective()], batch)
        if not self.numerics.step(self.max_grad_norm):
            self.refuse_update(evaluation)
        self._n_updates += 1
        note_column(self)
        self.log_update(evaluation)

    def log_update(self, evaluation: Evaluation) -> None:
        """Record the terms of an update, of all rows and of each task, and how often the dataset was passed."""
        names = self.task_names or ()
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        epochs = self._n_updates * self._rows_per_update / self._known_dataset.n_rows
        others = {"train/epochs": epochs, **task_logs.stds(names, self.policy)}
        task_logs.log_evaluation(self.logger, names, evaluation, others)

    def dump_logs(self, iteration: int = 0) -> None:  # noqa: ARG002 (counted in environment steps at the end)
        """Write the log; its iterations are updates."""
        rows = self.num_timesteps - self._num_timesteps_at_start
        super().dump_logs(rows // self._rows_per_update)

    # Files and state

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "dataset", "_rows", "_order"]

    def settings(self) -> dict[str, Any]:
        names = ("batch_size", "loss", "temperature")
        dataset = None if self.dataset is None else self._known_dataset.digest
        return {**super().settings(), **{name: getattr(self, name) for name in names}, "dataset": dataset}

    def get_state(self) -> dict[str, Any]:
        return {**super().get_state(), "order_seed": self.order_seed}

    def set_state(self, state: dict[str, Any]) -> None:
        super().set_state(state)
        self.order_seed, self._rows = state["order_seed"], None


class _RowsProgressBar(ProgressBarCallback):
    """SB3's progress bar, which counts environments, in rows of a dataset."""

    def __init__(self, rows_per_update: int) -> None:
        super().__init__()
        self._rows_per_update = rows_per_update

    def _on_step(self) -> bool:
        self.pbar.update(self._rows_per_update)
        return True
