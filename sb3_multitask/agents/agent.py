"""A trained policy: weights and normaliser, without environment and optimizer.

Agents act on raw observations. They are used as teachers, and are shared and shipped. Their files are in
:mod:`sb3_multitask.agents.files`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, cast

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from torch import nn

from sb3_multitask.agents.layers import Layers, heads_of, trunk_of
from sb3_multitask.envs.observations import checked_observation, observation_dtype, own_actions, padded_observation
from sb3_multitask.envs.task_space import TaskSizes, TaskSpace, padded
from sb3_multitask.policies import MultiTaskActorCriticPolicy
from sb3_multitask.policies.checks import why_no_agent
from sb3_multitask.policies.products import weights_of_products
from sb3_multitask.policies.progressive import ProgressiveNet
from sb3_multitask.readers import ObsStatistics
from sb3_multitask.tasks import Task, did_you_mean
from sb3_multitask.vec_env.layers import task_normalizer_of

OBS_DTYPES = ("float32", "float64")
_TASKS = ("task_names", "tasks")
_ACTIVATIONS: dict[str, Any] = {
    "Tanh": np.tanh,
    "ReLU": lambda x: np.maximum(x, 0),
    "ELU": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "LeakyReLU": lambda x: np.where(x > 0, x, 0.01 * x),
}


@dataclass(frozen=True)
class Agent:
    """A Gaussian policy with a head, or a column, per task, or one for all, that takes raw, unnormalised observations.

    :param weights: the policy's state dict: ``mlp_extractor.policy_net.*``, ``action_net.*``, ``log_std``,
        ``task_vectors.weight`` of a policy with the task in its input, and the critic's weights and those of a policy
        that all tasks share (``shared_head.*``, :func:`shared_agent`), which are kept and not used
    :param task_names: in the order of the heads; a single-task policy has one
    :param statistics: statistics that normalise observations; ``None`` for a policy of raw observations
    :param activation: "Tanh", "ReLU", "ELU" or "LeakyReLU"
    :param action_low: (action_dim,), lowest actions; actions are clipped
    :param action_high: (action_dim,), highest actions
    :param log_std_bounds: (low, high, init) of a state-dependent log-std, see ``MultiTaskActorCriticPolicy``
    :param facts: its origin, as plain values
    :param tasks: the tasks of the heads, if they are known; the agent can then be evaluated without an env
    :param obs_dtype: type of an exported policy's observations: "float64" if the tasks' observations need its
        precision, else "float32"
    :param task_space: how wide each task is and the bounds of its actions, where tasks differ in these; ``None`` where
        they do not
    :raises ValueError: if the parts do not fit together, or a weight is not finite
    """

    weights: Mapping[str, np.ndarray] = field(repr=False)
    task_names: tuple[str, ...]
    statistics: ObsStatistics | None = field(default=None, repr=False)
    activation: str = "Tanh"
    action_low: np.ndarray | float = -np.inf
    action_high: np.ndarray | float = np.inf
    log_std_bounds: tuple[float, float, float] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict, repr=False)
    tasks: tuple[Task, ...] | None = field(default=None, repr=False)
    obs_dtype: str = "float32"
    task_space: TaskSpace | None = None

    def __post_init__(self) -> None:
        if self.obs_dtype not in OBS_DTYPES:
            raise ValueError(f"obs_dtype must be one of {', '.join(OBS_DTYPES)} (got {self.obs_dtype!r})")
        if self.activation not in _ACTIVATIONS:
            raise ValueError(f"activation must be one of {', '.join(_ACTIVATIONS)} (got {self.activation!r})")
        bad = [name for name, array in self.weights.items() if not np.isfinite(array).all()]
        if bad:
            raise ValueError(f"weights that are not finite: {', '.join(bad)}")
        n_tasks = len(self.task_names)
        self._check_bounds()
        if self.tasks is not None and tuple(task.name for task in self.tasks) != self.task_names:
            raise ValueError(
                f"tasks {', '.join(task.name for task in self.tasks)} are not those of the heads: "
                f"{', '.join(self.task_names)}"
            )
        try:
            trunk, heads = trunk_of(self.weights), heads_of(self.weights)
            if self.columns is not None and len(self.columns.columns) != n_tasks:
                raise ValueError(f"the policy has {len(self.columns.columns)} columns for {n_tasks} tasks")
            mean, log_std = self._forward(
                trunk, [layer.of_head(slice(1)) for layer in heads], 0, np.zeros((1, self.obs_dim))
            )
        except (KeyError, ValueError, IndexError) as e:
            raise ValueError(f"the policy's weights do not fit together ({e})") from e
        self._check_tasks(heads)
        if mean.shape != log_std.shape:
            raise ValueError(f"the policy's means {mean.shape} and log-stds {log_std.shape} do not fit")
        if self.statistics is not None and self.statistics.mean.shape != (n_tasks, self.obs_dim):
            raise ValueError(
                f"the normaliser has statistics of shape {self.statistics.mean.shape}, the policy needs "
                f"{(n_tasks, self.obs_dim)} (n_tasks, obs_dim)"
            )
        object.__setattr__(self, "_parts", (trunk, heads))
        if any(np.shape(bound) not in ((), (self.action_dim,)) for bound in (self.action_low, self.action_high)):
            raise ValueError(f"the bounds of its actions must be {self.action_dim} numbers each")
        self._check_sizes()

    def _check_sizes(self) -> None:
        space = self.task_space
        if space is None:
            return
        dims = [(obs_dim, len(low)) for obs_dim, (low, _) in zip(space.obs_dims, space.action_bounds, strict=False)]
        fit = all(1 <= obs_dim <= self.obs_dim and 1 <= n <= self.action_dim for obs_dim, n in dims)
        ordered = all(len(low) == len(high) and np.less_equal(low, high).all() for low, high in space.action_bounds)
        are_all = len(space.obs_dims) == len(space.action_bounds) == self.n_tasks
        if not (are_all and fit and ordered):
            raise ValueError(
                f"`task_space` must have {self.n_tasks} tasks with observations of at most {self.obs_dim} and actions "
                f"of at most {self.action_dim} numbers, between the lowest and the highest (got {space})"
            )

    def _check_bounds(self) -> None:
        if not np.all(np.asarray(self.action_low, dtype=float) <= np.asarray(self.action_high, dtype=float)):
            raise ValueError("the lowest actions must be numbers, and not above the highest")
        if self.log_std_bounds is not None:
            low, high, init = self.log_std_bounds
            if not low < init < high:
                raise ValueError(f"`log_std_bounds` must be low, high and a start between (got {self.log_std_bounds})")

    def _check_tasks(self, heads: Layers) -> None:
        n_heads, vectors, tasks = len(heads[0].weight), self.task_vectors, ", ".join(self.task_names)
        accepted = (self.n_tasks,) if vectors is None else (self.n_tasks, 1)  # tasks in the input may share a head
        if n_heads not in accepted or any(len(layer.weight) != n_heads for layer in heads):
            raise ValueError(f"the policy has {n_heads} heads for {self.n_tasks} tasks: {tasks}")
        if vectors is not None and len(vectors) != self.n_tasks:
            raise ValueError(f"the policy has vectors of {len(vectors)} tasks for {self.n_tasks} tasks: {tasks}")

    @property
    def n_tasks(self) -> int:
        return len(self.task_names)

    @cached_property
    def columns(self) -> ProgressiveNet | None:
        """The layers before the outputs of a policy with ``share="progressive"``; ``None`` for any other policy."""
        activation: type[nn.Module] = getattr(nn, self.activation)
        return ProgressiveNet.of_weights(self.weights, activation)

    @property
    def obs_dim(self) -> int:
        if self.columns is not None:
            return self.columns.in_dim
        first = [*trunk_of(self.weights), *heads_of(self.weights)][0].weight
        return int(first.shape[-2]) - (0 if self.task_vectors is None else self.task_vectors.shape[1])

    @property
    def task_vectors(self) -> np.ndarray | None:
        """What follows the observation in the input, a vector per task, (n_tasks, dim); ``None``: nothing."""
        return self.weights.get("task_vectors.weight")

    @property
    def action_dim(self) -> int:
        width = int(heads_of(self.weights)[-1].weight.shape[2])
        return width // 2 if self.log_std_bounds is not None else width

    @property
    def layers(self) -> tuple[Layers, Layers]:
        """Layers of the shared trunk, and of the heads, with a leading (n_tasks,), or (1,) for a head for all tasks.

        The trunk of a policy with columns is empty, and its heads are the output layers.
        """
        parts: tuple[Layers, Layers] = self._parts  # type: ignore[attr-defined]
        return parts

    @property
    def digest(self) -> str:
        """SHA-256 of the weights, statistics and sizes of the tasks, which identifies an agent."""
        sha = hashlib.sha256()
        for name in sorted(self.weights):
            sha.update(name.encode() + np.ascontiguousarray(self.weights[name]).tobytes())
        if self.statistics is not None:
            sha.update(self.statistics.mean.tobytes() + self.statistics.var.tobytes())
        if self.task_space is not None:
            sha.update(repr((self.task_space.obs_dims, self.task_space.action_bounds)).encode())
        return sha.hexdigest()

    @cached_property
    def sizes(self) -> TaskSizes:
        """How wide each task is within the widest, and the bounds of its actions."""
        low, high = (
            np.broadcast_to(b, self.action_dim).astype(np.float32) for b in (self.action_low, self.action_high)
        )
        task = self.task_space or spaces.Discrete(self.n_tasks)
        obs = spaces.Box(-np.inf, np.inf, (self.obs_dim,))
        return TaskSizes.of(spaces.Dict(obs=obs, task=task), spaces.Box(low, high))

    def head_of(self, task: str) -> int:
        """Return the head of a task; a single-task policy uses its head for any name.

        :raises ValueError: if there is none
        """
        if self.n_tasks == 1:
            return 0
        if task not in self.task_names:
            raise ValueError(
                f"No head for task {task!r}.{did_you_mean(task, self.task_names)} Heads: {', '.join(self.task_names)}"
            )
        return self.task_names.index(task)

    def distribution(self, obs: np.ndarray, head: int) -> tuple[np.ndarray, np.ndarray]:
        """Return means and log-stds of the actions of one head, both (n_rows, action_dim) float32.

        Where tasks differ in size, ``action_dim`` is the task's own.

        :param obs: raw observations, (n_rows, obs_dim), of the task's own size or padded
        :param head: index of the head
        """
        mean, log_std = self._forward(*self._layers_of(head), head, self._input(obs, head))
        n = self.sizes.action_dims[head]
        return mean[:, :n], log_std[:, :n]

    @property
    def feature_dim(self) -> int:
        """Units of the last hidden layer; 0 without a hidden layer."""
        if self.columns is not None:
            return self.columns.hidden_dim
        hidden = [layer for of_part in self.layers for layer in of_part][:-1]
        return int(hidden[-1].bias.shape[-1]) if hidden else 0

    def features(self, obs: np.ndarray, head: int) -> np.ndarray:
        """Return the activations of the last hidden layer, (n_rows, feature_dim) float32.

        :param obs: raw observations, as of :meth:`distribution`
        :param head: index of the head
        :raises ValueError: if there is no hidden layer
        """
        if not self.feature_dim:
            raise ValueError("the policy has no hidden layer")
        hidden = self._hidden(*self._layers_of(head), head, self._input(obs, head))
        return hidden[:, : self.feature_dim]  # an adapter's output may follow, of a policy with columns

    def _layers_of(self, head: int) -> tuple[Layers, Layers]:
        """Return the layers of the trunk, and those of one head."""
        trunk, heads = self.layers
        return trunk, [layer.of_head(head if len(layer.weight) > 1 else 0) for layer in heads]

    def _input(self, obs: np.ndarray, head: int) -> np.ndarray:
        """Return observations as the trunk takes them: padded, normalised, and 0 in the padding."""
        sizes = self.sizes
        if obs.shape[-1] == sizes.obs_dims[head]:
            obs = padded(obs, self.obs_dim)
        if self.statistics is not None:
            obs = self.statistics.normalize(obs, head)
        if sizes.has_padding:
            obs = np.where(sizes.obs_mask[head], obs, 0)
        return obs

    def predict(
        self,
        observation: Mapping[str, Any],
        state: Any = None,
        episode_start: Any = None,  # noqa: ARG002 (SB3's signature)
        deterministic: bool = False,
        generator: np.random.Generator | None = None,
    ) -> tuple[np.ndarray, Any]:
        """Return actions for **unnormalised** observations, as SB3's ``predict`` returns them.

        A model's ``predict``, in contrast, takes the normalised observations of its VecEnv. Sizes are as there, where
        tasks differ in size: one observation gives an action of its task's own size, a batch gives padded ones.

        :param observation: ``{"obs": (obs_dim,) or (n_rows, obs_dim), "task": task ids, () or (n_rows,)}``
        :param state: returned unchanged; there is no recurrence
        :param episode_start: not used
        :param deterministic: the mean instead of a sample
        :param generator: draws the samples; ``None`` makes a new one
        :return: actions (action_dim,) or (n_rows, action_dim), clipped to their bounds, and ``state``
        :raises ValueError: on other keys or shapes, or an unknown task id, as models do
        """
        observation = checked_observation(observation, self.n_tasks)
        obs, task = np.asarray(observation["obs"], dtype=np.float64), observation["task"].reshape(-1)
        rows = np.atleast_2d(padded_observation(obs, observation["task"], self.sizes, self.task_names))
        if rows.ndim != 2 or rows.shape[1] != self.obs_dim:
            raise ValueError(f"`observation['obs']` must be (n_rows, {self.obs_dim}) (got {obs.shape})")
        actions = np.zeros((len(rows), self.action_dim), dtype=np.float32)
        for head in np.unique(task):
            mine = task == head
            mean, log_std = self.distribution(rows[mine], int(head))
            if not deterministic:
                draw = (generator or np.random.default_rng()).standard_normal(mean.shape)
                mean = mean + np.exp(log_std) * draw
            actions[mine, : mean.shape[1]] = mean
        actions = np.clip(actions, self.action_low, self.action_high).astype(np.float32)
        if obs.ndim == 1:
            actions = actions[0]
        return own_actions(actions, task, self.sizes), state

    def _hidden(self, trunk: Layers, head: Layers, index: int, x: np.ndarray) -> np.ndarray:
        """Return what the last layer takes."""
        activation = _ACTIVATIONS[self.activation]
        x = np.asarray(x, dtype=np.float32)
        if self.task_vectors is not None:
            mine = self.task_vectors[index]
            x = np.concatenate([x, np.broadcast_to(mine, (len(x), len(mine)))], axis=1)
        if self.columns is not None:
            x = self.columns.latent_of(th.from_numpy(np.array(x)), index).numpy()
        for layer in [*trunk, *head][:-1]:
            x = activation(layer(x))
        return x

    def _forward(self, trunk: Layers, head: Layers, index: int, x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        output = head[-1](self._hidden(trunk, head, index, x))
        output = output[0] if output.ndim == 3 else output
        if self.log_std_bounds is not None:
            mean, raw = np.split(output, 2, axis=-1)
            low, high, init = self.log_std_bounds
            start = (init - low) / (high - low)
            offset = np.log(start / (1 - start))
            return mean, (low + (high - low) / (1 + np.exp(-(raw + offset)))).astype(np.float32)
        log_std = self.weights["log_std"]
        return output, np.broadcast_to(log_std[index] if log_std.ndim == 2 else log_std, output.shape)


def normalizer_state_of(model: BaseAlgorithm) -> dict[str, Any] | None:
    """Return the statistics that normalise a model's observations, or None.

    :raises ValueError: if they belong to a stock ``VecNormalize``
    """
    env = model.get_env()
    normalizer = None if env is None else task_normalizer_of(env)
    return getattr(model, "normalizer_state", None) if normalizer is None else normalizer.get_statistics()


def obs_dtype_of(model: BaseAlgorithm) -> str:
    """Return the type of a model's observations before they are normalised: "float32" or "float64"."""
    env = model.get_env()
    if env is None and getattr(model, "obs_dtype", None) in OBS_DTYPES:
        return str(model.obs_dtype)  # type: ignore[attr-defined]
    space: Any = model.observation_space if env is None else env.unwrapped.observation_space
    return observation_dtype(space["obs"].dtype).name


