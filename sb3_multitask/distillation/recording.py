"""Play teachers on their tasks, and keep what they did."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_multitask.agents import Agent
from sb3_multitask.agents.files import load_agent
from sb3_multitask.distillation.dataset import TaskRecording, TeacherDataset, check_is_free
from sb3_multitask.distillation.sources import Teacher, TeacherLike
from sb3_multitask.distillation.teachers import Teachers
from sb3_multitask.envs.number_checks import is_integer
from sb3_multitask.process.generators import seeded_globals
from sb3_multitask.process.seeding import recording_generator
from sb3_multitask.process.threads import threads_for_arrays
from sb3_multitask.tasks import Task, TasksLike, resolve_tasks
from sb3_multitask.vec_env import MultiTaskVecEnv
from sb3_multitask.vec_env.backends import BackendName
from sb3_multitask.vec_env.faults import OnFault, is_fault
from sb3_multitask.vec_env.infos import ended_rows

_PACKAGES = ("sb3-multitask", "gymnasium", "mujoco", "numpy")
_ROWS_AT_ONCE = 2**14
"""So many observations are labelled in one call of a teacher."""
_LONGEST_EPISODE = 100_000


def record(
    teachers: Mapping[str, TeacherLike] | TeacherLike,
    tasks: TasksLike | None = None,
    path: str | Path | None = None,
    *,
    n_steps: int | None = None,
    n_episodes: int | None = None,
    n_envs_per_task: int = 4,
    deterministic: bool = False,
    seed: int = 0,
    backend: BackendName = "auto",
    on_fault: OnFault = "stop",
    progress_bar: bool = False,
) -> TeacherDataset:
    """Record what teachers do on their tasks: the replay memory of policy distillation (Rusu et al. 2016).

    Every teacher acts alone in its own task, and gives its Gaussian for every observation that it met. Nothing is
    learned, and no random generator outside changes.

    :param teachers: task name -> teacher, as for ``A2CMultiTask``; or one agent, multi-task model or path of one that
        has a head for every task
    :param tasks: as ``make_multitask_vec_env`` takes them; ``None``: those of the one agent
    :param path: folder to write the dataset to, see :meth:`TeacherDataset.save`; it must not exist. ``None`` writes
        nothing
    :param n_steps: environment steps **per task**, a lower bound: every copy makes as many. Episodes that are under way
        at the end are cut, and count as truncated
    :param n_episodes: whole episodes **per task**, in place of ``n_steps``; the copies of a task share them evenly, so
        that short episodes are not favoured
    :param n_envs_per_task: copies of each task that are played side by side
    :param deterministic: the means of the Gaussians instead of samples
    :param seed: seed of the environments and of the samples
    :param backend: what runs the environments, see ``MultiTaskVecEnv``
    :param on_fault: ``"stop"`` raises on a fault; ``"quarantine"`` leaves out the episode, and plays another in
        ``n_episodes``
    :param progress_bar: show one
    :return: the dataset; ``print`` shows a table
    :raises FileExistsError: if there is something at ``path``; before anything is played
    :raises SaveError: if ``path`` cannot be written; before anything is played, if its parent may not be written to
    :raises TypeError: if a number is no whole number
    :raises ValueError: unless one of ``n_steps`` and ``n_episodes`` is given; on numbers below 1, teachers that do not
        fit the tasks, and tasks that are not known
    :raises RuntimeError: if a copy makes 100,000 steps in which no episode of ``n_episodes`` ends without a fault
    """
    _check_numbers(n_steps, n_episodes, n_envs_per_task, seed)
    if path is not None:
        check_is_free(path)
    resolved = _tasks_of(teachers) if tasks is None else resolve_tasks(tasks)
    with seeded_globals(seed), threads_for_arrays():
        env = MultiTaskVecEnv(resolved, n_envs_per_task, backend=backend, seed=seed, on_fault=on_fault)
        with closing(env):
            given = teachers if isinstance(teachers, Mapping) else dict.fromkeys(env.task_names, teachers)
            taught = Teachers(given, env.task_names, env.sub_envs.sizes)
            player = _Player(env, taught, deterministic, recording_generator(seed))
            if n_steps is not None:
                n_rounds = -(-n_steps // n_envs_per_task)
                with _progress("steps per task", n_rounds * n_envs_per_task, progress_bar) as advance:
                    player.play_steps(n_rounds, lambda: advance(n_envs_per_task))
            else:
                assert n_episodes is not None
                with _progress("episodes", n_episodes * env.n_tasks, progress_bar) as advance:
                    player.play_episodes(n_episodes, advance)
            facts: dict[str, Any] = {
                "seed": seed,
                "deterministic": deterministic,
                "n_envs_per_task": n_envs_per_task,
                "teachers": taught.digests,
                "action_bounds": _bounds(env),
                "layouts": dict(env.layouts),
                "versions": {name: importlib.metadata.version(name) for name in _PACKAGES},
            }
            dataset = TeacherDataset(player.recordings(), _known_by_id(env.tasks), facts)
    if path is not None:
        dataset.save(path)
    return dataset


def _check_numbers(n_steps: Any, n_episodes: Any, n_envs_per_task: Any, seed: Any) -> None:
    if (n_steps is None) == (n_episodes is None):
        raise ValueError(f"Give one of `n_steps` and `n_episodes` (got {n_steps!r} and {n_episodes!r})")
    name, number = ("n_steps", n_steps) if n_episodes is None else ("n_episodes", n_episodes)
    for argument, value, least in ((name, number, 1), ("n_envs_per_task", n_envs_per_task, 1), ("seed", seed, 0)):
        if not is_integer(value):
            raise TypeError(f"`{argument}` must be a whole number (got {value!r:.100})")
        if value < least:
            raise ValueError(f"`{argument}` must be at least {least} (got {value})")
    if seed >= 2**63:  # torch's seeds have 64 bits with a sign
        raise ValueError(f"`seed` must be below 2**63 (got {seed})")


def _tasks_of(teachers: Mapping[str, TeacherLike] | TeacherLike) -> tuple[Task, ...]:
    """Return the tasks of one agent or model.

    :raises ValueError: if it does not know them
    """
    source = teachers.source if isinstance(teachers, Teacher) else teachers
    if isinstance(source, str | Path):
        source = load_agent(source)
    tasks = source.tasks if isinstance(source, Agent) else getattr(source, "tasks", None)
    if isinstance(source, Mapping) or not (isinstance(source, Agent | BaseAlgorithm) and tasks):
        raise ValueError("`tasks` must be given: the teachers do not say which environments their tasks are")
    return cast("tuple[Task, ...]", tasks)


def _known_by_id(tasks: Sequence[Task]) -> tuple[Task, ...] | None:
    return tuple(tasks) if all(isinstance(task.env_id, str) for task in tasks) else None


def _bounds(env: MultiTaskVecEnv) -> dict[str, list[list[float]]]:
    sizes = env.sub_envs.sizes
    return {
        name: [bound[i, : sizes.action_dims[i]].tolist() for bound in (sizes.action_low, sizes.action_high)]
        for i, name in enumerate(env.task_names)
    }


@contextmanager
def _progress(what: str, total: int, shown: bool) -> Iterator[Any]:
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn()
    with Progress(*columns, disable=not shown) as progress:
        bar = progress.add_task(what, total=total)
        yield lambda n=1: progress.advance(bar, n)


@dataclass
class _Player:
    """Plays teachers step by step, and keeps every step of every copy.

    :param generator: draws the teachers' noise
    """

    env: MultiTaskVecEnv
    teachers: Teachers
    deterministic: bool
    generator: np.random.Generator
    _columns: dict[str, list[np.ndarray]] = field(default_factory=dict)  # of each step: (n_envs, ...)
    _last: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)  # (step, row) -> after an episode's end
    _faulty: set[tuple[int, int]] = field(default_factory=set)

    def __post_init__(self) -> None:
        self._columns = {name: [] for name in ("observations", "actions", "rewards", "terminations", "truncations")}
        self._obs: np.ndarray = self.env.reset()["obs"]
        self._stops = np.full(self.env.num_envs, np.iinfo(np.int64).max)  # rows from this step on are not kept

    def play_steps(self, n: int, advance: Any) -> None:
        """Make n steps of every copy."""
        for _ in range(n):
            self._step()
            advance()

    def play_episodes(self, n: int, advance: Any) -> None:
        """Play n whole episodes of every task.

        :raises RuntimeError: if one does not end
        """
        of_copy = self.env.num_envs // self.env.n_tasks
        missing = np.array([len(range(copy, n, of_copy)) for _, copy in self.env.copies.places()])
        self._stops[missing == 0] = 0
        begun = np.zeros(self.env.num_envs, dtype=np.int64)  # after the last whole episode of each copy
        step = 0
        while missing.any():
            ended = self._step()
            step += 1
            for row in ended:
                if (step - 1, row) in self._faulty:
                    continue
                begun[row] = step
                if missing[row]:
                    missing[row] -= 1
                    advance()
                    if not missing[row]:
                        self._stops[row] = step
            late = ((missing > 0) & (step - begun >= _LONGEST_EPISODE)).nonzero()[0]
            if len(late):
                name = self.env.task_names[self.env.task_ids[late[0]]]
                raise RuntimeError(
                    f"No episode of task {name!r} ended without a fault within {_LONGEST_EPISODE:,} steps of a copy: "
                    "give `n_steps` in place of `n_episodes`"
                )

    def _step(self) -> list[int]:
        """Make a step of every copy; return the rows whose episode it ended."""
        env, sizes, tasks = self.env, self.teachers.sizes, self.env.task_ids
        actions = self._act()
        env.step_async(np.clip(actions, sizes.action_low[tasks], sizes.action_high[tasks]))
        new_obs, rewards, dones, infos = env.step_wait()
        step = len(self._columns["actions"])
        truncated = np.zeros(env.num_envs, dtype=bool)
        ended = ended_rows(dones, infos)
        for row in ended:
            truncated[row] = infos[row].get("TimeLimit.truncated", False)
            if is_fault(infos[row]):
                self._faulty.add((step, row))
            else:
                self._last[step, row] = np.array(infos[row]["terminal_observation"]["obs"])
        values = (self._obs, actions, rewards, dones & ~truncated, truncated)
        for column, value in zip(self._columns.values(), values, strict=True):
            column.append(np.array(value))
        self._obs = new_obs["obs"]
        return ended

    def _act(self) -> np.ndarray:
        """Return the teachers' actions, (n_envs, action_dim), not clipped."""
        sizes = self.teachers.sizes
        actions = np.zeros((self.env.num_envs, sizes.action_dim), np.float32)
        noise = self.generator.standard_normal(actions.shape, dtype=np.float32)
        for task, teacher in enumerate(self.teachers.teachers):
            rows, dim = self.env.rows(task), sizes.action_dims[task]
            obs = self._obs[rows, : sizes.obs_dims[task]]
            chosen = teacher.label(obs)[0] if self.deterministic else teacher.policy.act(obs, noise[rows, :dim])
            actions[rows, :dim] = chosen
        return actions

    def recordings(self) -> dict[str, TaskRecording]:
        """Return the episodes of each task, with the teachers' labels.

        :raises RuntimeError: if no episode of a task was without a fault
        """
        columns = {name: np.stack(column) for name, column in self._columns.items()}
        return {name: self._recording(task, columns) for task, name in enumerate(self.env.task_names)}

    def _recording(self, task: int, columns: Mapping[str, np.ndarray]) -> TaskRecording:
        sizes, rows = self.teachers.sizes, self.env.rows(task)
        parts = [part for row in range(rows.start, rows.stop) for part in self._episodes_of(row, columns)]
        if not parts:
            raise RuntimeError(f"No episode of task {self.env.task_names[task]!r} was without a fault")
        arrays = {
            name: np.concatenate([column[start:stop, row] for row, start, stop in parts])
            for name, column in columns.items()
        }
        obs_dim, action_dim = sizes.obs_dims[task], sizes.action_dims[task]
        arrays["observations"] = np.ascontiguousarray(arrays["observations"][:, :obs_dim])
        arrays["actions"] = np.ascontiguousarray(arrays["actions"][:, :action_dim])
        arrays["rewards"] = arrays["rewards"].astype(np.float64)
        lengths = [stop - start for _, start, stop in parts]
        ends = np.cumsum(lengths) - 1
        arrays["truncations"][ends] |= ~arrays["terminations"][ends]  # also those that the end of the recording cut
        last = [self._last.get((stop - 1, row), self._obs[row])[:obs_dim] for row, _, stop in parts]
        labels = self._labels(task, arrays["observations"])
        episodes = np.repeat(np.arange(len(parts)), lengths)
        named = dict(zip(("teacher_mean", "teacher_log_std"), labels, strict=True))
        return TaskRecording(**arrays, episodes=episodes, last_observations=np.stack(last), **named)

    def _episodes_of(self, row: int, columns: Mapping[str, np.ndarray]) -> Iterator[tuple[int, int, int]]:
        """Yield the episodes of a copy without a fault: row, first step, and the step after the last."""
        ended = columns["terminations"][:, row] | columns["truncations"][:, row]
        n_kept = min(len(ended), int(self._stops[row]))
        start = 0
        for stop in [*(ended.nonzero()[0] + 1).tolist(), len(ended)]:
            if start < stop <= n_kept and (stop - 1, row) not in self._faulty:
                yield row, start, stop
            start = stop

    def _labels(self, task: int, observations: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the teacher's means and log-stds, (n_rows, action_dim) float32 each."""
        label = self.teachers.teachers[task].label
        parts = [label(observations[i : i + _ROWS_AT_ONCE]) for i in range(0, len(observations), _ROWS_AT_ONCE)]
        means, log_stds = zip(*parts, strict=True)
        return np.concatenate(means).astype(np.float32), np.concatenate(log_stds).astype(np.float32)
