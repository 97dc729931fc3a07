"""Deterministic policies with their normalisers as ONNX files and torch programs, which run without this package.

Both take raw observations ``obs`` (batch, obs_dim), float64 if the tasks' observations are and else float32, and task
ids ``task`` (batch,) int64. They return ``action`` (batch, action_dim) float32, clipped to the bounds, as
``Agent.predict(..., deterministic=True)`` does. The size of the batch is free. An unknown task id is an error when the
file is run.

Where tasks differ in size, ``obs_dim`` and ``action_dim`` are those of the widest: what stands in the padding of
observations does not matter, and actions have zeros there.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
import json
import logging
import warnings
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch as th
from torch import nn
from torch.nn import functional

from sb3_multitask.agents.agent import Agent, agent_of
from sb3_multitask.agents.files import describe_tasks
from sb3_multitask.policies.heads import TaskLayerNorm
from sb3_multitask.storage.files import replacing

if TYPE_CHECKING:
    from stable_baselines3.common.base_class import BaseAlgorithm

TORCH_METADATA = "sb3_multitask.json"
"""Name of the file of metadata in a torch program's archive."""
_DYNAMIC = {"obs": {0: "batch"}, "task": {0: "batch"}}


def export_onnx(agent: Agent | BaseAlgorithm, path: str | Path) -> None:
    """Write the deterministic policy and its normaliser as an ONNX file, for onnxruntime and other runtimes.

    Inputs are ``obs`` (batch, obs_dim), raw, of the agent's ``obs_dtype``, and ``task`` (batch,) int64; the output is
    ``action`` (batch, action_dim) float32. The file's metadata name the tasks, the sizes and this package's version:
    see ``metadata_of``.

    :param agent: an agent, or a model, whose policy is then exported
    :param path: ending in ``.onnx``
    :raises ImportError: without the extra ``export``
    :raises ValueError: on a path with another ending, or a model without tasks
    :raises SaveError: if the file cannot be written
    """
    path = _checked(path, ".onnx")
    missing = [name for name in ("onnx", "onnxscript") if importlib.util.find_spec(name) is None]
    if missing:
        raise ImportError(f'Exporting to ONNX needs {" and ".join(missing)}: pip install "sb3-multitask[export]"')
    agent = agent if isinstance(agent, Agent) else agent_of(agent)
    with _quiet():
        program: Any = th.onnx.export(
            _traced(agent),
            dynamo=True,
            verbose=False,
            input_names=["obs", "task"],
            output_names=["action"],
            dynamic_shapes=_DYNAMIC,
        )
        program.model.metadata_props.update(metadata_of(agent))
        with replacing(path) as temporary:
            program.save(temporary, external_data=False)


def export_torch(agent: Agent | BaseAlgorithm, path: str | Path) -> None:
    """Write the deterministic policy and its normaliser as a ``torch.export`` program, which needs only torch.

    ``torch.export.load(path).module()(obs, task)`` returns the actions; inputs are as in :func:`export_onnx`. The
    metadata are the archive's extra file ``TORCH_METADATA``, as JSON.

    :param agent: an agent, or a model, whose policy is then exported
    :param path: ending in ``.pt2``
    :raises ValueError: on a path with another ending, or a model without tasks
    :raises SaveError: if the file cannot be written
    """
    path = _checked(path, ".pt2")
    agent = agent if isinstance(agent, Agent) else agent_of(agent)
    with _quiet(), replacing(path) as temporary:
        th.export.save(_traced(agent), temporary, extra_files={TORCH_METADATA: json.dumps(metadata_of(agent))})


def metadata_of(agent: Agent) -> dict[str, str]:
    """Return the metadata of an exported file: texts, lists as JSON.

    ``task_names`` are in the order of the task ids; ``tasks`` are their environments, or ``null`` if those are not
    known; ``obs_dims`` and ``action_dims`` are each task's own sizes. The others are ``obs_dim``, ``obs_dtype``,
    ``action_dim``, the agent's ``digest``, and ``sb3_multitask_version``.
    """
    return {
        "format": "sb3-multitask policy",
        "sb3_multitask_version": importlib.metadata.version("sb3-multitask"),
        "task_names": json.dumps(agent.task_names),
        "tasks": json.dumps(describe_tasks(agent.tasks)),
        "obs_dim": str(agent.obs_dim),
        "obs_dtype": agent.obs_dtype,
        "action_dim": str(agent.action_dim),
        "obs_dims": json.dumps(agent.sizes.obs_dims.tolist()),
        "action_dims": json.dumps(agent.sizes.action_dims.tolist()),
        "digest": agent.digest,
    }


