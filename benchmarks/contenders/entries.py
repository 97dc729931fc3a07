"""The contenders of `benchmarks/time_to_score.py`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

SIX = "six bodies"
SINGLE = "HalfCheetah-v5"
OURS = "PPOMultiTask"
ONE_THREAD = ", 1 torch thread"
"""Ends the name of a contender that differs from another one in nothing else."""


@dataclass(frozen=True)
class Contender:
    """A program to time.

    :param task: ``SIX`` or ``SINGLE``
    :param module: the module in this folder to run
    :param arguments: its own arguments; ``"{config}"`` stands for the path of the task's config
    :param is_peer: whether it runs in the virtual environment of the peers
    """

    name: str
    task: str
    module: str
    arguments: tuple[str, ...]
    is_peer: bool = False


def _with_one_thread(contender: Contender) -> Iterator[Contender]:
    """Yield a contender with torch's own number of threads and with one."""
    yield contender
    arguments = (*contender.arguments, "--torch-threads", "1")
    yield Contender(contender.name + ONE_THREAD, contender.task, contender.module, arguments, contender.is_peer)


def _all() -> Iterator[Contender]:
    for task in (SIX, SINGLE):
        config = ("--config", "{config}", "--algorithm")
        yield Contender(OURS, task, "multitask_vec_env", (*config, "PPOMultiTask"))
        sb3 = Contender("SB3 PPO, same VecEnv and settings", task, "multitask_vec_env", (*config, "PPO"))
        yield from _with_one_thread(sb3)
    for n_envs, envs in ((1, "1 env"), (8, "8 envs")):
        zoo = ("--n-envs", str(n_envs), "--library")
        sb3 = Contender(f"SB3 PPO, zoo settings, {envs}", SINGLE, "zoo_settings", (*zoo, "sb3"))
        yield from _with_one_thread(sb3)
        yield Contender(f"SBX PPO, zoo settings, {envs}", SINGLE, "zoo_settings", (*zoo, "sbx"), is_peer=True)
    name = "rl_games, EnvPool, 64 envs"
    yield from _with_one_thread(Contender(name, SINGLE, "rl_games_envpool", (), is_peer=True))
    yield Contender(f"{name}, torch.compile", SINGLE, "rl_games_envpool", ("--compiled",), is_peer=True)


CONTENDERS = tuple(_all())
