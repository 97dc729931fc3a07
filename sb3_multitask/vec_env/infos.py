"""The infos of a step, made on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

Columns = dict[str, np.ndarray]


class Infos(list[dict[str, Any]]):
    """The infos of a step, each made when somebody looks at it: most are never looked at.

    :param n_rows: number of infos
    :param columns: makes the arrays behind them
    """

    def __init__(self, n_rows: int, columns: Callable[[], Columns]) -> None:
        super().__init__([{}] * n_rows)
        self._made = [False] * n_rows
        self._columns: Columns | Callable[[], Columns] = columns

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[i] for i in range(len(self))[index]]
        if not self._made[index]:
            if callable(self._columns):
                self._columns = self._columns()
            info: dict[str, Any] = {name: column[index] for name, column in self._columns.items()}
            info["TimeLimit.truncated"] = False
            self[index] = info
        return super().__getitem__(index)

    def __setitem__(self, index: Any, info: Any) -> None:
        self._made[index] = True
        super().__setitem__(index, info)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        return (self[i] for i in range(len(self)))

    def __reversed__(self) -> Iterator[dict[str, Any]]:
        return iter(list(self)[::-1])

    def __add__(self, other: Any) -> list[Any]:
        return list(iter(self)) + list(other)

    def copy(self) -> list[dict[str, Any]]:
        return list(iter(self))

    def __reduce__(self) -> tuple[Any, ...]:
        return list, (list(iter(self)),)  # copied and pickled as the plain list it stands for
