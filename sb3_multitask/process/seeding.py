"""Seeds of sub-environments: independent of each other, of other runs' seeds, and of evaluations."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

_TRAINING, _EVALUATION, _SCHEDULE, _COMBINER, _RECORDING, _ORDER = range(6)


def env_seed(seed: int, task: int, copy: int = 0, *, training: bool = True) -> int:
    """Return the seed of one sub-environment, by ``numpy.random.SeedSequence`` spawned for its task and copy.

    With SB3's ``seed + i``, runs of neighbouring seeds share most of their environments' generators.

    :param seed: seed of the run or the evaluation, at least 0
    :param task: index of the task
    :param copy: index of the copy of the task
    :param training: ``False`` for an evaluation, whose episodes then start differently from those of training
    :return: a seed from 0 to 2^31 - 1, which every simulator accepts
    """
    purpose = _TRAINING if training else _EVALUATION
    sequence = np.random.SeedSequence(seed, spawn_key=(purpose, task, copy))
    return int(sequence.generate_state(1, np.uint32)[0] >> 1)


def env_seeds(seed: int, n_tasks: int, n_envs_per_task: int | Sequence[int], *, training: bool = True) -> list[int]:
    """Return the seeds of all sub-environments, task by task; see :func:`env_seed`.

    :param n_envs_per_task: copies of every task, or of each, (n_tasks,)
    """
    copies = [n_envs_per_task] * n_tasks if isinstance(n_envs_per_task, int) else n_envs_per_task
    places = ((task, copy) for task, n in enumerate(copies) for copy in range(n))
    return [env_seed(seed, task, copy, training=training) for task, copy in places]


def schedule_generator(seed: int | None) -> np.random.Generator:
    """Return the generator of a task schedule, which shares no numbers with the sub-environments' generators.

    :param seed: seed of the run; ``None``: other numbers in every process
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_SCHEDULE,)))


def combiner_generator(seed: int | None, net: int) -> np.random.Generator:
    """Return the generator of a gradient combiner, which shares no numbers with those above.

    :param seed: seed of the run; ``None``: other numbers in every process
    :param net: 0 for the actor, 1 for the critic
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_COMBINER, net)))


def recording_generator(seed: int) -> np.random.Generator:
    """Return the generator of teachers' noise in a recording, which shares no numbers with those above."""
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_RECORDING,)))


def order_generator(seed: int, task: int, epoch: int) -> np.random.Generator:
    """Return the generator of the order of a task's rows in an epoch, which shares no numbers with those above.

    :param seed: seed of the run
    :param task: index of the task
    :param epoch: how many times all of its rows have been learned from before
    """
    return np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_ORDER, task, epoch)))
