"""The multi-task policy: a shared trunk, one Gaussian head and one value head per task, or for all."""

from __future__ import annotations

import copy
import math
from collections.abc import Collection, Mapping
from typing import Any, Self

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.distributions import DiagGaussianDistribution, Distribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import nn

from sb3_multitask.envs.observations import checked_observation, own_actions, padded_observation
from sb3_multitask.envs.task_space import TaskSizes, TaskSpace
from sb3_multitask.policies.arguments import (
    LOG_STD_BOUNDS,
    LayerNormOf,
    LogStdMode,
    NetArch,
    Share,
    TaskEmbedding,
    ValueNorm,
    activation_class,
    check_layer_norm,
    check_log_std,
    check_optimizer_kwargs,
    check_sb3s_keys,
    check_share,
    check_task_embedding,
    check_value_norm,
    checked_arch,
    checked_sizes,
)
from sb3_multitask.policies.devices import advise_cpu
from sb3_multitask.policies.distributions import MaskedGaussianDistribution
from sb3_multitask.policies.features import PLAIN, extractor_class, make_extractor
from sb3_multitask.policies.heads import TaskHeads, TaskRows, TaskVectors
from sb3_multitask.policies.products import check_same_shared_policy, check_shared_policy, product_of_log_stds
from sb3_multitask.policies.progressive import ProgressiveMlpExtractor, check_progressive
from sb3_multitask.policies.trunk import SharedMlpExtractor
from sb3_multitask.policies.value_normalization import ValueStatistics
from sb3_multitask.process.threads import threads_for_arrays
from sb3_multitask.vec_env.saved_statistics import SavedStatistics


