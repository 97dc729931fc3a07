"""Does it learn on real physics? Minutes, so only in `make test-all`."""

import multiprocessing
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import pytest
import torch as th
from scipy import stats

from benchmarks.learning import run_multitask

pytestmark = pytest.mark.slow
SEEDS = (0, 1, 2, 3, 4)  # a seed in which one task stays behind is no rarity (results/learning/)


def test_every_task_rises_above_the_untrained_agent():
    """Six bodies, 0.5M steps each: the lower 95% bound of the gain over five seeds is above zero on every task."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(2, context, initializer=th.set_num_threads, initargs=(1,)) as pool:  # one run per core
        runs = list(pool.map(run_multitask, SEEDS, ["auto"] * len(SEEDS)))
    for task in runs[0]:
        gains = [run[task]["after"]["mean_reward"] - run[task]["before"]["mean_reward"] for run in runs]
        # Bootstrap, since returns are skewed: under a t interval one lucky seed would lower the lower bound.
        interval = stats.bootstrap((gains,), np.mean, confidence_level=0.95, method="percentile", rng=0)
        assert interval.confidence_interval.low > 0, f"{task}: gains {gains}"
