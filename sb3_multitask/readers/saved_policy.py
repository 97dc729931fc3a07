"""Check that the weights and spaces of a policy in an SB3 zip can be an agent's."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any

import numpy as np

from sb3_multitask.envs.task_space import TaskSpace
from sb3_multitask.policies.arguments import LOG_STD_BOUNDS
from sb3_multitask.readers.inert_pickle import UnreadableFileError, read_pickle

_SHARED = re.compile(r"mlp_extractor\.shared_net\.(\d+)\.(weight|bias)")
_TRUNK = re.compile(r"mlp_extractor\.policy_net\.(\d+)\.weight")
_OF_A_TRUNK = re.compile(r"mlp_extractor\.(policy|value)_net\.(\d+)\.(weight|bias)")
_COLUMN = "mlp_extractor.policy_net.columns.0.layers.0.weight"
_HEAD = re.compile(r"action_net\.layers\.(\d+)\.weight")
_OF_AN_MLP = re.compile(
    r"mlp_extractor\.(policy|value)_net\.\d+\.(weight|bias)|(action|value)_net\.(weight|bias)|log_std"
)
_ACTIVATION = re.compile(r"<class 'torch\.nn\.modules\.activation\.(\w+)'>|(?:[\w.]+\.)?(\w+)")
_ACTIVATIONS = {name.lower(): name for name in ("Tanh", "ReLU", "ELU", "LeakyReLU")}
_PLAIN_EXTRACTORS = ("FlattenExtractor", "CombinedExtractor")

_VECTORS = "task_vectors.weight"

Weights = dict[str, np.ndarray]


def has_heads(weights: Mapping[str, np.ndarray]) -> bool:
    """Return whether these are the weights of a policy with a head per task."""
    return any(_HEAD.fullmatch(name) for name in weights)


def n_tasks(weights: Mapping[str, np.ndarray]) -> int:
    """Return the number of tasks of a multi-task policy, by its heads or its tasks' vectors; 1 for any other policy."""
    if _VECTORS in weights:  # all tasks may share a head
        return len(weights[_VECTORS])
    return next((len(array) for name, array in weights.items() if _HEAD.fullmatch(name)), 1)


def without_shared_layers(weights: Weights) -> Weights:
    """Return the same policy with separate layers for actor and critic.

    SB3 before 1.8 could share the first layers of both, as ``shared_net``. Here they are the first layers of each
    network, and the numbers of the layers after them are shifted.
    """
    shared = {name: match for name in weights if (match := _SHARED.fullmatch(name))}
    if not shared:
        return weights
    offset = max(int(match[1]) for match in shared.values()) + 2  # every other layer is an activation
    folded = {}
    for name, array in weights.items():
        if name in shared:
            for net in ("policy", "value"):
                folded[name.replace("shared_net", f"{net}_net")] = array
        elif match := _OF_A_TRUNK.fullmatch(name):
            folded[f"mlp_extractor.{match[1]}_net.{int(match[2]) + offset}.{match[3]}"] = array
        else:
            folded[name] = array
    return folded


def check_parts(weights: Weights, policy_kwargs: Mapping[str, Any]) -> None:
    """Raise unless a policy has the parts of an ``MlpPolicy`` and no others.

    :raises UnreadableFileError: names the other part
    """
    check_extractor(policy_kwargs)
    strange = [] if has_heads(weights) else [name for name in weights if not _OF_AN_MLP.fullmatch(name)]
    if any("features_extractor." in name for name in strange):
        raise UnreadableFileError(
            "its policy is a CnnPolicy, or another with weights in its features extractor "
            f"({strange[0]}); an agent's is an MlpPolicy"
        )
    if strange:
        raise UnreadableFileError(f"its policy has weights that no MlpPolicy has: {', '.join(strange[:5])}")
    has_norms = has_heads(weights) and policy_kwargs.get("layer_norm")
    for name, array in weights.items():
        is_norm = has_norms and array.ndim == 1
        if _OF_A_TRUNK.fullmatch(name) and array.ndim != (2 if name.endswith("weight") else 1) and not is_norm:
            raise UnreadableFileError(
                f"its policy has layers between that are not linear: {name} has the shape {list(array.shape)}"
            )


def check_extractor(policy_kwargs: Mapping[str, Any]) -> None:
    """Raise unless a policy's features are its observations."""
    extractor = str(policy_kwargs.get("features_extractor_class", ""))
    if extractor and not extractor.rstrip("'>").endswith(_PLAIN_EXTRACTORS):
        raise UnreadableFileError(
            f"its policy has the features_extractor_class {extractor}, and an agent has none: train an MlpPolicy"
        )


def dimensions(weights: Weights, is_state_dependent: bool) -> tuple[int, int]:
    """Return the sizes of observation and action, from the first layer and the log-std or the heads' last layer.

    :raises UnreadableFileError: if these are not the weights of a policy with a Gaussian
    """
    heads = {int(match[1]): array for name, array in weights.items() if (match := _HEAD.fullmatch(name))}
    if is_state_dependent:
        output = heads[max(heads)] if heads else None
        if output is None or output.ndim != 3 or output.shape[2] % 2:
            raise UnreadableFileError("its heads do not give means and log-stds")
        return _obs_dim(weights, heads), int(output.shape[2]) // 2
    log_std = weights.get("log_std")
    if log_std is None or log_std.ndim not in (1, 2):
        raise UnreadableFileError("its policy has no log_std, so it is no Gaussian policy for continuous actions")
    return _obs_dim(weights, heads), int(log_std.shape[-1])


