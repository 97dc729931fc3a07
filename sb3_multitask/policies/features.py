"""Features extractors: a module of one's own between the observations' vectors and the trunk."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor, CombinedExtractor, FlattenExtractor
from torch import nn

PLAIN = FlattenExtractor
"""The features extractor of a policy whose trunk takes the vectors as they are."""
_ACCEPTED = (
    "Give a class as stable_baselines3.common.torch_layers.BaseFeaturesExtractor, which is made with the Box of `obs` "
    "and maps (n_rows, obs_dim) to (n_rows, features_dim); or leave it out and use `net_arch`."
)


def extractor_class(given: object, kwargs: object) -> type[BaseFeaturesExtractor]:
    """Return the class that makes the features extractor; SB3's defaults and ``None`` stand for none.

    :raises ValueError: if it is no class of modules, or arguments are given for none; names both and what is accepted
    """
    if kwargs is not None and not isinstance(kwargs, Mapping):
        raise ValueError(f"`features_extractor_kwargs` must be a dict of the extractor's arguments (got {kwargs!r})")
    if given in (None, FlattenExtractor, CombinedExtractor):
        if kwargs:
            raise ValueError(
                f"`features_extractor_kwargs={kwargs!r}` is for a features extractor of one's own, and there is none. "
                f"`features_extractor_class`: {_ACCEPTED}"
            )
        return PLAIN
    if not (isinstance(given, type) and issubclass(given, nn.Module)):
        hint = " A file cannot name one: train in Python." if isinstance(given, str) else ""
        raise ValueError(f"`features_extractor_class` must be a class (got {given!r}).{hint} {_ACCEPTED}")
    return given  # type: ignore[return-value]  # what its modules have is checked when one is made


def make_extractor(
    extractor: type[BaseFeaturesExtractor], kwargs: Mapping[str, Any], box: spaces.Box
) -> BaseFeaturesExtractor:
    """Make a features extractor and try it.

    :param extractor: its class
    :param kwargs: its further arguments
    :param box: the space of the vectors
    :raises ValueError: if it cannot be made, does not take vectors, or gives something else than its ``features_dim``
    """
    if extractor is PLAIN:
        return PLAIN(box)
    name = f"`features_extractor_class={extractor.__name__}`"
    try:
        made = extractor(box, **kwargs)
    except Exception as e:  # a class of one's own may raise any
        raise ValueError(f"{name} with {dict(kwargs)} cannot be made for {box}: {_reason(e)}. {_ACCEPTED}") from e
    if not isinstance(getattr(made, "features_dim", None), int):
        raise ValueError(f"{name} has no `features_dim`, the size of its features. {_ACCEPTED}")
    wanted = (2, made.features_dim)
    try:
        with th.no_grad():
            given = made.eval()(th.zeros(2, *box.shape))  # eval, so that running averages stay
    except Exception as e:
        raise ValueError(
            f"{name} does not take observations of shape (n_rows, {box.shape[0]}): {_reason(e)}. {_ACCEPTED}"
        ) from e
    if not isinstance(given, th.Tensor) or tuple(given.shape) != wanted:
        shape = tuple(given.shape) if isinstance(given, th.Tensor) else type(given).__name__
        raise ValueError(f"{name} gives {shape} for 2 rows, and must give {wanted}. {_ACCEPTED}")
    made.train()
    return made


def _reason(error: Exception) -> str:
    """Return the first line of an error's message, or its class."""
    return (str(error).splitlines() or [type(error).__name__])[0].rstrip(".")
