"""A2C for several tasks: one agent, one update rule, a head per task; from returns, or from teachers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any, ClassVar

import torch as th
from stable_baselines3 import A2C
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from sb3_multitask.algorithms.engine import EngineName
from sb3_multitask.algorithms.on_policy import MultiTaskOnPolicyAlgorithm
from sb3_multitask.algorithms.task_weights import TaskWeights
from sb3_multitask.combiners import GradientCombiner
from sb3_multitask.distillation.settings import Coefficient
from sb3_multitask.distillation.sources import TeacherLike
from sb3_multitask.losses import A2CLoss, A2CTerms, DistillLoss, Distral
from sb3_multitask.policies.arguments import DEFAULT_RMS_PROP_EPS, a2c_policy_kwargs
from sb3_multitask.policies.devices import device_of
from sb3_multitask.policies.task_steps import actor_held
from sb3_multitask.tasks import TasksLike
from sb3_multitask.vec_env.layers import TaskScheduleLike


class A2CMultiTask(MultiTaskOnPolicyAlgorithm, A2C):
    """Advantage actor-critic on several tasks at once, or the distillation of teachers into one agent.

    All arguments of SB3's A2C, with its defaults, and those below. ``total_timesteps`` counts environment steps
    over all tasks. With ``task_schedule="joint"`` and ``engine="torch"`` the updates are those of SB3's own A2C on
    the same VecEnv, bit for bit.

    With ``teachers`` the loss is ``rl_coef * (policy loss + ent_coef * entropy loss) + critic_coef * vf_coef * value
    loss + distill_coef * distillation loss``; by default the last term alone, on the student's own rollouts, which is
    the paper's distillation (section 4.3.2). Coefficients may be schedules: distil first, fade into RL. While the first
    and the last are 0, the actor stays as it is, to the bit, whatever the optimizer remembers: a critic warm-up.

    ``predict`` takes what the model's VecEnv gives, as in SB3: *normalised* observations if it normalises.

    :param policy: ``"MultiTaskMlpPolicy"`` or a subclass of ``MultiTaskActorCriticPolicy``
    :param env: a multi-task VecEnv, one env that carries its task (``TaskEnv``), or the tasks themselves: a set's
        name, an id, a list of ids and ``Task``, or names with their ids; these become ``make_multitask_vec_env(tasks)``
    :param policy_kwargs: as in SB3; ``optimizer_kwargs`` without an ``optimizer_class`` are for A2C's RMSprop
    :param device: ``"auto"`` is the CPU, on which nets of this size are fastest; others are taken, with a warning
    :param task_schedule: ``"joint"`` steps all tasks together and makes one update from the mean over all rows;
        ``"cycle"`` collects with one task, updates, and goes to the next (the paper, section 4.3.1); an object of
        ``sb3_multitask.task_schedules`` picks the next task, or weighs the losses of all tasks. The model trains with
        a copy of the object, ``model.task_schedule``. A file holds its state, not the object: pass one to ``load`` to
        continue the training.
    :param engine: what computes actions and updates: ``"torch"``; ``"fast"``, the same mathematics in numpy and closed
        form (within rounding, see ``sb3_multitask.fast``); or ``"auto"``, "fast" where it applies
    :param teachers: task name -> teacher: an ``Agent``, a multi-task model, a model of SB3, the path of one of these,
        a function of raw observations, or a ``Teacher`` of one of these; each sees observations through its own
        normaliser. They are not saved with the model: pass them to ``load`` to resume.
    :param distill_loss: ``"forward_kl"`` (teacher ‖ student), ``"reverse_kl"`` or ``"mse"``: ``losses.distill_loss``
    :param distill_coef: weight of the distillation loss
    :param rl_coef: weight of A2C's policy and entropy loss; ``None``: 1 without teachers, 0 with them
    :param critic_coef: weight of the value loss; ``None``: 0 with teachers while ``rl_coef`` stays 0, else 1
    :param student_rollout_prob: probability that a rollout's actions are the student's; the others come from the
        teacher, in the same envs, and never enter the RL loss
    :param distill_features: weight of the regression of each teacher's last hidden layer from the student's, by a
        linear map per task that is learned too: ``losses.FeatureLoss`` (Actor-Mimic). Needs ``teachers`` with hidden
        layers that are known, not functions; runs on torch. The maps are saved with the model, and agents have none
    :param task_weights: task name -> weight, by which the losses of the task's rows are multiplied; tasks that are not
        named have 1. The update is along the mean of the weighted losses over all rows; logs show the losses
        unweighted. 0 trains nothing for the task, whose head an optimizer with a memory may still move
    :param gradient_combiner: how the tasks' gradients on the parameters that all share become one. ``None``: their
        mean, which is the gradient of the loss. Else a name of ``sb3_multitask.combiners.COMBINERS``, such as
        ``"pcgrad"``; an object, ``Combiner`` or TorchJD's ``Weighting`` or ``Aggregator``; or ``{"actor": ...,
        "critic": ...}``. Heads, and log-stds per task, keep their gradients. A file holds an object's state, not the
        object: pass one to ``load`` to continue the training
    :param conflict_freq: every so many rollouts, the cosines between the tasks' gradients are measured in the first
        batch of the update, logged as ``conflict/actor/cosine_mean`` and ``conflict/actor/negative_share`` (the share
        of pairs below 0), like those of the critic, and kept in ``conflict_cosines``. 0: never
    :param distral: a policy that all tasks share, towards which theirs are regularised (Teh et al. 2017): a
        :class:`~sb3_multitask.Distral`, or its arguments in a mapping. Rewards of each rollout are regularised after
        their normalisation, and before advantages and returns; the loss has a term more, with which the shared policy
        learns from the actions of all tasks. The policy needs a head and a log-std per task, and no teachers; torch's
        engine computes it. :func:`~sb3_multitask.shared_agent` gives the shared policy alone
    :raises ValueError: on an env without tasks, an unknown schedule, engine, policy or combiner, weights or teachers
        that do not fit, settings of distillation without teachers, a combiner for one task at a time, or what does not
        go with ``distral``
    :raises ImportError: if what the combiner needs is not installed

    The fast engine calls ``on_step`` once per vectorised step with SB3's local names, but for ``obs_tensor``,
    ``values`` and ``log_probs``, which do not exist there.
    """

    live_settings = (*MultiTaskOnPolicyAlgorithm.live_settings, "ent_coef", "vf_coef", "max_grad_norm")
    task_terms: ClassVar[tuple[str, ...]] = A2CTerms._fields

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
        task_schedule: TaskScheduleLike = "joint",
        engine: EngineName = "auto",
        teachers: Mapping[str, TeacherLike] | None = None,
        distill_loss: DistillLoss = "forward_kl",
        distill_coef: Coefficient = 1.0,
        rl_coef: Coefficient | None = None,
        critic_coef: Coefficient | None = None,
        student_rollout_prob: Coefficient = 1.0,
        task_weights: TaskWeights | None = None,
        gradient_combiner: GradientCombiner | None = None,
        conflict_freq: int = 0,
        distill_features: Coefficient = 0.0,
        distral: Distral | Mapping[str, Any] | None = None,
        _init_setup_model: bool = True,
    ) -> None:
        self.begin(task_schedule, engine, n_steps, task_weights, gradient_combiner, conflict_freq)
        distillation = (distill_loss, distill_coef, rl_coef, critic_coef, student_rollout_prob, distill_features)
        self.learn_from(teachers, *distillation)
        self.share_policy(distral)
        super().__init__(
            policy,
            self._env_of(env, gamma),
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

    def settings(self) -> dict[str, Any]:
        return super().settings() | {"normalize_advantage": self.normalize_advantage}

    def train(self) -> None:
        """One gradient step on the rollout: all tasks' rows in "joint", the active task's in "cycle"."""
        self._update_learning_rate(self.policy.optimizer)
        coef = self.coefficients()  # 1, 1 and 0 without teachers
        loss = A2CLoss(coef.rl, self.ent_coef, coef.critic * self.vf_coef)
        objective = [*self.with_teachers(loss, coef.distill), *self.shared_losses(coef.rl)]
        with actor_held(self.policy, when=not self.moves_actor):
            for batch in self.numerics.batches(self.rollout_buffer, None, self.normalize_advantage):  # one: all rows
                evaluation = self.numerics.evaluate(objective, batch)
                if not self.numerics.step(self.max_grad_norm):
                    self.refuse_update(evaluation)
                self._n_updates += 1
                self.log_update(evaluation)
        self.next_task()