def _obs_dim(weights: Weights, heads: Mapping[int, np.ndarray]) -> int:
    """Return the size of an observation, from that of the first layer's input.

    The first layer is the trunk's, or the head's without hidden layers (``pi=[]``). Vectors of the tasks may follow the
    observation in its input.
    """
    vectors = weights.get(_VECTORS, np.empty((1, 0)))
    if vectors.ndim != 2:
        raise UnreadableFileError(
            f"its policy's {_VECTORS} has the shape {list(vectors.shape)}, and is no vector per task"
        )
    return _input_dim(weights, heads) - int(vectors.shape[1])


def _input_dim(weights: Weights, heads: Mapping[int, np.ndarray]) -> int:
    layers = sorted(int(match[1]) for name in weights if (match := _TRUNK.fullmatch(name)))
    if _COLUMN in weights:
        first = weights[_COLUMN]
    elif layers:
        first = weights[f"mlp_extractor.policy_net.{layers[0]}.weight"]
    elif heads:
        return int(heads[min(heads)].shape[1])
    elif "action_net.weight" in weights:
        first = weights["action_net.weight"]
    else:
        raise UnreadableFileError("its policy has no layer that gives actions (no action_net)")
    if first.ndim != 2:
        raise UnreadableFileError(f"its policy's first layer has the shape {list(first.shape)}, and is not linear")
    return int(first.shape[1])


def check_spaces(
    data: Mapping[str, Any], weights: Weights, obs_dim: int | None = None, action_dim: int | None = None
) -> None:
    """Raise unless a model's spaces are vectors, of the sizes of its weights if these are given.

    :raises UnreadableFileError: names the space and the accepted one
    """
    wanted = {
        "observation_space": (obs_dim, "an agent takes a vector (Box), which FlattenObservation makes"),
        "action_space": (action_dim, "an agent is a Gaussian policy for continuous actions (Box)"),
    }
    for name, (size, accepted) in wanted.items():
        space = data.get(name)
        if not isinstance(space, dict):
            raise UnreadableFileError(f"it has no {name}")
        kind = _kind_of(space)
        if kind == "Dict" and name == "observation_space" and has_heads(weights):
            continue  # the Dict of a multi-task env: the observation and the task
        if kind != "Box":
            raise UnreadableFileError(f"its {name} is a {kind}, and {accepted}")
        shape = space.get("_shape", space.get("shape"))  # gym before 0.22 wrote `shape`
        if not isinstance(shape, list) or len(shape) != 1:
            raise UnreadableFileError(f"its {name} has the shape {shape!r:.100}, and {accepted}")
        if size is not None and shape != [size]:
            raise UnreadableFileError(f"its {name} has the shape {shape}, its weights are for [{size}]")


def _kind_of(space: Mapping[str, Any]) -> str:
    """Return the name of a space's class: "Box" also for classes of other names that have bounds."""
    match = re.search(r"\.(\w+)'>$", str(space.get(":type:", "")))
    kind = match[1] if match else "space of no known kind"
    others = ("Discrete", "MultiDiscrete", "MultiBinary", "Dict", "Tuple", "Text", "Graph", "Sequence", "OneOf")
    return "Box" if kind not in others and {"low", "high"} <= set(space) else kind


def action_bounds(space: Mapping[str, Any], action_dim: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the lowest and highest actions, (action_dim,), from the texts that SB3 writes with the pickled space."""
    bounds = []
    for name in ("low", "high"):
        try:
            numbers = np.array(str(space[name]).strip("[] ").split(), dtype=np.float32)
        except (KeyError, ValueError) as e:
            raise UnreadableFileError(f"its action_space has no {name}") from e
        if numbers.shape != (action_dim,) or np.isnan(numbers).any():
            raise UnreadableFileError(f"its action_space's {name} is not {action_dim} numbers")
        bounds.append(numbers)
    return bounds[0], bounds[1]


def task_space(space: Mapping[str, Any]) -> TaskSpace | None:
    """Return how the tasks of a saved observation space differ; None if they do not, or there are none.

    SB3 writes the space as a pickle, which is read as inert data, with a text that says whether they do.

    :raises UnreadableFileError: if it says that they differ, but not how
    """
    if f"{TaskSpace.__name__}(" not in str(space.get("spaces")):
        return None
    try:
        saved = read_pickle(base64.b64decode(space[":serialized:"], validate=True))
        task = saved.attribute("spaces")["task"]
        return TaskSpace(task.attribute("obs_dims"), task.attribute("action_bounds"))
    except Exception as e:  # damaged contents may cause any exception
        raise UnreadableFileError(f"its tasks differ in size, but how cannot be read ({e!r:.100})") from e


def log_std_bounds(policy_kwargs: Mapping[str, Any]) -> tuple[float, float, float] | None:
    """Return (low, high, init) of a state-dependent log-std, or None; SB3 writes plain values next to their pickle."""
    if policy_kwargs.get("log_std_mode") != "state_dependent":
        return None
    try:
        low, high = policy_kwargs.get("log_std_bounds", LOG_STD_BOUNDS)
        return float(low), float(high), float(policy_kwargs.get("log_std_init", 0.0))
    except (TypeError, ValueError) as e:
        raise UnreadableFileError(f"its bounds of the log-std are no numbers ({e})") from e


def activation_of(policy_kwargs: Mapping[str, Any], default: str = "Tanh") -> str:
    """Return the name of the activation: SB3 writes the policy's arguments as text next to their pickle.

    :param default: the algorithm's own
    :raises UnreadableFileError: if it is not a class of torch, whose function is known
    """
    given = policy_kwargs.get("activation_fn")
    if given is None:
        return default
    match = _ACTIVATION.fullmatch(str(given))
    if match is None:
        raise UnreadableFileError(f"its activation_fn is {given!r:.100}, and must be a class of torch.nn, such as Tanh")
    name = match[1] or match[2]
    return _ACTIVATIONS.get(name.lower().replace("_", ""), name)
