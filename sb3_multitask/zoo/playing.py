"""rl_zoo3's ``enjoy`` and ``record_video`` as ``sb3-multitask enjoy``: the zoo's flags, and what they become."""

from __future__ import annotations

import argparse
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import gymnasium as gym

from sb3_multitask.readers.zoo_folder import ZooFolder
from sb3_multitask.tasks import import_env_module, resolve_tasks
from sb3_multitask.zoo.programs import run_ours, run_zoos
from sb3_multitask.zoo.settings import ALGORITHMS, StorePlainDict, check_env_id

Refused: TypeAlias = Mapping[str, tuple[Any, str]]
"""A flag's name in the parsed arguments -> the only value that can be translated, and what to do instead."""

_MAX_EPISODE_STEPS = 1000  # for ids without a time limit
_CHECKPOINT = re.compile(r"rl_model_(\d+)_steps")
_REFUSED: Refused = {
    "n_envs": (1, "every task is shown once; for many episodes: sb3-multitask evaluate {model} --n-eval-episodes N"),
    "norm_reward": (False, "--norm-reward is not for several tasks: returns are printed as the tasks give them"),
    "reward_log": ("", "each episode's return is printed; for many: sb3-multitask evaluate {model}"),
    "verbose": (1, "returns are always printed; redirect them"),
    "num_threads": (-1, "agents act without torch; start the command with OMP_NUM_THREADS=N"),
}
_ALSO_REFUSED: dict[str, Refused] = {
    "enjoy": {
        "progress": (
            False,
            "each episode's return is printed; films have a bar: sb3-multitask enjoy {model} --output FILE",
        )
    },
    "record_video": {"no_render": (False, "a film must be rendered; returns alone: enjoy --no-render")},
}


def parser(command: str) -> argparse.ArgumentParser:
    """The zoo's flags of ``enjoy`` or ``record_video``."""
    flags = argparse.ArgumentParser(
        f"sb3_multitask.zoo {command}",
        description="Translates the zoo's flags into a command `sb3-multitask enjoy`, prints it and runs it.",
        epilog=f"--algo is one of {', '.join(ALGORITHMS)}; other algorithms are left to rl_zoo3's own program.",
    )
    flags.add_argument("--algo", required=True, choices=list(ALGORITHMS))
    flags.add_argument("--env", required=True, help="id of the environment, such as MultiTask/HalfCheetahBody6-v0")
    flags.add_argument("-f", "--folder", default="logs", help="where train left its runs (default: logs)")
    flags.add_argument(
        "--exp-id", type=int, default=0, help="number of the run; 0: the latest, -1: no folder of its own"
    )
    flags.add_argument("--load-best", action="store_true", help="the best model instead of the last")
    flags.add_argument("--load-checkpoint", type=int, help="the checkpoint of so many steps")
    flags.add_argument("--load-last-checkpoint", action="store_true", help="the newest checkpoint")
    flags.add_argument(
        "-n", "--n-timesteps", type=int, help="environment steps over all tasks; default: a full episode of each"
    )
    flags.add_argument("--deterministic", action="store_true", help="the Gaussian's mean, which is the default")
    flags.add_argument("--stochastic", action="store_true", help="samples")
    flags.add_argument("--seed", type=int, default=0)
    flags.add_argument("--env-kwargs", nargs="+", action=StorePlainDict, default={}, help="key:value ...; task:<name>")
    flags.add_argument("--gym-packages", nargs="+", default=[], help="modules that register environments")
    flags.add_argument("--no-render", action="store_true", help="only print returns")
    flags.add_argument("--device", default="auto", help="has no effect: agents act on the CPU")
    flags.add_argument(
        "--custom-objects", action="store_true", help="has no effect: models are read without unpickling"
    )
    for name in ("--n-envs", "--num-threads"):
        flags.add_argument(name, type=int, default=_REFUSED[name[2:].replace("-", "_")][0], help=argparse.SUPPRESS)
    flags.add_argument("--norm-reward", action="store_true", help=argparse.SUPPRESS)
    flags.add_argument("--reward-log", default="", help=argparse.SUPPRESS)
    flags.add_argument("-P", "--progress", action="store_true", help=argparse.SUPPRESS)
    flags.add_argument("--verbose", type=int, default=1, help=argparse.SUPPRESS)
    if command == "record_video":
        flags.add_argument(
            "-o", "--output-folder", type=Path, help="folder of the film (default: videos/ in the run's)"
        )
        flags.set_defaults(n_timesteps=1000)
    return flags


def play(command: str, argv: Sequence[str]) -> None:
    """``enjoy`` or ``record_video``: ours for our algorithms, and rl_zoo3's for its own."""
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("--algo", default="ppo")
    first.add_argument("-h", "--help", action="store_true")
    seen, _ = first.parse_known_args(argv)
    if seen.help or seen.algo in ALGORITHMS:
        run_ours(translated(command, argv))
    else:
        run_zoos(f"rl_zoo3.{command}", argv)


