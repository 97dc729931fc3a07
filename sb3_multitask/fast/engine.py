"""Collects rollouts and updates the policy in numpy and closed form."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv

from sb3_multitask.combiners import NETS, GradientCombining, Net
from sb3_multitask.fast.acting import Acting
from sb3_multitask.fast.contributions import wanted
from sb3_multitask.fast.minibatches import Computation, PartMemory, RolloutTable, parts_of_minibatch
from sb3_multitask.fast.nets import backward, backward_by_task
from sb3_multitask.fast.optimizers import clip_gradient, optimizer_of
from sb3_multitask.fast.parameters import FlatParameters, Layers
from sb3_multitask.fast.workers import Workers
from sb3_multitask.losses import Evaluation, GroupedOutputs, GroupedRows, Loss
from sb3_multitask.losses.loss import SumsOfTerms, evaluate_groups, evaluation_of_sums
from sb3_multitask.process.arrays import Scratch
from sb3_multitask.process.kernels import load_kernels
from sb3_multitask.vec_env.faults import is_fault
from sb3_multitask.vec_env.infos import ended_rows
from sb3_multitask.vec_env.layers import layer_with_tasks

_ROWS_FOR_TWO_THREADS = 256
"""Of so many rows the gradients of the two nets are computed at once: another thread takes 50 us to wake."""


class FastEngine:
    """SB3's rollout and update with numpy on views of the torch parameters.

    While acting it computes actions only: no log-probabilities, and values once per rollout. ``collect`` keeps SB3's
    local names for callbacks, but for ``obs_tensor``, ``values`` and ``log_probs``, which do not exist here, and the
    loop variables ``idx`` and ``done``. The rollout buffer's ``log_probs`` stay NaN unless the algorithm needs them.
    Weights that a callback puts in act from the next step on; that rollout's values are all of the new weights.

    :param model: an on-policy algorithm in whose env its policy acts; see :func:`why_not_fast`
    """

    name = "fast"

    def __init__(self, model: Any) -> None:
        self.model = model
        self._take_parameters()
        self._workers = Workers()
        self._layer: tuple[VecEnv, Any] | None = None  # the env, and what of it knows the tasks
        load_kernels("fast")  # before the threads of matrix products are limited
        self._acting: Acting | None = None
        self._version = self.parameters.version()  # of the weights that act
        self._is_touched = False  # a callback has put in weights since the rollout began
        self._present: Sequence[bool] | None = None
        self._combining: GradientCombining | None = None
        self._table: tuple[Any, RolloutTable] | None = None  # of a dataset
        self._nets_by_task: list[Net] = []

    def _take_parameters(self) -> None:
        self.parameters = FlatParameters(self.model.policy)
        self._optimizer = optimizer_of(self.parameters)
        self._memory = [PartMemory((self.parameters.gradient, self.parameters.gradient_nets))]

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
        rollout_buffer.observations["task"][...] = self._tasks_of(env).task_ids[:, None]
        observations[0] = model._last_obs["obs"]
        episode_starts[0] = model._last_episode_starts
        truncations: list[tuple[int, int, Any]] = []  # (step, env, terminal observation)
        given = {"env": env, "callback": callback, "rollout_buffer": rollout_buffer, "n_rollout_steps": n_rollout_steps}
        shown: dict[str, Any] = {"self": model, **given}  # SB3's local names
        n_steps = 0

        while n_steps < n_rollout_steps:
            clipped_actions = acting.act(n_steps, observations, rollout_buffer.actions)
            actions = rollout_buffer.actions[n_steps]

            new_obs, rewards, dones, infos = env.step(clipped_actions)
            model.num_timesteps += env.num_envs

            shown.update(n_steps=n_steps, actions=actions, clipped_actions=clipped_actions)
            shown.update(new_obs=new_obs, rewards=rewards, dones=dones, infos=infos)
            callback.update_locals(shown)
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
        rollout_buffer.finish(acting.values(observations), acting.log_probs() if model.needs_log_probs else None)
        callback.update_locals({**shown, "n_steps": n_steps})
        callback.on_rollout_end()
        return True

    def _start_acting(self, env: VecEnv, n_steps: int) -> Acting:
        """Begin a rollout with the policy as it is now."""
        if not self.parameters.is_current():
            self._take_parameters()
        if self._acting is None or (self._acting.n_steps, self._acting.n_envs) != (n_steps, env.num_envs):
            self._acting = Acting(n_steps, env.num_envs, self.parameters)
        layer = self._tasks_of(env)
        copies, n_tasks = layer.copies, self.model.policy.n_tasks
        m, present = copies.of_tasks[0], np.arange(n_tasks)
        counts: tuple[int, ...] = copies.of_tasks
        if copies.are_equal:  # else all tasks are shown
            present = layer.task_ids[::m]
            counts = (m,) * len(present)
        is_all, first = len(present) == n_tasks, int(present[0])
        tasks = slice(None) if is_all else slice(first, first + 1) if len(present) == 1 else present
        self._acting.start(self.parameters, tasks, counts)
        self._version, self._is_touched = self.parameters.version(), False
        return self._acting

    def _tasks_of(self, env: VecEnv) -> Any:
        """The layer of an env that knows its tasks."""
        if self._layer is None or self._layer[0] is not env:
            self._layer = env, layer_with_tasks(env)
        return self._layer[1]

    def _act_with_new_weights(self, acting: Acting) -> Acting:
        """Continue in the middle of a rollout with weights that a callback has put in."""
        if not self.parameters.is_current():
            self._take_parameters()
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

    def update_value_statistics(self, rollout_buffer: Any) -> None:
        """Take the returns of the rollout into the statistics of the policy's ``value_norm``."""
        acting, is_as_collected = self._acting, self.parameters.version() == self._version
        assert acting is not None, "collect a rollout first"
        self.model.policy.update_value_statistics(*rollout_buffer.kept_returns())
        if is_as_collected:  # else the rollout is computed anew
            acting.update_value_units(self.parameters)
            self._version = self.parameters.version()

    def batches(
        self, rollout_buffer: Any, batch_size: int | None, normalize_advantage: bool
    ) -> Iterator[Sequence[Computation]]:
        """The rollout that was collected last, grouped by task; none if no row is kept.

        What callbacks have changed in the buffer or the policy since is learned from.

        :param batch_size: rows of a minibatch, drawn with SB3's permutation; ``None``: all rows in one
        """
        acting, keep = self._acting, rollout_buffer.keep
        assert acting is not None, "collect a rollout first"
        if keep is not None and not keep.any():
            return
        if not self.parameters.is_current() or self.parameters.version() != self._version:
            self._act_with_new_weights(acting)
        self._present = self._present_tasks(acting, keep)
        if batch_size is None:
            yield [self._whole_rollout(acting, rollout_buffer, keep, normalize_advantage)]
        else:
            yield from self._minibatches(acting, rollout_buffer, keep, batch_size, normalize_advantage)

    def batch_of(self, rows: Any, places: np.ndarray) -> Sequence[Computation]:
        """Some rows of a dataset, of all tasks, in place of a rollout's.

        :param rows: an ``OfflineRows``
        :param places: which, (n,)
        """
        if self._acting is None or not self.parameters.is_current():
            acting = self._start_acting(self.model.env, 1)
        else:
            acting = self._acting
            acting.take_weights(self.parameters)
        if self._table is None or self._table[0] is not rows:
            nothing = np.zeros((len(rows.tasks), 1), acting.dtype)  # of returns
            columns = {"actions": rows.actions, "advantages": nothing, "returns": nothing}
            if rows.teacher_mean is not None:
                columns |= {"teacher_mean": rows.teacher_mean, "teacher_log_std": rows.teacher_log_std}
            self._table = rows, RolloutTable(rows.observations, columns, acting.dtype)
        self._present = None
        tasks = np.arange(self.model.policy.n_tasks)
        return parts_of_minibatch(
            self._table[1], acting.weights, tasks, rows.tasks[places], places, normalize_advantage=False
        )

    def _whole_rollout(
        self, acting: Acting, rollout_buffer: Any, keep: np.ndarray | None, normalize_advantage: bool
    ) -> Computation:
        """All rows, with the activations from acting unless a callback has changed what they are of."""
        observations, named = rollout_buffer.by_step("obs"), self._columns(acting, rollout_buffer)
        if self._is_touched or not acting.memory.has_seen(observations):
            activations, grouped = acting.recomputed(observations, list(named.values()))
        else:
            activations, grouped = acting.grouped(list(named.values()))
        columns: dict[str, Any] = dict(zip(named, grouped, strict=True))
        rows = GroupedRows(self._shown_tasks(acting), **columns, kept=acting.memory.kept(keep))
        if normalize_advantage:
            rows = rows.with_normalized_advantages()
        return lambda _: (rows, activations)

    def _minibatches(
        self, acting: Acting, rollout_buffer: Any, keep: np.ndarray | None, batch_size: int, normalize_advantage: bool
    ) -> Iterator[Sequence[Computation]]:
        """Minibatches in the order of SB3's permutation, which counts rows environment by environment."""
        n_steps, n_envs, tasks = acting.n_steps, acting.n_envs, self._shown_tasks(acting)
        named = self._columns(acting, rollout_buffer)
        columns = {name: column.reshape(n_steps * n_envs, -1) for name, column in named.items()}
        observations = rollout_buffer.by_step("obs").reshape(n_steps * n_envs, -1)
        table = RolloutTable(observations, columns, acting.dtype)
        permutation = np.random.permutation(n_steps * n_envs)  # noqa: NPY002 (SB3's generator)
        for start in range(0, len(permutation), batch_size):
            envs, steps = np.divmod(permutation[start : start + batch_size], n_steps)
            if keep is not None:
                is_kept = keep[steps, envs]
                envs, steps = envs[is_kept], steps[is_kept]
                if not len(envs):
                    continue
            rows, task = steps * n_envs + envs, acting.task_of_env[envs]
            acting.take_weights(self.parameters)  # the last step has changed them
            yield parts_of_minibatch(table, acting.weights, tasks, task, rows, normalize_advantage)

    def _columns(self, acting: Acting, rollout_buffer: Any) -> dict[str, np.ndarray]:
        """What losses read of a rollout, (n_steps, n_envs, dim); with `value_norm` in normalised units."""
        names = {"actions": "actions", "advantages": "advantages", "returns": "returns"}
        if self.model.needs_log_probs:
            names |= {"old_values": "values", "old_log_prob": "log_probs"}
        columns: dict[str, np.ndarray] = {name: rollout_buffer.by_step(column) for name, column in names.items()}
        if (units := acting.value_units) is not None:
            std, mean = (of_envs[:, None] for of_envs in units)
            named = (name for name in ("returns", "old_values") if name in columns)
            columns |= {name: (columns[name] - mean) / std for name in named}
            columns["advantages"] = columns["advantages"] / std
        if rollout_buffer.targets is not None:
            columns["teacher_mean"], columns["teacher_log_std"] = rollout_buffer.targets
        return columns

    def _shown_tasks(self, acting: Acting) -> np.ndarray:
        """Ids of the tasks that the VecEnv shows."""
        return np.arange(self.model.policy.n_tasks)[acting.tasks]

    def _present_tasks(self, acting: Acting, keep: np.ndarray | None) -> list[bool] | None:
        """Whether any row of a task in the rollout is learned from, (n_tasks,); None if this holds for all."""
        present = np.zeros(self.model.policy.n_tasks, dtype=bool)
        present[acting.tasks] = keep is None or np.logical_or.reduceat(keep.any(axis=0), acting.starts[:-1])
        return None if present.all() else present.tolist()

    def evaluate(self, objective: Sequence[Loss], batch: Sequence[Computation]) -> Evaluation:
        """Compute the objective's gradient for a batch of :meth:`batches`; the next :meth:`step` takes it.

        :return: the terms of the losses
        """
        while len(self._memory) < len(batch):
            self._memory.append(PartMemory(self.parameters.another_gradient()))
        memory = self._memory[: len(batch)]
        self.loss_weights = getattr(self.model, "loss_weights", None)
        self._combining = getattr(self.model, "combining", None)
        self._nets_by_task = wanted(self._combining, self.parameters.weight_nets)
        sums = self._workers.map(partial(self._evaluate_part, objective, len(batch) == 1), batch, memory)
        for of_part in memory[1:]:  # in order, whoever was first
            for start, stop in self.parameters.places(self._present).tolist():
                self.parameters.gradient[start:stop] += of_part.flat_gradient[start:stop]
        if self._combining is not None:
            self._combine(self._combining, memory)
        return evaluation_of_sums(objective, sums)

    def _combine(self, combining: GradientCombining, memory: Sequence[PartMemory]) -> None:
        """Measure or combine what the tasks add to the gradient of the parameters that they share.

        :param memory: of the parts of the minibatch
        """
        assert self._acting is not None
        tasks = self._shown_tasks(self._acting)
        for net in self._nets_by_task:
            first, *others = (part.contributions[net, len(tasks)] for part in memory)
            for other in others:
                first.flat += other.flat
            first.combine(combining, tasks)
        combining.measures = False

    def _evaluate_part(
        self, objective: Sequence[Loss], is_whole: bool, part: Computation, memory: PartMemory
    ) -> SumsOfTerms:
        """Write the gradient of the objective for a part of a minibatch; that of absent tasks' heads stays what it was.

        The chain rule goes from the outputs' gradient to all parameters'.

        :param is_whole: whether it is all of the minibatch, so that the two nets may share the threads
        """
        assert self._acting is not None
        (rows, activations), tasks = part(memory), self._acting.tasks
        acting = self._acting.weights
        of_nets = activations.heads_pi[-1], acting.log_std, activations.heads_vf[-1]
        outputs = GroupedOutputs(rows, *of_nets, acting.action_dims)
        at_outputs, sums = evaluate_groups(objective, outputs)
        if self.loss_weights is not None:
            at_outputs.scale(self.loss_weights[rows.tasks])
        weights, gradient = self.parameters.weight_nets, memory.gradient
        if weights.log_std.ndim == 2:
            gradient.log_std[tasks] = at_outputs.log_std
        else:
            np.sum(at_outputs.log_std, axis=0, out=gradient.log_std)
        if "actor" in self._nets_by_task and weights.log_std.ndim == 1:
            by_task = memory.contributions_of("actor", len(rows.tasks), self.parameters)
            assert by_task.log_std is not None
            by_task.log_std[...] = at_outputs.log_std
        d_values = np.zeros_like(activations.heads_vf[-1]) if at_outputs.values is None else at_outputs.values
        nets = (weights.trunk_pi, weights.head_pi), (weights.trunk_vf, weights.head_vf)
        gradients = (gradient.trunk_pi, gradient.head_pi), (gradient.trunk_vf, gradient.head_vf)
        computed = (activations.trunk_pi, activations.heads_pi), (activations.trunk_vf, activations.heads_vf)
        scratch = (memory.trunk_pi, memory.head_pi), (memory.trunk_vf, memory.head_vf)
        in_threads = is_whole and len(activations.trunk_pi[0]) >= _ROWS_FOR_TWO_THREADS
        apply = self._workers.map if in_threads else map
        of_net = partial(self._backward, rows.tasks, memory)
        list(apply(of_net, NETS, nets, gradients, computed, (at_outputs.mean, d_values), scratch))
        return sums

    def _backward(
        self,
        tasks: np.ndarray,
        memory: PartMemory,
        net: Net,
        nets: tuple[Layers, Layers],
        gradients: tuple[Layers, Layers],
        computed: tuple[Sequence[np.ndarray], Sequence[np.ndarray]],
        d_out: np.ndarray,
        scratch: tuple[Scratch, Scratch],
    ) -> None:
        """Write the gradient of a net, or its heads' and what each task adds to the trunk's; both if it is measured."""
        by_task = net in self._nets_by_task and bool(nets[0])
        if by_task:
            contributions = memory.contributions_of(net, len(tasks), self.parameters)
            backward_by_task(nets, contributions.trunk, gradients[1], computed, d_out, tasks, scratch)
        if not by_task or not (self._combining and self._combining.combines(net)):
            backward(nets, gradients, computed, d_out, tasks, scratch)

    def step(self, max_grad_norm: float) -> bool:
        """One step of the optimizer along the gradient of the last :meth:`evaluate`, clipped.

        :return: whether it was made: not if the gradient is not finite
        """
        places = self.parameters.places(self._present)
        if not np.isfinite(clip_gradient(self.parameters.gradient, places, max_grad_norm)):
            return False
        self._optimizer.step(self._present)
        self._version = self.parameters.version()  # torch's own optimizer counts as a change of weights
        return True
