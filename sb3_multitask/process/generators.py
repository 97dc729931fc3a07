"""The states of random number generators, as plain values."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th

_BIT_GENERATORS: dict[str, Any] = {
    "PCG64": np.random.PCG64,  # Gymnasium's
    "PCG64DXSM": np.random.PCG64DXSM,
    "MT19937": np.random.MT19937,
    "Philox": np.random.Philox,
    "SFC64": np.random.SFC64,
}


def generator_state(generator: np.random.Generator | None) -> dict[str, Any] | None:
    """Return the state of a numpy generator; None if there is no generator."""
    return None if generator is None else dict(generator.bit_generator.state)


def make_generator(state: dict[str, Any] | None) -> np.random.Generator | None:
    """Return the generator that continues from a state.

    :raises ValueError: if the state is of an unknown kind of generator
    """
    if state is None:
        return None
    kind = state.get("bit_generator")
    if kind not in _BIT_GENERATORS:
        raise ValueError(f"Unknown random number generator {kind!r}; known: {', '.join(_BIT_GENERATORS)}")
    generator = np.random.Generator(_BIT_GENERATORS[kind]())
    generator.bit_generator.state = state
    return generator


def global_states() -> dict[str, Any]:
    """Return the states of Python's, numpy's and torch's global generators."""
    version, words, gauss = random.getstate()
    kind, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002 (SB3 draws from it)
    return {
        "python": [version, np.array(words, dtype=np.uint32), gauss],
        "numpy": [kind, keys, *rest],
        "torch": th.get_rng_state().numpy(),
        "cuda": [state.numpy() for state in th.cuda.get_rng_state_all()] if th.cuda.is_available() else [],
    }


def set_global_states(states: dict[str, Any]) -> None:
    """Restore states that :func:`global_states` returned."""
    version, words, gauss = states["python"]
    random.setstate((version, tuple(int(word) for word in words), gauss))
    kind, keys, *rest = states["numpy"]
    np.random.set_state((kind, keys, *rest))  # noqa: NPY002
    th.set_rng_state(th.from_numpy(states["torch"].copy()))
    if states["cuda"] and th.cuda.is_available():
        th.cuda.set_rng_state_all([th.from_numpy(state.copy()) for state in states["cuda"]])


@contextmanager
def seeded_globals(seed: int | None) -> Iterator[None]:
    """Seed Python's, numpy's and torch's global generators within the block, and restore them afterwards.

    Use it to make environments, or to play in them, without an effect on a training: some environments draw from these
    generators. With ``None`` the generators are neither seeded nor restored.
    """
    if seed is None:
        yield
        return
    states = global_states()
    try:
        random.seed(seed)
        np.random.seed(seed % 2**32)  # noqa: NPY002
        seed_torch(seed)
        yield
    finally:
        set_global_states(states)


def seed_torch(seed: int) -> None:
    """Seed torch's generators, of the CPU and of every GPU."""
    th.default_generator.manual_seed(seed)
    if th.cuda.is_available():
        th.cuda.manual_seed_all(seed)
