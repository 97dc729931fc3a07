"""``python -m sb3_multitask.zoo <command> ...``: the zoo's commands, for agents with several tasks."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, get_args

import gymnasium as gym

from sb3_multitask.tasks import did_you_mean, resolve_tasks
from sb3_multitask.zoo.figures import all_plots, plot_from_file, plot_train
from sb3_multitask.zoo.playing import play
from sb3_multitask.zoo.programs import run_zoos
from sb3_multitask.zoo.settings import ALGORITHMS, StorePlainDict, check_env_id

USAGE = """usage: python -m sb3_multitask.zoo COMMAND ...

RL Baselines3 Zoo with multi-task agents (docs/zoo.md).

commands (each has --help):
  train           train an agent, or search hyper-parameters (--optimize)
  enjoy           show a trained agent: an episode of every task
  record_video    film it
  plot_train      training returns, from monitor files
  all_plots       evaluations, from evaluations.npz
  plot_from_file  what all_plots -o has saved

examples:
  python -m sb3_multitask.zoo train --algo a2c_mt --env MultiTask/HalfCheetahBody6-v0 -conf zoo_configs/a2c_mt.yml
  python -m sb3_multitask.zoo enjoy --algo a2c_mt --env MultiTask/HalfCheetahBody6-v0 -f logs --no-render
"""
EXTRA = (
    *("rl_zoo3", "optuna", "huggingface_sb3", "huggingface_hub", "requests", "yaml"),
    *("seaborn", "pandas", "pytablewriter", "moviepy", "tensorboard"),
)
"""What the extra [zoo] installs, by the names of modules."""

_HELP = {"-h", "--help"}


def train(argv: Sequence[str]) -> None:
    """rl_zoo3.train, with our manager for our algorithms."""
    from sb3_multitask.evaluation.callback import Score
    from sb3_multitask.zoo.manager import MultiTaskExperimentManager

    own = _parser()
    own.add_argument(
        "--score",
        choices=get_args(Score),
        default="mean",
        help="what makes a model the best and a trial good: the mean over the tasks (default), the worst task, or the "
        "mean success rate over the tasks",
    )
    options, argv = own.parse_known_args(argv)
    seen = _look_at(argv)
    if _HELP & set(argv):
        print(own.format_help().replace("options:", "options of sb3_multitask.zoo:"))  # noqa: T201
    if seen.algo not in ALGORITHMS:
        with _in_zoo_train({}):
            _train_alone(seen, argv)
        return
    check_env_id(seen.env, list(gym.registry))
    if seen.trained_agent and not Path(seen.trained_agent).is_file():
        beside = sorted(path.name for path in Path(seen.trained_agent).parent.glob("*.zip"))
        raise ValueError(f"-i {seen.trained_agent} does not exist; models there: {', '.join(beside) or 'none'}")
    manager = partial(MultiTaskExperimentManager, score=options.score)
    with _in_zoo_train({"ExperimentManager": manager, "StoreDict": StorePlainDict}):
        run_zoos("rl_zoo3.train", [*_evaluation_defaults(seen), *argv])


def _train_alone(seen: argparse.Namespace, argv: Sequence[str]) -> None:
    """rl_zoo3's training of one of its own algorithms."""
    try:
        run_zoos("rl_zoo3.train", argv)
    except ValueError as e:
        if seen.env.startswith("MultiTask/") and f"{seen.algo}_mt" in ALGORITHMS:
            raise ValueError(f"{e}. One agent for all tasks of a set: --algo {seen.algo}_mt") from e
        raise


def _evaluation_defaults(seen: argparse.Namespace) -> list[str]:
    """Evaluations as rare, for every task, as the zoo's of one environment, and one at least; episodes side by side."""
    eval_freq = 25_000 * len(resolve_tasks(seen.env))
    if seen.n_timesteps > 0:
        eval_freq = min(eval_freq, seen.n_timesteps)
    copies = 1 if seen.vec_env == "subproc" else max(seen.eval_episodes, 1)  # a process each would be too many
    return ["--eval-freq", str(eval_freq), "--n-eval-envs", str(copies)]  # later ones of the user's count


enjoy = partial(play, "enjoy")
COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "train": train,
    "enjoy": enjoy,
    "record_video": partial(play, "record_video"),
    "plot_train": plot_train,
    "all_plots": all_plots,
    "plot_from_file": plot_from_file,
}


@contextmanager
def _in_zoo_train(parts: Mapping[str, Any]) -> Iterator[None]:
    """Register our algorithms in rl_zoo3's table, and put parts of ours under their names in its ``train`` module.

    ``rl_zoo3.train`` takes no manager as an argument: it looks up the name in its module. Its ``StoreDict`` would
    execute the values on the command line.

    :param parts: name in ``rl_zoo3.train`` -> ours
    """
    from rl_zoo3 import ALGOS

    names = vars(import_module("rl_zoo3.train"))
    theirs = {name: names[name] for name in parts}
    ALGOS.update(ALGORITHMS)
    names.update(parts)
    try:
        yield
    finally:
        names.update(theirs)
        for algo in ALGORITHMS:
            del ALGOS[algo]


def _parser() -> argparse.ArgumentParser:
    return argparse.ArgumentParser(add_help=False, allow_abbrev=False, usage=argparse.SUPPRESS)


def _look_at(argv: Sequence[str]) -> argparse.Namespace:
    """What must be known of ``train``'s command line before the zoo parses it; the defaults are the zoo's.

    ``--gym-packages`` are imported: the environment's id may be one of theirs.
    """
    parser = _parser()
    parser.add_argument("--algo", default="ppo")
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("-i", "--trained-agent", default="")
    parser.add_argument("-n", "--n-timesteps", type=int, default=-1)
    parser.add_argument("--eval-episodes", type=int, default=5)
    parser.add_argument("--vec-env", default="dummy")
    parser.add_argument("--gym-packages", nargs="+", default=[])
    seen = parser.parse_known_args(argv)[0]
    for package in seen.gym_packages:
        import_module(package)
    return seen


def main() -> None:
    """Run a command; what a user did wrong is one message, not a traceback."""
    command, *argv = sys.argv[1:] or ["--help"]
    if command in ("-h", "--help"):
        print(USAGE, end="")  # noqa: T201
        return
    if command not in COMMANDS:
        sys.exit(f"Error: unknown command {command!r}.{did_you_mean(command, COMMANDS)} Known: {', '.join(COMMANDS)}")
    try:
        COMMANDS[command](argv)
    except ImportError as e:
        package = (e.name or "").partition(".")[0]
        if package not in EXTRA:
            sys.exit(f"Error: {e}")
        sys.exit(f'Error: {package} is missing: pip install "sb3-multitask[zoo]"')
    except (ValueError, TypeError, OSError, RuntimeError, AssertionError) as e:
        sys.exit(f"Error: {e}")


if __name__ == "__main__":
    main()
