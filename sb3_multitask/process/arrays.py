"""Memory for arrays."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence

import numpy as np
import torch as th


def aligned_zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an array of zeros whose memory is aligned as a torch tensor's.

    Matrix products round differently for other alignments, so results would depend on the allocator.
    """
    array: np.ndarray = th.zeros(shape, dtype=th.from_numpy(np.empty(0, dtype=dtype)).dtype).numpy()
    return array


class Scratch:
    """Arrays in memory that is used again.

    The system clears the pages of new memory of their size, which takes longer than what is computed in them.
    """

    def __init__(self, dtype: np.dtype) -> None:
        self._dtype = dtype
        self._memory: dict[Hashable, np.ndarray] = {}
        self._groups: dict[Hashable, tuple[np.ndarray, ...]] = {}
        self._ones = np.ones(0, dtype)

    def array(self, name: Hashable, shape: tuple[int, ...]) -> np.ndarray:
        """The array of a name, with what was left in it; it lives until its name is asked for again."""
        size = math.prod(shape)
        memory = self._memory.get(name)
        if memory is None or memory.size < size:
            memory = self._memory[name] = aligned_zeros((size,), self._dtype)
            self._groups.clear()  # which may be views of smaller memory
        return memory[:size].reshape(shape)

    def like(self, name: Hashable, arrays: Sequence[np.ndarray]) -> tuple[np.ndarray, ...]:
        """An array in the shape of each of some arrays."""
        key = name, *(array.shape for array in arrays)
        if key not in self._groups:
            self._groups[key] = tuple(self.array((name, i), array.shape) for i, array in enumerate(arrays))
        return self._groups[key]

    def ones(self, n: int) -> np.ndarray:
        """Ones, (n,): products with them are faster sums over rows than those of ``np.add.reduce``."""
        if len(self._ones) < n:
            self._ones = aligned_zeros((n,), self._dtype)
            self._ones.fill(1)
        return self._ones[:n]
