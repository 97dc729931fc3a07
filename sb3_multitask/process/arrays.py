"""Memory for arrays."""

from __future__ import annotations

import numpy as np
import torch as th


def aligned_zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """Return an array of zeros whose memory is aligned as a torch tensor's.

    Matrix products round differently for other alignments, so results would depend on the allocator.
    """
    array: np.ndarray = th.zeros(shape, dtype=th.from_numpy(np.empty(0, dtype=dtype)).dtype).numpy()
    return array
