"""PPO of rl_games on EnvPool's HalfCheetah-v5, with the settings that rl_games ships for it."""

from __future__ import annotations

import contextlib
from pathlib import Path
from typing import Any

import rl_games
import yaml
from rl_games.common.algo_observer import AlgoObserver
from rl_games.torch_runner import Runner

from benchmarks.contenders.progress import FinishedError, Progress, argument_parser, n_cpus, progress_of

TASK = "HalfCheetah-v5"
SHIPPED = Path(rl_games.__file__).parent / "configs" / "mujoco" / "halfcheetah_envpool.yaml"


def settings(seed: int, compiled: bool, torch_threads: int | None) -> dict[str, Any]:
    """Return what rl_games ships, with v5 in place of v4, on the CPU."""
    content: dict[str, Any] = yaml.safe_load(SHIPPED.read_text())
    params = content["params"]
    # rl_games does not seed anything with 0, and sets torch's threads itself.
    params.update(seed=seed + 1, torch_threads=torch_threads or n_cpus())
    params["config"].update(device="cpu", torch_compile=compiled, max_epochs=1_000_000, train_dir="rl_games")
    params["config"]["env_config"] = {"env_name": TASK, "seed": seed + 1, "num_threads": n_cpus()}
    return content


class ProgressObserver(AlgoObserver):
    """Tell a :class:`Progress` about steps and episodes; rl_games asks after each step."""

    def __init__(self, progress: Progress) -> None:
        super().__init__()
        self.progress = progress

    def after_init(self, algo: Any) -> None:
        self.algo = algo
        train_epoch = algo.train_epoch

        def timed() -> Any:
            result = train_epoch()
            self.progress.update(result[2])  # its update_time
            return result

        algo.train_epoch = timed

    def process_infos(self, infos: Any, done_indices: Any) -> None:
        del infos
        self.progress.step(self.progress.n_steps + self.algo.num_actors)
        if len(done_indices):
            for value in self.algo.current_rewards[done_indices.flatten(), 0].tolist():
                self.progress.episode(TASK, value)
            self.progress.check()
        if self.progress.is_over:
            raise FinishedError

    def after_clear_stats(self) -> None:
        """Do nothing; rl_games calls this method, and its base class lacks it."""


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--compiled", action="store_true", help="torch.compile, rl_games' default")
    args = parser.parse_args()
    progress = progress_of(args, [TASK])
    runner = Runner(ProgressObserver(progress))
    runner.load(settings(args.seed, args.compiled, args.torch_threads))
    runner.reset()
    with contextlib.suppress(FinishedError):
        runner.run({"train": True, "play": False})
    progress.end()


if __name__ == "__main__":
    main()