class MultiTaskActorCriticPolicy(ActorCriticPolicy):
    """Actor-critic policy that selects the head by the task in the observation; alias ``"MultiTaskMlpPolicy"``.

    Works as the policy class of ``A2CMultiTask``, SB3's A2C and PPO and sb3-contrib's TRPO, on observations
    ``Dict(obs=Box(obs_dim,), task=Discrete(n_tasks))``. The default networks are the paper's (section 4.1): tanh, 64
    units. The actor has two shared layers and a linear head per task. The critic has one shared layer, and one more
    layer and the output per task.

    Where tasks differ in size (``task`` is a ``TaskSpace``), the networks do not see the padding of observations, and
    :class:`~sb3_multitask.policies.distributions.MaskedGaussianDistribution` leaves out the padding of actions.

    :param observation_space: with keys ``obs`` and ``task``
    :param action_space: a flat Box
    :param lr_schedule: learning rate, a function of the remaining progress
    :param net_arch: units of the shared layers, ``dict(pi=[64, 64], vf=[64])`` by default; a list applies to both
    :param head_arch: units of each task's own hidden layers, ``dict(pi=[], vf=[64])`` by default; a list applies to
        both
    :param activation_fn: after each hidden layer: a class of torch, or ``"tanh"``, ``"relu"``, ``"elu"``,
        ``"leaky_relu"``
    :param ortho_init: orthogonal initialisation, each head separately, with SB3's gains
    :param use_sde: must be False
    :param log_std_init: initial logarithm of the standard deviation
    :param log_std_mode: ``"per_task"``, a free vector per task, the default with a head per task; ``"shared"``, one for
        all, the default with ``share="all"``; ``"state_dependent"``, an output of the head (the paper's text), squashed
        into ``log_std_bounds``
    :param log_std_bounds: (low, high) for ``"state_dependent"``
    :param optimizer_class: as in SB3
    :param optimizer_kwargs: as in SB3
    :param full_std: SB3's, for gSDE: must keep its default
    :param use_expln: SB3's, for gSDE: must keep its default
    :param squash_output: SB3's, for gSDE: must keep its default
    :param features_extractor_class: a class as SB3's ``BaseFeaturesExtractor``: made with the Box of ``obs``, it maps
        (n_rows, obs_dim) to (n_rows, ``features_dim``), which go into the trunk. ``None``: observations as they are.
        Such a policy runs on the torch engine, and cannot become an agent
    :param features_extractor_kwargs: further arguments of that class
    :param share_features_extractor: one extractor for actor and critic, as in SB3, or one for each
    :param normalize_images: SB3's; has no effect, since there are no images
    :param layer_norm: ``True``: a ``LayerNorm`` (Ba et al. 2016, https://arxiv.org/abs/1607.06450) after each hidden
        linear layer, before the activation, in the trunk and in the heads, which have their own; ``"critic"``: in the
        critic only
    :param task_embedding: the task in the trunk's input, after the features: ``"onehot"``, n_tasks numbers, or as many
        learned numbers per task as this says, which start as standard normal ones. ``None``: not in the input, but
        ``"onehot"`` with ``share="all"``
    :param share: ``"heads"``: a head per task; ``"all"``: one head (action net, log-std and value net) for all tasks,
        which differ by the task in the input; ``"progressive"``: no layer, but a column of ``net_arch`` and
        ``head_arch`` per task, which reads the columns of the tasks before it, see
        :mod:`~sb3_multitask.policies.progressive`. Tasks are then trained in turn, with the schedule ``TaskSequence``
    :param value_norm: ``"popart"``: value heads learn values that are normalised with the mean and the standard
        deviation of their task's returns, see
        :class:`~sb3_multitask.policies.value_normalization.ValueStatistics`. All methods give values in units of the
        rewards. A2CMultiTask and PPOMultiTask update the statistics; others refuse to train such a policy
    :param shared_policy: set by ``distral`` of A2CMultiTask and PPOMultiTask, which train it: beside the heads of the
        tasks there is one more, ``shared_head`` and ``shared_log_std``, that gives a policy for all. The number is its
        power in the policies of the tasks, see :mod:`~sb3_multitask.policies.products`; 0: these are their own heads'.
        ``None``: there is none
    :raises ValueError: on spaces without a task, gSDE, an unknown mode or key, a features extractor that does not take
        the observations, an argument of SB3's policies that would have no effect, ``value_norm`` with
        ``share="all"``, an argument that does not go with ``share="progressive"``, or ``shared_policy`` with
        ``share="all"`` or ``"progressive"``, a ``task_embedding`` or another ``log_std_mode`` than ``"per_task"``
    """

    def __init__(
        self,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        lr_schedule: Schedule,
        net_arch: NetArch | None = None,
        head_arch: NetArch | None = None,
        activation_fn: type[nn.Module] | str = nn.Tanh,
        ortho_init: bool = True,
        use_sde: bool = False,
        log_std_init: float = 0.0,
        log_std_mode: LogStdMode | None = None,
        log_std_bounds: tuple[float, float] = LOG_STD_BOUNDS,
        optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
        optimizer_kwargs: dict[str, Any] | None = None,
        full_std: bool = True,
        use_expln: bool = False,
        squash_output: bool = False,
        features_extractor_class: type[nn.Module] | None = None,
        features_extractor_kwargs: dict[str, Any] | None = None,
        share_features_extractor: bool = True,
        normalize_images: bool = True,  # noqa: ARG002 (SB3's, without effect on vectors)
        layer_norm: LayerNormOf = False,
        task_embedding: TaskEmbedding | None = None,
        share: Share = "heads",
        value_norm: ValueNorm | None = None,
        shared_policy: float | None = None,
    ) -> None:
        obs_dim, n_tasks = checked_sizes(observation_space, action_space)
        if use_sde:
            raise ValueError(
                "`use_sde=True` is not supported: gSDE keeps one exploration matrix for one action net, and here "
                "each task has its own. Use `log_std_mode` to choose how exploration is parameterised."
            )
        check_sb3s_keys(
            {
                "full_std": full_std,
                "use_expln": use_expln,
                "squash_output": squash_output,
            }
        )
        check_optimizer_kwargs(optimizer_class, optimizer_kwargs)
        check_layer_norm(layer_norm)
        check_task_embedding(task_embedding)
        check_share(share)
        check_value_norm(value_norm, share)
        features_class = extractor_class(features_extractor_class, features_extractor_kwargs)
        if share == "progressive":
            check_progressive(
                {
                    "features_extractor_class": None if features_class is PLAIN else features_class,
                    "task_embedding": task_embedding,
                    "layer_norm": layer_norm,
                    "log_std_mode": log_std_mode,
                }
            )
        if log_std_mode is None:
            log_std_mode = "shared" if share == "all" else "per_task"
        check_log_std(log_std_mode, log_std_init, log_std_bounds)
        check_shared_policy(shared_policy, share=share, task_embedding=task_embedding, log_std_mode=log_std_mode)
        self.obs_dim = obs_dim
        self.n_tasks = n_tasks
        self.sizes = TaskSizes.of(observation_space, action_space)
        self.head_arch = checked_arch("head_arch", head_arch, {"pi": [], "vf": [64]})
        self.log_std_mode = log_std_mode
        self.log_std_bounds = log_std_bounds
        self.layer_norm = layer_norm
        self.task_embedding = "onehot" if share == "all" and task_embedding is None else task_embedding
        self.share = share
        self.value_norm = value_norm
        self.shared_policy = shared_policy
        self.shared_policy_learns = False
        """Whether the algorithm that trains the policy trains its shared policy too."""
        super().__init__(
            observation_space,
            action_space,
            lr_schedule,
            net_arch=checked_arch("net_arch", net_arch, {"pi": [64, 64], "vf": [64]}),
            activation_fn=activation_class(activation_fn),
            ortho_init=ortho_init,
            log_std_init=log_std_init,
            features_extractor_class=features_class,
            features_extractor_kwargs=copy.copy(features_extractor_kwargs),
            share_features_extractor=share_features_extractor,
            optimizer_class=optimizer_class,
            optimizer_kwargs=copy.deepcopy(optimizer_kwargs),
        )
        self.statistics = SavedStatistics()  # of a multi-task model's normaliser, for its file

    def _get_constructor_parameters(self) -> dict[str, Any]:
        data = super()._get_constructor_parameters()
        ours = "observation_space action_space lr_schedule net_arch activation_fn ortho_init use_sde log_std_init"
        data = {key: data[key] for key in [*ours.split(), "optimizer_class", "optimizer_kwargs"]}
        return {
            **data,
            "head_arch": self.head_arch,
            "log_std_mode": self.log_std_mode,
            "log_std_bounds": self.log_std_bounds,
            **self.options(),
        }

    def options(self) -> dict[str, Any]:
        """Return the arguments that are not the default, of those for input, layer norms, sharing and values."""
        own: dict[str, Any] = {}
        if self.features_extractor_class is not PLAIN:
            own |= {
                "features_extractor_class": self.features_extractor_class,
                "features_extractor_kwargs": self.features_extractor_kwargs,
                "share_features_extractor": self.share_features_extractor,
            }
        others = {
            "layer_norm": False,
            "task_embedding": None,
            "share": "heads",
            "value_norm": None,
            "shared_policy": None,
        }
        return own | {name: getattr(self, name) for name, default in others.items() if getattr(self, name) != default}

    def make_features_extractor(self) -> BaseFeaturesExtractor:
        """Make the features extractor of the vectors; called by SB3's constructor."""
        box = self.observation_space["obs"]  # type: ignore[index]
        return make_extractor(self.features_extractor_class, self.features_extractor_kwargs, box)

    def _build(self, lr_schedule: Schedule) -> None:
        """Create the networks and the optimizer; called by SB3's constructor."""
        if self.sizes.has_padding:
            self.action_dist = MaskedGaussianDistribution(self.sizes.action_dim)
            for name in ("obs_mask", "action_mask"):
                self.register_buffer(name, th.from_numpy(getattr(self.sizes, name)), persistent=False)
        arch: dict[str, list[int]] = self.net_arch  # type: ignore[assignment]
        embedding = self.task_embedding
        self.task_vectors = None if embedding is None else TaskVectors(self.n_tasks, embedding)
        input_dim = self.features_dim + (0 if self.task_vectors is None else self.task_vectors.dim)
        own_layers = self.head_arch
        if self.share == "progressive":  # columns have all layers but the outputs
            of_columns = {key: [*arch[key], *own_layers[key]] for key in ("pi", "vf")}
            extractor: nn.Module = ProgressiveMlpExtractor(input_dim, of_columns, self.activation_fn, self.n_tasks)
            own_layers = {"pi": [], "vf": []}
        else:
            extractor = SharedMlpExtractor(input_dim, arch, self.activation_fn, self.layer_norm)
        self.mlp_extractor = extractor  # type: ignore[assignment]
        action_dim = self.action_space.shape[0]  # type: ignore[index]
        state_dependent = self.log_std_mode == "state_dependent"
        pi_sizes = [
            self.mlp_extractor.latent_dim_pi,
            *own_layers["pi"],
            action_dim * (1 + state_dependent),
        ]
        vf_sizes = [self.mlp_extractor.latent_dim_vf, *own_layers["vf"], 1]
        n_heads = 1 if self.share == "all" else self.n_tasks
        self.action_net = TaskHeads(n_heads, pi_sizes, self.activation_fn, self.layer_norm is True)
        value_net = TaskHeads(n_heads, vf_sizes, self.activation_fn, bool(self.layer_norm))
        self.value_net = value_net  # type: ignore[assignment]  # SB3 has a Linear there
        self.value_statistics = None if self.value_norm is None else ValueStatistics(self.n_tasks)
        if not state_dependent:  # SB3 and sb3-contrib read `log_std` if the attribute exists
            shape = (self.n_tasks, action_dim) if self.log_std_mode == "per_task" else (action_dim,)
            self.log_std = nn.Parameter(th.full(shape, float(self.log_std_init)))
        if self.ortho_init:
            with threads_for_arrays():  # QR decompositions round differently for other numbers of threads
                extractors = dict.fromkeys((self.pi_features_extractor, self.vf_features_extractor))
                for part in (*extractors, self.mlp_extractor):
                    for module in part.modules():
                        self.init_weights(module, gain=np.sqrt(2))
                self.action_net.init_orthogonal(math.sqrt(2), output_gain=0.01)
                value_net.init_orthogonal(math.sqrt(2), output_gain=1.0)
        if self.shared_policy is not None:  # last, so that the others begin as without it
            self._build_shared_policy(pi_sizes, self.shared_policy)
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def _build_shared_policy(self, sizes: list[int], power: float) -> None:
        """Create the head and the log-std of the shared policy.

        :param sizes: of a task's head
        """
        self.shared_head = TaskHeads(1, sizes, self.activation_fn, self.layer_norm is True)
        self.shared_log_std = nn.Parameter(th.full(sizes[-1:], float(self.log_std_init)))
        self.register_buffer("shared_power", th.tensor([float(power)]))  # for who reads the weights alone
        if self.ortho_init:
            with threads_for_arrays():
                self.shared_head.init_orthogonal(math.sqrt(2), output_gain=0.01)
        self.shared_dist = copy.copy(self.action_dist)
        """The shared policy's distribution for the rows of the last one of the tasks' policies; see `action_dist`."""

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move the policy, as in torch; another device than the CPU gives a warning."""
        advise_cpu(kwargs.get("device", args[0] if args else None))
        return super().to(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load weights and statistics, as torch.

        :raises ValueError: also on weights whose shared policy has another power in those of the tasks, or with
            ``strict`` if only one side has a shared policy; nothing is changed then
        """
        check_same_shared_policy(self.shared_policy, state_dict, strict=strict)
        return super().load_state_dict(state_dict, strict, assign)

    def load_from_vector(self, vector: np.ndarray) -> None:
        """Load parameters, as SB3, but keep the memory of each: its alignment determines how products are rounded."""
        super().load_from_vector(vector)
        for parameter in self.parameters():
            parameter.data = parameter.data.clone()

    @property
    def task_space(self) -> TaskSpace | None:
        """How tasks differ in size and bounds of actions; None if they do not."""
        assert isinstance(self.observation_space, spaces.Dict)
        task = self.observation_space["task"]
        return task if isinstance(task, TaskSpace) else None

    def set_frozen(self, names: Collection[str]) -> None:
        """Train all parameters except those named, which keep their values.

        :param names: names of ``named_parameters``
        """
        for name, parameter in self.named_parameters():
            parameter.requires_grad_(name not in names)
            if name in names:
                parameter.grad = None

    def train(self, mode: bool = True) -> Self:
        """Set the mode, as in torch; a features extractor that does not learn evaluates, so that no average moves."""
        super().train(mode)
        for extractor in (self.pi_features_extractor, self.vf_features_extractor):
            parameters = list(extractor.parameters())
            if parameters and not any(parameter.requires_grad for parameter in parameters):
                extractor.eval()
        return self

    def set_training_mode(self, mode: bool) -> None:
        """Set the mode, as SB3.

        :raises ValueError: if an algorithm begins to train a policy with ``value_norm`` whose statistics it would leave
            as they are, with a shared policy that it would not train, or several progressive columns at once
        """
        columns: Any = self.mlp_extractor
        if mode and self.share == "progressive" and not columns.learns_in_turn:
            raise ValueError(
                '`share="progressive"` trains one task after the other: use A2CMultiTask, PPOMultiTask or '
                "TRPOMultiTask with task_schedule=TaskSequence(), or another `share`"
            )
        if mode and self.value_statistics is not None and not self.value_statistics.are_updated:
            raise ValueError(
                f"`value_norm={self.value_norm!r}` is for A2CMultiTask and PPOMultiTask, which update its statistics "
                "and learn normalised values: train with one of these, or with value_norm=None"
            )
        if mode and self.shared_policy is not None and not self.shared_policy_learns:
            raise ValueError(
                f"`shared_policy={self.shared_policy!r}` is for A2CMultiTask and PPOMultiTask with `distral`, which "
                "train it: train with one of these, or with shared_policy=None"
            )
        super().set_training_mode(mode)

    def update_value_statistics(self, returns: np.ndarray, tasks: np.ndarray) -> None:
        """Take the returns of a rollout into the statistics of ``value_norm``; values stay as they are.

        :param returns: of the rows that are learned from, (n_rows,)
        :param tasks: of each row, (n_rows,) whole numbers
        """
        assert self.value_statistics is not None
        output: Any = self.value_net.layers[-1]  # type: ignore[index]
        self.value_statistics.update(returns, tasks, output)

    def split_observation(self, obs: PyTorchObs) -> tuple[th.Tensor, TaskRows, th.Tensor]:
        """Return vectors (n_rows, obs_dim), the grouping of the rows by head, and the task of each row (n_rows,)."""
        assert isinstance(obs, dict), "observations are {'obs': ..., 'task': ...}"
        task = obs["task"].long().flatten()
        vectors = obs["obs"].float()
        if self.sizes.has_padding:
            vectors = th.where(self.obs_mask[task], vectors, 0.0)  # type: ignore[index]
        rows = TaskRows.of_one_head(task) if self.share == "all" else TaskRows.of(task, self.n_tasks)
        return vectors, rows, task

    def _trunk_input(self, extractor: nn.Module, vectors: th.Tensor, task: th.Tensor) -> th.Tensor:
        """Return the features of the vectors, and the tasks' vectors beside them if there are some."""
        features: th.Tensor = vectors if self.features_extractor_class is PLAIN else extractor(vectors)
        return features if self.task_vectors is None else th.cat([features, self.task_vectors(task)], dim=1)

    def _latents(self, vectors: th.Tensor, task: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Return what the trunk gives the actor's and the critic's heads."""
        of_actor = self._trunk_input(self.pi_features_extractor, vectors, task)
        if self.share_features_extractor:
            return self.mlp_extractor(of_actor, task)  # type: ignore[no-any-return]
        of_critic = self._trunk_input(self.vf_features_extractor, vectors, task)
        return self.mlp_extractor.forward_actor(of_actor, task), self.mlp_extractor.forward_critic(of_critic, task)  # type: ignore[call-arg]

    def _values(self, latent_vf: th.Tensor, rows: TaskRows, task: th.Tensor) -> th.Tensor:
        """Return values in units of the rewards, (n_rows, 1)."""
        values: th.Tensor = self.value_net(latent_vf, rows)
        return values if self.value_statistics is None else self.value_statistics.denormalize(values, task)

    def _distribution(self, latent_pi: th.Tensor, rows: TaskRows, task: th.Tensor) -> Distribution:
        mean = self.action_net(latent_pi, rows)
        if self.shared_policy is not None:
            mean, log_std = self._with_shared_policy(mean, latent_pi, task)
        elif self.log_std_mode == "per_task":
            log_std = self.log_std[task]
        elif self.log_std_mode == "shared":
            log_std = self.log_std
        else:
            mean, raw = mean.chunk(2, dim=1)
            log_std = self._bounded_log_std(raw)
        return self._gaussian(self.action_dist, mean, log_std, task)

    def _gaussian(
        self, distribution: Distribution, mean: th.Tensor, log_std: th.Tensor, task: th.Tensor
    ) -> Distribution:
        """Set a distribution to the Gaussians of rows of these tasks."""
        assert isinstance(distribution, DiagGaussianDistribution)
        if isinstance(distribution, MaskedGaussianDistribution):
            distribution.of_rows(self.action_mask[task])  # type: ignore[index]
        try:
            return distribution.proba_distribution(mean, log_std)
        except ValueError as e:  # torch raises on numbers that are not finite
            bad = ~(th.isfinite(mean) & th.isfinite(log_std)).all(dim=1)
            heads = ", ".join(map(str, sorted(set(task[bad].tolist()))))
            raise ValueError(
                f"The actions of task {heads} (tasks count from 0) are not finite: weights that have "
                "diverged, or NaN or infinite observations."
            ) from e

    def _with_shared_policy(
        self, own_mean: th.Tensor, latent_pi: th.Tensor, task: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor]:
        """Return means and log-stds of the tasks' policies, (n_rows, action_dim); set ``shared_dist`` of the same rows.

        :param own_mean: what the tasks' own heads give, (n_rows, action_dim)
        """
        shared_mean: th.Tensor = self.shared_head(latent_pi, TaskRows.of_one_head(task))
        self._gaussian(self.shared_dist, shared_mean, self.shared_log_std, task)
        if not self.shared_policy:
            return own_mean, self.log_std[task]
        log_std, share = product_of_log_stds(self.shared_log_std, self.log_std, self.shared_policy)
        return own_mean + share[task] * (shared_mean - own_mean), log_std[task]

    @property
    def task_log_std(self) -> th.Tensor:
        """Log-stds of the tasks' policies, (n_tasks, action_dim), or (action_dim,) for all; none may be an output."""
        if not self.shared_policy:
            return self.log_std
        return product_of_log_stds(self.shared_log_std, self.log_std, self.shared_policy)[0]

    def _bounded_log_std(self, raw: th.Tensor) -> th.Tensor:
        """Squash a log-std into ``log_std_bounds``; 0 is mapped to ``log_std_init``."""
        low, high = self.log_std_bounds
        start = (self.log_std_init - low) / (high - low)
        return low + (high - low) * th.sigmoid(raw + math.log(start / (1 - start)))

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """Return actions as SB3 does, for one observation or a batch of any tasks.

        Where tasks differ in size, one observation may have its task's own size or be padded, and its action has the
        task's own size. A batch has padded observations and actions, ``obs_dim`` and ``action_dim`` of the widest task;
        its observations may have the tasks' own size if that is the same for all rows. Actions are clipped to the
        bounds of their own task.

        :param observation: ``{"obs": (obs_dim,) or (n_rows, obs_dim), "task": a whole number, or one for each row}``
        :raises ValueError: on other keys or shapes, or an unknown task id
        """
        if isinstance(observation, tuple):
            return super().predict(observation, state, episode_start, deterministic)  # raises, with an explanation
        observation = checked_observation(observation, self.n_tasks)
        task = observation["task"]
        observation["obs"] = padded_observation(observation["obs"], task, self.sizes)
        actions, state = super().predict(observation, state, episode_start, deterministic)
        return own_actions(actions, task, self.sizes), state

    # The five methods that SB3 calls. Each splits the observation once.

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> tuple[th.Tensor, th.Tensor, th.Tensor]:
        """Return actions (n_rows, action_dim), values (n_rows, 1) and log-probabilities (n_rows,)."""
        vectors, rows, task = self.split_observation(obs)
        latent_pi, latent_vf = self._latents(vectors, task)
        values = self._values(latent_vf, rows, task)
        distribution = self._distribution(latent_pi, rows, task)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, values, distribution.log_prob(actions)

    def evaluate_actions(self, obs: PyTorchObs, actions: th.Tensor) -> tuple[th.Tensor, th.Tensor, th.Tensor | None]:
        """Return values (n_rows, 1), log-probabilities (n_rows,) and entropies (n_rows,) of given actions."""
        vectors, rows, task = self.split_observation(obs)
        latent_pi, latent_vf = self._latents(vectors, task)
        distribution = self._distribution(latent_pi, rows, task)
        return self._values(latent_vf, rows, task), distribution.log_prob(actions), distribution.entropy()

    def get_distribution(self, obs: PyTorchObs) -> Distribution:
        """Return the action distribution; one object that every call updates, as in SB3."""
        vectors, rows, task = self.split_observation(obs)
        features = self._trunk_input(self.pi_features_extractor, vectors, task)
        return self._distribution(self.mlp_extractor.forward_actor(features, task), rows, task)  # type: ignore[call-arg]

    @property
    def actor_features_dim(self) -> int:
        """Units of the actor's last hidden layer, in the trunk or in the heads; 0 without a hidden layer."""
        arch: dict[str, list[int]] = self.net_arch  # type: ignore[assignment]
        return next(iter([*self.head_arch["pi"][-1:], *arch["pi"][-1:]]), 0)

    def actor_features(self, obs: PyTorchObs) -> th.Tensor:
        """Return the activations of the actor's last hidden layer, (n_rows, actor_features_dim)."""
        vectors, rows, task = self.split_observation(obs)
        latent_pi, _ = self._latents(vectors, task)
        return self.features_of_latent(latent_pi, rows)

    def features_of_latent(self, latent_pi: th.Tensor, rows: TaskRows) -> th.Tensor:
        """Return :meth:`actor_features` from what the actor's heads take, (n_rows, dim)."""
        heads: Any = self.action_net
        hidden: th.Tensor = heads.features(latent_pi, rows)
        return hidden[:, : self.actor_features_dim] if self.share == "progressive" else hidden  # an adapter's follow

    def predict_values(self, obs: PyTorchObs) -> th.Tensor:
        """Return values, (n_rows, 1)."""
        vectors, rows, task = self.split_observation(obs)
        features = self._trunk_input(self.vf_features_extractor, vectors, task)
        return self._values(self.mlp_extractor.forward_critic(features, task), rows, task)  # type: ignore[call-arg]