def agent_of(model: BaseAlgorithm, **facts: Any) -> Agent:
    """Return the policy of a model as an agent, with copies of its weights and statistics.

    :param model: an ``A2CMultiTask``, or another SB3 model with this package's policy and VecEnv
    :param facts: stored with the agent, such as the number of steps
    :raises ValueError: if the model has no tasks, its statistics belong to a stock ``VecNormalize``, or an agent of its
        weights would act differently; the message says why
    """
    policy = cast("MultiTaskActorCriticPolicy", model.policy)
    task_names, tasks = (getattr(model, name, None) or getattr(model.get_env(), name, None) for name in _TASKS)
    if not hasattr(policy, "log_std_mode"):
        raise ValueError(
            f"The model's policy is SB3's own ({type(policy).__name__}), which knows no tasks. Save the model, and its "
            "VecNormalize if it has one, and read them with load_agent(path, normalizer)."
        )
    if (reason := why_no_agent(policy)) is not None:
        raise ValueError(
            f"The model's policy, a {type(policy).__name__}, acts differently from an agent of its weights: "
            f"{reason}. Agents, and with them teachers and exports, are MultiTaskActorCriticPolicy as it is. Use the "
            "model itself: model.save(path), evaluate_tasks(model)."
        )
    if task_names is None:
        raise ValueError("The model has no tasks yet: it was made without an env")
    state = normalizer_state_of(model)
    statistics = None
    if state is not None and state["norm_obs"]:
        rms = state["obs_rms"]
        statistics = ObsStatistics(
            rms["mean"].copy(), rms["var"].copy(), state["epsilon"], state["clip_obs"], tuple(task_names)
        )
    bounds = None
    if policy.log_std_mode == "state_dependent":
        bounds = (*policy.log_std_bounds, float(policy.log_std_init))
    space: Any = model.action_space
    return Agent(
        weights_of_products({name: tensor.numpy(force=True).copy() for name, tensor in policy.state_dict().items()}),
        tuple(task_names),
        statistics,
        type(policy.activation_fn()).__name__,
        space.low.copy(),
        space.high.copy(),
        bounds,
        {"num_timesteps": model.num_timesteps, **facts},
        tasks,
        obs_dtype_of(model),
        policy.task_space,
    )
