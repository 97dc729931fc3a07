"""``python -m sb3_multitask.zoo <command> ...``: the zoo's programs, with what is ours in place while they run."""

from __future__ import annotations

import argparse
import runpy
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any, get_args
from unittest.mock import patch

import gymnasium as gym

from sb3_multitask.tasks import did_you_mean, resolve_tasks

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
_LOGS = "logs"


def train(argv: Sequence[str]) -> None:
    """rl_zoo3.train, with our manager for our algorithms."""
    from sb3_multitask.eval_callback import Score
    from sb3_multitask.zoo.manager import MultiTaskExperimentManager
    from sb3_multitask.zoo.settings import ALGORITHMS, StorePlainDict, check_env_id

    own = _parser()
    own.add_argument(
        "--score",
        choices=get_args(Score),
        default="mean",
        help="what makes a model the best and a trial good: the mean over the tasks (default), or the worst task",
    )
    options, argv = own.parse_known_args(argv)
    seen = _look_at(argv)
    zoo_train = import_module("rl_zoo3.train")
    if seen.algo in ALGORITHMS:
        check_env_id(seen.env, list(gym.registry))
        if seen.trained_agent and not Path(seen.trained_agent).is_file():
            beside = sorted(path.name for path in Path(seen.trained_agent).parent.glob("*.zip"))
            raise ValueError(f"-i {seen.trained_agent} does not exist; models there: {', '.join(beside) or 'none'}")
        argv = [*_evaluation_defaults(seen), *argv]
    with _registered(), _command_line("train", argv, own):
        if seen.algo not in ALGORITHMS:
            try:
                zoo_train.train()
            except ValueError as e:
                if seen.env.startswith("MultiTask/") and f"{seen.algo}_mt" in ALGORITHMS:
                    raise ValueError(f"{e}. One agent for all tasks of a set: --algo {seen.algo}_mt") from e
                raise
            return
        manager = partial(MultiTaskExperimentManager, score=options.score)
        with patch.multiple(zoo_train, ExperimentManager=manager, StoreDict=StorePlainDict):
            zoo_train.train()


def _evaluation_defaults(seen: argparse.Namespace) -> list[str]:
    """Evaluations as rare, for every task, as the zoo's of one environment, and one at least; episodes side by side."""
    eval_freq = 25_000 * len(resolve_tasks(seen.env))
    if seen.n_timesteps > 0:
        eval_freq = min(eval_freq, seen.n_timesteps)
    copies = 1 if seen.vec_env == "subproc" else max(seen.eval_episodes, 1)  # a process each would be too many
    return ["--eval-freq", str(eval_freq), "--n-eval-envs", str(copies)]  # later ones of the user's count


def enjoy(argv: Sequence[str]) -> None:
    """rl_zoo3.enjoy, by default for an episode of every task."""
    from sb3_multitask.films.window import has_display
    from sb3_multitask.zoo.playing import steps_of_a_tour, trained_folder
    from sb3_multitask.zoo.settings import ALGORITHMS

    seen = _look_at(argv)
    if seen.algo in ALGORITHMS and seen.env in gym.registry and not _HELP & set(argv):
        if seen.norm_reward:
            raise ValueError("--norm-reward is not for several tasks: returns are told as the tasks give them")
        if not seen.no_render and not has_display():  # GLFW would end the interpreter
            raise ValueError(
                "There is no screen to show it on (DISPLAY is not set): --no-render only says returns, record_video "
                "and `sb3-multitask enjoy FOLDER --output film.mp4` make films"
            )
        folder = trained_folder(seen.folder, seen.algo, seen.env, seen.exp_id)
        if folder is not None:
            steps = steps_of_a_tour(seen.env, {**folder.env_kwargs, **seen.env_kwargs})
            argv = ["-n", str(steps), *argv]  # the zoo's 1000 are the first task's; a later -n counts
    module = import_module("rl_zoo3.enjoy")
    with _stage("enjoy", argv):
        module.enjoy()


def record_video(argv: Sequence[str]) -> None:
    """rl_zoo3.record_video, through the tasks."""
    with _stage("record_video", argv):
        runpy.run_module("rl_zoo3.record_video", run_name="__main__")


