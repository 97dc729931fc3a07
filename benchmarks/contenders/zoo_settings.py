"""PPO of SB3 or SBX on HalfCheetah-v5, with rl_zoo3's settings and VecEnv."""

from __future__ import annotations

from typing import Any

import torch as th
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import VecNormalize

from benchmarks.contenders.callback import ProgressCallback
from benchmarks.contenders.progress import argument_parser, progress_of

TASK = "HalfCheetah-v5"
SETTINGS: dict[str, Any] = {
    "batch_size": 64,
    "n_steps": 512,
    "gamma": 0.98,
    "learning_rate": 2.0633e-05,
    "ent_coef": 0.000401762,
    "clip_range": 0.1,
    "n_epochs": 20,
    "gae_lambda": 0.92,
    "max_grad_norm": 0.8,
    "vf_coef": 0.58096,
}
"""HalfCheetah-v4 in rl_zoo3 2.9.2's `hyperparams/ppo.yml`, which has no v5; its `n_envs` is 1."""
POLICY_SETTINGS: dict[str, Any] = {
    "log_std_init": -2,
    "ortho_init": False,
    "net_arch": {"pi": [256, 256], "vf": [256, 256]},
}
"""Its `policy_kwargs`, but for `activation_fn`, which is ReLU."""


def algorithm_of(library: str) -> tuple[Any, Any]:
    """Return the library's PPO and its ReLU."""
    if library == "sbx":
        import flax.linen
        import sbx

        return sbx.PPO, flax.linen.relu
    from stable_baselines3 import PPO

    return PPO, th.nn.ReLU


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--library", choices=("sb3", "sbx"), required=True)
    parser.add_argument("--n-envs", type=int, required=True)
    args = parser.parse_args()
    ppo, relu = algorithm_of(args.library)
    if args.torch_threads:
        th.set_num_threads(args.torch_threads)
    env = VecNormalize(make_vec_env(TASK, args.n_envs, seed=args.seed), gamma=SETTINGS["gamma"])
    policy_kwargs = {**POLICY_SETTINGS, "activation_fn": relu}
    model = ppo("MlpPolicy", env, seed=args.seed, device="cpu", policy_kwargs=policy_kwargs, **SETTINGS)
    progress = progress_of(args, [TASK])
    model.train = progress.timed_update(model.train)
    model.learn(100_000_000, ProgressCallback(progress, TASK))  # no setting depends on the budget
    progress.end()


if __name__ == "__main__":
    main()
