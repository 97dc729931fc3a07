"""Memory for arrays."""

from __future__ import annotations

import numpy as np
import torch as th


def aligned_zeros(shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
    """An array whose memory begins where a torch tensor's would.

    Matrix products round differently for other addresses; so what is computed does not depend on where memory was free.
    """
    array: np.ndarray = th.zeros(shape, dtype=th.from_numpy(np.empty(0, dtype=dtype)).dtype).numpy()
    return array
