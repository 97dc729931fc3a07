"""Forgetting and transfer from the matrix of returns after each phase, in units of return.

``matrix[..., i, j]`` is the return on task j after phase i, which trained on task i; leading axes are seeds.
Definitions: Continual World (Wolczyk et al. 2021, arXiv:2105.10919, "Metrics") and CORA (Powers et al. 2021,
arXiv:2110.10067, "Metrics"), both without their normalisation, since returns of these tasks have no upper bound;
backward transfer is that of Lopez-Paz and Ranzato 2017. A model does not forget, by construction, if nothing from
which it computes the actions of earlier tasks is trained further: with a head and statistics for each task and a frozen
trunk, or with a column for each task. One head forgets, and so do heads behind a trunk that is trained further.
"""

from __future__ import annotations

import numpy as np


def forgetting(matrix: np.ndarray) -> np.ndarray:
    """Return each task's loss of return from the end of its own phase to the end of all phases.

    :param matrix: (..., n_tasks, n_tasks)
    :return: (..., n_tasks); 0 for the last task
    """
    return np.asarray(np.diagonal(matrix, axis1=-2, axis2=-1) - matrix[..., -1, :])


def backward_transfer(matrix: np.ndarray) -> np.ndarray:
    """Return the effect of later phases on each earlier task: minus :func:`forgetting`, without the last task.

    :param matrix: (..., n_tasks, n_tasks)
    :return: (..., n_tasks - 1)
    """
    return -forgetting(matrix)[..., :-1]


def zero_shot_transfer(matrix: np.ndarray, untrained: np.ndarray) -> np.ndarray:
    """Return each task's gain from the phases before its own, over an untrained model (CORA's forward transfer).

    :param matrix: (..., n_tasks, n_tasks)
    :param untrained: returns of an untrained model, (..., n_tasks)
    :return: (..., n_tasks - 1), of the second task and those after it
    """
    before = np.diagonal(matrix, offset=1, axis1=-2, axis2=-1)
    return np.asarray(before - untrained[..., 1:])


def area_transfer(curve: tuple[np.ndarray, np.ndarray], scratch: tuple[np.ndarray, np.ndarray]) -> float:
    """Return the mean gap between a task's learning curve and that of training from scratch (Continual World's).

    :param curve: (steps, returns) of the task in its phase, each (n_evaluations,)
    :param scratch: the same from scratch, at any steps
    :return: mean over ``curve``'s steps of the difference; NaN without evaluations
    """
    steps, returns = curve
    if not len(steps) or not len(scratch[0]):
        return float("nan")
    return float(np.mean(returns - np.interp(steps, *scratch)))
