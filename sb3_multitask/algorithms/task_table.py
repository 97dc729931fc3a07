"""SB3's table on stdout, without most of the rows of many tasks."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TextIO

from stable_baselines3.common.logger import (
    CSVOutputFormat,
    HumanOutputFormat,
    JSONOutputFormat,
    KVWriter,
    Logger,
    TensorBoardOutputFormat,
)
from tqdm import tqdm  # type: ignore[import-untyped]

from sb3_multitask.many_tasks import MANY, shown_tasks, shown_words

_SCORES = ("ep_rew_mean", "mean_reward")
_NO_FILE = 'in no file; pass `tensorboard_log`, or model.set_logger(configure(folder, ["stdout", "csv"]))'


class TaskTableFormat(HumanOutputFormat):
    """SB3's table on stdout; of more than 20 tasks it has the rows of those with the lowest and the highest return.

    Each group of keys that has returns, such as ``rollout`` or ``eval``, is ranked by them. A group without returns
    (``train``, ``distill``) has no rows of single tasks then. Keys without a task, such as means over the tasks, are
    all shown. A line below the table says which tasks are shown, and where all of them are.

    :param file: where the table is written
    :param max_length: SB3's
    """

    def __init__(self, file: TextIO, max_length: int = 36) -> None:
        super().__init__(file, max_length)
        self.task_names: set[str] = set()
        self.others: list[KVWriter] = []
        self._places: dict[str, tuple[str, str, str] | None] = {}

    def know_tasks(self, names: Iterable[str], logger: Logger) -> None:
        """Take the names of tasks, whose rows may be left out.

        :param logger: the logger of this format, whose other formats hold all keys
        """
        self.task_names.update(names)
        self._places.clear()
        self.others = logger.output_formats

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Write the table, and below it which tasks it shows if these are not all."""
        left_out, n_tasks, are_ranked = self._left_out(key_values)
        shown = {key: value for key, value in key_values.items() if key not in left_out}
        super().write(shown, {key: key_excluded[key] for key in shown}, step)
        if left_out:
            few = f"all but {shown_words(n_tasks)}" if are_ranked else f"its {n_tasks} tasks, which have no return yet"
            self._write_line(f"The table leaves out {few}; all are {self._where_all_are()}.")

    def _left_out(self, values: dict[str, Any]) -> tuple[set[str], int, bool]:
        """Return the keys that are left out, the number of tasks of their groups, and whether a group has returns."""
        groups: dict[str, dict[str, list[str]]] = defaultdict(lambda: defaultdict(list))
        returns: dict[str, dict[str, float]] = defaultdict(dict)
        for key, value in values.items():
            place = self._place(key)
            if place is not None:
                group, task, term = place
                groups[group][task].append(key)
                if term in _SCORES:
                    returns[group][task] = float(value)
        left_out: set[str] = set()
        n_tasks = 0
        for group, tasks in groups.items():
            if len(tasks) <= MANY:
                continue
            n_tasks = max(n_tasks, len(tasks))
            shown = set(shown_tasks(returns[group])) if group in returns else set[str]()
            left_out.update(key for task, keys in tasks.items() if task not in shown for key in keys)
        return left_out, n_tasks, bool(returns)

    def _place(self, key: str) -> tuple[str, str, str] | None:
        """Return the group, the task and the last part of a key; None for a key without a task."""
        if key not in self._places:
            rest, _, term = key.rpartition("/")  # the name of a task may have a slash, too
            starts = [i + 1 for i, sign in enumerate(rest) if sign == "/"]
            found = next((i for i in starts if rest[i:] in self.task_names), None)
            self._places[key] = None if found is None else (rest[: found - 1], rest[found:], term)
        return self._places[key]

    def _where_all_are(self) -> str:
        places = []
        for one in self.others:
            if isinstance(one, TensorBoardOutputFormat):
                places.append(f"TensorBoard ({one.writer.log_dir})")
            elif isinstance(one, CSVOutputFormat | JSONOutputFormat) or (
                isinstance(one, HumanOutputFormat) and one.own_file
            ):
                places.append(str(Path(one.file.name)))
        return f"in {', '.join(places)}" if places else _NO_FILE

    def _write_line(self, line: str) -> None:
        if getattr(self.file, "name", None) == "<stdout>":  # as SB3, so that a progress bar stays whole
            tqdm.write(line, file=sys.stdout)
        else:
            self.file.write(f"{line}\n")
        self.file.flush()


def shorten_tables(logger: Logger) -> None:
    """Let a logger's table on stdout leave out most rows of many tasks; files keep all."""
    formats = logger.output_formats
    for i, one in enumerate(formats):
        if type(one) is HumanOutputFormat and not one.own_file:
            formats[i] = TaskTableFormat(one.file, one.max_length)
