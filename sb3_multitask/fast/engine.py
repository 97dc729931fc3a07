"""Collects rollouts and updates the policy for ``A2CMultiTask(engine="fast")``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from stable_baselines3.common.buffers import DictRolloutBuffer, RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from sb3_multitask.fast.nets import Tasks, by_step, by_task, heads_forward, trunk_forward
from sb3_multitask.fast.parameters import FlatParameters
from sb3_multitask.fast.update import LossRows, Rollout, a2c_gradient, clip_gradient, rmsprop_step, task_rows
from sb3_multitask.policies import MultiTaskActorCriticPolicy

if TYPE_CHECKING:
    from sb3_multitask.a2c_multitask import A2CMultiTask


def why_not_fast(model: A2CMultiTask) -> str | None:  # noqa: C901, PLR0911 (a list of conditions)
    """Why the fast engine does not apply to a model; None if it does."""
    policy, optimizer = model.policy, model.policy.optimizer
    if type(policy) is not MultiTaskActorCriticPolicy:
        return f"the policy is a {type(policy).__name__}, not MultiTaskActorCriticPolicy itself"
    if policy.activation_fn is not nn.Tanh:
        return f"the activation is {policy.activation_fn.__name__}, not Tanh"
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
    if not all(parameter.requires_grad for parameter in policy.parameters()):
        return "some parameters are frozen"
    if type(model.rollout_buffer) is not DictRolloutBuffer:
        return f"the rollout buffer is a {type(model.rollout_buffer).__name__}"
    task_ids = getattr(model.env, "task_ids", None)
    if task_ids is None:
        return "the env is not a MultiTaskVecEnv"
    if model.env is not None and model.env.num_envs * model.n_steps < 2 and model.normalize_advantage:
        return "a single row cannot be normalised"
    return None


class FastEngine:
    """SB3's rollout and update with numpy on views of the torch parameters.

    While acting it computes actions only: no log-probabilities, and values once per rollout. ``collect_rollouts``
    keeps SB3's local names for callbacks, but for ``obs_tensor``, ``values`` and ``log_probs``, which do not exist
    here, and the loop variables ``idx`` and ``done``; the rollout buffer's ``log_probs`` stay NaN.

    :param model: a model that :func:`why_not_fast` has nothing against
    """

    def __init__(self, model: A2CMultiTask) -> None:
        self.model = model
        self.parameters = FlatParameters(model.policy)
        self._scratch = np.empty_like(self.parameters.weights)
        self._rollout: Rollout | None = None

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """SB3's ``collect_rollouts``; see there."""
        model = self.model
        if not self.parameters.is_current():
            self.parameters = FlatParameters(model.policy)
        weights = self.parameters.weight_nets
        if model.policy.training:  # walking through the modules takes longer than a step
            model.policy.set_training_mode(False)
        tasks, k = self._tasks(env)
        n_envs, (action_dim,) = env.num_envs, model.action_space.shape  # type: ignore[misc]
        low, high = model.action_space.low, model.action_space.high  # type: ignore[attr-defined]
        dtype = self.parameters.weights.dtype
        observations = np.empty((n_rollout_steps + 1, n_envs, model.policy.obs_dim), dtype=dtype)
        action_rows = np.empty((n_rollout_steps, n_envs, action_dim), dtype=dtype)
        reward_rows = np.empty((n_rollout_steps, n_envs), dtype=dtype)
        episode_starts = np.empty((n_rollout_steps + 1, n_envs), dtype=dtype)
        std = np.exp(task_rows(weights.log_std, tasks, k))
        trunk_steps, head_steps = [], []
        truncations: list[tuple[int, int, Any]] = []  # (step, env, terminal observation)

        assert model._last_obs is not None
        observations[0] = model._last_obs["obs"]
        episode_starts[0] = model._last_episode_starts
        n_steps = 0
        callback.on_rollout_start()

        while n_steps < n_rollout_steps:
            trunk = trunk_forward(weights.trunk_pi, observations[n_steps])
            heads = heads_forward(weights.head_pi, trunk[-1].reshape(k, n_envs // k, -1), tasks)
            trunk_steps.append(trunk)
            head_steps.append(heads)
            noise = th.empty(n_envs, action_dim, dtype=model.policy.log_std.dtype).normal_().numpy()
            actions = action_rows[n_steps]
            np.multiply(noise.reshape(heads[-1].shape), std, out=actions.reshape(heads[-1].shape))
            actions += heads[-1].reshape(n_envs, action_dim)
            clipped_actions = np.clip(actions, low, high)

            new_obs, rewards, dones, infos = env.step(clipped_actions)
            model.num_timesteps += n_envs

            callback.update_locals(locals())
            if not callback.on_step():
                return False

            if dones.any():
                ended = dones.nonzero()[0].tolist()
                model._update_info_buffer([infos[i] for i in ended], np.ones(len(ended), dtype=bool))
                truncations += [
                    (n_steps, i, infos[i]["terminal_observation"])
                    for i in ended
                    if infos[i].get("TimeLimit.truncated") and infos[i].get("terminal_observation") is not None
                ]
            reward_rows[n_steps] = rewards
            n_steps += 1
            observations[n_steps] = new_obs["obs"]  # type: ignore[call-overload]
            episode_starts[n_steps] = dones
            model._last_obs = new_obs  # type: ignore[assignment]
            model._last_episode_starts = dones

        self._bootstrap_truncations(truncations, reward_rows)
        self._finish(rollout_buffer, observations, action_rows, reward_rows, episode_starts, trunk_steps, head_steps)
        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _tasks(self, env: VecEnv) -> tuple[Tasks, int]:
        """The tasks that the env's rows are grouped by, and their number."""
        n_tasks = self.model.policy.n_tasks
        task_ids: np.ndarray = env.task_ids  # type: ignore[attr-defined]
        present = task_ids[:: env.n_envs_per_task]  # type: ignore[attr-defined]
        return (slice(None), n_tasks) if len(present) == n_tasks else (present, len(present))

    def _values(self, observations: np.ndarray, tasks: Tasks, k: int) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Activations of the critic's trunk (steps * n, dim) and heads (k, steps * m, dim)."""
        n_steps, n_envs, obs_dim = observations.shape
        weights = self.parameters.weight_nets
        trunk = trunk_forward(weights.trunk_vf, observations.reshape(-1, obs_dim))
        latent = by_task(trunk[-1].reshape(n_steps, n_envs, -1), k)
        return trunk, heads_forward(weights.head_vf, latent, tasks)

    def _bootstrap_truncations(self, truncations: list[tuple[int, int, Any]], rewards: np.ndarray) -> None:
        """Add the value of the last observation where a time limit cut an episode, as SB3."""
        for task in {int(obs["task"]) for *_, obs in truncations}:
            rows = [row for row in truncations if int(row[2]["task"]) == task]
            observations = np.stack([obs["obs"] for *_, obs in rows])[None].astype(rewards.dtype, copy=False)
            _, heads = self._values(observations, np.array([task]), 1)
            for (step, env, _), value in zip(rows, heads[-1].ravel(), strict=True):
                rewards[step, env] += self.model.gamma * value

    def _finish(
        self,
        buffer: RolloutBuffer,
        observations: np.ndarray,
        actions: np.ndarray,
        rewards: np.ndarray,
        episode_starts: np.ndarray,
        trunk_steps: list[list[np.ndarray]],
        head_steps: list[list[np.ndarray]],
    ) -> None:
        """Values, advantages and returns of a full rollout; leave it in SB3's buffer and for the update."""
        assert self.model.env is not None
        tasks, k = self._tasks(self.model.env)
        n_steps, n_envs = rewards.shape
        m = n_envs // k
        trunk_vf, heads_vf = self._values(observations, tasks, k)
        values = by_step(heads_vf[-1], n_steps + 1)[:, :, 0]
        advantages = self._advantages(rewards, values, episode_starts)
        returns = advantages + values[:-1]
        self._rollout = Rollout(
            tasks=tasks,
            k=k,
            trunk_pi=[
                observations[:-1].reshape(n_steps * n_envs, -1),
                *(np.concatenate(layer) for layer in list(zip(*trunk_steps, strict=True))[1:]),
            ],
            heads_pi=[np.concatenate(layer, axis=1) for layer in zip(*head_steps, strict=True)],
            trunk_vf=[layer[: n_steps * n_envs] for layer in trunk_vf],
            heads_vf=[layer[:, : n_steps * m] for layer in heads_vf],
            actions=actions,
            advantages=advantages,
            returns=returns,
            values=values[:-1],
        )
        task_ids = np.broadcast_to(self.model.env.task_ids[:, None], (n_steps, n_envs, 1))  # type: ignore[attr-defined]
        buffer.observations = {"obs": observations[:-1], "task": task_ids}  # type: ignore[assignment]
        buffer.actions, buffer.rewards, buffer.values = actions, rewards, values[:-1]
        buffer.episode_starts, buffer.advantages, buffer.returns = episode_starts[:-1], advantages, returns
        buffer.log_probs = np.full_like(rewards, np.nan)
        buffer.pos, buffer.full, buffer.generator_ready = n_steps, True, False

    def _advantages(self, rewards: np.ndarray, values: np.ndarray, episode_starts: np.ndarray) -> np.ndarray:
        """Generalised advantages (n_steps, n_envs), as ``RolloutBuffer.compute_returns_and_advantage``."""
        gamma, decay = self.model.gamma, self.model.gamma * self.model.gae_lambda
        alive = 1.0 - episode_starts[1:]
        advantages: np.ndarray = rewards + gamma * values[1:] * alive - values[:-1]
        alive *= decay
        for step in reversed(range(len(rewards) - 1)):
            advantages[step] += alive[step] * advantages[step + 1]
        return advantages

    def update(self) -> LossRows:
        """One gradient step on the rollout that was collected last."""
        assert self._rollout is not None, "collect a rollout first"
        model, parameters = self.model, self.parameters
        if not isinstance(self._rollout.tasks, slice):
            parameters.gradient.fill(0.0)  # heads of the other tasks
        rows = a2c_gradient(
            parameters.weight_nets,
            parameters.gradient_nets,
            self._rollout,
            model.ent_coef,
            model.vf_coef,
            model.normalize_advantage,
        )
        clip_gradient(parameters.gradient, model.max_grad_norm)
        settings = model.policy.optimizer.param_groups[0]
        rmsprop_step(parameters, settings["lr"], settings["alpha"], settings["eps"], self._scratch)
        self._rollout = None
        return rows
