"""The layout of flat observations of spaces that are not flat: dictionaries, goals, categories, matrices.

Parts follow each other as in ``gymnasium.spaces.flatten``: the keys of a ``Dict`` in the space's own order, which
Gymnasium sorts unless the space is made from an ``OrderedDict``, from pairs or with ``sort_keys=False``; the elements
of a ``Tuple`` in theirs; arrays row by row. So a policy of observations from ``FlattenObservation`` fits. Unlike there,
the type is always a float (one-hots need no float64), and an observation that does not fit its space is refused.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from itertools import accumulate
from typing import Any, TypeAlias

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.preprocessing import is_image_space

from sb3_multitask.envs.observations import observation_dtype

Path: TypeAlias = tuple[Any, ...]
"""The keys of dictionaries and the places in tuples that lead to a part of an observation."""


class MisfitError(ValueError):
    """An observation does not fit its space.

    :param path: the part that does not
    :param expected: what it must be
    :param got: what it is
    """

    def __init__(self, path: Path, expected: object, got: str) -> None:
        super().__init__(f"{_name(path)} must be {expected} (got {got})")


class _Numbers:
    """A part that is written as it is, row by row: a ``Box``.

    :param path: where it is in an observation
    :param start: its place among the flat numbers
    """

    note = ""

    def __init__(self, path: Path, space: spaces.Space[Any], start: int) -> None:
        self.path, self.space = path, space
        self.shape: tuple[int, ...] = tuple(space.shape or ())
        self.place = slice(start, start + self.size)

    @property
    def size(self) -> int:
        """How many numbers it is written as."""
        return int(np.prod(self.shape))

    @property
    def dtypes(self) -> tuple[Any, ...]:
        """The types whose digits are to be kept."""
        return (self.space.dtype,)

    @property
    def bounds(self) -> tuple[Any, Any]:
        """Lowest and highest numbers, (size,) or ()."""
        space: Any = self.space
        return space.low.reshape(-1), space.high.reshape(-1)

    def write(self, value: Any, flat: np.ndarray) -> None:
        """Write a part of an observation to its place among zeros.

        :raises ValueError: if it does not fit its space
        """
        flat[self.place] = self._checked(value, "fiub").reshape(-1)

    def _checked(self, value: Any, kinds: str) -> np.ndarray:
        try:
            array = np.asarray(value)
        except ValueError:  # a ragged list
            raise MisfitError(self.path, self.space, f"{value!r:.100}") from None
        if array.shape != self.shape or array.dtype.kind not in kinds:
            raise MisfitError(self.path, self.space, f"{array.dtype} of shape {array.shape}: {value!r:.100}")
        return array


class _Bits(_Numbers):
    """A part of zeros and ones: a ``MultiBinary``."""

    dtypes = ()
    bounds = (0, 1)

    def write(self, value: Any, flat: np.ndarray) -> None:
        bits = self._checked(value, "fiub")
        if not ((bits == 0) | (bits == 1)).all():
            raise MisfitError(self.path, self.space, f"{value!r:.100}")
        flat[self.place] = bits.reshape(-1)


class _OneHots(_Numbers):
    """A part of categories, each of which is written as zeros and a one: a ``Discrete`` or ``MultiDiscrete``."""

    note = " one-hot"
    dtypes = ()
    bounds = (0, 1)

    def __init__(self, path: Path, space: Any, start: int) -> None:
        counts = space.n if isinstance(space, spaces.Discrete) else space.nvec
        self._counts: list[int] = np.asarray(counts).reshape(-1).tolist()
        self._first: list[int] = np.asarray(space.start).reshape(-1).tolist()
        super().__init__(path, space, start)
        self._places = list(accumulate(self._counts[:-1], initial=start))

    @property
    def size(self) -> int:
        return sum(self._counts)

    def write(self, value: Any, flat: np.ndarray) -> None:
        chosen = self._checked(value, "iub").reshape(-1).tolist()
        for choice, first, count, place in zip(chosen, self._first, self._counts, self._places, strict=True):
            if not first <= choice < first + count:
                raise MisfitError(self.path, self.space, f"{value!r:.100}")
            flat[place + choice - first] = 1


_PARTS: dict[type[spaces.Space[Any]], type[_Numbers]] = {
    spaces.Box: _Numbers,
    spaces.MultiBinary: _Bits,
    spaces.Discrete: _OneHots,
    spaces.MultiDiscrete: _OneHots,
}


def _name(path: Path) -> str:
    """Return how a part is called: ``arm.joints``, ``observation`` for all of it."""
    return ".".join(map(str, path)) or "observation"


def _children(space: spaces.Space[Any]) -> Iterable[tuple[Any, spaces.Space[Any]]] | None:
    """Return the keys and spaces of a dictionary or a tuple; None for any other space."""
    if isinstance(space, spaces.Dict):
        return space.spaces.items()
    return enumerate(space.spaces) if isinstance(space, spaces.Tuple) else None


def _leaves(space: spaces.Space[Any], path: Path = ()) -> Iterator[tuple[Path, spaces.Space[Any]]]:
    """Yield the parts of a space that are neither dictionaries nor tuples, in order."""
    children = _children(space)
    if children is None:
        yield path, space
        return
    for key, child in children:
        yield from _leaves(child, (*path, key))


def _values(space: spaces.Space[Any], value: Any, path: Path = ()) -> Iterator[Any]:
    """Yield the parts of an observation that are neither dictionaries nor tuples, in the order of :func:`_leaves`.

    :raises ValueError: if keys are missing or left over, or there is no dictionary or tuple where there should be
    """
    if isinstance(space, spaces.Dict):
        keys = space.spaces.keys()
        if not isinstance(value, Mapping):
            raise MisfitError(path, f"a dictionary with the keys {_listed(keys)}", f"{value!r:.100}")
        if value.keys() != keys:
            missing, unknown = (_listed(sorted(some, key=str)) for some in (keys - value.keys(), value.keys() - keys))
            what = [f"{which}: {names}" for which, names in (("missing", missing), ("unknown", unknown)) if names]
            raise MisfitError(path, f"a dictionary with the keys {_listed(keys)}", "; ".join(what))
        for key, child in space.spaces.items():
            yield from _values(child, value[key], (*path, key))
    elif isinstance(space, spaces.Tuple):
        if not isinstance(value, tuple | list) or len(value) != len(space.spaces):
            raise MisfitError(path, f"a tuple of {len(space.spaces)}", f"{value!r:.100}")
        for i, child in enumerate(space.spaces):
            yield from _values(child, value[i], (*path, i))
    else:
        yield value


def _listed(keys: Iterable[Any]) -> str:
    return ", ".join(map(repr, keys))


def is_flat(space: spaces.Space[Any]) -> bool:
    """Return whether a space is a ``Box`` of one axis, which needs no flattening."""
    return isinstance(space, spaces.Box) and len(space.shape) == 1


def why_not_flattened(space: spaces.Space[Any]) -> str | None:
    """Return why this package does not flatten a space, and what to do instead; None if it does, or it is flat."""
    if isinstance(space, spaces.Dict) and space.spaces.keys() == {"obs", "task"}:
        return (
            "Its keys obs and task are those of TaskEnv, which adds a task: a Task takes the environment without "
            "TaskEnv. (If the keys are your own, rename one.)"
        )
    n_parts = 0
    for path, part in _leaves(space):
        n_parts += 1
        if is_image_space(part):
            return (
                f"Its part {_name(path)!r} is an image, {part}, and the policies here take vectors: wrap the "
                "environment with an encoder of your own that gives a vector (gymnasium.wrappers."
                "TransformObservation), or take SB3's own algorithm with a CnnPolicy, in a dictionary a "
                'MultiInputPolicy: stable_baselines3.PPO("CnnPolicy", env).'
            )
        if not isinstance(part, tuple(_PARTS)):
            return (
                f"Its part {_name(path)!r} is a {type(part).__name__} space, which is no fixed number of numbers: a "
                "wrapper (gymnasium.wrappers.TransformObservation) can make a Box of it. Flattened are Dict, Tuple, "
                "Box, Discrete, MultiDiscrete and MultiBinary."
            )
    return None if n_parts else "It is empty: there is nothing to observe."


class FlatLayout:
    """The parts of a space, one after the other.

    :param space: a space for which :func:`why_not_flattened` has no reason
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        self.space = space
        self.parts: list[_Numbers] = []
        self.size = 0
        for path, leaf in _leaves(space):
            kind = next(kind for base, kind in _PARTS.items() if isinstance(leaf, base))
            self.parts.append(kind(path, leaf, self.size))
            self.size = self.parts[-1].place.stop
        self.dtype = observation_dtype(*(dtype for part in self.parts for dtype in part.dtypes))

    def __str__(self) -> str:
        parts = (f"{_name(part.path)} [{part.place.start}:{part.place.stop}]{part.note}" for part in self.parts)
        return ", ".join(parts)

    @property
    def places(self) -> dict[str, slice]:
        """The names of the parts with their places, in order."""
        return {_name(part.path): part.place for part in self.parts}

    def box(self) -> spaces.Box:
        """Return the flat space, with the bounds of the parts."""
        low, high = np.empty((2, self.size), self.dtype)
        for part in self.parts:
            low[part.place], high[part.place] = part.bounds
        return spaces.Box(low, high, dtype=self.dtype.type)

    def flatten(self, observation: Any) -> np.ndarray:
        """Return an observation as a new array, (size,).

        :raises MisfitError: if it does not fit the space
        """
        flat = np.zeros(self.size, self.dtype)
        with np.errstate(over="ignore"):  # what is too large for the type becomes infinite, a fault of the step
            for part, value in zip(self.parts, _values(self.space, observation), strict=True):
                part.write(value, flat)
        return flat