def plot(command: str, argv: Sequence[str]) -> None:
    """One of rl_zoo3's plots, shown or saved; environments by their ids."""
    from huggingface_sb3 import EnvironmentName

    from sb3_multitask.zoo.figures import load_run_results, saved_figures

    own = _parser()
    own.add_argument("--save-figure", type=Path, metavar="FILE", help="save what would be shown, such as curves.png")
    options, argv = own.parse_known_args(argv)
    argv = [EnvironmentName(value) if value in gym.registry else value for value in argv]  # folders have no slash
    if command == "all_plots":
        argv = ["-max", str(sys.maxsize), *argv]  # the zoo's stop at 2M steps; a later -max counts
    module = import_module(f"rl_zoo3.plots.{command}")
    with _command_line(command, argv, own), saved_figures(options.save_figure):
        if command == "plot_train":
            with patch.object(module, "load_results", load_run_results):
                module.plot_train()
        else:
            getattr(module, command)()


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "train": train,
    "enjoy": enjoy,
    "record_video": record_video,
    **{command: partial(plot, command) for command in ("plot_train", "all_plots", "plot_from_file")},
}


@contextmanager
def _registered() -> Iterator[None]:
    """Our algorithms and search spaces in the zoo's tables."""
    from rl_zoo3 import ALGOS
    from rl_zoo3.hyperparams_opt import HYPERPARAMS_CONVERTER, HYPERPARAMS_SAMPLER

    from sb3_multitask.zoo.search import CONVERTERS, SAMPLERS
    from sb3_multitask.zoo.settings import ALGORITHMS

    with (
        patch.dict(ALGOS, ALGORITHMS),
        patch.dict(HYPERPARAMS_SAMPLER, SAMPLERS),
        patch.dict(HYPERPARAMS_CONVERTER, CONVERTERS),
    ):
        yield


@contextmanager
def _stage(command: str, argv: Sequence[str]) -> Iterator[None]:
    """Our playing in the place of the zoo's, for our algorithms."""
    from rl_zoo3 import ALGOS

    from sb3_multitask.zoo.playing import LoadsWithoutEnv, Stage
    from sb3_multitask.zoo.settings import ALGORITHMS, StorePlainDict, check_env_id

    seen = _look_at(argv)
    if seen.algo in ALGORITHMS:
        argv = ["-f", _LOGS, *argv]
    with _registered(), _command_line(command, argv):
        if seen.algo not in ALGORITHMS:
            yield
            return
        check_env_id(seen.env, list(gym.registry))
        stage = Stage(seen.env_kwargs, is_quiet=seen.verbose == 0)
        ours: dict[str, Any] = {
            "StoreDict": StorePlainDict,
            "create_test_env": stage.create_test_env,
            "get_model_path": stage.get_model_path,
        }
        with (
            patch.dict(ALGOS, {name: LoadsWithoutEnv(algorithm) for name, algorithm in ALGORITHMS.items()}),
            patch.multiple("rl_zoo3.utils", **ours),  # from where record_video takes them
            patch.multiple("rl_zoo3.enjoy", **ours),
        ):
            yield


@contextmanager
def _command_line(command: str, argv: Sequence[str], own: argparse.ArgumentParser | None = None) -> Iterator[None]:
    """``argv`` as the arguments that the zoo's program parses; its help begins with our options."""
    if own is not None and _HELP & set(argv):
        print(own.format_help().replace("options:", "options of sb3_multitask.zoo:"))  # noqa: T201
    with patch.object(sys, "argv", [f"sb3_multitask.zoo {command}", *argv]):
        yield


def _parser() -> argparse.ArgumentParser:
    return argparse.ArgumentParser(add_help=False, allow_abbrev=False, usage=argparse.SUPPRESS)


def _look_at(argv: Sequence[str]) -> argparse.Namespace:
    """What must be known of a command line before the zoo parses it; the defaults are the zoo's.

    ``--gym-packages`` are imported: the environment's id may be one of theirs.
    """
    from sb3_multitask.zoo.settings import StorePlainDict

    parser = _parser()
    parser.add_argument("--algo", default="ppo")
    parser.add_argument("--env", default="CartPole-v1")
    parser.add_argument("--verbose", type=int, default=1)
    parser.add_argument("-f", "--folder", default=_LOGS)  # of training, too; the zoo's agents to download are not ours
    parser.add_argument("--no-render", action="store_true")
    parser.add_argument("--norm-reward", action="store_true")
    parser.add_argument("--exp-id", type=int, default=0)
    parser.add_argument("--env-kwargs", nargs="+", action=StorePlainDict, default={})
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
        if e.name is None or e.name.partition(".")[0] not in EXTRA:
            sys.exit(f"Error: {e}")
        sys.exit(f'Error: {e.name} is missing: pip install "sb3-multitask[zoo]"')
    except (ValueError, TypeError, OSError, RuntimeError, AssertionError) as e:
        sys.exit(f"Error: {e}")


if __name__ == "__main__":
    main()