class _DeterministicPolicy(nn.Module):
    """An agent's normaliser, trunk and heads, written with operations that every runtime has.

    A head that all tasks share is applied once. Else every head is applied to every row, and the output of the row's
    task is selected. ONNX cannot group rows as ``policies.heads.TaskRows`` does, and weights gathered by row would be
    larger than the outputs of all heads.
    """

    def __init__(self, agent: Agent) -> None:
        super().__init__()
        trunk, heads = agent.layers
        self.n_tasks, self.action_dim = agent.n_tasks, agent.action_dim
        self.activation = getattr(nn, agent.activation)()
        self.n_heads = len(heads[0].weight)
        self.columns = agent.columns
        self.trunk = nn.ModuleList(_Layer(*layer) for layer in trunk)
        self.heads = nn.ModuleList(_Layer(layer.weight, *_by_head(layer[1:])) for layer in heads)
        vectors = agent.task_vectors
        self.task_vectors = None if vectors is None else nn.Buffer(th.from_numpy(vectors.astype(np.float32)))
        statistics = agent.statistics
        self.clip = None if statistics is None else statistics.clip
        if statistics is not None:  # float64, as in the normaliser, so that large observations keep their precision
            self.mean = nn.Buffer(th.from_numpy(statistics.mean.astype(np.float64)))
            self.std = nn.Buffer(th.from_numpy(np.sqrt(statistics.var.astype(np.float64) + statistics.epsilon)))
        sizes = agent.sizes
        differ, self.has_padding = sizes.has_padding or sizes.bounds_differ, sizes.has_padding
        bounds = (sizes.action_low, sizes.action_high) if differ else (agent.action_low, agent.action_high)
        shape = (*([agent.n_tasks] if differ else []), agent.action_dim)
        self.low, self.high = (
            nn.Buffer(th.from_numpy(np.broadcast_to(bound, shape).astype(np.float32))) for bound in bounds
        )
        if self.has_padding:
            self.obs_mask = nn.Buffer(th.from_numpy(sizes.obs_mask))

    def forward(self, obs: th.Tensor, task: th.Tensor) -> th.Tensor:
        """(batch, obs_dim) and (batch,) -> (batch, action_dim)."""
        task = th.where(task < 0, self.n_tasks, task)  # indices below 0 would count from the end
        if self.clip is not None:
            obs = ((obs.double() - self.mean[task]) / self.std[task]).clamp(-self.clip, self.clip).float()
        hidden = obs.float()
        if self.has_padding:
            hidden = th.where(self.obs_mask[task], hidden, 0.0)
        if self.task_vectors is not None:
            hidden = th.cat([hidden, self.task_vectors[task]], dim=1)
        for layer in self.trunk:
            hidden = self.activation(layer(hidden))
        if self.columns is None:
            hidden = hidden.expand(self.n_heads, -1, -1)
        else:  # every column is applied to every row
            hidden = th.stack([self.columns.latent_of(hidden, column) for column in range(self.n_tasks)])
        *own, output = self.heads
        for layer in own:
            hidden = self.activation(layer(hidden))
        outputs = output(hidden).transpose(0, 1)[:, :, : self.action_dim]  # a log-std may follow the mean
        if self.n_heads == 1 < self.n_tasks:
            mean = outputs[:, 0]
        else:
            mine = task.view(-1, 1, 1).expand(-1, 1, self.action_dim)
            mean = outputs.gather(1, mine).squeeze(1)
        low, high = (self.low, self.high) if self.low.ndim == 1 else (self.low[task], self.high[task])
        return th.minimum(th.maximum(mean, low), high)  # which are 0 in the padding


def _by_head(parts: Iterable[np.ndarray | None]) -> Iterator[np.ndarray | None]:
    """(n_heads, out) -> (n_heads, 1, out), for rows of every head."""
    return (None if part is None else part[:, None] for part in parts)


class _Layer(nn.Module):
    """``x @ weight + bias``, for weights (in, out), or (n_heads, in, out) with a bias (n_heads, 1, out).

    With ``scale`` and ``shift``, like the bias, a layer norm follows.
    """

    weight: th.Tensor
    bias: th.Tensor
    scale: th.Tensor | None
    shift: th.Tensor

    def __init__(self, weight: np.ndarray, *others: np.ndarray | None) -> None:
        super().__init__()
        for name, array in zip(("weight", "bias", "scale", "shift"), (weight, *others), strict=True):
            self.register_buffer(name, None if array is None else th.from_numpy(array.astype(np.float32)))

    def forward(self, x: th.Tensor) -> th.Tensor:
        x = x @ self.weight + self.bias
        if self.scale is None:
            return x
        return functional.layer_norm(x, x.shape[-1:], eps=TaskLayerNorm.eps) * self.scale + self.shift


def _traced(agent: Agent) -> th.export.ExportedProgram:
    """Return the policy as a graph, for any size of batch."""
    example = (
        th.zeros(2, agent.obs_dim, dtype=getattr(th, agent.obs_dtype)),
        th.zeros(2, dtype=th.int64),
    )  # torch takes a size of 1 for a constant
    batch = th.export.Dim("batch")
    shapes = {name: {0: batch} for name in _DYNAMIC}
    return th.export.export(_DeterministicPolicy(agent).eval(), example, dynamic_shapes=shapes)


def _checked(path: str | Path, ending: str) -> Path:
    path = Path(path)
    if path.suffix != ending:
        raise ValueError(f"`path` must end in {ending} (got {str(path)!r})")
    return path


@contextmanager
def _quiet() -> Iterator[None]:
    """Suppress warnings and logs of torch's exporters about themselves, on which no user can act."""
    logger = logging.getLogger("torch")
    level = logger.level
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logger.setLevel(logging.ERROR)
        try:
            yield
        finally:
            logger.setLevel(level)
