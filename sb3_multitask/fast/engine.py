"""Collects rollouts and updates the policy in numpy and closed form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_multitask.fast.acting import Acting, Activations
from sb3_multitask.fast.nets import heads_backward, trunk_backward
from sb3_multitask.fast.optimizers import clip_gradient, rmsprop_step
from sb3_multitask.fast.parameters import FlatParameters, log_std_of
from sb3_multitask.losses import Evaluation, GroupedOutputs, GroupedRows, Loss, OutputGradient
from sb3_multitask.losses.loss import terms_of_groups
from sb3_multitask.vec_env.faults import is_fault
from sb3_multitask.vec_env.infos import ended_rows
from sb3_multitask.vec_env.task_major import by_step, by_task


class FastEngine:
    """SB3's rollout and update with numpy on views of the torch parameters.

    While acting it computes actions only: no log-probabilities, and values once per rollout. ``collect`` keeps SB3's
    local names for callbacks, but for ``obs_tensor``, ``values`` and ``log_probs``, which do not exist here, and the
    loop variables ``idx`` and ``done``; the rollout buffer's ``log_probs`` stay NaN. Weights that a callback puts in
    act from the next step on; that rollout's values are all of the new weights.

    :param model: an on-policy algorithm in whose env its policy acts; see :func:`why_not_fast`
    """

    name = "fast"

    def __init__(self, model: Any) -> None:
        self.model = model
        self.parameters = FlatParameters(model.policy)
        self._acting: Acting | None = None
        self._version = self.parameters.version()  # of the weights that act
        self._is_touched = False  # a callback has put in weights since the rollout began
        self._activations: Activations | None = None
        self._present: Sequence[bool] | None = None

    def collect(self, env: VecEnv, callback: BaseCallback, rollout_buffer: Any, n_rollout_steps: int) -> bool:
        """SB3's ``collect_rollouts``; see there.

        :param rollout_buffer: a ``TaskRolloutBuffer``, into whose memory the steps are written
        """
        model = self.model
        assert model._last_obs is not None
        if model.policy.training:  # walking through the modules takes longer than a step
            model.policy.set_training_mode(False)
        rollout_buffer.begin()
        callback.on_rollout_start()  # may put another state into model and env
        acting = self._start_acting(env, n_rollout_steps)
        observations, episode_starts = rollout_buffer.observation_rows["obs"], rollout_buffer.episode_start_rows
        rollout_buffer.observations["task"][...] = env.task_ids[:, None]  # type: ignore[attr-defined]
        observations[0] = model._last_obs["obs"]
        episode_starts[0] = model._last_episode_starts
        low, high = model.action_space.low, model.action_space.high
        truncations: list[tuple[int, int, Any]] = []  # (step, env, terminal observation)
        n_steps = 0

        while n_steps < n_rollout_steps:
            actions = rollout_buffer.actions[n_steps]
            acting.act(n_steps, observations[n_steps], actions)
            clipped_actions = np.minimum(np.maximum(actions, low), high)

            new_obs, rewards, dones, infos = env.step(clipped_actions)
            model.num_timesteps += env.num_envs

            callback.update_locals({**locals(), "self": model})
            if not callback.on_step():
                return False
            if self.parameters.version() != self._version:
                acting = self._act_with_new_weights(acting)

            ended = ended_rows(dones, infos)
            if ended:
                for i in ended:
                    if is_fault(infos[i]):
                        rollout_buffer.note_fault(n_steps, i)
                model.note_episodes([infos[i] for i in ended], np.ones(len(ended), dtype=bool))
                truncations += [
                    (n_steps, i, infos[i]["terminal_observation"])
                    for i in ended
                    if infos[i].get("TimeLimit.truncated") and infos[i].get("terminal_observation") is not None
                ]
            rollout_buffer.rewards[n_steps] = rewards
            n_steps += 1
            observations[n_steps] = new_obs["obs"]  # type: ignore[call-overload]
            episode_starts[n_steps] = dones
            model._last_obs = new_obs
            model._last_episode_starts = dones

        self._bootstrap_truncations(truncations, rollout_buffer)
        rollout_buffer.finish(acting.values(observations))
        callback.update_locals({**locals(), "self": model})
        callback.on_rollout_end()
        return True

    def _start_acting(self, env: VecEnv, n_steps: int) -> Acting:
        """Begin a rollout with the policy as it is now."""
        if not self.parameters.is_current():
            self.parameters = FlatParameters(self.model.policy)
        if self._acting is None or (self._acting.n_steps, self._acting.n_envs) != (n_steps, env.num_envs):
            self._acting = Acting(n_steps, env.num_envs, self.parameters)
        present: np.ndarray = env.task_ids[:: env.n_envs_per_task]  # type: ignore[attr-defined]
        tasks = slice(None) if len(present) == self.model.policy.n_tasks else present
        self._acting.start(self.parameters, tasks, len(present))
        self._version, self._is_touched = self.parameters.version(), False
        return self._acting

    def _act_with_new_weights(self, acting: Acting) -> Acting:
        """Continue in the middle of a rollout with weights that a callback has put in."""
        if not self.parameters.is_current():
            self.parameters = FlatParameters(self.model.policy)
        acting.take_weights(self.parameters)
        self._version, self._is_touched = self.parameters.version(), True
        return acting

    def _bootstrap_truncations(self, truncations: list[tuple[int, int, Any]], rollout_buffer: Any) -> None:
        """Add the value of the last observation where a time limit cut an episode, as SB3."""
        assert self._acting is not None
        for task in {int(obs["task"]) for *_, obs in truncations}:
            rows = [row for row in truncations if int(row[2]["task"]) == task]
            observations = np.stack([obs["obs"] for *_, obs in rows])
            values = self._acting.values_of(task, observations.astype(rollout_buffer.rewards.dtype, copy=False))
            for (step, env, _), value in zip(rows, values, strict=True):
                rollout_buffer.rewards[step, env] += self.model.gamma * value

    def batches(self, rollout_buffer: Any, batch_size: int | None, normalize_advantage: bool) -> Iterator[GroupedRows]:
        """The rollout that was collected last as one batch of rows grouped by task; none if no row is kept.

        What callbacks have changed in the buffer or the policy since is learned from.

        :raises ValueError: if minibatches are asked for
        """
        if batch_size is not None:
            raise ValueError(f'The fast engine has no minibatches (got `batch_size`={batch_size}): give engine="torch"')
        acting, keep = self._acting, rollout_buffer.keep
        assert acting is not None, "collect a rollout first"
        if keep is not None and not keep.any():
            return
        self._activations = self._activations_of(acting, rollout_buffer)
        everyone = np.arange(self.model.policy.n_tasks)
        columns = {
            name: by_task(rollout_buffer.by_step(name), acting.k) for name in ("actions", "advantages", "returns")
        }
        if rollout_buffer.targets is not None:
            mean, log_std = (by_task(target, acting.k) for target in rollout_buffer.targets)
            columns |= {"teacher_mean": mean, "teacher_log_std": log_std}
        if keep is not None:
            columns["kept"] = by_task(keep[:, :, None].astype(columns["advantages"].dtype), acting.k)
        rows = GroupedRows(everyone[acting.tasks], **columns)
        yield rows.with_normalized_advantages() if normalize_advantage else rows

    def _activations_of(self, acting: Acting, rollout_buffer: Any) -> Activations:
        """Activations for the rows of the buffer: those kept while acting, unless a callback came between."""
        if not self.parameters.is_current() or self.parameters.version() != self._version:
            self._act_with_new_weights(acting)
        observations = rollout_buffer.by_step("obs")
        collected = rollout_buffer.observation_rows["obs"][:-1]
        are_collected = np.may_share_memory(observations, collected) or np.array_equal(observations, collected)
        if self._is_touched or not are_collected:
            return acting.recompute_activations(observations)
        return acting.activations(collected)

    def evaluate(self, objective: Sequence[Loss], batch: GroupedRows) -> Evaluation:
        """Compute the objective's gradient for a batch of :meth:`batches`; the next :meth:`step` takes it.

        :return: the terms of the losses
        """
        acting, activations, parameters = self._acting, self._activations, self.parameters
        assert acting is not None
        assert activations is not None
        log_std = log_std_of(parameters.weight_nets, acting.tasks, acting.k)
        outputs = GroupedOutputs(batch, activations.heads_pi[-1], log_std, activations.heads_vf[-1])
        gradient, *others = (loss.output_gradient(batch, outputs) for loss in objective)
        for other in others:
            gradient += other
        tasks = batch.tasks[batch.took_part].tolist()
        evaluation = Evaluation(tasks, [terms_of_groups(loss, batch, outputs) for loss in objective])
        self._backward(acting, activations, gradient)
        n_tasks = parameters.policy.n_tasks
        self._present = None if len(tasks) == n_tasks else [task in tasks for task in range(n_tasks)]
        return evaluation

    def _backward(self, acting: Acting, activations: Activations, outputs: OutputGradient) -> None:
        """The chain rule from the outputs' gradient to all parameters'; heads of absent tasks get 0."""
        parameters, tasks = self.parameters, acting.tasks
        weights, gradient = parameters.weight_nets, parameters.gradient_nets
        if not isinstance(tasks, slice):
            parameters.gradient.fill(0.0)
        if weights.log_std.ndim == 2:
            gradient.log_std[tasks] = outputs.log_std
        else:
            np.sum(outputs.log_std, axis=0, out=gradient.log_std)
        d_latent = heads_backward(weights.head_pi, gradient.head_pi, activations.heads_pi, outputs.mean, tasks)
        trunk_backward(weights.trunk_pi, gradient.trunk_pi, activations.trunk_pi, self._by_row(d_latent))
        d_values = np.zeros_like(activations.heads_vf[-1]) if outputs.values is None else outputs.values
        d_latent = heads_backward(weights.head_vf, gradient.head_vf, activations.heads_vf, d_values, tasks)
        trunk_backward(weights.trunk_vf, gradient.trunk_vf, activations.trunk_vf, self._by_row(d_latent))
        for frozen in parameters.frozen_gradients:
            frozen.fill(0.0)

    def _by_row(self, grouped: np.ndarray) -> np.ndarray:
        """(k, T * m, dim) -> (T * n, dim)."""
        assert self._acting is not None
        return by_step(grouped, self._acting.n_steps).reshape(-1, grouped.shape[2])

    def step(self, max_grad_norm: float) -> bool:
        """One step of the optimizer along the gradient of the last :meth:`evaluate`, clipped.

        :return: whether it was made: not if the gradient is not finite
        """
        if not np.isfinite(clip_gradient(self.parameters.gradient, max_grad_norm)):
            return False
        settings = self.parameters.policy.optimizer.param_groups[0]
        rmsprop_step(self.parameters, settings["lr"], settings["alpha"], settings["eps"], self._present)
        return True
