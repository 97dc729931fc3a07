"""Collects rollouts and updates the policy for ``A2CMultiTask(engine="fast")``."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecCheckNan, VecEnv, VecMonitor
from torch import nn

from sb3_multitask.algorithms.rollout_buffer import TaskRolloutBuffer
from sb3_multitask.algorithms.task_logs import refuse_update
from sb3_multitask.distillation.teachers import Coefficients, raw_observations, tasks_of_rows
from sb3_multitask.fast.nets import Tasks, heads_forward, memory_of_copies, of_tasks, transposed, trunk_forward
from sb3_multitask.fast.parameters import FlatParameters, aligned
from sb3_multitask.fast.update import LossRows, Rollout, Targets, a2c_gradient, clip_gradient, rmsprop_step, task_rows
from sb3_multitask.policies import MultiTaskActorCriticPolicy
from sb3_multitask.vec_env import MultiTaskVecEnv, MultiTaskVecNormalize, TaskCyclingVecEnv
from sb3_multitask.vec_env.layers import layers_of
from sb3_multitask.vec_env.task_major import by_step, by_task

_KNOWN_LAYERS = {MultiTaskVecEnv, TaskCyclingVecEnv, MultiTaskVecNormalize, VecCheckNan, VecMonitor}


def why_not_fast(model: Any) -> str | None:  # noqa: C901, PLR0911 (a list of conditions)
    """Why the fast engine does not apply to a model; None if it does."""
    policy, optimizer = model.policy, model.policy.optimizer
    if type(policy) is not MultiTaskActorCriticPolicy:
        return f"the policy is a {type(policy).__name__}, not MultiTaskActorCriticPolicy itself"
    if policy.activation_fn is not nn.Tanh:
        return f"the activation is {getattr(policy.activation_fn, '__name__', policy.activation_fn)}, not Tanh"
    if not (_is_plain(policy.mlp_extractor.policy_net) and _is_plain(policy.mlp_extractor.value_net)):
        return "the nets were changed: their trunks are not Linear and Tanh in turn"
    if any(module._forward_hooks or module._forward_pre_hooks for module in policy.modules()):
        return "the policy has hooks"
    if policy.log_std_mode == "state_dependent":
        return 'log_std_mode is "state_dependent"'
    if model.device.type != "cpu":
        return f"the model is on {model.device}, not on the CPU"
    if type(optimizer) is not th.optim.RMSprop or len(optimizer.param_groups) != 1:
        return f"the optimizer is {type(optimizer).__name__}, not one group of RMSprop"
    settings = optimizer.param_groups[0]
    unusual = [name for name in ("weight_decay", "momentum", "centered", "maximize") if settings.get(name)]
    if unusual:
        return f"RMSprop has {', '.join(unusual)}"
    if settings["eps"] <= 0:
        return f"RMSprop has eps={settings['eps']}, with which heads that wait for their turn become NaN"
    if type(model.rollout_buffer) is not TaskRolloutBuffer:
        return f"the rollout buffer is a {type(model.rollout_buffer).__name__}"
    assert model.env is not None
    layers = list(layers_of(model.env))
    if not isinstance(layers[-1], MultiTaskVecEnv):
        return "the env is not a MultiTaskVecEnv"
    unknown = [type(layer).__name__ for layer in layers if type(layer) not in _KNOWN_LAYERS]
    if unknown:  # rows are given to heads by the env's order, which a wrapper could change in the observations
        return f"the env is wrapped with {', '.join(unknown)}"
    return None


def _is_plain(trunk: nn.Module) -> bool:
    return all(type(layer) is (nn.Tanh if i % 2 else nn.Linear) for i, layer in enumerate(trunk.children()))


class FastEngine:
    """SB3's rollout and update with numpy on views of the torch parameters.

    While acting it computes actions only: no log-probabilities, and values once per rollout. ``collect_rollouts``
    keeps SB3's local names for callbacks, but for ``obs_tensor``, ``values`` and ``log_probs``, which do not exist
    here, and the loop variables ``idx`` and ``done``; the rollout buffer's ``log_probs`` stay NaN. Weights that a
    callback puts in act from the next step on; that rollout's values are all of the new weights, and its update is
    torch's, see :meth:`is_as_collected`.

    :param model: a model that :func:`why_not_fast` has nothing against
    """

    def __init__(self, model: Any) -> None:
        self.model = model
        self.parameters = FlatParameters(model.policy)
        self._buffers: _Buffers | None = None
        self._rollout: Rollout | None = None
        self._version = self.parameters.version()
        self._is_touched = False  # a callback has put in weights since the rollout began

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: TaskRolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """SB3's ``collect_rollouts``; see there."""
        model = self.model
        assert model._last_obs is not None
        if model.policy.training:  # walking through the modules takes longer than a step
            model.policy.set_training_mode(False)
        rollout_buffer.clear_columns()
        callback.on_rollout_start()  # may put another state into model and env
        buffers = self._prepare(env, n_rollout_steps)
        self._is_touched = False
        buffers.observations[0] = model._last_obs["obs"]
        buffers.episode_starts[0] = model._last_episode_starts
        low, high = model.action_space.low, model.action_space.high
        truncations: list[tuple[int, int, Any]] = []  # (step, env, terminal observation)
        raw: list[np.ndarray] = []  # unnormalised observations, for the teachers
        tasks = tasks_of_rows(env) if model.teachers is not None else []
        model.sample_behavior_policy()
        n_steps = 0

        while n_steps < n_rollout_steps:
            actions = buffers.act(n_steps)
            if model.teachers is not None:
                raw.append(raw_observations(env, model._last_obs))
                if model.rollout_by_teacher:
                    actions[...] = model.teachers.act(tasks, raw[-1])
            clipped_actions = np.minimum(np.maximum(actions, low), high)

            new_obs, rewards, dones, infos = env.step(clipped_actions)
            model.num_timesteps += env.num_envs

            callback.update_locals({**locals(), "self": model})
            if not callback.on_step():
                return False
            if self.parameters.version() != self._version:
                buffers = self._prepare_anew(env, buffers)

            if dones.any():
                ended = dones.nonzero()[0].tolist()
                model.note_faults(n_steps, ended, infos)
                model._update_info_buffer([infos[i] for i in ended], np.ones(len(ended), dtype=bool))
                truncations += [
                    (n_steps, i, infos[i]["terminal_observation"])
                    for i in ended
                    if infos[i].get("TimeLimit.truncated") and infos[i].get("terminal_observation") is not None
                ]
            buffers.rewards[n_steps] = rewards
            n_steps += 1
            buffers.observations[n_steps] = new_obs["obs"]  # type: ignore[call-overload]
            buffers.episode_starts[n_steps] = dones
            model._last_obs = new_obs
            model._last_episode_starts = dones

        self._bootstrap_truncations(truncations, buffers)
        self._finish(rollout_buffer, buffers)
        if model.teachers is not None:
            assert self._rollout is not None
            mean, log_std = model.teachers.targets(tasks, by_task(np.stack(raw), buffers.k))
            rollout_buffer.set_targets(by_step(mean, n_steps), by_step(log_std, n_steps))
            self._rollout.targets = Targets(mean, log_std, model.distill_loss)
        callback.update_locals({**locals(), "self": model})
        callback.on_rollout_end()
        return True

    def _prepare(self, env: VecEnv, n_steps: int) -> _Buffers:
        """Buffers for a rollout with the policy as it is now."""
        if not self.parameters.is_current():
            self.parameters = FlatParameters(self.model.policy)
        if self._buffers is None or self._buffers.actions.shape[:2] != (n_steps, env.num_envs):
            self._buffers = _Buffers(n_steps, env.num_envs, self.parameters)
        n_tasks = self.model.policy.n_tasks
        present: np.ndarray = env.task_ids[:: env.n_envs_per_task]  # type: ignore[attr-defined]
        tasks = slice(None) if len(present) == n_tasks else present
        self._buffers.start(self.parameters, tasks, len(present))
        self._version = self.parameters.version()
        return self._buffers

    def _prepare_anew(self, env: VecEnv, buffers: _Buffers) -> _Buffers:
        """Go on in the middle of a rollout with weights that a callback has put in."""
        heads, self._is_touched = buffers.heads, True
        buffers = self._prepare(env, len(buffers.actions))
        buffers.heads = heads
        return buffers

    def _bootstrap_truncations(self, truncations: list[tuple[int, int, Any]], buffers: _Buffers) -> None:
        """Add the value of the last observation where a time limit cut an episode, as SB3."""
        for task in {int(obs["task"]) for *_, obs in truncations}:
            rows = [row for row in truncations if int(row[2]["task"]) == task]
            observations = np.stack([obs["obs"] for *_, obs in rows]).astype(buffers.rewards.dtype, copy=False)
            hidden = [np.empty((len(rows), h.shape[2]), dtype=h.dtype) for h in buffers.hidden_vf]
            latent = trunk_forward(buffers.trunk_vf, observations, hidden)
            values = heads_forward(of_tasks(buffers.weights.head_vf, np.array([task])), latent[None])[-1].ravel()
            for (step, env, _), value in zip(rows, values, strict=True):
                buffers.rewards[step, env] += self.model.gamma * value

    def _finish(self, rollout_buffer: RolloutBuffer, buffers: _Buffers) -> None:
        """Values, advantages and returns of a full rollout; leave it in SB3's buffer and for the update."""
        k, tasks, rewards = buffers.k, buffers.tasks, buffers.rewards
        n_steps, n_envs = rewards.shape
        flat = [h.reshape(-1, h.shape[2]) for h in buffers.hidden_vf]
        latent = trunk_forward(buffers.trunk_vf, buffers.observations.reshape((n_steps + 1) * n_envs, -1), flat)
        heads_vf = heads_forward(buffers.head_vf, by_task(latent.reshape(n_steps + 1, n_envs, -1), k))
        values = by_step(heads_vf[-1], n_steps + 1)[:, :, 0]
        advantages = self._advantages(rewards, values, buffers.episode_starts)
        returns = advantages + values[:-1]
        n_rows = n_steps * n_envs
        x = buffers.observations[:-1].reshape(n_rows, -1)
        self._rollout = Rollout(
            tasks=tasks,
            k=k,
            trunk_pi=[x, *(h.reshape(n_rows, -1) for h in buffers.hidden_pi)],
            heads_pi=[np.concatenate(layer, axis=1) for layer in zip(*buffers.heads, strict=True)],
            trunk_vf=[x, *(h[:n_rows] for h in flat)],
            heads_vf=[layer[:, : n_rows // k] for layer in heads_vf],
            actions=buffers.actions,
            advantages=advantages,
            returns=returns,
            values=values[:-1],
        )
        task_ids: np.ndarray = self.model.env.task_ids
        rollout_buffer.observations = {  # type: ignore[assignment]
            "obs": buffers.observations[:-1],
            "task": np.broadcast_to(task_ids[:, None], (n_steps, n_envs, 1)),
        }
        rollout_buffer.actions, rollout_buffer.rewards = buffers.actions, rewards
        rollout_buffer.episode_starts, rollout_buffer.values = buffers.episode_starts[:-1], values[:-1]
        rollout_buffer.advantages, rollout_buffer.returns = advantages, returns
        rollout_buffer.log_probs = buffers.no_log_probs
        rollout_buffer.pos, rollout_buffer.full, rollout_buffer.generator_ready = n_steps, True, False

    def _advantages(self, rewards: np.ndarray, values: np.ndarray, episode_starts: np.ndarray) -> np.ndarray:
        """Generalised advantages (n_steps, n_envs), as ``RolloutBuffer.compute_returns_and_advantage``."""
        buffer = self.model.rollout_buffer  # SB3 takes these from it
        gamma, decay = buffer.gamma, buffer.gamma * buffer.gae_lambda
        alive = 1.0 - episode_starts[1:]
        advantages: np.ndarray = rewards + gamma * values[1:] * alive - values[:-1]
        alive *= decay
        for step in reversed(range(len(rewards) - 1)):
            advantages[step] += alive[step] * advantages[step + 1]
        return advantages

    def is_as_collected(self) -> bool:
        """Whether the last rollout and the weights it was made with are still what the activations kept here are of.

        Callbacks may change both. Advantages, returns and values are always taken from SB3's buffer.
        """
        rollout, buffer = self._rollout, self.model.rollout_buffer
        return (
            rollout is not None
            and not self._is_touched
            and self.parameters.version() == self._version
            and self.parameters.is_current()
            and not buffer.generator_ready
            and buffer.actions is rollout.actions
            and buffer.observations["obs"].base is rollout.trunk_pi[0].base
        )

    def update(self, coefficients: Coefficients, keep: np.ndarray | None = None) -> LossRows | None:
        """One gradient step on the rollout that was collected last.

        :param keep: which rows to learn from, (n_steps, n_envs); ``None``: all
        :return: what the loss's terms are computed from; None if there is nothing to learn from
        """
        assert self._rollout is not None, "collect a rollout first"
        if keep is not None:
            if not keep.any():
                self._rollout = None
                return None
            self._rollout.keep = keep
        model, parameters = self.model, self.parameters
        buffer, rollout = model.rollout_buffer, self._rollout
        rollout.advantages, rollout.returns, rollout.values = buffer.advantages, buffer.returns, buffer.values
        if not isinstance(self._rollout.tasks, slice):
            parameters.gradient.fill(0.0)  # heads of the other tasks
        rows = a2c_gradient(
            parameters.weight_nets,
            parameters.gradient_nets,
            self._rollout,
            model.ent_coef,
            coefficients.critic * model.vf_coef,
            model.normalize_advantage,
            coefficients.rl,
            coefficients.distill,
        )
        for frozen in parameters.frozen_gradients:
            frozen.fill(0.0)
        if not np.isfinite(clip_gradient(parameters.gradient, model.max_grad_norm)):
            refuse_update(model.task_names or (), rows.per_task(), rows.present())
        settings = model.policy.optimizer.param_groups[0]
        present = None if isinstance(rollout.tasks, slice) and keep is None else rows.present()
        rmsprop_step(parameters, settings["lr"], settings["alpha"], settings["eps"], present)
        self._rollout = None
        return rows


class _Buffers:
    """Memory of one rollout, used again by the next, and acting, which fills it.

    :param n_steps: steps of a rollout
    :param n_envs: rows of the VecEnv
    :param parameters: of the policy, for the sizes
    """

    def __init__(self, n_steps: int, n_envs: int, parameters: FlatParameters) -> None:
        policy, nets, dtype = parameters.policy, parameters.weight_nets, parameters.weights.dtype
        action_dim = nets.log_std.shape[-1]

        def empty(n: int, *shape: int) -> np.ndarray:
            return aligned((n, n_envs, *shape), dtype)

        self.observations, self.actions = empty(n_steps + 1, policy.obs_dim), empty(n_steps, action_dim)
        self.rewards, self.episode_starts = empty(n_steps), empty(n_steps + 1)
        self.hidden_pi = [empty(n_steps, len(bias)) for _, bias in nets.trunk_pi]
        self.hidden_vf = [empty(n_steps + 1, len(bias)) for _, bias in nets.trunk_vf]
        self.no_log_probs = np.full((n_steps, n_envs), np.nan, dtype=dtype)
        # copies of weights, made again for each rollout
        self._trunk_pi, self._trunk_vf = (
            memory_of_copies((weight.T.shape for weight, _ in layers), dtype)
            for layers in (nets.trunk_pi, nets.trunk_vf)
        )
        self._head_pi, self._head_vf = (
            memory_of_copies(((1, *weight.shape[1:]) for weight, _ in layers), dtype)
            for layers in (nets.head_pi, nets.head_vf)
        )
        # drawn as torch.distributions.Normal draws it: one tensor (n_envs, action_dim) a step
        self._noise = [th.empty(n_envs, action_dim, dtype=policy.log_std.dtype) for _ in range(n_steps)]
        self._noise_arrays = [noise.numpy() for noise in self._noise]
        self._steps = [
            (self.observations[step], [h[step] for h in self.hidden_pi], self.actions[step]) for step in range(n_steps)
        ]

    def start(self, parameters: FlatParameters, tasks: Tasks, k: int) -> None:
        """Begin a rollout with ``k`` tasks and the weights as they are now."""
        self.weights, self.tasks, self.k = parameters.weight_nets, tasks, k
        self.trunk_pi = transposed(self.weights.trunk_pi, self._trunk_pi)
        self.trunk_vf = transposed(self.weights.trunk_vf, self._trunk_vf)
        head_pi, head_vf = (self._head_pi, self._head_vf) if k == 1 else (None, None)
        self.head_pi = of_tasks(self.weights.head_pi, tasks, head_pi)
        self.head_vf = of_tasks(self.weights.head_vf, tasks, head_vf)
        self.std = np.exp(task_rows(self.weights.log_std, tasks, k))
        self.heads: list[list[np.ndarray]] = []

    def act(self, step: int) -> np.ndarray:
        """Sample actions (n_envs, action_dim) for ``observations[step]``."""
        actions: np.ndarray
        observations, hidden, actions = self._steps[step]
        latent = trunk_forward(self.trunk_pi, observations, hidden)
        heads = heads_forward(self.head_pi, latent.reshape(self.k, -1, latent.shape[1]))
        self.heads.append(heads)
        mean = heads[-1]
        self._noise[step].normal_()
        grouped = actions.reshape(mean.shape)
        np.multiply(self._noise_arrays[step].reshape(mean.shape), self.std, out=grouped)
        grouped += mean
        return actions