def translated(command: str, argv: Sequence[str]) -> list[str]:
    """The arguments of ``sb3-multitask`` that do what the zoo's flags say.

    :param command: ``enjoy`` or ``record_video``
    :param argv: the zoo's flags
    :raises ValueError: on a flag that has no translation, with the command to use; on an unknown environment
    :raises FileNotFoundError: if there is no such run or model
    """
    args = parser(command).parse_args(argv)
    for module in args.gym_packages:
        import_env_module(module, "--gym-packages")
    check_env_id(args.env, list(gym.registry))
    refuse(args, {**_REFUSED, **_ALSO_REFUSED[command]}, model="RUN")
    if command == "enjoy" and not args.no_render:
        _check_screen()
    model = _model(args)
    env_kwargs = dict(args.env_kwargs)
    task = env_kwargs.pop("task", None)
    n_tasks = len(resolve_tasks(args.env)) if task is None else 1
    if args.n_timesteps is None and not args.no_render:
        args.n_timesteps = n_tasks * _longest_episode(args.env, model, env_kwargs)
    return [
        "enjoy",
        str(model),
        *([] if task is None else ["--task", str(task)]),
        *_shown(command, args, model),
        *([] if args.n_timesteps is None else ["--n-steps", str(math.ceil(args.n_timesteps / n_tasks))]),
        *(["--stochastic"] if args.stochastic else []),
        *("--seed", str(args.seed)),
        *(part for key, value in env_kwargs.items() for part in ("--env-kwargs", f"{key}={json.dumps(value)}")),
        *(part for module in args.gym_packages for part in ("--gym-packages", module)),
    ]


def refuse(args: argparse.Namespace, refused: Refused, **names: str) -> None:
    """Raise if a flag is given that has no translation.

    :param args: the zoo's flags
    :param names: what stands for ``{...}`` in the advice
    :raises ValueError: names the flag and the command to use
    """
    for name, (translatable, advice) in refused.items():
        if getattr(args, name) != translatable:
            raise ValueError(f"--{name.replace('_', '-')} has no translation: {advice.format(**names)}")


def _check_screen() -> None:
    from sb3_multitask.evaluation.films.window import has_display

    if not has_display():
        raise ValueError(
            "There is no screen to show it on (DISPLAY is not set): --no-render only prints returns, record_video "
            "and `sb3-multitask enjoy FOLDER --output film.mp4` make films"
        )


def _model(args: argparse.Namespace) -> Path:
    """The run's folder, which stands for its last model, or another model in it."""
    env_name = args.env.replace("/", "-")
    folder = _run_folder(Path(args.folder, args.algo), env_name, args.exp_id)
    if args.load_best:
        model = folder / "best_model.zip"
    elif args.load_checkpoint is not None:
        model = folder / f"rl_model_{args.load_checkpoint}_steps.zip"
    elif args.load_last_checkpoint:
        checkpoints = {
            int(found[1]): path for path in folder.glob("*.zip") if (found := _CHECKPOINT.fullmatch(path.stem))
        }
        model = checkpoints[max(checkpoints)] if checkpoints else folder / "rl_model_<n>_steps.zip"
    else:
        # Without a folder of its own a run shares <algo>/ with others, and its model must be named.
        return folder if args.exp_id >= 0 else folder / f"{env_name}.zip"
    if not model.is_file():
        others = ", ".join(path.name for path in sorted(folder.glob("*.zip"))) or "none"
        raise FileNotFoundError(f"{model} does not exist. Models there: {others}")
    return model


def _run_folder(logs: Path, env_name: str, exp_id: int) -> Path:
    """The folder of the run with this number, or of the latest run."""
    if exp_id < 0:
        return logs
    numbered = {}
    for path in logs.glob("*_*"):
        name, _, number = path.name.rpartition("_")
        if name == env_name and number.isdigit() and path.is_dir():
            numbered[int(number)] = path
    wanted = exp_id or max(numbered, default=0)
    if wanted not in numbered:
        raise FileNotFoundError(
            f"{logs} has no run {f'{env_name}_{wanted}' if wanted else f'of {env_name}'}. Runs there: "
            f"{', '.join(sorted(path.name for path in logs.glob('*_*'))) or 'none'}; -f says where train left them"
        )
    return numbered[wanted]


def _longest_episode(env_id: str, model: Path, env_kwargs: Mapping[str, Any]) -> int:
    training = ZooFolder.at(model)
    kwargs = {**(training.env_kwargs if training else {}), **env_kwargs}
    return int(kwargs.get("max_episode_steps") or gym.spec(env_id).max_episode_steps or _MAX_EPISODE_STEPS)


def _shown(command: str, args: argparse.Namespace, model: Path) -> list[str]:
    """Where it is shown: in a window, as a film, or nowhere."""
    if command == "enjoy":
        return ["--no-render"] if args.no_render else []
    checkpoint = _CHECKPOINT.fullmatch(model.stem)
    which = "best-model" if args.load_best else f"checkpoint-{checkpoint[1]}" if checkpoint else "final-model"
    folder = args.output_folder or (model if model.is_dir() else model.parent) / "videos"
    name = f"{which}-{args.algo}-{args.env.replace('/', '-')}-step-0-to-step-{args.n_timesteps}.mp4"
    return ["--output", str(folder / name), *([] if args.progress else ["--no-progress"])]
