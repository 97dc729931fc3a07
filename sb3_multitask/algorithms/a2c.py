"""A2C for several tasks: one agent, one update rule, a head per task; from returns, or from teachers."""

from __future__ import annotations

import copy
import io
import pathlib
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from contextlib import nullcontext
from typing import Any, ClassVar, Literal, Self, TypeAlias, get_args

import numpy as np
import torch as th
from stable_baselines3 import A2C
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy, BasePolicy
from stable_baselines3.common.save_util import load_from_zip_file
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule, TensorDict
from stable_baselines3.common.utils import explained_variance, update_learning_rate
from stable_baselines3.common.vec_env import VecEnv

from sb3_multitask.agents.trained_files import model_zip
from sb3_multitask.algorithms.env_checks import backend_message, check_bounded_actions, warn_of_other_gamma
from sb3_multitask.algorithms.rollout_buffer import TaskRolloutBuffer, TaskRolloutBufferSamples
from sb3_multitask.algorithms.task_logs import (
    episode_of,
    log_distillation,
    log_episodes,
    log_last_update,
    log_std,
    log_update,
    make_room_for_tasks,
    refuse_update,
)
from sb3_multitask.distillation.teachers import (
    Coefficient,
    Coefficients,
    DistillationSettings,
    TeacherLike,
    Teachers,
    collect_with_teachers,
)
from sb3_multitask.envs.task_env import observation_dtype
from sb3_multitask.fast import FastEngine, LossRows, why_not_fast
from sb3_multitask.losses import (
    A2CLoss,
    DistillLoss,
    a2c_loss,
    a2c_loss_per_task,
    distill_loss,
    gaussian_kl,
    mean_per_task,
)
from sb3_multitask.losses.schedules import in_range
from sb3_multitask.policies import MultiTaskActorCriticPolicy
from sb3_multitask.policies.arguments import DEFAULT_RMS_PROP_EPS, a2c_policy_kwargs, check_names
from sb3_multitask.policies.checks import why_no_agent
from sb3_multitask.policies.devices import device_of
from sb3_multitask.policies.task_steps import step_of_tasks
from sb3_multitask.process.threads import one_thread_for_arrays
from sb3_multitask.storage.model_files import can_be_pickled, whole_zip
from sb3_multitask.tasks import Task, TasksLike, did_you_mean
from sb3_multitask.vec_env import MultiTaskVecNormalize, make_multitask_vec_env
from sb3_multitask.vec_env.faults import is_fault
from sb3_multitask.vec_env.layers import (
    TaskSchedule,
    check_same_tasks,
    check_task_observations,
    differs_in_type_only,
    scheduled,
    task_names_of,
    task_normalizer_of,
)

Engine: TypeAlias = Literal["auto", "fast", "torch"]


