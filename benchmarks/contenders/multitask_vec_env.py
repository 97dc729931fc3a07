"""PPOMultiTask, or SB3's own PPO with the same policy class, VecEnv and settings."""

from __future__ import annotations

import inspect
from typing import Any

import torch as th
from stable_baselines3 import PPO

import sb3_multitask as mt
from benchmarks.contenders.callback import ProgressCallback
from benchmarks.contenders.progress import argument_parser, n_cpus, progress_of
from sb3_multitask.experiments.config import TrainConfig, load_config


def ppo_config(path: str, seed: int) -> TrainConfig:
    """Read a config of `sb3-multitask train`.

    :raises ValueError: unless its algorithm is PPO
    """
    config = load_config(TrainConfig, path, {"seed": seed})
    if config.algo != "ppo":
        raise ValueError(f"{path}: `algo` must be ppo (got {config.algo!r})")
    return config


def sb3_arguments(config: TrainConfig) -> dict[str, Any]:
    """Return the arguments of SB3's PPO for a config of PPOMultiTask.

    :raises ValueError: on settings that SB3's PPO does not have
    """
    kwargs = config.algorithm_kwargs()
    known = inspect.signature(PPO).parameters
    given = {*config.model_fields_set, *config.algo_kwargs} - {"engine"}
    if missing := sorted(name for name in kwargs if name not in known and name in given):
        raise ValueError(f"SB3's PPO has no {', '.join(missing)}; leave it out of the config")
    own = {name: value for name, value in kwargs.items() if name in known}
    return {**own, "policy": mt.MultiTaskActorCriticPolicy}


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--config", required=True, help="YAML of `sb3-multitask train` with algo ppo")
    parser.add_argument("--algorithm", choices=("PPOMultiTask", "PPO"), required=True)
    args = parser.parse_args()
    config = ppo_config(args.config, args.seed)
    env = mt.make_multitask_vec_env(
        config.resolved_tasks(),
        config.n_envs_per_task,
        seed=config.seed,
        backend=config.backend,
        normalize=config.normalizer_kwargs(),
        n_threads=n_cpus(),  # else the physics would have as many threads as torch, which is what varies here
    )
    if args.torch_threads:
        th.set_num_threads(args.torch_threads)
    progress = progress_of(args, config.task_names)
    model: PPO
    if args.algorithm == "PPO":
        model = PPO(env=env, **sb3_arguments(config))
    else:
        model = mt.PPOMultiTask(env=env, **config.algorithm_kwargs())
    model.train = progress.timed_update(model.train)  # type: ignore[method-assign]
    model.learn(config.n_timesteps, ProgressCallback(progress))
    progress.end()


if __name__ == "__main__":
    main()
