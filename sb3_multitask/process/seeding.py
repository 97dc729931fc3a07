"""Seeds of sub-environments: independent of each other, of those of another seed, and of evaluation."""

from __future__ import annotations

import numpy as np

_TRAINING, _EVALUATION = 0, 1


def env_seed(seed: int, task: int, copy: int = 0, *, training: bool = True) -> int:
    """The seed of one sub-environment, by ``numpy.random.SeedSequence`` spawned for its task and copy.

    SB3's ``seed + i`` gives most environments of one seed a generator that another seed has too.

    :param seed: of the run or the evaluation, at least 0
    :param task: index of the task
    :param copy: which copy of the task
    :param training: ``False`` for an evaluation, whose episodes then begin otherwise than those of training
    :return: from 0 to 2^31 - 1, which every simulator takes
    """
    purpose = _TRAINING if training else _EVALUATION
    sequence = np.random.SeedSequence(seed, spawn_key=(purpose, task, copy))
    return int(sequence.generate_state(1, np.uint32)[0] >> 1)


def env_seeds(seed: int, n_tasks: int, n_envs_per_task: int, *, training: bool = True) -> list[int]:
    """The seeds of all sub-environments, task by task; see :func:`env_seed`."""
    places = ((task, copy) for task in range(n_tasks) for copy in range(n_envs_per_task))
    return [env_seed(seed, task, copy, training=training) for task, copy in places]