class A2CMultiTask(A2C):
    """Advantage actor-critic on several tasks at once, or the distillation of teachers into one agent.

    All arguments of SB3's A2C, with its defaults, and those below. ``total_timesteps`` counts environment steps
    over all tasks. With ``task_schedule="joint"`` and ``engine="torch"`` the updates are those of SB3's own A2C on
    the same VecEnv, bit for bit.

    With ``teachers`` the loss is ``rl_coef * (policy loss + ent_coef * entropy loss) + critic_coef * vf_coef * value
    loss + distill_coef * distillation loss``; by default the last term alone, on the student's own rollouts, which is
    the paper's distillation (section 4.3.2). Coefficients may be schedules: distil first, fade into RL.

    ``predict`` takes what the model's VecEnv gives, as in SB3: *normalised* observations if it normalises.

    :param policy: ``"MultiTaskMlpPolicy"`` or a subclass of ``MultiTaskActorCriticPolicy``
    :param env: a multi-task VecEnv, one env that carries its task (``TaskEnv``), or the tasks themselves: a set's
        name, an id, a list of ids and ``Task``, or names with their ids; these become ``make_multitask_vec_env(tasks)``
    :param policy_kwargs: as in SB3; ``optimizer_kwargs`` without an ``optimizer_class`` are for A2C's RMSprop
    :param device: ``"auto"`` is the CPU, on which nets of this size are fastest; others are taken, with a warning
    :param task_schedule: ``"joint"`` steps all tasks together and makes one update from the mean over all rows;
        ``"cycle"`` collects with one task, updates, and goes to the next (the paper, section 4.3.1)
    :param engine: what computes actions and updates: ``"torch"``; ``"fast"``, the same mathematics in numpy and closed
        form (within rounding, see ``sb3_multitask.fast``); or ``"auto"``, "fast" where it applies
    :param teachers: task name -> teacher: an ``Agent``, an ``A2CMultiTask``, or the path of either; each sees
        observations through its own normaliser. They are not saved with the model: hand them to ``load`` to go on.
    :param distill_loss: ``"forward_kl"`` (teacher ‖ student), ``"reverse_kl"`` or ``"mse"``: ``losses.distill_loss``
    :param distill_coef: weight of the distillation loss
    :param rl_coef: weight of A2C's policy and entropy loss; ``None``: 1 without teachers, 0 with them
    :param critic_coef: weight of the value loss; ``None``: 0 with teachers while ``rl_coef`` stays 0, else 1
    :param student_rollout_prob: probability that a rollout's actions are the student's; the others come from the
        teacher, in the same envs, and never enter the RL loss
    :raises ValueError: on an env without tasks, an unknown schedule, engine or policy, teachers that do not fit, or
        settings of distillation without teachers

    The fast engine calls ``on_step`` once per vectorised step with SB3's local names, but for ``obs_tensor``,
    ``values`` and ``log_probs``, which do not exist there; ``train/*`` is computed when the logger is asked for.
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = {"MultiTaskMlpPolicy": MultiTaskActorCriticPolicy}
    resumable: ClassVar[bool] = True
    distils: ClassVar[bool] = True
    carries_statistics: ClassVar[bool] = True
    logs_tasks: ClassVar[bool] = True
    task_terms: ClassVar[tuple[str, ...]] = ("policy_loss", "value_loss", "entropy_loss")
    policy: MultiTaskActorCriticPolicy

    def __init__(
        self,
        policy: str | type[ActorCriticPolicy],
        env: GymEnv | TasksLike | None,
        learning_rate: float | Schedule = 7e-4,
        n_steps: int = 5,
        gamma: float = 0.99,
        gae_lambda: float = 1.0,
        ent_coef: float = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float = 0.5,
        rms_prop_eps: float = DEFAULT_RMS_PROP_EPS,
        use_rms_prop: bool = True,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        normalize_advantage: bool = False,
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        task_schedule: TaskSchedule = "joint",
        engine: Engine = "auto",
        teachers: Mapping[str, TeacherLike] | None = None,
        distill_loss: DistillLoss = "forward_kl",
        distill_coef: Coefficient = 1.0,
        rl_coef: Coefficient | None = None,
        critic_coef: Coefficient | None = None,
        student_rollout_prob: Coefficient = 1.0,
        _init_setup_model: bool = True,
    ) -> None:
        check_choice("task_schedule", task_schedule, get_args(TaskSchedule))
        check_choice("engine", engine, get_args(Engine))
        if n_steps < 1:
            raise ValueError(f"`n_steps` must be at least 1 (got {n_steps})")
        if not teachers:
            given = DistillationSettings(distill_loss, distill_coef, rl_coef, critic_coef, student_rollout_prob)
            given.check_without_teachers()
        self.task_schedule: TaskSchedule = task_schedule
        self.engine: Engine = engine
        self._fast: FastEngine | None = None
        self._unlogged: dict[int | None, LossRows] = {}  # of each task in "cycle", of all of them under None
        self._last_engine_message = ""
        self.last_engine: str | None = None  # what the latest learn() ran on
        self.tasks: tuple[Task, ...] | None = None
        self.task_names: tuple[str, ...] | None = None
        self.obs_dtype = "float32"  # of observations before they are normalised
        self.normalizer_state: dict[str, Any] | None = None
        self.normalizer_settings: dict[str, Any] | None = None  # of its rewards
        self.why_no_agent: str | None = None  # of a file, for who reads only its weights
        self.task_ep_info_buffers: dict[str, deque[dict[str, Any]]] = {}
        self.teachers: Teachers | None = teachers  # type: ignore[assignment]  # resolved when the env is known
        self.is_taught = bool(teachers)
        self.distill_loss: DistillLoss = distill_loss
        self.distill_coef, self.rl_coef, self.critic_coef = distill_coef, rl_coef, critic_coef
        self.student_rollout_prob = student_rollout_prob
        self._distillation: DistillationSettings | None = None
        self.rollout_by_teacher = False
        self.frozen: tuple[str, ...] = ()  # names of parameters that are not trained
        if env is not None:
            env = self._wrap_env(env, normalize={"gamma": gamma})
            check_bounded_actions(env.action_space)
        super().__init__(
            policy,
            env,  # type: ignore[arg-type]  # load() passes None
            learning_rate=learning_rate,
            n_steps=n_steps,
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            rms_prop_eps=rms_prop_eps,
            use_rms_prop=use_rms_prop,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=copy.deepcopy(rollout_buffer_kwargs),
            normalize_advantage=normalize_advantage,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=a2c_policy_kwargs(policy_kwargs, use_rms_prop, rms_prop_eps),
            verbose=verbose,
            seed=seed,
            device=device_of(device),
            _init_setup_model=_init_setup_model,
        )

    # Training

    def train(self) -> None:
        """One gradient step on the rollout: all tasks' rows in "joint", the active task's in "cycle"."""
        if self._fast is not None and self._fast.is_as_collected():
            self._fast_update()
        else:
            self._unlogged.pop(getattr(self.env, "active_task", None), None)
            self._torch_update()
        if self.task_schedule == "cycle":
            self._next_task()

    def _torch_update(self) -> None:
        """SB3's update, operation by operation; its order decides the last bits."""
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        coef = self._coefficients()
        keep = self._keep
        if keep is not None and not keep.any():
            return
        for samples in self.rollout_buffer.get(batch_size=None):  # loops once: all rows in one batch
            rollout_data: Any = samples if keep is None else samples.kept()  # type: ignore[attr-defined]
            values, log_prob, entropy = self.policy.evaluate_actions(rollout_data.observations, rollout_data.actions)
            assert entropy is not None
            advantages = rollout_data.advantages
            if self.normalize_advantage and len(advantages) > 1:  # a single row has no spread, as in SB3's PPO
                advantages = (advantages - advantages.mean()) / (advantages.std() + 1e-8)
            rows = (log_prob, values.flatten(), entropy, advantages, rollout_data.returns)

            observations: Any = rollout_data.observations
            task, n_tasks = observations["task"].long().flatten(), self.policy.n_tasks
            present = th.bincount(task, minlength=n_tasks).bool().tolist()
            terms = a2c_loss(*rows)
            loss = coef.rl * (terms.policy_loss + self.ent_coef * terms.entropy_loss)
            loss = loss + coef.critic * self.vf_coef * terms.value_loss
            distillation = {} if self.teachers is None else self._distillation_losses(rollout_data)
            if distillation:
                loss = loss + coef.distill * distillation["loss"].mean()

            if not th.isfinite(loss):
                refuse_update(self.task_names or (), a2c_loss_per_task(task, n_tasks, *rows), present)
            self.policy.optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            norm = th.nn.utils.clip_grad_norm_(self.policy.parameters(), self.max_grad_norm)
            if not th.isfinite(norm):
                refuse_update(self.task_names or (), a2c_loss_per_task(task, n_tasks, *rows), present)
            step_of_tasks(self.policy, present)

            with th.no_grad():
                per_task = a2c_loss_per_task(task, n_tasks, *rows)
                taught = {name: mean_per_task(task, n_tasks, loss) for name, loss in distillation.items()}
        self._n_updates += 1
        buffer = self.rollout_buffer
        self._log_update(per_task, taught, present, buffer.values.flatten(), buffer.returns.flatten(), terms)

    def _distillation_losses(self, samples: TaskRolloutBufferSamples) -> dict[str, th.Tensor]:
        """The distillation loss and KL(teacher ‖ student) of each row of the batch that the policy has just seen."""
        assert samples.teacher_mean is not None
        assert samples.teacher_log_std is not None
        targets = samples.teacher_mean, samples.teacher_log_std
        student: Any = self.policy.action_dist.distribution  # of evaluate_actions
        mean, log_std = student.mean, student.stddev.log()
        with th.no_grad():
            kl = gaussian_kl(*targets, mean, log_std)
        return {"loss": distill_loss(self.distill_loss, *targets, mean, log_std), "kl": kl}

    def _log_update(
        self,
        per_task: A2CLoss,
        taught: dict[str, th.Tensor],
        present: Sequence[bool],
        values: np.ndarray,
        returns: np.ndarray,
        terms: A2CLoss | None = None,
    ) -> None:
        """Record an update: see :func:`~sb3_multitask.algorithms.task_logs.log_update`."""
        names, policy = self.task_names or (), self.policy
        self._logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self._logger.record("train/explained_variance", explained_variance(values, returns))
        log_update(self._logger, names, per_task, present, terms)
        log_distillation(self._logger, names, taught, present)
        if policy.log_std_mode != "state_dependent":
            log_std(self._logger, names, policy.log_std.detach().exp())

    def _fast_update(self) -> None:
        """The same objective in closed form; its terms are logged when somebody asks for the logger."""
        assert self._fast is not None
        update_learning_rate(self.policy.optimizer, self.lr_schedule(self._current_progress_remaining))
        task = getattr(self.env, "active_task", None)
        rows = self._fast.update(self._coefficients(), self._keep)
        if rows is None:
            return
        self._unlogged.pop(task, None)  # the latest update comes last
        self._unlogged[task] = rows
        self._n_updates += 1

    @property
    def logger(self) -> Logger:
        """SB3's logger, up to date."""
        if self._unlogged:
            unlogged, self._unlogged = self._unlogged, {}
            self._logger.record("train/learning_rate", self.policy.optimizer.param_groups[0]["lr"])
            for rows in unlogged.values():
                values, returns = rows.values.ravel(), rows.returns.ravel()
                self._log_update(rows.per_task(), rows.distillation(), rows.present(), values, returns)
        return self._logger

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """SB3's; by the fast engine where it runs."""
        if self._fast is not None:
            assert isinstance(rollout_buffer, TaskRolloutBuffer)  # see why_not_fast
            return self._fast.collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        if self.teachers is not None:
            assert isinstance(rollout_buffer, TaskRolloutBuffer)  # see _setup_model
            return collect_with_teachers(self, env, callback, rollout_buffer, n_rollout_steps)
        return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)

    @property
    def distillation(self) -> DistillationSettings:
        """How the model learns from teachers, as its attributes say now."""
        given = (self.distill_loss, self.distill_coef, self.rl_coef, self.critic_coef, self.student_rollout_prob)
        if self._distillation is None or self._distillation.given != given:
            self._distillation = DistillationSettings(*given)
        return self._distillation

    def sample_behavior_policy(self) -> None:
        """Draw whether the teachers act in the next rollout, by ``student_rollout_prob``."""
        if self.teachers is not None:
            progress = in_range(1 - self.num_timesteps / self._total_timesteps)
            self.rollout_by_teacher = not self.distillation.rollout_is_students(progress)

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        """SB3's, but within [0, 1] in the last update too: see :mod:`sb3_multitask.losses.schedules`."""
        super()._update_current_progress_remaining(num_timesteps, total_timesteps)
        self._current_progress_remaining = in_range(self._current_progress_remaining)

    def _coefficients(self) -> Coefficients:
        """Weights of the terms of the loss in this update."""
        progress = self._current_progress_remaining
        return self.distillation.at(progress, self.teachers is not None, self.rollout_by_teacher)

    def _choose_engine(self) -> None:
        """Take the engine that was asked for, and say so once, with the backend that runs the environments.

        :raises ValueError: if ``engine="fast"`` does not apply; says why
        """
        reason = 'engine="torch"' if self.engine == "torch" else why_not_fast(self)
        if reason is not None and self.engine == "fast":
            raise ValueError(f'`engine="fast"` does not apply: {reason}. engine="auto" takes torch by itself.')
        self._fast = FastEngine(self) if reason is None else None
        self.last_engine = "fast" if reason is None else "torch"
        said = "Using the fast engine" if reason is None else f"Using the torch engine ({reason})"
        said += backend_message(self.env)
        if self.verbose >= 1 and said != self._last_engine_message:
            print(said)  # noqa: T201
        self._last_engine_message = said

    def _next_task(self) -> None:
        """Go on with the next task where it stopped."""
        env: Any = self.env
        self._last_obs = env.next_task()
        self._last_episode_starts = env.episode_starts

    def learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int = 100,
        tb_log_name: str = "A2CMultiTask",
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
    ) -> Self:
        """Train; SB3's arguments and behaviour, but that the log of the last update is written too.

        :param total_timesteps: environment steps over all tasks, a lower bound: training ends after a whole
            rollout, in "cycle" after a whole cycle of tasks
        :param log_interval: updates between two lines of the log; ``None``: no lines
        :raises ValueError: if the model has no env
        """
        if self.env is None:
            raise ValueError(
                "The model has no env to learn in: load it with `A2CMultiTask.load(path, env=env)` or call "
                "`model.set_env(env)` first."
            )
        if self.is_taught and self.teachers is None:
            raise ValueError(
                "The model learned from teachers, which are not saved with it: load it with "
                "`A2CMultiTask.load(path, env=env, teachers={task: teacher, ...})`; with `teachers={}` it goes on "
                "without them, by reinforcement learning."
            )
        self._choose_engine()
        with one_thread_for_arrays() if self._fast is not None else nullcontext():
            super().learn(total_timesteps, callback, log_interval, tb_log_name, reset_num_timesteps, progress_bar)
        if log_interval is not None:
            log_last_update(self)
        return self

    def _setup_learn(
        self,
        total_timesteps: int,
        callback: MaybeCallback = None,
        reset_num_timesteps: bool = True,
        tb_log_name: str = "run",
        progress_bar: bool = False,
    ) -> tuple[int, BaseCallback]:
        if reset_num_timesteps or not self.task_ep_info_buffers:
            self.task_ep_info_buffers = {name: deque(maxlen=self._stats_window_size) for name in self.task_names or ()}
        total_timesteps, callback_object = super()._setup_learn(
            total_timesteps, callback, reset_num_timesteps, tb_log_name, progress_bar
        )
        make_room_for_tasks(self.logger, self.task_names or ())
        if self.task_schedule == "cycle":
            total_timesteps = self._whole_cycles(total_timesteps)
            self._total_timesteps = total_timesteps
        return total_timesteps, callback_object

    def _whole_cycles(self, total_timesteps: int) -> int:
        """The least number of steps, at least ``total_timesteps``, at which every task has had its turn."""
        env: Any = self.env
        rollout = self.n_steps * self.n_envs
        n_rollouts: int = -(-max(total_timesteps - self.num_timesteps, 0) // rollout)
        n_rollouts += -(env.active_task + n_rollouts) % env.n_tasks
        return self.num_timesteps + n_rollouts * rollout

    def note_faults(self, step: int, ended: Sequence[int], infos: Sequence[dict[str, Any]]) -> None:
        """Tell the buffer which rows of the rollout's step were quarantined: they are left out of the update.

        :raises ValueError: if there are some and the buffer is of another class, which cannot leave rows out
        """
        for i in ended:
            if is_fault(infos[i]):
                self._check_buffer("leave out quarantined steps").note_fault(step, i)

    def _check_buffer(self, purpose: str) -> TaskRolloutBuffer:
        if not isinstance(self.rollout_buffer, TaskRolloutBuffer):
            raise ValueError(
                f"`rollout_buffer_class` is {type(self.rollout_buffer).__name__}, which cannot {purpose}: derive it "
                "from sb3_multitask.algorithms.rollout_buffer.TaskRolloutBuffer"
            )
        return self.rollout_buffer

    @property
    def _keep(self) -> np.ndarray | None:
        """Which rows of the rollout the update is made of, (n_steps, n_envs); None for all."""
        return self.rollout_buffer.keep if isinstance(self.rollout_buffer, TaskRolloutBuffer) else None

    def _update_info_buffer(self, infos: list[dict[str, Any]], dones: np.ndarray | None = None) -> None:
        if self._fast is None and dones is not None and dones.any():
            self.note_faults(self.rollout_buffer.pos, dones.nonzero()[0].tolist(), infos)
        super()._update_info_buffer(infos, dones)
        for info in infos:
            if "episode" in info and "task" in info:
                self.task_ep_info_buffers[info["task"]].append(episode_of(info))

    def dump_logs(self, iteration: int = 0) -> None:
        """Write the log: SB3's keys, returns and lengths of each task's latest episodes, and how many faults it had.

        SB3's ``rollout/ep_rew_mean`` is of the latest episodes in the order of the environments, which would be the
        last tasks' alone where there are many of them. Here it, ``ep_len_mean`` and ``success_rate`` are means over
        the tasks of their own means.
        """
        for name, count in getattr(self.env.unwrapped if self.env else None, "fault_counts", {}).items():
            if count:
                self.logger.record(f"faults/{name}", count)
        all_episodes = self.ep_info_buffer, self.ep_success_buffer
        try:
            if means := log_episodes(self.logger, self.task_ep_info_buffers):
                self.ep_info_buffer = deque(means)
                self.ep_success_buffer = deque(mean["success"] for mean in means if "success" in mean)
            super().dump_logs(iteration)
        finally:
            self.ep_info_buffer, self.ep_success_buffer = all_episodes

    # The env: its tasks, its schedule, its normaliser

    @staticmethod
    def _wrap_env(
        env: GymEnv | TasksLike,
        verbose: int = 0,
        monitor_wrapper: bool = True,
        normalize: bool | dict[str, Any] = True,
    ) -> VecEnv:
        if isinstance(env, str | Task | Sequence | Mapping):
            return make_multitask_vec_env(env, normalize=normalize)
        check_task_observations(env)
        return A2C._wrap_env(env, verbose, monitor_wrapper)

    def _setup_model(self) -> None:
        check_choice("task_schedule", self.task_schedule, get_args(TaskSchedule))  # load(...) may have set it
        check_choice("engine", self.engine, get_args(Engine))
        if self.task_names is not None:
            self.task_names = tuple(self.task_names)  # a list if read from a file
        if self.env is not None:
            self._check_env(self.env, self.normalizer_state)
            self.env = scheduled(self.env, self.task_schedule)
            self.n_envs = self.env.num_envs
            self._adopt_env(self.env)
        _ = self.distillation  # checked
        if self.rollout_buffer_class in (None, DictRolloutBuffer):  # what SB3 takes by itself
            self.rollout_buffer_class = TaskRolloutBuffer
        check_names(self.policy_kwargs, self.policy_class)
        super()._setup_model()
        self.policy.set_frozen(self.frozen)
        if isinstance(self.teachers, Mapping):
            self.is_taught = bool(self.teachers)
            if self.is_taught:
                self.distillation.check_teachers_teach()
                self._check_buffer("hold what teachers would do")
            self.teachers = self._resolve_teachers(self.teachers) if self.teachers else None
        elif not (self.teachers is None or isinstance(self.teachers, Teachers)):
            raise TypeError(f"`teachers` must map tasks to teachers (got {self.teachers!r:.100})")

    def _resolve_teachers(self, teachers: Mapping[str, TeacherLike]) -> Teachers:
        if self.task_names is None:
            raise ValueError("`teachers` need an env, whose tasks they teach: pass `env` too")
        action_dim = self.action_space.shape[0]  # type: ignore[index]
        return Teachers(teachers, self.task_names, self.policy.obs_dim, action_dim)

    def _check_env(self, env: VecEnv, state: dict[str, Any] | None) -> None:
        """Raise if an env is not one for this model, whose statistics are ``state``; changes nothing."""
        check_same_tasks(self.task_names, task_names_of(env))
        normalizes = task_normalizer_of(env) is not None
        if state is not None and not normalizes:
            raise ValueError(
                "The model was trained on normalised observations, and this env does not normalise: make it with "
                "make_multitask_vec_env(tasks, normalize=True)."
            )
        if state is None and normalizes and self.num_timesteps > 0:
            raise ValueError(
                "The model was trained on raw observations, and this env normalises: make it with "
                "make_multitask_vec_env(tasks, normalize=False). (Or its file has no statistics, because another "
                "algorithm or `exclude` left them out: then train it again, or hand over what VecNormalize saved.)"
            )

    def _adopt_env(self, env: VecEnv) -> None:
        """Give the env's normaliser the model's statistics, and the model the env's tasks."""
        self._vec_normalize_env = task_normalizer_of(env)
        warn_of_other_gamma(self.gamma, self._vec_normalize_env)
        if self.normalizer_state is not None and self._vec_normalize_env is not None:
            self._vec_normalize_env.set_statistics(self.normalizer_state)
        self.task_names = task_names_of(env)
        self.tasks = getattr(env, "tasks", None)
        self.obs_dtype = observation_dtype(env.unwrapped.observation_space["obs"].dtype).name  # type: ignore[index]

    def get_normalizer_state(self) -> dict[str, Any] | None:
        """The statistics that travel with the model: its env's, or those it was loaded with; None without."""
        normalizer = self.get_vec_normalize_env()
        return normalizer.get_statistics() if isinstance(normalizer, MultiTaskVecNormalize) else self.normalizer_state

    def _normalizer_settings(self) -> dict[str, Any] | None:
        """How the env's normaliser treats rewards, for one like it; without an env what the model was loaded with."""
        normalizer = self.get_vec_normalize_env()
        if normalizer is None:
            return self.normalizer_settings
        return {name: getattr(normalizer, name) for name in ("norm_reward", "clip_reward", "gamma")}

    def set_parameters(
        self,
        load_path_or_dict: str | TensorDict,
        exact_match: bool = True,
        device: th.device | str = "auto",
    ) -> None:
        """SB3's: weights and optimizer from a file or from ``get_parameters``.

        A file of a multi-task model brings its normaliser's statistics too; a dict has none.

        :raises ValueError: if the file's model has another set or order of tasks, or is normalised where this is not
        """
        device = self.device if device == "auto" else device
        if not isinstance(load_path_or_dict, dict):
            saved = load_from_zip_file(load_path_or_dict, device=device)[0] or {}
            if isinstance(load_path_or_dict, io.IOBase):
                load_path_or_dict.seek(0)
            if self.task_names is not None:
                check_same_tasks(saved.get("task_names"), self.task_names)
            if (state := saved.get("normalizer_state")) is not None:
                if self.env is not None:
                    self._check_env(self.env, state)
                super().set_parameters(load_path_or_dict, exact_match, device)
                normalizer = None if self.env is None else task_normalizer_of(self.env)
                self.normalizer_state = state
                if normalizer is not None:
                    normalizer.set_statistics(state)
                return
        super().set_parameters(load_path_or_dict, exact_match, device)

    def set_env(self, env: GymEnv, force_reset: bool = True) -> None:
        """Set the env; its normaliser, if any, takes over the model's statistics.

        :raises ValueError: if it has other tasks or another order, or normalises where the model's did not, or the
            other way round
        """
        state = self.get_normalizer_state()
        normalizes = state is not None or self.num_timesteps == 0
        settings = self._normalizer_settings() or {"gamma": self.gamma}
        env = self._wrap_env(env, self.verbose, normalize=settings if normalizes else False)
        self._check_env(env, state)
        if self.num_timesteps == 0 and state is not None and state["obs_rms"]["count"].max() < 1:
            state = None  # nothing is known yet: the env keeps what it brings
        if differs_in_type_only(self.observation_space, env.observation_space):
            self.observation_space = env.observation_space
        super().set_env(scheduled(env, self.task_schedule), force_reset)  # refuses without a change
        self.normalizer_state = state
        assert self.env is not None
        self._adopt_env(self.env)

    # Files

    def _excluded_save_params(self) -> list[str]:
        ours = ["_fast", "_unlogged", "_last_engine_message", "teachers", "_distillation"]
        if self.rollout_buffer_class is TaskRolloutBuffer:  # which it is by itself
            ours.append("rollout_buffer_class")
        return [*super()._excluded_save_params(), *ours]

    def save(
        self,
        path: str | pathlib.Path | io.BufferedIOBase,
        exclude: Iterable[str] | None = None,
        include: Iterable[str] | None = None,
    ) -> None:
        """Save the model as SB3 does, with its ordered task names and its normaliser's statistics.

        The tasks themselves are saved too, for ``evaluate_tasks(model)``, unless a factory cannot be pickled. A file
        that is there is replaced only by a whole one.

        :raises SaveError: if it cannot be written; an earlier file is unchanged
        :raises TypeError: if an attribute of the model cannot be stored; names it
        """
        self.normalizer_state, self.normalizer_settings = self.get_normalizer_state(), self._normalizer_settings()
        self.why_no_agent = why_no_agent(self.policy)
        exclude = [] if exclude is None else list(exclude)
        if not can_be_pickled(self.tasks):
            exclude.append("tasks")
        if isinstance(path, io.IOBase):
            super().save(path, exclude, include)
            return
        with whole_zip(path, self.__dict__.keys() - set(self._excluded_save_params()), self) as file:
            super().save(file, exclude, include)

    @classmethod
    def load(
        cls,
        path: str | pathlib.Path | io.BufferedIOBase,
        env: GymEnv | TasksLike | None = None,
        device: th.device | str = "auto",
        custom_objects: dict[str, Any] | None = None,
        print_system_info: bool = False,
        force_reset: bool = True,
        **kwargs: Any,
    ) -> Self:
        """Load a model; SB3's arguments. A normalised ``env`` takes over the statistics from the file.

        ``path`` may also be a run's folder, or one of its agents whose model stands beside it.
        An ``env`` made from tasks treats rewards as the model's did.

        Like every ``load`` of SB3's this unpickles, which runs code that the file may bring: load only files that you
        trust. ``sb3_multitask.readers.read_sb3_zip`` reads the weights of others.

        :raises FileNotFoundError: if there is no such model
        :raises ValueError: if ``env`` has another set or order of tasks than the model; shows both
        """
        device = device_of(device)
        if isinstance(path, str | pathlib.Path) and not pathlib.Path(path).is_file():
            path = model_zip(path)
        if env is not None:
            saved, _, _ = load_from_zip_file(path, device=device, custom_objects=custom_objects)
            if isinstance(path, io.IOBase):
                path.seek(0)
            saved = saved or {}
            normalize: bool | dict[str, Any] = False
            if saved.get("normalizer_state"):
                normalize = saved.get("normalizer_settings") or {"gamma": saved.get("gamma")}
                normalize |= {"gamma": kwargs["gamma"]} if "gamma" in kwargs else {}
            env = cls._wrap_env(env, normalize=normalize)
            check_same_tasks(saved.get("task_names"), task_names_of(env))
            if differs_in_type_only(saved.get("observation_space"), env.observation_space):
                custom_objects = {**(custom_objects or {}), "observation_space": env.observation_space}
        return super().load(path, env, device, custom_objects, print_system_info, force_reset, **kwargs)

    def _get_policy_from_name(self, policy_name: str) -> type[BasePolicy]:
        if policy_name not in self.policy_aliases:
            known = ", ".join(self.policy_aliases)
            raise ValueError(
                f"Unknown policy {policy_name!r}.{did_you_mean(policy_name, self.policy_aliases)} Known: {known}, "
                "or pass a subclass of MultiTaskActorCriticPolicy."
            )
        return super()._get_policy_from_name(policy_name)


def check_choice(name: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(choices)} (got {value!r})")
